"""What a token costs by live tokens in a large KV cache, with the attention that graphs have and with the other one.

    python tools/bench_attention.py [--capacity 4096] [--live 64,512,4000] [--processor-time]

Ways: `GroupQueryAttention`, as exported, in `per-budget` and `panels`; and the standard `Attention` with a mask, over
the whole capacity or over a cache that has grown in steps to what lives. They take turns with the same token, one
thread. Exits with 1 if what is exported takes more than 1.15 times the fastest way at some length.
"""

from __future__ import annotations

import argparse
import json
import os
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
from rich.table import Table

from flextron_export.exporting import export
from flextron_export.graph.attention import GroupQueryAttention
from flextron_export.runtime.capacity import capacity_for
from flextron_export.targets.onnxruntime_cpu import open_session
from tools.peers.files import SHAPE
from tools.random_checkpoint import write_random_checkpoint

GOAL = 1.15
BURST = 4
EXPORTED = ("per-budget", "panels")


def bundles(work: Path) -> dict[str, Any]:
    """The bundle as exported, and one whose graphs have the standard attention."""
    checkpoint = write_random_checkpoint(work / "checkpoint", **SHAPE).path
    made = {"exported": export(checkpoint, work / "exported", layouts=EXPORTED, dtypes=("fp32",), verify=False)}
    supports = GroupQueryAttention.supports
    try:
        GroupQueryAttention.supports = staticmethod(lambda architecture: False)  # type: ignore[method-assign]
        made["masked"] = export(checkpoint, work / "masked", layouts=("per-budget",), dtypes=("fp32",), verify=False)
    finally:
        GroupQueryAttention.supports = supports  # type: ignore[method-assign]
    return made


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--capacity", type=int, default=4096)
    parser.add_argument("--live", default="64,512,4000")
    parser.add_argument("--budget", default="full")
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--processor-time", action="store_true")
    parser.add_argument("--json", type=Path, help="write the numbers to this file")
    options = parser.parse_args()
    clock: Callable[[], float] = time.process_time if options.processor_time else time.perf_counter
    found: dict[int, dict[str, float]] = {}
    with tempfile.TemporaryDirectory() as directory:
        made = bundles(Path(directory))
        sessions = {layout: open_session(made["exported"], layout=layout, threads=1) for layout in EXPORTED}
        sessions["masked"] = open_session(made["masked"], layout="per-budget", threads=1)
        one = np.zeros(1, np.int64)
        for live in map(int, options.live.split(",")):
            ways = {layout: (sessions[layout], options.capacity) for layout in EXPORTED}
            ways["masked"] = sessions["masked"], options.capacity
            ways["masked, grown"] = sessions["masked"], capacity_for(live, options.capacity)
            caches, samples = {}, {name: [] for name in ways}  # type: ignore[var-annotated]
            for name, (session, capacity) in ways.items():
                caches[name] = session.new_cache(session.bundle.budget(options.budget), 1, capacity)
                for array in caches[name].arrays.values():
                    array[...] = 0.01  # untouched memory would be read faster than a cache in use
            at = np.array([live - 1])
            for _ in range(options.rounds):
                for name, (session, _capacity) in ways.items():
                    times = []
                    for _ in range(BURST):
                        start = clock()
                        session.step(caches[name], one[None], at[None], at, one)
                        times.append((clock() - start) * 1e3)
                    samples[name] += times[1:]  # the first fetches what the others drove out of the caches
            found[live] = {name: statistics.median(values) for name, values in samples.items()}
    console = Console(width=160 if not sys.stdout.isatty() else None)
    table = Table(title=f"ms per token, budget {options.budget}, capacity {options.capacity}; ratio to the fastest")
    for column in ("live tokens", *next(iter(found.values()))):
        table.add_column(column, justify="right")
    for live, row in found.items():
        table.add_row(str(live), *(f"{ms:.2f} ({ms / min(row.values()):.2f}x)" for ms in row.values()))
    console.print(table)
    worst = max(row[layout] / min(row.values()) for row in found.values() for layout in EXPORTED)
    met = worst <= GOAL
    console.print(f"{'met' if met else 'missed'}: at most {GOAL}x the fastest at every length: {worst:.2f}x")
    if options.json:
        result = {"shape": SHAPE, "load_average": os.getloadavg(), "times_ms": found, "worst": worst}
        options.json.write_text(json.dumps(result, indent=1) + "\n")
    sys.exit(0 if met else 1)


if __name__ == "__main__":
    main()
