"""TensorRT's timing cache: measured kernels are kept for the next build, by release and device.

A cache of another release or device would be refused by TensorRT, or worse, believed: so each has a file of its own in
the user's cache directory.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from ...errors import FlextronError
from ...files import user_cache, write_bytes

log = logging.getLogger(__name__)


def timing_cache_path(module: str, version: str, sm: int) -> Path:
    """Where the timings of a release on a device are kept."""
    return user_cache() / "timing" / f"{module}-{version}-sm{sm}.cache"


def use_timing_cache(config: Any, path: Path) -> None:
    """Give a builder configuration the timings kept there, or none if there are none that it takes."""
    try:
        kept = path.read_bytes()
    except OSError:
        kept = b""
    # A damaged file makes no cache, and one that does not fit is not set: then start with an empty one.
    for content in (kept, b""):
        cache = config.create_timing_cache(content)
        if cache is not None and config.set_timing_cache(cache, False):
            return


def keep_timing_cache(config: Any, path: Path) -> None:
    """Keep what a build measured; a place that cannot be written costs the next build its time and nothing else."""
    cache = config.get_timing_cache()
    if cache is None:
        return
    try:
        write_bytes(path, bytes(memoryview(cache.serialize())))
    except FlextronError as error:
        log.warning("The timing cache was not kept: %s", error.what)
