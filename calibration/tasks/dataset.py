"""The data of the task files beside this one, wherever lm-evaluation-harness is started."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from datasets import Dataset


def last_word(**_: Any) -> dict[str, Dataset]:
    """Passages (`context`) and their last word (`word`)."""
    return _read("last_word")


def continuation(**_: Any) -> dict[str, Dataset]:
    """Two sentences (`context`), four that might follow (`choices`), and the place of the one that does (`label`)."""
    return _read("continuation")


def _read(name: str) -> dict[str, Dataset]:
    lines = (Path(__file__).parent / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()
    return {"test": Dataset.from_list([json.loads(line) for line in lines])}
