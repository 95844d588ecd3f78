"""The teacher of a recipe, with all that stands between it and the meter.

    Meter (one for each run) -> Canary -> Voting -> CachedTeacher (pays an answer once) -> adapter

All but the adapter are there only if a recipe wants them. A query is an answer that a method uses,
even if the store has it already, so that methods compare at equal budgets. Money counts what was
really asked. The meter does not see repeats of a vote and canaries; they are counted separately.
"""

import hashlib
import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import msgspec
import safetensors
import safetensors.torch
import torch

from db3kd.config.reading import resolved
from db3kd.config.recipe import Recipe, TeacherConfig
from db3kd.config.remote import Noise, Remote, who
from db3kd.config.types import MOST_CLASSES
from db3kd.data import DataSet
from db3kd.errors import InputError
from db3kd.job.adapters import make_teacher, said_classes, store_of
from db3kd.job.identity import identity as parts_of
from db3kd.job.money import charged, purse_of, run_name
from db3kd.job.reading import listening
from db3kd.progress import Progress, silent
from db3kd.stages.digests import Digests
from db3kd.storage.files import writing
from db3kd.storage.journal import Journal
from db3kd.teachers.base import STATE, Teacher, met_of
from db3kd.teachers.cached import CHECKS, Account, CachedTeacher, Store
from db3kd.teachers.found import FoundClasses
from db3kd.teachers.noisy import Canary, Voting, margin_for
from db3kd.teachers.remote import RemoteTeacher

MOST_VOTES = 99  # for one image


@dataclass(frozen=True)
class TeacherPipeline:
    """A teacher as a run asks it, and its parts: the adapter, and votes and a store if wanted.

    >>> from db3kd.teachers import function
    >>> bright = function(lambda images: images.flatten(1).mean(1) > 0.5, classes=2)
    >>> pipeline = TeacherPipeline(bright, bright)
    >>> pipeline.store, pipeline.vote
    (None, None)
    """

    teacher: Teacher
    adapter: Teacher
    vote: Voting | None = None
    store: Store | None = None
    identity: str = ""
    parts: Mapping[str, str] = field(default_factory=dict)
    account: Account = field(default_factory=Account)
    named: Callable[[str], Teacher] | None = None  # the teacher with answers under another name

    def again(self, name: str) -> Teacher:
        """The teacher to ask once more: answers are booked, but under a name of their own."""
        return self.adapter if self.named is None else self.named(name)


def paid(pipeline: TeacherPipeline) -> dict[str, Any]:
    """What this run's answers cost, by the books of the store; empty if there is no store.

    The money is that of checks as well.
    """
    store, account = pipeline.store, pipeline.account
    if store is None:
        return {}
    money, currency = None, ""
    if account.purse is not None:
        money = round(account.purse.money(charged(account.purse, store, account)), 4)
        currency = account.purse.price.currency
    return {"paid": {**store.books(run=account.run), "money": money, "currency": currency}}


@contextmanager
def open_teacher(
    recipe: Recipe, data: DataSet | None, progress: Progress = silent, *, check: bool = False
) -> Iterator[TeacherPipeline]:
    """Make the teacher of a recipe, for the length of a `with` block.

    A remote teacher keeps its answers in `teacher.store`, by default `answers.db3kd` next to the
    run's folder. Other teachers keep them only if the recipe names a store. Answers are booked
    under the run of the recipe, those of a `check` apart, and paid out of its money. Costs no
    query.

    Raises:
        InputError: the teacher cannot be made, or the file is not a store.
        Damaged, Busy, RunError: from the store.
    """
    wanted = recipe.teacher
    with ExitStack() as kept:
        with listening() as files:
            made = make_teacher(recipe, data, progress)
        far = made if isinstance(made, RemoteTeacher) else None
        if far is not None:
            kept.enter_context(closing(far))
            far.discover()
        digests = Digests(Path(recipe.run) / "digests.json", progress)
        kept.callback(digests.save)  # a new run has its folder only then
        parts = parts_of(recipe, made, files, digests.of_file)
        file = store_of(recipe)
        if file is None:
            _check_canaries(recipe, made)
            noisy = _with_noise(wanted.noise, made, lambda name: made)
            yield TeacherPipeline(*noisy, parts=parts)
            return
        with writing(file):
            file.parent.mkdir(parents=True, exist_ok=True)
        _check_canaries(recipe, made)
        store = kept.enter_context(Store(file))
        journal = Journal(Path(recipe.run) / "journal.jsonl", read_only=True)
        account = Account(CHECKS * check + run_name(recipe, journal))
        account.purse = purse_of(recipe, store, account, journal, keep=False)
        identity = _local_identity(recipe, parts) if far is None else far.identity
        names = learning(made)
        if names is not None:
            names.learn(store.names(identity))
            names.remember = lambda names: _learn(store, identity, names)
        key = None if far is None else far.keys

        def asked(name: str) -> Teacher:
            """The teacher with its own answers under this name: another name asks again."""
            return CachedTeacher(
                made,
                store,
                f"{identity}{name}",
                key=key,
                account=account,
                met=lambda: store.names(identity),
            )

        def repeated() -> int:
            names = [f"{identity} repeat {k}" for k in range(1, MOST_VOTES)]
            books = [store.books(name, run=account.run) for name in names]
            return sum(some["answered"] + some["lost"] for some in books)

        noisy = _with_noise(wanted.noise, made, asked, repeated)
        yield TeacherPipeline(*noisy, store, identity, parts, account, asked)


