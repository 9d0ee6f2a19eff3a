"""Widths from a router's logits: the most probable ones, mended until their latency is the one asked for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from ..elastic.router import PARTS, Router
from ..elastic.widths import Budget, LayerWidth
from .latency_targets import budget_name
from .routed_latency import RoutedLatency

TOLERANCE = 0.05
"""Largest difference from the latency asked for, relative."""


def choose(
    logits: Sequence[Mapping[str, np.ndarray]], latency: RoutedLatency, target: float, tolerance: float = TOLERANCE
) -> list[dict[str, int]]:
    """The candidate of every layer and part, by its index; the same for the same logits.

    Each takes its largest logit. While the latency is further from the target than the tolerance, the choice that loses
    least logit by it moves one step towards the target (to the next candidate of another latency); of equal ones the
    first layer's, attention before FFN. Steps that would miss the target on the other side are left out; if only such
    are left, the nearest of all is taken and that is the end. Target 1 is the full model.

    Args:
        logits: of every layer: part -> [candidates].
        target: relative to the full model.
    """
    if target == 1:
        return [{part: len(latency.costs(part)) - 1 for part in PARTS} for _ in logits]
    choices = [{part: int(layer[part].argmax()) for part in PARTS} for layer in logits]
    wanted = target * latency.full
    while abs(error := latency.of_choices(choices) / wanted - 1) > tolerance:
        direction = -1 if error > 0 else 1
        moves = []
        for i, layer in enumerate(choices):
            for p, part in enumerate(PARTS):
                here, costs = layer[part], latency.costs(part)
                there = here + direction
                while 0 <= there < len(costs) and costs[there] == costs[here]:
                    there += direction
                if 0 <= there < len(costs):
                    after = error + (costs[there] - costs[here]) / wanted
                    moves.append((float(logits[i][part][here] - logits[i][part][there]), i, p, there, after))
        inside = [move for move in moves if move[4] * direction <= tolerance]
        if not inside:
            _, i, p, there, after = min(moves, key=lambda move: abs(move[4]), default=(0.0, 0, 0, 0, float("inf")))
            if abs(after) < abs(error):
                choices[i][PARTS[p]] = there
            break
        _, i, p, there, _ = min(inside)
        choices[i][PARTS[p]] = there
    return choices


def router_budget(
    router: Router,
    latency: RoutedLatency,
    target: float,
    prompt: np.ndarray | None = None,
    *,
    name: str | None = None,
) -> Budget:
    """The budget that a static router (or, for a prompt, a prompt router) gives for a target.

    Args:
        name: of the budget; default `budget_name` of the target.
    """
    candidates = router.record.candidates
    widths = tuple(
        LayerWidth(candidates.groups[c["attention"]], candidates.neurons[c["ffn"]])
        for c in choose(router.layers(target, prompt), latency, target)
    )
    return Budget(name or budget_name(target), widths)


def uniform_loss(points: Sequence[tuple[float, float]], milliseconds: float) -> float | None:
    """The loss that uniform widths reach at a latency, linear between measured ones; None outside of them.

    Args:
        points: (milliseconds, loss) of uniform budgets. One that is slower and no better than another counts as little
            as that one.
    """
    ordered = sorted(points)
    if not ordered or not ordered[0][0] <= milliseconds <= ordered[-1][0]:
        return None
    losses = np.minimum.accumulate([loss for _, loss in ordered])
    return float(np.interp(milliseconds, [ms for ms, _ in ordered], losses))
