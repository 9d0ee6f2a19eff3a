"""The verb `build`: compile a bundle for a target."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..bundle.manifest import Bundle
from ..errors import InputError
from ..progress import Track, silent
from . import get_target, settle


def build(
    bundle: str | Path,
    target: str,
    *,
    layout: str | None = None,
    dtype: str | None = None,
    sm: tuple[int, ...] = (),
    track: Track = silent,
    **limits: Any,
) -> dict[str, Any]:
    """Compile a bundle for a target; the result goes to `engines/<target>/`.

    Args:
        bundle: a bundle directory; its files are verified first.
        target: one of `TARGETS`.
        layout, dtype: if None, the target's own or else what was exported.
        sm: compute capabilities such as 86 or 120; only TensorRT-RTX builds for devices that are not there.
        limits: what the target allows further (TensorRT: `capacity`, `max_batch`, `max_length`).

    Returns:
        The record that was written as `engine.json`.

    Raises:
        TargetError: the target refuses the combination or the compilation failed.
        MissingDependencyError: the target's library is not installed.
    """
    found = get_target(target)
    opened = Bundle.open(bundle)
    if sm and not found.AHEAD_OF_TIME:
        raise InputError(
            f"Target {target} takes no compute capabilities.",
            cause="it compiles for the device it runs on",
            fix="leave out --sm",
        )
    layout, dtype = settle(target, opened, layout, dtype)
    return found.build(opened, layout=layout, dtype=dtype, track=track, **({"sm": sm} if sm else {}), **limits)
