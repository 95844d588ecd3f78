"""Requests over HTTP: how many at once, how fast, and again where that helps; nothing of images.

A job says what it still wants to ask and takes the reply. What stays open after a reply, or after
a call that failed, is asked again with a growing pause, or as late as the server says. A teacher
that stays away ends the question with one sentence; jobs that were done are handed out first.
"""

import logging
import os
import re
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import ExitStack
from dataclasses import replace
from queue import SimpleQueue
from typing import Protocol, TypeAlias, TypeVar, runtime_checkable
from urllib.parse import urlsplit

import anyio
import anyio.from_thread
import httpx2
import pyrate_limiter
import tenacity

from db3kd.config.remote import Remote
from db3kd.config.secrets import (
    bytes_without_secrets,
    secrets_of,
    without_secrets,
)
from db3kd.errors import InputError, TeacherError
from db3kd.teachers.remote.connections import LOOPBACK, client, place_of, why
from db3kd.teachers.remote.limits import limiter
from db3kd.teachers.remote.packing import Unreadable, unpacked
from db3kd.teachers.remote.protocols import VARIABLE, Failed, Request
from db3kd.teachers.remote.protocols.reply import header
from db3kd.teachers.remote.stopping import Question, Stop

for _name in ("httpx2", "httpcore2"):  # they write down addresses and headers, secrets included
    logging.getLogger(_name).setLevel(logging.WARNING)

POLLING = 0.02  # seconds between two looks whether a limit lets a call through
LONGEST_PAUSE = 30.0  # seconds between two attempts, where the server does not say

_log = logging.getLogger("db3kd")


@runtime_checkable
class Job(Protocol):
    """A part of a question: `size` images still want an answer."""

    @property
    def size(self) -> int:
        """How many images are still open."""

    def claim(self) -> int:
        """Put the open images on the books, once a call may be made; how many are to be sent."""

    def request(self) -> Request:
        """The call that asks for these; it is sent next."""

    def fail(self) -> None:
        """Take note that images that are still open get no answer: their calls failed."""

    def take(self, status: int, headers: Mapping[str, str], body: bytes, /) -> Failed | None:
        """Use a reply; what is the matter with images that are open now, if any are."""


Work = TypeVar("Work", bound=Job)
Done: TypeAlias = "SimpleQueue[tuple[Work, anyio.Event] | None]"
"""Jobs that are done, each with what its lane waits for; None is the end."""


class Calls:
    """What was sent, in calls and in images: `failed` of them brought nothing, and were sent again.

    >>> vars(Calls())
    {'sent': 0, 'failed': 0, 'images_sent': 0, 'images_failed': 0}
    """

    def __init__(self) -> None:
        self.sent = self.failed = self.images_sent = self.images_failed = 0


