"""Start and stop real servers that hold one classifier of 8x8 digits, on loopback only.

`mlserver`, `mlflow` and `litserve` take a folder, train the model there if it is not there yet, and
yield a running `Server`; when the block ends its whole process group is gone.
"""

import http.client
import json
import os
import re
import signal
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

HERE = Path(__file__).parent
ENVIRONMENT = HERE.parent.parent / ".venv-servers"
MISSING = (
    None
    if (ENVIRONMENT / "bin" / "mlserver").exists()
    else "there is no .venv-servers with real servers: make servers"
)
READY = 90.0  # seconds; alone they need 3 to 8
PATIENCE = 5.0  # seconds between a polite end and a hard one


@dataclass(frozen=True)
class Known:
    """What scikit-learn itself answers in that environment, for the images that it never learned.

    `images` is float32 of shape (897, 1, 8, 8) from 0 to 1, on the 256 levels of 8 bits; `labels`
    are numbers, `words` the names of the same classes as the model that answers names gives them.
    """

    images: np.ndarray
    labels: np.ndarray
    words: np.ndarray
    truth: np.ndarray


@dataclass
class Server:
    """A real server in a process group of its own, which keeps its address over restarts."""

    command: Sequence[str]
    url: str
    ready: str  # the path that answers 200 once requests may come
    asked: str  # what a line of its log looks like for every request of answers
    known: Known
    log: Path
    seen: Path
    environment: Mapping[str, str] = field(default_factory=dict)
    process: subprocess.Popen[bytes] | None = None

    @property
    def port(self) -> int:
        return int(self.url.rpartition(":")[2])

    def start(self) -> float:
        """Start it and wait until it is ready; seconds that took."""
        begun = time.monotonic()
        variables = {**os.environ, **self.environment, "DIGITS_SEEN": str(self.seen)}
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                self.command,
                cwd=self.log.parent,
                env=variables,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        try:
            self._wait(begun + READY)
        except BaseException:
            self.stop(hard=True)
            raise
        return time.monotonic() - begun

    def _wait(self, until: float) -> None:
        assert self.process is not None
        while not answers(self.port, self.ready):
            if self.process.poll() is not None or time.monotonic() > until:
                tail = self.log.read_text(errors="replace")[-2000:]
                raise RuntimeError(f"the server did not start: {self.command[0]}\n{tail}")
            time.sleep(0.05)

    def stop(self, *, hard: bool = False) -> None:
        """End the whole process group: politely at first unless `hard`, surely in any case."""
        if self.process is None:
            return
        group = self.process.pid
        if not hard:
            _signal_group(group, signal.SIGTERM)
            with suppress(subprocess.TimeoutExpired):
                self.process.wait(PATIENCE)
        _signal_group(group, signal.SIGKILL)
        self.process.wait()
        self.process = None
        until = time.monotonic() + PATIENCE
        while alive(group) and time.monotonic() < until:
            time.sleep(0.02)

    def restart(self, *, hard: bool = True) -> None:
        """Stop it, by default as a crash would, and start it at the same address."""
        self.stop(hard=hard)
        self.start()

    def requests(self) -> int:
        """How many requests for answers its own log shows, over all its restarts."""
        return len(re.findall(self.asked, self.log.read_text(errors="replace")))

    def images(self) -> int:
        """How many images the classifier was really asked, over all restarts."""
        return sum(len(digests) for digests in self.questions())

    def questions(self) -> list[list[str]]:
        """The digests of the images (their 8-bit pixels) of every call of the classifier."""
        if not self.seen.exists():
            return []
        lines = self.seen.read_text().splitlines()
        return [json.loads(line)["digests"] for line in lines]


def _signal_group(group: int, number: signal.Signals) -> None:
    with suppress(ProcessLookupError):
        os.killpg(group, number)


def alive(group: int) -> list[int]:
    """The processes of a group that still run; those that nobody has buried yet are dead."""
    shown = subprocess.run(
        ["ps", "-eo", "pid=,pgid=,stat="], check=True, capture_output=True, text=True
    )
    rows = [line.split() for line in shown.stdout.splitlines()]
    return [int(pid) for pid, own, state in rows if own == str(group) and state[0] != "Z"]


