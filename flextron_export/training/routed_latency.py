"""What routers' choices cost: the latency model's lookup table under the probabilities of the candidates."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..elastic.architecture import Architecture
from ..elastic.router import PARTS
from ..elastic.widths import Budget, Candidates
from ..errors import InputError
from .analytic_latency import shape_architecture
from .latency_model import LatencyModel

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class RoutedLatency:
    """Milliseconds of a model whose parts choose: intercept + the sum of what every layer and part costs.

    Attributes:
        intercept: ms that no choice changes.
        attention: ms of one layer's attention at each candidate, ascending.
        ffn: ms of one layer's FFN at each candidate, ascending.
        layers: number of layers.
    """

    intercept: float
    attention: tuple[float, ...]
    ffn: tuple[float, ...]
    layers: int

    @classmethod
    def of(cls, model: LatencyModel, architecture: Architecture, candidates: Candidates, kind: str) -> RoutedLatency:
        """The table as routers of a kind meet it.

        A static or a prompt router chooses ordinary sub-networks. Under dynamic routing keys, values and attention
        exist for all groups, so of what a narrower attention saves only `query_share` is saved.

        Raises:
            InputError: the latency model is of other candidates.
        """
        model = model.for_model(candidates, architecture.num_layers)
        attention = model.groups
        if kind == "dynamic":
            share, full = query_share(model, architecture), model.groups[-1]
            attention = tuple(full - share * (full - ms) for ms in model.groups)
        return cls(model.intercept, attention, model.neurons, architecture.num_layers)

    def costs(self, part: str) -> tuple[float, ...]:
        return self.attention if part == "attention" else self.ffn

    @property
    def full(self) -> float:
        """Milliseconds of the full model."""
        return self.intercept + self.layers * (self.attention[-1] + self.ffn[-1])

    @property
    def fastest(self) -> float:
        """Milliseconds with every part at its narrowest: nothing is faster."""
        return self.intercept + self.layers * (self.attention[0] + self.ffn[0])

    def relative(self, target: float) -> float:
        """The latency of the full model that `target` ms is, as a share."""
        return target / self.full

    def of_choices(self, choices: Sequence[Mapping[str, int]]) -> float:
        """Milliseconds where every layer's parts choose one candidate, by its index."""
        return self.intercept + sum(self.costs(part)[layer[part]] for layer in choices for part in PARTS)

    def of_budget(self, budget: Budget, candidates: Candidates) -> float:
        """Milliseconds of a budget."""
        return self.of_choices(
            [
                {"attention": candidates.groups.index(w.groups), "ffn": candidates.neurons.index(w.neurons)}
                for w in budget.layers
            ]
        )

    def expected(self, probabilities: Iterable[tuple[str, torch.Tensor]]) -> torch.Tensor:
        """Milliseconds expected under the probabilities of the candidates, a mean over sequences and tokens; scalar.

        Args:
            probabilities: of every layer and part: the part and a tensor [..., candidates] that sums to 1.
        """
        import torch

        total = torch.tensor(self.intercept)
        for part, p in probabilities:
            total = total.to(p.device) + (p @ p.new_tensor(self.costs(part))).mean()
        return total

    def check_targets(self, targets: Sequence[float]) -> None:
        """Raise InputError naming every relative target that no choice of widths can meet."""
        found = [f"{t:g} is no share of the full model's latency, from above 0 to 1" for t in targets if not 0 < t <= 1]
        least = self.fastest / self.full
        shown = math.ceil(round(least * 1000, 6)) / 1000  # rounded up, so that it can be asked for
        found += [f"{t:g} is below {shown:.3f}" for t in targets if 0 < t < least]
        if found:
            raise InputError(
                f"These targets cannot be reached: {'; '.join(found)}.",
                cause=f"the fastest that these candidate widths reach is {shown:.3f} of the full model's latency "
                f"({self.fastest:.4g} of {self.full:.4g} ms)",
                fix=f"ask for targets from {shown:.3f} to 1, or make the model elastic with narrower candidates",
            )


def query_share(model: LatencyModel, architecture: Architecture) -> float:
    """Of what a narrower attention saves, the share that query heads alone save: the projections q and o.

    A latency model does not tell apart what its attention entries consist of, so this share is counted: in decoding by
    the values read (weights of q, k, v and o, and the cache of `tokens` keys and values), in prefill by the
    multiplications (the same weights, and scores and sums over half of `tokens` on average). Where the table is that of
    a large shape, the shape is counted.
    """
    a = shape_architecture(model.source["shape"]) if "shape" in model.source else architecture
    projections = 2 * a.heads_per_group * a.hidden_size  # per group and head_dim
    keys = 2 * a.hidden_size
    attention = 2 * model.tokens if model.phase == "decode" else a.heads_per_group * model.tokens
    return projections / (projections + keys + attention)
