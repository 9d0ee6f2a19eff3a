"""This project beside its neighbours on the same random model, one thread each, in one interleaved run.

    python tools/bench_peers.py [--dtype int4] [--python VENV/bin/python] [--json FILE] [--plot FILE]

Peers: transformers (eager and compiled), onnxruntime-genai, llama.cpp. Those that are not installed, here or for a
`--python` given, are named and left out. Every subject has a process of its own; they take turns prefilling and
decoding, so a busy machine slows all alike. `--processor-time` counts the time on the processor instead of the clock's:
on a busy machine it is the steadier of the two. Exits with 1 if a goal is missed.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from rich.console import Console

from flextron_export.bundle.manifest import Bundle, weights_file
from flextron_export.elastic.tensors import tensor_specs
from flextron_export.elastic.widths import Budget
from tools.peers import files
from tools.peers.engines import DTYPES, ENGINES, LIBRARY
from tools.peers.measuring import Subject, measure_memory, measure_speed
from tools.peers.report import goals, plot, show

OURS = ("flextron panels", "flextron per-budget")


def available(peers: list[str], dtype: str, pythons: list[str], console: Console) -> dict[str, str]:
    """Peer -> the Python that runs it; what is missing is said."""
    found = {}
    for peer in peers:
        python = files.python_with(LIBRARY[peer], [] if peer in OURS else pythons)
        if dtype not in DTYPES[peer]:
            console.print(f"left out: {peer} has no {dtype} here")
        elif python is None:
            console.print(f"left out: {peer}: {LIBRARY[peer]} is not installed (pip install it, or pass --python)")
        else:
            found[peer] = python
    return found


def bytes_read(bundle: Bundle, budget: Budget, dtype: str) -> float:
    """Bytes of weights that a token reads: all matrices of the budget; of the embedding one row."""
    a = bundle.architecture
    size = (bundle.path / weights_file(dtype)).stat().st_size / sum(np.prod(s.shape) for s in tensor_specs(a))
    count = sum(int(np.prod(s.active(a, budget.layers))) for s in tensor_specs(a) if s.name != "embedding" or a.tied)
    return float(count * size)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dtype", choices=("fp32", "int8", "int4"), default="fp32")
    parser.add_argument("--peers", default=",".join(ENGINES), help="comma-separated; all by default")
    parser.add_argument("--python", action="append", default=[], help="a Python that has peers; may repeat")
    parser.add_argument("--short", type=int, default=128, help="tokens of the short context and of the prompt")
    parser.add_argument("--long", type=int, default=2048, help="tokens of the long context")
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--no-memory", action="store_true", help="leave out memory with four budgets")
    parser.add_argument("--processor-time", action="store_true")
    parser.add_argument("--json", type=Path, help="write the numbers to this file")
    parser.add_argument("--plot", type=Path, help="draw the ratios to this file")
    options = parser.parse_args()
    asked = [name.strip() for name in options.peers.split(",")]
    if unknown := set(asked) - set(ENGINES):
        parser.error(f"no such peer: {', '.join(sorted(unknown))} (known: {', '.join(ENGINES)})")
    console = Console(width=160 if not sys.stdout.isatty() else None)
    pythons = available(asked, options.dtype, options.python, console)
    load = [os.getloadavg()[0]]
    with tempfile.TemporaryDirectory() as directory:
        work = Path(directory)
        checkpoint = files.write_checkpoint(work / "checkpoint")
        bundle = Bundle.open(files.write_bundle(checkpoint, work / "bundle", options.dtype), hashes=False)
        half = next(b for b in bundle.budgets if b.name == "p50")
        budgets = list(bundle.budgets)
        subjects = []
        for peer, python in pythons.items():
            console.print(f"preparing {peer}")
            paths = [bundle.path] if peer in OURS else []
            for budget in budgets[: 1 if options.no_memory else None] if peer not in OURS else ():
                paths.append(prepared(work, checkpoint, budget, peer, options.dtype, python))
            for budget in (budgets[0], half) if peer in OURS else (budgets[0],):
                subjects.append(Subject(peer, budget.name, python, paths))
        subjects = [s for s in subjects if s.paths]
        weights = {b.name: bytes_read(bundle, b, options.dtype) for b in (budgets[0], half)}
        capacity = options.long + 8 * options.rounds + 64
        speed = measure_speed(subjects, options, capacity, int(weights[budgets[0].name]), console)
        memory = {} if options.no_memory else measure_memory(subjects, [b.name for b in budgets], options, console)
    result: dict[str, Any] = {
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "shape": files.SHAPE,
        "dtype": options.dtype,
        "clock": "processor" if options.processor_time else "wall",
        "contexts": [options.short, options.long],
        "load_average": [*load, os.getloadavg()[0]],
        "weight_bytes": weights,
        "speed": speed,
        "memory_mb": memory,
    }
    show(result, console)
    verdicts = goals(result, OURS)
    for text, met in verdicts:
        console.print(f"{'met' if met else 'missed'}: {text}", highlight=False)
    if options.json:
        options.json.write_text(json.dumps({**result, "goals": verdicts}, indent=1) + "\n")
    if options.plot:
        plot(result, options.plot)
    sys.exit(0 if all(met for _, met in verdicts) else 1)


def prepared(work: Path, checkpoint: Any, budget: Budget, peer: str, dtype: str, python: str) -> Path:
    """The model of one budget as a peer reads it."""
    model = work / f"hf.{budget.name}"
    if not model.exists():
        files.write_budget(checkpoint, budget, model)
    if peer.startswith("transformers"):
        return model
    if peer == "llama.cpp":
        return files.write_gguf(model, work / f"{budget.name}.{dtype}.gguf", dtype, python)
    return files.write_genai(model, work / f"genai.{budget.name}", dtype, python)


if __name__ == "__main__":
    main()
