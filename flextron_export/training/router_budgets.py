"""Widths from a router's logits: the most probable ones, mended until their latency is the one asked for."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np

from ..elastic.router import PARTS, Router
from ..elastic.widths import Budget, LayerWidth
from .latency_targets import budget_name
from .routed_latency import RoutedLatency

TOLERANCE = 0.05
"""Largest difference from the latency asked for, relative."""
EVALUATIONS = 16
"""Networks near a static router's choice whose loss is computed."""


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


def refine(
    choices: list[dict[str, int]],
    logits: Sequence[Mapping[str, np.ndarray]],
    latency: RoutedLatency,
    target: float,
    loss: Callable[[list[dict[str, int]]], float],
    evaluations: int = EVALUATIONS,
    tolerance: float = TOLERANCE,
) -> list[dict[str, int]]:
    """The best by loss of choices and a few near them: those that the router finds most probable are tried first.

    Near are choices that differ in one or two places, by one candidate each, are at most `tolerance` faster than the
    target, and not slower than it. A better one is where it goes on from; any is better than choices that are slower
    than the target. If there is none, the choices stay.

    Args:
        choices: of `choose`.
        loss: of choices.
        evaluations: losses computed, besides that of `choices`.
    """
    if target == 1:
        return choices
    wanted = target * latency.full
    most = wanted * (1 + 1e-9)
    least = min((1 - tolerance) * wanted, latency.of_choices(choices)) * (1 - 1e-9)
    best, tried = choices, [choices]
    lowest = loss(choices) if latency.of_choices(choices) <= most else float("inf")
    for _ in range(evaluations):
        near = [c for c in _near(best, latency) if c not in tried and least <= latency.of_choices(c) <= most]
        if not near:
            break
        tried.append(max(near, key=lambda c: _logit(c, logits)))
        if (found := loss(tried[-1])) < lowest:
            best, lowest = tried[-1], found
    return best


def _near(choices: list[dict[str, int]], latency: RoutedLatency) -> Iterator[list[dict[str, int]]]:
    """Choices with one place changed by one candidate, and with one widened and another narrowed."""
    places = [(i, part) for i in range(len(choices)) for part in PARTS]
    steps = [(place, d) for place in places for d in (-1, 1)]
    for (i, part), d in steps:
        if not 0 <= choices[i][part] + d < len(latency.costs(part)):
            continue
        once = [dict(layer) for layer in choices]
        once[i][part] += d
        yield once
        for j, other in places if d > 0 else []:
            if (j, other) != (i, part) and choices[j][other] > 0:
                twice = [dict(layer) for layer in once]
                twice[j][other] -= 1
                yield twice


def _logit(choices: list[dict[str, int]], logits: Sequence[Mapping[str, np.ndarray]]) -> float:
    return float(sum(row[part][c[part]] for c, row in zip(choices, logits, strict=True) for part in PARTS))


def router_budget(
    router: Router,
    latency: RoutedLatency,
    target: float,
    prompt: np.ndarray | None = None,
    *,
    name: str | None = None,
    loss: Callable[[Budget], float] | None = None,
) -> Budget:
    """The budget that a static router (or, for a prompt, a prompt router) gives for a target.

    Args:
        name: of the budget; default `budget_name` of the target.
        loss: of a budget; with it, the best of a few networks near the router's choice (see `refine`).
    """
    candidates = router.record.candidates
    logits = router.layers(target, prompt)

    def budget(choices: list[dict[str, int]]) -> Budget:
        widths = (LayerWidth(candidates.groups[c["attention"]], candidates.neurons[c["ffn"]]) for c in choices)
        return Budget(name or budget_name(target), tuple(widths))

    choices = choose(logits, latency, target)
    if loss is not None:
        choices = refine(choices, logits, latency, target, lambda c: loss(budget(c)))
    return budget(choices)
