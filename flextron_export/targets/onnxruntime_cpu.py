"""Target `onnxruntime-cpu`: ONNX Runtime on the host's processor, every layout, no copy of the KV cache per token."""

from __future__ import annotations

from typing import Any

from ..bundle.engines import MARKER, engine_directory
from ..bundle.manifest import Bundle
from ..errors import TargetError
from ..files import write_json
from ..graph.contract import BITS, DTYPES
from ..progress import Track, silent
from . import settle
from ._onnxruntime.provider import library
from ._onnxruntime.record import run_once
from ._onnxruntime.session import OnnxRuntimeSession
from .cores import usable_cores

NAME = "onnxruntime-cpu"
DEFAULT_LAYOUT = "panels"
DEFAULT_DTYPE = "fp32"
LOW_MEMORY = True
AHEAD_OF_TIME = False
ANY_WIDTHS = True


def check(bundle: Bundle, layout: str, dtype: str) -> None:
    """Raise for what it does not run.

    Raises:
        TargetError: the precision has no kernels.
        BundleError: the bundle does not hold the graph.
    """
    if dtype == "bf16":
        raise TargetError(
            f"{NAME} does not run {dtype}.",
            cause="ONNX Runtime multiplies no bfloat16 matrices on processors",
            fix=f"{'use' if 'fp32' in bundle.dtypes else 'export again with'} --dtype fp32, or --target tensorrt-rtx",
        )
    bundle.graphs(layout, dtype)


def versions() -> dict[str, str]:
    """Version of each library that decides how fast and how a graph runs."""
    return {"onnxruntime": library().__version__}


def device() -> dict[str, Any]:
    """Nothing besides the CPU."""
    return {}


def build(bundle: Bundle, *, layout: str, dtype: str, track: Track = silent) -> dict[str, Any]:
    """ONNX Runtime compiles nothing ahead of time: run every budget once, and record that this release does.

    Returns:
        The record written to `engines/onnxruntime-cpu/<layout>.<dtype>/engine.json`.

    Raises:
        TargetError: ONNX Runtime refuses a graph.
    """
    session = open_session(bundle, layout=layout, dtype=dtype)
    record = run_once(session, NAME, track)
    session.close()
    write_json(engine_directory(bundle.path, NAME, layout, dtype) / MARKER, record)
    return record


def open_session(
    bundle: Bundle,
    *,
    layout: str | None = None,
    dtype: str | None = None,
    threads: int | None = None,
    low_memory: bool = False,
) -> OnnxRuntimeSession:
    """Load a bundle.

    Args:
        layout: `panels` by default, if exported: one copy of the weights serves every budget.
        dtype: `fp32` by default, if exported.
        threads: intra-op threads; all cores this process may use by default. On a busy machine one can be faster than
            two.
        low_memory: leave weights in the mapped file. By default ONNX Runtime rearranges constant weights in private
            memory, for speed.

    Raises:
        BundleError: the graph was not exported.
        TargetError: ONNX Runtime refuses the graph.
    """
    if layout is None or dtype is None:
        layout, dtype = settle(NAME, bundle, layout, dtype)
    if low_memory and dtype in BITS and DTYPES[dtype] == "F32":
        raise TargetError(
            f"Precision {dtype} does not run with its weights left in the mapped file.",
            cause="ONNX Runtime multiplies them fast only as it rearranges them: else a token takes 100 times as long",
            fix=f"run without low memory: {dtype} is small; or use fp32, which runs in either way",
        )
    return OnnxRuntimeSession(bundle, layout, dtype, threads or usable_cores(), low_memory)
