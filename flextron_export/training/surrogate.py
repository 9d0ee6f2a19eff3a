"""Routers trained on a surrogate model, as in Flextron (arXiv 2406.10260, Fig. 3).

A small network learns to predict from the routers' choices alone what they lose against the full model. It learns
first, from random choices, while routers wait; then, while its error is small, routers step on its prediction and on
the latency, so no gradient crosses the model.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from torch.nn.functional import cross_entropy

from ..elastic.router import PARTS
from .environment import autocast
from .routed_latency import RoutedLatency
from .router_loss import RouterOptimizer, StepResult, frozen, router_terms
from .router_settings import RouterSettings
from .routers import Routers, gumbel_noise, one_hot
from .routing import Pass, routed_pass

HIDDEN = 128
REMEMBERED = 4096
"""Pairs of choices and loss that the surrogate learns from: the last ones."""
UPDATES, SAMPLE = 8, 64
"""Steps of the surrogate per pass of the model, and pairs in each."""
WATCHED = 4
"""Passes between two looks at the surrogate's error on held-out text."""
MEMORY = 0.5
"""Of the moving mean of the surrogate's error, from look to look."""


class SurrogateModel(nn.Module):
    """Predicts how many nats per token choices lose against the full model: two layers on the choices' shares.

    The first layer reads how far each share is from an even one, so that its inputs have mean zero for random choices.
    """

    even: torch.Tensor

    def __init__(self, counts: Sequence[int], hidden: int = HIDDEN) -> None:
        super().__init__()
        self.register_buffer("even", torch.cat([torch.full((n,), 1 / n) for n in counts]))
        self.first = nn.Linear(sum(counts), hidden)
        self.last = nn.Linear(hidden, 1)

    def forward(self, shares: torch.Tensor) -> torch.Tensor:
        """[n] for shares [n, all candidates of all layers and parts], those of one layer and part summing to 1."""
        out: torch.Tensor = self.last(self.first(shares - self.even).relu()).squeeze(-1)
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
        self._held_out, self._full_held_out = held_out, self._full(held_out)
        record = routers.record
        counts = [len(record.choices(part)) for part in PARTS] * routers.architecture.num_layers
        self.surrogate = SurrogateModel(counts).to(held_out.device)
        self._fit = torch.optim.Adam(self.surrogate.parameters(), lr=settings.surrogate_rate)
        self._optimizer = RouterOptimizer(routers, settings)
        self._seen: deque[tuple[torch.Tensor, torch.Tensor]] = deque(maxlen=REMEMBERED)
        self.error: float | None = None

    def state_dict(self) -> dict[str, Any]:
        """What going on needs, besides the routers."""
        return {
            "optimizer": self._optimizer.state_dict(),
            "surrogate": self.surrogate.state_dict(),
            "fit": self._fit.state_dict(),
            "seen": [torch.stack(list(values)) for values in zip(*self._seen, strict=True)],
            "error": self.error,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """The opposite of `state_dict`."""
        self._optimizer.load_state_dict(state["optimizer"])
        self.surrogate.load_state_dict(state["surrogate"])
        self._fit.load_state_dict(state["fit"])
        self._seen.extend(zip(*(values.to(self._held_out.device) for values in state["seen"]), strict=True))
        self.error = state["error"]

    def step(self, ids: torch.Tensor, target: float, number: int) -> StepResult:
        """Pass a batch with explored choices, fit the surrogate, and step the routers if its error is small.

        Args and result: see `Gumbel.step`.
        """
        s = self._settings
        waiting = number < s.warmup_steps
        result, shares = self._explore(ids, target, number, random=waiting)
        losses, scale = result.losses.mean(-1), s.scale(number)
        lost = losses - self._full(ids)
        if not self._seen:  # the level of the loss need not be learned step by step
            with torch.no_grad():
                self.surrogate.last.bias.fill_(lost.mean())
        self._seen.extend(zip(shares, lost, strict=True))
        self._update()
        if number % WATCHED == 0 or number == s.warmup_steps:
            self._watch(target, number, random=waiting)
        assert self.error is not None
        terms = router_terms(result, scale, self._latency, target, s)
        if waiting or not self.error < s.threshold:
            return StepResult(losses.mean().item(), terms.item(), None, self.error)
        with frozen(self.surrogate):
            expected = _shares([(scale * z).softmax(-1) for _, z in result.logits], len(ids))
            (self.surrogate(expected).mean() + terms).backward()
        return StepResult(losses.mean().item(), terms.item(), self._optimizer.step(number), self.error)

    def _full(self, ids: torch.Tensor) -> torch.Tensor:
        """Nats per token of the full model, by sequence: texts differ by far more than widths do."""
        with torch.no_grad(), autocast(self._model.device, self._settings.precision):
            logits = self._model(input_ids=ids[:, :-1], use_cache=False).logits
        return cross_entropy(logits.float().transpose(1, 2), ids[:, 1:], reduction="none").mean(-1)

    def _explore(self, ids: torch.Tensor, target: float, number: int, *, random: bool) -> tuple[Pass, torch.Tensor]:
        """A pass whose choices are drawn, with one noise per sequence, and the shares [batch, all] of the candidates.

        Args:
            random: draw all candidates alike, whatever the routers say.
        """
        scale = self._settings.scale(number)
        uses: list[torch.Tensor] = []

        def use(logits: torch.Tensor) -> torch.Tensor:
            noise = gumbel_noise(logits.new_empty(len(ids), 1, logits.shape[-1]))
            uses.append(one_hot(noise if random else scale * logits.detach() + noise))
            return uses[-1]

        with torch.no_grad():
            result = routed_pass(self._model, self._routers, target, ids, use, self._settings.precision)
        return result, _shares(uses, len(ids))

    def _update(self) -> None:
        shares, lost = (torch.stack(list(values)) for values in zip(*self._seen, strict=True))
        for _ in range(UPDATES):
            drawn = torch.randint(len(lost), (SAMPLE,))
            (self.surrogate(shares[drawn]) - lost[drawn]).square().mean().backward()
            self._fit.step()
            self._fit.zero_grad(set_to_none=True)

    def _watch(self, target: float, number: int, *, random: bool) -> None:
        result, shares = self._explore(self._held_out, target, number, random=random)
        lost = result.losses.mean(-1) - self._full_held_out
        with torch.no_grad():
            error = (self.surrogate(shares).mean() - lost.mean()).abs().item()
        self.error = error if self.error is None else MEMORY * self.error + (1 - MEMORY) * error


def _shares(uses: Sequence[torch.Tensor], sequences: int) -> torch.Tensor:
    """[sequences, all candidates]: how much every layer and part uses each candidate, of tokens their mean."""
    return torch.cat([(u.mean(1) if u.ndim == 3 else u).expand(sequences, -1) for u in uses], -1)
