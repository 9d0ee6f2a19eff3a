"""A bundle built for the GPU by TensorRT-RTX and run on it, against the same bundle on ONNX Runtime's CPU."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

from flextron_export import Runner, build
from flextron_export.errors import FlextronError
from flextron_export.exporting import export
from tools.random_checkpoint import write_random_checkpoint

PROMPT = list(range(40, 72))
NEW_TOKENS = 16


def run_engine(directory: Path, capability: str) -> dict[str, Any]:
    """What happened: the greedy tokens of the widest budget on both targets, or why there are none."""
    if importlib.util.find_spec("tensorrt_rtx") is None:
        return {"state": "skipped", "reason": "tensorrt_rtx is not installed"}
    try:
        checkpoint, bundle = directory / "checkpoint", directory / "bundle"
        if not bundle.exists():
            write_random_checkpoint(
                checkpoint, layers=2, hidden=256, heads=8, kv_heads=4, ffn=512, vocab=257, max_positions=256
            )
            export(checkpoint, bundle, dtypes=("fp16",), verify=False)
        build(bundle, "tensorrt-rtx", sm=(int(capability.replace(".", "")),))
        engine, expected = (_tokens(bundle, target) for target in ("tensorrt-rtx", "onnxruntime-cpu"))
    except FlextronError as error:
        return {"state": "failed", "reason": str(error)}
    # Random weights make close calls, so later tokens may part; the first comes from the prompt alone.
    state = "passed" if engine[:1] == expected[:1] else "failed"
    return {"state": state, "tokens": engine, "onnxruntime_tokens": expected}


def _tokens(bundle: Path, target: str) -> list[int]:
    with Runner(bundle, target=target, dtype="fp16", calibration="never") as runner:
        return list(runner.generate_ids(PROMPT, max_new_tokens=NEW_TOKENS))
