"""Plots of the results, with their spread over the seeds."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tools.claims.tables import Spread
from tools.claims.widths import BUDGETS

if TYPE_CHECKING:
    from tools.claims.report import Numbers

NARROW_FIRST = tuple(reversed(BUDGETS))


def _figure(path: Path, draw: Any, size: tuple[float, float] = (7.5, 4.8)) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=size, layout="constrained")
    draw(figure)
    figure.savefig(path, dpi=130)


def _series(
    axes: Any, numbers: Numbers, name: str, label: str, budgets: Sequence[str] = NARROW_FIRST, **style: Any
) -> None:
    """Mean and range of the losses of a run's budgets, over parameters relative to the full model's."""
    points = [(numbers.parameters(b), loss) for b in budgets if (loss := numbers.loss(name, b)) is not None]
    if points:
        axes.errorbar(
            [x for x, _ in points],
            [loss.mean for _, loss in points],
            _range([loss for _, loss in points]),
            label=label,
            capsize=3,
            **style,
        )


def quality(numbers: Numbers, path: Path) -> None:
    """Loss over parameters: elastic runs, networks trained alone, and networks from scratch."""

    def draw(figure: Any) -> None:
        axes = figure.add_subplot()
        colors = iter(("tab:blue", "tab:cyan", "tab:purple"))
        for name in reversed(numbers.starting("elastic-sorted")):
            share = 100 * numbers.share(name, "tokens")
            _series(axes, numbers, name, f"elastic, {share:.1f} % of the tokens", fmt="o-", color=next(colors))
        for i, name in enumerate(numbers.starting("alone-")):
            share = 100 * numbers.share(name, "tokens")
            label = f"one run per width, {share:.0f} % each" if i == 0 else "_"
            _series(axes, numbers, name, label, fmt="s", color="tab:green", markerfacecolor="none", markersize=8)
        for name in numbers.starting("scratch-"):
            share = round(100 * numbers.share(name, "tokens"))
            budget = name.split("-")[1]
            loss = numbers.loss(name)
            if loss is None:
                continue
            x, whole = numbers.parameters(budget), share == 100
            axes.errorbar(
                [x],
                [loss.mean],
                _range([loss]),
                fmt="^" if whole else "v",
                color="tab:red",
                markerfacecolor="tab:red" if whole else "none",
                capsize=3,
                label="from scratch, all tokens" if name == numbers.starting("scratch-")[0] else "_",
            )
            if not whole:
                axes.annotate(
                    f"from scratch, {share} %", (x, loss.mean), xytext=(8, -3), textcoords="offset points", fontsize=8
                )
        _series(axes, numbers, "base", "base", ("full",), fmt="*", color="black", markersize=12)
        axes.set_xlabel("parameters without embedding, relative to the full model")
        axes.set_ylabel("validation loss (nats per token)")
        axes.grid(alpha=0.3)
        axes.legend(frameon=False, fontsize=9)

    _figure(path, draw)


def sorting(numbers: Numbers, path: Path) -> None:
    """Loss after cutting, by order, without training."""

    def draw(figure: Any) -> None:
        axes = figure.add_subplot()
        for order, color in (("reversed", "tab:red"), ("unsorted", "tab:orange"), ("sorted", "tab:blue")):
            _series(axes, numbers, f"order-{order}", f"{order}, cut", fmt="o-", color=color)
        axes.set_xlabel("parameters without embedding, relative to the full model")
        axes.set_ylabel("validation loss (nats per token)")
        axes.grid(alpha=0.3)
        axes.legend(frameon=False, fontsize=9)

    _figure(path, draw)


WAYS = (
    ("uniform", "same widths in every layer", "o", "tab:gray"),
    ("search", "search", "s", "tab:orange"),
    ("static", "static router", "^", "tab:blue"),
    ("surrogate", "static router, trained on a surrogate", "v", "tab:cyan"),
    ("dynamic", "dynamic router, mean latency", "D", "tab:green"),
)
"""Ways to choose widths: name, label, marker, colour."""


def routers(numbers: Numbers, path: Path) -> None:
    """Loss over latency of the ways to choose widths, mean and range: on the sorted base, and on the elastic model."""

    def draw(figure: Any) -> None:
        for axes, suffix, title in zip(
            figure.subplots(1, 2), ("-sorted", ""), ("only sorted", "after elastic training"), strict=True
        ):
            for way, label, marker, color in WAYS:
                name = f"{way}{suffix}"
                if name not in numbers:
                    continue
                count = range(len(numbers.points(name)))
                latencies, losses = ([numbers.point(name, i, q) for i in count] for q in ("latency", "loss"))
                axes.errorbar(
                    [x.mean for x in latencies],
                    [y.mean for y in losses],
                    _range(losses),
                    _range(latencies),
                    fmt=f"{marker}-",
                    color=color,
                    label=label,
                    capsize=3,
                    alpha=0.85,
                )
            axes.set_title(title, fontsize=10)
            axes.set_xlabel("latency relative to the full model")
            axes.grid(alpha=0.3)
            axes.legend(frameon=False, fontsize=9)
        figure.axes[0].set_ylabel("validation loss (nats per token)")

    _figure(path, draw, (11, 4.6))


def _range(spreads: Sequence[Spread]) -> list[list[float]]:
    """From the means down to the least and up to the greatest of the seeds."""
    return [[s.mean - min(s.values) for s in spreads], [max(s.values) - s.mean for s in spreads]]


def widths(numbers: Numbers, path: Path) -> None:
    """Widths that search and static router chose in every layer, a mean over the seeds, by target."""
    ways = [way for way in ("search", "static") if way in numbers]
    points = numbers.points(ways[0])

    def draw(figure: Any) -> None:
        grid = figure.subplots(len(ways), len(points), sharey=True, squeeze=False)
        for row, way in zip(grid, ways, strict=True):
            for i, axes in enumerate(row):
                layers = numbers.widths(way, i)
                places = range(len(layers))
                axes.bar([p - 0.2 for p in places], layers[:, 0], 0.4, label="heads", color="tab:blue")
                axes.bar([p + 0.2 for p in places], layers[:, 1], 0.4, label="neurons", color="tab:orange")
                axes.set_xticks(list(places), [f"layer {p}" for p in places], fontsize=8)
                axes.set_title(f"{way}, target {points[i]['target']:.2f}", fontsize=9)
                axes.set_ylim(0, 1.05)
                axes.grid(alpha=0.3, axis="y")
        grid[0][0].set_ylabel("share of full width")
        grid[0][0].legend(frameon=False, fontsize=8)

    _figure(path, draw, (3.0 * len(points), 2.4 * len(ways)))
