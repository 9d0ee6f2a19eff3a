"""What routers achieve: latency by the table, validation loss and widths at every target."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch

from ..elastic.router import PARTS
from ..elastic.widths import Budget, full_budget
from .environment import training_attention
from .evaluate import validation_loss
from .routed_latency import RoutedLatency
from .router_budgets import router_budget
from .routers import Routers, one_hot
from .routing import routed_pass


@dataclass(frozen=True)
class TargetResult:
    """One target.

    Attributes:
        target: relative to the full model.
        milliseconds: by the latency model; per-token choices count with their mean.
        relative: the same, relative to the full model.
        validation_loss: nats per token.
        uniform_loss: of the best widths that are the same in every layer and no slower; None where none is that fast.
        widths: per layer, groups and neurons; of per-token and per-prompt choices the mean.
        budget: name of the budget with these widths, or None.
    """

    target: float
    milliseconds: float
    relative: float
    validation_loss: float
    uniform_loss: float | None
    widths: tuple[tuple[float, float], ...]
    budget: str | None = None

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def uncounted(routers: Routers, tokens: np.ndarray) -> int:
    """Tokens of a sequence whose predictions do not count: the prompt, which a prompt router has seen."""
    return (tokens.shape[1] - 1) // 2 if routers.record.kind == "prompt" else 0


def report(
    model: Any,
    routers: Routers,
    latency: RoutedLatency,
    targets: Sequence[float],
    rival: Callable[[float], Budget | None],
    tokens: np.ndarray,
    budgets: Mapping[float, Budget] | None = None,
) -> list[TargetResult]:
    """Measure routers at targets, trained or between trained ones.

    Args:
        budgets: of targets, what to measure instead of asking the router (see `router_budgets.refine`).
        rival: the best uniform budget for a latency in milliseconds; its loss is measured on the same predictions.
        tokens: int64 [sequences, length], held out.
    """
    # Target 1 is the full model, without asking a router.
    results = []
    for target in targets:
        measure = _routed if routers.record.kind != "static" and target < 1 else _static
        if budgets is not None and target in budgets:
            milliseconds, loss, widths, budget = _budget(model, routers, latency, budgets[target], tokens)
        else:
            milliseconds, loss, widths, budget = measure(model, routers, latency, target, tokens)
        relative, uniform = milliseconds / latency.full, rival(milliseconds)
        compared = None if uniform is None else _loss(model, routers, uniform, tokens)
        results.append(TargetResult(target, milliseconds, relative, loss, compared, widths, budget))
    return results


Measured = tuple[float, float, tuple[tuple[float, float], ...], str | None]


def _static(model: Any, routers: Routers, latency: RoutedLatency, target: float, tokens: np.ndarray) -> Measured:
    budget = full_budget(routers.architecture) if target == 1 else router_budget(routers.numpy(), latency, target)
    return _budget(model, routers, latency, budget, tokens)


def _budget(model: Any, routers: Routers, latency: RoutedLatency, budget: Budget, tokens: np.ndarray) -> Measured:
    loss = _loss(model, routers, budget, tokens)
    widths = tuple((float(w.groups), float(w.neurons)) for w in budget.layers)
    return latency.of_budget(budget, routers.record.candidates), loss, widths, budget.name


def _loss(model: Any, routers: Routers, budget: Budget, tokens: np.ndarray) -> float:
    return validation_loss(model, routers.architecture, budget, tokens, skip=uncounted(routers, tokens))


def _routed(
    model: Any, routers: Routers, latency: RoutedLatency, target: float, tokens: np.ndarray, batch: int = 16
) -> Measured:
    skip, layers = uncounted(routers, tokens), routers.architecture.num_layers
    parts = [part for _ in range(layers) for part in PARTS]
    # How often each candidate was chosen, by layer and part.
    shares = [torch.zeros(len(routers.record.choices(part)), dtype=torch.float64) for part in parts]
    loss = 0.0
    with torch.no_grad(), training_attention(model, tokens.shape[1]):
        for start in range(0, len(tokens), batch):
            ids = torch.from_numpy(tokens[start : start + batch]).to(model.device)
            result = routed_pass(model, routers, target, ids, one_hot, "fp32")
            loss += result.losses[:, skip:].sum().item()
            for share, (_, z) in zip(shares, result.logits, strict=True):
                share += one_hot(z).flatten(0, -2).double().mean(0).cpu() * (len(ids) / len(tokens))
    milliseconds = latency.expected(zip(parts, shares, strict=True)).item()
    means = [
        float(share @ share.new_tensor(routers.record.choices(part))) for part, share in zip(parts, shares, strict=True)
    ]
    widths = tuple(zip(means[::2], means[1::2], strict=True))
    return milliseconds, loss / (len(tokens) * (tokens.shape[1] - 1 - skip)), widths, None
