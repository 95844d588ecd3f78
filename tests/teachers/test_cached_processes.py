"""Processes that share a store of answers, and are killed."""

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from test_cached import kept

from db3kd.teachers.cached import Store

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="forks are POSIX")
WORKER = """
import os, random, sys, time, traceback
from concurrent.futures import ThreadPoolExecutor
import torch
from db3kd.teachers.cached import CachedTeacher, Store

torch.set_num_threads(1)
folder, images = sys.argv[1], int(sys.argv[2])
pool = None


class Shown:  # writes down each image that it is shown, before it answers
    classes, bounds = 7, (0.0, 1.0)

    def __init__(self):
        self.log = os.open(folder + "/shown", os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    def labels(self, images):
        numbers = [round(value) for value in (images.flatten() * 4096).tolist()]
        os.write(self.log, "".join(f"{number}\\n" for number in numbers).encode())
        time.sleep(0.001)
        return torch.tensor([number * number % 7 for number in numbers])


class InParts(Shown):
    def answer(self, images, keeper):
        def part(some):
            rows = list(keeper.claim(some.tolist()))
            if rows:
                keeper.settle(rows, self.labels(images[rows]))

        with ThreadPoolExecutor(4) as pool:
            jobs = [pool.submit(part, some) for some in torch.randperm(len(images)).split(16)]
        [job.result() for job in jobs]


def work(kind, seed):
    numbers = list(range(images)) * 2
    random.Random(seed).shuffle(numbers)
    with Store(folder + "/answers.db3kd") as store:
        teacher = CachedTeacher(kind(), store, "squares", chunk=16)
        while numbers:
            question, numbers = numbers[:150], numbers[150:]
            shown = torch.tensor(question, dtype=torch.float32).reshape(-1, 1, 1, 1) / 4096
            answers = teacher.labels(shown).tolist()
            assert answers == [number * number % 7 for number in question]


def begin(kind, seed):
    child = os.fork()
    if child:
        return child
    status = 1
    try:
        work(InParts if kind == "parts" else Shown, int(seed))
        status = 0
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(status)


print("ready", flush=True)
for line in sys.stdin:
    order, *rest = line.split()
    if order == "start":
        print(begin(*rest), flush=True)
    else:
        print(os.waitstatus_to_exitcode(os.waitpid(int(rest[0]), 0)[1]), flush=True)
"""


class Nursery:
    """A process that has imported everything, and makes children to be killed."""

    def __init__(self, folder: Path, images: int) -> None:
        self.folder = folder
        program = folder / "worker.py"
        program.write_text(WORKER)
        self.process = subprocess.Popen(
            [sys.executable, str(program), str(folder), str(images)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
        assert self._line() == "ready"

    def _line(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def _order(self, *words: object) -> int:
        assert self.process.stdin is not None
        self.process.stdin.write(" ".join(map(str, words)) + "\n")
        self.process.stdin.flush()
        return int(self._line())

    def start(self, kind: str, seed: int) -> int:
        return self._order("start", kind, seed)

    def wait(self, child: int) -> int:
        return self._order("wait", child)

    def shown(self) -> list[int]:
        log = self.folder / "shown"
        return [int(line) for line in log.read_text().split()] if log.exists() else []

    def close(self) -> None:
        self.process.communicate()


IMAGES = 1500


@pytest.fixture
def nursery(tmp_path: Path) -> Iterator[Nursery]:
    made = Nursery(tmp_path, IMAGES)
    yield made
    made.close()


def killed_and_continued(nursery: Nursery, kind: str, kills: int, seconds: float) -> None:
    """Kill children at random moments, then let one end; nothing kept is shown again."""
    rng = random.Random(kills)
    before: set[int] = set()
    done = 0
    for attempt in range(40 * kills):
        seen = len(nursery.shown())
        child = nursery.start(kind, attempt)
        if done < kills:
            time.sleep(rng.uniform(0, seconds))
            os.kill(child, signal.SIGKILL)
        status = nursery.wait(child)
        assert status in (0, -signal.SIGKILL)
        done += status == -signal.SIGKILL
        now = nursery.shown()
        assert not set(now[seen:]) & before  # nothing that was kept was shown again
        with Store(nursery.folder / "answers.db3kd") as store:
            before = kept(store)
            store.bury()
            books = store.books()
            assert books["answered"] == len(before)
            assert books["answered"] <= len(now) <= books["answered"] + books["lost"]
            assert books["lost"] <= 64 * done  # four calls of sixteen images at once
            assert books["in_flight"] == 0
            assert not list(nursery.folder.glob(".*.owner"))
        if done == kills and status == 0:
            break
        if status == 0:  # too fast for the killer: begin anew with nothing
            for file in nursery.folder.glob("answers.db3kd*"):
                file.unlink()
            (nursery.folder / "shown").unlink()
            before = set()
    assert (done, before) == (kills, set(range(IMAGES)))


@pytest.mark.parametrize("kind", ["chunks", "parts"])
def test_a_killed_process_asks_nothing_again_that_it_kept(nursery: Nursery, kind: str) -> None:
    killed_and_continued(nursery, kind, kills=5, seconds=0.1)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["chunks", "parts"])
def test_thirty_killed_processes(nursery: Nursery, kind: str) -> None:
    killed_and_continued(nursery, kind, kills=30, seconds=0.1)


def test_processes_at_once_share_a_new_store(nursery: Nursery) -> None:
    children = [nursery.start(kind, seed) for seed, kind in enumerate(("chunks", "parts") * 2)]
    assert [nursery.wait(child) for child in children] == [0] * 4
    with Store(nursery.folder / "answers.db3kd") as store:
        assert kept(store) == set(range(IMAGES))
        assert sorted(nursery.shown()) == list(range(IMAGES))  # each was paid once
        assert store.books()["answered"] == IMAGES
        assert store.books()["in_flight"] == 0
