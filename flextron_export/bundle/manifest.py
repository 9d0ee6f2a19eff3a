"""The bundle and its manifest (docs/bundle-format.md). Needs numpy alone."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from ..elastic.architecture import Architecture
from ..elastic.records import FileRecord, faults
from ..elastic.router import FILE as ROUTER_FILE
from ..elastic.router import RouterRecord
from ..elastic.safetensors import SafetensorsFile
from ..elastic.widths import Budget, Candidates, check_budgets
from ..errors import BundleError, CheckpointError, FlextronError, problems
from ..files import MALFORMED, integers, read_object, recover, sha256, write_json, write_text
from ..graph.contract import ALL_LAYOUTS, BITS, DTYPES, PROMPT_ROUTER, ROUTED, graph_file, layouts_of
from ..graph.quantization import Quantization, stored_tensors
from ..graph.schemes import Groups, read_quantization

FORMAT = "flextron-bundle"
VERSION = 1
MARKER = "manifest.json"
SEAL = "manifest.sha256"
"""The manifest's own hash, as `sha256sum` writes it."""


@dataclass(frozen=True)
class Bundle:
    """An opened bundle.

    Attributes:
        path: its directory.
        dtypes: precisions it holds, each with a file `weights.<dtype>.safetensors`.
        layouts: graph layouts per dtype.
        files: every immutable file with its size and hash; `engines/` and `latency/` come later and keep their own
            records.
        source: what it was exported from.
        router: the dynamic router of layout `routed`, or the prompt router in `router.onnx`; None if it needs neither.
        quantization: of the precisions that have quantised matrices.
    """

    path: Path
    architecture: Architecture
    candidates: Candidates
    budgets: tuple[Budget, ...]
    layouts: dict[str, tuple[str, ...]]
    files: dict[str, FileRecord]
    source: dict[str, Any] = field(default_factory=dict)
    router: RouterRecord | None = None
    quantization: dict[str, Quantization] = field(default_factory=dict)

    @property
    def dtypes(self) -> tuple[str, ...]:
        return tuple(self.layouts)

    def budgets_of(self, layout: str | None) -> tuple[Budget, ...]:
        """What a layout offers to be run: the budgets, or for `routed` the router at every trained target."""
        if layout != ROUTED:
            return self.budgets
        return self.router.budgets(self.architecture) if self.router else ()

    @property
    def targets(self) -> tuple[float, ...]:
        """The latency targets that its router was trained for."""
        return self.router.targets if self.router else ()

    @property
    def all_budgets(self) -> tuple[Budget, ...]:
        """What its layouts offer, together."""
        return tuple(dict.fromkeys((*self.budgets, *self.budgets_of(ROUTED))))

    def budget(self, name: str, layout: str | None = None) -> Budget:
        """The budget of that name; BundleError names the ones that were exported.

        For layout `routed`, `r60` is the router at the target 0.6, trained or between trained ones.

        Raises:
            InputError: the router was not trained for such a target.
        """
        known = self.budgets_of(layout)
        for budget in known:
            if budget.name == name:
                return budget
        if layout == ROUTED and self.router and re.fullmatch(r"r\d+(\.\d+)?", name):
            return self.router.budget(self.architecture, float(name[1:]) / 100)
        names = ", ".join(b.name for b in known)
        if layout == ROUTED:
            raise BundleError(
                f"{name!r} is no target of the router.",
                fix=f"use {names}, or one in between such as r60 for 0.6 of the full model's latency",
            )
        raise BundleError(
            f"The budget {name!r} was not exported.",
            fix=f"use one of: {names}; or export the checkpoint again with --budgets",
        )

    def graph(self, layout: str, dtype: str, budget: str | None = None) -> Path:
        """Path of a graph; BundleError says what was exported if it was not."""
        if layout not in self.layouts.get(dtype, ()):
            there = "; ".join(f"{d}: {', '.join(names)}" for d, names in self.layouts.items())
            raise BundleError(
                f"The bundle has no {layout} graph in {dtype}.",
                cause=f"it holds {there}",
                fix=f"export again with --layout {layout} --dtype {dtype}",
            )
        return self.path / graph_file(layout, dtype, budget if layout == "per-budget" else None)

    def graphs(self, layout: str, dtype: str) -> dict[str, Path]:
        """All graph files of a layout: budget name -> path (the same path for every budget unless `per-budget`)."""
        self.graph(layout, dtype)  # without a router there is nothing in `routed` to ask for
        return {b.name: self.graph(layout, dtype, b.name) for b in self.budgets_of(layout)}

    def weights(self, dtype: str) -> SafetensorsFile:
        """The mapped weights file of a precision, its tensors checked against the architecture."""
        if dtype not in self.layouts:
            raise BundleError(
                f"The bundle has no {dtype} weights.",
                fix=f"use {', '.join(self.layouts)}, or export again with --dtype {dtype}",
            )
        weights = SafetensorsFile(self.path / weights_file(dtype), BundleError)
        found = []
        for name, tensor in stored_tensors(self.architecture, dtype, self.quantization.get(dtype)).items():
            info = weights.tensors.get(name)
            if info is None or info.shape != tensor.shape or info.dtype != tensor.dtype:
                found.append(f"{name} should be {tensor.dtype} {list(tensor.shape)}")
        problems(BundleError, f"{weights.path} does not fit the manifest", found[:5])
        return weights

    def check_files(self, *, hashes: bool = True, names: Iterable[str] | None = None) -> None:
        """Raise BundleError naming every file that is missing, of another size or (with `hashes`) altered."""
        records = self.files if names is None else {name: self.files[name] for name in names}
        found = faults(self.path, records, hashes=hashes)
        if hashes and names is None:
            found += self._seal_faults()
        problems(BundleError, f"the bundle {self.path} is damaged", found, fix="copy it again, or export it again")

    @classmethod
    def open(cls, path: str | Path, *, hashes: bool = True) -> Bundle:
        """Open and check a bundle.

        Args:
            path: its directory.
            hashes: verify the SHA-256 of every file, not only sizes.

        Raises:
            BundleError: it is missing, damaged, altered or from a newer version.
        """
        path, again = Path(path), "copy the bundle again, or export it again"
        recover(path)
        marker = path / MARKER
        if not marker.is_file():
            raise BundleError(
                f"{path} is not a bundle: it has no {MARKER}.", fix="flextron-export export CKPT --out BUNDLE"
            )
        value = read_object(marker, BundleError, again)
        try:
            if value["format"] != FORMAT:
                raise ValueError(f"its format is {value['format']!r}")
            (version,) = integers([value["version"]])
            if version > VERSION:
                raise BundleError(
                    f"{marker} has version {version}; this flextron_export reads up to {VERSION}.",
                    fix="upgrade flextron-export",
                )
            bundle = cls(
                path,
                Architecture.from_json(value["architecture"]),
                Candidates.from_json(value["candidates"]),
                tuple(Budget.from_json(b) for b in value["budgets"]),
                {str(d): tuple(names) for d, names in value["layouts"].items()},
                {str(name): FileRecord(int(r["bytes"]), str(r["sha256"])) for name, r in value["files"].items()},
                dict(value.get("source") or {}),
                RouterRecord.from_json(value["router"]) if value.get("router") else None,
                {
                    dtype: read_quantization(dtype, record)
                    for dtype, record in (value.get("quantization") or {}).items()
                },
            )
            bundle._validate()
        except CheckpointError as error:
            raise BundleError(f"{marker}: {error.what}", fix=error.fix) from error
        except MALFORMED as error:
            raise BundleError(f"{marker} is damaged: {type(error).__name__} {error}.", fix=again) from error
        bundle.check_files(hashes=hashes)
        return bundle

    def _validate(self) -> None:
        found = [] if any(self.layouts.values()) else ["it has no graphs"]
        found += [f"unknown dtype {d!r}" for d in self.layouts if d not in DTYPES]
        found += [
            f"unknown layout {name!r}" for names in self.layouts.values() for name in names if name not in ALL_LAYOUTS
        ]
        for name in self.files:
            parts = PurePosixPath(name).parts
            if not parts or PurePosixPath(name).is_absolute() or ".." in parts or "\\" in name:
                found.append(f"the path {name!r} leaves the bundle")
        try:
            self.candidates.validate(self.architecture)
            check_budgets(self.budgets, self.candidates, self.architecture)
        except FlextronError as error:
            found.append(error.what)
        for dtype, names in self.layouts.items():
            needed = {weights_file(dtype)} | {
                graph_file(n, dtype, b.name if n == "per-budget" else None) for n in names for b in self.budgets
            }
            found += [f"{n} is not listed" for n in sorted(needed - self.files.keys())]
            if dtype in DTYPES:
                found += [f"layout {n} is in {dtype}" for n in names if n in ALL_LAYOUTS and n not in layouts_of(dtype)]
            if ROUTED in names:
                found += self._router_faults()
            if dtype in BITS:
                found += self._quantization_faults(dtype)
        found += self._prompt_router_faults()
        problems(BundleError, f"{self.path / MARKER} is not valid", found)

    def _quantization_faults(self, dtype: str) -> list[str]:
        if dtype not in self.quantization:
            return [f"how {dtype} is quantised is missing"]
        quantization = self.quantization[dtype]
        found = quantization.faults(self.architecture, self.candidates)
        groups = f"{dtype} has groups of {quantization.group_size}: " if isinstance(quantization, Groups) else ""
        return [groups + fault for fault in found]

    def _prompt_router_faults(self) -> list[str]:
        if self.router is None or self.router.kind != "prompt":
            return []
        found = [f"{name} is not listed" for name in (PROMPT_ROUTER, ROUTER_FILE) if name not in self.files]
        return found + ([] if self.router.candidates == self.candidates else ["the router has other candidates"])

    def _router_faults(self) -> list[str]:
        if self.router is None or self.router.kind != "dynamic":
            return [f"layout {ROUTED} has no dynamic router"]
        found = [] if ROUTER_FILE in self.files else [f"{ROUTER_FILE} is not listed"]
        return found + ([] if self.router.candidates == self.candidates else ["the router has other candidates"])

    def _seal_faults(self) -> list[str]:
        try:
            sealed = (self.path / SEAL).read_text(encoding="utf-8")
        except (OSError, ValueError):
            return [f"{SEAL} is missing or cannot be read"]
        return [] if sealed == _seal(self.path) else [f"{MARKER} was altered (its SHA-256 is not that in {SEAL})"]

    def write_manifest(self, directory: Path) -> None:
        """Write `manifest.json` and its seal into a directory that holds the files."""
        write_json(
            directory / MARKER,
            {
                "format": FORMAT,
                "version": VERSION,
                "architecture": self.architecture.to_json(),
                "candidates": self.candidates.to_json(),
                "budgets": [{**b.to_json(), "parameters": b.parameters(self.architecture)} for b in self.budgets],
                "layouts": {d: list(names) for d, names in self.layouts.items()},
                "files": {name: {"bytes": r.bytes, "sha256": r.sha256} for name, r in sorted(self.files.items())},
                "source": self.source,
                **({"router": self.router.to_json()} if self.router else {}),
                **(
                    {"quantization": {d: q.to_json() for d, q in self.quantization.items()}}
                    if self.quantization
                    else {}
                ),
            },
        )
        seal(directory)


def seal(directory: Path) -> None:
    """Write the seal of the manifest that lies in a directory."""
    write_text(directory / SEAL, _seal(directory))


def _seal(directory: Path) -> str:
    return f"{sha256(directory / MARKER)}  {MARKER}\n"


def weights_file(dtype: str) -> str:
    """Name of the weights file of a precision."""
    return f"weights.{dtype}.safetensors"
