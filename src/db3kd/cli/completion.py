"""Shell completion of commands, options and file names, as cyclopts makes it."""

from pathlib import Path
from typing import Literal

import cyclopts

from db3kd.errors import InputError, RunError, plain

Shell = Literal["bash", "zsh", "fish", "powershell"]
BEGINS = {
    "bash": "open a new shell, or run: source ~/.bashrc",
    "zsh": "open a new shell, or run: exec zsh",
    "fish": "open a new shell",
    "powershell": "open a new PowerShell",
}


def install(app: cyclopts.App, shell: Shell | None = None, output: Path | None = None) -> str:
    """Write the completion script of a shell, and let the shell load it; returns what was done.

    Without `shell` it is the shell that runs the command. `output`: a file for the script, if it is
    not to be where the shell keeps such scripts; then nothing else is changed.

    Raises:
        InputError: it is not known which shell this is.
        RunError: a file cannot be written.

    >>> import tempfile
    >>> file = Path(tempfile.mkdtemp()) / "db3kd.bash"
    >>> install(cyclopts.App(name="db3kd"), "bash", file)
    'completion for bash is in ...db3kd.bash; load it where the shell starts'
    """
    from cyclopts.completion.detect import ShellDetectionError, detect_shell

    try:
        known = shell or detect_shell()
        file = app.install_completion(shell=known, output=output, add_to_startup=output is None)
    except ShellDetectionError:
        raise InputError(
            "it is not known which shell this is; give --shell, such as bash"
        ) from None
    except (OSError, ValueError) as error:
        reason = plain(getattr(error, "strerror", None) or error)
        where = plain(getattr(error, "filename", None) or output or "the completion script")
        raise RunError(f"{where} cannot be written ({reason}); give another file by -o") from None
    begins = BEGINS[known] if output is None else "load it where the shell starts"
    return f"completion for {known} is in {file}; {begins}"
