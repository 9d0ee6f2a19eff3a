"""Routers trained through the model: straight-through Gumbel-softmax choices (arXiv 1611.01144).

Flextron's successors train routers so (LLaMaFlex; Nemotron Elastic, arXiv 2511.16664). The model computes with the hard
choices; in the backward pass the gradient of a choice goes to its softened probabilities.
"""

from __future__ import annotations

from typing import Any

import torch

from .routed_latency import RoutedLatency
from .router_loss import RouterOptimizer, StepResult, router_terms
from .router_settings import RouterSettings
from .routers import Routers, gumbel_noise, one_hot
from .routing import routed_pass


def straight_through(logits: torch.Tensor, temperature: float) -> torch.Tensor:
    """A sample of softmax(logits), exactly one-hot, with the gradient of the softened sample."""
    noisy = logits + gumbel_noise(logits)
    soft = (noisy / temperature).softmax(-1)
    return one_hot(noisy) + (soft - soft.detach())


def by_sequence(logits: torch.Tensor, sequences: int) -> torch.Tensor:
    """Logits that the whole batch shares ([candidates], of a static router) as [sequences, 1, candidates].

    Every sequence then draws its own choice: a batch tries as many networks as it has sequences, at no cost.
    """
    return logits.expand(sequences, 1, -1) if logits.ndim == 1 else logits


class Gumbel:
    """Trains routers with straight-through choices. The model's weights must be frozen."""

    def __init__(self, model: Any, routers: Routers, latency: RoutedLatency, settings: RouterSettings) -> None:
        self._model, self._routers, self._latency, self._settings = model, routers, latency, settings
        self._optimizer = RouterOptimizer(routers, settings)

    def state_dict(self) -> dict[str, Any]:
        """What going on needs, besides the routers."""
        return {"optimizer": self._optimizer.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """The opposite of `state_dict`."""
        self._optimizer.load_state_dict(state["optimizer"])

    def step(self, ids: torch.Tensor, target: float, number: int) -> StepResult:
        """Train on one batch at one target.

        Args:
            ids: int64 [batch, length + 1].
            target: relative to the full model.
            number: of the step, from 0.
        """
        s = self._settings
        scale, temperature = s.scale(number), s.temperature(number)

        def use(logits: torch.Tensor) -> torch.Tensor:
            return straight_through(scale * by_sequence(logits, len(ids)), temperature)

        result = routed_pass(self._model, self._routers, target, ids, use, s.precision)
        loss = result.losses.mean()
        terms = router_terms(result, scale, self._latency, target, s)
        (loss + terms).backward()
        return StepResult(loss.item(), terms.item(), self._optimizer.step(number))
