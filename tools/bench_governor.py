"""The latency governor under a real disturbance: processes that compete for the processor, in the same rhythm for all.

    python tools/bench_governor.py BUNDLE --target 20ms [--rounds 3] [--processes 2] [--json FILE]

In every round the same prompt is continued under the governor and at each fixed budget, while competing processes work
and pause by turns. Printed is the share of tokens within the target, and the mean validation loss of the budgets that
computed them, where the bundle knows it.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import statistics
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from rich.console import Console
from rich.table import Table

from flextron_export import Runner

TOKENS, CALM_SECONDS, BUSY_SECONDS = 400, 1.0, 1.0


def compete(stop: Any) -> None:
    """Work for a while, pause for a while."""
    while not stop.is_set():
        time.sleep(CALM_SECONDS)
        end = time.perf_counter() + BUSY_SECONDS
        while time.perf_counter() < end:
            sum(range(1000))


@contextmanager
def disturbance(processes: int) -> Iterator[None]:
    stop = multiprocessing.Event()
    running = [multiprocessing.Process(target=compete, args=(stop,), daemon=True) for _ in range(processes)]
    for process in running:
        process.start()
    try:
        yield
    finally:
        stop.set()
        for process in running:
            process.join()


def collect(bundle: Path, target: str, rounds: int, processes: int) -> list[dict[str, Any]]:
    """One record per round and way of running."""
    prompt, records = [7 + i % 50 for i in range(32)], []
    options: dict[str, Any] = {"threads": 1, "context": len(prompt) + TOKENS}
    ways = {"governor": Runner(bundle, target, governor="on", **options)}
    governed = ways["governor"]
    limit = governed.selection.target.ms_per_token if governed.selection.target else None
    assert limit is not None
    losses = {b.name: b.validation_loss for b in governed.bundle.budgets}
    for budget in governed.bundle.budgets:
        ways[budget.name] = Runner(governed.bundle, budget=budget.name, threads=1)
    for number in range(rounds):
        for name, runner in ways.items():
            with disturbance(processes):
                generation = runner.generate_ids(prompt, TOKENS, stop_on_eos=False)
                generation.read()
            timings = generation.timings
            ran, begin, computed = runner.selection.budget.name, 0, []
            for switch in timings.switches:
                computed += [ran] * (switch.token - begin)
                ran, begin = switch.after, switch.token
            computed += [ran] * (timings.tokens - begin)
            known = [loss for budget in computed if (loss := losses[budget]) is not None]
            records.append(
                {
                    "round": number,
                    "way": name,
                    "within": sum(ms <= limit for ms in timings.token_ms) / len(timings.token_ms),
                    "p95": timings.p95,
                    "loss": statistics.mean(known) if known else None,
                    "switches": [[s.token, s.before, s.after, s.cost_ms] for s in timings.switches],
                }
            )
    return records


def report(records: list[dict[str, Any]], target: str) -> None:
    """A row per way of running."""
    table = Table("runs", "within target", "p95 ms", "mean loss", "switches", title=f"target {target}, disturbed")
    for way in dict.fromkeys(r["way"] for r in records):
        rows = [r for r in records if r["way"] == way]
        within = ", ".join(f"{r['within']:.1%}" for r in rows)
        loss = "–" if rows[0]["loss"] is None else f"{statistics.mean(r['loss'] for r in rows):.3f}"
        p95 = f"{statistics.median(r['p95'] for r in rows):.2f}"
        table.add_row(way, within, p95, loss, ", ".join(str(len(r["switches"])) for r in rows))
    Console(width=120).print(table)
    narrowing = [s[3] for r in records for s in r["switches"] if s[3] < 1]
    costs = sorted(s[3] for r in records for s in r["switches"])
    print(
        f"{len(costs)} switches, {len(narrowing)} of them under 1 ms; from {costs[0]} to {costs[-1]} ms"
        if costs
        else ""
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--target", required=True)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    records = collect(arguments.bundle, arguments.target, arguments.rounds, arguments.processes)
    report(records, arguments.target)
    if arguments.json:
        arguments.json.write_text(json.dumps(records, indent=1) + "\n")


if __name__ == "__main__":
    main()
