"""One run of `reliability.py`: interrupted, continued until it is done, and checked.

A life is a run in a folder of its own with one way of being interrupted. What the teacher's log
says is compared with the books after each interruption; at the end the run's files are compared
with those of a run that nobody interrupted.
"""

import json
import os
import random
import resource
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from contextlib import closing
from dataclasses import asdict, dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any

import db3kd.storage.frames
import reliability_cases as cases
from db3kd.errors import InputError
from db3kd.stages.accounts import finished, status
from db3kd.storage.journal import Journal
from db3kd.storage.tape import Tape
from reliability_power import cut_power

WAYS = ("kill", "interrupt", "power", "disk")
MOST_EACH = {"kill": 5, "interrupt": 2, "power": 3, "disk": 2}  # interruptions of one run
CHILD = Path(__file__).with_name("reliability_child.py")
LATEST = 0.8  # of the time of a whole run: the rest is Python's own end
DELAY = 0.1  # seconds, at most, after so much was asked
LIMIT = 300  # seconds, after which a process hangs


@dataclass(frozen=True)
class Whole:
    """A run that nobody interrupted: its files, what it cost, and how long it took."""

    files: dict[str, str]
    spent: int
    asked: int  # as the teacher's log says
    start: float  # seconds until the run is open
    work: float  # and from there
    size: int  # bytes on the disk
    said: str  # on stderr


@dataclass
class Result:
    """What came of a life."""

    way: str
    case: str
    life: int
    seed: int
    interruptions: list[dict[str, Any]] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)
    asked: int = 0
    spent: int = 0
    lost: int = 0
    seconds: float = 0.0


class Failed(Exception):
    """A law is broken."""


