"""Measuring what drafting costs and how often drafts are accepted; kept beside the latency table.

`BUNDLE/latency/<device>.<target>.<layout>.<dtype>.drafts.json`, or in the user's cache directory as the latency table.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from statistics import median
from typing import Any, TypeVar

import numpy as np

from ..bundle.golden import read_golden
from ..bundle.manifest import Bundle
from ..elastic.widths import Budget
from ..errors import BundleError, InputError
from ..files import MALFORMED, read_object, write_json
from ..targets.session import Session
from .calibrate import SAMPLING
from .drafting import Draft, can_draft
from .opening import Opening
from .rejection import Distribution
from .sampling import Sampling
from .sequence import LiveSequence
from .speculation import LONGEST, DraftCost, DraftCosts
from .table import cache_path, content_hash, table_path

FORMAT = "flextron-drafts"
VERSION = 1
POSITIONS = 96
"""Tokens of the model's own text at which drafts are compared with what the verifier would choose."""
ROUNDS = 9
WARM = 4
"""First tokens, whose times are not counted."""

T = TypeVar("T")
_RANDOM = np.random.default_rng(0)  # for choices that are only timed
log = logging.getLogger(__name__)


def drafts_of(bundle: Bundle, verifier: Budget) -> list[Budget]:
    """Budgets that can draft for another."""
    return [budget for budget in bundle.budgets if can_draft(budget, verifier)]


def find_draft_costs(opening: Opening, session: Session, verifier: Budget) -> DraftCosts:
    """The kept measurements of this device for a verifier; measured now, which takes seconds, if there are none."""
    bundle = opening.bundle
    content = content_hash(bundle, opening.target, opening.layout, opening.dtype)
    path = table_path(bundle, opening.device()["id"], opening.target, opening.layout, opening.dtype)
    path = path.with_name(f"{path.name.removesuffix('.json')}.drafts.json")
    paths = (cache_path(path, content), path)
    known = next((found for p in paths if (found := _read(p, content))), {})
    if verifier.name not in known:
        known[verifier.name] = measure_drafts(opening, session, verifier)
        value = {
            "format": FORMAT,
            "version": VERSION,
            "bundle": content,
            "verifiers": {name: costs.to_json() for name, costs in known.items()},
        }
        for place in reversed(paths):
            with suppress(InputError, OSError):
                write_json(place, value)
                break
        else:
            log.warning("What was measured of drafts is kept in memory only.")
    return known[verifier.name]


def _read(path: Path, content: str) -> dict[str, DraftCosts]:
    """What a file holds by verifier; nothing if there is none, or it is damaged or of another bundle."""
    try:
        value = read_object(path, InputError)
        if (value["format"], value["version"], value["bundle"]) != (FORMAT, VERSION, content):
            return {}
        return {str(name): DraftCosts.from_json(costs) for name, costs in value["verifiers"].items()}
    except (InputError, *MALFORMED):
        return {}


def measure_drafts(opening: Opening, session: Session, verifier: Budget) -> DraftCosts:
    """Let the verifier write a text, sampled with a fixed seed, and every draft propose each of its tokens.

    Drafts take turns at every token, so that noise on the machine hits all alike. The text begins with a golden prompt
    if the bundle has one.
    """
    bundle, maximum = opening.bundle, opening.max_tokens(session)
    drafts = drafts_of(bundle, verifier)
    sequence, random = LiveSequence(session, verifier, maximum), np.random.default_rng(0)
    plain, likeliest = Sampling(temperature=1.0), Sampling()
    views = {draft.name: Draft(sequence, draft) for draft in drafts}
    steps: list[float] = []
    times: dict[str, list[float]] = {draft.name: [] for draft in drafts}
    same: dict[str, list[bool]] = {draft.name: [] for draft in drafts}
    overlaps: dict[str, list[float]] = {draft.name: [] for draft in drafts}
    logits = sequence.prefill(_prompt(bundle, opening.dtype, verifier)[: maximum // 2])
    token = plain.choose(logits, random)
    positions = max(1, min(POSITIONS, maximum - sequence.length - LONGEST - 1))
    sequence.reserve(sequence.length + positions + LONGEST + 1)
    for _ in range(positions):
        proposed = {}
        for name, view in views.items():
            found, elapsed = _timed(_step, view.step, token, 0)
            times[name].append(elapsed)
            proposed[name] = Distribution.of(plain, found), int(found.argmax())
        logits, elapsed = _timed(_step, sequence.decode, token)
        steps.append(elapsed)
        verified, best = Distribution.of(plain, logits), likeliest.choose(logits, random)
        for name, (distribution, first) in proposed.items():
            same[name].append(first == best)
            overlaps[name].append(min(verified.overlap(distribution), 1.0))
        token = verified.draw(random)
    begin = sequence.length
    verifying: list[list[float]] = [[] for _ in range(2, LONGEST + 2) if begin + LONGEST + 1 <= maximum]
    for _ in range(ROUNDS):
        for samples, count in zip(verifying, range(2, LONGEST + 2), strict=False):
            samples.append(_timed(_verify, sequence, [token] * count)[1])
            sequence.cut(begin)
    return DraftCosts(
        begin,
        median(steps[WARM:] or steps),
        tuple(median(samples[1:]) for samples in verifying),
        {
            name: DraftCost(median(t[WARM:] or t), float(np.mean(same[name])), float(np.mean(overlaps[name])))
            for name, t in times.items()
        },
    )


def _prompt(bundle: Bundle, dtype: str, verifier: Budget) -> np.ndarray:
    try:
        reference = read_golden(bundle, dtype)[verifier.name]
    except BundleError:  # exported without one
        return np.random.default_rng(0).integers(0, bundle.architecture.vocab_size, 16)
    return reference.ids[0, : reference.prompt]


def _step(compute: Callable[..., np.ndarray], *arguments: int) -> np.ndarray:
    """A step and the choice of a token, which is part of it."""
    logits = compute(*arguments)
    SAMPLING.choose(logits, _RANDOM)
    return logits


def _verify(sequence: LiveSequence, ids: list[int]) -> None:
    for row in sequence.append(ids):
        SAMPLING.choose(row, _RANDOM)


def _timed(call: Callable[..., T], *arguments: Any) -> tuple[T, float]:
    start = time.perf_counter()
    found = call(*arguments)
    return found, (time.perf_counter() - start) * 1e3
