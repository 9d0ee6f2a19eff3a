"""The verb `bench`: what a token costs at several live lengths in a cache of one capacity. Nothing is kept."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..bundle.manifest import Bundle
from ..errors import InputError
from ..progress import Track, silent
from .calibrate import Rounds
from .opening import How, open_bundle
from .sampling import Sampling
from .table import Timing

if TYPE_CHECKING:
    from typing_extensions import Unpack

LIVE = (64, 512, 4096)
CAPACITY = 4096
REPEATS = 48
SECONDS = 20.0


@dataclass(frozen=True)
class Bench:
    """Measured decode steps.

    Attributes:
        device: its fingerprint.
        capacity: slots of the KV cache.
        decode: budget -> a timing for every live length, ascending.
    """

    device: dict[str, Any]
    target: str
    layout: str
    dtype: str
    capacity: int
    decode: dict[str, list[Timing]]

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def bench(
    bundle: str | Path | Bundle,
    *,
    live: Sequence[int] | None = None,
    capacity: int | None = None,
    budgets: Sequence[str] = (),
    repeats: int = REPEATS,
    track: Track = silent,
    **how: Unpack[How],
) -> Bench:
    """Measure milliseconds per token of budgets that take turns, a greedy choice of the token included.

    Args:
        bundle: its directory.
        live: tokens in the cache after the measured step; 64, 512 and 4096 by default, those that fit.
        capacity: slots that every cache has from the start; 4096 by default, or what the model holds.
        budgets: their names; all by default.
        repeats: steps to measure per budget and live length; fewer, but at least 6, where they take long.
        how: target, layout, dtype, threads, low_memory: see `How`.

    Raises:
        InputError: a length does not fit.
        BundleError, TargetError, MissingDependencyError: there is no such budget, or the bundle cannot be opened on
            that target.
    """
    opening = open_bundle(bundle, **how)
    session = opening.session()
    try:
        most = opening.max_tokens(session)
        capacity = min(CAPACITY, most) if capacity is None else capacity
        if not 1 <= capacity <= most:
            raise InputError(f"A cache of {capacity} slots cannot be: the model holds 1 to {most} tokens.")
        lengths = sorted({min(n, capacity) for n in LIVE} if live is None else set(live))
        if not lengths or lengths[0] < 1 or lengths[-1] > capacity:
            raise InputError(
                f"Live lengths {lengths} do not fit into a cache of {capacity} slots.",
                fix=f"use --live with 1 to {capacity}",
            )
        if repeats < 1:
            raise InputError(f"{repeats} repeats measure nothing.", fix=f"use --repeats {REPEATS}")
        everything = opening.bundle.budgets_of(opening.layout)
        chosen = [opening.bundle.budget(name, opening.layout) for name in budgets] or list(everything)
        run = Rounds(
            session,
            chosen,
            opening.bundle.architecture.vocab_size,
            capacity,
            SECONDS,
            capacity=capacity,
            sampling=Sampling(temperature=0),
        )
        timings = [run.decode(n, repeats) for n in track(lengths, "measuring live lengths")]
    finally:
        session.close()
    by_budget = {b.name: [stage[i] for stage in timings] for i, b in enumerate(chosen)}
    return Bench(opening.device(), opening.target, opening.layout, opening.dtype, capacity, by_budget)
