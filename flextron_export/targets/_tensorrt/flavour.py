"""The two TensorRT libraries and the few ways in which they differ; how their releases differ is in `versions`."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from typing import Any

from ...errors import MissingDependencyError, TargetError
from .versions import FIRST, KNOWN_SM, Lowering, lowering_of


@dataclass(frozen=True)
class Flavour:
    """One of the libraries.

    Attributes:
        target: name of the target, and of the extra that installs the library.
        module: Python module to import.
        title: its name in messages.
        ahead_of_time: compiles without a GPU, for devices that are named; otherwise for the GPU that is there.
        reach: compute capabilities an ahead-of-time engine runs on if none are named.
    """

    target: str
    module: str
    title: str
    ahead_of_time: bool
    reach: tuple[int, ...] = ()

    def load(self) -> Any:
        """The library.

        Raises:
            MissingDependencyError: it is not installed; the message names the extra.
            TargetError: it is too old.
        """
        try:
            library = import_module(self.module)
        except ImportError as error:
            raise MissingDependencyError(
                f"{self.title} is not installed: {error}.",
                cause=None if self.ahead_of_time else "it comes with JetPack, or from NVIDIA's package index",
                fix=f"pip install 'flextron-export[{self.target}]'",
            ) from error
        self.lowering(library)
        return library

    def lowering(self, library: Any) -> Lowering:
        """How graphs are lowered for this release of the library; TargetError if it is too old for any way."""
        found = lowering_of(self.target, library.__version__)
        if found is None:
            needed = ".".join(map(str, min(FIRST[self.target].values())))
            raise TargetError(
                f"{self.title} {library.__version__} lacks operators of our graphs; {needed} or newer has them.",
                cause="JetPack before 6.1" if not self.ahead_of_time else None,
                fix=f"upgrade it, or use --target {'onnxruntime-cpu' if self.ahead_of_time else 'tensorrt-rtx'}",
            )
        return found

    def known(self, library: Any) -> tuple[int, ...]:
        """Compute capabilities the library compiles for ahead of time; () if it compiles for the GPU at hand only."""
        names = library.ComputeCapability.__members__ if self.ahead_of_time else ()
        return tuple(sorted(int(name[2:]) for name in names if name.startswith("SM")))

    def set_devices(self, library: Any, config: Any, sm: tuple[int, ...]) -> tuple[int, ...]:
        """Tell the builder for which compute capabilities to compile; return those the engine will run on.

        Raises:
            TargetError: it cannot compile for one of them; the message says which target can.
        """
        if not sm:
            # Left alone, the builder makes a portable engine for `reach`.
            return self.reach
        known = self.known(library)
        if unknown := [n for n in sm if n not in KNOWN_SM]:
            raise TargetError(
                f"No target knows SM {', '.join(map(str, unknown))}; there are {', '.join(map(str, KNOWN_SM))}.",
                cause="a mistyped number, or a GPU that TensorRT no longer compiles for",
                fix="use --target onnxruntime-cpu on such a device",
            )
        if refused := [n for n in sm if n not in known]:
            raise TargetError(
                f"{self.title} compiles for SM {', '.join(map(str, known))}, not for {', '.join(map(str, refused))}.",
                cause="Jetson (SM 87, 110) and data centre GPUs (SM 90, 100, 103, 107) are not RTX devices",
                fix="run on that device: flextron-export build BUNDLE --target tensorrt",
            )
        chosen = tuple(sorted(set(sm)))
        config.num_compute_capabilities = len(chosen)
        for i, n in enumerate(chosen):
            config.set_compute_capability(getattr(library.ComputeCapability, f"SM{n}"), i)
        return chosen


# The default reach is documented under "CPU-Only AOT and TensorRT-RTX Engines": 8.0, 8.6, 8.9, 12.0 and later. Turing
# (7.5) must be asked for.
RTX = Flavour("tensorrt-rtx", "tensorrt_rtx", "TensorRT-RTX", True, (80, 86, 89, 120, 121))
ENTERPRISE = Flavour("tensorrt", "tensorrt", "TensorRT", False)
