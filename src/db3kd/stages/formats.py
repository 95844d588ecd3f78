"""Run folders of earlier formats, read in today's words.

Format 1 (until November 2026) had other names for some settings. Until format 2, students were
trained by AdamW unless a recipe said otherwise, and until format 3 by Muon. Folders of these
formats are read and continued. A folder of a format newer than `FORMAT` is refused.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from db3kd.config.settings import Training, kind_of
from db3kd.errors import RunError
from db3kd.storage.files import Json
from db3kd.storage.journal import Journal

FORMAT = 4
MUON = 3  # the first format whose students are trained by Muon by default
MIXED = 4  # the first whose samples and ensembles say which optimiser is the default

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
    found = _format(journal)
    if found > FORMAT:
        raise RunError(
            f"{folder} was made by a newer db3kd (format {found}, known up to {FORMAT});"
            " install that version"
        )


def _format(journal: Journal) -> int:
    """The format of a folder, as it was when it was begun."""
    found = [r["configuration"]["format"] for r in journal.all("stage") if r["stage"] == "run"]
    return int(found[-1]) if found else FORMAT


def training_here(journal: Journal, training: Training) -> Training:
    """A training as a folder understands it: the defaults are those of when the folder was begun.

    So students that are finished there are not trained again.

    >>> import tempfile
    >>> journal = Journal(Path(tempfile.mkdtemp()) / "journal.jsonl")
    >>> journal.append("stage", stage="run", configuration={"format": 2})
    >>> training_here(journal, Training(steps=10)).optimiser
    'adamw'
    >>> training_here(journal, Training(steps=10, optimiser="muon")).rate
    >>> mixes_optimisers(journal)
    False
    >>> journal.close()
    """
    begun = _format(journal)
    if begun >= MIXED or training.optimiser is not None:
        return training
    if begun >= MUON:
        return training if training.rate else msgspec.structs.replace(training, optimiser="muon")
    return msgspec.structs.replace(
        training,
        optimiser="adamw",
        rate=training.rate or 1e-3,
        warmup=training.warmup or 0.0,
        epochs=training.epochs or (None if training.steps else 100),
    )


def mixes_optimisers(journal: Journal) -> bool:
    """Whether an ensemble that labels images has students by several optimisers in a folder."""
    return _format(journal) >= MIXED


def configurations(journal: Journal) -> dict[str, Json]:
    """The settings of every stage that has begun, in today's words, by its name on the books."""
    known = [(record["stage"], record["configuration"]) for record in journal.all("stage")]
    return {stage: in_todays_words(stage, settings) for stage, settings in known}


def _without_places(run: Json) -> Json:
    """The settings of a recipe's run without where its teacher and its images lie.

    Their content decides. Whether there are own images, or test images of their own, is kept. What
    a caller of `Run` says beside must stay the same, whatever it is.
    """
    teacher, data = run.get("teacher"), run.get("data")
    if not isinstance(teacher, dict) or "kind" not in teacher:
        return run
    places = ("file", "weights", "training", "data")
    found = {**run, "teacher": {k: v for k, v in teacher.items() if k not in places}}
    if isinstance(data, dict):
        named = [key for key in ("train", "test") if data.get(key) is not None]
        found["data"] = data | dict.fromkeys(named, "given")
    return found


def in_todays_words(stage: str, settings: Mapping[str, Any]) -> Json:
    """The settings of a stage in today's words, whichever format they were written in.

    >>> in_todays_words("trial/grow", {"choose": "doubt", "changes": ["shift"]})
    {'choose': 'margin', 'augmentations': ['shift']}
    >>> in_todays_words("run", {"teacher": {"kind": "network", "training": {"epochs": 8}}})
    {'teacher': {'kind': 'network'}}
    """
    kind = kind_of(stage)
    keys, words = _KEYS.get(kind, {}), _WORDS.get(kind, {})
    found = {keys.get(key, key): value for key, value in settings.items()}
    for key, names in words.items():
        if key in found:
            found[key] = names.get(found[key], found[key])
    if isinstance(found.get("ascent"), dict):  # the settings of a synthesis hold those of an ascent
        found["ascent"] = in_todays_words("ascent", found["ascent"])
    if kind == "run":
        found = _without_places(found)
    if "format" in found:
        found["format"] = FORMAT
    return found
