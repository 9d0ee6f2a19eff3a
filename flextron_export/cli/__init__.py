"""The command `flextron-export`: one file per subcommand, loaded when it is used (docs/command-line.md)."""

from __future__ import annotations

from importlib import import_module
from typing import Any

import click

from ..errors import FlextronError
from ..version import __version__

COMMANDS = (
    "elastify",
    "import",
    "latency",
    "search",
    "route",
    "export",
    "build",
    "calibrate",
    "plan",
    "report",
    "bench",
    "verify",
    "evaluate",
    "run",
    "serve",
    "triton",
    "inspect",
)
INTERRUPTED = 130


class Commands(click.Group):
    """Loads a subcommand's module when asked for; turns this package's errors into messages and exit codes."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        if name not in COMMANDS:
            return None
        command: click.Command = getattr(import_module(f".{name}", __name__), f"{name}_command")
        return command

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except FlextronError as error:
            click.echo(f"error: {error}", err=True)
            ctx.exit(error.exit_code)
        except KeyboardInterrupt:
            click.echo("\ninterrupted", err=True)
            ctx.exit(INTERRUPTED)


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="flextron-export")
def main() -> None:
    """Elastic language models at a latency target.

    \b
    Example:
      flextron-export elastify MODEL --text book.txt --out checkpoint
      flextron-export export checkpoint --out bundle
      flextron-export run bundle --latency-target 20ms --prompt "In the beginning"

    Exit codes: 0 done, 2 wrong usage, 3 to 10 an error of this tool (docs/command-line.md), 130 interrupted.
    """
