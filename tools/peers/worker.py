"""A process with one peer: commands come as lines of JSON on standard input, answers go as such to standard output.

    python worker.py PEER CAPACITY DTYPE

PEER `reader` reads CAPACITY bytes of memory on the command `read`. Others know `load` (path, budget), `use` (budget;
this project only), `prefill` (ids), `decode` (count), `memory` and `started`.
Times are [wall, processor] milliseconds.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from tools.peers.engines import ENGINES, Engine


class Clock:
    def __init__(self) -> None:
        self.wall, self.processor = time.perf_counter(), time.process_time()

    def read(self) -> list[float]:
        return [(time.perf_counter() - self.wall) * 1e3, (time.process_time() - self.processor) * 1e3]


def peak_memory() -> float:
    """MB of resident memory at the most (Linux)."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024 / 1e6
    return 0.0


class Worker:
    """What the commands act on. Every loaded model stays, as they share the process when memory is measured."""

    def __init__(self, peer: str, capacity: int, dtype: str) -> None:
        self.peer, self.capacity, self.dtype = peer, capacity, dtype
        self.engines: list[Engine] = []
        self.token = 0

    def load(self, path: str, budget: str) -> list[float]:
        clock = Clock()
        self.engines.append(ENGINES[self.peer](Path(path), budget, self.dtype, self.capacity))
        return clock.read()

    def use(self, budget: str) -> list[float]:
        clock = Clock()
        self.engines[-1].use(budget)  # type: ignore[attr-defined]  # this project's
        return clock.read()

    def prefill(self, ids: list[int]) -> list[float]:
        clock = Clock()
        self.token = self.engines[-1].prefill(ids)
        return clock.read()

    def decode(self, count: int) -> dict[str, Any]:
        times, tokens = [], []
        for _ in range(count):
            clock = Clock()
            self.token = self.engines[-1].decode(self.token)
            times.append(clock.read())
            tokens.append(self.token)
        return {"times": times, "tokens": tokens}

    def memory(self) -> float:
        return peak_memory()

    def started(self) -> float:
        """Processor milliseconds since the process began."""
        return time.process_time() * 1e3


class Reader:
    """How fast memory is read: a dot product of two halves of so many bytes."""

    def __init__(self, count: int) -> None:
        self.left, self.right = np.ones((2, count // 8), np.float32)

    def read(self) -> list[float]:
        clock = Clock()
        self.left @ self.right
        return clock.read()


def main() -> None:
    # Libraries print what they like: their standard output is sent to the error output.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    peer, capacity, dtype = sys.argv[1], int(sys.argv[2]), sys.argv[3]
    worker = Reader(capacity) if peer == "reader" else Worker(peer, capacity, dtype)
    for line in sys.stdin:
        command, arguments = json.loads(line)
        try:
            answer: dict[str, Any] = {"value": getattr(worker, command)(*arguments)}
        except Exception as error:  # whatever a peer raises is told, and the run goes on without it
            answer = {"error": f"{type(error).__name__}: {error}"}
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


if __name__ == "__main__":
    main()
