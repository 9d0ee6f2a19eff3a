"""`flextron-export latency`: latency models, fitted to measurements or computed from a data sheet."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..files import check_writable
from .common import DIRECTORY, json_option, print_json, print_table, show_warnings, target_options, track

if TYPE_CHECKING:
    from ..elastic.checkpoint import ElasticCheckpoint
    from ..training.latency_model import LatencyModel


@click.group("latency", short_help="Make a latency model: what each width costs in each layer.")
def latency_command() -> None:
    """Make a latency model: milliseconds of each layer's attention and FFN at each candidate width.

    Routers and `search` weigh widths by it (docs/latency-model.md). Every subcommand takes --json.

    \b
    Example:
      flextron-export latency fit bundle --out here.json
      flextron-export latency analytic checkpoint --device jetson-agx-orin --out orin.json
    """


def latency_options(function: Any) -> Any:
    """`--latency-model`, or `--latency-device` and what belongs to it; see `chosen_latency`."""
    for option in (
        click.option("--latency-dtype", default="fp16", show_default=True, help="Precision of the weights there."),
        click.option("--latency-tokens", type=int, default=1024, show_default=True, help="Context or prompt length."),
        click.option(
            "--latency-phase",
            type=click.Choice(("decode", "prefill")),
            default="decode",
            show_default=True,
            help="Per token, or a whole prompt.",
        ),
        click.option("--latency-shape", help="Stand for a model of this shape: 1b, 7b or 8b."),
        click.option(
            "--latency-device", help="Instead of a file: a described device, such as jetson-agx-orin, or a .toml file."
        ),
        click.option("--latency-model", type=DIRECTORY, help="File of `latency fit` or `latency analytic`."),
    ):
        function = option(function)
    return function


def chosen_latency(
    checkpoint: ElasticCheckpoint,
    latency_model: Path | None,
    latency_device: str | None,
    latency_shape: str | None,
    latency_phase: str,
    latency_tokens: int,
    latency_dtype: str,
) -> LatencyModel:
    """The latency model that `latency_options` ask for, of a file or of a described device."""
    from ..training.latency_model import LatencyModel

    if latency_device is None:
        return LatencyModel.load(latency_model or "")
    return analytic_model(checkpoint, latency_device, latency_shape, latency_phase, latency_tokens, latency_dtype)


def check_latency_options(options: dict[str, Any]) -> dict[str, Any]:
    """Take `latency_options` out of all options; click's error if they do not fit together."""
    latency = {name: options.pop(name) for name in list(options) if name.startswith("latency_")}
    if (latency["latency_model"] is None) == (latency["latency_device"] is None):
        raise click.UsageError("pass --latency-model FILE or --latency-device NAME, one of them")
    if latency["latency_shape"] is not None and latency["latency_device"] is None:
        raise click.UsageError("--latency-shape belongs to --latency-device")
    return latency


def model_options(tokens: int) -> Any:
    """`--phase`, `--tokens`, `--out` and `--json`."""

    def add(function: Any) -> Any:
        for option in (
            json_option,
            click.option("--out", type=DIRECTORY, help="JSON file to write."),
            click.option("--tokens", type=int, default=tokens, show_default=True, help="Context or prompt length."),
            click.option(
                "--phase",
                type=click.Choice(("decode", "prefill")),
                default="decode",
                show_default=True,
                help="Per token, or a whole prompt.",
            ),
        ):
            function = option(function)
        return function

    return add


@latency_command.command("fit", short_help="From measurements on this device.")
@click.argument("bundle", type=DIRECTORY)
@target_options
@click.option("--budgets", type=click.IntRange(min=1), default=30, show_default=True, help="Sub-networks to fit to.")
@click.option(
    "--held-out", type=click.IntRange(min=1), default=10, show_default=True, help="Sub-networks to tell the error by."
)
@click.option(
    "--repeats", type=click.IntRange(min=1), default=96, show_default=True, help="Measurements per sub-network."
)
@click.option("--seed", type=int, default=0, show_default=True, help="Seed of the random widths.")
@model_options(256)
def fit_command(bundle: Path, out: Path | None, as_json: bool, **options: Any) -> None:
    """Measure sub-networks of BUNDLE with random widths in every layer, in turns, and fit a latency model to them.

    The error on sub-networks that it was not fitted to is shown and stored. Prefill and decoding get a model each.
    It takes about a minute at most, or six measurements of each sub-network.

    \b
    Example:
      flextron-export latency fit bundle --threads 1 --tokens 256 --out here.json
    """
    from ..training.latency_fit import fit_bundle

    show_warnings()
    if out is not None:
        check_writable(out)
    model = fit_bundle(bundle, track=track, **options)
    _give(model, out, as_json)
    if as_json:
        return
    error, again = model.source["error"], model.source.get("repeatability")
    if error is None:
        click.echo("too few budgets to tell its error")
    else:
        click.echo(
            f"error on {error['budgets']} sub-networks ({error['on']}): "
            f"median {error['median']:.1%}, worst {error['worst']:.1%}"
        )
    if again is not None:
        click.echo(
            f"a second measurement of the same differs by: median {again['median']:.1%}, worst {again['worst']:.1%}"
        )


