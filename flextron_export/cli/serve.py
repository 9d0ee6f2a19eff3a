"""`flextron-export serve`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from .common import DIRECTORY, json_option, print_json, runner_options, show_warnings, track


@click.command("serve", short_help="Answer requests of the OpenAI API over HTTP.")
@click.argument("bundle", type=DIRECTORY)
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on; 0.0.0.0 for all.")
@click.option("--port", type=click.IntRange(0, 65535), default=8000, show_default=True, help="0 for any free one.")
@click.option("--name", help="Name of the model in requests; the bundle's directory by default.")
@runner_options
@click.option("--parallel", type=click.IntRange(min=1), help="Generations at once; by default cores / threads.")
@click.option("--waiting", type=click.IntRange(min=0), default=16, show_default=True, help="Requests that may wait.")
@click.option(
    "--wait", "wait_seconds", type=click.FloatRange(min=0), default=60.0, show_default=True, help="Seconds they may."
)
@click.option(
    "--max-body",
    "body_bytes",
    type=click.IntRange(min=1),
    default=1 << 20,
    show_default=True,
    help="Bytes of a request.",
)
@click.option(
    "--body-timeout",
    "body_seconds",
    type=click.FloatRange(min=0),
    default=20.0,
    show_default=True,
    help="Seconds to send it.",
)
@click.option(
    "--max-prompt",
    "prompt_tokens",
    type=click.IntRange(min=1),
    help="Tokens of a prompt; what the model holds by default.",
)
@click.option(
    "--max-new-tokens", "new_tokens", type=click.IntRange(min=1), help="Tokens of an answer; what fits by default."
)
@click.option(
    "--grace",
    "grace_seconds",
    type=click.FloatRange(min=0),
    default=30.0,
    show_default=True,
    help="Seconds to finish in.",
)
@click.option("--prefix-cache", type=click.IntRange(min=0), default=4, show_default=True, help="KV caches to keep.")
@click.option("--api-key", envvar="FLEXTRON_API_KEY", help="What clients must send; also from $FLEXTRON_API_KEY.")
@json_option
def serve_command(
    bundle: Path,
    host: str,
    port: int,
    name: str | None,
    parallel: int | None,
    waiting: int,
    wait_seconds: float,
    body_bytes: int,
    body_seconds: float,
    prompt_tokens: int | None,
    new_tokens: int | None,
    grace_seconds: float,
    api_key: str | None,
    as_json: bool,
    **options: Any,
) -> None:
    """Serve BUNDLE to clients of the OpenAI API; each request may set a latency target (docs/serving.md).

    --latency-target and --budget are for requests that set neither; without them the widest budget answers these.
    Stops on SIGTERM or Ctrl-C, after running answers have finished or --grace is over.

    \b
    Example:
      flextron-export serve bundle --port 8000 --latency-target 20ms
    """
    from ..runtime.runner import Runner
    from ..serve.server import serve
    from ..serve.settings import ServeSettings
    from ..targets.cores import usable_cores

    show_warnings()
    settings = ServeSettings(
        name=name or bundle.resolve().name.replace(":", "-"),
        parallel=parallel or max(usable_cores() // (options["threads"] or usable_cores()), 1),
        waiting=waiting,
        wait_seconds=wait_seconds,
        body_bytes=body_bytes,
        body_seconds=body_seconds,
        prompt_tokens=prompt_tokens,
        new_tokens=new_tokens,
        grace_seconds=grace_seconds,
        best_effort=options["best_effort"],
        api_key=api_key,
    )
    settings.validate()
    with Runner(bundle, track=track, **options) as runner:
        if options["calibration"] != "never":
            runner.measurements()  # now, and not while the first client waits

        def ready(address: str) -> None:
            if as_json:
                print_json({"address": address, "model": settings.name, "selection": runner.selection.to_json()})
            else:
                click.echo(
                    f"{settings.name} at {address}/v1, {settings.parallel} at a time; stop with Ctrl-C", err=True
                )
                click.echo(f"requests without a target: {runner.selection.reason}", err=True)

        serve(runner, settings, host, port, ready)