class Transport:
    """A client that keeps its connections; `close` it.

    `limits`: a file in which the rates of `settings` are kept, so that a limit a day outlives the
    process; without it they are this process's own.

    Raises:
        InputError: an address that is not allowed, or a variable of the environment is missing.
        TeacherError: from `run`; see there.

    >>> Transport(Remote(url="http://example.org", protocol="mlflow"))
    Traceback (most recent call last):
    ...
    db3kd.errors.InputError: http://example.org is neither https nor on this machine; ...
    """

    def __init__(self, settings: Remote, *, limits: str | None = None) -> None:
        check_address(settings)
        self.settings, self.calls = settings, Calls()
        self._spare = 0  # calls that the limits let through and that nobody made
        self._limiter = limiter(settings, limits)
        self._bad, self._not_before = 0, 0.0  # calls that failed in a row; when the next may be
        self._open = ExitStack()
        self._keeper = ThreadPoolExecutor(1)
        # Its thread starts here: a pool that is interrupted as it starts one would start another.
        self._keeper.submit(int).result()
        self._portal: anyio.from_thread.BlockingPortal | None = None
        self._client: httpx2.AsyncClient

    def close(self) -> None:
        """Close all connections."""
        self._keeper.shutdown()
        self._portal = None
        self._open.close()

    def run(self, jobs: Iterable[Work], done: Callable[[list[Work]], None]) -> None:
        """Send every job until it is done; `done` is called in one thread, with some at a time.

        A job that was given up is among them too; a part of it may have been answered.

        Raises:
            InputError: a variable of the environment is missing.
            BudgetExhausted: from `Job.claim`; the call was not made.
            TeacherError: a call failed too often, or in a way that asking again will not help; or
                the server asks for a longer pause than `settings.patience`.
        """
        portal, question = self._ready, Question()

        def ask() -> None:  # in the keeper's thread, where no interrupt can reach it
            queue: Done[Work] = SimpleQueue()
            stop = Stop()
            calls = question.begin(
                portal,
                stop,
                lambda: portal.start_task_soon(self._all, iter(jobs), queue, stop),
            )
            if calls is not None:
                try:
                    _keep(queue, done, portal, failed=calls.cancel)
                finally:
                    wait([calls])  # nothing is on its way any more, and all that came is kept
                    question.over.set()
                calls.result()

        try:
            self._keeper.submit(ask).result()
        except BaseException:
            question.stop()
            raise

    def fetch(self, request: Request) -> tuple[int, bytes]:
        """One call, once: status and body; for metadata.

        Raises:
            TeacherError: it failed.
        """
        try:
            status, _, body = self._ready.call(self._sent, request)
        except _Again as error:
            raise TeacherError(f"{self.settings.url} failed: {error.failed.reason}") from None
        return status, body

    @property
    def _ready(self) -> anyio.from_thread.BlockingPortal:
        """The portal, with a client; made in the keeper's thread, where no interrupt comes."""
        return self._keeper.submit(self._made).result()

    def _made(self) -> anyio.from_thread.BlockingPortal:
        if self._portal is None:
            portal = self._open.enter_context(anyio.from_thread.start_blocking_portal())
            self._client = self._open.enter_context(
                portal.wrap_async_context_manager(client(self.settings))
            )
            self._portal = portal
        return self._portal

    # In the portal's thread

    async def _all(
        self,
        jobs: Iterator[Work],
        queue: "Done[Work]",
        stop: Stop,
    ) -> None:
        """Work in lanes; after an error nothing more is sent, and what is on its way comes home."""
        try:
            async with anyio.create_task_group() as group:
                for _ in range(self.settings.concurrency):
                    group.start_soon(self._worker, jobs, queue, stop)
        finally:
            queue.put(None)
        if stop.error is not None:
            raise stop.error

    async def _worker(self, jobs: Iterator[Work], queue: "Done[Work]", stop: Stop) -> None:
        """One lane: the next job is sent when the last one is kept, so a kill loses no more."""
        for job in jobs:
            try:
                await self._finish(job, stop)
                job.fail()
            except Exception as error:
                job.fail()
                await stop(error)
            finally:
                kept = anyio.Event()
                queue.put((job, kept))
            if stop.error is not None:
                return
            await kept.wait()

    async def _finish(self, job: Job, stop: Stop) -> None:
        """Ask until nothing of the job is open, or another one has failed for good."""
        try:
            await self._once(job, stop)
            return
        except _Again as error:  # seldom: what counts attempts takes a tenth of a quick call
            first = error
        attempts = tenacity.AsyncRetrying(
            stop=tenacity.stop_after_attempt(self.settings.attempts),
            wait=tenacity.wait_random_exponential(multiplier=0.2, max=LONGEST_PAUSE),
            retry=tenacity.retry_if_exception_type(_Again),
            sleep=stop.sleep,
            reraise=True,
        )
        try:
            async for attempt in attempts:
                with attempt:
                    if attempt.retry_state.attempt_number == 1:
                        raise first
                    if stop.error is None:
                        await self._once(job, stop)
        except _Again as error:
            raise TeacherError(
                f"{self.settings.url} failed {self.settings.attempts} times in a row, last:"
                f" {error.failed.reason}; what was answered is kept, run again to go on"
            ) from None

    async def _once(self, job: Job, stop: Stop) -> None:
        if self._spare:
            self._spare -= 1
        else:
            await self._allowed(stop)
        if stop.error is not None:
            return
        size = job.claim()
        if not size:
            self._spare += 1
            return
        request = job.request()
        self.calls.sent += 1
        self.calls.images_sent += size
        try:
            status, headers, body = await self._sent(request)
            failed = job.take(status, headers, body)
        except _Again as error:
            failed = error.failed
        if failed is None:
            self._bad = 0
            return
        failed = replace(failed, reason=self._redacted(failed.reason))
        self.calls.failed += 1
        self.calls.images_failed += job.size
        self._note(failed)
        if not failed.retry:
            raise TeacherError(f"{self.settings.url} refused: {failed.reason}")
        raise _Again(failed)

    def _note(self, failed: Failed) -> None:
        """Make all calls wait if the server says so, or if nothing gets through any more."""
        self._bad += 1
        after = failed.after or 0.0
        if after > self.settings.patience:
            raise TeacherError(
                f"{self.settings.url} asks to wait {_time(after)} ({failed.reason}); what was"
                " answered is kept, run again then"
            )
        crowd = self._bad // (2 * self.settings.concurrency)
        if not after and crowd:
            after = min(LONGEST_PAUSE, 0.25 * 2**crowd)
        self._not_before = max(self._not_before, time.monotonic() + after)

    def _redacted(self, text: str) -> str:
        """Without what the settings take from the environment, which a server may echo."""
        return without_secrets(text, self._secrets())

    def _without_secrets(self, body: bytes) -> bytes:
        return bytes_without_secrets(body, self._secrets())

    def _secrets(self) -> tuple[str, ...]:
        settings = self.settings
        values = (*settings.headers.values(), *settings.fields.values())
        return secrets_of((settings.url, settings.body or "", *values))

    async def _allowed(self, stop: Stop) -> None:
        """Wait until the server and the limits let one more call through."""
        while stop.error is None and (pause := self._not_before - time.monotonic()) > 0:
            await stop.sleep(pause)
        while self._limiter is not None and stop.error is None:
            if await self._limiter.try_acquire_async("calls", blocking=False):
                return
            rate = self._limiter.buckets()[0].failing_rate
            if rate is not None and rate.interval >= int(pyrate_limiter.Duration.DAY):
                raise TeacherError(
                    f"the {rate.limit:,} calls a day (per_day) to {self.settings.url} are used up;"
                    " what was answered is kept, run again tomorrow"
                )
            await stop.sleep(POLLING)

    async def _sent(self, request: Request) -> tuple[int, Mapping[str, str], bytes]:
        """Send one request and read its reply, whole and in time, and not larger than allowed."""
        settings = self.settings
        url, headers = filled(request.url), {k: filled(v) for k, v in request.headers.items()}
        fields = {k: filled(v) for k, v in request.fields.items()}
        try:
            with anyio.fail_after(settings.timeout):
                async with self._client.stream(
                    request.method,
                    url,
                    headers=headers,
                    content=None if request.files else request.body,
                    data=fields or None,
                    files=list(request.files) or None,
                ) as reply:
                    if reply.is_redirect:
                        there = self._redacted(place_of(header(reply.headers, "Location")))
                        raise TeacherError(
                            f"{settings.url} sends calls on to another address{there}; give that as"
                            " url"
                        )
                    body = bytearray()
                    async for part in reply.aiter_raw():
                        body += part
                        if len(body) > settings.largest_reply:
                            raise self._too_large()
                    whole = unpacked(reply.headers, bytes(body), most=settings.largest_reply)
                    if whole is None:
                        raise self._too_large()
                    return reply.status_code, reply.headers, self._without_secrets(whole)
        except Unreadable as error:
            raise _Again(Failed(str(error), retry=True)) from None
        except (TimeoutError, httpx2.TimeoutException):
            raise _Again(Failed(f"no reply in {settings.timeout:g} s", retry=True)) from None
        except (httpx2.InvalidURL, httpx2.UnsupportedProtocol, httpx2.LocalProtocolError):
            raise InputError(f"{settings.url} is not an address that can be called") from None
        except (httpx2.HTTPError, OSError, ExceptionGroup) as error:
            reason = f"the connection failed ({why(error)})"
            raise _Again(Failed(reason, retry=True)) from None

    def _too_large(self) -> TeacherError:
        settings = self.settings
        return TeacherError(
            f"{settings.url} answered more than {settings.largest_reply:,} bytes (largest_reply)"
        )


