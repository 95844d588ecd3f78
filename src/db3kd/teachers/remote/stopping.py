"""How calls come to an end before their time: all that is on its way comes home first."""

import logging
import threading
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress

import anyio
import anyio.from_thread

SAID_AFTER = 0.5  # seconds of waiting for calls after an interrupt

_log = logging.getLogger("db3kd")


class Question:
    """Calls that may be stopped at any moment: before they begin, or when all that came is kept.

    >>> question = Question()
    >>> question.stop()  # before it began
    """

    def __init__(self) -> None:
        self.over = threading.Event()
        self._lock = threading.Lock()
        self._stopped = False
        self._calls: Future[None] | None = None
        self._end: Callable[[], object] = int

    def begin(
        self,
        portal: anyio.from_thread.BlockingPortal,
        stop: "Stop",
        start: Callable[[], Future[None]],
    ) -> Future[None] | None:
        """Start the calls, unless they were stopped before."""
        with self._lock:
            if not self._stopped:
                self._calls = start()
                self._end = lambda: portal.start_task_soon(stop, _Interrupted())
            return self._calls

    def stop(self) -> None:
        """Let nothing more be sent, and wait until what is on its way has come home.

        Who interrupts that as well gives it up.
        """
        with self._lock:
            self._stopped = True
        if self._calls is None:
            return
        with suppress(RuntimeError):  # the portal is closed, so all is over
            self._end()
        try:
            if not self.over.wait(SAID_AFTER):
                _log.warning(
                    "waiting for the calls on their way; interrupt again to give them up (they may"
                    " be paid)"
                )
                self.over.wait()
        except BaseException:
            self._calls.cancel()
            self.over.wait()
            raise


class _Interrupted(Exception):
    """The user, or another part of the program, wants no more calls."""


class Stop:
    """The first error of some lanes, which ends the others as soon as nothing is on its way.

    >>> Stop().error is None
    True
    """

    def __init__(self) -> None:
        self.error: Exception | None = None
        self._raised = anyio.Event()

    async def __call__(self, error: Exception) -> None:
        """End the lanes with this error, unless another one came first."""
        self.error = self.error or error
        self._raised.set()

    async def sleep(self, seconds: float) -> None:
        """Sleep, but no longer than until an error."""
        with anyio.move_on_after(seconds):
            await self._raised.wait()
