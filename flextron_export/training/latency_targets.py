"""Latency targets as they are written, and the budgets named after them: the same for routers and the search."""

from __future__ import annotations

from collections.abc import Sequence

from ..errors import InputError

FULL = "full"


def parse_targets(targets: Sequence[str | float], full: float) -> dict[str, float]:
    """Names of budgets and shares of the full model's latency, the slowest first.

    `0.75` is `t75`, three quarters of the full model's latency; `12ms` is `t12ms`; `1` is the budget `full`.

    Args:
        full: milliseconds of the full model.

    Raises:
        InputError: naming every target that is neither, or that is there twice; or there is none.
    """
    found: dict[str, float] = {}
    bad = []
    for target in targets:
        text = str(target).strip().lower()
        milliseconds = text.endswith("ms")
        try:
            value = float(text.removesuffix("ms"))
        except ValueError:
            value = 0.0
        if not 0 < value < float("inf") or (not milliseconds and value > 1):
            bad.append(
                f"{text!r} is neither a share of the full model's latency, such as 0.75, nor a time, such as 12ms"
            )
            continue
        name = f"t{value:g}ms" if milliseconds else budget_name(value)
        if name in found:
            bad.append(f"{text!r} is there twice")
        found[name] = value / full if milliseconds else value
    if bad or not found:
        raise InputError("The targets cannot be used: " + ("; ".join(bad) or "there is none") + ".")
    return dict(sorted(found.items(), key=lambda item: -item[1]))


def budget_name(target: float) -> str:
    """`t75` for three quarters of the full model's latency, `full` for all of it."""
    return FULL if target == 1 else f"t{100 * target:.6g}"
