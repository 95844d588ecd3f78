"""Whether a folder is continued with the teacher and the images that it was begun with.

Both are known by their content. The journal holds what they were known by; a difference is one
sentence that says what changed. What is known for the first time is recorded, so a folder of an
earlier version is compared from then on.
"""

import logging
import re
from collections.abc import Collection, Mapping
from pathlib import Path

from db3kd.config.settings import kind_of
from db3kd.errors import ConfigurationDiffers
from db3kd.storage.files import Json
from db3kd.storage.journal import Journal
from db3kd.teachers.base import STATE

_log = logging.getLogger("db3kd")
_DIGEST = re.compile(r"[0-9a-f]{32,}")
_NAMED = ("file", "data")  # kinds of parts whose names are only names: "file model.pkl"


def agree_on_teacher(
    folder: Path, journal: Journal, parts: Mapping[str, str], *, answered: bool = True
) -> None:
    """Record what the teacher is known by, or insist on what is recorded.

    `parts` has a digest, or a few words, for each part of the teacher. Parts that are known for the
    first time, or not known this time, are no difference. A file may have another name. As long as
    nothing is `answered`, any teacher may follow, so that a broken one can be mended.

    Raises:
        ConfigurationDiffers: a part is another one than before.

    >>> import tempfile
    >>> folder = Path(tempfile.mkdtemp())
    >>> journal = Journal(folder / "journal.jsonl")
    >>> agree_on_teacher(folder, journal, {"file teacher.onnx": "a" * 64})
    >>> agree_on_teacher(folder, journal, {"file moved.onnx": "a" * 64})
    >>> agree_on_teacher(Path("runs/a"), journal, {"file moved.onnx": "b" * 64})
    Traceback (most recent call last):
    ...
    db3kd.errors.ConfigurationDiffers: the teacher changed since runs/a was begun (its file
    moved.onnx changed); put the old one back, or use another folder
    >>> journal.close()
    """
    recorded = check_teacher(folder, journal, parts, answered=answered)
    here = set(parts.values())
    silent = {
        name: value
        for name, value in recorded.items()
        if name not in parts and not (_is_named(name) and value in here)
    }
    if {**silent, **parts} != recorded:
        journal.append("identity", of="teacher", parts={**silent, **parts})


def check_teacher(
    folder: Path, journal: Journal, parts: Mapping[str, str], *, answered: bool = True
) -> dict[str, str]:
    """Insist on the teacher that is recorded, as `agree_on_teacher`; returns what is recorded.

    Raises:
        ConfigurationDiffers: a part is another one than before.

    >>> import tempfile
    >>> journal = Journal(Path(tempfile.mkdtemp()) / "journal.jsonl")
    >>> check_teacher(Path("runs/a"), journal, {"version": "1"})
    {}
    >>> journal.close()
    """
    recorded = _recorded(journal, "teacher") if answered else {}
    changed = changes(recorded, {k: v for k, v in parts.items() if not _is_state(k)})
    if changed:
        raise ConfigurationDiffers(
            f"the teacher changed since {folder} was begun ({'; '.join(changed)}); put the old one"
            " back, or use another folder"
        )
    for name in sorted(recorded.keys() & parts.keys()):
        if _is_state(name) and recorded[name] != parts[name]:
            _log.warning(
                "the %s is not that of the teacher that %s was begun with; where it is fitted anew"
                " each time, its answers may differ: fit it once, save it, and load it",
                name,
                folder,
            )
    return recorded


def changes(old: Mapping[str, str], new: Mapping[str, str]) -> list[str]:
    """In words, each part that is another one than before.

    >>> changes({"version": "1"}, {"version": "2", "platform": "torch"})
    ["its version is '2', not '1'"]
    >>> changes({"file a.pkl": "x", "file b.pkl": "y"}, {"file a.pkl": "x", "file c.pkl": "z"})
    ['its file c.pkl is there in place of b.pkl']
    """
    both = sorted(old.keys() & new.keys())
    found = [_words(name, old[name], new[name]) for name in both if old[name] != new[name]]
    for kind in _NAMED:
        gone = _only(kind, old, new)
        come = _only(kind, new, old)
        if gone and come:
            found.append(f"its {kind} {', '.join(come)} is there in place of {', '.join(gone)}")
    return found


