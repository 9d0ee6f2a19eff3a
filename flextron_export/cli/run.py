"""`flextron-export run`."""

from __future__ import annotations

from dataclasses import asdict, fields
from pathlib import Path
from typing import Any, TextIO

import click

from ..errors import InputError
from .common import DIRECTORY, json_option, print_json, runner_options, show_warnings, track


@click.command("run", short_help="Generate text at a latency target.")
@click.argument("bundle", type=DIRECTORY)
@click.option("--prompt", help="Text to continue.")
@click.option("--prompt-file", type=click.File(encoding="utf-8"), help="File with the text to continue; - for input.")
@runner_options
@click.option("--max-new-tokens", type=click.IntRange(min=1), default=64, show_default=True)
@click.option(
    "--temperature", type=float, default=0.0, show_default=True, help="0 takes the likeliest token each time."
)
@click.option("--top-k", type=int, default=0, help="Choose among the k likeliest tokens; 0 for all.")
@click.option("--top-p", type=float, default=1.0, help="Choose among the likeliest tokens of this total probability.")
@click.option(
    "--min-p", type=float, default=0.0, help="Choose among tokens this many times as likely as the likeliest."
)
@click.option(
    "--repetition-penalty", type=float, default=1.0, help="Above 1, tokens that have occurred become less likely."
)
@click.option("--stop", multiple=True, help="End before this text; repeat for several.")
@click.option("--logprobs", type=int, help="With --json: log-probabilities of every token and of this many likeliest.")
@click.option("--seed", type=click.IntRange(min=0), help="The same seed, prompt and settings give the same text.")
@click.option(
    "--ignore-eos",
    "stop_on_eos",
    flag_value=False,
    default=True,
    help="Go on after the model's end-of-text token.",
)
@click.option("--chat", is_flag=True, help="The prompt is a user's message, for the model's chat template.")
@click.option("--system", help="With --chat: the system message before it.")
@json_option
def run_command(
    bundle: Path,
    prompt: str | None,
    prompt_file: TextIO | None,
    chat: bool,
    system: str | None,
    as_json: bool,
    **options: Any,
) -> None:
    """Generate text with the best budget of BUNDLE that meets a latency target on this device.

    Text streams to standard output; which budget was picked and why, and the timings, go to standard error.

    \b
    Example:
      flextron-export run bundle --latency-target 20ms --prompt "In the beginning" --max-new-tokens 100
    """
    from ..bundle.manifest import Bundle
    from ..runtime.chat import ChatTemplate
    from ..runtime.options import GenerationOptions
    from ..runtime.runner import Runner
    from ..runtime.tokenizer import Tokenizer

    if (prompt is None) == (prompt_file is None):
        raise click.UsageError("Pass either --prompt or --prompt-file.")
    if system is not None and not chat:
        raise click.UsageError("--system needs --chat.")
    if options["governor"] != "off" and options["latency_target"] is None:
        raise click.UsageError("--governor needs a --latency-target with a time per token.")
    show_warnings()
    asked = GenerationOptions(**{f.name: options.pop(f.name) for f in fields(GenerationOptions)})
    opened = Bundle.open(bundle, hashes=options["verify_hashes"])
    try:
        text = prompt_file.read() if prompt_file else prompt or ""
    except UnicodeDecodeError as error:
        raise InputError(f"The prompt file is not UTF-8 text: {error.reason}.", fix="convert it to UTF-8") from error
    if chat:
        before = [{"role": "system", "content": system}] if system is not None else []
        text = ChatTemplate.of(bundle).render([*before, {"role": "user", "content": text}])
    ids = Tokenizer(bundle).encode(text, special=not chat)
    context = min(len(ids) + asked.max_new_tokens, opened.architecture.max_positions)
    with Runner(opened, context=context, on_switch=_say, track=track, **options) as runner:
        # Before anything is said: it refuses a prompt that cannot be used.
        generation = runner.generate(ids, **vars(asked))
        if not as_json:
            click.echo(generation.selection.reason, err=True)
            for rejected in generation.selection.rejected:
                click.echo(f"  not {rejected.budget.name}: {rejected.reason}", err=True)
            if generation.timings.drafted.reason:
                click.echo(generation.timings.drafted.reason, err=True)
        for piece in generation:
            if not as_json:
                click.echo(piece, nl=False)
        if as_json:
            found = {"text": generation.text, "tokens": list(generation.tokens)}
            if asked.logprobs is not None:
                found["logprobs"] = [asdict(entry) for entry in generation.logprobs]
            print_json({**found, "selection": generation.selection.to_json(), "timings": runner.timings.to_json()})
        else:
            click.echo()
            click.echo(_summary(runner), err=True)


def _say(switch: Any) -> None:
    change = f"token {switch.token}: {switch.before} -> {switch.after} in {switch.cost_ms:.2f} ms"
    click.echo(f"\n[{change}: {switch.reason}]", err=True)


def _summary(runner: Any) -> str:
    timings = runner.timings
    text = f"{timings.tokens} tokens; first after {timings.first_token_ms:.1f} ms"
    if timings.p95 is not None:
        text += f", then p50 {timings.p50:.2f} ms and p95 {timings.p95:.2f} ms per token"
    if timings.drafted.tokens:
        drafted = timings.drafted
        text += f"; {drafted.accepted} of {drafted.tokens} drafted tokens accepted in {drafted.rounds} rounds"
    if timings.met is not None:
        text += f"; target {'met' if timings.met else 'missed'} in this run ({timings.target})"
    if timings.stopped_by == "context":
        text += f"; stopped at the {runner.max_tokens} tokens that the model holds"
    return text
