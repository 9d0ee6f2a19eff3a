"""Decode time and memory of each layout on ONNX Runtime CPU, side by side in one run.

    python tools/bench_layouts.py [--threads 1] [--rounds 40] [--json FILE]

Time: every layout decodes the same token in turn (interleaved rounds: a busy machine slows all alike); the ratio
is to `per-budget`, a static graph for each budget. Memory: a fresh process for each case, private (not file-backed) and
proportional resident memory after every budget was used once.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from rich.console import Console
from rich.progress import track
from rich.table import Table

from flextron_export.bundle.manifest import Bundle
from flextron_export.exporting import export
from flextron_export.targets.onnxruntime_cpu import open_session, private_memory
from tools.random_checkpoint import write_random_checkpoint

SHAPE = {"layers": 12, "hidden": 768, "heads": 12, "kv_heads": 12, "ffn": 2048, "vocab": 32000}
CONTEXT = 128
MODES = {
    "per-budget": ("per-budget", False),
    "panels": ("panels", False),
    "per-budget, mapped": ("per-budget", True),
    "panels, mapped": ("panels", True),
    "shared": ("shared", False),
}
"""mode -> layout, low memory. In `shared` the weights are always mapped."""


def decoder(session: Any, budget: Any) -> Callable[[], float]:
    """A function that runs one decode step at CONTEXT and returns its milliseconds."""
    cache = session.new_cache(budget, 1, 2 * CONTEXT)
    at = np.array([[CONTEXT]])

    def step() -> float:
        start = time.perf_counter()
        session.step(cache, np.array([[1]]), at, np.array([CONTEXT]), np.array([0]))
        return (time.perf_counter() - start) * 1e3

    return step


def times(bundle: Bundle, threads: int, rounds: int) -> dict[str, dict[str, float]]:
    """budget -> mode -> median ms per token.

    Each turn begins with an uncounted step, which fetches what the last turn drove out of the caches.
    """
    sessions = {
        mode: open_session(bundle, layout=layout, threads=threads, low_memory=low)
        for mode, (layout, low) in MODES.items()
    }
    found = {}
    for budget in track(bundle.budgets, "timing budgets"):
        steps = {mode: decoder(session, budget) for mode, session in sessions.items()}
        samples: dict[str, list[float]] = {mode: [] for mode in steps}
        for k in range(rounds + 2):
            for mode, step in steps.items():
                step()
                took = step()
                if k >= 2:
                    samples[mode].append(took)
        found[budget.name] = {mode: statistics.median(s) for mode, s in samples.items()}
    return found


def proportional_memory() -> int:
    """Bytes of resident memory, pages shared with others counted in part (Linux)."""
    for line in Path("/proc/self/smaps_rollup").read_text().splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1]) * 1024
    return 0


def _memory_case(path: str, layout: str, low_memory: bool, count: int, threads: int, queue: Any) -> None:
    bundle = Bundle.open(path, hashes=False)
    before = private_memory(), proportional_memory()
    session = open_session(bundle, layout=layout, threads=threads, low_memory=low_memory)
    for budget in bundle.budgets[:count]:
        decoder(session, budget)()
    queue.put((private_memory() - before[0], proportional_memory() - before[1]))


def memory(bundle: Bundle, threads: int) -> list[dict[str, Any]]:
    """One row per mode and number of budgets that are ready; each measured in a process of its own."""
    context = multiprocessing.get_context("spawn")
    cases = [(mode, count) for mode in MODES for count in (1, len(bundle.budgets))]
    rows = []
    for mode, count in track(cases, "measuring memory"):
        queue = context.Queue()
        process = context.Process(target=_memory_case, args=(str(bundle.path), *MODES[mode], count, threads, queue))
        process.start()
        private, proportional = queue.get()
        process.join()
        rows.append({"mode": mode, "budgets": count, "private_mb": private / 1e6, "resident_mb": proportional / 1e6})
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=40)
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
    if options.json:
        options.json.write_text(
            json.dumps({"shape": SHAPE, "threads": options.threads, "times_ms": measured, "memory": sizes}, indent=1)
        )


if __name__ == "__main__":
    main()
