"""What a narrower attention and a narrower FFN save in decoding, each alone, in layout `panels` and as static graphs.

    python tools/bench_widths.py [--rounds 15] [--contexts 64,1024,4000] [--json FILE]

Every budget narrows one part of all layers and keeps the other whole. Steps of all budgets and both layouts take turns
in one process; times are processor time of one thread. `bytes` is what a step reads: the active weights and the filled
part of the KV cache, relative to the full model.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from rich.console import Console
from rich.progress import track
from rich.table import Table

from flextron_export.elastic.architecture import Architecture
from flextron_export.elastic.tensors import tensor_specs
from flextron_export.elastic.widths import Budget, Candidates, LayerWidth
from flextron_export.exporting import export
from flextron_export.runtime.capacity import capacity_for
from flextron_export.targets.onnxruntime_cpu import open_session
from tools.random_checkpoint import write_random_checkpoint

SHAPE: dict[str, Any] = {"layers": 6, "hidden": 768, "heads": 12, "kv_heads": 12, "ffn": 2048, "vocab": 8000}
LAYOUTS = ("panels", "per-budget")
BURST = 4


def budgets(architecture: Architecture, candidates: Candidates) -> tuple[Budget, ...]:
    """The full model, then every candidate of one part with the other whole."""
    groups, neurons = candidates.groups[-1], candidates.neurons[-1]
    widths = {
        "full": LayerWidth(groups, neurons),
        **{f"attention-{n}": LayerWidth(n, neurons) for n in candidates.groups[-2::-1]},
        **{f"ffn-{n}": LayerWidth(groups, n) for n in candidates.neurons[-2::-1]},
    }
    return tuple(Budget(name, (width,) * architecture.num_layers) for name, width in widths.items())


def bytes_read(architecture: Architecture, budget: Budget, context: int) -> int:
    """Bytes of fp32 weights and filled cache that a decode step reads; of the embedding it reads one row."""
    weights = sum(
        int(np.prod(spec.active(architecture, budget.layers)))
        for spec in tensor_specs(architecture)
        if spec.name != "embedding"
    )
    cache = sum(2 * width.groups * context * architecture.head_dim for width in budget.layers)
    return 4 * (weights + cache)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--contexts", default="64,1024,4000")
    parser.add_argument("--json", type=Path, help="write the numbers to this file")
    options = parser.parse_args()
    contexts = [int(n) for n in options.contexts.split(",")]
    with tempfile.TemporaryDirectory() as directory:
        source = write_random_checkpoint(Path(directory) / "checkpoint", **SHAPE)
        source = replace(source, budgets=budgets(source.architecture, source.candidates))
        source.write_marker(source.path)
        bundle = export(source.path, Path(directory) / "bundle", layouts=LAYOUTS, dtypes=["fp32"], verify=False)
        a = bundle.architecture
        sessions = {layout: open_session(bundle, layout=layout, dtype="fp32", threads=1) for layout in LAYOUTS}
        one = np.zeros(1, np.int64)
        samples: dict[tuple[int, str, str], list[float]] = {}
        for context in track(contexts, "timing contexts"):
            at = np.full((1, 1), context - 1)
            caches = {
                (budget.name, layout): session.new_cache(budget, 1, capacity_for(context, a.max_positions))
                for budget in bundle.budgets
                for layout, session in sessions.items()
            }
            for _ in range(options.rounds):
                for (name, layout), cache in caches.items():
                    for number in range(BURST):
                        start = time.process_time()
                        sessions[layout].step(cache, one[None], at, at[0], one)
                        if number:  # the first step fetches what other budgets drove out of the caches
                            samples.setdefault((context, name, layout), []).append(time.process_time() - start)
    rows = []
    for context in contexts:
        table = Table(title=f"decoding at context {context}: ms of processor time, and relative to the full model")
        for column in ("budget", "bytes", *LAYOUTS, "panels / per-budget"):
            table.add_column(column, justify="right")
        for budget in bundle.budgets:
            share = bytes_read(a, budget, context) / bytes_read(a, bundle.budgets[0], context)
            ms = {layout: 1e3 * statistics.median(samples[context, budget.name, layout]) for layout in LAYOUTS}
            full = {layout: 1e3 * statistics.median(samples[context, "full", layout]) for layout in LAYOUTS}
            rows.append({"context": context, "budget": budget.name, "bytes": share, "ms": ms})
            cells = (f"{ms[layout]:.2f} ({ms[layout] / full[layout]:.2f}x)" for layout in LAYOUTS)
            table.add_row(budget.name, f"{share:.2f}x", *cells, f"{ms['panels'] / ms['per-budget']:.2f}x")
        Console().print(table)
    if options.json:
        options.json.write_text(json.dumps({"shape": SHAPE, "rounds": options.rounds, "rows": rows}, indent=1))


if __name__ == "__main__":
    main()
