"""What `build --target-device` is going to do: the choice, its memory, and what speaks against the others."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ..errors import TargetError
from ._tensorrt.memory import Estimate
from ._tensorrt.profiles import Limits
from .device_description import DeviceDescription


@dataclass(frozen=True)
class Choice:
    """One way to build: layout, precision and limits, what it needs, and what speaks against it (empty: nothing)."""

    layout: str
    dtype: str
    limits: Limits
    estimate: Estimate | None
    against: str = ""


@dataclass(frozen=True)
class Release:
    """A release that the device may have, the JetPack releases that bring it, and how graphs are lowered for it."""

    version: str
    jetpack: tuple[str, ...]
    lowering: str | None
    """None: this model does not run on it."""


@dataclass(frozen=True)
class DevicePlan:
    """What `build --target-device` is going to do.

    Attributes:
        device: whom for.
        target: name of the target.
        on_device: it is built on the device itself; else here, ahead of time.
        releases: of the target's library, oldest first.
        usable_bytes: memory of the device that is left for us.
        host_bytes: memory that is left here, where it is built ahead of time; None where that is not known.
        chosen: the first choice that fits, or None.
        refused: the others that were tried before it, or all, with what speaks against each.
        alternatives: what could be changed so that one fits; empty if one does.
        command: what builds it.
    """

    bundle: Path
    device: DeviceDescription
    target: str
    on_device: bool
    releases: tuple[Release, ...]
    usable_bytes: int
    host_bytes: int | None
    chosen: Choice | None
    refused: tuple[Choice, ...]
    alternatives: tuple[str, ...]
    command: str

    def require(self) -> Choice:
        """What was chosen; TargetError with the numbers and alternatives if nothing fits."""
        if self.chosen is not None:
            return self.chosen
        reasons = "; ".join(f"{c.layout} {c.dtype} {c.against}" for c in self.refused)
        if all(choice.estimate is None for choice in self.refused):
            raise TargetError(
                f"Nothing of {self.bundle} can be built for {self.device.name}: {reasons}.",
                fix="export it in another layout or precision, or pass another --target",
            )
        raise TargetError(
            f"No engine of {self.bundle} fits {self.device.name}: {reasons}.",
            cause=f"{self.usable_bytes / 1e9:.2f} of its {self.device.memory_bytes / 1e9:.2f} GB are left for us",
            fix="; or ".join(self.alternatives) or "use a device with more memory",
        )

    def to_json(self) -> dict[str, Any]:
        return {
            "bundle": str(self.bundle),
            "device": self.device.id,
            "name": self.device.name,
            "sm": self.device.sm,
            "target": self.target,
            "built": "on the device" if self.on_device else "here, ahead of time",
            "releases": [asdict(release) for release in self.releases],
            "memory_bytes": self.device.memory_bytes,
            "usable_bytes": self.usable_bytes,
            "host_bytes": self.host_bytes,
            "fits": self.chosen is not None,
            "chosen": None if self.chosen is None else _json(self.chosen),
            "refused": [_json(choice) for choice in self.refused],
            "alternatives": list(self.alternatives),
            "command": self.command,
        }


def _json(choice: Choice) -> dict[str, Any]:
    found = choice.estimate
    return {
        "layout": choice.layout,
        "dtype": choice.dtype,
        "capacities": list(choice.limits.capacities),
        "max_batch": choice.limits.max_batch,
        "max_length": choice.limits.max_length,
        "separate": choice.limits.separate,
        "against": choice.against or None,
        "engine_bytes": None if found is None else found.engines,
        "cache_bytes": None if found is None else {str(c): size for c, size in found.caches.items()},
        "building_bytes": None if found is None else dict(found.building.parts),
        "running_bytes": None if found is None else dict(found.running.parts),
    }
