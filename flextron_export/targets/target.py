"""What a target offers to the verbs and the runtime."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol

from ..bundle.manifest import Bundle
from .session import Session


class Target(Protocol):
    """Where a bundle runs: a module, or an object, with these names. `layout` and `dtype` come from `settle`."""

    @property
    def DEFAULT_LAYOUT(self) -> str: ...

    @property
    def DEFAULT_DTYPE(self) -> str: ...

    @property
    def LOW_MEMORY(self) -> bool:
        """Whether it has a mode that leaves the weights in the mapped file."""

    @property
    def AHEAD_OF_TIME(self) -> bool:
        """Whether `build` takes `sm`: compute capabilities of devices that are not there."""

    @property
    def ANY_WIDTHS(self) -> bool:
        """Whether the layouts `panels` and `shared` run widths in every layer that no exported budget has."""

    def check(self, bundle: Bundle, layout: str, dtype: str) -> None:
        """Raise TargetError or BundleError for a combination it cannot run; its library need not be installed."""

    @property
    def build(self) -> Callable[..., dict[str, Any]]:
        """`build(bundle, *, layout, dtype, track, **limits)` compiles into the bundle's engine folder.

        It returns the record written as `engine.json`. Each target has limits of its own.
        """

    def open_session(
        self, bundle: Bundle, *, layout: str, dtype: str, threads: int | None = None, low_memory: bool = False
    ) -> Session:
        """Load the bundle."""

    def versions(self) -> dict[str, str]:
        """Version of each library that decides how fast and how it runs."""

    def device(self) -> dict[str, Any]:
        """The GPU it computes on, for the device's fingerprint; {} for the CPU, which every fingerprint has."""


if TYPE_CHECKING:  # for mypy to see that they offer all of it
    from . import onnxruntime_cpu
    from ._onnxruntime.target import ONNXRUNTIME_CUDA, ONNXRUNTIME_TENSORRT
    from ._tensorrt.target import TENSORRT, TENSORRT_RTX

    _all: tuple[Target, ...] = (onnxruntime_cpu, ONNXRUNTIME_CUDA, ONNXRUNTIME_TENSORRT, TENSORRT, TENSORRT_RTX)
