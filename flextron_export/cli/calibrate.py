"""`flextron-export calibrate`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from .common import (
    DIRECTORY,
    integers,
    json_option,
    megabytes,
    print_json,
    print_table,
    show_warnings,
    target_options,
    track,
)


@click.command("calibrate", short_help="Measure every budget on this device.")
@click.argument("bundle", type=DIRECTORY)
@target_options
@click.option("--contexts", callback=integers, help="Context lengths to measure decoding at, such as 64,256,1024.")
@click.option("--prompt-lengths", callback=integers, help="Prompt lengths to measure the first token at.")
@click.option(
    "--repeats",
    type=click.IntRange(min=1),
    default=96,
    show_default=True,
    help="Decode steps to measure per budget and context length; a twelfth as many first tokens, but at least 6.",
)
@json_option
def calibrate_command(
    bundle: Path,
    contexts: tuple[int, ...] | None,
    prompt_lengths: tuple[int, ...] | None,
    as_json: bool,
    **options: Any,
) -> None:
    """Measure every budget of BUNDLE on this device and keep the table in the bundle.

    A step includes the choice of its token with temperature 1 and top-p 0.95. The table of a bundle that cannot be
    written is kept in the user's cache directory.

    If that would take more than about a minute, each is measured less often, at least 6 times.

    \b
    Example:
      flextron-export calibrate bundle --threads 1
    """
    from ..runtime.calibrate import CONTEXTS, PROMPT_LENGTHS, calibrate

    show_warnings()
    table = calibrate(
        bundle,
        contexts=contexts or CONTEXTS,
        prompt_lengths=prompt_lengths or PROMPT_LENGTHS,
        track=track,
        **options,
    )
    if as_json:
        print_json(table.to_json())
        return
    device = table.device
    where = f"{device.get('gpu') or device['cpu']}, {device['cores']} cores, {device['threads']} threads"
    costs = table.budgets
    first = next(iter(costs.values()))
    columns = ["budget", "parameters"]
    columns += [f"{p} at {t.tokens}" for t in first.decode for p in ("p50", "p95")]
    columns += [f"first at {t.tokens}" for t in first.first_token]
    rows = [
        [
            name,
            f"{cost.parameters:,}",
            *(f"{value:.2f}" for t in cost.decode for value in (t.p50, t.p95)),
            *(f"{t.p95:.1f}" for t in cost.first_token),
            megabytes(cost.memory_bytes(cost.decode[-1].tokens)),
        ]
        for name, cost in costs.items()
    ]
    title = f"ms per token by context length, ms to the first token by prompt length (p95), {where}"
    print_table(title, [*columns, "memory"], rows)
    click.echo(f"device {device['id']}: {table.target}, {table.layout}, {table.dtype}")
    decode, first_token = (
        min(t.samples for cost in costs.values() for t in getattr(cost, kind)) for kind in ("decode", "first_token")
    )
    if table.caution:
        click.echo(table.caution, err=True)
    click.echo(f"at least {decode} decode steps per context length, {first_token} first tokens per prompt length")
