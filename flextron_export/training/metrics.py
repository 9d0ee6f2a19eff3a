"""Numbers of a training run for TensorBoard."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

from ..errors import MissingDependencyError
from ..files import check_writable


class Metrics(Protocol):
    """Called after a step with its number (from 1) and its values by name."""

    def __call__(self, step: int, values: Mapping[str, float], /) -> None: ...


@contextmanager
def tensorboard(directory: str | Path | None, start: int = 0) -> Iterator[Metrics]:
    """Yield what writes event files that TensorBoard shows; with None, what does nothing.

    Args:
        start: steps done before: what an interrupted run wrote beyond them is not shown.

    Raises:
        InputError: the directory cannot be written.
        MissingDependencyError: tensorboard is not installed.
    """
    if directory is None:
        yield lambda step, values, /: None
        return
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise MissingDependencyError(
            f"TensorBoard files cannot be written: {error}.", fix="pip install 'flextron-export[train]'"
        ) from error
    check_writable(Path(directory), directory=True)
    with SummaryWriter(str(directory), purge_step=start + 1 if start else None) as writer:

        def write(step: int, values: Mapping[str, float], /) -> None:
            for name, value in values.items():
                writer.add_scalar(name, value, step)

        yield write
