"""The widths that are compared, how they are drawn, and what they cost."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from flextron_export.elastic.architecture import Architecture
from flextron_export.elastic.widths import Budget, Candidates, LayerWidth, full_budget
from flextron_export.targets.device_description import device_description
from flextron_export.training.analytic_latency import analytic_latency_of_shape
from flextron_export.training.latency_model import LatencyModel
from flextron_export.training.sampling import Sampler, full_only, make_sampler

DRAWS = 2000
"""Draws of a sampler over which its operations are averaged."""

BUDGETS = {"full": (1.0, 1.0), "p75": (0.75, 0.75), "p62": (0.625, 0.625), "p50": (0.5, 0.5)}
"""Uniform budgets that are measured -> fractions of attention groups and of FFN neurons."""


def budget_named(name: str, architecture: Architecture) -> Budget:
    """A budget of `BUDGETS`."""
    return uniform(architecture, *BUDGETS[name], name=name)


def uniform(architecture: Architecture, groups: float, neurons: float, name: str = "uniform") -> Budget:
    """Fractions of the full widths, the same in every layer."""
    width = LayerWidth(round(groups * architecture.num_kv_heads), round(neurons * architecture.intermediate_size))
    return Budget(name, (width,) * architecture.num_layers)


def latency_table(
    architecture: Architecture, candidates: Candidates, stands_for: str, device: str, context: int
) -> LatencyModel:
    """Decode latency of a large shape on a device, which the small model stands for."""
    return analytic_latency_of_shape(
        stands_for,
        candidates,
        architecture.num_layers,
        device_description(device),
        phase="decode",
        tokens=context,
        dtype="fp16",
    )


def candidate_widths(architecture: Architecture, fractions: Sequence[float]) -> Candidates:
    """Fractions of the full widths."""
    heads, neurons = architecture.num_kv_heads, architecture.intermediate_size
    return Candidates(tuple(round(f * heads) for f in fractions), tuple(round(f * neurons) for f in fractions))


def sampler_of(
    train: str, architecture: Architecture, fractions: Sequence[float], around: Sequence[Budget] | None = None
) -> Sampler:
    """What a recipe's `train` means: `full`, one budget, or a sampling scheme over fractions of the full widths.

    Args:
        around: networks that the scheme `router` stays near.
    """
    if train == "full":
        return full_only(architecture)
    if train in BUDGETS:
        budget = budget_named(train, architecture)
        return lambda random: [budget]
    return make_sampler(train, architecture, candidate_widths(architecture, fractions), around)


def forward_operations(architecture: Architecture, budget: Budget, length: int) -> float:
    """Operations of a forward pass per token: two per weight, the LM head's included, and causal attention."""
    a = architecture
    heads = sum(width.groups * a.heads_per_group for width in budget.layers)
    return 2.0 * (budget.parameters(a) + a.vocab_size * a.hidden_size) + 2.0 * length * heads * a.head_dim


def operations_per_token(sampler: Sampler, architecture: Architecture, length: int, teacher: bool) -> float:
    """Mean operations of a training step per token: a backward pass counts as two forward ones."""
    random = np.random.default_rng(0)
    draws = [sampler(random) for _ in range(DRAWS)]
    steps = [3 * sum(forward_operations(architecture, budget, length) for budget in budgets) for budgets in draws]
    whole = forward_operations(architecture, full_budget(architecture), length)
    return float(np.mean(steps)) + (whole if teacher else 0.0)