def agree_on_images(
    folder: Path, journal: Journal, stage: str, known: Json, begun: Collection[int]
) -> None:
    """Record the images of a stage that asks each once, or insist on those that are recorded.

    `known` has `samples`, `shape`, the content of the `images` shard by shard, and a checksum of
    the pixels at both `ends`. Shards that are not `begun` may have other images than before, so
    that a damaged one can be mended. Folders made before November 30, 2026 have only the checksum,
    as `images`; then the ends are compared, and the content is recorded.

    Raises:
        ConfigurationDiffers: they are others than before.

    >>> import tempfile
    >>> folder = Path(tempfile.mkdtemp())
    >>> journal = Journal(folder / "journal.jsonl")
    >>> known = {"samples": 9, "shape": [1, 8, 8], "images": "values ab", "ends": 5}
    >>> agree_on_images(folder, journal, "answers", known, ())
    >>> agree_on_images(Path("runs/a"), journal, "answers", {**known, "images": "values cd"}, {0})
    Traceback (most recent call last):
    ...
    db3kd.errors.ConfigurationDiffers: the images are not those that runs/a was begun with: there
    are as many of the same shape, but their content or their order is another; put the old ones
    back, or use another folder
    >>> journal.close()
    """
    records = [r["configuration"] for r in journal.all("stage") if r["stage"] == stage]
    if not records:
        journal.append("stage", stage=stage, configuration=known)
        return
    recorded = records[-1]
    changed = _changed_images(recorded, known, begun)
    if changed:
        which = "test images" if kind_of(stage) == "evaluate" else "images"
        raise ConfigurationDiffers(
            f"the {which} are not those that {folder} was begun with: {changed}; put the old ones"
            " back, or use another folder"
        )
    if "ends" not in recorded or (_word(recorded) == _word(known) and recorded != known):
        journal.append("stage", stage=stage, configuration=known)


def note_labels(folder: Path, journal: Journal, which: str, digest: str) -> None:
    """Record a digest of the true labels; if it is another one than before, say so in a warning.

    Answers stay valid, and students are trained with the new labels; so it is no error.
    """
    recorded = _recorded(journal, f"labels of {which}").get("labels")
    if recorded == digest:
        return
    if recorded is not None:
        _log.warning(
            "the true labels of the %s are not those that %s was begun with; students and figures"
            " are made anew with these, but what a trial decided by the old ones stays",
            which,
            folder,
        )
    journal.append("identity", of=f"labels of {which}", parts={"labels": digest})


def _recorded(journal: Journal, of: str) -> dict[str, str]:
    found = [record["parts"] for record in journal.all("identity") if record["of"] == of]
    return dict(found[-1]) if found else {}


def _is_state(name: str) -> bool:
    return name.partition(" ")[0] == STATE


def _is_named(name: str) -> bool:
    return name.partition(" ")[0] in _NAMED


def _only(kind: str, these: Mapping[str, str], others: Mapping[str, str]) -> list[str]:
    """Names of this kind that only these have, and whose content the others do not have either."""
    known = set(others.values())
    return sorted(
        name.removeprefix(f"{kind} ")
        for name, value in these.items()
        if name.startswith(f"{kind} ") and name not in others and value not in known
    )


def _words(name: str, old: str, new: str) -> str:
    if _DIGEST.search(new) or len(old) + len(new) > 100:
        return f"its {name} changed"
    return f"its {name} is {new!r}, not {old!r}"


def _word(known: Json) -> str:
    """What was digested."""
    return str(known["images"]).partition(" ")[0]


def _changed_images(old: Json, new: Json, begun: Collection[int]) -> str:
    """What differs, in words; "" if nothing does."""
    if old["samples"] != new["samples"]:
        return f"there are {new['samples']:,}, not {old['samples']:,}"
    if list(old["shape"]) != list(new["shape"]):
        return f"their shape is {tuple(new['shape'])}, not {tuple(old['shape'])}"
    if "ends" not in old or _word(old) != _word(new):  # contents that do not compare
        before = old.get("ends", old["images"])
        same = before == new["ends"] or not begun
    else:
        pairs = zip(old["images"].split()[1:], new["images"].split()[1:], strict=True)
        same = not {shard for shard, (was, now) in enumerate(pairs) if was != now} & set(begun)
    words = "there are as many of the same shape, but their content or their order is another"
    return "" if same else words
