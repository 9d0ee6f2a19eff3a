"""Plots of what people compare: the quality of every budget against its measured latency."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from .bundle.manifest import Bundle
from .errors import MissingDependencyError
from .runtime.table import LatencyTable


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
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MissingDependencyError(
            "matplotlib is not installed.", fix="pip install 'flextron-export[train]'"
        ) from error
    figure = Figure(figsize=(7, 4.4), layout="constrained")
    axes = figure.add_subplot()
    points = []
    for budget in bundle.budgets:
        if budget.validation_loss is not None and budget.name in table.budgets:
            timing = min(table.budgets[budget.name].decode, key=lambda t: abs(t.tokens - context))
            points.append(
                (timing.p50, timing.p95, budget.validation_loss, budget.name, budget.parameters(bundle.architecture))
            )
    points.sort()
    axes.plot([p[0] for p in points], [p[2] for p in points], color="0.7", zorder=1)
    for p50, p95, loss, name, parameters in points:
        axes.plot([p50, p95], [loss, loss], color="tab:blue", linewidth=2, alpha=0.4, solid_capstyle="butt", zorder=2)
        axes.scatter([p50], [loss], color="tab:blue", zorder=3)
        label = f"{name}\n{parameters / 1e6:.1f}M"
        axes.annotate(label, (p50, loss), xytext=(4, 7), textcoords="offset points", fontsize=9)
    for color, (label, value) in zip(("tab:green", "tab:orange", "tab:red"), (targets or {}).items(), strict=False):
        axes.axvline(value, color=color, linestyle="--", linewidth=1, label=label)
    if targets:
        axes.legend(frameon=False)
    axes.margins(x=0.12, y=0.2)
    axes.set_xlim(left=0)
    axes.set_xlabel(f"milliseconds per token at context {context} (dot: p50, bar: to p95)")
    axes.set_ylabel("validation loss (nats per token)")
    axes.set_title(
        f"{table.target}, {table.layout}, {table.dtype}, {table.device.get('threads')} thread(s)", fontsize=10
    )
    axes.grid(alpha=0.3)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=130)
    return path
