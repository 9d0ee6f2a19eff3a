"""What the subcommands share: options, progress on standard error, JSON and tables on standard output."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Callable, Collection, Iterable
from pathlib import Path
from typing import Any, TypeVar

import click

from ..targets import DEFAULT_TARGET

T = TypeVar("T")
F = TypeVar("F", bound=Callable[..., Any])

DIRECTORY = click.Path(path_type=Path)
"""A directory argument. Whether it fits is for the verb to say: its message knows the next command."""

json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON for programs on standard output.")


latency_target_option = click.option(
    "--latency-target",
    help="20ms or 50tok/s (per token), 300ms@128 (first token of a 128-token prompt), 512MB (memory), or several with "
    "commas.",
)
calibration_option = click.option(
    "--calibration",
    type=click.Choice(["auto", "never", "always"]),
    default="auto",
    show_default=True,
    help="Measure the budgets: once per device, never, or now.",
)


def target_options(function: F) -> F:
    """`--target`, `--layout`, `--dtype`, `--threads` and `--low-memory`: how a bundle is going to run."""
    for option in (
        click.option("--low-memory", is_flag=True, help="Leave the weights in the mapped file: slower, less memory."),
        click.option("--threads", type=click.IntRange(min=1), help="Threads of the target; one per core by default."),
        click.option("--dtype", help="Precision, such as fp32, fp16 or int4; the target's own choice by default."),
        click.option(
            "--layout", help="Graph layout: panels, shared, per-budget or routed; the target's own choice by default."
        ),
        click.option("--target", default=DEFAULT_TARGET, show_default=True, help="Where it runs."),
    ):
        function = option(function)
    return function


def runner_options(function: F) -> F:
    """What `run` and `serve` have in common: arguments of `Runner` under its names, `target_options` among them."""
    for option in (
        target_options,
        click.option(
            "--no-verify-hashes",
            "verify_hashes",
            flag_value=False,
            default=True,
            help="Check sizes of the bundle's files only; starts faster.",
        ),
        click.option(
            "--governor",
            type=click.Choice(["off", "narrow", "on"]),
            default="off",
            show_default=True,
            help="Change the budget while it runs to keep the target's time per token: not, only downwards, or both "
            "ways.",
        ),
        click.option("--draft-budget", "draft", help="With --speculative: the budget that drafts."),
        click.option(
            "--speculative",
            default="off",
            show_default=True,
            help="A narrower budget drafts tokens, the budget verifies them: auto (where it is faster), off, or how "
            "many.",
        ),
        calibration_option,
        click.option(
            "--best-effort", is_flag=True, help="If no budget meets the target, run the one that comes closest."
        ),
        click.option("--budget", help="Run this budget, whatever it costs."),
        latency_target_option,
    ):
        function = option(function)
    return function


def text_options(function: F) -> F:
    """`--text` and `--text-field`."""
    for option in (
        click.option(
            "--text-field", default="text", show_default=True, help="Field with the text in JSONL and data sets."
        ),
        click.option(
            "--text",
            multiple=True,
            required=True,
            help="Text: .txt or .jsonl, also .xz or .gz; or dataset:DIRECTORY_OR_NAME[:SPLIT[:CONFIGURATION]]; "
            "may repeat.",
        ),
    ):
        function = option(function)
    return function


def work_options(function: F) -> F:
    """`--work` and `--resume`: what an interrupted run left, and going on with it."""
    for option in (
        click.option("--resume", is_flag=True, help="Go on where an interrupted run was; begin if there is none."),
        click.option("--work", type=DIRECTORY, help="Directory for unfinished work, kept; default OUT.work, not kept."),
    ):
        function = option(function)
    return function


def integers(_context: click.Context, _parameter: click.Parameter, value: str | None) -> tuple[int, ...] | None:
    """Callback of an option that takes numbers with commas."""
    if value is None:
        return None
    try:
        return tuple(int(part) for part in value.split(","))
    except ValueError:
        raise click.BadParameter(f"{value!r} is not a list of whole numbers such as 64,256") from None


def names(_context: click.Context, _parameter: click.Parameter, value: tuple[str, ...]) -> tuple[str, ...]:
    """Callback of an option that may be repeated and may hold several names with commas."""
    return tuple(part.strip() for text in value for part in text.split(",") if part.strip())


def track(items: Collection[T], description: str, /) -> Iterable[T]:
    """Progress on standard error: a bar on a terminal, one line elsewhere."""
    if not sys.stderr.isatty():
        click.echo(f"{description} ...", err=True)
        return items
    from rich.console import Console
    from rich.progress import track as bar

    return bar(items, description, console=Console(stderr=True), transient=True)


def show_warnings() -> None:
    """Let the library's warnings appear as plain lines on standard error."""
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(message)s"))
    logging.getLogger("flextron_export").handlers = [handler]


def print_json(value: Any) -> None:
    """Indented JSON on standard output."""
    click.echo(json.dumps(value, indent=1, ensure_ascii=False))


def print_table(title: str, columns: Iterable[str], rows: Iterable[Iterable[Any]]) -> None:
    """A table on standard output; the first column is text, the others are numbers."""
    from rich.box import SIMPLE
    from rich.console import Console
    from rich.table import Table

    # Without a terminal the width would be cut to 80 and cells folded, which spoils logs.
    console = Console() if sys.stdout.isatty() else Console(width=160, color_system=None)
    table = Table(box=SIMPLE)
    for number, column in enumerate(columns):
        table.add_column(column, justify="right" if number else "left", no_wrap=True)
    for row in rows:
        table.add_row(*("–" if cell is None else str(cell) for cell in row))
    console.print(title, highlight=False, markup=False, soft_wrap=True)  # a table's own title folds at its width
    console.print(table, highlight=False, markup=False)


def megabytes(count: float) -> str:
    """Bytes as text in MB."""
    return f"{count / 1e6:,.1f} MB"


def span(widths: list[int]) -> str:
    """Widths of all layers in short: one number if they are the same."""
    low, high = min(widths), max(widths)
    return str(low) if low == high else f"{low}–{high}, mean {sum(widths) / len(widths):.1f}"
