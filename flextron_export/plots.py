"""Plots of what people compare: quality against latency, the importance of every layer's units, routers' widths."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from .bundle.manifest import Bundle
from .elastic.architecture import Architecture
from .elastic.router import RouterRecord
from .elastic.widths import Budget, Candidates
from .errors import InputError, MissingDependencyError
from .files import check_writable, write_bytes
from .runtime.table import LatencyTable

if TYPE_CHECKING:
    from .evaluation.evaluate import Evaluation
    from .training.importance import Importance


def check_image(path: Path) -> None:
    """Find out before hours of work that an image could not be written.

    Raises:
        InputError: the ending of its name is of no known format, or its directory cannot be written.
        MissingDependencyError: matplotlib is not installed.
    """
    known = new_figure(1, 1).canvas.get_supported_filetypes()
    if path.suffix.lower().lstrip(".") not in known:
        raise InputError(f"{path} has an ending of no image format.", fix=f"use one of: {', '.join(sorted(known))}")
    check_writable(path)


def new_figure(width: float, height: float) -> Any:
    """An empty figure, inches; MissingDependencyError if matplotlib is not installed."""
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MissingDependencyError(
            "matplotlib is not installed.", fix="pip install 'flextron-export[train]'"
        ) from error
    return Figure(figsize=(width, height), layout="constrained")


def _save(figure: Any, path: Path) -> Path:
    """Write an image whole or not at all; the ending decides the format."""
    content = io.BytesIO()
    figure.savefig(content, format=path.suffix.lstrip(".") or None, dpi=130)
    write_bytes(path, content.getvalue())
    return path


def importance_curves(importance: Importance, path: Path, candidates: Candidates, title: str) -> Path:
    """Draw the importance of every layer's groups and neurons in their order, and the share that a prefix keeps.

    Args:
        importance: of the units as they are stored: prefixes are what narrower networks keep.
        path: image to write; the ending decides the format.
        candidates: widths, drawn as vertical lines.
        title: what was measured, on what.

    Raises:
        MissingDependencyError: matplotlib is not installed.
    """
    from matplotlib import colormaps
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize

    figure = new_figure(11, 7.4)
    layers = len(importance.groups)
    depth = ScalarMappable(Normalize(0, max(layers - 1, 1)), colormaps["viridis"])
    panels = figure.subplots(2, 2)
    for row, kind, values, widths in (
        (0, "KV groups", importance.groups, candidates.groups),
        (1, "FFN neurons", importance.neurons, candidates.neurons),
    ):
        units = values.shape[1]
        width = np.arange(1, units + 1)
        style: dict[str, Any] = {"marker": "o", "markersize": 4} if units <= 40 else {}
        curves, shares = panels[row]
        for i, layer in enumerate(values):
            color = depth.to_rgba(np.array([i]))[0]
            # On a logarithmic axis a unit that adds nothing has no place: it is left out.
            curves.plot(width, np.where(layer > 0, layer, np.nan), color=color, linewidth=1.2, alpha=0.85, **style)
            kept = np.cumsum(layer) / (layer.sum() or 1.0)
            shares.plot([0, *width], [0, *kept], color=color, linewidth=1.2, alpha=0.85)
        if (values > 0).any():
            curves.set_yscale("log")
        curves.set_ylabel(f"importance of {kind}")
        curves.set_xlabel(f"{kind}, in the order in which they are stored")
        shares.plot([0, units], [0, 1], color="0.5", linestyle=":", linewidth=1, label="all equal")
        shares.set_ylabel("share of the layer's importance kept")
        shares.set_xlabel(f"{kind} kept")
        shares.set_ylim(0, 1.02)
        for axes in (curves, shares):
            for candidate in widths:
                axes.axvline(candidate, color="0.6", linestyle="--", linewidth=0.8, zorder=0)
            axes.set_xlim(0 if axes is shares else min(1, units * 0.002), units * 1.01)
            axes.xaxis.get_major_locator().set_params(integer=True)
            axes.grid(alpha=0.25)
        shares.legend(frameon=False, loc="lower right")
    bar = figure.colorbar(depth, ax=panels, label="layer", fraction=0.03, pad=0.01)
    bar.set_ticks(np.unique(np.linspace(0, layers - 1, min(layers, 9)).round()))
    figure.suptitle(f"Importance: {title} (dashed: candidate widths)", fontsize=11)
    return _save(figure, path)


def scores_against_parameters(evaluation: Evaluation, path: Path) -> Path:
    """Draw every score of an evaluation against the budgets' parameters, one panel each, with standard errors.

    Args:
        evaluation: of any number of budgets.
        path: image to write; the ending decides the format.

    Raises:
        MissingDependencyError: matplotlib is not installed.
    """
    scores = evaluation.scores
    panels: dict[str, list[tuple[float, float]]] = {}
    if all(s.text is not None for s in scores):
        panels["nats per token"] = [(s.text.nats_per_token, 0.0) for s in scores if s.text is not None]
    for task, metrics in scores[0].tasks.items():
        for metric in (name for name in metrics if "_stderr" not in name):
            name, _, more = metric.partition(",")
            error = f"{name}_stderr{',' + more if more else ''}"
            panels[f"{task}: {metric}"] = [(s.tasks[task][metric], s.tasks[task].get(error, 0.0)) for s in scores]
    columns = min(len(panels), 3)
    lines = -(-len(panels) // columns)
    figure = new_figure(4.6 * columns, 3.4 * lines)
    for i, (title, values) in enumerate(panels.items()):
        axes = figure.add_subplot(lines, columns, i + 1)
        millions = [s.parameters / 1e6 for s in scores]
        axes.errorbar(millions, [v for v, _ in values], [e for _, e in values], marker="o", capsize=3)
        for s, x, (y, _) in zip(scores, millions, values, strict=True):
            axes.annotate(s.budget.name, (x, y), xytext=(4, 6), textcoords="offset points", fontsize=9)
        axes.set_xlim(0, 1.2 * max(millions))
        axes.margins(y=0.2)
        axes.set_title(title, fontsize=10)
        axes.set_xlabel("parameters outside embeddings, millions")
        axes.grid(alpha=0.3)
    figure.suptitle(f"{evaluation.path.name} ({', '.join(map(str, evaluation.about.values()))})", fontsize=11)
    return _save(figure, path)


def quality_against_latency(
    bundle: Bundle, table: LatencyTable, path: Path, *, context: int, targets: Mapping[str, float] | None = None
) -> Path:
    """Draw one point per budget: p50 and p95 milliseconds per token (a bar between them) against validation loss.

    Args:
        bundle: gives names, parameters and validation losses; budgets without a loss are left out.
        table: measurements of one device.
        path: image to write; the ending decides the format.
        context: context length in tokens whose measurement is drawn (the nearest measured one).
        targets: label -> milliseconds per token, drawn as vertical lines.

    Raises:
        MissingDependencyError: matplotlib is not installed.
    """
    figure = new_figure(7, 4.4)
    axes = figure.add_subplot()
    points = []
    for budget in bundle.budgets_of(table.layout):
        if budget.validation_loss is not None and budget.name in table.budgets:
            timing = min(table.budgets[budget.name].decode, key=lambda t: abs(t.tokens - context))
            label = f"{budget.name}\n{budget.parameters(bundle.architecture) / 1e6:.1f}M"
            points.append((timing.p50, timing.p95, budget.validation_loss, label))
    draw_quality(axes, points)
    for color, (label, value) in zip(("tab:green", "tab:orange", "tab:red"), (targets or {}).items(), strict=False):
        axes.axvline(value, color=color, linestyle="--", linewidth=1, label=label)
    if targets:
        axes.legend(frameon=False)
    axes.set_xlabel(f"milliseconds per token at context {context} (dot: p50, bar: to p95)")
    axes.set_ylabel("validation loss (nats per token)")
    axes.set_title(
        f"{table.target}, {table.layout}, {table.dtype}, {table.device.get('threads')} thread(s)", fontsize=10
    )
    return _save(figure, path)


def draw_quality(axes: Any, points: Sequence[tuple[float, float, float, str]]) -> None:
    """Draw what budgets cost against how good they are.

    Args:
        axes: of matplotlib.
        points: (low, high, quality, label) of every budget: a dot at the low cost, a bar to the high one.
    """
    axes.plot([p[0] for p in sorted(points)], [p[2] for p in sorted(points)], color="0.7", zorder=1)
    for low, high, quality, label in points:
        axes.plot([low, high], [quality] * 2, color="tab:blue", linewidth=2, alpha=0.4, solid_capstyle="butt", zorder=2)
        axes.scatter([low], [quality], color="tab:blue", zorder=3)
        axes.annotate(label, (low, quality), xytext=(4, 7), textcoords="offset points", fontsize=9)
    axes.margins(y=0.2)
    axes.set_xlim(0, 1.16 * max((p[1] for p in points), default=1.0))  # room for the label of the rightmost
    axes.grid(alpha=0.3)


def widths_by_target(record: RouterRecord, path: Path) -> Path:
    """Draw what a router chose: per layer, the share of groups and of neurons at every target.

    Args:
        record: its `results` are drawn.
        path: image to write; the ending decides the format.

    Raises:
        MissingDependencyError: matplotlib is not installed.
    """
    widths = {
        f"{r['target']:g}: {r['milliseconds']:.3g} ms, {r['validation_loss']:.3f} nats": r["widths"]
        for r in record.results
    }
    title = f"{record.kind} router ({record.method}): widths by target"
    return _save(_draw_widths(widths, record.candidates, title), path)


def widths_of_budgets(
    budgets: Sequence[Budget], architecture: Architecture, candidates: Candidates, path: Path, title: str
) -> Path:
    """Draw the share of groups and of neurons that every budget has in each layer.

    Args:
        path: image to write; the ending decides the format.
        title: whose budgets they are.

    Raises:
        MissingDependencyError: matplotlib is not installed.
    """
    return _save(draw_widths_of_budgets(budgets, architecture, candidates, f"{title}: widths by budget"), path)


def draw_widths_of_budgets(
    budgets: Sequence[Budget], architecture: Architecture, candidates: Candidates, title: str
) -> Any:
    """The figure of `widths_of_budgets`."""
    widths = {}
    for budget in budgets:
        loss = "" if budget.validation_loss is None else f", {budget.validation_loss:.3f} nats"
        label = f"{budget.name}: {budget.parameters(architecture) / 1e6:.3g}M parameters{loss}"
        widths[label] = [(w.groups, w.neurons) for w in budget.layers]
    return _draw_widths(widths, candidates, title)


def _draw_widths(widths: Mapping[str, Sequence[Sequence[int]]], candidates: Candidates, title: str) -> Any:
    """Draw (groups, neurons) of every layer as shares of the full widths, one line per label."""
    figure = new_figure(7.5, 5)
    panels = figure.subplots(2, 1, sharex=True)
    for axes, part, name in zip(panels, (0, 1), ("KV groups", "FFN neurons"), strict=True):
        full = (candidates.groups, candidates.neurons)[part][-1]
        for label, layers in widths.items():
            shares = [100 * width[part] / full for width in layers]
            axes.plot(range(len(shares)), shares, marker="o", drawstyle="steps-mid", label=label)
        axes.set_ylim(0, 105)
        axes.set_ylabel(f"{name}, % of full")
        axes.grid(alpha=0.3)
    lines, labels = panels[0].get_legend_handles_labels()
    figure.legend(lines, labels, loc="outside right upper", frameon=False, fontsize=8)
    panels[1].set_xlabel("layer")
    panels[1].xaxis.get_major_locator().set_params(integer=True)
    panels[0].set_title(title, fontsize=10)
    return figure
