"""Whether a generation takes what `calibrate` predicts: predicted and observed time per token, interleaved in one run.

    python tools/bench_prediction.py [BUNDLE] [--threads 1] [--rounds 12] [--processor-time] [--json FILE]

In every round a short calibration at two context lengths, then for each budget short generations through the runner,
greedy and sampled, around lengths between these, whose prediction is interpolated. Both see the same machine, so what
differs is what the prediction leaves out: the error is the median over the rounds of observed / predicted - 1 in the
same round. How far the machine itself drifts from round to round is reported apart. On a machine that other programs
share, whether a step is interrupted is chance: --processor-time measures both sides in processor time of the one
thread, which leaves that out. A BUNDLE is copied first: its own measurements stay. Without BUNDLE: a random model of
the demo's shape.
"""

from __future__ import annotations

import argparse
import itertools
import json
import shutil
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from rich.console import Console
from rich.table import Table

from flextron_export import Runner
from flextron_export.exporting import export
from flextron_export.runtime.calibrate import measure
from flextron_export.runtime.opening import open_bundle
from flextron_export.runtime.table import interpolate
from tools.random_checkpoint import write_random_checkpoint

SHAPE: dict[str, Any] = {"layers": 8, "hidden": 256, "heads": 8, "kv_heads": 8, "ffn": 688, "vocab": 4096}
SETTINGS: dict[str, dict[str, Any]] = {
    "greedy": {},
    "top-p 0.95": {"temperature": 1.0, "top_p": 0.95},
    "top-k 50": {"temperature": 0.8, "top_k": 50},
}
CALIBRATED, OBSERVED = (64, 256), (100, 180)
"""Context lengths."""
TOKENS, STEPS = 16, 24


def collect(bundle: Path, threads: int, rounds: int) -> list[dict[str, Any]]:
    """One record per round, budget and setting: predicted and observed p50 in milliseconds."""
    opening = open_bundle(bundle, threads=threads)
    session, records = opening.session(), []
    with Runner(bundle, threads=threads, prefix_cache=0) as runner:
        for number in range(rounds):
            table = measure(opening, session, CALIBRATED, (16,), STEPS)
            for (name, cost), context in itertools.product(table.budgets.items(), OBSERVED):
                selection, prompt = runner.select(budget=name), [7 + i % 50 for i in range(context - TOKENS // 2)]
                predicted = interpolate([(t.tokens, t.p50) for t in cost.decode], context)
                for label, settings in SETTINGS.items():
                    runner.generate_ids(prompt, TOKENS, selection=selection, stop_on_eos=False, **settings).read()
                    about = {"round": number, "budget": name, "context": context, "sampling": label}
                    records.append({**about, "predicted": predicted, "observed": runner.timings.p50})
    session.close()
    return records


def report(records: list[dict[str, Any]]) -> None:
    """A row per budget and setting: medians over the rounds and how far they are apart."""
    table = Table(
        "budget", "context", "sampling", "predicted ms", "observed ms", "error", title="time per token, median of p50"
    )
    errors = []
    by: dict[str, list[float]] = {}
    for key in dict.fromkeys((r["budget"], r["context"], r["sampling"]) for r in records):
        rows = [r for r in records if (r["budget"], r["context"], r["sampling"]) == key]
        predicted, observed = (statistics.median(r[k] for r in rows) for k in ("predicted", "observed"))
        errors.append(statistics.median(r["observed"] / r["predicted"] for r in rows) - 1)
        by.setdefault(key[2], []).append(abs(errors[-1]))
        table.add_row(*map(str, key), f"{predicted:.3f}", f"{observed:.3f}", f"{errors[-1]:+.1%}")
    Console(width=100).print(table)
    drift = []
    for budget, context in dict.fromkeys((r["budget"], r["context"]) for r in records):
        predictions = [r["predicted"] for r in records if r["budget"] == budget and r["context"] == context]
        middle = statistics.median(predictions)
        drift.append(statistics.median(abs(p / middle - 1) for p in predictions))
    print(f"median error {statistics.median(map(abs, errors)):.1%}, largest {max(map(abs, errors)):.1%}")
    print("by sampling:", ", ".join(f"{label} {statistics.median(found):.1%}" for label, found in by.items()))
    print(f"a round's prediction differs from the median of all rounds by {statistics.median(drift):.1%} (median)")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", nargs="?", type=Path)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--processor-time", action="store_true")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    if arguments.processor_time:
        if arguments.threads != 1:
            parser.error("--processor-time needs --threads 1")
        time.perf_counter = time.thread_time  # what calibration and runner measure with
    with tempfile.TemporaryDirectory() as scratch:
        bundle = Path(scratch) / "bundle"
        if arguments.bundle is not None:
            bundle = shutil.copytree(arguments.bundle, Path(scratch) / "bundle")
        else:
            write_random_checkpoint(Path(scratch) / "checkpoint", **SHAPE)
            options: dict[str, Any] = {"layouts": ("panels",), "dtypes": ("fp32",), "verify": False}
            export(Path(scratch) / "checkpoint", bundle, **options)
        records = collect(bundle, arguments.threads, arguments.rounds)
    report(records)
    if arguments.json:
        arguments.json.write_text(json.dumps(records, indent=1) + "\n")


if __name__ == "__main__":
    main()
