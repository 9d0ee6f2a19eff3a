"""ONNX Runtime's execution providers: whether one is there, and how a session is given to it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import Any

from ...errors import MissingDependencyError, TargetError


def library() -> Any:
    """The onnxruntime module; MissingDependencyError names the extra that brings it."""
    try:
        import onnxruntime
    except ImportError as error:
        raise MissingDependencyError(
            "onnxruntime is not installed.", fix="pip install 'flextron-export[cpu]' or, for a GPU, [gpu]"
        ) from error
    return onnxruntime


@dataclass(frozen=True)
class Provider:
    """One of them.

    Attributes:
        name: as ONNX Runtime calls it.
        title: its name in messages.
        install: how to get it.
        device: ONNX Runtime's name of the memory that it computes in.
        fallbacks: providers that take the nodes it leaves.
        module: Python package that brings it as a library of its own, to be registered; None if it is part of a build
            of ONNX Runtime.
    """

    name: str
    title: str
    install: str
    device: str = "cpu"
    fallbacks: tuple[str, ...] = ()
    module: str | None = None

    def require(self) -> None:
        """Make sure that it is there, registering it if it comes as a library.

        Raises:
            MissingDependencyError: this build of ONNX Runtime lacks it, or its package is not installed.
            TargetError: its library cannot be loaded here, or finds no device.
        """
        ort = library()
        if self.name in ort.get_available_providers() or (self.module and self.devices()):
            return
        if self.module is None:
            raise MissingDependencyError(
                f"ONNX Runtime {ort.__version__} as installed here lacks the {self.title}.",
                cause=f"it was built with {', '.join(ort.get_available_providers())}",
                fix=self.install,
            )
        try:
            package = import_module(self.module)
        except ImportError as error:
            raise MissingDependencyError(f"The {self.title} is not installed: {error}.", fix=self.install) from error
        try:
            ort.register_execution_provider_library(self.name, package.get_library_path())
        except Exception as error:  # ONNX Runtime raises classes of its own that share no base but Exception
            raise TargetError(
                f"The {self.title} cannot be loaded: {error}",
                cause="no GPU driver, or a driver or an ONNX Runtime that is too old for it",
                fix="update the driver, or use --target onnxruntime-cpu",
            ) from error
        if not self.devices():
            raise TargetError(
                f"The {self.title} finds no GPU that it runs on.", fix="use another GPU, or --target onnxruntime-cpu"
            )

    def devices(self) -> list[Any]:
        """Devices that its library offers, if it is registered."""
        return [device for device in library().get_ep_devices() if device.ep_name == self.name]

    def selected(self, options: Any, settings: Mapping[str, str]) -> dict[str, Any]:
        """Arguments that give a session to it; `options` are changed if it comes as a library."""
        if self.module and (devices := self.devices()):
            options.add_provider_for_devices(devices[:1], dict(settings))
            return {}
        others = [name for name in self.fallbacks if name in library().get_available_providers()]
        return {"providers": [(self.name, dict(settings)), *others]}


CPU = Provider("CPUExecutionProvider", "CPU provider", "pip install 'flextron-export[cpu]'")
_CPU = (CPU.name,)
_GPU = "pip uninstall onnxruntime, then pip install 'flextron-export[gpu]': the two overwrite each other"

CUDA = Provider("CUDAExecutionProvider", "CUDA provider", _GPU, "cuda", _CPU)
TENSORRT = Provider(
    "TensorrtExecutionProvider",
    "TensorRT provider",
    f"{_GPU}; and install the TensorRT release that it was built with",
    "cuda",
    (CUDA.name, *_CPU),
)
TENSORRT_RTX = Provider(
    "NvTensorRTRTXExecutionProvider",
    "TensorRT-RTX provider",
    "pip install onnxruntime-ep-nv-tensorrt-rtx-cu13",
    "cuda",
    (CUDA.name, *_CPU),
    module="onnxruntime_ep_nv_tensorrt_rtx",
)
