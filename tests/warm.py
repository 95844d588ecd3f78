"""Calls of the command line in processes that are forked from one that has imported it all.

A process of its own takes seconds to import torch; a forked one starts at once. Everything else is
real: its own process, arguments, environment, folder and exit code. Tests of the start itself, of
signals and of kills start an ordinary process.
"""

import atexit
import multiprocessing
import os
import runpy
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

PRELOADED = [
    "db3kd.cli.main",
    "db3kd.job.verbs",
    "db3kd.job.cascade",
    "db3kd.teachers.remote",
    "sklearn.svm",
    "safetensors.torch",
]


def called(
    words: Sequence[str], folder: Path, environment: Mapping[str, str]
) -> subprocess.CompletedProcess[str]:
    """`python -m db3kd WORDS` in a folder, at its end."""
    forked = multiprocessing.get_context("forkserver")
    forked.set_forkserver_preload(PRELOADED)
    with tempfile.TemporaryDirectory() as place:
        out, err = Path(place) / "out", Path(place) / "err"
        process = forked.Process(target=_main, args=(words, folder, dict(environment), out, err))
        process.start()
        process.join()
        code = process.exitcode
        assert code is not None
        said = (file.read_text("utf-8") for file in (out, err))
        return subprocess.CompletedProcess(words, code, *said)


def _main(
    words: Sequence[str], folder: Path, environment: dict[str, str], out: Path, err: Path
) -> None:
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    for number, file in ((1, out), (2, err)):
        kept = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(kept, number)
        os.close(kept)
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    sys.argv = ["db3kd", *words]
    sys.path.insert(0, str(folder))  # as `python -m` does
    try:
        runpy.run_module("db3kd", run_name="__main__", alter_sys=True)
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        atexit._run_exitfuncs()
