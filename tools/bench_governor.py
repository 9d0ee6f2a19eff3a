"""The latency governor under a real disturbance: processes that compete for the processor, in the same rhythm for all.

    python tools/bench_governor.py BUNDLE --target 4ms [--rounds 3] [--seconds 6] [--processes 1] [--json FILE]

In every round the same prompt is continued, again and again for the same time, under the governor and at each fixed
budget, while competing processes work and pause by turns. All run on one core, so they do compete. Printed is the share
of tokens within the target, and the mean validation loss of the budgets that computed them, where the bundle knows it.
`--raise-priority` (root) keeps what else runs on the machine out of the way of the measuring and the disturbance alike.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import statistics
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
from rich.console import Console
from rich.table import Table

from flextron_export import Runner
from flextron_export.runtime.timings import Timings

TOKENS, PROMPT = 400, [7 + i % 50 for i in range(32)]
RAISED = -10


def compete(stop: Any, period: float) -> None:
    """Pause for half of the period, work for the other."""
    start = time.perf_counter()
    while not stop.is_set():
        at = (time.perf_counter() - start) % period
        if at < period / 2:
            time.sleep(min(period / 2 - at, 0.01))
        else:
            sum(range(1000))


@contextmanager
def disturbance(processes: int, period: float) -> Iterator[None]:
    stop = multiprocessing.Event()
    running = [multiprocessing.Process(target=compete, args=(stop, period), daemon=True) for _ in range(processes)]
    for process in running:
        process.start()
    try:
        yield
    finally:
        stop.set()
        for process in running:
            process.join()


def computed_by(timings: Timings, first: str) -> list[str]:
    """The budget of every token."""
    found: list[str] = []
    running = first
    for switch in timings.switches:
        found += [running] * (switch.token - len(found))
        running = switch.after
    return found + [running] * (timings.tokens - len(found))


def collect(bundle: Path, target: str, arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """One record per round and way of running."""
    options: dict[str, Any] = {"threads": 1, "context": len(PROMPT) + TOKENS, "prefix_cache": 0}
    ways = {"governor": Runner(bundle, target, governor="on", **options)}
    governed, records = ways["governor"], []
    limit = governed.selection.target.ms_per_token if governed.selection.target else None
    assert limit is not None
    losses = {b.name: b.validation_loss for b in governed.bundle.budgets}
    for budget in governed.bundle.budgets:
        ways[budget.name] = Runner(governed.bundle, budget=budget.name, threads=1, prefix_cache=0)
    for number in range(arguments.rounds):
        for name, runner in ways.items():
            times: list[float] = []
            budgets: list[str] = []
            switches: list[Any] = []
            with disturbance(arguments.processes, arguments.period):
                end = time.perf_counter() + arguments.seconds
                while time.perf_counter() < end:
                    generation = runner.generate_ids(PROMPT, TOKENS, stop_on_eos=False)
                    generation.read()
                    times += generation.timings.token_ms
                    budgets += computed_by(generation.timings, runner.selection.budget.name)[1:]
                    switches += [[s.token, s.before, s.after, s.cost_ms] for s in generation.timings.switches]
            known = [loss for budget in budgets if (loss := losses[budget]) is not None]
            records.append(
                {
                    "round": number,
                    "way": name,
                    "limit": limit,
                    "within": sum(ms <= limit for ms in times) / len(times),
                    "p95": float(np.percentile(times, 95)),
                    "loss": statistics.mean(known) if known else None,
                    "switches": switches,
                    "token_ms": [round(ms, 3) for ms in times],
                    "budgets": budgets,
                }
            )
    return records


def report(records: list[dict[str, Any]], target: str) -> None:
    """A row per way of running."""
    table = Table("runs", "within target", "p95 ms", "tokens", "mean loss", "switches", title=f"target {target}")
    for way in dict.fromkeys(r["way"] for r in records):
        rows = [r for r in records if r["way"] == way]
        within = ", ".join(f"{r['within']:.1%}" for r in rows)
        loss = "–" if rows[0]["loss"] is None else f"{statistics.mean(r['loss'] for r in rows):.3f}"
        p95, tokens = f"{statistics.median(r['p95'] for r in rows):.2f}", sum(len(r["token_ms"]) for r in rows)
        table.add_row(way, within, p95, f"{tokens:,}", loss, ", ".join(str(len(r["switches"])) for r in rows))
    Console(width=120).print(table)
    order = [r["way"] for r in records]
    narrower = {way: place for place, way in enumerate(dict.fromkeys(order))}
    narrowing = sorted(s[3] for r in records for s in r["switches"] if narrower[s[2]] > narrower[s[1]])
    if narrowing:
        print(f"{len(narrowing)} changes to a narrower budget: median {statistics.median(narrowing):.3f} ms", end="")
        print(f", longest {narrowing[-1]:.3f} ms")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--target", required=True)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=6, help="of every way in every round")
    parser.add_argument("--period", type=float, default=0.8, help="seconds of one pause and one stretch of work")
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--raise-priority", action="store_true")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    if arguments.raise_priority:
        os.setpriority(os.PRIO_PROCESS, 0, RAISED)
    records = collect(arguments.bundle, arguments.target, arguments)
    report(records, arguments.target)
    if arguments.json:
        arguments.json.write_text(json.dumps(records) + "\n")


if __name__ == "__main__":
    main()
