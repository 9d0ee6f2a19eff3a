"""Losses of sub-networks on disk, each as it is computed: what a killed search goes on from."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ..elastic.widths import Budget
from ..errors import InputError, problems
from ..files import MALFORMED

Widths = tuple[tuple[int, int], ...]


@contextmanager
def journalled(
    loss: Callable[[Budget], float], path: Path, about: Mapping[str, Any]
) -> Iterator[Callable[[Budget], float]]:
    """Within the block, `loss` with a memory in a file: what the file holds is not computed again.

    As a search is deterministic, one that finds its own losses there takes the same way as before.

    Args:
        path: lines of JSON: first what the losses depend on, then groups and neurons of every layer with the loss. A
            last line that a kill or a full disk cut off does not count.
        about: what the losses depend on (JSON).

    Raises:
        InputError: the losses in the file depend on something else, it is damaged, or it cannot be written.
    """
    known = _read(path, about)
    with path.open("a", encoding="utf-8") as file:

        def append(value: Any) -> None:
            try:
                file.write(json.dumps(value) + "\n")
                file.flush()
            except OSError as error:
                raise InputError(
                    f"{path} cannot be written: {error.strerror}; the losses before are kept.",
                    fix="free some space and go on with --resume, or pass another directory to --work",
                ) from error

        if not file.tell():
            append(about)

        def remembered(budget: Budget) -> float:
            widths = tuple((w.groups, w.neurons) for w in budget.layers)
            if widths not in known:
                known[widths] = loss(budget)
                append([widths, known[widths]])
            return known[widths]

        yield remembered


def _read(path: Path, about: Mapping[str, Any]) -> dict[Widths, float]:
    """Losses by widths; the file is cut after its last whole line."""
    if not path.exists():
        return {}
    try:
        content = path.read_bytes()
        whole = content[: content.rfind(b"\n") + 1]
        lines = [json.loads(line) for line in whole.splitlines()]
        before = dict(lines[0]) if lines else {}
        known = {tuple((int(g), int(n)) for g, n in widths): float(value) for widths, value in lines[1:]}
        if len(whole) < len(content):
            path.write_bytes(whole)
    except (OSError, *MALFORMED) as error:
        raise InputError(f"{path} is damaged: {type(error).__name__} {error}.", fix=f"remove {path}") from error
    if lines:
        problems(
            InputError,
            f"the losses in {path} are of something else",
            [
                f"{name} was {before.get(name)!r} and is {value!r}"
                for name, value in about.items()
                if before.get(name) != value
            ],
            fix="pass what the search was started with, or start anew without --resume",
        )
    return known
