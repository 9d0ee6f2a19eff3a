"""Progress of training on standard error: a bar on a terminal, elsewhere a line at each tenth or every 30 seconds."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

LONGEST_SILENCE = 30.0
"""Seconds."""


class Report(Protocol):
    """Called after every step with the number of the step (from 1) and its loss in nats per token."""

    def __call__(self, step: int, loss: float, /) -> None: ...


@contextmanager
def training_progress(
    description: str, steps: int, tokens_per_step: int, enabled: bool = True, done: int = 0
) -> Iterator[Report]:
    """Yield a `Report` that shows loss, tokens per second and the time left.

    Args:
        done: steps of an earlier, interrupted run.
    """
    if not enabled:
        yield lambda step, loss, /: None
    elif sys.stderr.isatty():
        with _bar(description, steps, tokens_per_step, done) as report:
            yield report
    else:
        yield _lines(description, steps, tokens_per_step, done)


def _lines(description: str, steps: int, tokens_per_step: int, done: int) -> Report:
    start = said = time.monotonic()

    def report(step: int, loss: float, /) -> None:
        nonlocal said
        now = time.monotonic()
        if step * 10 // steps != (step - 1) * 10 // steps or now - said > LONGEST_SILENCE:
            said = now
            speed = (step - done) * tokens_per_step / max(now - start, 1e-9)
            left = (steps - step) * tokens_per_step / speed
            print(
                f"{description}: step {step}/{steps}, loss {loss:.3f}, {speed:,.0f} tokens/s, {left:.0f} s left",
                file=sys.stderr,
                flush=True,
            )

    return report


@contextmanager
def _bar(description: str, steps: int, tokens_per_step: int, done: int) -> Iterator[Report]:
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.completed}/{task.total}"),
        TextColumn("{task.fields[state]}"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task(description, total=steps, completed=done, state="")
        start = time.monotonic()

        def report(step: int, loss: float, /) -> None:
            speed = (step - done) * tokens_per_step / max(time.monotonic() - start, 1e-9)
            bar.update(task, completed=step, state=f"loss {loss:.3f}, {speed:,.0f} tokens/s")

        yield report
