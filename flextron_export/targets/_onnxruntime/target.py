"""The targets `onnxruntime-cuda`, `onnxruntime-tensorrt` and `onnxruntime-tensorrt-rtx`: check, build, open.

None of them has run on a GPU yet. Sessions are tested with the processor in the GPU's place.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ...bundle.engines import MARKER, build_command, engine_directory, read_engine, source_hashes
from ...bundle.manifest import Bundle
from ...errors import InputError, TargetError
from ...files import MALFORMED, integers, new_directory, write_json
from ...progress import Track, silent
from .._tensorrt.device import require_device
from .._tensorrt.profiles import Limits
from .compiled import CompiledSession, tensorrt_rtx_settings, tensorrt_settings
from .placement import Device
from .provider import CUDA, TENSORRT, TENSORRT_RTX, Provider, library
from .record import run_once
from .session import OnnxRuntimeSession


@dataclass(frozen=True)
class OnnxRuntimeGpuTarget:
    """See `Target`.

    Attributes:
        name: the target.
        provider: what computes.
        settings: for a provider that compiles, see `CompiledSession`.
    """

    name: str
    provider: Provider
    settings: Callable[[tuple[str, str, str], Path], dict[str, str]] | None = None
    DEFAULT_LAYOUT = "shared"
    DEFAULT_DTYPE = "fp16"
    LOW_MEMORY = False
    AHEAD_OF_TIME = False

    @property
    def ANY_WIDTHS(self) -> bool:
        return self.settings is None

    def check(self, bundle: Bundle, layout: str, dtype: str) -> None:
        """Raise for a combination this target does not run; no library need be installed.

        Raises:
            TargetError: the precision, or the layout, is not made for it.
            BundleError: the bundle does not hold the graph.
        """
        if dtype != "fp16":
            how = "use" if "fp16" in bundle.dtypes else "export again with"
            raise TargetError(
                f"{self.name} does not run {dtype}.",
                cause="graphs of other precisions are made for processors, or for TensorRT",
                fix=f"{how} --dtype fp16, or --target onnxruntime-cpu",
            )
        if self.settings is not None and layout not in ("shared", "per-budget"):
            raise TargetError(
                f"{self.name} does not run layout {layout}.",
                cause=f"ONNX Runtime does not give conditional panels to the {self.provider.title}",
                fix="use --layout shared or per-budget, or --target onnxruntime-cuda",
            )
        bundle.graphs(layout, dtype)

    def build(
        self,
        bundle: Bundle,
        *,
        layout: str,
        dtype: str,
        capacity: int | Sequence[int] | None = None,
        max_batch: int = 4,
        max_length: int = 256,
        track: Track = silent,
    ) -> dict[str, Any]:
        """Run every budget once, for which a provider that compiles compiles; record it in the engine folder.

        Args:
            capacity, max_batch, max_length: see `Limits`; what compiles has one capacity.

        Returns:
            The record that was written as `engine.json`.
        """
        self._require()
        directory = engine_directory(bundle.path, self.name, layout, dtype)
        limits = self._limits(bundle, capacity, max_batch, max_length)
        with new_directory(directory, marker=MARKER, overwrite=True) as part:
            session = self._session(bundle, layout, dtype, limits, part, threads=1)
            record = run_once(session, self.name, track)
            if limits:
                record["limits"] = asdict(limits)
            session.close()
            write_json(part / MARKER, record)
        return record

    def open_session(
        self, bundle: Bundle, *, layout: str, dtype: str, threads: int | None = None, low_memory: bool = False
    ) -> OnnxRuntimeSession:
        """Load a bundle on the GPU; `low_memory` concerns the processor.

        Raises:
            MissingDependencyError: ONNX Runtime or the provider is not installed.
            TargetError: there is no GPU, or what compiles was not built for this bundle and ONNX Runtime.
        """
        self._require()
        directory = engine_directory(bundle.path, self.name, layout, dtype)
        limits = None if self.settings is None else self._built(bundle, directory, layout, dtype)
        return self._session(bundle, layout, dtype, limits, directory, threads=threads or 1)

    def versions(self) -> dict[str, str]:
        return {"onnxruntime": library().__version__}

    def device(self) -> dict[str, Any]:
        found = require_device(f"The {self.provider.title}")
        return {"gpu": found.name, "compute_capability": found.compute_capability, "driver": found.driver}

    def _require(self) -> None:
        self.provider.require()
        require_device(f"The {self.provider.title}")

    def _session(
        self, bundle: Bundle, layout: str, dtype: str, limits: Limits | None, folder: Path, *, threads: int
    ) -> OnnxRuntimeSession:
        provider, placement = self.provider, Device(self.provider.device)
        if self.settings is None or limits is None:
            return OnnxRuntimeSession(bundle, layout, dtype, threads, provider=provider, placement=placement)
        return CompiledSession(
            bundle,
            layout,
            dtype,
            threads,
            provider=provider,
            placement=placement,
            limits=limits,
            settings=self.settings,
            folder=folder,
        )

    def _limits(
        self, bundle: Bundle, capacity: int | Sequence[int] | None, max_batch: int, max_length: int
    ) -> Limits | None:
        if self.settings is None:
            if (capacity, max_batch, max_length) != (None, 4, 256):
                raise InputError(f"{self.name} takes no capacity, batch or length.", cause="its graphs run at any size")
            return None
        if capacity is not None and not isinstance(capacity, int) and len(capacity) > 1:
            raise InputError(f"{self.name} takes one capacity.", cause="each would be a session of its own")
        # Like a layout that holds its weights: one capacity.
        return Limits.choose(bundle, "per-budget", capacity, max_batch, max_length)

    def _built(self, bundle: Bundle, directory: Path, layout: str, dtype: str) -> Limits:
        """The limits of what was built; TargetError names every reason why it cannot run."""
        fix = build_command(bundle.path, self.name, "--layout", layout, "--dtype", dtype)
        record = read_engine(directory)
        if record is None:
            raise TargetError(f"The bundle has no {layout}.{dtype} engine for {self.name}.", fix=fix)
        try:
            batch, length = integers([record["limits"]["max_batch"], record["limits"]["max_length"]])
            limits = Limits(tuple(integers(record["limits"]["capacities"])), batch, length)
            limits.validate(bundle)
        except MALFORMED as error:
            what = f"{directory / MARKER} is damaged: {type(error).__name__} {error}."
            raise TargetError(what, fix=fix) from error
        found = []
        if record["library_version"] != library().__version__:
            found.append(f"built by ONNX Runtime {record['library_version']}, installed is {library().__version__}")
        if record.get("source") != source_hashes(bundle, layout, dtype):
            found.append("built from other graphs or weights")
        if found:
            raise TargetError(f"The {self.name} engine cannot run here: {'; '.join(found)}.", fix=fix)
        return limits


ONNXRUNTIME_CUDA = OnnxRuntimeGpuTarget("onnxruntime-cuda", CUDA)
ONNXRUNTIME_TENSORRT = OnnxRuntimeGpuTarget("onnxruntime-tensorrt", TENSORRT, tensorrt_settings)
ONNXRUNTIME_TENSORRT_RTX = OnnxRuntimeGpuTarget("onnxruntime-tensorrt-rtx", TENSORRT_RTX, tensorrt_rtx_settings)
