"""`flextron-export bench`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from .common import DIRECTORY, integers, json_option, names, print_json, print_table, target_options, track


@click.command("bench", short_help="Print milliseconds per token by live tokens in a cache of one capacity.")
@click.argument("bundle", type=DIRECTORY)
@click.option(
    "--live", callback=integers, help="Tokens in the cache, such as 64,512,4096 (the default, as far as they fit)."
)
@click.option("--capacity", type=click.IntRange(min=1), help="Slots of the KV cache; 4096 by default.")
@click.option("--budget", "budgets", multiple=True, callback=names, help="Only these budgets; may repeat.")
@click.option(
    "--repeats",
    type=click.IntRange(min=1),
    default=48,
    show_default=True,
    help="Steps to measure per budget and length; fewer, but at least 6, if they take more than 20 s.",
)
@target_options
@json_option
def bench_command(bundle: Path, as_json: bool, **options: Any) -> None:
    """Measure the time per token of every budget of BUNDLE with few and many live tokens in a large KV cache.

    A context should cost by its own length, not by what its cache could hold. Nothing is kept: what a runner selects by
    is measured by `calibrate`.

    \b
    Example:
      flextron-export bench bundle --live 64,512,4096 --capacity 4096 --threads 1
    """
    from ..runtime.bench import bench

    found = bench(bundle, track=track, **options)
    if as_json:
        print_json(found.to_json())
        return
    lengths = [t.tokens for t in next(iter(found.decode.values()))]
    columns = ["budget", *(f"{p} at {n}" for n in lengths for p in ("p50", "p95"))]
    rows = [
        [name, *(f"{value:.2f}" for t in timings for value in (t.p50, t.p95))] for name, timings in found.decode.items()
    ]
    title = f"ms per token by live tokens in a cache of {found.capacity}: {found.target}, {found.layout}, {found.dtype}"
    print_table(title, columns, rows)
