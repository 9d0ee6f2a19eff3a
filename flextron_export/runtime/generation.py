"""A generation that is running: pieces of text or tokens as they are decided; it can be cancelled from any thread."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from typing import Generic, TypeVar

from .answer import Answer, Choice
from .logprobs import Logprob
from .selection import Selection
from .sequence import LiveSequence
from .timings import Timings

T = TypeVar("T")
Advance = Callable[[LiveSequence, Answer, int], list[Choice]]
"""From the sequence, its answer and the answer's last token: what comes next, at least one. All but the last of these
are then in the sequence; their logits are valid until the next call. They share the time that the call took."""


class Cancelled(Exception):
    """Ends a prefill between two chunks; never leaves this package."""


class Generation(Generic[T]):
    """Iterate over it: pieces of text (`Runner.generate`) or token ids (`Runner.generate_ids`).

    Attributes:
        selection: the budget that generates, and why.
        timings: complete when the iteration ends.
    """

    def __init__(
        self, pieces: Iterator[T], answer: Answer, timings: Timings, selection: Selection, cancelled: threading.Event
    ) -> None:
        self._pieces, self._answer, self._cancelled = pieces, answer, cancelled
        self.selection, self.timings = selection, timings

    def __iter__(self) -> Iterator[T]:
        return self

    def __next__(self) -> T:
        return next(self._pieces)

    def cancel(self) -> None:
        """End it before its next step, or between two chunks of its prompt; from any thread."""
        self._cancelled.set()

    def close(self) -> None:
        """End it now and give its cache back; from the thread that iterates."""
        self._pieces.close()  # type: ignore[attr-defined]  # a generator

    def read(self) -> str:
        """Run to the end and return the text."""
        for _ in self:
            pass
        return self.text

    @property
    def text(self) -> str:
        """The text so far."""
        return self._answer.text

    @property
    def tokens(self) -> Sequence[int]:
        """Token ids so far, without an end-of-text token."""
        return self._answer.tokens

    @property
    def logprobs(self) -> Sequence[Logprob]:
        """One per token so far, if they were asked for."""
        return self._answer.logprobs

    @property
    def stopped_by(self) -> str:
        """Why it ended, see `Answer`; empty while it runs."""
        return self._answer.stopped_by


def one_by_one(sequence: LiveSequence, answer: Answer, token: int) -> list[Choice]:
    """One step of the sequence's budget, one token."""
    logits = sequence.decode(token)
    return [(answer.sampler.pick(logits), logits)]


def steps(
    open_sequence: Callable[[], LiveSequence],
    close_sequence: Callable[[LiveSequence], None],
    ids: Sequence[int],
    answer: Answer,
    timings: Timings,
    check: Callable[[], None],
    advance: Advance = one_by_one,
) -> Iterator[tuple[int, str]]:
    """Generate: yield every token with the text that it makes ready.

    Args:
        open_sequence: gives a sequence; what it holds already is a beginning of `ids`, and not all of them.
        close_sequence: takes it back unless a step failed.
        ids: the prompt.
        answer: is written.
        timings: are filled in; the caller's own time between tokens is not counted.
        check: is called before every step; raises `Cancelled` to end the generation.
        advance: appends the last token to the sequence and chooses what comes next: see `one_by_one` and `Drafter`.
    """
    start = time.perf_counter()
    sequence, whole = None, True
    try:
        sequence = open_sequence()
        timings.reused_tokens = sequence.length
        logits = sequence.prefill(ids[sequence.length :], check)
        coming: list[Choice] = [(answer.sampler.pick(logits), logits)]
        while True:
            elapsed = (time.perf_counter() - start) * 1e3 / len(coming)
            for left, (token, logits) in zip(reversed(range(len(coming))), coming, strict=True):
                if answer.count:
                    timings.token_ms.append(elapsed)
                else:
                    timings.first_token_ms = elapsed
                answer.accept(token, logits)
                kept = len(answer.tokens)
                piece = answer.write(token, sequence.length - left >= sequence.maximum)
                timings.tokens, timings.stopped_by = answer.count, answer.stopped_by
                if len(answer.tokens) > kept or piece:
                    yield token, piece
                if answer.stopped_by:
                    return
            start = time.perf_counter()
            check()
            coming = advance(sequence, answer, token)
    except Cancelled:
        answer.cancel()
    except Exception:
        whole = False
        raise
    finally:
        answer.cancel()  # has an effect only if the caller stopped iterating
        timings.stopped_by = answer.stopped_by
        if whole and sequence is not None and sequence.length:
            close_sequence(sequence)


def texts_of(written: Iterator[tuple[int, str]]) -> Iterator[str]:
    """The pieces of text of `steps`."""
    with closing(written):  # type: ignore[type-var]  # a generator
        for _, piece in written:
            if piece:
                yield piece


def tokens_of(written: Iterator[tuple[int, str]]) -> Iterator[int]:
    """The token ids of `steps`."""
    with closing(written):  # type: ignore[type-var]
        for token, _ in written:
            yield token
