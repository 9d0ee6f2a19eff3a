"""Decode time and memory of each layout on ONNX Runtime CPU, side by side in one run.

    python tools/bench_layouts.py [--threads 1] [--rounds 20] [--json FILE]

Time: every mode has a process of its own, and they take turns decoding the same token (a busy machine slows all alike);
the ratio is to `per-budget`, a static graph for each budget. Memory: what loading and one step per budget add to a
fresh process, private (not file-backed) and proportional resident. Exits with 1 if a goal is missed.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from rich.console import Console
from rich.progress import track
from rich.table import Table

from flextron_export.bundle.manifest import Bundle
from flextron_export.exporting import export
from flextron_export.targets.memory import private_memory
from flextron_export.targets.onnxruntime_cpu import open_session
from tools.random_checkpoint import write_random_checkpoint

SHAPE: dict[str, Any] = {"layers": 12, "hidden": 768, "heads": 12, "kv_heads": 12, "ffn": 2048, "vocab": 32000}
CONTEXT = 128
BURST = 4
TIME_GOAL, MEMORY_GOAL = 1.08, 1.1
MODES = {
    "per-budget": ("per-budget", False),
    "panels": ("panels", False),
    "per-budget, mapped": ("per-budget", True),
    "panels, mapped": ("panels", True),
    "shared": ("shared", False),
}
"""mode -> layout, low memory. In `shared` the weights are always mapped."""


def proportional_memory() -> int:
    """Bytes of resident memory, pages shared with others counted in part (Linux)."""
    for line in Path("/proc/self/smaps_rollup").read_text().splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1]) * 1024
    return 0


def serve(path: str, mode: str, names: list[str], threads: int, pipe: Any) -> None:
    """A process with one session: load, run each budget once, send the memory this added; then time steps on demand."""
    bundle = Bundle.open(path, hashes=False)
    layout, low_memory = MODES[mode]
    before = private_memory(), proportional_memory()
    session = open_session(bundle, layout=layout, threads=threads, low_memory=low_memory)
    one, at = np.array([0]), np.array([[CONTEXT]])
    caches = {name: session.new_cache(bundle.budget(name), 1, 2 * CONTEXT) for name in names}

    def step(name: str) -> float:
        start = time.perf_counter()
        session.step(caches[name], one[None], at, at[0], one)
        return (time.perf_counter() - start) * 1e3

    for name in names:
        step(name)
    pipe.send((private_memory() - before[0], proportional_memory() - before[1]))
    while (name := pipe.recv()) is not None:
        # The first step fetches what the other processes' turns drove out of the caches; it is not counted.
        pipe.send([step(name) for _ in range(BURST)][1:])


class Worker:
    """The other end of `serve`."""

    def __init__(self, bundle: Bundle, mode: str, names: list[str], threads: int) -> None:
        context = multiprocessing.get_context("spawn")
        self.pipe, other = context.Pipe()
        self.process = context.Process(target=serve, args=(str(bundle.path), mode, names, threads, other), daemon=True)
        self.process.start()
        other.close()  # so that a worker that dies ends `recv` with an error instead of a wait
        self.private, self.resident = self.pipe.recv()

    def burst(self, name: str) -> list[float]:
        self.pipe.send(name)
        return list(self.pipe.recv())

    def close(self) -> None:
        self.pipe.send(None)
        self.process.join()


def times(bundle: Bundle, threads: int, rounds: int) -> dict[str, dict[str, float]]:
    """budget -> mode -> median ms per token; every mode in a process of its own, taking turns."""
    found = {}
    for budget in track(bundle.budgets, "timing budgets"):
        workers = {mode: Worker(bundle, mode, [budget.name], threads) for mode in MODES}
        samples: dict[str, list[float]] = {mode: [] for mode in MODES}
        for _ in range(rounds):
            for mode, worker in workers.items():
                samples[mode] += worker.burst(budget.name)
        for worker in workers.values():
            worker.close()
        found[budget.name] = {mode: statistics.median(s) for mode, s in samples.items()}
    return found


def memory(bundle: Bundle, threads: int) -> list[dict[str, Any]]:
    """One row per mode and number of budgets that are ready; each measured in a process of its own."""
    names = [b.name for b in bundle.budgets]
    rows = []
    for mode, count in track([(mode, count) for mode in MODES for count in (1, len(names))], "measuring memory"):
        worker = Worker(bundle, mode, names[:count], threads)
        worker.close()
        row = {"mode": mode, "budgets": count, "private_mb": worker.private / 1e6, "resident_mb": worker.resident / 1e6}
        rows.append(row)
    return rows


def verdicts(measured: dict[str, dict[str, float]], sizes: list[dict[str, Any]]) -> list[tuple[str, bool]]:
    """The goals, and whether they were met."""
    slowest = max(row["panels"] / row["per-budget"] for row in measured.values())
    resident = {(r["mode"], r["budgets"] > 1): r["resident_mb"] for r in sizes}
    ratio = resident["panels", True] / resident["per-budget", False]
    return [
        (f"panels at most {TIME_GOAL}x the time of a static graph: {slowest:.3f}x", slowest <= TIME_GOAL),
        (f"four budgets at most {MEMORY_GOAL}x the memory of one static graph: {ratio:.3f}x", ratio <= MEMORY_GOAL),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--json", type=Path, help="write the numbers to this file")
    options = parser.parse_args()
    console = Console()
    with tempfile.TemporaryDirectory() as directory:
        checkpoint = write_random_checkpoint(Path(directory) / "checkpoint", **SHAPE, dtype="F32")
        bundle = export(checkpoint.path, Path(directory) / "bundle", dtypes=["fp32"], verify=False, track=track)
        measured, sizes = times(bundle, options.threads, options.rounds), memory(bundle, options.threads)
    table = Table(title=f"decode, ms per token at context {CONTEXT}, {options.threads} thread(s); ratio to per-budget")
    for column in ("budget", *MODES):
        table.add_column(column, justify="right")
    for name, row in measured.items():
        table.add_row(name, *(f"{row[mode]:.2f} ({row[mode] / row['per-budget']:.2f}x)" for mode in MODES))
    console.print(table)
    table = Table(title="memory added to the process by that many budgets, MB")
    for column in ("mode", "budgets", "private", "resident"):
        table.add_column(column, justify="right")
    for r in sizes:
        table.add_row(r["mode"], str(r["budgets"]), f"{r['private_mb']:.0f}", f"{r['resident_mb']:.0f}")
    console.print(table)
    goals = verdicts(measured, sizes)
    for text, met in goals:
        console.print(f"{'met' if met else 'missed'}: {text}", highlight=False)
    if options.json:
        result = {"shape": SHAPE, "threads": options.threads, "times_ms": measured, "memory": sizes, "goals": goals}
        options.json.write_text(json.dumps(result, indent=1))
    sys.exit(0 if all(met for _, met in goals) else 1)


if __name__ == "__main__":
    main()
