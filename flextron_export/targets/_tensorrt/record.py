"""What `engine.json` of a TensorRT target says, and whether the engine fits this bundle, library and device."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from ...bundle.engines import FORMAT, MARKER, VERSION, build_command, read_engine
from ...bundle.manifest import FileRecord
from ...errors import TargetError
from ...files import MALFORMED, integers
from .flavour import ENTERPRISE, RTX, Flavour
from .versions import NATIVE, PLUGIN


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
        lowering: `native`, or `plugin` where attention is our plugin (`versions`).
        workarounds: ids of the library's known faults that were worked around.
        plugins: libraries beside the engines that must be loaded before them -> size and hash.
        bundle: where the engine lies, for the commands in messages; not in the file.
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
    lowering: str = NATIVE
    workarounds: tuple[str, ...] = ()
    plugins: dict[str, FileRecord] = field(default_factory=dict)
    bundle: Path = field(default=Path("BUNDLE"), compare=False)

    @property
    def files(self) -> dict[str, FileRecord]:
        """What must lie in the engine folder beside `engine.json`."""
        return {**{plan.file: FileRecord(plan.bytes, plan.sha256) for plan in self.plans}, **self.plugins}

    @property
    def capacities(self) -> tuple[int, ...]:
        """Cache capacities there are engines for, ascending."""
        return tuple(sorted({p.capacity for p in self.plans}))

    def plan(self, budget: str, capacity: int) -> PlanRecord:
        """The engine for a budget and capacity; TargetError if it was not built."""
        for plan in self.plans:
            if plan.capacity == capacity and budget in plan.profiles:
                return plan
        raise TargetError(f"No engine was built for budget {budget!r} and capacity {capacity}.", fix=self.rebuild())

    def rebuild(self, **changes: tuple[int, ...]) -> str:
        """The command that builds this engine again; `changes` name options of `build` that must have other values."""
        options = {"capacity": self.capacities, "max_batch": (self.max_batch,), "max_length": (self.max_length,)}
        # An engine for the default devices was compiled without a list, which is another kind of engine.
        if self.target == RTX.target and self.compute_capabilities != RTX.reach:
            options["sm"] = self.compute_capabilities
        words = ["--layout", self.layout, "--dtype", self.dtype]
        for name, values in {**options, **changes}.items():
            words += [f"--{name.replace('_', '-')}", ",".join(map(str, values))]
        if self.layout == "shared" and len(self.plans) > len(self.capacities):
            words.append("--separate")
        return build_command(self.bundle, self.target, *words)

    def to_json(self) -> dict[str, Any]:
        values = asdict(self)
        del values["bundle"]
        return {"format": FORMAT, "version": VERSION, **values}

    @classmethod
    def read(cls, directory: Path) -> EngineRecord:
        """Read `engine.json`.

        Raises:
            TargetError: there is none, it is damaged or of a newer version.
        """
        target, bundle = directory.parent.name, directory.parents[2]
        value = read_engine(directory)
        if value is None:
            what = f"The bundle has no {directory.name} engine for {target}."
            layout, _, dtype = directory.name.rpartition(".")
            raise TargetError(what, fix=build_command(bundle, target, "--layout", layout, "--dtype", dtype))
        try:
            del value["format"], value["version"]
            if not value["plans"]:
                raise ValueError("it has no engines")
            integers([value["max_batch"], value["max_length"]])
            value["compute_capabilities"] = integers(value["compute_capabilities"])
            value["plans"] = tuple(PlanRecord(**plan) for plan in value["plans"])
            if value.get("lowering", NATIVE) not in (NATIVE, PLUGIN):
                raise ValueError(f"its lowering is {value['lowering']!r}")
            value["workarounds"] = tuple(value.get("workarounds", ()))
            value["plugins"] = {name: FileRecord(**found) for name, found in value.get("plugins", {}).items()}
            if wrong := [name for name in value["plugins"] if Path(name).name != name]:
                raise ValueError(f"the plugin library {wrong[0]!r} lies elsewhere")
            integers([i for p in value["plans"] for phases in p.profiles.values() for i in phases.values()])
            return cls(**value, bundle=bundle)
        except MALFORMED as error:
            what = f"{directory / MARKER} is damaged: {type(error).__name__} {error}."
            raise TargetError(what, fix=build_command(bundle, target)) from error


def check_engine(
    record: EngineRecord,
    *,
    flavour: Flavour,
    version: str,
    compute_capability: int | None,
    known: Sequence[int],
    source: Mapping[str, str],
    files: Mapping[str, FileRecord],
) -> None:
    """Raise TargetError with every reason why an engine must not run here, and the command that builds it again.

    Args:
        record: what engine.json says.
        flavour, version: the library that is installed here.
        compute_capability: of the device here, such as 89; None if it is not known.
        known: compute capabilities that library compiles for ahead of time.
        source: `source_hashes` of the bundle here.
        files: size and hash of the plan files and plugin libraries here, by name.
    """
    found = []
    fix = record.rebuild()
    if record.library != flavour.module:
        found.append(f"it was built by {record.library}, here is {flavour.module}")
    elif record.library_version != version:
        found.append(f"it was built by {flavour.title} {record.library_version}, installed is {version}")
    if compute_capability is not None and compute_capability not in record.compute_capabilities:
        built = ", ".join(map(str, record.compute_capabilities))
        found.append(f"it was built for SM {built}, this device has SM {compute_capability}")
        if compute_capability in known:
            fix = record.rebuild(sm=(compute_capability,))
        elif flavour.ahead_of_time:
            fix = f"{replace(record, target=ENTERPRISE.target).rebuild()}, on this device"
    for name, written in record.files.items():
        if name not in files:
            found.append(f"{name} is missing")
        elif files[name] != written:
            found.append(f"{name} was altered (its size or SHA-256 differs)")
    changed = sorted(name for name in {*record.source, *source} if record.source.get(name) != source.get(name))
    if changed:
        found.append(f"it was built from another {', '.join(changed)}")
    if found:
        raise TargetError(f"The {flavour.target} engine cannot run here: {'; '.join(found)}.", fix=fix)