@latency_command.command("analytic", short_help="From a device's data sheet.")
@click.argument("checkpoint", type=DIRECTORY, required=False)
@click.option("--device", required=True, help="A described device, such as jetson-agx-orin, or a .toml file.")
@click.option("--shape", help="Stand for a model of this shape: 1b, 7b or 8b (Llama).")
@click.option("--dtype", default="fp16", show_default=True, help="Precision of the weights, such as fp16 or int4.")
@model_options(1024)
def analytic_command(
    checkpoint: Path | None, device: str, shape: str | None, out: Path | None, as_json: bool, **options: Any
) -> None:
    """Compute a latency model of CHECKPOINT from the bytes and operations of every matrix and a device's data sheet.

    It is a lower bound; what it tells is how widths and layers compare. With --shape, each layer of CHECKPOINT stands
    for layers of a large model at the same fractions of their widths; without CHECKPOINT, it is the shape's own table.

    \b
    Example:
      flextron-export latency analytic checkpoint --device jetson-orin-nano --dtype int4 --out orin.json
    """
    from ..elastic.checkpoint import ElasticCheckpoint
    from ..elastic.widths import Candidates
    from ..targets.device_description import device_description
    from ..training.analytic_latency import analytic_latency, shape_architecture

    if checkpoint is not None:
        model = analytic_model(ElasticCheckpoint.open(checkpoint), device, shape, **options)
    elif shape is not None:
        architecture = shape_architecture(shape)
        model = analytic_latency(architecture, Candidates.default(architecture), device_description(device), **options)
    else:
        raise click.UsageError("pass CHECKPOINT, or --shape, or both")
    _give(model, out, as_json)


def analytic_model(
    checkpoint: ElasticCheckpoint, device: str, shape: str | None, phase: str, tokens: int, dtype: str
) -> LatencyModel:
    """The analytic latency model of a checkpoint on a described device, or of the shape that it stands for."""
    from ..targets.device_description import device_description
    from ..training.analytic_latency import analytic_latency, analytic_latency_of_shape

    architecture, candidates = checkpoint.architecture, checkpoint.candidates
    described = device_description(device)
    if shape is None:
        return analytic_latency(architecture, candidates, described, phase=phase, tokens=tokens, dtype=dtype)
    return analytic_latency_of_shape(
        shape, candidates, architecture.num_layers, described, phase=phase, tokens=tokens, dtype=dtype
    )


def _give(model: LatencyModel, out: Path | None, as_json: bool) -> None:
    if out is not None:
        model.save(out)
    if as_json:
        print_json(model.to_json())
        return
    candidates = model.candidates
    assert candidates is not None  # of every model that is made here
    what = "per token at context" if model.phase == "decode" else "for a prompt of"
    rows = [
        [kind, width, f"{ms:.4f}", f"{100 * width / widths[-1]:.0f} %", _percent(ms, entries[-1])]
        for kind, widths, entries in (
            ("attention, KV groups", candidates.groups, model.groups),
            ("FFN, neurons", candidates.neurons, model.neurons),
        )
        for width, ms in zip(widths, entries, strict=True)
    ]
    title = f"ms of one layer, {what} {model.tokens}"
    print_table(title, ["part", "width", "ms", "of full width", "of full ms"], rows)
    layers = model.layers or 1
    click.echo(
        f"intercept {model.intercept:.4f} ms; {layers} layers: full {model.full(layers):.3f} ms, "
        f"fastest {model.fastest(layers):.3f} ms"
    )
    if out is not None:
        click.echo(f"written to {out}")


def _percent(part: float, whole: float) -> str | None:
    """None of nothing: where no width of a part was seen to cost time."""
    return f"{100 * part / whole:.0f} %" if whole else None
