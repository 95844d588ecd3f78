"""Run folders of earlier formats, read in today's words.

Format 1 (until November 2026) had other names for some settings. A folder of that format is read
and continued. A folder of a format newer than `FORMAT` is refused.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from db3kd.config.settings import kind_of
from db3kd.errors import RunError
from db3kd.storage.files import Json
from db3kd.storage.journal import Journal

FORMAT = 2

_KEYS: Mapping[str, Mapping[str, str]] = {
    "grow": {"changes": "augmentations"},
    "ascent": {"anew": "restart_every"},
}
_WORDS: Mapping[str, Mapping[str, Mapping[str, str]]] = {
    "grow": {"choose": {"doubt": "margin", "disagreement": "bald"}},
    "distances": {"strategy": {"together": "joint"}},
}


def check_format(folder: Path, journal: Journal) -> None:
    """Refuse a folder that a newer version made.

    Raises:
        RunError: names the format that was found, and the newest that is known.

    >>> import tempfile
    >>> journal = Journal(Path(tempfile.mkdtemp()) / "journal.jsonl")
    >>> journal.append("stage", stage="run", configuration={"format": 99})
    >>> journal.close()
    >>> check_format(Path("mnist"), journal)
    Traceback (most recent call last):
    ...
    db3kd.errors.RunError: mnist was made by a newer db3kd (format 99, known up to ...); install ...
    """
    found = [r["configuration"]["format"] for r in journal.all("stage") if r["stage"] == "run"]
    if found and found[-1] > FORMAT:
        raise RunError(
            f"{folder} was made by a newer db3kd (format {found[-1]}, known up to {FORMAT});"
            " install that version"
        )


def configurations(journal: Journal) -> dict[str, Json]:
    """The settings of every stage that has begun, in today's words, by its name on the books."""
    known = [(record["stage"], record["configuration"]) for record in journal.all("stage")]
    return {stage: in_todays_words(stage, settings) for stage, settings in known}


def in_todays_words(stage: str, settings: Mapping[str, Any]) -> Json:
    """The settings of a stage in today's words, whichever format they were written in.

    >>> in_todays_words("trial/grow", {"choose": "doubt", "changes": ["shift"]})
    {'choose': 'margin', 'augmentations': ['shift']}
    """
    kind = kind_of(stage)
    keys, words = _KEYS.get(kind, {}), _WORDS.get(kind, {})
    found = {keys.get(key, key): value for key, value in settings.items()}
    for key, names in words.items():
        if key in found:
            found[key] = names.get(found[key], found[key])
    if isinstance(found.get("ascent"), dict):  # the settings of a synthesis hold those of an ascent
        found["ascent"] = in_todays_words("ascent", found["ascent"])
    if kind == "run" and isinstance(found.get("teacher"), dict):  # of a file, its content decides
        places = ("file", "weights")
        found["teacher"] = {k: v for k, v in found["teacher"].items() if k not in places}
    if "format" in found:
        found["format"] = FORMAT
    return found
