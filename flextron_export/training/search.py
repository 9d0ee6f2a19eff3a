"""Budgets by search, without a router: coordinate descent on validation loss per millisecond saved.

From the full model, the single step to a next narrower candidate, in one layer and one kind of width, that costs the
least loss per millisecond saved is taken again and again until the latency target is met; then swaps: one layer wider,
another narrower, as long as the loss falls. It is the baseline that a router has to beat.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

from ..elastic.widths import Budget, Candidates, LayerWidth
from ..errors import InputError, problems
from .latency_model import LatencyModel

Loss = Callable[[Budget], float]
"""Validation loss of a budget in nats per token."""

TRIED_SWAPS = 4
"""Pairs tried in one pass of swaps, of those that look best."""

Move = tuple[int, str]
"""A layer, and `groups` or `neurons`."""


@dataclass(frozen=True)
class Found:
    """What a search found for a target.

    Attributes:
        target: milliseconds asked for.
        budget: the widths, named, with their loss on the search's text.
        milliseconds: what the latency model says it takes; at most `target`.
        uniform: the best budget of one width in every layer that meets the target, or None if none does.
    """

    target: float
    budget: Budget
    milliseconds: float
    uniform: Budget | None


class Evaluations:
    """Losses that were computed, at most so many: asking again costs nothing."""

    def __init__(self, loss: Loss, most: int | None = None, report: Callable[[int, float], None] | None = None) -> None:
        self.loss, self.most, self.report = loss, most, report
        self.known: dict[tuple[LayerWidth, ...], float] = {}

    def spent(self) -> bool:
        return self.most is not None and len(self.known) >= self.most

    def of(self, budget: Budget) -> float:
        """The loss; computed whether or not all evaluations are spent."""
        return self.of_layers(budget.layers)

    def of_layers(self, layers: tuple[LayerWidth, ...]) -> float:
        """The same, of the widths of every layer."""
        if layers not in self.known:
            self.known[layers] = self.loss(Budget("search", layers))
            if self.report is not None:
                self.report(len(self.known), self.known[layers])
        return self.known[layers]


def search(
    loss: Loss,
    latency: LatencyModel,
    candidates: Candidates,
    layers: int,
    targets: dict[str, float],
    *,
    max_evaluations: int | None = None,
    report: Callable[[int, float], None] | None = None,
) -> list[Found]:
    """Search widths for each target; deterministic as far as `loss` is.

    How much a step costs per millisecond is computed when the step could be the next one, and kept until then: costs
    mostly grow as the model narrows, so most stay right (lazy greedy evaluation). Once the evaluations are spent, steps
    are taken by their last known costs and nothing is swapped: every target is met nevertheless.

    Args:
        loss: of a budget, in nats per token.
        latency: of a model with these candidates.
        layers: number of layers.
        targets: name of the budget -> milliseconds.
        max_evaluations: most losses to compute for the search, besides one per target and its uniform rivals.
        report: called with the number of evaluations so far and the latest loss.

    Returns:
        One result per target, the slowest first.

    Raises:
        InputError: a target is below the fastest network there is, or the latency model does not fit.
    """
    latency.check(candidates)
    check_targets(latency, layers, targets)
    evaluations = Evaluations(loss, max_evaluations, report)
    state = _State(latency, candidates, evaluations, layers)
    found = []
    for name, target in sorted(targets.items(), key=lambda item: (-item[1], item[0])):
        state.descend(target)
        state.swap(target)
        layers_now = state.layers
        budget = Budget(name, layers_now, evaluations.of_layers(layers_now))
        uniform = best_uniform(evaluations.of, latency, candidates, layers, target)
        found.append(Found(target, budget, state.milliseconds(layers_now), uniform))
    return found


def check_targets(latency: LatencyModel, layers: int, targets: dict[str, float]) -> None:
    """Raise InputError naming every target that is no time, or less than the fastest network takes."""
    fastest = latency.fastest(layers)
    found = [] if targets else ["there is none"]
    for name, target in targets.items():
        if not 0 < target < float("inf"):
            found.append(f"{name} asks for {target} ms")
        elif target < fastest * (1 - 1e-9):
            full = latency.full(layers)
            found.append(
                f"{name} asks for {target:.4g} ms, but the fastest network, with every layer at its narrowest, takes "
                f"{fastest:.4g} ms ({fastest / full:.3f} of the full model's {full:.4g} ms)"
            )
    problems(InputError, "these latency targets cannot be met", found, "ask for more, or add narrower candidates")


def best_uniform(
    loss: Loss,
    latency: LatencyModel,
    candidates: Candidates,
    layers: int,
    target: float,
) -> Budget | None:
    """The budget of lowest loss that has one width in every layer and meets the target; None if none does.

    What searches and routers are compared with. Only those are evaluated than which no other that meets the target is
    wider in both.

    Args:
        target: milliseconds.
    """
    fitting = [
        (i, j)
        for i in range(len(candidates.groups))
        for j in range(len(candidates.neurons))
        if latency.intercept + layers * (latency.groups[i] + latency.neurons[j]) <= target * (1 + 1e-9)
    ]
    widest = [(i, j) for i, j in fitting if not any(a >= i and b >= j and (a, b) != (i, j) for a, b in fitting)]
    widths = [LayerWidth(candidates.groups[i], candidates.neurons[j]) for i, j in widest]
    budgets = [Budget("uniform", (width,) * layers) for width in widths]
    measured = [(loss(budget), budget) for budget in budgets]
    lowest, best = min(measured, key=lambda pair: pair[0], default=(0.0, None))
    return None if best is None else replace(best, validation_loss=lowest)


class _State:
    """A point of the search, and what is known of the steps from it."""

    def __init__(self, latency: LatencyModel, candidates: Candidates, evaluations: Evaluations, layers: int) -> None:
        self.latency, self.candidates, self.evaluations = latency, candidates, evaluations
        self.layers = (LayerWidth(candidates.groups[-1], candidates.neurons[-1]),) * layers
        self.prices: dict[Move, tuple[float, tuple[LayerWidth, ...] | None]] = {}
        """move -> loss per millisecond, and the point at which it was computed; None if it was guessed."""

    def milliseconds(self, layers: tuple[LayerWidth, ...]) -> float:
        return self.latency.predict(Budget("search", layers), self.candidates)

    def descend(self, target: float) -> None:
        """Narrow until the target is met."""
        while self.milliseconds(self.layers) > target * (1 + 1e-9):
            self.layers = self._step(*self._cheapest(), -1)

    def _cheapest(self) -> Move:
        """The step down with the lowest price at this point; ties go to the first layer, groups before neurons."""
        moves = self._moves(-1)
        while True:
            for move in moves:  # never seen: has to be computed, or stands behind all that were
                if move not in self.prices:
                    self.prices[move] = self._price(move)
            best = min(moves, key=lambda move: (self.prices[move][0], move))
            if self.prices[best][1] == self.layers or self.evaluations.spent():
                return best
            self.prices[best] = self._price(best)

    def _price(self, move: Move) -> tuple[float, tuple[LayerWidth, ...] | None]:
        narrower = self._step(*move, -1)
        saved = self.milliseconds(self.layers) - self.milliseconds(narrower)
        if saved <= 0:
            return float("inf"), self.layers
        if self.evaluations.spent() and narrower not in self.evaluations.known:
            return (self.prices[move][0] if move in self.prices else float("inf")), None
        return (self.evaluations.of_layers(narrower) - self.evaluations.of_layers(self.layers)) / saved, self.layers

    def swap(self, target: float) -> None:
        """Widen one step and narrow another, or widen alone where there is room, as long as the loss falls."""
        while not self.evaluations.spent():
            for layers in self._swaps(target):
                if self.evaluations.of_layers(layers) < self.evaluations.of_layers(self.layers):
                    self.layers = layers
                    break
                if self.evaluations.spent():
                    return
            else:
                return

    def _swaps(self, target: float) -> Iterator[tuple[LayerWidth, ...]]:
        """The few neighbours within the target that look best if the two losses add up."""
        here = self.evaluations.of_layers(self.layers)
        change: dict[tuple[Move, int], float] = {}
        for direction in (1, -1):
            for move in self._moves(direction):
                stepped = self._step(*move, direction)
                if self.evaluations.spent() and stepped not in self.evaluations.known:
                    continue
                change[move, direction] = self.evaluations.of_layers(stepped) - here
        wider, narrower = (sorted(move for move, d in change if d == direction) for direction in (1, -1))
        options = []
        for up in wider:
            raised = self._step(*up, 1)
            for down in (None, *(move for move in narrower if move != up)):
                layers = raised if down is None else self._step(*down, -1, raised)
                expected = change[up, 1] + (0.0 if down is None else change[down, -1])
                if expected < 0 and self.milliseconds(layers) <= target * (1 + 1e-9):
                    options.append((expected, up, down or (-1, ""), layers))
        options.sort(key=lambda option: option[:3])
        for _, _, _, layers in options[:TRIED_SWAPS]:
            yield layers

    def _moves(self, direction: int) -> list[Move]:
        """Steps by one candidate that there are, in a fixed order."""
        end = 0 if direction < 0 else -1
        return [
            (i, kind)
            for i, width in enumerate(self.layers)
            for kind in ("groups", "neurons")
            if getattr(width, kind) != getattr(self.candidates, kind)[end]
        ]

    def _step(
        self, layer: int, kind: str, direction: int, layers: tuple[LayerWidth, ...] | None = None
    ) -> tuple[LayerWidth, ...]:
        layers = self.layers if layers is None else layers
        values: Sequence[int] = getattr(self.candidates, kind)
        value = values[values.index(getattr(layers[layer], kind)) + direction]
        return (*layers[:layer], replace(layers[layer], **{kind: value}), *layers[layer + 1 :])
