"""The shipped tasks are what the tool makes of the shipped text, and say what they claim."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from flextron_export.training.corpus import read_text, split
from tools import make_tasks


def items(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_the_tool_makes_the_files_that_are_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["make_tasks.py", "--output", str(tmp_path)])
    make_tasks.main()
    for name in ("last_word.jsonl", "continuation.jsonl"):
        assert (tmp_path / name).read_bytes() == (make_tasks.OUT / name).read_bytes()


def test_items_come_from_held_out_chapters_and_have_their_answers() -> None:
    held_out = [" ".join(make_tasks.sentences(d)) for d in split(read_text([make_tasks.TEXT]))[1]]
    for item in items(make_tasks.OUT / "last_word.jsonl"):
        assert any(f"{item['context']} {item['word']}" in d for d in held_out)
        assert item["word"] in item["context"].lower()
    labels = []
    for item in items(make_tasks.OUT / "continuation.jsonl"):
        right = item["choices"][item["label"]]
        assert any(f"{item['context']} {right}" in d for d in held_out)
        assert len(set(item["choices"])) == 4
        labels.append(item["label"])
    assert min(labels.count(i) for i in range(4)) > len(labels) / 8, "no place is favoured"