def _keep(
    queue: "Done[Work]",
    done: Callable[[list[Work]], None],
    portal: anyio.from_thread.BlockingPortal,
    *,
    failed: Callable[[], object],
) -> None:
    """Hand out jobs as they are done, those that are done together at once; all of them.

    Then their lanes go on. `failed` is told when jobs cannot be kept: nothing more is bought then.
    """
    error: BaseException | None = None
    while ready := _ready(queue):
        try:
            done([job for job, _ in ready])
        except BaseException as first:
            error = error or first
            failed()
        portal.start_task_soon(_go_on, [kept for _, kept in ready])
    if error is not None:
        raise error


async def _go_on(lanes: list[anyio.Event]) -> None:
    for kept in lanes:
        kept.set()


def _ready(queue: "Done[Work]") -> list[tuple[Work, anyio.Event]]:
    """The jobs that are done by now, one at least; none after the last."""
    found: list[tuple[Work, anyio.Event]] = []
    while not found or not queue.empty():
        job = queue.get()
        if job is None:
            if found:
                queue.put(None)  # to be met again
            break
        found.append(job)
    return found


class _Again(Exception):
    """A call that failed and may be repeated."""

    def __init__(self, failed: Failed) -> None:
        self.failed = failed


def check_address(settings: Remote) -> None:
    """Refuse an address that would show images or secrets to others than the teacher.

    >>> check_address(Remote(url="https://user:pass@example.org", protocol="mlflow"))
    Traceback (most recent call last):
    ...
    db3kd.errors.InputError: an address must hold no password; ...
    """
    try:
        parts = urlsplit(settings.url)
        port_is_right = parts.port != 0
    except ValueError:
        raise InputError(f"{settings.url} is not an address; give https://HOST/...") from None
    if parts.username is not None or parts.password is not None:
        raise InputError(
            "an address must hold no password; put it into headers, as ${NAME} of the environment"
        )
    if parts.scheme not in ("http", "https") or not parts.hostname or not port_is_right:
        raise InputError(f"{settings.url} is not an address; give https://HOST/...")
    if parts.scheme == "http" and not settings.plain_http and parts.hostname not in LOOPBACK:
        raise InputError(
            f"{settings.url} is neither https nor on this machine; set plain_http = true if images"
            " and keys may be read on the way"
        )


def filled(text: str) -> str:
    """A text with each ${NAME} replaced from the environment, at the moment of sending.

    Raises:
        InputError: a variable is not set.

    >>> filled("Key ${NO_SUCH_VARIABLE}")
    Traceback (most recent call last):
    ...
    db3kd.errors.InputError: the environment has no NO_SUCH_VARIABLE, ...
    """

    def value(found: re.Match[str]) -> str:
        if found[1] not in os.environ:
            text = f"the environment has no {found[1]}, which the teacher's settings name"
            raise InputError(text)
        secret = os.environ[found[1]].strip()
        if not (secret.isascii() and secret.isprintable()):
            raise InputError(
                f"{found[1]} of the environment holds characters that are not sent (printable ASCII"
                " is)"
            )
        return secret

    return VARIABLE.sub(value, text)


def _time(seconds: float) -> str:
    """A time in words, coarse.

    >>> _time(90.0), _time(7200.0)
    ('90 s', '2.0 h')
    """
    return f"{seconds:.0f} s" if seconds < 3600 else f"{seconds / 3600:.1f} h"