def answers(port: int, path: str) -> bool:
    """Whether 127.0.0.1:port answers 200 for this path."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=2)
    try:
        connection.request("GET", path)
        return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def free_port() -> int:
    """A port of 127.0.0.1 that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def model(folder: Path, *, for_mlflow: bool = False) -> Known:
    """Train the model into the folder, unless that was done before."""
    if not (folder / ("mlflow" if for_mlflow else "known.npz")).exists():
        command = [str(ENVIRONMENT / "bin" / "python"), str(HERE / "make_model.py"), str(folder)]
        done = subprocess.run(
            command + ["--mlflow"] * for_mlflow,
            env={**os.environ, **variables()},
            check=False,
            capture_output=True,
            text=True,
        )
        if done.returncode:
            raise RuntimeError(f"the model could not be made:\n{done.stderr[-2000:]}")
    with np.load(folder / "known.npz") as saved:
        return Known(saved["images"], saved["labels"], saved["words"], saved["truth"])


def variables() -> dict[str, str]:
    """What the servers' processes find in their environment: our classifier, one thread."""
    path = os.pathsep.join([str(ENVIRONMENT / "bin"), os.environ.get("PATH", os.defpath)])
    return {
        "PYTHONPATH": str(HERE),
        "PATH": path,
        "OMP_NUM_THREADS": "1",
        "PYTHONDONTWRITEBYTECODE": "1",
        "VIRTUAL_ENV": str(ENVIRONMENT),
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "DO_NOT_TRACK": "true",
    }


@contextmanager
def running(server: Server) -> Iterator[Server]:
    """The server, started; stopped in any case when the block ends."""
    server.start()
    try:
        yield server
    finally:
        server.stop(hard=True)


@contextmanager
def mlserver(folder: Path) -> Iterator[Server]:
    """MLServer with the models `digits` (numbers), `words` and `files`, each of version 1."""
    known = model(folder)
    port, other = free_port(), free_port()
    settings = {
        "MLSERVER_HOST": "127.0.0.1",
        "MLSERVER_HTTP_PORT": str(port),
        "MLSERVER_GRPC_PORT": str(other),
        "MLSERVER_METRICS_ENDPOINT": "",  # no third server for these
        "MLSERVER_PARALLEL_WORKERS": "0",
        "MLSERVER_DEBUG": "true",  # which also means: every request is logged
    }
    server = Server(
        [str(ENVIRONMENT / "bin" / "mlserver"), "start", str(folder / "mlserver")],
        f"http://127.0.0.1:{port}",
        "/v2/health/ready",
        r'"POST /v2/models/\S+/infer ',
        known,
        folder / f"mlserver-{port}.log",
        folder / f"mlserver-{port}.seen",
        {**variables(), **settings},
    )
    with running(server):
        yield server


@contextmanager
def mlflow(folder: Path, *, answer: str = "digits") -> Iterator[Server]:
    """`mlflow models serve`; it answers numbers, or names where `answer` is "words"."""
    known = model(folder, for_mlflow=True)
    port = free_port()
    words = f"models serve --env-manager local --host 127.0.0.1 --port {port} --workers 1 -m"
    server = Server(
        [str(ENVIRONMENT / "bin" / "mlflow"), *words.split(), str(folder / "mlflow" / answer)],
        f"http://127.0.0.1:{port}",
        "/health",
        r'"POST /invocations ',
        known,
        folder / f"mlflow-{port}.log",
        folder / f"mlflow-{port}.seen",
        {**variables(), "MLFLOW_TRACKING_URI": (folder / "tracking").as_uri()},
    )
    with running(server):
        yield server


@contextmanager
def litserve(folder: Path) -> Iterator[Server]:
    """LitServe: POST one image file to /predict; it answers the best three words with scores."""
    known = model(folder)
    port = free_port()
    server = Server(
        [
            str(ENVIRONMENT / "bin" / "python"),
            str(HERE / "lit.py"),
            str(folder / "words.joblib"),
            str(port),
        ],
        f"http://127.0.0.1:{port}",
        "/health",
        r'"POST /predict ',
        known,
        folder / f"litserve-{port}.log",
        folder / f"litserve-{port}.seen",
        variables(),
    )
    with running(server):
        yield server
