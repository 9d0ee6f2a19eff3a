"""The verbs of a TensorRT target: check, build, open."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ...bundle.manifest import Bundle, FileRecord
from ...elastic.widths import MINIMUM_QUERY_HEADS
from ...errors import TargetError, problems
from ...files import new_directory, write_json
from ...progress import Track, silent
from ...version import __version__
from .builder import attention_may_decompose, compile_plan
from .device import find_device, require_device
from .flavour import Flavour
from .profiles import Limits, PlanSpec, plan_specs
from .record import MARKER, EngineRecord, PlanRecord, check_engine, engine_directory, source_hashes


def check(flavour: Flavour, bundle: Bundle, layout: str, dtype: str) -> None:
    """Raise for a combination this target cannot compile; the library need not be installed.

    Raises:
        TargetError: the precision, or a budget's number of heads, has no attention kernel.
        BundleError: the bundle does not hold the graph.
    """
    if dtype != "fp16":
        raise TargetError(
            f"{flavour.title} has no attention kernel in {dtype}.",
            cause="its fused attention computes in half precision",
            fix="use --dtype fp16, or --target onnxruntime-cpu",
        )
    bundle.graphs(layout, dtype)
    a = bundle.architecture
    found = [
        f"budget {budget.name!r}, layer {i}: {width.groups * a.heads_per_group} query heads"
        for budget in bundle.budgets
        for i, width in enumerate(budget.layers)
        if width.groups * a.heads_per_group < MINIMUM_QUERY_HEADS
    ]
    problems(
        TargetError,
        f"{flavour.title} has no attention kernel for fewer than {MINIMUM_QUERY_HEADS} query heads at batch 1",
        found[:4],
        fix="elastify with wider candidates, export other budgets, or use --target onnxruntime-cpu",
    )


def build(
    flavour: Flavour,
    bundle: Bundle,
    *,
    layout: str,
    dtype: str,
    sm: tuple[int, ...] = (),
    capacity: int | Sequence[int] | None = None,
    max_batch: int = 4,
    max_length: int = 256,
    track: Track = silent,
) -> dict[str, Any]:
    """Compile the engines of a layout into `engines/<target>/<layout>.<dtype>/`.

    The folder appears whole, or the one that was there stays; engines of other layouts are not touched.

    Returns:
        The record that was written as `engine.json`.
    """
    check(flavour, bundle, layout, dtype)
    library = flavour.load()
    limits = Limits.choose(bundle, layout, capacity, max_batch, max_length)
    here = () if flavour.ahead_of_time else (require_device(flavour.title).compute_capability,)
    directory = engine_directory(bundle, flavour.target, layout, dtype)
    devices: tuple[int, ...] = ()
    plans = []
    with new_directory(directory, marker=MARKER, overwrite=True) as part:
        for spec in plan_specs(bundle, layout, limits):
            start = time.perf_counter()
            plan, devices = compile_plan(flavour, bundle, spec, layout=layout, dtype=dtype, sm=sm, track=track)
            (part / spec.file).write_bytes(plan)
            plans.append(_plan_record(part / spec.file, spec, time.perf_counter() - start))
        record = EngineRecord(
            target=flavour.target,
            library=flavour.module,
            library_version=library.__version__,
            compute_capabilities=here or devices,
            layout=layout,
            dtype=dtype,
            max_batch=limits.max_batch,
            max_length=limits.max_length,
            attention="fused or decomposed" if attention_may_decompose(bundle, layout) else "fused",
            source=source_hashes(bundle, layout, dtype),
            plans=tuple(plans),
            seconds=round(sum(plan.seconds for plan in plans), 2),
            exporter=f"flextron_export {__version__}",
        )
        write_json(part / MARKER, record.to_json())
    return record.to_json()


def _plan_record(path: Path, spec: PlanSpec, seconds: float) -> PlanRecord:
    indices: dict[str, dict[str, int]] = {}
    for i, profile in enumerate(spec.profiles):
        indices.setdefault(profile.budget, {})[profile.phase] = i
    written = FileRecord.of(path)
    return PlanRecord(spec.file, written.bytes, written.sha256, spec.capacity, indices, round(seconds, 2))


def open_session(flavour: Flavour, bundle: Bundle, layout: str, dtype: str) -> Any:
    """Load the engines of a layout on the GPU that is here.

    Raises:
        TargetError: they were not built, do not fit this bundle, library or device (every reason is named), or there is
            no GPU.
        MissingDependencyError: the library, or cuda-python, is not installed.
    """
    check(flavour, bundle, layout, dtype)
    directory = engine_directory(bundle, flavour.target, layout, dtype)
    record = EngineRecord.read(directory)
    library = flavour.load()
    device = find_device()
    check_engine(
        record,
        flavour=flavour,
        version=library.__version__,
        compute_capability=device.compute_capability if device else None,
        source=source_hashes(bundle, layout, dtype),
        files={p.file: FileRecord.of(directory / p.file) for p in record.plans if (directory / p.file).is_file()},
    )
    require_device(flavour.title)
    from .session import TensorRTSession

    return TensorRTSession(library, bundle, directory, record)


def describe_device(flavour: Flavour) -> dict[str, Any]:
    """Name, compute capability and driver of the GPU; TargetError if there is none."""
    found = require_device(flavour.title)
    return {"gpu": found.name, "compute_capability": found.compute_capability, "driver": found.driver}
