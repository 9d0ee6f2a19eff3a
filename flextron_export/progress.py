"""How long work reports progress: a function that wraps an iteration. Only the command line draws bars."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Protocol, TypeVar

T = TypeVar("T")


class Track(Protocol):
    """`track(items, description)` yields the items and shows how far the iteration is; `rich.progress.track` is one."""

    def __call__(self, items: Collection[T], description: str, /) -> Iterable[T]: ...


def silent(items: Collection[T], description: str, /) -> Iterable[T]:
    """Show nothing."""
    return items
