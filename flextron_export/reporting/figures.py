"""The plots of a report, as SVG text."""

from __future__ import annotations

import io
import re
from collections.abc import Callable
from typing import Any

from ..bundle.manifest import Bundle
from ..planning import Plan
from ..plots import draw_quality, draw_widths_of_budgets, new_figure
from ..runtime.table import BudgetCost, LatencyTable


def widths(bundle: Bundle) -> str:
    """Groups and neurons of every budget, layer by layer."""
    return _svg(
        lambda: draw_widths_of_budgets(bundle.budgets, bundle.architecture, bundle.candidates, "widths by budget"),
        "widths",
    )


def costs(plan: Plan, name: str) -> str:
    """Quality of every budget against its time per token, and against its memory, at the plan's context.

    Where a validation loss is not known, the parameters stand for quality.
    """

    def draw() -> Any:
        known = all(row.budget.validation_loss is not None for row in plan.budgets)
        figure = new_figure(10.5, 3.9)
        panels = figure.subplots(1, 2, sharey=True)
        times, memory = [], []
        for row in plan.budgets:
            loss = row.budget.validation_loss
            quality = loss if known and loss is not None else row.parameters / 1e6
            label, size = row.budget.name, row.memory_bytes / 1e6
            memory.append((size, size, quality, label))
            if row.p50 is not None and row.p95 is not None:
                times.append((row.p50, row.p95, quality, label))
        draw_quality(panels[0], times)
        draw_quality(panels[1], memory)
        kind = "predicted" if plan.table.predicted else "dot: p50, bar: to p95"
        panels[0].set_xlabel(f"milliseconds per token at context {plan.context} ({kind})")
        panels[1].set_xlabel(f"MB of weights and KV cache at context {plan.context}")
        panels[0].set_ylabel("validation loss, nats per token" if known else "parameters, millions")
        return figure

    return _svg(draw, f"costs-{name}")


def lengths(table: LatencyTable, name: str) -> str:
    """Time per token against the context, and time to the first token against the prompt."""

    def draw() -> Any:
        figure = new_figure(10.5, 3.9)
        panels = figure.subplots(1, 2)
        for axes, times in zip(panels, (lambda c: c.decode, lambda c: c.first_token), strict=True):
            _draw_times(axes, table, times)
        kind = "predicted" if table.predicted else "line: p50, shaded: to p95"
        panels[0].set_xlabel(f"tokens in the cache ({kind})")
        panels[0].set_ylabel("milliseconds per token")
        panels[1].set_xlabel("tokens of the prompt")
        panels[1].set_ylabel("milliseconds to the first token")
        panels[0].legend(frameon=False, fontsize=9)
        return figure

    return _svg(draw, f"lengths-{name}")


def _draw_times(axes: Any, table: LatencyTable, times: Callable[[BudgetCost], Any]) -> None:
    for name, cost in table.budgets.items():
        timings = times(cost)
        tokens = [t.tokens for t in timings]
        (line,) = axes.plot(tokens, [t.p50 for t in timings], marker="o", markersize=4, label=name)
        axes.fill_between(
            tokens, [t.p50 for t in timings], [t.p95 for t in timings], color=line.get_color(), alpha=0.18, linewidth=0
        )
    axes.set_ylim(bottom=0)
    axes.set_xlim(left=0)
    axes.grid(alpha=0.3)


def _svg(draw: Callable[[], Any], name: str) -> str:
    """An `<svg>` element whose text is text; `name` keeps the ids of several on a page apart."""
    new_figure(1, 1)  # names the extra if matplotlib is missing
    from matplotlib import rc_context

    # Names of budgets and devices come from files: a dollar sign in them is no formula.
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": name, "text.parse_math": False}):
        content = io.StringIO()
        draw().savefig(content, format="svg", metadata={"Date": None})
    text = re.sub(r"<metadata>.*?</metadata>", "", content.getvalue(), flags=re.DOTALL)
    return re.sub(r'\b(id="|xlink:href="#|url\(#)', rf"\g<1>{name}-", text[text.index("<svg") :])
