"""Which runs test which claim, and at what size."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

from flextron_export.elastic.widths import Budget, full_budget
from tools.claims.recipes import Choosing, Recipe, Shape, Text, Training
from tools.claims.widths import (
    BUDGETS,
    candidate_widths,
    latency_table,
    operations_per_token,
    sampler_of,
    uniform,
)

TEXT = "calibration/text/kjv.txt.xz"
ORDERS = ("sorted", "unsorted", "reversed")
TARGETS = ((0.75, 0.75), (0.625, 0.75), (0.625, 0.625), (0.625, 0.5))
"""Uniform widths whose latencies are the targets of routers and search: fractions of groups and of neurons."""

LATENCY: dict[str, Any] = {"stands_for": "7b", "device": "jetson-agx-orin", "context": 1024}
"""Latency is that of decoding with Llama 2 7B's layers, by this device's data sheet: not the toy's own overhead."""

ROUTER_SHARES = {"static": 0.1, "dynamic": 0.3}
"""Tokens that routers are trained on, as shares of the base's: a static one then takes the search's time, and a dynamic
one what its seeds need to agree."""

JOINT_SHARE = 0.05
"""Tokens of the joint fine-tune, as a share of the base's."""

FULL_WEIGHT = 4.0
"""Weight of the full model's loss in a run that protects it."""

ENOUGH = 0.75
"""Share of the full budget from which the network trained on all of it stands for one of equal compute."""

SHARES = (0.076, 0.2)
"""Tokens of the elastic runs as shares of the base's: the paper's 7.63 %, and a fifth."""


