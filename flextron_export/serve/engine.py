"""Generations in threads for requests that are coroutines: places, a queue before them, cancellation."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from ..errors import FlextronError
from ..runtime.generation import Generation
from ..runtime.logprobs import Logprob
from .metrics import Metrics
from .refusals import Refusal, refusal_of
from .settings import ServeSettings

_LOOK_SECONDS = 0.25
"""How often it is looked whether the client is still there."""

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Piece:
    """A part of an answer: the text, and what is known about the tokens since the last one; `ended` comes last."""

    index: int
    text: str
    logprobs: Sequence[Logprob] = ()
    ended: bool = False


class Job:
    """The generations of one request, one after another in a thread."""

    def __init__(self, generations: Sequence[Generation[str]], metrics: Metrics) -> None:
        self.generations = generations
        self._metrics, self._loop = metrics, asyncio.get_running_loop()
        self._queue: asyncio.Queue[Piece | Exception | None] = asyncio.Queue()
        self._cancelled = False

    def cancel(self) -> None:
        """End it before its next step."""
        self._cancelled = True
        for generation in self.generations:
            generation.cancel()

    async def pieces(self, gone: Callable[[], Awaitable[bool]]) -> AsyncIterator[Piece]:
        """Pieces of all answers; ends early, and the work with it, if the client has gone.

        Raises:
            Refusal: a generation failed.
        """
        look = self._loop.time() + _LOOK_SECONDS
        try:
            while True:
                if self._loop.time() >= look:
                    if await gone():
                        return
                    look = self._loop.time() + _LOOK_SECONDS
                try:
                    item = await asyncio.wait_for(self._queue.get(), _LOOK_SECONDS)
                except asyncio.TimeoutError:
                    continue
                if item is None:
                    return
                if isinstance(item, Exception):
                    raise item
                yield item
        finally:
            self.cancel()

    def run(self) -> None:
        """Generate everything; in a thread."""
        try:
            for index, generation in enumerate(self.generations):
                self._generate(index, generation)
                if self._cancelled:
                    # Nobody reads this if it was the client who went away.
                    raise Refusal(503, "The server stopped before the answer was complete.", "stopping")
            self._put(None)
        except Refusal as refusal:
            self._put(refusal)
        except FlextronError as error:
            log.error("A generation failed: %s", error)
            self._put(refusal_of(error))
        except Exception:
            log.exception("A generation failed")
            self._put(Refusal(500, "The server failed; its log says why.", "internal_error"))

    def _generate(self, index: int, generation: Generation[str]) -> None:
        told = 0
        try:
            for text in generation:
                logprobs = list(generation.logprobs)[told:]
                told += len(logprobs)
                self._put(Piece(index, text, logprobs))
        finally:
            self._metrics.count(generation)
        if generation.stopped_by != "cancelled":
            self._put(Piece(index, "", list(generation.logprobs)[told:], True))

    def _put(self, item: Piece | Exception | None) -> None:
        with suppress(RuntimeError):  # the loop is closed: the server has ended, nobody reads
            self._loop.call_soon_threadsafe(self._queue.put_nowait, item)


class Engine:
    """Places for so many jobs at once, and a queue for so many more."""

    def __init__(self, settings: ServeSettings, metrics: Metrics) -> None:
        self.settings, self.metrics = settings, metrics
        self.stopping = False
        self._places = asyncio.Semaphore(settings.parallel)
        self._waiting = 0
        self._jobs: set[Job] = set()
        self._threads = ThreadPoolExecutor(settings.parallel, "generate")

    async def enter(self, gone: Callable[[], Awaitable[bool]]) -> None:
        """Wait for a place; `leave`, or the end of a job that `start` runs, gives it back.

        Raises:
            Refusal: too many wait already, it took too long, the client has gone, or the server stops.
        """
        if self.stopping:
            raise Refusal(503, "The server is stopping.", "stopping", {"retry-after": "10"})
        if self._places.locked() and self._waiting >= self.settings.waiting:
            raise Refusal(
                429,
                f"{self.settings.parallel} requests run and {self._waiting} wait, as many as are allowed; try again.",
                "too_many_requests",
                {"retry-after": "1"},
            )
        self._waiting += 1
        self.metrics.waiting.set(self._waiting)
        place = asyncio.ensure_future(self._places.acquire())
        try:
            await self._wait(place, gone)
        except BaseException:
            if not place.cancel() and not place.cancelled():
                self.leave()  # it came in the same moment
            raise
        finally:
            self._waiting -= 1
            self.metrics.waiting.set(self._waiting)

    async def _wait(self, place: asyncio.Future[Any], gone: Callable[[], Awaitable[bool]]) -> None:
        end = asyncio.get_running_loop().time() + self.settings.wait_seconds
        while True:
            left = end - asyncio.get_running_loop().time()
            await asyncio.wait({place}, timeout=max(min(left, _LOOK_SECONDS), 0))
            if self.stopping:
                raise Refusal(503, "The server is stopping.", "stopping")
            if await gone():
                raise Refusal(499, "The client has gone.", "client_gone")
            if place.done():
                return
            if left <= 0:
                late = f"No place was free within {self.settings.wait_seconds:g} seconds; try again later."
                raise Refusal(503, late, "overloaded", {"retry-after": "5"})

    def leave(self) -> None:
        """Give a place back."""
        self._places.release()

    def start(self, job: Job) -> None:
        """Run a job on a place; it is given back when the job's thread is done, whatever becomes of the request."""
        self._jobs.add(job)
        self.metrics.running.set(len(self._jobs))
        loop = asyncio.get_running_loop()

        def done(_future: object) -> None:
            with suppress(RuntimeError):
                loop.call_soon_threadsafe(self._end, job)

        self._threads.submit(job.run).add_done_callback(done)

    def _end(self, job: Job) -> None:
        self._jobs.discard(job)
        self.metrics.running.set(len(self._jobs))
        self.leave()

    def cancel(self) -> None:
        """Admit nobody any more, and end every generation before its next step."""
        self.stopping = True
        for job in self._jobs:
            job.cancel()

    def wait(self) -> None:
        """Until all threads are done."""
        self._threads.shutdown(wait=True)
