"""Cores this process may use, and how many threads it may be asked for."""

from __future__ import annotations

import os

from ..errors import InputError

MOST_THREADS = 1024
"""More are a mistake, and some thousands end the process: thread pools start all they are asked for."""


def usable_cores() -> int:
    """All cores where the system cannot tell which of them this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def check_threads(threads: int | None) -> None:
    """Raise InputError if it is neither None nor a number of threads that a machine can start."""
    if threads is not None and not 1 <= threads <= MOST_THREADS:
        raise InputError(
            f"{threads} threads cannot run anything.", fix=f"use --threads from 1 to {MOST_THREADS}, or leave it out"
        )
