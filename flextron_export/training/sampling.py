"""Which sub-networks a step trains together.

Every scheme trains the full model in every step, so that it loses nothing to the others. Three sub-networks each, so
that a step costs about the same in all of them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from ..elastic.architecture import Architecture
from ..elastic.widths import Budget, Candidates, LayerWidth, check_budgets, full_budget
from ..errors import InputError

Sampler = Callable[[np.random.Generator], Sequence[Budget]]
"""Draws the sub-networks of one step."""

SAMPLINGS = ("sandwich", "uniform", "random", "router")
"""`full_smallest_random`, `full_smallest_uniform`, `full_and_random`, `full_and_around`."""

MOVED_LAYERS = 2
"""Layers that `full_and_around` changes, on average."""


def make_sampler(
    name: str, architecture: Architecture, candidates: Candidates, around: Sequence[Budget] | None = None
) -> Sampler:
    """The sampler of a name in `SAMPLINGS`.

    Args:
        around: budgets that `router` stays near; the others take none.

    Raises:
        InputError: an unknown name, `router` without budgets, budgets without `router`, or budgets that do not fit.
    """
    if name not in SAMPLINGS:
        raise InputError(f"The sampling {name!r} is not known.", fix=f"use one of: {', '.join(SAMPLINGS)}")
    if (name == "router") != bool(around):
        raise InputError(
            "The sampling 'router' needs budgets to stay near."
            if name == "router"
            else f"The sampling {name!r} stays near no budgets.",
            fix="pass --around a checkpoint whose budgets routers chose, together with --sampling router",
        )
    if around:
        return full_and_around(architecture, candidates, around)
    return {"sandwich": full_smallest_random, "uniform": full_smallest_uniform, "random": full_and_random}[name](
        architecture, candidates
    )


def full_only(architecture: Architecture) -> Sampler:
    """Plain training: every step trains the full model."""
    budget = full_budget(architecture)
    return lambda random: [budget]


def full_smallest_random(architecture: Architecture, candidates: Candidates) -> Sampler:
    """The full model and the smallest, which fix both ends, and one drawn independently in every layer."""
    full, smallest = full_budget(architecture), _smallest(architecture, candidates)
    return lambda random: [full, smallest, _independent("random", architecture, candidates, random)]


def full_smallest_uniform(architecture: Architecture, candidates: Candidates) -> Sampler:
    """The full model, the smallest, and one of one drawn width in all layers, as uniform budgets are."""
    full, smallest = full_budget(architecture), _smallest(architecture, candidates)

    def draw(random: np.random.Generator) -> Sequence[Budget]:
        width = LayerWidth(int(random.choice(candidates.groups)), int(random.choice(candidates.neurons)))
        return [full, smallest, Budget("uniform", (width,) * architecture.num_layers)]

    return draw


def full_and_random(architecture: Architecture, candidates: Candidates) -> Sampler:
    """The full model and two drawn independently in every layer (arXiv 2406.10260, elastic continued training).

    Their widths crowd around the mean of the candidates, the more so the more layers there are.
    """
    full = full_budget(architecture)
    return lambda random: [full, *(_independent(f"random-{i}", architecture, candidates, random) for i in (1, 2))]


def full_and_around(architecture: Architecture, candidates: Candidates, budgets: Sequence[Budget]) -> Sampler:
    """The full model and two near the given budgets: of a few layers, one width is moved by one candidate.

    For a second run on what routers chose: it trains the networks that will run, not all that could.

    Raises:
        InputError: there is no budget, or one that does not fit the candidates.
    """
    check_budgets(budgets, candidates, architecture)
    full = full_budget(architecture)

    def move(width: LayerWidth, random: np.random.Generator) -> LayerWidth:
        groups, neurons, step = width.groups, width.neurons, 1 if random.random() < 0.5 else -1
        if random.random() < 0.5:
            groups = _neighbour(candidates.groups, groups, step)
        else:
            neurons = _neighbour(candidates.neurons, neurons, step)
        return LayerWidth(groups, neurons)

    def draw(random: np.random.Generator) -> Sequence[Budget]:
        chosen = random.choice(len(budgets), 2, replace=len(budgets) < 2)
        moved = random.random((2, architecture.num_layers)) < MOVED_LAYERS / architecture.num_layers
        return [
            full,
            *(
                Budget(
                    f"near-{i}",
                    tuple(move(w, random) if m else w for w, m in zip(budgets[c].layers, layers, strict=True)),
                )
                for i, (c, layers) in enumerate(zip(chosen, moved, strict=True), 1)
            ),
        ]

    return draw


def _smallest(architecture: Architecture, candidates: Candidates) -> Budget:
    return Budget("smallest", (LayerWidth(candidates.groups[0], candidates.neurons[0]),) * architecture.num_layers)


def _independent(name: str, architecture: Architecture, candidates: Candidates, random: np.random.Generator) -> Budget:
    groups = random.choice(candidates.groups, architecture.num_layers)
    neurons = random.choice(candidates.neurons, architecture.num_layers)
    return Budget(name, tuple(LayerWidth(int(g), int(n)) for g, n in zip(groups, neurons, strict=True)))


def _neighbour(widths: Sequence[int], width: int, step: int) -> int:
    """The candidate a step further; at an end, the end."""
    return widths[min(max(widths.index(width) + step, 0), len(widths) - 1)]
