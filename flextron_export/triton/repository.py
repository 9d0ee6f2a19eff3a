"""The verb `triton`: a bundle becomes a model repository that Triton serves."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from ..bundle.manifest import MARKER, SEAL, Bundle
from ..errors import InputError
from ..files import new_directory
from ..runtime.latency_target import LatencyTarget
from ..runtime.opening import How, open_bundle
from ..targets import DEFAULT_TARGET
from .config import config_text

if TYPE_CHECKING:
    from typing_extensions import Unpack

CONFIG = "config.pbtxt"
MODEL = "1/model.py"
BUNDLE = "1/bundle"
_MODEL_TEXT = '''"""Run by Triton's Python backend; its Python needs flextron_export with the extra of the target."""

from flextron_export.triton.backend import TritonPythonModel

__all__ = ["TritonPythonModel"]
'''


def triton(
    bundle: str | Path,
    out: str | Path,
    *,
    name: str | None = None,
    latency_target: str | None = None,
    budget: str | None = None,
    parallel: int = 1,
    overwrite: bool = False,
    **how: Unpack[How],
) -> Path:
    """Write `OUT/NAME`: `config.pbtxt`, `1/model.py` and a copy of the bundle, engines and measurements included.

    Args:
        bundle: its directory.
        out: the model repository; other models in it are left alone.
        name: of the model; the bundle's directory by default.
        latency_target, budget: what a request that asks for neither gets; the widest budget by default.
        parallel: generations at the same time.
        overwrite: replace a model that this function wrote.
        how: target, layout, dtype, threads, low_memory: see `How`.

    Returns:
        The model's directory.

    Raises:
        InputError: an argument cannot be used, or the model exists.
        BundleError, TargetError: the bundle is damaged or cannot run so.
    """
    opening = open_bundle(bundle, **how)
    source = opening.bundle
    name = source.path.resolve().name if name is None else name
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", name):
        raise InputError(f"{name!r} cannot be the name of a model.", fix="use --name with letters, digits, . _ and -")
    if latency_target is not None and budget is not None:
        raise InputError("A latency target and a budget were given.", fix="pass one of them")
    if parallel < 1:
        raise InputError(f"{parallel} generations at the same time are none.", fix="use --parallel 1 or more")
    if latency_target is not None:
        LatencyTarget.parse(latency_target)
    if budget is not None:
        source.budget(budget)
    settings = {
        "target": opening.target,
        "layout": opening.layout,
        "dtype": opening.dtype,
        "threads": str(opening.threads) if opening.threads else None,
        "low_memory": "true" if opening.low_memory else None,
        "latency_target": latency_target,
        "budget": budget,
        "parallel": str(parallel),
    }
    parameters = {key: value for key, value in settings.items() if value is not None}
    # Only a directory with such a bundle in it was written here.
    with new_directory(Path(out) / name, marker=f"{BUNDLE}/{MARKER}", overwrite=overwrite) as directory:
        _copy(source, directory / BUNDLE)
        (directory / MODEL).write_text(_MODEL_TEXT, encoding="utf-8")
        config = config_text(name, parameters, gpu=opening.target != DEFAULT_TARGET)
        (directory / CONFIG).write_text(config, encoding="utf-8")
    return Path(out) / name


def _copy(bundle: Bundle, to: Path) -> None:
    """The files of the manifest, engines and tables; nothing else that may lie in the directory."""
    for name in (MARKER, SEAL, *bundle.files):
        (to / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(bundle.path / name, to / name)
    for folder in ("engines", "latency"):
        if (bundle.path / folder).is_dir():
            shutil.copytree(bundle.path / folder, to / folder, ignore=shutil.ignore_patterns(".*"))