@dataclass(frozen=True)
class Protocol:
    """The size of the whole.

    Attributes:
        tokens: the base reads, and a network trained from scratch on the full budget.
        rate: learning rate from random weights, tuned for the base.
        elastic_rate: learning rate of everything that starts from the base.
        batch: sequences per step.
        fractions: of heads and of neurons: the candidates. The paper's smallest networks have half the latency.
        short_batch: of those that read no more than the elastic runs, from scratch too: few tokens do more in more
            steps.
    """

    text: Text
    shape: Shape
    tokens: int
    rate: float
    elastic_rate: float
    batch: int = 32
    short_batch: int = 8
    fractions: tuple[float, ...] = (0.5, 0.625, 0.75, 1.0)
    elastic_loss: str = "distill"
    sampling: str = "sandwich"
    shares: tuple[float, ...] = SHARES

    def base(self, seed: int) -> Training:
        """The model that everything else starts from, or is compared with."""
        return Training("base", self.text, self.shape, seed, self.tokens, self.rate)

    def scratch(self, seed: int, budget: str, tokens: float) -> Training:
        """A network of a budget's shape from random weights."""
        groups, neurons = BUDGETS[budget]
        shape = replace(self.shape, heads=round(groups * self.shape.heads), neurons=round(neurons * self.shape.neurons))
        share = round(100 * tokens / self.tokens)
        batch = self.short_batch if tokens <= max(self.shares) * self.tokens else self.batch
        return Training(
            f"scratch-{budget}-{share}",
            self.text,
            shape,
            seed,
            round(tokens),
            self.rate,
            batch=batch,
        )

    def sorted(self, seed: int, order: str) -> Training:
        """The base in an order, not trained further."""
        return Training(
            f"order-{order}", self.text, self.shape, seed, 0, self.elastic_rate, self.base(seed), order=order
        )

    def elastic(self, seed: int, share: float, order: str = "sorted") -> Training:
        """The elastic run: one training for all widths."""
        return self._continued(f"elastic-{order}", seed, share, order, self.sampling, self.elastic_loss)

    def alone(self, seed: int, share: float, budget: str) -> Training:
        """One sub-network of the sorted base, trained alone in the same way."""
        return self._continued(f"alone-{budget}", seed, share, "sorted", budget, self.elastic_loss)

    def longer(self, seed: int, share: float) -> Training:
        """The base trained further in the plain way: what the extra tokens alone do for the full model."""
        return self._continued("longer", seed, share, "unsorted", "full", "ce")

    def _continued(self, name: str, seed: int, share: float, order: str, train: str, loss: str) -> Training:
        return Training(
            f"{name}-{round(100 * share)}",
            self.text,
            self.shape,
            seed,
            round(share * self.tokens),
            self.elastic_rate,
            self.base(seed),
            order,
            train,
            loss,
            batch=self.short_batch,
            fractions=self.fractions if train == self.sampling else (),
        )

    def choosing(self, seed: int, way: str, trained: bool = True) -> Choosing:
        """Widths for latency targets, chosen on the longest elastic run, or on the base that is only sorted.

        Args:
            way: as in `Choosing`; `surrogate` is a static router trained on a surrogate, `joint` one with the joint
                fine-tune.
        """
        start = self.elastic(seed, self.shares[-1]) if trained else self.sorted(seed, "sorted")
        kind = {"surrogate": "static", "joint": "static"}.get(way, way)
        return Choosing(
            way if trained else f"{way}-sorted",
            start,
            seed,
            kind,
            self.targets(),
            self.fractions,
            tokens=round(ROUTER_SHARES.get(kind, 0) * self.tokens),
            method="surrogate" if way == "surrogate" else "gumbel",
            batch=self.short_batch,
            joint_tokens=round(JOINT_SHARE * self.tokens) if way == "joint" else 0,
            **LATENCY,
        )

    def around(self, seed: int, share: float, way: str) -> Training:
        """An elastic run that stays near what a way chose on the base that is only sorted."""
        chosen = self.choosing(seed, way, trained=False)
        return replace(
            self.elastic(seed, share), name=f"around-{way}-{round(100 * share)}", train="router", around=chosen
        )

    def latency(self, budget: Budget) -> float:
        """Relative to the full model."""
        architecture = self.shape.architecture(self.text.vocabulary)
        candidates = candidate_widths(architecture, self.fractions)
        table = latency_table(architecture, candidates, **LATENCY)
        return table.predict(budget, candidates) / table.full(architecture.num_layers)

    def targets(self) -> tuple[float, ...]:
        """Latencies of uniform budgets, so that uniform widths can meet them exactly."""
        architecture = self.shape.architecture(self.text.vocabulary)
        return tuple(math.ceil(1000 * self.latency(uniform(architecture, *f))) / 1000 for f in TARGETS)

    def same_compute(self, share: float, budget: str, vocabulary: int) -> float:
        """Tokens on which training a budget's shape from scratch costs as many operations as the elastic run."""
        full = self.shape.architecture(vocabulary)
        elastic = operations_per_token(
            sampler_of(self.sampling, full, self.fractions),
            full,
            self.text.length,
            self.elastic_loss != "ce",
        )
        narrow = self.scratch(0, budget, 0).shape.architecture(vocabulary)
        plain = operations_per_token(lambda random: [full_budget(narrow)], narrow, self.text.length, False)
        return share * self.tokens * elastic / plain

    def plans(self, seed: int) -> dict[str, list[Recipe]]:
        """Claim -> its runs at a seed, in the order in which they should be made."""
        vocabulary = self.text.vocabulary
        more = self.shares[-1]
        base, elastic = self.base(seed), [self.elastic(seed, share) for share in self.shares]
        scratch = [self.scratch(seed, "p50", self.tokens)]
        scratch += [self.scratch(seed, "p50", share * self.tokens) for share in self.shares]
        compute = [self.same_compute(share, "p50", vocabulary) for share in self.shares]
        scratch += [self.scratch(seed, "p50", tokens) for tokens in compute if tokens < ENOUGH * self.tokens]
        alone = [self.alone(seed, more, budget) for budget in ("p75", "p50")]
        ways = ("uniform", "search", "static")
        static = [self.choosing(seed, way) for way in ways]
        untrained = [self.choosing(seed, way, trained=False) for way in (*ways, "surrogate")]
        return {
            "a": [
                base,
                *(self.sorted(seed, order) for order in ORDERS),
            ],
            "b": [base, *scratch, *elastic],
            "c": [base, *elastic, *alone],
            "d": [base, elastic[-1], *static, self.sorted(seed, "sorted"), *untrained],
            "e": [base, elastic[-1], *static, self.choosing(seed, "dynamic")],
            "f": [base, *elastic, self.longer(seed, more)],
            "g": self.more(seed) if seed == 1 else [],
        }

    def more(self, seed: int) -> list[Recipe]:
        """Runs beside the claims, of which one seed has to do."""
        share = self.shares[-1]
        elastic = self.elastic(seed, share)
        weighted = replace(elastic, name=f"weighted-{round(100 * share)}", full_weight=FULL_WEIGHT)
        return [
            self.base(seed),
            elastic,
            weighted,
            self.scratch(seed, "p75", self.tokens),  # a Llama cannot have the five heads of p62
            # Of the search's networks most are the router's.
            *(self.around(seed, share, way) for way in ("uniform", "static")),
            *(self.choosing(seed, way) for way in ("uniform", "search", "static", "joint")),
        ]


CLAIMS = {
    "a": "sorting",
    "b": "elastic against from scratch",
    "c": "one elastic run against one run per width",
    "d": "static router against uniform widths and search",
    "e": "dynamic against static router",
    "f": "the full model",
    "g": "further settings, of the first seed alone",
}

FULL = Protocol(
    text=Text(TEXT, vocabulary=512, length=64, validation=1024),
    shape=Shape(hidden=96, layers=3, heads=8, head_dim=8, neurons=128),
    tokens=3_000_000,
    rate=1e-2,
    elastic_rate=3e-3,
)

QUICK = Protocol(
    text=Text(TEXT, vocabulary=300, length=16, validation=16),
    shape=Shape(hidden=24, layers=2, heads=8, head_dim=4, neurons=32),
    tokens=20_000,
    rate=1e-2,
    elastic_rate=3e-3,
)
