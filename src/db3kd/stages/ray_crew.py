"""Workers by Ray: an actor each, which is replaced as it ends. Ray itself repeats nothing."""

import os
import signal
import socket
import threading
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from math import ceil
from pathlib import Path
from typing import Any

import torch

from db3kd.config.cluster import Cluster
from db3kd.errors import Db3kdError, InputError, described, hint
from db3kd.stages.crew import Lost, News, Ready
from db3kd.stages.hand import Failed, Hand, Opener, Order

STORE_BYTES = 100 * 2**20  # of Ray's own memory on this machine; pixels do not travel


def check_ray() -> None:
    """Say so where Ray is not installed.

    Raises:
        InputError: it is not.
    """
    if find_spec("ray") is None:
        raise InputError(f'cluster.engine = "ray" needs the package ray; {hint("ray")}')


def beat_of(settings: Cluster) -> float:
    """Seconds between signs of a worker: 1, or more where many would keep one process busy.

    >>> beat_of(Cluster(engine="ray")), beat_of(Cluster(engine="ray", workers=1000))
    (1.0, 15.0)
    """
    return min(max(1.0, settings.workers / 50), settings.patience / 4)


class RayCrew:
    """The workers of a Ray cluster: actors that run `Hand`.

    `open_run` opens the run where a worker is; it must be a function of a module, or a partial one.

    Raises:
        InputError: Ray is not installed.
    """

    def __init__(self, settings: Cluster, open_run: Opener) -> None:
        check_ray()
        self._settings, self._open_run = settings, open_run
        self._actors: dict[str, Any] = {}
        self._turns: dict[Any, str] = {}  # futures, by the worker that is to answer
        self._greeting: tuple[Path, str] = (Path(), "")
        self._own = False

    def start(self, folder: Path, word: str) -> Sequence[str]:
        """Start the workers.

        Raises:
            InputError: there is no such cluster, or it has another version of Ray.
        """
        import ray

        self._greeting = (folder, word)
        if not ray.is_initialized():
            self._connect()
            self._own = True
        names = [f"{number}" for number in range(1, self._settings.workers + 1)]
        for name in names:
            self._hire(name)
        return names

    def _connect(self) -> None:
        import ray

        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        os.environ.setdefault("RAY_worker_niceness", "0")  # as the process that leads
        settings, more = self._settings, dict[str, Any]()
        if settings.address == "local":
            more = {
                "num_cpus": ceil(settings.workers * settings.cpus),
                "num_gpus": ceil(settings.workers * settings.gpus),
                "object_store_memory": STORE_BYTES,
                "include_dashboard": False,
            }
        try:
            _knock(settings.address)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                with _handlers_kept():
                    ray.init(
                        address=settings.address,
                        log_to_driver=False,
                        configure_logging=False,
                        **more,
                    )
        except Exception as error:  # a node that does not start in time is a bare one
            raise InputError(
                f"the Ray cluster at cluster.address = {settings.address!r} cannot be used:"
                f" {described(error)}"
            ) from None

    def _hire(self, name: str) -> None:
        import ray

        settings = self._settings
        actor = ray.remote(Hand).options(num_cpus=settings.cpus, num_gpus=settings.gpus)
        made: Any = actor.remote(
            self._open_run, Path.cwd(), torch.get_num_threads(), beat_of(settings)
        )
        self._actors[name] = made
        self._turns[made.greet.remote(*self._greeting)] = name

    def send(self, name: str, order: Order) -> None:
        """Have a worker take a turn; what it still was to answer is not listened to."""
        self._turns = {turn: other for turn, other in self._turns.items() if other != name}
        self._turns[self._actors[name].turn.remote(order)] = name

    def news(self, seconds: float) -> list[tuple[str, News]]:
        """What workers answered."""
        import ray

        if not self._turns:
            return []
        ray.wait(list(self._turns), timeout=seconds)
        ready, _ = ray.wait(list(self._turns), num_returns=len(self._turns), timeout=0)
        return [(self._turns.pop(turn), _answer(turn)) for turn in ready]

    def replace(self, name: str) -> None:
        """End a worker, and start another of its name."""
        import ray

        self._turns = {turn: other for turn, other in self._turns.items() if other != name}
        ray.kill(self._actors[name])
        self._hire(name)

    def close(self) -> None:
        """End the workers, and the cluster if it was started here."""
        import ray

        for actor in self._actors.values():
            ray.kill(actor)
        self._actors, self._turns = {}, {}
        if self._own:
            ray.shutdown()


@contextmanager
def _handlers_kept() -> Iterator[None]:
    """Have signals do afterwards what they did before; Ray would leave at once when asked to end.

    Only in the main thread, where Python handles signals.
    """
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        if threading.current_thread() is threading.main_thread() and before is not None:
            signal.signal(signal.SIGTERM, before)


def _knock(address: str) -> None:
    """See whether anybody is there; Ray would try for minutes."""
    host, _, port = address.rpartition(":")
    if host and port.isdigit() and "/" not in host:
        with socket.create_connection((host, int(port)), timeout=10):
            return


def _answer(turn: Any) -> News:
    """What a worker answered, or that it cannot."""
    import ray

    try:
        answer = ray.get(turn)
    except ray.exceptions.RayTaskError as error:
        cause = getattr(error, "cause", error)
        known = isinstance(cause, Db3kdError)
        return Failed(
            type(cause).__name__ if known else "", str(cause) if known else described(cause)
        )
    except ray.exceptions.RayError as error:
        return Lost(described(error, 200))
    return Ready(answer) if isinstance(answer, dict) else answer
