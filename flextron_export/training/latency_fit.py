"""A latency model fitted to measurements of whole models on the device at hand (docs/latency-model.md).

Costs of layers do not quite add up (kernels overlap, caches are shared), so the table is not measured layer by layer:
it is what predicts whole sub-networks best, and its error on others, which it has not seen, is part of it.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..bundle.manifest import Bundle
from ..elastic.widths import Budget, Candidates, LayerWidth
from ..errors import InputError, MissingDependencyError
from ..graph.contract import ROUTED
from ..progress import Track, silent
from ..runtime.calibrate import REPEATS, Rounds
from ..runtime.opening import How, open_bundle
from ..targets import get_target
from ..version import __version__
from .latency_model import PHASES, LatencyModel

if TYPE_CHECKING:
    from typing_extensions import Unpack

log = logging.getLogger(__name__)

BUDGETS, HELD_OUT = 30, 10
QUARTILE = 25
"""Percentile of the samples that stands for a sub-network. What disturbs a measurement only ever makes it longer, so on
a busy machine the lower quartile tells more of the widths than the median; on a quiet one they are alike."""


@dataclass(frozen=True)
class Errors:
    """Relative errors of a latency model on whole sub-networks.

    Attributes:
        budgets: how many it was tried on.
        median, worst: of the absolute relative errors.
    """

    budgets: int
    median: float
    worst: float

    @classmethod
    def of(cls, predicted: Sequence[float], measured: Sequence[float]) -> Errors:
        off = np.abs(np.asarray(predicted) / np.asarray(measured) - 1)
        return cls(len(off), round(float(np.median(off)), 4), round(float(off.max()), 4))

    def to_json(self) -> dict[str, Any]:
        return {"budgets": self.budgets, "median": self.median, "worst": self.worst}


def draw_budgets(candidates: Candidates, layers: int, count: int, seed: int = 0, name: str = "b") -> tuple[Budget, ...]:
    """Budgets with random widths in every layer, spread from the narrowest to the widest.

    Every budget draws how likely each candidate is before it draws widths: with equal chances, sums over many layers
    would all be near the mean.
    """
    random = np.random.default_rng(seed)

    def widths(values: tuple[int, ...]) -> list[int]:
        return [int(w) for w in random.choice(values, layers, p=random.dirichlet(np.ones(len(values))))]

    return tuple(
        Budget(f"{name}{i}", tuple(map(LayerWidth, widths(candidates.groups), widths(candidates.neurons))))
        for i in range(count)
    )


def fit_latency(
    budgets: Sequence[Budget],
    milliseconds: Sequence[float],
    candidates: Candidates,
    *,
    phase: str = "decode",
    tokens: int = 1,
    source: dict[str, Any] | None = None,
) -> LatencyModel:
    """The latency model with the least squared relative error on measured budgets.

    Its unknowns are the cost of the narrowest network and that of each step to the next candidate, none negative
    (non-negative least squares), so that wider never costs less. As every layer always has at least the narrowest
    width, no measurement tells the intercept from the cost of that: it is split as if the average slope went on to
    width zero. No prediction depends on the split.

    Raises:
        InputError: the budgets are too few or too alike to tell the parts apart, or a measurement is not positive.
        MissingDependencyError: scipy is not installed.
    """
    try:
        from scipy.optimize import nnls
    except ImportError as error:
        raise MissingDependencyError(
            "scipy, which fits latency models, is not installed.", fix="pip install 'flextron-export[latency]'"
        ) from error
    measured = np.asarray(milliseconds, float)
    if not (len(measured) == len(budgets) and np.all(np.isfinite(measured) & (measured > 0))):
        raise InputError(f"These are no milliseconds of {len(budgets)} budgets: {list(milliseconds)}.")
    design = np.array([_steps(budget, candidates) for budget in budgets], float)
    if np.linalg.matrix_rank(design) < design.shape[1]:
        raise InputError(
            f"{len(budgets)} budgets cannot tell the {design.shape[1]} parts of a latency model apart.",
            cause="they have the same widths in every layer, so that attention and FFN always narrow together",
            fix="fit on onnxruntime-cpu with the panels layout, which runs any widths; or export budgets that differ "
            "from layer to layer",
        )
    solution, _ = nnls(design / measured[:, None], np.ones(len(measured)))
    layers = len(budgets[0].layers)
    base, count = float(solution[0]), len(candidates.groups) - 1
    steps = {"groups": solution[1 : 1 + count], "neurons": solution[1 + count :]}
    narrowest = {
        kind: float(steps[kind].sum()) / (widths[-1] - widths[0]) * widths[0] if len(widths) > 1 else 0.0
        for kind, widths in (("groups", candidates.groups), ("neurons", candidates.neurons))
    }
    share = min(1.0, base / total) if (total := layers * sum(narrowest.values())) > 0 else 0.0
    entries = {
        kind: tuple(float(v) for v in share * narrowest[kind] + np.concatenate([[0.0], np.cumsum(steps[kind])]))
        for kind in steps
    }
    intercept = max(base - share * total, 0.0)
    model = LatencyModel(
        phase, tokens, intercept, entries["groups"], entries["neurons"], dict(source or {}), candidates, layers
    )
    model.validate()
    return model


def _steps(budget: Budget, candidates: Candidates) -> list[int]:
    """1, and for each candidate but the narrowest the number of layers at least that wide: groups, then neurons."""
    return [
        1,
        *(sum(w.groups >= g for w in budget.layers) for g in candidates.groups[1:]),
        *(sum(w.neurons >= n for w in budget.layers) for n in candidates.neurons[1:]),
    ]


def fit_bundle(
    bundle: str | Path | Bundle,
    *,
    phase: str = "decode",
    tokens: int = 256,
    budgets: int = BUDGETS,
    held_out: int = HELD_OUT,
    repeats: int = REPEATS,
    max_seconds: float = 60.0,
    seed: int = 0,
    track: Track = silent,
    **how: Unpack[How],
) -> LatencyModel:
    """Measure sub-networks of a bundle on this device and fit a latency model to their lower quartiles.

    Where any widths run (`panels` and `shared` on ONNX Runtime), budgets are drawn at random, with uniform ones at
    every candidate step among them; others that are not fitted to tell the error. Elsewhere (an engine's profiles, one
    graph per budget) the bundle's own budgets are measured, and the error is that of each when it is left out.

    Args:
        bundle: its directory.
        phase: `decode` or `prefill`.
        tokens: context length after the measured token, or prompt length; cut to what the model holds, with a warning.
        budgets: sub-networks to fit to.
        held_out: sub-networks to tell the error; each is measured twice, to tell what a measurement repeats within.
        repeats: decode steps, or prefills, per sub-network.
        max_seconds: stop early to stay near this.
        seed: of the random widths.
        track: shows progress.
        how: target, layout, dtype, threads, low_memory: see `How`.

    Returns:
        The model. Its `source` has the device, the target, and under `error` and `repeatability` the `Errors`.

    Raises:
        InputError: an argument cannot be used, or the budgets cannot tell attention from FFN.
        BundleError, TargetError, MissingDependencyError: the bundle cannot be opened on that target.
    """
    if phase not in PHASES or tokens < 1 or held_out < 1 or repeats < 1:
        raise InputError(
            f"phase {phase!r}, {tokens} tokens, {held_out} held-out budgets and {repeats} repeats cannot be measured.",
            fix=f"use a phase of {', '.join(PHASES)}, and at least 1 of the others",
        )
    opening = open_bundle(bundle, **how)
    if opening.layout == ROUTED:
        raise InputError(
            f"Layout {ROUTED} has no widths to fit a latency model to: every token chooses its own.",
            fix="pass --layout panels",
        )
    candidates, layers = opening.bundle.candidates, opening.bundle.architecture.num_layers
    free = opening.layout != "per-budget" and get_target(opening.target).ANY_WIDTHS
    trained: tuple[Budget, ...] = opening.bundle.budgets
    others: tuple[Budget, ...] = ()
    if free:
        uniform = candidates.uniform_budgets(opening.bundle.architecture)
        trained = (*uniform, *draw_budgets(candidates, layers, max(budgets - len(uniform), 0), seed, "fit-"))
        others = draw_budgets(candidates, layers, held_out, seed + 1, "held-out-")
        again = tuple(replace(b, name=f"{b.name}-again") for b in others)
        opening = replace(opening, bundle=replace(opening.bundle, budgets=(*trained, *others, *again)))
    session = opening.session()
    try:
        most = opening.max_tokens(session)
        if tokens > most:
            log.warning("%s holds %d tokens, not %d: measured with %d.", opening.bundle.path, most, tokens, most)
            tokens = most
        vocabulary = opening.bundle.architecture.vocab_size
        rounds = Rounds(session, opening.bundle.budgets, vocabulary, most, max_seconds)
        measure = rounds.decode if phase == "decode" else rounds.first_token
        for _ in track([phase], f"measuring {len(rounds.budgets)} sub-networks"):
            measure(tokens, repeats)
        samples = {b.name: s for b, s in zip(rounds.budgets, rounds.samples, strict=True)}
    finally:
        session.close()

    times = {name: float(np.percentile(found, QUARTILE)) for name, found in samples.items()}

    def fit(chosen: Sequence[Budget]) -> LatencyModel:
        return fit_latency(chosen, [times[b.name] for b in chosen], candidates, phase=phase, tokens=tokens)

    source = {
        "made": "fitted to measured sub-networks",
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "flextron_export": __version__,
        "device": opening.device(),
        "target": opening.target,
        "layout": opening.layout,
        "dtype": opening.dtype,
        "budgets": len(trained),
        "samples": min(map(len, samples.values())),
        "percentile": QUARTILE,
        **_errors(fit, trained, others, times, candidates),
    }
    return replace(fit(trained), source=source)


def _errors(
    fit: Any, trained: Sequence[Budget], others: Sequence[Budget], times: dict[str, float], candidates: Candidates
) -> dict[str, Any]:
    """How well budgets are predicted that were not fitted to, and how well a measurement repeats."""

    def measured(budgets: Sequence[Budget], suffix: str = "") -> list[float]:
        return [times[b.name + suffix] for b in budgets]

    if others:
        model = fit(trained)
        predicted = [model.predict(b, candidates) for b in others]
        return {
            "error": {"on": "budgets held out", **Errors.of(predicted, measured(others)).to_json()},
            "repeatability": Errors.of(measured(others, "-again"), measured(others)).to_json(),
        }
    predicted, left_out = [], []
    for i, budget in enumerate(trained):
        try:
            predicted.append(fit([*trained[:i], *trained[i + 1 :]]).predict(budget, candidates))
            left_out.append(budget)
        except InputError:  # without it, the others do not determine the model
            continue
    if not left_out:
        return {"error": None}
    return {"error": {"on": "each budget, left out", **Errors.of(predicted, measured(left_out)).to_json()}}
