"""Cores this process may use."""

from __future__ import annotations

import os


def usable_cores() -> int:
    """All cores where the system cannot tell which of them this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
