"""What `build` records of a bundle that ONNX Runtime runs."""

from __future__ import annotations

import time
from typing import Any

import numpy as np

from ...bundle.engines import FORMAT, VERSION, source_hashes
from ...progress import Track, silent
from ...version import __version__
from .provider import library
from .session import OnnxRuntimeSession


def run_once(session: OnnxRuntimeSession, target: str, track: Track = silent) -> dict[str, Any]:
    """Run every budget once, and return what `engine.json` says about it."""
    bundle, seconds = session.bundle, {}
    for budget in track(bundle.budgets_of(session.layout), "running every budget once"):
        start = time.perf_counter()
        one = np.zeros(1, np.int64)
        session.step(session.new_cache(budget, 1, 1), one[None], one[None], one, one)
        seconds[budget.name] = round(time.perf_counter() - start, 3)
    return {
        "format": FORMAT,
        "version": VERSION,
        "target": target,
        "library": "onnxruntime",
        "library_version": library().__version__,
        "layout": session.layout,
        "dtype": session.dtype,
        "source": source_hashes(bundle, session.layout, session.dtype),
        "first_run_seconds": seconds,
        "exporter": f"flextron_export {__version__}",
    }
