"""The engine folders of a bundle, `engines/<target>/<layout>.<dtype>/`, and what every `engine.json` has in common.

The file is specified in docs/bundle-format.md.
"""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

from ..elastic.router import FILE as ROUTER_FILE
from ..errors import FlextronError, TargetError
from ..files import MALFORMED, integers, read_object, recover
from ..graph.contract import ROUTED
from .manifest import Bundle, weights_file

FORMAT = "flextron-engine"
VERSION = 1
MARKER = "engine.json"
_TEXTS = ("target", "library", "library_version", "layout", "dtype", "exporter")


def engine_directory(bundle: Path, target: str, layout: str, dtype: str) -> Path:
    """Where the engines of a target, layout and precision lie."""
    return bundle / "engines" / target / f"{layout}.{dtype}"


def build_command(bundle: Path, target: str, *options: str) -> str:
    """The command that compiles a bundle for a target."""
    return shlex.join(["flextron-export", "build", str(bundle), "--target", target, *options])


def source_hashes(bundle: Bundle, layout: str, dtype: str) -> dict[str, str]:
    """SHA-256, from the manifest, of every file that decides what an engine computes; BundleError if there is none."""
    names = {path.relative_to(bundle.path).as_posix() for path in bundle.graphs(layout, dtype).values()}
    names |= {weights_file(dtype)} | ({ROUTER_FILE} if layout == ROUTED else set())
    return {name: bundle.files[name].sha256 for name in sorted(names)}


def read_engine(directory: Path) -> dict[str, Any] | None:
    """What `engine.json` says, what all engines have in common checked; None if nothing was built.

    Raises:
        TargetError: it is damaged, or of a newer version.
    """
    recover(directory)
    path = directory / MARKER
    if not path.is_file():
        return None
    rebuild = build_command(directory.parents[2], directory.parent.name)
    value = read_object(path, TargetError, rebuild)
    try:
        if value["format"] != FORMAT:
            raise ValueError(f"its format is {value['format']!r}")
        (version,) = integers([value["version"]])
        if version > VERSION:
            raise TargetError(f"{path} is from a newer flextron_export.", fix=f"upgrade flextron-export, or {rebuild}")
        integers(value.get("compute_capabilities", []))
        for plan in value.get("plans", []):
            integers([plan["bytes"], plan["capacity"]])
            _texts(plan["file"], plan["sha256"])
        _texts(*(value[key] for key in _TEXTS), *value["source"].keys(), *value["source"].values())
    except MALFORMED as error:
        raise TargetError(f"{path} is damaged: {type(error).__name__} {error}.", fix=rebuild) from error
    return value


def read_engines(bundle: Bundle) -> dict[str, dict[str, Any]]:
    """What was built for the graphs of a bundle: `<target>/<layout>.<dtype>` -> its record, or {"damaged": True}."""
    found = {}
    targets = sorted(p.name for p in (bundle.path / "engines").glob("*") if p.is_dir() and not p.name.startswith("."))
    for target in targets:
        for layout, dtype in ((layout, dtype) for dtype, layouts in bundle.layouts.items() for layout in layouts):
            try:
                record = read_engine(engine_directory(bundle.path, target, layout, dtype))
            except TargetError:
                record = {"damaged": True}
            if record is not None:
                found[f"{target}/{layout}.{dtype}"] = record
    return found


def plan_hashes(directory: Path) -> list[str]:
    """Hashes of compiled engines; none where nothing was compiled. Damage is for the target to tell."""
    try:
        return sorted(str(plan["sha256"]) for plan in read_object(directory / MARKER, TargetError).get("plans", ()))
    except (FlextronError, *MALFORMED):
        return []


def _texts(*values: Any) -> None:
    if wrong := [v for v in values if not isinstance(v, str)]:
        raise ValueError(f"{wrong[0]!r} is no text")