@dataclass
class Life:
    """A run in a folder, and what its teacher says."""

    folder: Path
    case: cases.Case
    images: Path
    url: str
    whole: Whole | None = None
    power: bool = False
    boot: int = 1
    place: str = ""  # of the run and the store, below the folder

    def prepare(self) -> None:
        """Write recipe and teacher."""
        self.folder.mkdir(parents=True)
        cases.write_case(self.case, self.folder, self.images, self.url, self.place + "run")

    @property
    def run(self) -> Path:
        """The folder of the run."""
        return self.folder / self.place / "run"

    # A process

    def start(self, *, size: int | None = None, more: int = 0) -> subprocess.Popen[str]:
        """Start the command; `more`: queries that it may ask beyond those of a whole run."""
        words = [sys.executable, str(CHILD), "run", "recipe.toml", "--quiet"]
        if self.whole is not None:
            words += ["-s", f"budget.queries={self.whole.spent + more}"]
        if self.case.teacher == "paid":
            money = 10.0**6 if self.whole is None else float(self.whole.asked + more)
            words += ["-s", f"budget.money={money}"]
        added = {"OMP_NUM_THREADS": "1", "COLUMNS": "200", "NO_COLOR": "1", "TERM": "dumb"}
        if self.power:
            (self.folder / "power").mkdir(exist_ok=True)
            added |= {"POWER_LOG": str(self.folder / "power"), "MACHINE_START": _boot(self.boot)}

        def limited() -> None:
            if size is not None:
                resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))

        return subprocess.Popen(
            words,
            cwd=self.folder,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, **added},
            preexec_fn=limited,
        )

    def live(
        self, process: subprocess.Popen[str], until: Callable[[float], bool], number: int
    ) -> tuple[int, str, float]:
        """Wait for a process, or send it a signal when `until` says so; code, words, seconds."""
        began, sent = time.monotonic(), False
        while process.poll() is None:
            passed = time.monotonic() - began
            if not sent and until(passed):
                process.send_signal(number)
                sent = True
            if passed > LIMIT:
                process.kill()
                process.communicate()
                raise Failed(f"it did not end within {LIMIT} s")
            self.check_books()
            time.sleep(0.01)
        _, said = process.communicate()
        return process.returncode, said, time.monotonic() - began

    def opened(self) -> int:
        """How often the run was opened."""
        journal = self.run / "journal.jsonl"
        return journal.read_bytes().count(b'"kind": "opened"') if journal.exists() else 0

    # The books

    def log(self) -> list[bytes]:
        """What the teacher wrote down of each image."""
        log = self.folder / ("classified" if self.case.remote else "asked")
        if not log.exists():
            return []
        content = log.read_bytes()
        return content.split(b"\n")[:-1] if self.case.remote else [b"."] * len(content)

    def check_books(self) -> None:
        """What a local teacher was asked is on the books; while the process works, too."""
        if self.case.remote:
            return
        asked = len(self.log())
        queries = self.queries()
        if asked > queries["spent"]:
            raise Failed(f"{asked} were asked, but {queries['spent']} are on the books")

    def queries(self) -> dict[str, int]:
        """The books of the run as `db3kd status` shows them; zeros before it has begun."""
        db3kd.storage.frames.machine_start = (  # type: ignore[assignment]
            (lambda: bytes.fromhex(_boot(self.boot))) if self.power else MACHINE_START
        )
        try:
            return dict(status(self.run)["queries"])
        except InputError:
            return {"spent": 0, "lost": 0, "reserved": 0}

    def store_books(self) -> dict[str, int]:
        """The books of the store, from a copy of its files."""
        store = self.folder / self.place / "answers.db3kd"
        names = ("answered", "failed", "retried", "lost")
        found = dict.fromkeys((*names, "in_flight"), 0)
        if not store.exists():
            return found
        with tempfile.TemporaryDirectory() as folder:
            for end in ("", "-wal", "-journal"):
                source = store.with_name(store.name + end)
                if source.exists():
                    shutil.copy(source, Path(folder) / source.name)
            with closing(sqlite3.connect(Path(folder) / store.name)) as base:
                if not base.execute("PRAGMA application_id").fetchone()[0]:
                    return found
                sums = ", ".join(f"coalesce(sum({name}), 0)" for name in names)
                row = base.execute(f"SELECT {sums} FROM books").fetchone()
                claims = base.execute("SELECT count(*) FROM claims").fetchone()
        return dict(zip(found, (*row, *claims), strict=True))

    def gone(self) -> int:
        """What the books say is lost, or will be once the run is opened again."""
        if self.case.remote:
            books = self.store_books()
            return books["lost"] + books["in_flight"]
        queries = self.queries()
        return queries["lost"] + queries["reserved"]

    def check_stopped(self) -> None:
        """No process works: what was asked is on the books, and an image twice only if lost."""
        self.check_books()
        if not self.case.remote:
            return
        seen, books = self.log(), self.store_books()
        booked = sum(books.values())
        if len(seen) > booked:
            raise Failed(f"{len(seen)} were classified, but {booked} are on the books of the store")
        again = len(seen) - len(set(seen))
        if again > booked - books["answered"]:
            raise Failed(f"{again} images were classified twice; the books are {books}")

    def in_progress(self) -> int:
        """What was asked of the shards in progress, as their tapes say before a power cut."""
        self.queries()
        journal = Journal(self.run / "journal.jsonl", read_only=True)
        asked = 0
        for tape in self.run.rglob("*.tape"):
            stage = str(tape.parent.relative_to(self.run))
            if int(tape.stem) not in finished(journal, stage):
                asked += Tape(tape, classes=cases.CLASSES, read_only=True).booked
        return asked

    # Its end

    def files(self) -> dict[str, str]:
        """What must not depend on interruptions: a digest of each shard and student."""
        return {
            str(path.relative_to(self.run)): sha256(_content(path)).hexdigest()
            for path in sorted(self.run.rglob("*.safetensors"))
        }

    def check_done(self) -> None:
        """The run is as one that nobody interrupted, and so are its books but for what is lost."""
        assert self.whole is not None
        self.check_stopped()
        files = self.files()
        if files != self.whole.files:
            names = sorted(files | self.whole.files)
            wrong = [n for n in names if files.get(n) != self.whole.files.get(n)]
            raise Failed(f"other files: {wrong}")
        queries = self.queries()
        if queries["reserved"] or queries["spent"] - queries["lost"] != self.whole.spent:
            raise Failed(f"the books are {queries}, those of a whole run {self.whole.spent}")
        if self.case.remote:
            books = self.store_books()
            if books["in_flight"] or books["answered"] != self.whole.asked:
                raise Failed(f"the books of the store are {books}, not {self.whole.asked} answered")
        left = [
            path.name
            for path in self.run.rglob("*")
            if path.name.endswith((".part", ".tape", ".checkpoint"))
        ]
        if left:
            raise Failed(f"left over: {left}")


MACHINE_START = db3kd.storage.frames.machine_start


def _boot(number: int) -> str:
    return f"{number:016x}"


def _content(path: Path) -> bytes:
    """The content of a file, of a student without what may differ in the order of its head."""
    content = path.read_bytes()
    if path.parent.name != "students":
        return content
    end = 8 + int.from_bytes(content[:8], "little")
    return json.dumps(json.loads(content[8:end]), sort_keys=True).encode() + content[end:]


# Whole runs


