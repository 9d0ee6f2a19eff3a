"""The targets `tensorrt-rtx` and `tensorrt`: check, build, open."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...bundle.engines import MARKER, engine_directory, source_hashes
from ...bundle.manifest import Bundle, FileRecord
from ...elastic.widths import MINIMUM_QUERY_HEADS
from ...errors import TargetError, problems
from ...files import new_directory, write_json
from ...graph.contract import BITS, DTYPES
from ...progress import Track, silent
from ...version import __version__
from .builder import attention_may_decompose, compile_plan
from .device import find_device, require_device
from .flavour import ENTERPRISE, RTX, Flavour
from .plugin_library import copy_plugins, find_plugins, load_plugins
from .precision import capable
from .profiles import Limits, PlanSpec, plan_specs
from .record import EngineRecord, PlanRecord, check_engine
from .timing_cache import timing_cache_path
from .versions import HEAD_SIZES, PLUGIN, Lowering, faults, least_batch

if TYPE_CHECKING:
    from .session import TensorRTSession

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class TensorRTTarget:
    """See `Target`. Engines of layout `shared`, by default, hold no weights."""

    flavour: Flavour
    DEFAULT_LAYOUT = "shared"
    DEFAULT_DTYPE = "fp16"
    LOW_MEMORY = False
    ANY_WIDTHS = False

    @property
    def AHEAD_OF_TIME(self) -> bool:
        return self.flavour.ahead_of_time

    def check(self, bundle: Bundle, layout: str, dtype: str) -> None:
        """Raise for a combination this target cannot compile; the library need not be installed.

        Raises:
            TargetError: the precision, or a budget's number of heads, has no attention kernel.
            BundleError: the bundle does not hold the graph.
        """
        if DTYPES.get(dtype) == "F32":
            wanted = f"{dtype}-fp16" if dtype in BITS else "fp16"
            how = "use" if wanted in bundle.dtypes else "export again with"
            raise TargetError(
                f"{self.flavour.title} has no attention kernel in {dtype}.",
                cause="its fused attention computes in half precision",
                fix=f"{how} --dtype {wanted}, or --target onnxruntime-cpu",
            )
        bundle.graphs(layout, dtype)
        a = bundle.architecture
        found = [
            f"budget {budget.name!r}, layer {i}: {width.groups * a.heads_per_group} query heads"
            for budget in bundle.budgets_of(layout)
            for i, width in enumerate(budget.layers)
            if width.groups * a.heads_per_group < MINIMUM_QUERY_HEADS
        ]
        problems(
            TargetError,
            f"{self.flavour.title} has no attention kernel for fewer than {MINIMUM_QUERY_HEADS} query heads at batch 1",
            found[:4],
            fix="elastify with wider candidates, export other budgets, or use --target onnxruntime-cpu",
        )

    def build(
        self,
        bundle: Bundle,
        *,
        layout: str,
        dtype: str,
        sm: tuple[int, ...] = (),
        capacity: int | Sequence[int] | None = None,
        max_batch: int = 4,
        max_length: int = 256,
        separate: bool = False,
        track: Track = silent,
    ) -> dict[str, Any]:
        """Compile the engines of a layout into `engines/<target>/<layout>.<dtype>/`.

        The folder appears whole, or the one that was there stays; engines of other layouts are not touched.

        Returns:
            The record that was written as `engine.json`.
        """
        flavour = self.flavour
        library = flavour.load()
        version, lowering = library.__version__, flavour.lowering(library)
        here = None if flavour.ahead_of_time else require_device(flavour.title).compute_capability
        sm = capable(flavour, dtype, sm, here)
        limits = Limits.choose(
            bundle, layout, capacity, max(max_batch, least_batch(flavour.target, version, here)), max_length, separate
        )
        known = self._known_faults(version, here, layout, limits.max_batch != max_batch)
        plugins = self._plugins(library, bundle) if lowering == PLUGIN else None
        timings = None if here is None else timing_cache_path(flavour.module, version, here)
        directory = engine_directory(bundle.path, flavour.target, layout, dtype)
        devices: tuple[int, ...] = ()
        plans = []
        with new_directory(directory, marker=MARKER, overwrite=True) as part:
            for spec in plan_specs(bundle, layout, limits, dtype):
                start = time.perf_counter()
                out = part / spec.file
                devices = compile_plan(
                    flavour, bundle, spec, out, layout=layout, dtype=dtype, sm=sm, timings=timings, track=track
                )
                plans.append(_plan_record(out, spec, time.perf_counter() - start))
            record = EngineRecord(
                target=flavour.target,
                library=flavour.module,
                library_version=version,
                compute_capabilities=devices if here is None else (here,),
                layout=layout,
                dtype=dtype,
                max_batch=limits.max_batch,
                max_length=limits.max_length,
                attention=_attention(bundle, layout, lowering),
                source=source_hashes(bundle, layout, dtype),
                plans=tuple(plans),
                seconds=round(sum(plan.seconds for plan in plans), 2),
                exporter=f"flextron_export {__version__}",
                lowering=lowering,
                workarounds=known,
                plugins=copy_plugins(plugins, part) if plugins else {},
                bundle=bundle.path,
            )
            write_json(part / MARKER, record.to_json())
        return record.to_json()

    def _known_faults(self, version: str, sm: int | None, layout: str, widened: bool) -> tuple[str, ...]:
        """Ids of the faults that this build works around; those that nothing is known against are warned of."""
        found = []
        for fault in faults(self.flavour.target, version, sm):
            if layout in fault.doubtful:
                log.warning(
                    "%s %s: %s (%s). Compare its results with those of onnxruntime-cpu before you rely on them.",
                    self.flavour.title,
                    version,
                    fault.what,
                    fault.source,
                )
            elif fault.least_batch > 1 and widened:
                found.append(fault.id)
        return tuple(found)

    def _plugins(self, library: Any, bundle: Bundle) -> Path:
        """The directory of the plugin libraries, now loaded; TargetError if they cannot run the model."""
        if (size := bundle.architecture.head_dim) not in HEAD_SIZES:
            raise TargetError(
                f"Our attention plugin has no kernel for heads of {size}, only for {', '.join(map(str, HEAD_SIZES))}.",
                cause=f"{self.flavour.title} {library.__version__} has no attention of its own that would do",
                fix="use TensorRT 10.15 or newer (JetPack 7.2), or --target onnxruntime-cpu",
            )
        found = find_plugins()
        load_plugins(library, found)
        return found

    def open_session(
        self, bundle: Bundle, *, layout: str, dtype: str, threads: int | None = None, low_memory: bool = False
    ) -> TensorRTSession:
        """Load the engines of a layout on the GPU that is here; `threads` and `low_memory` concern the CPU.

        Raises:
            TargetError: they were not built, do not fit this bundle, library or device (every reason is named), or
                there is no GPU.
            MissingDependencyError: the library, or cuda-python, is not installed.
        """
        flavour = self.flavour
        directory = engine_directory(bundle.path, flavour.target, layout, dtype)
        record = EngineRecord.read(directory)
        library = flavour.load()
        device = find_device()
        check_engine(
            record,
            flavour=flavour,
            version=library.__version__,
            compute_capability=device.compute_capability if device else None,
            known=flavour.known(library),
            source=source_hashes(bundle, layout, dtype),
            files={name: FileRecord.of(directory / name) for name in record.files if (directory / name).is_file()},
        )
        require_device(flavour.title)
        if record.plugins:
            load_plugins(library, directory)
        from .session import TensorRTSession

        return TensorRTSession(library, bundle, directory, record)

    def versions(self) -> dict[str, str]:
        return {self.flavour.module: self.flavour.load().__version__}

    def device(self) -> dict[str, Any]:
        found = require_device(self.flavour.title)
        return {"gpu": found.name, "compute_capability": found.compute_capability, "driver": found.driver}


TENSORRT_RTX = TensorRTTarget(RTX)
"""Engines compiled ahead of time on any CPU, run on RTX GPUs (SM 75, 80, 86, 89, 120, 121)."""

TENSORRT = TensorRTTarget(ENTERPRISE)
"""Engines compiled on the device that runs them, such as a Jetson with JetPack 6.1 or newer."""


def _attention(bundle: Bundle, layout: str, lowering: Lowering) -> str:
    if lowering == PLUGIN:
        return "plugin"
    return "fused or decomposed" if attention_may_decompose(bundle, layout) else "fused"


def _plan_record(path: Path, spec: PlanSpec, seconds: float) -> PlanRecord:
    indices: dict[str, dict[str, int]] = {}
    for i, profile in enumerate(spec.profiles):
        indices.setdefault(profile.budget, {})[profile.phase] = i
    written = FileRecord.of(path)
    return PlanRecord(spec.file, written.bytes, written.sha256, spec.capacity, indices, round(seconds, 2))
