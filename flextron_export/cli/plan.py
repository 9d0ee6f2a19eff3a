"""`flextron-export plan`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from .common import (
    DIRECTORY,
    calibration_option,
    json_option,
    latency_target_option,
    megabytes,
    print_json,
    print_table,
    show_warnings,
    target_options,
    track,
)


@click.command("plan", short_help="List what every budget costs, here or on another device.")
@click.argument("bundle", type=DIRECTORY)
@click.option(
    "--device",
    help="Whose numbers: a device that BUNDLE was calibrated on, a described one such as jetson-orin-nano (predicted), "
    "or a .toml or .json file; this one by default.",
)
@latency_target_option
@click.option("--context", type=click.IntRange(min=1), help="Tokens in the cache; the longest measured by default.")
@click.option("--prompt-length", type=click.IntRange(min=1), help="Of the time to the first token.")
@calibration_option
@target_options
@json_option
def plan_command(bundle: Path, as_json: bool, **options: Any) -> None:
    """List quality, time per token, time to the first token and memory of every budget of BUNDLE.

    With a latency target, say which budget it would pick. Numbers that nobody measured are marked as predicted. A
    --device FILE.json is a latency table, or a latency model (docs/latency-model.md).

    \b
    Example:
      flextron-export plan bundle --latency-target 20ms,300ms@128
      flextron-export plan bundle --device jetson-orin-nano --latency-target 50tok/s
    """
    from ..planning import plan

    show_warnings()
    # The default target is no wish: another device's measurements may be of any.
    source = click.get_current_context().get_parameter_source("target")
    if source is click.core.ParameterSource.DEFAULT:
        options["target"] = None
    found = plan(bundle, track=track, **options)
    if as_json:
        print_json(found.to_json())
        return
    predicted, table = bool(found.table.predicted), found.table
    device = table.device
    columns = ["budget", "loss", "parameters", "ms/token"]
    columns += ["tokens/s", "first token"] if predicted else ["p95", "tokens/s", "first token, p95"]
    rows = []
    for b in found.budgets:
        times = (b.p50,) if predicted else (b.p50, b.p95)
        rows.append(
            [
                b.budget.name,
                _number(b.budget.validation_loss, ".4f"),
                f"{b.parameters:,}",
                *(_number(ms, ".3f") for ms in times),
                _number(b.tokens_per_second, ".1f"),
                _number(b.first_token, ".2f"),
                megabytes(b.memory_bytes),
            ]
        )
    where = f"{device.get('gpu') or device.get('cpu') or device['id']}: {table.target}, {table.dtype}"
    kind = "PREDICTED" if predicted else f"measured {table.conditions.get('date', '')}".rstrip()
    title = f"{where}; {kind}; context {found.context}, first token of {found.prompt_length}"
    print_table(title, [*columns, "memory"], rows)
    for note in found.notes:
        click.echo(note)
    if found.verdict:
        click.echo(found.verdict)


def _number(value: float | None, form: str) -> str | None:
    return None if value is None else format(value, form)
