"""Whether a generation takes what `calibrate` predicts: predicted and observed time per token, interleaved in one run.

    python tools/bench_prediction.py [BUNDLE] [--threads 1] [--rounds 12] [--processor-time] [--json FILE]

In every round a short calibration at one context length, then for each budget short generations through the runner,
greedy and sampled, around that length. Both see the same machine, so what differs is what the prediction leaves out.
How far the machine itself drifts from round to round is reported apart. On a machine that other programs share, whether
a step is interrupted is chance: --processor-time measures both sides in processor time of the one thread, which leaves
that out. Without BUNDLE: a random model of the demo's shape.
"""

from __future__ import annotations

import argparse
import json
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
from tools.random_checkpoint import write_random_checkpoint

SHAPE: dict[str, Any] = {"layers": 8, "hidden": 256, "heads": 8, "kv_heads": 8, "ffn": 688, "vocab": 4096}
SETTINGS: dict[str, dict[str, Any]] = {
    "greedy": {},
    "top-p 0.95": {"temperature": 1.0, "top_p": 0.95},
    "top-k 50": {"temperature": 0.8, "top_k": 50},
}
CONTEXT, TOKENS, STEPS = 120, 16, 24


def collect(bundle: Path, threads: int, rounds: int) -> list[dict[str, Any]]:
    """One record per round, budget and setting: predicted and observed p50 in milliseconds."""
    opening = open_bundle(bundle, threads=threads)
    session, records = opening.session(), []
    prompt = [7 + i % 50 for i in range(CONTEXT - TOKENS // 2)]
    with Runner(bundle, threads=threads, prefix_cache=0) as runner:
        for number in range(rounds):
            table = measure(opening, session, (CONTEXT,), (16,), STEPS)
            for name, cost in table.budgets.items():
                selection = runner.select(budget=name)
                for label, settings in SETTINGS.items():
                    runner.generate_ids(prompt, TOKENS, selection=selection, stop_on_eos=False, **settings).read()
                    about = {"round": number, "budget": name, "sampling": label}
                    records.append({**about, "predicted": cost.decode[0].p50, "observed": runner.timings.p50})
    session.close()
    return records


def report(records: list[dict[str, Any]]) -> None:
    """A row per budget and setting: medians over the rounds and how far they are apart."""
    table = Table("budget", "sampling", "predicted ms", "observed ms", "error", title="time per token, median of p50")
    errors = []
    for key in dict.fromkeys((r["budget"], r["sampling"]) for r in records):
        rows = [r for r in records if (r["budget"], r["sampling"]) == key]
        predicted, observed = (statistics.median(r[k] for r in rows) for k in ("predicted", "observed"))
        errors.append(observed / predicted - 1)
        table.add_row(*key, f"{predicted:.3f}", f"{observed:.3f}", f"{errors[-1]:+.1%}")
    Console(width=100).print(table)
    drift = []
    for name in dict.fromkeys(r["budget"] for r in records):
        predictions = [r["predicted"] for r in records if r["budget"] == name]
        middle = statistics.median(predictions)
        drift.append(statistics.median(abs(p / middle - 1) for p in predictions))
    print(f"median error {statistics.median(map(abs, errors)):.1%}, largest {max(map(abs, errors)):.1%}")
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
        bundle = arguments.bundle or Path(scratch) / "bundle"
        if arguments.bundle is None:
            write_random_checkpoint(Path(scratch) / "checkpoint", **SHAPE)
            options: dict[str, Any] = {"layouts": ("panels",), "dtypes": ("fp32",), "verify": False}
            export(Path(scratch) / "checkpoint", bundle, **options)
        records = collect(bundle, arguments.threads, arguments.rounds)
    report(records)
    if arguments.json:
        arguments.json.write_text(json.dumps(records, indent=1) + "\n")


if __name__ == "__main__":
    main()
