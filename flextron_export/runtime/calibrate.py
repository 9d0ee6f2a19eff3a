"""The verb `calibrate`: measure every budget on this device and keep the table in the bundle."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ..bundle.manifest import Bundle
from ..bundle.memory import cache_bytes, weight_bytes
from ..elastic.widths import Budget
from ..errors import InputError
from ..progress import Track, silent
from ..targets.session import Session
from ..version import __version__
from .opening import How, Opening, open_bundle
from .sampling import Sampling
from .sequence import LiveSequence
from .table import BudgetCost, LatencyTable, Timing, content_hash

if TYPE_CHECKING:
    from typing_extensions import Unpack

CONTEXTS = (64, 256, 1024)
PROMPT_LENGTHS = (16, 128, 512)
REPEATS = 96
LEAST_REPEATS = 6
BURST = 4
"""Decode steps per turn of a budget. The first is not counted: it fetches the weights that the last budget's turn drove
out of the processor's caches, which does not happen in a running generation."""

SAMPLING = Sampling(temperature=1.0, top_p=0.95)
"""How the token of a measured step is chosen: what most users ask for, and no cheaper than a greedy choice."""

log = logging.getLogger(__name__)


def calibrate(
    bundle: str | Path | Bundle,
    *,
    contexts: Sequence[int] = CONTEXTS,
    prompt_lengths: Sequence[int] = PROMPT_LENGTHS,
    repeats: int = REPEATS,
    max_seconds: float = 60.0,
    track: Track = silent,
    **how: Unpack[How],
) -> LatencyTable:
    """Measure time per token, time to the first token and memory of every budget; keep the table in the bundle.

    Budgets take turns in every round, so that noise on the machine hits all alike.

    Args:
        bundle: its directory.
        contexts: context lengths at which decode steps are measured, cut to what the model holds.
        prompt_lengths: prompt lengths for the time to the first token, cut likewise.
        repeats: decode steps to measure per budget and context length; a twelfth of that, but at least 6, per prompt
            length.
        max_seconds: with at least 6 measurements each, stop early to stay near this; `samples` tells how many.
        track: shows progress.
        how: target, layout, dtype, threads, low_memory: see `How`. They are part of the device's identity.

    Returns:
        The table. It is also written to `BUNDLE/latency/`, or to the user's cache directory if the bundle is read-only,
        which is logged.

    Raises:
        InputError: an argument cannot be used.
        BundleError, TargetError, MissingDependencyError: the bundle cannot be opened on that target.
    """
    opening = open_bundle(bundle, **how)
    session = opening.session()
    try:
        return measure(opening, session, contexts, prompt_lengths, repeats, max_seconds, track)
    finally:
        session.close()