def whole(folder: Path, case: cases.Case, images: Path, url: str) -> Whole:
    """Run a case without interrupting it."""
    shutil.rmtree(folder, ignore_errors=True)
    life = Life(folder, case, images, url)
    life.prepare()
    opened: list[float] = []

    def look(seconds: float) -> bool:
        if not opened and life.opened():
            opened.append(seconds)
        return False

    code, said, seconds = life.live(life.start(), look, signal.SIGKILL)
    if code:
        raise RuntimeError(f"{case.name} ended with {code}: {said}")
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    queries = life.queries()
    found = Whole(
        life.files(),
        queries["spent"],
        len(life.log()),
        opened[0],
        seconds - opened[0],
        size,
        said,
    )
    shutil.rmtree(folder)
    return found


# Lives


def lived(life: Life, way: str, number: int, seed: int, most: int) -> Result:
    """Interrupt a run up to `most` times, continue it to its end, and check every law."""
    result = Result(way, life.case.name, number, seed)
    draw = random.Random(f"{seed} {way} {number}")
    began = time.monotonic()
    shutil.rmtree(life.folder, ignore_errors=True)
    life.power = way == "power"
    try:
        life.prepare()
        {"kill": _killed, "power": _killed, "interrupt": _stopped, "disk": _filled}[way](
            life, draw, result, most
        )
    except Failed as error:
        result.failures.append(str(error))
    if not result.failures:
        shutil.rmtree(life.folder)
    result.seconds = round(time.monotonic() - began, 1)
    return result


def moment(life: Life, draw: random.Random, *, start: bool = True) -> Callable[[float], bool]:
    """A random moment: when so much was asked, or after some seconds; some while it starts."""
    assert life.whole is not None
    way, asked = draw.random(), len(life.log())
    if start and way < 0.2:
        at = draw.uniform(0, life.whole.start)
        return lambda seconds: seconds >= at
    if way < 0.8 and asked < life.whole.asked:
        much, delay = draw.randint(asked + 1, life.whole.asked), draw.uniform(0, DELAY)

        def reached() -> bool:
            return len(life.log()) >= much

    else:
        before, delay = life.opened(), draw.uniform(0, LATEST * life.whole.work)

        def reached() -> bool:
            return life.opened() > before

    since: list[float] = []

    def now(seconds: float) -> bool:
        if not since and reached():
            since.append(seconds)
        return bool(since) and seconds >= since[0] + delay

    return now


def _where(life: Life, before: int) -> str:
    if life.opened() == before:
        return "start"
    try:
        return str(status(life.run)["stage"])
    except InputError:
        return "start"


def _killed(life: Life, draw: random.Random, result: Result, most: int) -> None:
    """SIGKILL, and for a power cut what it leaves; then again, and at last to the end."""
    assert life.whole is not None
    allowed = 0
    while True:
        last = len(result.interruptions) >= most
        before = life.opened()
        when = (lambda seconds: False) if last else moment(life, draw)
        code, said, seconds = life.live(life.start(more=allowed), when, signal.SIGKILL)
        if code != -signal.SIGKILL:
            _end(life, result, code, said, allowed)
            return
        where = _where(life, before)
        life.check_stopped()
        asked, entry = len(life.log()), {"where": where, "seconds": round(seconds, 2)}
        bound = life.case.on_the_way
        if life.power:
            if not life.case.remote:
                bound += 2 * life.in_progress() if (life.run / "journal.jsonl").exists() else 0
            did = cut_power(life.folder, life.folder / "power", draw)
            shutil.rmtree(life.folder / "power")
            life.boot += 1
            entry["disk"] = did
            entry["images_on_disk"] = _remember(life)
            life.check_stopped()
        gone = life.gone()
        entry |= {"asked": asked, "lost": gone - allowed}
        result.interruptions.append(entry)
        if asked > life.whole.spent + allowed:
            raise Failed(f"{asked} were asked of a budget of {life.whole.spent + allowed}")
        if gone - allowed > bound:
            raise Failed(f"{gone - allowed} are lost, more than {bound}")
        allowed = gone


def _remember(life: Life) -> int:
    """Begin the next log with all files as synced: after a start they come from the disk."""
    folder = life.folder / "power"
    folder.mkdir()
    count = 0
    with (folder / "log").open("w") as log:
        for path in sorted(life.run.rglob("*")):
            if path.is_file() and path.name != "lock":
                count += 1
                shutil.copy(path, folder / f"first-{count}")
                told = {"what": "sync", "path": str(path.relative_to(life.folder))}
                log.write(json.dumps({**told, "content": f"first-{count}"}) + "\n")
    return count


