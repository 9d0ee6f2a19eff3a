"""Decode time and memory of each layout on ONNX Runtime CPU, side by side in one run.

    python tools/bench_layouts.py [--threads 1] [--rounds 40] [--json FILE]

Time: every layout decodes the same token in turn (interleaved rounds, so that a busy machine slows all alike); the ratio is to
`per-budget`, a static graph for each budget. Memory: a fresh process for each case, private (not file-backed) and proportional
resident memory after every budget was used once.
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

from flextron_export.bundle.export import export
from flextron_export.bundle.manifest import Bundle
from flextron_export.targets.onnxruntime_cpu import open_session, private_memory
from tools.random_checkpoint import write_random_checkpoint

SHAPE = {"layers": 12, "hidden": 768, "heads": 12, "kv_heads": 12, "ffn": 2048, "vocab": 32000}
CONTEXT = 128
LAYOUTS = ("per-budget", "panels", "shared")


def decoder(session: Any, budget: Any) -> Any:
    """A function that runs one decode step at CONTEXT and returns its milliseconds."""
    cache = session.new_cache(budget, 1, 2 * CONTEXT)
    at = np.array([[CONTEXT]])

    def step() -> float:
        start = time.perf_counter()
        session.step(cache, np.array([[1]]), at, np.array([CONTEXT]), np.array([0]))
        return (time.perf_counter() - start) * 1e3

    return step


def times(bundle: Bundle, threads: int, rounds: int) -> dict[str, dict[str, float]]:
    """budget -> layout -> median ms per token; per-budget static graphs are loaded one at a time."""
    sessions = {layout: open_session(bundle, layout=layout, threads=threads) for layout in LAYOUTS}
    found = {}
    for budget in track(bundle.budgets, "timing budgets"):
        steps = {layout: decoder(session, budget) for layout, session in sessions.items()}
        samples: dict[str, list[float]] = {layout: [] for layout in steps}
        for k in range(rounds + 5):
            for layout, step in steps.items():
                took = step()
                if k >= 5:
                    samples[layout].append(took)
        found[budget.name] = {layout: statistics.median(s) for layout, s in samples.items()}
    return found


def proportional_memory() -> int:
    """Bytes of resident memory, pages shared with others counted in part (Linux)."""
    for line in Path("/proc/self/smaps_rollup").read_text().splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1]) * 1024
    return 0


def _memory_case(path: str, layout: str, count: int, prepack: bool, threads: int, queue: Any) -> None:
    bundle = Bundle.open(path, hashes=False)
    before = private_memory(), proportional_memory()
    session = open_session(bundle, layout=layout, threads=threads, prepack=prepack)
    for budget in bundle.budgets[:count]:
        decoder(session, budget)()
    queue.put((private_memory() - before[0], proportional_memory() - before[1]))


def memory(bundle: Bundle, threads: int) -> list[dict[str, Any]]:
    """One row per layout, pre-packing and number of budgets; each measured in a process of its own."""
    context = multiprocessing.get_context("spawn")
    cases = [
        (layout, prepack, count)
        for layout in LAYOUTS
        for prepack in (True, False)
        for count in (1, len(bundle.budgets))
    ]
    rows = []
    for layout, prepack, count in track(cases, "measuring memory"):
        queue = context.Queue()
        process = context.Process(target=_memory_case, args=(str(bundle.path), layout, count, prepack, threads, queue))
        process.start()
        private, proportional = queue.get()
        process.join()
        rows.append(
            {
                "layout": layout,
                "prepacked": prepack,
                "budgets": count,
                "private_mb": private / 1e6,
                "resident_mb": proportional / 1e6,
            }
        )
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
    for column in ("budget", *LAYOUTS):
        table.add_column(column)
    for name, row in measured.items():
        table.add_row(name, *(f"{row[layout]:.2f} ({row[layout] / row['per-budget']:.2f}x)" for layout in LAYOUTS))
    console.print(table)
    table = Table(title="memory of the process, MB")
    for column in ("layout", "weights", "budgets", "private", "resident"):
        table.add_column(column)
    for r in sizes:
        table.add_row(
            r["layout"],
            "pre-packed" if r["prepacked"] else "mapped",
            str(r["budgets"]),
            f"{r['private_mb']:.0f}",
            f"{r['resident_mb']:.0f}",
        )
    console.print(table)
    if options.json:
        options.json.write_text(
            json.dumps({"shape": SHAPE, "threads": options.threads, "times_ms": measured, "memory": sizes}, indent=1)
        )


if __name__ == "__main__":
    main()
