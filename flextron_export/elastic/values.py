"""What values out of a JSON file may be."""

from __future__ import annotations

from typing import Any


def number(value: Any) -> bool:
    """Whether it is a finite number."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < 1e30


def positive(value: Any) -> bool:
    """Whether it is a positive integer."""
    return isinstance(value, int) and not isinstance(value, bool) and value > 0
