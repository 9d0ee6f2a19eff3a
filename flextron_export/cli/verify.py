"""`flextron-export verify`."""

from __future__ import annotations

from pathlib import Path

import click

from .common import DIRECTORY, json_option, print_json, print_table, track


@click.command("verify", short_help="Check that every graph computes what the model computes.")
@click.argument("bundle", type=DIRECTORY)
@click.option(
    "--checkpoint", type=DIRECTORY, help="Compare with this checkpoint's torch model, not the golden outputs."
)
@json_option
def verify_command(bundle: Path, checkpoint: Path | None, as_json: bool) -> None:
    """Check the files of BUNDLE, and that every graph computes what the model computes.

    \b
    Example:
      flextron-export verify bundle --checkpoint checkpoint
    """
    from ..targets.verify import verify

    checks = verify(bundle, checkpoint=checkpoint, track=track)
    if as_json:
        print_json([check.to_json() for check in checks])
        return
    worst: dict[tuple[str, str, str], tuple[float, float, int]] = {}
    for check in checks:
        key = (check.budget, check.layout, check.dtype)
        difference, _, tokens = worst.get(key, (0.0, 0.0, 0))
        worst[key] = max(difference, check.difference), check.tolerance, tokens + check.tokens_compared
    rows = [[*key, f"{d:.1e}", f"{allowed:.0e}", tokens] for key, (d, allowed, tokens) in worst.items()]
    columns = ["budget", "layout", "dtype", "difference", "allowed", "tokens or choices"]
    print_table("largest difference of a logit, relative to the largest logit", columns, rows)
    click.echo(f"all {len(checks)} checks passed")
