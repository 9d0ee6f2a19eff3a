"""engine.json: what an engine folder holds, and whether it fits this bundle, library and device.

The file is specified in docs/bundle-format.md.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ...bundle.manifest import Bundle, FileRecord, weights_file
from ...errors import TargetError
from ...files import recover
from ...graph.contract import graph_file
from .flavour import Flavour

FORMAT = "flextron-engine"
VERSION = 1
MARKER = "engine.json"


@dataclass(frozen=True)
class PlanRecord:
    """One serialized engine.

    Attributes:
        file: its name in the engine folder.
        capacity: cache slots per sequence.
        profiles: budget -> phase -> index of the optimisation profile.
        seconds: how long the compilation took.
    """

    file: str
    bytes: int
    sha256: str
    capacity: int
    profiles: dict[str, dict[str, int]]
    seconds: float


@dataclass(frozen=True)
class EngineRecord:
    """What `engine.json` says.

    Attributes:
        library, library_version: Python module that compiled it, and its version; an engine runs with no other.
        compute_capabilities: devices it was compiled for.
        max_batch, max_length: most sequences in a call, most tokens per sequence in a prefill call.
        attention: `fused`, or `fused or decomposed` where the library was allowed to fall back to primitive operators.
        source: bundle files it was compiled from -> SHA-256.
        seconds: how long all compilations took.
    """

    target: str
    library: str
    library_version: str
    compute_capabilities: tuple[int, ...]
    layout: str
    dtype: str
    max_batch: int
    max_length: int
    attention: str
    source: dict[str, str]
    plans: tuple[PlanRecord, ...]
    seconds: float
    exporter: str

    @property
    def capacities(self) -> tuple[int, ...]:
        """Cache capacities there are engines for, ascending."""
        return tuple(sorted({p.capacity for p in self.plans}))

    def plan(self, budget: str, capacity: int) -> PlanRecord:
        """The engine for a budget and capacity; TargetError if it was not built."""
        for plan in self.plans:
            if plan.capacity == capacity and budget in plan.profiles:
                return plan
        raise TargetError(f"No engine was built for budget {budget!r} and capacity {capacity}.", fix=self.rebuild)

    @property
    def rebuild(self) -> str:
        """The command that builds this engine again."""
        sm = f" --sm {','.join(map(str, self.compute_capabilities))}" if self.target == "tensorrt-rtx" else ""
        return f"flextron-export build BUNDLE --target {self.target} --layout {self.layout} --dtype {self.dtype}{sm}"

    def to_json(self) -> dict[str, Any]:
        return {"format": FORMAT, "version": VERSION, **asdict(self)}

    @classmethod
    def read(cls, directory: Path) -> EngineRecord:
        """Read `engine.json`.

        Raises:
            TargetError: there is none, it is damaged or of a newer version.
        """
        recover(directory)
        path = directory / MARKER
        target = directory.parent.name
        rebuild = f"flextron-export build BUNDLE --target {target}"
        if not path.is_file():
            raise TargetError(f"The bundle has no {directory.name} engine for {target}.", fix=rebuild)
        try:
            value = json.loads(path.read_text(encoding="utf-8"))
            if value.pop("format") != FORMAT:
                raise ValueError("another format")
            if int(value.pop("version")) > VERSION:
                raise TargetError(
                    f"{path} is from a newer flextron_export.", fix=f"upgrade flextron-export, or {rebuild}"
                )
            value["compute_capabilities"] = tuple(value["compute_capabilities"])
            value["plans"] = tuple(PlanRecord(**plan) for plan in value["plans"])
            return cls(**value)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise TargetError(f"{path} is damaged: {type(error).__name__} {error}.", fix=rebuild) from error


def engine_directory(bundle: Bundle, target: str, layout: str, dtype: str) -> Path:
    """Where the engines of a target, layout and precision lie."""
    return bundle.path / "engines" / target / f"{layout}.{dtype}"


def source_hashes(bundle: Bundle, layout: str, dtype: str) -> dict[str, str]:
    """SHA-256, from the manifest, of every file that decides what an engine computes."""
    names = {graph_file(layout, dtype, b.name if layout == "per-budget" else None) for b in bundle.budgets}
    return {name: bundle.files[name].sha256 for name in sorted(names | {weights_file(dtype)})}


def check_engine(
    record: EngineRecord,
    *,
    flavour: Flavour,
    version: str,
    compute_capability: int | None,
    source: Mapping[str, str],
    files: Mapping[str, FileRecord],
) -> None:
    """Raise TargetError with every reason why an engine must not run here, and the command that builds it again.

    Args:
        record: what engine.json says.
        flavour, version: the library that is installed here.
        compute_capability: of the device here, such as 89; None if it is not known.
        source: `source_hashes` of the bundle here.
        files: size and hash of the plan files here, by name.
    """
    found = []
    if record.library != flavour.module:
        found.append(f"it was built by {record.library}, here is {flavour.module}")
    elif record.library_version != version:
        found.append(f"it was built by {flavour.title} {record.library_version}, installed is {version}")
    if compute_capability is not None and compute_capability not in record.compute_capabilities:
        built = ", ".join(map(str, record.compute_capabilities))
        found.append(f"it was built for SM {built}, this device has SM {compute_capability}")
    for plan in record.plans:
        there = files.get(plan.file)
        if there is None:
            found.append(f"{plan.file} is missing")
        elif there != FileRecord(plan.bytes, plan.sha256):
            found.append(f"{plan.file} was altered (its size or SHA-256 differs)")
    changed = sorted(name for name in {*record.source, *source} if record.source.get(name) != source.get(name))
    if changed:
        found.append(f"it was built from another {', '.join(changed)}")
    if found:
        fix = record.rebuild
        if compute_capability is not None and flavour.ahead_of_time and compute_capability not in flavour.reach:
            fix = "flextron-export build BUNDLE --target tensorrt, on this device"
        raise TargetError(f"The {flavour.target} engine cannot run here: {'; '.join(found)}.", fix=fix)