@runtime_checkable
class Learning(Protocol):
    """What learns names of classes: those that were met before, and what is to keep new ones."""

    remember: Callable[[tuple[str, ...]], None]

    def learn(self, names: Sequence[str]) -> None:
        """Take up names of classes that were met by an earlier process."""


def learning(made: Teacher) -> Learning | None:
    """Where the names of an adapter's classes are learned; None if they are known."""
    if isinstance(made, RemoteTeacher):
        return made
    known = getattr(made, "known", None)
    return known if isinstance(known, FoundClasses) else None


def _check_canaries(recipe: Recipe, made: Teacher) -> None:
    noise = recipe.teacher.noise
    if noise is not None and noise.canaries is not None and met_of(made) is not None:
        raise InputError(
            "teacher.noise.canaries are answers by class number, but this teacher's classes are"
            " found as it answers; give them (teacher.classes), or remove the canaries"
        )


def _with_noise(
    noise: Noise | None,
    adapter: Teacher,
    asked: Callable[[str], Teacher],
    repeated: Callable[[], int] = lambda: 0,
) -> tuple[Teacher, Teacher, Voting | None]:
    """The teacher, with votes and canaries before it if they are wanted; the adapter; the votes."""
    teacher, vote = asked(""), None
    if noise is None:
        return teacher, adapter, None
    first = teacher

    def again(number: int) -> Teacher:
        return asked(f" repeat {number}") if number else first

    if noise.flips:
        margin = margin_for(noise.flips, noise.error)
        most = min(MOST_VOTES, max(noise.most, margin))
        spent = repeated()
        teacher = vote = Voting(
            first, most=most, margin=margin, budget=noise.repeats, spent=spent, again=again
        )
    if noise.canaries is not None:
        known, begun = _canaries(noise.canaries), time.time_ns()
        teacher = Canary(
            teacher,
            known["images"],
            known["answers"],
            every=noise.every,
            flips=noise.flips,
            again=lambda number: asked(f" canary {begun}-{number}"),
        )
    return teacher, adapter, vote


def _canaries(file: str) -> dict[str, torch.Tensor]:
    try:
        found = safetensors.torch.load_file(file)
    except (OSError, safetensors.SafetensorError) as error:
        raise InputError(
            f"{file} cannot be read ({error}); teacher.noise.canaries names it"
        ) from None
    if set(found) != {"images", "answers"}:
        raise InputError(f"{file} must hold images and answers, but holds {sorted(found)}")
    return {"images": found["images"], "answers": found["answers"].long()}


def fingerprint(recipe: Recipe) -> dict[str, Any]:
    """What a run folder keeps of the teacher: all settings that say which it is and what it sees.

    Other settings may change: how fast and how often it is asked, its price, and where answers are
    kept.

    Raises:
        InputError: the file with the names of the classes cannot be read.

    >>> from db3kd.config.recipe import DataConfig, Recipe, StudentConfig, TeacherConfig
    >>> recipe = Recipe(run="r", data=DataConfig(train="d"),
    ...                 teacher=TeacherConfig(kind="onnx", file="t.onnx"),
    ...                 student=StudentConfig(network="lenet5"))
    >>> fingerprint(recipe)["file"], "store" in fingerprint(recipe)
    ('t.onnx', False)
    """
    teacher = dict(resolved(recipe)["teacher"])
    for name in ("store", "price"):
        del teacher[name]
    for name in ("remote", "classes", "noise", "encoding", "output"):
        if teacher[name] is None:
            del teacher[name]
    usual = {"unknown": "refuse", "most_classes": MOST_CLASSES, "arguments": {}}
    teacher = {k: v for k, v in teacher.items() if k not in usual or v != usual[k]}
    names = said_classes(recipe.teacher)
    if isinstance(names, tuple):  # in a list or in a file, and wherever that lies
        digest = hashlib.sha256(json.dumps(names).encode()).hexdigest()[:16]
        teacher["classes"] = f"{len(names)} names, {digest}"
    if recipe.teacher.bounds != TeacherConfig(kind=recipe.teacher.kind).bounds:
        teacher["images"] = "scaled to bounds"  # once they were not
    if "noise" in teacher:
        teacher["noise"] = {k: teacher["noise"][k] for k in ("flips", "error", "most")}
    if "remote" in teacher:
        far = who(msgspec.convert(teacher["remote"], Remote))
        teacher["remote"] = json.loads(msgspec.json.encode(far))
    return teacher


def _learn(store: Store, identity: str, names: tuple[str, ...]) -> None:
    if names and store.learn(identity, names)[: len(names)] != names:
        raise InputError("another process met new classes in another order; run again to continue")


def _local_identity(recipe: Recipe, parts: Mapping[str, str]) -> str:
    """What identifies a local teacher in a store: its settings, and the content of its parts."""
    facts = fingerprint(recipe)
    content = sorted(value for name, value in parts.items() if not name.startswith(STATE))
    for name in ("file", "weights"):
        if facts.get(name):
            facts[name] = content.pop() if len(content) == 1 else ""  # wherever it lies
    text = json.dumps(facts | ({"content": content} if content else {}), sort_keys=True)
    return f"{recipe.teacher.kind} {hashlib.sha256(text.encode()).hexdigest()[:16]}"
