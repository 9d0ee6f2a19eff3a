"""The verb `verify`: does every graph compute, for every budget, what the sliced or routed torch model computes?

Compared are the logits at every position over prefill, chunked prefill and token-by-token decode, alone and in a batch
of three, and the greedy tokens wherever the two best logits are further apart than the tolerance.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..bundle.golden import Reference, read_golden
from ..bundle.manifest import Bundle
from ..elastic.checkpoint import MARKER, ElasticCheckpoint
from ..elastic.router import RoutedBudget
from ..elastic.widths import Budget
from ..errors import InputError, VerificationError
from ..files import sha256
from ..progress import Track, silent

TOLERANCE = {"fp32": 1e-4, "fp16": 2e-2}
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
        return verify_bundle(opened, None, track=track)
    source = ElasticCheckpoint.open(checkpoint)
    if sha256(source.path / MARKER) != opened.source.get("checkpoint_sha256"):
        raise InputError(
            f"{checkpoint} is not the checkpoint that {bundle} was exported from.",
            cause=f"its {MARKER} differs from the one at the time of the export",
            fix="pass the right checkpoint, or none to compare with the golden outputs in the bundle",
        )
    return verify_bundle(opened, torch_references(source, opened.all_budgets, track), track=track)


def verify_bundle(bundle: Bundle, references: Mapping[str, Reference] | None, *, track: Track = silent) -> list[Check]:
    """Compare every graph with the references, or with the stored golden outputs if None.

    Raises:
        VerificationError: one differs.
    """
    from .onnxruntime_cpu import open_session

    checks: list[Check] = []
    for layout, dtype in track(
        [(layout, dtype) for dtype, names in bundle.layouts.items() for layout in names], "verifying"
    ):
        expected = read_golden(bundle, dtype) if references is None else references
        session = open_session(bundle, layout=layout, dtype=dtype)
        for budget in bundle.budgets_of(layout):
            for mode, step in MODES.items():
                for batch in (1, BATCH):
                    checks.append(_check(session, expected[budget.name], budget, layout, dtype, mode, step, batch))
        session.close()
    failed = [c for c in checks if not c.passed]
    if failed:
        worst = max(failed, key=lambda c: (np.nan_to_num(c.difference, nan=np.inf), c.tokens_wrong))
        raise VerificationError(
            f"{len(failed)} of {len(checks)} checks failed; the worst: budget {worst.budget}, {worst.layout} "
            f"{worst.dtype}, {worst.mode}, batch {worst.batch}: logits differ by {worst.difference:.1e} of the largest "
            f"(allowed {worst.tolerance:.0e}), {worst.tokens_wrong} of {worst.tokens_compared} greedy tokens wrong.",
            cause="the graph, the weights file or the runtime is wrong; do not ship this bundle",
        )
    return checks


def _check(
    session: Any, reference: Reference, budget: Budget, layout: str, dtype: str, mode: str, step: int, batch: int
) -> Check:
    # Batch 1 takes the last sequence, so that the three sequences of the batch are not all there is to see.
    chosen = slice(0, batch) if batch > 1 else slice(len(reference.ids) - 1, len(reference.ids))
    ids, expected, margin = reference.ids[chosen], reference.logits[chosen], reference.margin[chosen]
    counts = np.full(ids.shape, True)
    if reference.compared is not None:
        counts = np.arange(ids.shape[1]) < reference.compared[chosen, None]
    best = np.empty(ids.shape, np.int64)
    difference = 0.0
    for start, logits in run_in_steps(session, budget, ids, step):
        stop = start + logits.shape[1]
        best[:, start:stop] = logits.argmax(-1)
        # A NaN must not hide behind a maximum.
        apart = np.abs(logits[..., reference.vocabulary] - expected[:, start:stop])[counts[:, start:stop]]
        difference = max(difference, float(np.nan_to_num(apart, nan=np.inf).max(initial=0)))
    tolerance = TOLERANCE[dtype]
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


def torch_references(
    source: ElasticCheckpoint, budgets: Sequence[Budget], track: Track = silent, *, seed: int = 0
) -> dict[str, Reference]:
    """Run the torch model of every budget: greedy continuations of random prompts, and logits at every position.

    A budget's model is sliced; that of a router at a target is masked, token by token, as it chooses.

    Raises:
        VerificationError: slicing and masking disagree, so the checkpoint's widths do not mean what they should.
    """
    import torch

    from ..elastic.model import load_model, masked, narrowed

    model = load_model(source.path)
    prompts = np.random.default_rng(seed).integers(0, source.architecture.vocab_size, (BATCH, PROMPT))
    found = {}
    with torch.inference_mode():
        for budget in track(list(budgets), "running the torch model"):
            if isinstance(budget, RoutedBudget) and budget.target < 1:
                found[budget.name] = _routed_reference(model, source, budget.target, prompts)
                continue
            with narrowed(model, source.architecture, budget):
                ids = _greedy(model, torch.from_numpy(prompts), LENGTH - PROMPT)
                logits = model(ids).logits.float()
            with masked(model, source.architecture, budget):
                difference = (model(ids).logits.float() - logits).abs().max() / logits.abs().max()
            if not difference <= TOLERANCE["fp32"]:
                raise VerificationError(
                    f"budget {budget.name}: the masked model differs from the sliced one by {difference:.1e} of the "
                    "largest logit."
                )
            found[budget.name] = _reference(ids, logits)
    return found


def _reference(ids: Any, logits: Any, compared: Any = None) -> Reference:
    top = logits.topk(2, dim=-1).values
    return Reference(
        ids.numpy(),
        PROMPT,
        np.arange(logits.shape[-1]),
        logits.numpy(),
        (top[..., 0] - top[..., 1]).numpy(),
        float(logits.abs().max()) or 1.0,
        compared,
    )


def _routed_reference(model: Any, source: ElasticCheckpoint, target: float, prompts: np.ndarray) -> Reference:
    """The model as its dynamic router chooses; `compared` ends where a choice was closer than rounding."""
    import torch

    from ..training.routers import Routers, one_hot
    from ..training.routing import routed

    router = source.router()
    assert router is not None
    routers = Routers(router.record, source.architecture)
    routers.read(router)
    of_target = routers.of(target)
    close = torch.zeros(0)

    def decide(layer: int, part: str, x: Any) -> Any:
        nonlocal close
        logits = of_target(layer, part, x)
        if logits.shape[-1] > 1:
            top = logits.topk(2, dim=-1).values
            tie = top[..., 0] - top[..., 1] <= TOLERANCE["fp32"] * logits.abs().amax(-1)
            close = close | tie if close.shape == tie.shape else tie
        return one_hot(logits)

    with routed(model, source.architecture, source.candidates, decide):
        ids = _greedy(model, torch.from_numpy(prompts), LENGTH - PROMPT)
        close = torch.zeros(ids.shape, dtype=torch.bool)
        logits = model(ids).logits.float()
    compared = np.where(close.any(1), close.int().argmax(1), close.shape[1])
    return _reference(ids, logits, compared)


def _greedy(model: Any, ids: Any, count: int) -> Any:
    # `generate` would stop at the end-of-text token; every sequence must have the same length here.
    import torch

    for _ in range(count):
        ids = torch.cat([ids, model(ids).logits[:, -1:].argmax(-1)], dim=1)
    return ids
