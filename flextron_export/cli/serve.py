"""`flextron-export serve`."""

from __future__ import annotations

from pathlib import Path

import click

from .common import DIRECTORY, json_option, print_json, show_warnings, target_options, track


@click.command("serve", short_help="Answer requests of the OpenAI API over HTTP.")
@click.argument("bundle", type=DIRECTORY)
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on; 0.0.0.0 for all.")
@click.option("--port", type=click.IntRange(0, 65535), default=8000, show_default=True, help="0 for any free one.")
@click.option("--name", help="Name of the model in requests; the bundle's directory by default.")
@click.option(
    "--latency-target", help="Of requests that set none, such as 20ms; without one the widest budget answers."
)
@click.option("--budget", help="Budget of requests that set nothing.")
@click.option(
    "--best-effort", is_flag=True, help="If no budget meets a target, answer with the one that comes closest."
)
@click.option(
    "--calibration",
    type=click.Choice(["auto", "never", "always"]),
    default="auto",
    show_default=True,
    help="Measure the budgets before the first request: if this device has no table, never, or in any case.",
)
@click.option("--parallel", type=click.IntRange(min=1), help="Generations at once; by default cores / threads.")
@click.option("--waiting", type=click.IntRange(min=0), default=16, show_default=True, help="Requests that may wait.")
@click.option("--wait", type=click.FloatRange(min=0), default=60.0, show_default=True, help="Seconds they may wait.")
@click.option("--max-body", type=click.IntRange(min=1), default=1 << 20, show_default=True, help="Bytes of a request.")
@click.option(
    "--body-timeout", type=click.FloatRange(min=0), default=20.0, show_default=True, help="Seconds to send it."
)
@click.option("--max-prompt", type=click.IntRange(min=1), help="Tokens of a prompt; what the model holds by default.")
@click.option("--max-new-tokens", type=click.IntRange(min=1), help="Tokens of an answer; what fits by default.")
@click.option("--grace", type=click.FloatRange(min=0), default=30.0, show_default=True, help="Seconds to finish in.")
@click.option("--prefix-cache", type=click.IntRange(min=0), default=4, show_default=True, help="KV caches to keep.")
@click.option("--api-key", envvar="FLEXTRON_API_KEY", help="What clients must send; also from $FLEXTRON_API_KEY.")
@click.option("--no-verify-hashes", is_flag=True, help="Check sizes of the bundle's files only; starts faster.")
@target_options
@json_option
def serve_command(
    bundle: Path,
    host: str,
    port: int,
    name: str | None,
    latency_target: str | None,
    budget: str | None,
    best_effort: bool,
    calibration: str,
    parallel: int | None,
    waiting: int,
    wait: float,
    max_body: int,
    body_timeout: float,
    max_prompt: int | None,
    max_new_tokens: int | None,
    grace: float,
    prefix_cache: int,
    api_key: str | None,
    no_verify_hashes: bool,
    target: str,
    layout: str | None,
    dtype: str | None,
    threads: int | None,
    low_memory: bool,
    as_json: bool,
) -> None:
    """Serve BUNDLE to clients of the OpenAI API; each request may set a latency target (docs/serving.md).

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
        parallel=parallel or max(usable_cores() // (threads or usable_cores()), 1),
        waiting=waiting,
        wait_seconds=wait,
        body_bytes=max_body,
        body_seconds=body_timeout,
        prompt_tokens=max_prompt,
        new_tokens=max_new_tokens,
        grace_seconds=grace,
        best_effort=best_effort,
        api_key=api_key,
    )
    settings.validate()
    with Runner(
        bundle,
        latency_target,
        target=target,
        layout=layout,
        dtype=dtype,
        budget=budget,
        threads=threads,
        low_memory=low_memory,
        best_effort=best_effort,
        verify_hashes=not no_verify_hashes,
        calibration=calibration,
        prefix_cache=prefix_cache,
        track=track,
    ) as runner:
        if calibration != "never":
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
