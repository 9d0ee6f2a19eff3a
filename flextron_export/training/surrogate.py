"""Routers trained on a surrogate model, as in Flextron (arXiv 2406.10260, Fig. 3).

A small network learns to predict the model's loss from the routers' logits alone. While its error is small, routers
step on its prediction and on the latency, so no gradient crosses the model.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from .routed_latency import RoutedLatency
from .router_loss import RouterOptimizer, StepResult, frozen, router_terms
from .router_settings import RouterSettings
from .routers import Routers, gumbel_noise, one_hot
from .routing import Pass, routed_pass

HIDDEN = 128
REMEMBERED = 1024
"""Pairs of logits and loss that the surrogate learns from: the last ones."""
UPDATES, SAMPLE = 4, 64
"""Steps of the surrogate per pass of the model, and pairs in each."""
MEMORY = 0.9
"""Of the moving mean of the surrogate's error."""


class SurrogateModel(nn.Module):
    """Predicts the loss of a sequence in nats per token: a softmax over each router's logits, then two layers."""

    def __init__(self, counts: Sequence[int], hidden: int = HIDDEN) -> None:
        super().__init__()
        self._counts = list(counts)
        self.first = nn.Linear(sum(counts), hidden)
        self.last = nn.Linear(hidden, 1)

    def forward(self, logits: torch.Tensor) -> torch.Tensor:
        """[n] for logits [n, all candidates of all layers and parts]."""
        p = torch.cat([z.softmax(-1) for z in logits.split(self._counts, -1)], -1)
        out: torch.Tensor = self.last(self.first(p).relu()).squeeze(-1)
        return out


class Surrogate:
    """Trains the surrogate, and routers by it. The model's weights must be frozen.

    Args:
        held_out: int64 [sequences, length + 1], the batch on which the surrogate's error is watched.
    """

    def __init__(
        self,
        model: Any,
        routers: Routers,
        latency: RoutedLatency,
        settings: RouterSettings,
        held_out: torch.Tensor,
    ) -> None:
        self._model, self._routers, self._latency, self._settings = model, routers, latency, settings
        self._held_out = held_out
        record = routers.record
        counts = [len(record.choices(part)) for part in ("attention", "ffn")] * routers.architecture.num_layers
        self.surrogate = SurrogateModel(counts).to(held_out.device)
        self._fit = torch.optim.Adam(self.surrogate.parameters(), lr=settings.surrogate_rate)
        self._optimizer = RouterOptimizer(routers, settings)
        self._seen: deque[tuple[torch.Tensor, torch.Tensor]] = deque(maxlen=REMEMBERED)
        self.error: float | None = None

    def step(self, ids: torch.Tensor, target: float, number: int) -> StepResult:
        """Pass a batch with explored choices, fit the surrogate, and step the routers if its error is small.

        Args and result: see `Gumbel.step`.
        """
        s = self._settings
        result, explored = self._explore(ids, target, number)
        losses, scale = result.losses.mean(-1), s.scale(number)
        if not self._seen:  # the level of the loss need not be learned step by step
            with torch.no_grad():
                self.surrogate.last.bias.fill_(losses.mean())
        self._seen.extend(zip(explored, losses, strict=True))
        self._update()
        self._watch(target, number)
        assert self.error is not None
        terms = router_terms(result, scale, self._latency, target, s)
        if not self.error < s.threshold:
            return StepResult(losses.mean().item(), terms.item(), None, self.error)
        with frozen(self.surrogate):
            predicted = self.surrogate(_of_sequences([scale * z for _, z in result.logits], len(ids))).mean()
            (predicted + terms).backward()
        return StepResult(losses.mean().item(), terms.item(), self._optimizer.step(number), self.error)

    def _explore(self, ids: torch.Tensor, target: float, number: int) -> tuple[Pass, torch.Tensor]:
        """A pass whose choices are drawn, once per sequence, and the logits [batch, all] that gave them."""
        scale = self._settings.scale(number)
        noisy: list[torch.Tensor] = []

        def use(logits: torch.Tensor) -> torch.Tensor:
            noise = gumbel_noise(logits.new_empty(len(ids), 1, logits.shape[-1]))
            noisy.append(scale * logits.detach() + noise)
            return one_hot(noisy[-1])

        with torch.no_grad():
            result = routed_pass(self._model, self._routers, target, ids, use, self._settings.precision)
        return result, _of_sequences(noisy, len(ids))

    def _update(self) -> None:
        seen = list(self._seen)
        for _ in range(UPDATES):
            drawn = [seen[i] for i in torch.randint(len(seen), (SAMPLE,)).tolist()]
            logits, losses = (torch.stack(list(values)) for values in zip(*drawn, strict=True))
            (self.surrogate(logits) - losses).square().mean().backward()
            self._fit.step()
            self._fit.zero_grad(set_to_none=True)

    def _watch(self, target: float, number: int) -> None:
        result, logits = self._explore(self._held_out, target, number)
        with torch.no_grad():
            error = (self.surrogate(logits).mean() - result.losses.mean()).abs().item()
        self.error = error if self.error is None else MEMORY * self.error + (1 - MEMORY) * error


def _of_sequences(logits: Sequence[torch.Tensor], sequences: int) -> torch.Tensor:
    """[sequences, all candidates]: the logits of every layer and part, of tokens their mean."""
    return torch.cat([(z.mean(1) if z.ndim == 3 else z).expand(sequences, -1) for z in logits], -1)
