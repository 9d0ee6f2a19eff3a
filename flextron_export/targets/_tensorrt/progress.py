"""Progress of a compilation: TensorRT reports nested phases from its own threads, we report one fraction."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

from ...progress import Track

T = TypeVar("T")
STEPS = 100


class Fraction:
    """How much of the outermost phase is done: each phase counts as one step of the phase it belongs to."""

    def __init__(self) -> None:
        self._phases: dict[str, tuple[str | None, int, int]] = {}
        self._lock = threading.Lock()
        self.value = 0.0

    def start(self, name: str, parent: str | None, steps: int) -> None:
        with self._lock:
            self._phases[name] = (parent, max(steps, 1), 0)

    def step(self, name: str, step: int) -> None:
        with self._lock:
            if name not in self._phases:
                return
            parent, steps, _ = self._phases[name]
            self._phases[name] = (parent, steps, step + 1)
            done = 0.0
            at: str | None = name
            while at in self._phases:
                at, steps, finished = self._phases[at]
                done = min((finished + done) / steps, 1.0)
            # Phases that repeat within a step start again from zero; a bar that goes back helps nobody.
            self.value = max(self.value, done)

    def finish(self, name: str) -> None:
        with self._lock:
            self._phases.pop(name, None)


def monitored(library: Any, config: Any, track: Track, description: str, work: Callable[[], T]) -> T:
    """Run `work`, a compilation with `config`, in a thread, while `track` shows how far it is.

    An interrupt (Ctrl-C) cancels the compilation at its next step.
    """
    events: queue.SimpleQueue[None] = queue.SimpleQueue()
    fraction, cancelled = Fraction(), threading.Event()

    class Monitor(library.IProgressMonitor):
        def __init__(self) -> None:
            library.IProgressMonitor.__init__(self)

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            fraction.start(phase_name, parent_phase, num_steps)

        def step_complete(self, phase_name: str, step: int) -> bool:
            fraction.step(phase_name, step)
            events.put(None)
            return not cancelled.is_set()

        def phase_finish(self, phase_name: str) -> None:
            fraction.finish(phase_name)

    monitor = Monitor()  # must outlive the compilation
    config.progress_monitor = monitor
    with ThreadPoolExecutor(1) as pool:
        running: Future[T] = pool.submit(work)
        running.add_done_callback(lambda _: events.put(None))
        try:
            for step in track(range(STEPS), description):
                while fraction.value * STEPS < step + 1 and not running.done():
                    events.get()
        except BaseException:
            cancelled.set()
            raise
        return running.result()
