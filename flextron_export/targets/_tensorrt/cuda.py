"""The few CUDA runtime calls a session needs, through cuda-python. Addresses are plain integers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from ...errors import MissingDependencyError, TargetError


class Cuda:
    """One stream on the first device; every failing call raises TargetError with CUDA's own words."""

    def __init__(self) -> None:
        try:
            from cuda.bindings import runtime
        except ImportError as error:
            raise MissingDependencyError(
                f"cuda-python is not installed: {error}.", fix="pip install 'flextron-export[tensorrt]', or cuda-python"
            ) from error
        self._runtime = runtime
        self._kind = runtime.cudaMemcpyKind
        self._call(runtime.cudaSetDevice(0))
        self.stream = int(self._call(runtime.cudaStreamCreate()))

    def allocate(self, size: int) -> int:
        """Address of `size` bytes of device memory set to zero."""
        address = int(self._call(self._runtime.cudaMalloc(max(size, 1))))
        self._call(self._runtime.cudaMemsetAsync(address, 0, max(size, 1), self.stream))
        return address

    def free(self, address: int) -> None:
        self._runtime.cudaFree(address)  # errors here would hide the one that led to freeing

    def upload(self, address: int, array: np.ndarray) -> None:
        """Copy a contiguous array to the device; it may change once `wait` has returned."""
        kind = self._kind.cudaMemcpyHostToDevice
        self._call(self._runtime.cudaMemcpyAsync(address, array.ctypes.data, array.nbytes, kind, self.stream))

    def download(self, array: np.ndarray, address: int) -> None:
        """Copy into a contiguous array; it holds the values once `wait` has returned."""
        kind = self._kind.cudaMemcpyDeviceToHost
        self._call(self._runtime.cudaMemcpyAsync(array.ctypes.data, address, array.nbytes, kind, self.stream))

    def copy_rows(self, to: int, to_pitch: int, source: int, source_pitch: int, width: int, rows: int) -> None:
        """Copy `rows` rows of `width` bytes between buffers whose rows lie `pitch` bytes apart."""
        kind = self._kind.cudaMemcpyDeviceToDevice
        self._call(self._runtime.cudaMemcpy2DAsync(to, to_pitch, source, source_pitch, width, rows, kind, self.stream))

    def capture(self, enqueue: Callable[[], bool]) -> Any:
        """Record what a function puts on the stream, without running it: a graph to launch, or None if that fails."""
        runtime = self._runtime
        self._call(
            runtime.cudaStreamBeginCapture(self.stream, runtime.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal)
        )
        done = enqueue()
        status, graph = runtime.cudaStreamEndCapture(self.stream)
        if not done or int(status) != 0:
            runtime.cudaGetLastError()  # a failed capture leaves an error that the next call would report
            return None
        executable = self._call(runtime.cudaGraphInstantiate(graph, 0))
        runtime.cudaGraphDestroy(graph)
        return executable

    def launch(self, graph: Any) -> None:
        """Put a captured graph on the stream."""
        self._call(self._runtime.cudaGraphLaunch(graph, self.stream))

    def destroy_graph(self, graph: Any) -> None:
        self._runtime.cudaGraphExecDestroy(graph)

    def wait(self) -> None:
        self._call(self._runtime.cudaStreamSynchronize(self.stream))

    def close(self) -> None:
        self._runtime.cudaStreamDestroy(self.stream)

    def _call(self, result: tuple[Any, ...]) -> Any:
        status, *values = result
        if int(status) != 0:
            _, text = self._runtime.cudaGetErrorString(status)
            raise TargetError(f"CUDA failed: {text.decode() if isinstance(text, bytes) else text}.")
        return values[0] if values else None
