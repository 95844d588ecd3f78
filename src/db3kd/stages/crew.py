"""The workers of a run, as the process that leads has them: started, greeted and replaced."""

import logging
import secrets
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn, Protocol, TypeAlias, runtime_checkable

from db3kd.errors import InputError, RunError, error_of, plain
from db3kd.stages.hand import Event, Failed, Order
from db3kd.stages.recovery import WORD
from db3kd.stages.versions import versions
from db3kd.stages.workspace import Workspace
from db3kd.storage.files import write_atomically

LEAST_START_S = 300.0  # a worker may take to open images and teacher
MOST_STARTS = 3  # workers that end one after the other before anything is asked
MOST_ENDS = 10  # workers that a shard or a student may end without getting on
SAME = ("db3kd", "torch", "numpy", "commit")  # versions that workers must have, too
_log = logging.getLogger("db3kd")


@dataclass(frozen=True)
class Ready:
    """A worker has opened everything: what it computes with, and `where` it is."""

    told: Mapping[str, str]


@dataclass(frozen=True)
class Lost:
    """A worker has ended."""

    why: str


News: TypeAlias = Event | Ready | Lost


@runtime_checkable
class Crew(Protocol):
    """The workers of an engine, by their names; each runs a `db3kd.stages.hand.Hand`."""

    def start(self, folder: Path, word: str) -> Sequence[str]:
        """Start the workers, and have each greet; returns their names.

        Raises:
            InputError: the engine cannot be used.
        """

    def send(self, name: str, order: Order) -> None:
        """Have a worker take a turn."""

    def news(self, seconds: float) -> list[tuple[str, News]]:
        """What workers answered to their last orders; waits for it, so long at most."""

    def replace(self, name: str) -> None:
        """End a worker, if it has not ended, and start another of this name."""

    def close(self) -> None:
        """End all workers."""


class Workers:
    """A crew at work: who is `free`, and where everybody is.

    `patience`: seconds without a sign of a worker, after which another does its work.
    """

    def __init__(self, crew: Crew, patience: float) -> None:
        self.crew, self.patience = crew, patience
        self.free: dict[str, str] = {}  # workers without work, and where they are
        self.where: dict[str, str] = {}
        self.epoch = 0
        self._names: Sequence[str] = ()
        self._ends = 0  # of workers that ended before they were ready
        self._last = time.monotonic()  # when there was a worker
        self._word = (Path(), Path())

    def close(self) -> None:
        """End all workers."""
        if self._names:
            self._names = ()
            self.crew.close()
        for path in self._word:
            with suppress(OSError):
                path.unlink()

    def start(self, workspace: Workspace) -> None:
        """Start the workers, once, and wait for all of them."""
        if self._names:
            return
        self.epoch = 1 + sum(1 for _ in workspace.journal.all("epoch"))
        word, reply = secrets.token_hex(8), secrets.token_hex(8)
        path = workspace.folder / f"{WORD}{word}"
        write_atomically(path, reply.encode())
        self._word = path, path.with_name(f"{path.name}-{reply}")
        try:
            self._names = self.crew.start(workspace.folder.absolute(), word)
            until = time.monotonic() + max(LEAST_START_S, self.patience)
            while len(self.free) < len(self._names):
                for name, event in self.crew.news(1.0):
                    self.again(workspace, name, event, MOST_STARTS)
                if time.monotonic() > until:
                    raise InputError(
                        f"{len(self.free)} of {len(self._names)} workers have started, and the"
                        " cluster has no room for the others; lower cluster.workers, or what each"
                        " takes (cluster.cpus, cluster.gpus)"
                    )
        except BaseException:
            self.close()
            raise
        places = [self.where[name] for name in self._names]
        workspace.journal.append("epoch", number=self.epoch, workers=places)
        _log.info("%s workers: %s", len(places), "; ".join(places))

    def _welcome(self, workspace: Workspace, name: str, event: News) -> None:
        """Take up a worker that is ready.

        Raises:
            InputError: it has another version, or sees another folder.
            Db3kdError: it cannot open the images or the teacher.
        """
        if isinstance(event, Failed):
            raise error_of(event.kind, f"a worker cannot start: {event.text}", InputError)
        if not isinstance(event, Ready):
            return
        here, where = versions(), event.told["where"]
        for what in SAME:
            if event.told.get(what) != here.get(what):
                raise InputError(
                    f"the worker on {where} has {what} {event.told.get(what)}, but this process has"
                    f" {here.get(what)}; install the same everywhere"
                )
        if not self._word[1].exists():
            raise InputError(
                f"the worker on {where} sees another folder {workspace.folder} than this process;"
                " put it where all machines have it under the same name"
            )
        self.free[name] = self.where[name] = where

    def again(self, workspace: Workspace, name: str, event: News, most: int) -> None:
        """A worker that was started is ready, or has ended at once and is replaced.

        Raises:
            RunError: more than `most` have ended, one after the other.
        """
        if not isinstance(event, Lost):
            self._ends = 0
            self._welcome(workspace, name, event)
            return
        self._ends += 1
        if self._ends > most:
            raise RunError(
                f"workers end as soon as they start ({plain(event.why)}); what was bought is kept,"
                " and the same command goes on"
            )
        self.crew.replace(name)

    def fail(self, name: str, event: Failed) -> NoReturn:
        """Raise what a worker met, as an error of db3kd."""
        error = error_of(event.kind, event.text)
        if type(error).__name__ != event.kind:
            error = RunError(f"the worker on {self.where[name]} failed: {event.text}")
        raise error

    def gone(self, name: str, why: str, what: str) -> None:
        """Say that a worker has ended, and start another."""
        where = self.where[name]
        _log.warning("worker %s (%s) is gone (%s); another goes on with %s", name, where, why, what)
        self.crew.replace(name)

    def check_left(self, busy: int) -> None:
        """Note that there are workers, `busy` of them at work.

        Raises:
            RunError: there have been none for too long.
        """
        if busy or self.free:
            self._last = time.monotonic()
        elif time.monotonic() - self._last > max(LEAST_START_S, self.patience):
            raise RunError(
                "no worker is left, and the cluster has no room for another; what was bought is"
                " kept, and the same command goes on"
            )
