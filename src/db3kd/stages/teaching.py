"""Students of a recipe that are trained by workers, each by one.

A student that is begun again goes on at its checkpoint. Two workers at one student write the same
file, so nothing is fenced; nothing is asked, so nothing is leased.
"""

import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

from db3kd.errors import RunError
from db3kd.stages.crew import MOST_ENDS, Lost, News, Workers
from db3kd.stages.hand import Alive, Failed, Go, Train, Trained
from db3kd.stages.workspace import Workspace

Student: TypeAlias = tuple[str, int]
"""Name and seed."""


@dataclass
class _Lessons:
    """Who is at which student, and when each gave a sign."""

    workers: Workers
    workspace: Workspace
    todo: list[Student]
    at: dict[str, Student] = field(default_factory=dict)
    heard: dict[str, float] = field(default_factory=dict)
    ends: Counter[Student] = field(default_factory=Counter)

    def assign(self) -> None:
        for name in list(self.workers.free)[: len(self.todo)]:
            del self.workers.free[name]
            self.at[name], self.heard[name] = self.todo.pop(0), time.monotonic()
            self.workers.crew.send(name, Train(*self.at[name]))

    def take_in(self, name: str, event: News) -> None:
        """Take in what a worker says.

        Raises:
            Db3kdError: it cannot train its student.
        """
        if name not in self.at:
            self.workers.again(self.workspace, name, event, MOST_ENDS)
            return
        self.heard[name] = time.monotonic()
        if isinstance(event, Alive):
            self.workers.crew.send(name, Go())
        elif isinstance(event, Lost):
            self.lose(name, event.why)
        elif isinstance(event, Trained | Failed):
            del self.at[name]
            self.workers.free[name] = self.workers.where[name]
            if isinstance(event, Failed):
                self.workers.fail(name, event)
            if event.record is not None:
                self.workspace.journal.append(**event.record)

    def lose(self, name: str, why: str) -> None:
        """Have another worker go on where one ended.

        Raises:
            RunError: too many have ended at this student.
        """
        student = self.at.pop(name)
        called = f"student {student[0]}, seed {student[1]}"
        self.workers.gone(name, why, called)
        self.ends[student] += 1
        if self.ends[student] > MOST_ENDS:
            raise RunError(
                f"{self.ends[student]} workers have ended at {called}; give each more memory, or"
                " take fewer"
            )
        self.todo.append(student)


def taught(workers: Workers, workspace: Workspace, students: Sequence[Student]) -> None:
    """Have workers train students, and put each on the books.

    Raises:
        RunError: workers end, or none is left.
        Db3kdError: a student cannot be trained.
    """
    workers.start(workspace)
    lessons = _Lessons(workers, workspace, list(students))
    try:
        while lessons.todo or lessons.at:
            lessons.assign()
            for name, event in workers.crew.news(0.5):
                lessons.take_in(name, event)
            for name, heard in list(lessons.heard.items()):
                if name in lessons.at and time.monotonic() - heard > workers.patience:
                    lessons.lose(name, f"no sign for {workers.patience:g} seconds")
            workers.check_left(len(lessons.at))
            done = len(students) - len(lessons.todo) - len(lessons.at)
            figures = {"workers": float(len(workers.free) + len(lessons.at))}
            workspace.progress("training", done, len(students), figures)
    except BaseException:
        for name in lessons.at:
            workers.crew.replace(name)
        raise
