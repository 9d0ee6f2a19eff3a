"""Per-prompt routing: which of the budgets that meet a target a prompt router asks for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from ..bundle.embedding import EmbeddingRows
from ..bundle.manifest import Bundle
from ..elastic.router import encode
from ..elastic.widths import Budget, LayerWidth
from ..graph.contract import CHOICES, PROMPT_INPUT, PROMPT_ROUTER, TARGET_INPUT
from ..targets._onnxruntime.loading import load_graph
from .selection import Numbers, Rejection, Selection


class PromptRouter:
    """The prompt router of a bundle. It runs on ONNX Runtime on the CPU, wherever the model runs.

    Args:
        bundle: its `router` is a prompt router.

    Raises:
        TargetError, MissingDependencyError: ONNX Runtime refuses the graph, or is not installed.
    """

    def __init__(self, bundle: Bundle) -> None:
        assert bundle.router is not None
        self._targets, self._candidates = bundle.router.targets, bundle.candidates
        self._embedding = EmbeddingRows(bundle)
        self._session = load_graph(bundle, bundle.path / PROMPT_ROUTER, threads=1)

    def mean_embedding(self, prompt: Sequence[int]) -> np.ndarray:
        """What it reads of a prompt: float32 [hidden]."""
        mean: np.ndarray = self._embedding[np.asarray(prompt, np.int64)].mean(0)
        return mean

    def widths(self, prompt: Sequence[int], target: float) -> tuple[LayerWidth, ...]:
        """What it chooses for a prompt at a share of the full latency; outside the trained ones, at the nearest."""
        code = encode(self._targets, min(max(target, self._targets[-1]), 1.0))
        feeds = {PROMPT_INPUT: self.mean_embedding(prompt)[None], TARGET_INPUT: code[None]}
        groups, neurons = self._session.run(list(CHOICES), feeds)
        c = self._candidates
        return tuple(LayerWidth(c.groups[g], c.neurons[n]) for g, n in zip(groups[0], neurons[0], strict=True))

    def choose(self, selection: Selection, prompts: Sequence[Sequence[int]]) -> Selection:
        """Of the budgets that meet a selection's target, the one nearest to what the router chooses.

        For several prompts, which share a budget, the sum of the distances counts. The router reads the target as a
        share of what the widest budget was measured to take. A selection that was made for no time, or that meets none,
        stays as it is.
        """
        target, numbers = selection.target, {selection.budget: selection.numbers}
        numbers |= {r.budget: r.numbers for r in selection.rejected}
        widest = max(numbers, key=lambda b: sum(w.groups + w.neurons for w in b.layers))
        measured = numbers[widest]
        if target is None or measured is None or not selection.met:
            return selection
        pairs = (
            (target.ms_per_token, measured.ms_per_token),
            (target.first_token_ms, measured.first_token_ms),
        )
        shares = [limit / value for limit, value in pairs if limit is not None and value is not None]
        if not shares:
            return selection
        wanted = [self.widths(prompt, min(shares)) for prompt in prompts]
        fitting = [selection.budget, *(r.budget for r in selection.rejected if r.why == "lower-quality")]
        picked = min(fitting, key=lambda b: (sum(self._distance(b, widths) for widths in wanted), fitting.index(b)))
        which = "this prompt" if len(wanted) == 1 else f"these {len(wanted)} prompts"
        reason = (
            f"{picked.name} is nearest to the widths that the router chose for {which}, "
            f"of {len(fitting)} that meet {target}: {numbers[picked]}."
        )
        others = tuple(_rejection(b, numbers[b]) for b in fitting if b is not picked)
        slow = tuple(r for r in selection.rejected if r.budget not in fitting)
        return replace(selection, budget=picked, reason=reason, numbers=numbers[picked], rejected=(*others, *slow))

    def _distance(self, budget: Budget, widths: Sequence[LayerWidth]) -> float:
        """The sum over layers and parts of differences, as shares of the full widths."""
        groups, neurons = self._candidates.groups[-1], self._candidates.neurons[-1]
        return sum(
            abs(a.groups - b.groups) / groups + abs(a.neurons - b.neurons) / neurons
            for a, b in zip(budget.layers, widths, strict=True)
        )


def _rejection(budget: Budget, numbers: Numbers | None) -> Rejection:
    return Rejection(
        budget, numbers, "other-prompts", f"it fits with {numbers}, but is further from what the router chose"
    )
