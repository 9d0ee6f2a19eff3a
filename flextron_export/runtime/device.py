"""What this device is, as far as latency depends on it. A latency table holds for one such fingerprint."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import re
from pathlib import Path
from typing import Any

from ..targets import get_target
from ..targets.cores import usable_cores


def fingerprint(target: str, threads: int | None = None, *, low_memory: bool = False) -> dict[str, Any]:
    """Describe this device for a target.

    Args:
        target: its libraries, and its GPU if it has one, are part of the description.
        threads: the setting; None means one per usable core.
        low_memory: whether weights stay mapped, which is slower.

    Returns:
        A JSON object; `id` is stable as long as nothing else in it changes, and fit for a file name.

    Raises:
        InputError: there is no such target.
        MissingDependencyError: the target's library is not installed.
    """
    found = get_target(target)
    cores = usable_cores()
    device: dict[str, Any] = {
        "cpu": cpu_model(),
        "architecture": platform.machine(),
        "cores": cores,
        "cpu_quota": _cpu_quota(),
        "memory_gib": _memory_gib(),
        "power_mode": _first_line("/var/lib/nvpmodel/status"),
        "threads": threads or cores,
        "low_memory": low_memory or None,
        "libraries": found.versions(),
    }
    device = {k: v for k, v in {**device, **found.device()}.items() if v is not None}
    digest = hashlib.sha256(json.dumps(device, sort_keys=True).encode()).hexdigest()[:8]
    return {"id": f"{_slug(device.get('gpu') or device['cpu'])}-{digest}", **device}


def cpu_model() -> str:
    """Marketing name of the processor; on boards with a device tree, the board's name, which says more."""
    if board := _first_line("/proc/device-tree/model"):
        return board
    try:
        found = re.search(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    except OSError:
        found = None
    return found.group(1).strip() if found else platform.processor() or platform.machine() or "unknown"


def _memory_gib() -> int | None:
    # Rounded: the exact number changes with every kernel.
    try:
        return round(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30)
    except (ValueError, OSError, AttributeError):
        return None


def _cpu_quota() -> float | None:
    """Cores that a container may use in time, where that is limited."""
    quota, _, period = (_first_line("/sys/fs/cgroup/cpu.max") or "max").partition(" ")
    return round(int(quota) / int(period), 2) if quota.isdigit() and period.isdigit() else None


def _first_line(path: str) -> str | None:
    try:
        return Path(path).read_text(errors="replace").strip("\0\n ").splitlines()[0] or None
    except (OSError, IndexError):
        return None


def _slug(name: str) -> str:
    name = re.sub(r"\((R|TM|C)\)|\b(CPU|Processor)\b|@.*", " ", name, flags=re.IGNORECASE)
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")[:40].strip("-") or "unknown"