def measure(
    opening: Opening,
    session: Session,
    contexts: Sequence[int] = CONTEXTS,
    prompt_lengths: Sequence[int] = PROMPT_LENGTHS,
    repeats: int = REPEATS,
    max_seconds: float = 60.0,
    track: Track = silent,
) -> LatencyTable:
    """`calibrate` on a session that is open already."""
    if repeats < 1:
        raise InputError(f"{repeats} repeats measure nothing.", fix="use --repeats 96")
    bundle, architecture, most = opening.bundle, opening.bundle.architecture, opening.max_tokens(session)
    contexts, prompt_lengths = _cut("context length", contexts, most), _cut("prompt length", prompt_lengths, most)
    # Of what is in the session, not of an engine that is built while it is measured.
    content = content_hash(bundle, opening.target, opening.layout, opening.dtype)
    load = [os.getloadavg()[0]] if hasattr(os, "getloadavg") else []
    budgets = bundle.budgets_of(opening.layout)
    run = Rounds(session, budgets, architecture.vocab_size, most, max_seconds / (len(contexts) + len(prompt_lengths)))
    stages: list[tuple[Callable[[int, int], list[Timing]], int, int]] = [(run.decode, n, repeats) for n in contexts]
    stages += [(run.first_token, n, max(repeats // 12, LEAST_REPEATS)) for n in prompt_lengths]
    results = [stage(tokens, count) for stage, tokens, count in track(stages, "measuring budgets")]
    decode, first = results[: len(contexts)], results[len(contexts) :]
    costs = {}
    for i, budget in enumerate(budgets):
        reads = weight_bytes(bundle, opening.dtype, budget)
        cache = cache_bytes(bundle, opening.dtype, budget, 1)
        timings = tuple(stage[i] for stage in decode), tuple(stage[i] for stage in first)
        costs[budget.name] = BudgetCost(budget.parameters(architecture), *timings, max(run.private[i], reads), cache)
    load += [os.getloadavg()[0]] if load else []
    conditions = {
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "flextron_export": __version__,
        "repeats": repeats,
        "sampling": asdict(SAMPLING),
        "load_average": [round(v, 2) for v in load],
    }
    device = opening.device()
    table = LatencyTable(device, opening.target, opening.layout, opening.dtype, content, costs, conditions)
    try:
        if (path := table.save(bundle)) != table.path(bundle):
            log.warning("%s cannot be written; the latency table is kept as %s.", bundle.path, path)
    except (InputError, OSError) as error:
        what = error.what if isinstance(error, InputError) else str(error)
        log.warning("The latency table is kept in memory only: %s", what)
    return table


class Rounds:
    """The measuring itself. Every budget is warmed up when it is first used, and its private memory noted.

    Args:
        session: of the bundle.
        budgets: they take turns.
        vocabulary: number of tokens there are.
        most: most tokens a sequence may hold.
        seconds: about how long each of the measurements below may take.
        capacity: slots of the caches in which decode steps run; by default what they need.
        sampling: how a token is chosen.

    Attributes:
        samples: per budget, the milliseconds of the latest measurement.
    """

    def __init__(
        self,
        session: Session,
        budgets: Sequence[Budget],
        vocabulary: int,
        most: int,
        seconds: float,
        *,
        capacity: int | None = None,
        sampling: Sampling = SAMPLING,
    ) -> None:
        self.budgets, self.session, self.most, self.seconds, self.sampling = budgets, session, most, seconds, sampling
        self.random = np.random.default_rng(0)
        self.tokens = np.random.default_rng(0).integers(0, vocabulary, most)
        self.steps = dict.fromkeys((b.name for b in budgets), 0)
        self.samples: list[list[float]] = []
        self.sequences: dict[str, LiveSequence] = {}
        self.private: list[int] = []
        common = session.memory()
        for budget in self.budgets:
            before = session.memory()
            self.sequences[budget.name] = LiveSequence(session, budget, most, capacity=capacity)
            for _ in range(2):
                LiveSequence(session, budget, most).prefill(self.tokens[:2])
            self.private.append(common + session.memory() - before)

    def decode(self, context: int, repeats: int) -> list[Timing]:
        """Per budget, decode steps after which the cache holds `context` tokens, each with the choice of a token."""
        for sequence in self.sequences.values():
            if context - 1 > sequence.length:
                # Really filled: untouched memory would be read faster than a cache in use.
                sequence.prefill(self.tokens[sequence.length : context - 1])
            sequence.reserve(context)

        def burst(budget: Budget) -> list[float]:
            sequence, found = self.sequences[budget.name], []
            for _ in range(BURST):
                # The same step again, after another token: one may cost more than another where tokens are routed.
                sequence.cut(context - 1)
                self.steps[budget.name] += 1
                token = int(self.tokens[(context - 1 + self.steps[budget.name]) % self.most])
                start = time.perf_counter()
                self.sampling.choose(sequence.decode(token), self.random)
                found.append((time.perf_counter() - start) * 1e3)
            return found[1:]

        return self._rounds(context, -(-repeats // (BURST - 1)), burst)

    def first_token(self, prompt: int, repeats: int) -> list[Timing]:
        """Per budget, from nothing to the token chosen after a prompt."""

        def once(budget: Budget) -> list[float]:
            start = time.perf_counter()
            sequence = LiveSequence(self.session, budget, self.most)
            self.sampling.choose(sequence.prefill(self.tokens[:prompt]), self.random)
            return [(time.perf_counter() - start) * 1e3]

        return self._rounds(prompt, repeats, once)

    def _rounds(self, tokens: int, rounds: int, turn: Callable[[Budget], list[float]]) -> list[Timing]:
        found: list[list[float]] = [[] for _ in self.budgets]
        self.samples = found
        for budget in self.budgets:
            turn(budget)  # warm: shapes of this size are prepared now
        end = time.perf_counter() + self.seconds
        for _ in range(rounds):
            for samples, budget in zip(found, self.budgets, strict=True):
                samples.extend(turn(budget))
            if time.perf_counter() > end and len(found[0]) >= LEAST_REPEATS:
                break
        return [Timing.of(tokens, samples) for samples in found]


def _cut(name: str, lengths: Sequence[int], most: int) -> list[int]:
    """Ascending lengths, none beyond what the model holds."""
    if not lengths or min(lengths) < 1:
        raise InputError(f"A {name} must be at least 1, and there must be one; got {list(lengths)}.")
    return sorted({min(int(n), most) for n in lengths})
