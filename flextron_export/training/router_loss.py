"""What routers are trained on besides the loss of the text: the latency asked for, and the full model at target 1."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch

from .optimizer import cosine
from .routed_latency import RoutedLatency
from .router_settings import RouterSettings
from .routing import Pass


@dataclass(frozen=True)
class StepResult:
    """One step of training routers.

    Attributes:
        loss: nats per token of the routed model on this batch.
        terms: weighted latency loss and anchor.
        norm: of the routers' gradient; None where they did not step.
        error: the surrogate's error in nats, a moving mean; None without a surrogate.
    """

    loss: float
    terms: float
    norm: float | None
    error: float | None = None

    @property
    def finite(self) -> bool:
        return math.isfinite(self.loss + self.terms + (self.norm or 0.0))

    def values(self) -> dict[str, float]:
        """For TensorBoard."""
        named = {"loss": self.loss, "latency_and_anchor": self.terms, "norm": self.norm, "surrogate_error": self.error}
        return {f"router/{name}": value for name, value in named.items() if value is not None}


def latency_loss(latency: torch.Tensor, target: float, dead_zone: float) -> torch.Tensor:
    """|latency / target - 1|, or 0 for what is at most `dead_zone` faster than the target.

    The zone lies on the fast side alone: the loss of the text pushes every choice to the slow end of it, and a request
    should not be answered `dead_zone` too slow.

    Args:
        target: in the unit of the latency.
    """
    error = latency / target - 1
    return error.relu() + (-error - dead_zone).relu()


def router_terms(
    result: Pass, scale: float, latency: RoutedLatency, target: float, settings: RouterSettings
) -> torch.Tensor:
    """Weighted latency loss, expected under the softmax of the scaled logits, and the anchor to full width at target 1.

    Args:
        target: relative to the full model.
    """
    expected = latency.expected((part, (scale * z).softmax(-1)) for part, z in result.logits)
    errors = []
    for _, z in result.anchor:
        p = (scale * z).softmax(-1)
        full = torch.zeros_like(p)
        full[..., -1] = 1
        errors.append((p - full).square().mean())
    loss = settings.latency_weight * latency_loss(expected, target * latency.full, settings.dead_zone)
    return loss + settings.anchor_weight * torch.stack(errors).mean()


class RouterOptimizer:
    """Adam for routers, at the rate that a step has."""

    def __init__(self, routers: torch.nn.Module, settings: RouterSettings) -> None:
        self._parameters, self._settings = list(routers.parameters()), settings
        self._adam = torch.optim.Adam(self._parameters, lr=settings.learning_rate)

    def state_dict(self) -> dict[str, Any]:
        return self._adam.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._adam.load_state_dict(state)

    def step(self, number: int) -> float:
        """Apply the gradients and clear them; return their norm."""
        s = self._settings
        norm = torch.nn.utils.clip_grad_norm_(self._parameters, s.clip)
        for group in self._adam.param_groups:
            group["lr"] = s.learning_rate * cosine(number, s.steps, 1)
        self._adam.step()
        self._adam.zero_grad(set_to_none=True)
        return norm.item()


@contextmanager
def frozen(model: Any) -> Iterator[None]:
    """Within the block, no weight of the model gets a gradient."""
    wanted = [p for p in model.parameters() if p.requires_grad]
    try:
        model.requires_grad_(False)
        yield
    finally:
        for parameter in wanted:
            parameter.requires_grad_(True)
