"""Target `tensorrt-rtx`: engines compiled ahead of time on any CPU, run on RTX GPUs (SM 75, 80, 86, 89, 120, 121)."""

from __future__ import annotations

from typing import Any

from ..bundle.manifest import Bundle
from ._tensorrt import verbs
from ._tensorrt.flavour import RTX

NAME = RTX.target
DEFAULT_LAYOUT = "shared"
DEFAULT_DTYPE = "fp16"
AHEAD_OF_TIME = RTX.ahead_of_time


def check(bundle: Bundle, layout: str, dtype: str) -> None:
    """See `verbs.check`: fp16 only, at least 4 query heads in every layer of every budget."""
    verbs.check(RTX, bundle, layout, dtype)


def build(bundle: Bundle, **options: Any) -> dict[str, Any]:
    """See `verbs.build`."""
    return verbs.build(RTX, bundle, **options)


def open_session(
    bundle: Bundle, *, layout: str | None = None, dtype: str | None = None, threads: int | None = None
) -> Any:
    """See `verbs.open_session`; `threads` concerns targets on the CPU and is ignored."""
    return verbs.open_session(RTX, bundle, layout or DEFAULT_LAYOUT, dtype or DEFAULT_DTYPE)


def versions() -> dict[str, str]:
    """Version of each library that decides how fast and how an engine runs."""
    return {RTX.module: RTX.load().__version__}


def device() -> dict[str, Any]:
    """Name, compute capability and driver of the GPU, for the device's fingerprint."""
    return verbs.describe_device(RTX)
