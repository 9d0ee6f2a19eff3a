"""What a device is by its data sheet: one file `devices/<id>.toml` per device, plain data.

Used where nothing can be measured: planning a build for a board that is not at hand, and the analytic latency model.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

from ..errors import InputError, problems

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

KINDS = ("jetson", "workstation", "server")
PRECISIONS = ("fp32", "fp16", "bf16", "fp8", "int8", "fp4", "int4")
NUMBERS = ("sm", "multiprocessors", "memory_bytes", "bandwidth_gb_s", "launch_us", "tflops", "tensorrt_from")
"""Keys whose origin `sources` must tell."""


@dataclass(frozen=True)
class DeviceDescription:
    """A device as its vendor describes it.

    Attributes:
        id: name of its file, such as `jetson-agx-orin`.
        name: the product's name.
        kind: `jetson`, `workstation` or `server`.
        sm: compute capability times ten, such as 87.
        multiprocessors: number of streaming multiprocessors.
        memory_bytes: memory that the GPU can use; where `unified_memory`, shared with the CPU and the system.
        bandwidth_gb_s: peak memory bandwidth in 1e9 bytes per second.
        launch_us: microseconds that every kernel costs beside its work.
        tflops: precision -> peak dense 1e12 operations per second, a multiplication and an addition being two.
        precisions: of weights that engines for it may have; `int8` and `int4` as weights only, too.
        targets: targets of this package that build for it.
        tensorrt_from: the oldest TensorRT release that knows it.
        jetpack: JetPack release -> TensorRT release in it, oldest first; empty unless it is a Jetson.
        sources: where each number comes from.
    """

    id: str
    name: str
    kind: str
    sm: int
    multiprocessors: int
    memory_bytes: int
    unified_memory: bool
    bandwidth_gb_s: float
    launch_us: float
    tflops: Mapping[str, float]
    precisions: tuple[str, ...]
    targets: tuple[str, ...]
    tensorrt_from: str
    jetpack: Mapping[str, str]
    sources: Mapping[str, str]

    @property
    def usable_bytes(self) -> int:
        """What is left for us of its memory; an assumption.

        Of unified memory, firmware keeps about 5 % (7772 of 8192 MB are visible on an Orin with 8 GB) and a system
        without a desktop about 1 GB; of a card's own memory, driver and display keep about 0.5 GB.
        """
        if self.unified_memory:
            return int(self.memory_bytes * 0.95) - 1_000_000_000
        return self.memory_bytes - 500_000_000

    def faults(self) -> list[str]:
        """Everything that is wrong with it, in words."""
        found = [] if self.kind in KINDS else [f"kind is {self.kind!r}, it must be one of {', '.join(KINDS)}"]
        for name in ("name", "tensorrt_from"):
            if not isinstance(getattr(self, name), str) or not getattr(self, name):
                found.append(f"{name} is {getattr(self, name)!r}, no text")
        for name in ("sm", "multiprocessors", "memory_bytes"):
            if type(getattr(self, name)) is not int or getattr(self, name) < 1:
                found.append(f"{name} is {getattr(self, name)!r}, no positive integer")
        for name in ("bandwidth_gb_s", "launch_us"):
            if not _positive(getattr(self, name)):
                found.append(f"{name} is {getattr(self, name)!r}, no positive number")
        unified: object = self.unified_memory
        if not isinstance(unified, bool):
            found.append(f"unified_memory is {unified!r}, neither true nor false")
        found += [f"unknown precision {p!r}" for p in {*self.precisions, *self.tflops} if p not in PRECISIONS]
        found += [f"tflops.{p} is {v!r}, no positive number" for p, v in self.tflops.items() if not _positive(v)]
        found += [f"tflops lacks {p}" for p in ("fp32", "fp16") if p not in self.tflops]
        found += [f"{n} is empty" for n in ("precisions", "targets") if not getattr(self, n)]
        if (self.kind == "jetson") != bool(self.jetpack):
            found.append("jetpack belongs to a Jetson, and every Jetson has it")
        found += [f"sources does not say where {name} comes from" for name in NUMBERS if not self.sources.get(name)]
        return found


def device_ids() -> tuple[str, ...]:
    """Devices that this package describes, in alphabetical order."""
    return tuple(sorted(f.name[: -len(".toml")] for f in _shipped().iterdir() if f.name.endswith(".toml")))


def device_description(device: str | Path) -> DeviceDescription:
    """The description of a device.

    Args:
        device: one of `device_ids()`, or the path of a `.toml` file of the same form.

    Raises:
        InputError: there is no such device or file, or the file is damaged; every fault is named.
    """
    if str(device) in device_ids():
        text, where = _shipped().joinpath(f"{device}.toml").read_text(encoding="utf-8"), f"device {device}"
    elif str(device).endswith(".toml"):
        try:
            text, where = Path(device).read_text(encoding="utf-8"), str(device)
        except (OSError, ValueError) as error:
            raise InputError(f"The device description {device} cannot be read: {error}.") from error
    else:
        raise InputError(
            f"There is no device {str(device)!r}.",
            fix=f"use one of: {', '.join(device_ids())}; or the path of a .toml file that describes yours",
        )
    try:
        value = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise InputError(f"{where} is no TOML: {error}.") from error
    return _from_toml(Path(str(device)).stem, value, where)


def _from_toml(id: str, value: dict[str, Any], where: str) -> DeviceDescription:
    fields = DeviceDescription.__dataclass_fields__
    optional: dict[str, Any] = {"jetpack": {}}
    keys = [name for name in fields if name != "id"]
    found = [f"unknown key {name!r}" for name in value if name not in keys]
    found += [f"{name} is missing" for name in keys if name not in value and name not in optional]
    for name in ("precisions", "targets"):
        if name in value and not (isinstance(value[name], list) and all(isinstance(v, str) for v in value[name])):
            found.append(f"{name} is no list of texts")
    for name in ("tflops", "jetpack", "sources"):
        if name in value and not isinstance(value[name], dict):
            found.append(f"{name} is no table")
    problems(InputError, f"{where} is not valid", found)
    values = {**optional, **value, "precisions": tuple(value["precisions"]), "targets": tuple(value["targets"])}
    device = DeviceDescription(id, **values)
    problems(InputError, f"{where} is not valid", device.faults())
    return device


def _shipped() -> Any:
    return files(__package__).joinpath("devices")


def _positive(value: Any) -> bool:
    return type(value) in (int, float) and math.isfinite(value) and value > 0
