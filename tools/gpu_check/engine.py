"""A bundle on every GPU target, against the same graphs on ONNX Runtime's CPU."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from flextron_export.bundle.manifest import Bundle
from flextron_export.errors import FlextronError, MissingDependencyError
from flextron_export.exporting import export
from flextron_export.graph.contract import LAYOUTS
from flextron_export.targets import DEFAULT_TARGET, TARGETS, get_target
from flextron_export.targets.build import build
from flextron_export.targets.verify import BATCH, MODES, TOLERANCE, run_in_steps
from tools.random_checkpoint import write_random_checkpoint

DTYPE = "fp16"
GPU_TARGETS = tuple(name for name in TARGETS if name != DEFAULT_TARGET)
LIMITS = {"capacity": 64, "max_batch": BATCH, "max_length": 16}
IDS = np.random.default_rng(0).integers(0, 257, (BATCH, 24))


def make_bundle(directory: Path) -> Bundle:
    """A small bundle in every layout, with its widest and its narrowest budget."""
    checkpoint, bundle = directory / "checkpoint", directory / "bundle"
    if not bundle.exists():
        source = write_random_checkpoint(
            checkpoint, layers=2, hidden=256, heads=16, kv_heads=4, ffn=512, vocab=257, max_positions=256
        )
        names = [source.budgets[i].name for i in (0, -1)]
        export(checkpoint, bundle, layouts=LAYOUTS, dtypes=(DTYPE,), budgets=names, verify=False)
    return Bundle.open(bundle)


def run_target(bundle: Bundle, target: str, sm: tuple[int, ...] = ()) -> dict[str, Any]:
    """Build and run every layout that a target takes; the largest difference of a logit, relative to the largest.

    Args:
        sm: compute capability of the GPU, for targets that compile ahead of time.
    """
    found, differences = get_target(target), {}
    for layout in LAYOUTS:
        try:
            found.check(bundle, layout, DTYPE)
        except FlextronError:
            continue
        try:
            limits: dict[str, Any] = {} if target in (DEFAULT_TARGET, "onnxruntime-cuda") else LIMITS
            build(bundle.path, target, layout=layout, dtype=DTYPE, sm=sm if found.AHEAD_OF_TIME else (), **limits)
            differences[layout] = _difference(bundle, target, layout)
        except MissingDependencyError as error:
            return {"state": "skipped", "reason": str(error)}
        except FlextronError as error:
            return {"state": "failed", "reason": f"{layout}: {error}", "differences": differences}
    passed = all(difference <= TOLERANCE[DTYPE] for difference in differences.values())
    return {"state": "passed" if passed else "failed", "differences": differences}


def _difference(bundle: Bundle, target: str, layout: str) -> float:
    """Over every budget, prefill, chunked prefill and decoding, alone and in a batch."""
    sessions = [get_target(name).open_session(bundle, layout=layout, dtype=DTYPE) for name in (target, DEFAULT_TARGET)]
    largest = 0.0
    for budget in bundle.budgets:
        for step in MODES.values():
            for batch in (1, BATCH):
                tokens = IDS[:batch]
                given, expected = (
                    np.concatenate([logits for _, logits in run_in_steps(session, budget, tokens, step)], 1)
                    for session in sessions
                )
                apart = np.nan_to_num(np.abs(given - expected), nan=np.inf).max() / np.abs(expected).max()
                largest = max(largest, float(apart))
    for session in sessions:
        session.close()
    return largest
