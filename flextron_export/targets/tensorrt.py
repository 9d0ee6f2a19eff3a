"""Target `tensorrt`: engines compiled on the device that runs them, such as a Jetson with JetPack 7.2 or newer."""

from __future__ import annotations

from typing import Any

from ..bundle.manifest import Bundle
from ._tensorrt import verbs
from ._tensorrt.flavour import ENTERPRISE

NAME = ENTERPRISE.target
DEFAULT_LAYOUT = "shared"
DEFAULT_DTYPE = "fp16"
AHEAD_OF_TIME = ENTERPRISE.ahead_of_time


def check(bundle: Bundle, layout: str, dtype: str) -> None:
    """See `verbs.check`: fp16 only, at least 4 query heads in every layer of every budget."""
    verbs.check(ENTERPRISE, bundle, layout, dtype)


def build(bundle: Bundle, **options: Any) -> dict[str, Any]:
    """See `verbs.build`."""
    return verbs.build(ENTERPRISE, bundle, **options)


def open_session(
    bundle: Bundle, *, layout: str | None = None, dtype: str | None = None, threads: int | None = None
) -> Any:
    """See `verbs.open_session`; `threads` concerns targets on the CPU and is ignored."""
    return verbs.open_session(ENTERPRISE, bundle, layout or DEFAULT_LAYOUT, dtype or DEFAULT_DTYPE)


def versions() -> dict[str, str]:
    """Version of each library that decides how fast and how an engine runs."""
    return {ENTERPRISE.module: ENTERPRISE.load().__version__}


def device() -> dict[str, Any]:
    """Name, compute capability and driver of the GPU, for the device's fingerprint."""
    return verbs.describe_device(ENTERPRISE)