def _stopped(life: Life, draw: random.Random, result: Result, most: int) -> None:
    """Ctrl-C while the run is open; nothing is lost, and a whole run's budget is enough."""
    while True:
        last = len(result.interruptions) >= most
        before = life.opened()
        when = (lambda seconds: False) if last else moment(life, draw, start=False)
        code, said, seconds = life.live(life.start(), when, signal.SIGINT)
        over = code == -signal.SIGINT and life.files() == life.whole.files  # in Python's own end
        if code == 0 or last or (over and _where(life, before) == "done"):
            _end(life, result, 0 if over else code, said, 0)
            return
        entry = {"where": _where(life, before), "seconds": round(seconds, 2), "code": code}
        life.check_stopped()
        result.interruptions.append({**entry, "asked": len(life.log()), "lost": life.gone()})
        if code != 130 or "Traceback" in said:
            raise Failed(f"Ctrl-C ended it with {code}: {said[-1000:]}")
        if life.gone():
            raise Failed(f"Ctrl-C lost {life.gone()}")


def _filled(life: Life, draw: random.Random, result: Result, most: int) -> None:
    """A disk that is full at some byte; then there is room, and it ends as if nothing was.

    Half of the disks are file systems in memory that are full, where one can be mounted. With the
    others no file may grow beyond a size, so the byte is any byte.
    """
    real = draw.random() < 0.5 and _mount(life, "size=64m")
    try:
        for _ in range(most):
            size = _room(life, draw, real=real)
            if real:
                _mount(life, f"remount,size={size}")
            before = life.opened()
            process = life.start(size=None if real else size, more=life.gone())
            code, said, seconds = life.live(process, lambda seconds: False, 0)
            if code == 0:
                break
            life.check_stopped()
            news = _news(life, said)
            entry = {"where": _where(life, before), "disk": "full" if real else "limit"}
            entry |= {"bytes": size, "code": code, "said": " ".join(news)}
            entry |= {"seconds": round(seconds, 2), "asked": len(life.log()), "lost": life.gone()}
            lost = life.gone() - sum(one["lost"] for one in result.interruptions)
            result.interruptions.append({**entry, "lost": lost})
            if code != 1 or len(news) != 1 or "Traceback" in said:
                raise Failed(f"a full disk ended it with {code}: {said[-1500:]}")
            if lost > (life.case.on_the_way if life.case.remote else 0):
                raise Failed(f"a full disk lost {lost}")
        if real:
            _mount(life, "remount,size=64m")
        allowed = life.gone()
        code, said, _ = life.live(life.start(more=allowed), lambda seconds: False, 0)
        _end(life, result, code, said, allowed)
    finally:
        if real:
            subprocess.run(["umount", "-l", str(life.folder / life.place)], check=False)


def _room(life: Life, draw: random.Random, *, real: bool) -> int:
    """How many bytes there are: of the whole disk, or for one file."""
    assert life.whole is not None
    most = life.whole.size if draw.random() < 0.5 else life.whole.size // 8
    used = 0
    if real:
        seen = os.statvfs(life.folder / life.place)
        used = (seen.f_blocks - seen.f_bfree) * seen.f_frsize
        most = 2 * most - used  # tapes and drafts come and go
    return used + draw.randint(1, max(2, most))


def _news(life: Life, said: str) -> list[str]:
    """What was said that a whole run does not say, without warnings of what was lost before."""
    assert life.whole is not None
    known = life.whole.said.splitlines()
    return [
        line
        for line in said.splitlines()
        if line not in known and "stay on the books as lost" not in line
    ]


def _mount(life: Life, options: str) -> bool:
    """Mount a file system in memory for run and store; whether that worked."""
    if os.name != "posix" or os.geteuid():
        return False
    place = life.folder / "disk"
    if not life.place:
        place.mkdir()
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(place)],
        capture_output=True,
        check=False,
    )
    if done.returncode:
        return False
    if not life.place:
        life.place = "disk/"
        cases.write_case(life.case, life.folder, life.images, life.url, "disk/run")
    return True


def _end(life: Life, result: Result, code: int, said: str, allowed: int) -> None:
    """The last process came to its end; check it and what the run is now."""
    assert life.whole is not None
    if code or "Traceback" in said:
        raise Failed(f"it ended with {code} although {allowed} more were allowed: {said[-1500:]}")
    life.check_done()
    queries = life.queries()
    result.asked, result.spent, result.lost = len(life.log()), queries["spent"], queries["lost"]
    if result.asked > life.whole.spent + allowed:
        raise Failed(f"{result.asked} were asked of a budget of {life.whole.spent + allowed}")
    if life.case.teacher == "paid" and result.asked > life.whole.asked + allowed:
        raise Failed(f"{result.asked} were paid of {life.whole.asked + allowed}")


def counted(results: list[dict[str, Any]], key: str) -> dict[str, int]:
    """How many interruptions there were of each kind of `key`."""
    return dict(sorted(Counter(str(one[key]) for one in results).items()))


def as_json(result: Result) -> str:
    """A line of the results."""
    return json.dumps(asdict(result))
