"""Test the claims of Flextron (arXiv 2406.10260) on a base model small enough for two cores.

    python tools/reproduce_claims.py [--seeds 3] [--only a,b] [--quick] [--workers 2] [--work DIRECTORY]

It pretrains a base, makes it elastic, and trains everything it is compared with; docs/results/claims.md says what each
claim is and what came out. Every run is kept under the work directory by all that it depends on: a run that was made is
not made again, and stopping the command at any moment loses at most the runs in progress.
"""

from __future__ import annotations

import argparse
import multiprocessing
import sys
import time
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from rich.console import Console

from flextron_export.errors import FlextronError, InputError
from tools.claims.protocol import CLAIMS, FULL, QUICK, Protocol
from tools.claims.recipes import Recipe, key
from tools.claims.report import write_report
from tools.claims.runs import ROOT, Store

console = Console(width=None if sys.stdout.isatty() else 130)


def run(store: Store, recipe: Recipe) -> dict[str, Any]:
    """One job of a worker process."""
    return store.run(recipe)


def run_all(store: Store, recipes: list[Recipe], workers: int) -> None:
    """Run the recipes that have not been, so many at a time; those that others start from go first."""
    waiting = [r for r in recipes if not store.has(r)]
    console.print(f"{len(recipes)} runs, {len(recipes) - len(waiting)} of them made before")
    depth = {r: r.depth for r in waiting}
    for level in sorted(set(depth.values())):
        jobs = sorted((r for r in waiting if depth[r] == level), key=lambda r: -r.tokens)
        if workers == 1:
            for recipe in jobs:
                run(store, recipe)
            continue
        # Fresh processes: a forked one could hold a lock of torch's thread pool.
        with ProcessPoolExecutor(workers, multiprocessing.get_context("spawn")) as pool:
            futures = {pool.submit(run, store, recipe): recipe for recipe in jobs}
            for future in as_completed(futures):
                seconds = future.result()["seconds"]
                console.print(f"{key(futures[future])}: {seconds:.0f} s", highlight=False)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--only", default=",".join(CLAIMS), help="claims to test, such as a,b (default: %(default)s)")
    parser.add_argument("--quick", action="store_true", help="a minute's smoke test on a tiny model: no evidence")
    parser.add_argument("--workers", type=int, default=2, help="runs at a time, of one thread each")
    parser.add_argument("--work", type=Path, default=ROOT / "work" / "claims")
    parser.add_argument("--out", type=Path, help="directory for tables, plots and numbers (default: WORK/report)")
    options = parser.parse_args()
    try:
        claims = tuple(dict.fromkeys(options.only.split(",")))
        if unknown := sorted(set(claims) - set(CLAIMS)):
            raise InputError(f"There is no claim {', '.join(unknown)}.", fix=f"use some of: {','.join(CLAIMS)}")
        if options.seeds < 1 or options.workers < 1:
            raise InputError("At least one seed and one worker are needed.")
        protocol = QUICK if options.quick else FULL
        reproduce(
            protocol, options.seeds, claims, options.workers, options.work, options.out or options.work / "report"
        )
    except FlextronError as error:
        console.print(f"[red]error:[/] {error}", highlight=False)
        sys.exit(error.exit_code)


def reproduce(
    protocol: Protocol, seeds: int, claims: tuple[str, ...], workers: int, work: Path, out: Path
) -> dict[str, Any]:
    """Run what the claims need and write the report; the numbers in it are returned."""
    start = time.perf_counter()
    store = Store(work / "runs")
    plans = [protocol.plans(seed) for seed in range(1, seeds + 1)]
    run_all(store, list(dict.fromkeys(r for claim in claims for plan in plans for r in plan[claim])), workers)
    numbers = write_report(store, protocol, seeds, claims, out)
    console.print(f"{time.perf_counter() - start:.0f} s; tables, plots and numbers: {out}")
    return numbers


if __name__ == "__main__":
    main()
