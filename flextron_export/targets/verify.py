"""The verb `verify`: does every graph compute, for every budget, what the sliced or routed torch model computes?

Compared are the logits at every position over prefill, chunked prefill and token-by-token decode, alone and in a batch
of three, and the greedy tokens wherever the two best logits are further apart than the tolerance. The torch side is
`references`; what a router chose is compared by `verify_choices`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..bundle.golden import Reference, read_golden
from ..bundle.manifest import Bundle
from ..elastic.checkpoint import MARKER, ElasticCheckpoint
from ..elastic.widths import Budget
from ..errors import InputError, VerificationError
from ..files import sha256
from ..graph.contract import ROUTED
from ..progress import Track, silent

TOLERANCE = {
    "fp32": 1e-4,
    "fp16": 2e-2,
    "bf16": 5e-2,
    "int8": 5e-2,
    "int4": 5e-2,
    "int8-fp16": 2e-2,
    "int4-fp16": 2e-2,
    "fp8-fp16": 2e-2,
}
"""Largest allowed difference of a logit, relative to the largest absolute logit of the reference."""

BATCH, PROMPT, LENGTH = 3, 12, 24
MODES = {"prefill": LENGTH, "chunked": 5, "decode": 1}
"""mode -> tokens per call."""


@dataclass(frozen=True)
class Check:
    """One comparison. `difference` is the largest difference of a logit divided by the largest absolute logit."""

    budget: str
    layout: str
    dtype: str
    mode: str
    batch: int
    difference: float
    tolerance: float
    tokens_compared: int
    tokens_wrong: int

    @property
    def passed(self) -> bool:
        return bool(self.difference <= self.tolerance and self.tokens_wrong == 0)

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "passed": self.passed}


def verify(bundle: str | Path, *, checkpoint: str | Path | None = None, track: Track = silent) -> list[Check]:
    """Check a bundle: hashes, then every graph against the checkpoint's torch model or, without one, golden outputs.

    Raises:
        BundleError: the bundle is damaged, or has no golden outputs and no checkpoint is given.
        InputError: the checkpoint is not the one the bundle was exported from.
        VerificationError: a graph computes something else; the message names the worst checks.
    """
    opened = Bundle.open(bundle)
    if checkpoint is None:
        return verify_bundle(opened, track=track)
    source = ElasticCheckpoint.open(checkpoint)
    if sha256(source.path / MARKER) != opened.source.get("checkpoint_sha256"):
        raise InputError(
            f"{checkpoint} is not the checkpoint that {bundle} was exported from.",
            cause=f"its {MARKER} differs from the one at the time of the export",
            fix="pass the right checkpoint, or none to compare with the golden outputs in the bundle",
        )
    from .references import torch_references

    return verify_bundle(opened, torch_references(opened, source, track), source, track=track)


def verify_bundle(
    bundle: Bundle,
    references: Mapping[str, Mapping[str, Reference]] | None = None,
    source: ElasticCheckpoint | None = None,
    *,
    track: Track = silent,
) -> list[Check]:
    """Compare every graph with the references of its precision, or with the stored golden outputs if None.

    Args:
        source: the checkpoint, if torch is to make the choices of layout `routed` again; see `verify_choices`.

    Raises:
        VerificationError: one differs.
    """
    from .onnxruntime_cpu import open_session
    from .widened import runnable

    checks: list[Check] = []
    for layout, dtype in track(
        [(layout, dtype) for dtype, names in bundle.layouts.items() for layout in names], "verifying"
    ):
        expected = read_golden(bundle, dtype) if references is None else references[dtype]
        with runnable(bundle, dtype) as (computed, arithmetic):
            session = open_session(computed, layout=layout, dtype=arithmetic)
            tolerance = TOLERANCE[arithmetic]
            for budget in bundle.budgets_of(layout):
                reference = expected[budget.name]
                for mode, step in MODES.items():
                    for batch in (1, BATCH):
                        checks.append(_check(session, reference, tolerance, budget, layout, dtype, mode, step, batch))
            session.close()
        if layout == ROUTED and source is not None:
            from .verify_choices import choice_checks

            ids = {name: reference.ids for name, reference in expected.items()}
            checks += choice_checks(bundle, source, dtype, ids, TOLERANCE[dtype])
    if bundle.router is not None and bundle.router.kind == "prompt":
        from .verify_choices import prompt_router_checks

        checks += prompt_router_checks(bundle)
    failed = [c for c in checks if not c.passed]
    if failed:
        worst = max(failed, key=lambda c: (np.nan_to_num(c.difference, nan=np.inf), c.tokens_wrong))
        raise VerificationError(
            f"{len(failed)} of {len(checks)} checks failed; the worst: budget {worst.budget}, {worst.layout} "
            f"{worst.dtype}, {worst.mode}, batch {worst.batch}: logits differ by {worst.difference:.1e} of the largest "
            f"(allowed {worst.tolerance:.0e}), {worst.tokens_wrong} of {worst.tokens_compared} "
            f"{'choices' if worst.mode.endswith('choices') else 'greedy tokens'} wrong.",
            cause="the graph, the weights file or the runtime is wrong; do not ship this bundle",
        )
    return checks


def _check(
    session: Any,
    reference: Reference,
    tolerance: float,
    budget: Budget,
    layout: str,
    dtype: str,
    mode: str,
    step: int,
    batch: int,
) -> Check:
    # Batch 1 takes the last sequence, so that the three sequences of the batch are not all there is to see.
    chosen = slice(0, batch) if batch > 1 else slice(len(reference.ids) - 1, len(reference.ids))
    ids, expected, margin = reference.ids[chosen], reference.logits[chosen], reference.margin[chosen]
    counts = reference.counts(tolerance)[chosen]
    best = np.empty(ids.shape, np.int64)
    difference = 0.0
    for start, logits in run_in_steps(session, budget, ids, step):
        stop = start + logits.shape[1]
        best[:, start:stop] = logits.argmax(-1)
        # A NaN must not hide behind a maximum.
        apart = np.abs(logits[..., reference.vocabulary] - expected[:, start:stop])[counts[:, start:stop]]
        difference = max(difference, float(np.nan_to_num(apart, nan=np.inf).max(initial=0)))
    predicting = slice(reference.prompt - 1, ids.shape[1] - 1)
    # Both logits may move by the tolerance.
    clear = (margin[:, predicting] > 2 * tolerance * reference.scale) & counts[:, predicting]
    wrong = (best[:, predicting] != ids[:, reference.prompt :]) & clear
    return Check(
        budget.name,
        layout,
        dtype,
        mode,
        batch,
        difference / reference.scale,
        tolerance,
        int(clear.sum()),
        int(wrong.sum()),
    )


def run_in_steps(session: Any, budget: Budget, ids: np.ndarray, step: int) -> list[tuple[int, np.ndarray]]:
    """Feed `ids` [B, L] in pieces of `step` tokens; return (start, logits [B, piece, vocab]) of each."""
    batch, length = ids.shape
    cache = session.new_cache(budget, batch, length + 8)
    found = []
    for start in range(0, length, step):
        piece = ids[:, start : start + step]
        positions = np.broadcast_to(np.arange(start, start + piece.shape[1]), piece.shape)
        logits = session.step(cache, piece, positions, np.full(batch, start), np.arange(piece.size))
        found.append((start, logits.reshape(*piece.shape, -1).copy()))
    return found
