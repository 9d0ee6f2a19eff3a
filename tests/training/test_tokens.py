"""Tokens on disk equal those in memory, whatever the text, and need no memory that grows with it."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flextron_export.errors import InputError
from flextron_export.training import sources
from flextron_export.training.corpus import read_text, split
from flextron_export.training.data import pack
from flextron_export.training.tiny import byte_tokenizer
from flextron_export.training.tokens import Tokens, tokenise

ROOT = Path(__file__).parents[2]
OPTIONS: dict[str, Any] = {"length": 4, "vocab_size": 260, "end": 0, "seed": 0}


def stream(text: Path, directory: Path, **options: Any) -> Tokens:
    return tokenise([text], byte_tokenizer(), directory / "tokens", **{**OPTIONS, **options})


@settings(deadline=None)  # it writes files
@given(
    documents=st.lists(st.text("ab ž", min_size=1, max_size=30).filter(str.strip), min_size=2, max_size=30).filter(
        lambda found: len({d.strip() for d in found}) > 1
    ),
    seed=st.integers(0, 3),
    end=st.sampled_from([0, None]),
)
def test_they_are_those_of_packing_in_memory(
    tmp_path_factory: pytest.TempPathFactory, documents: list[str], seed: int, end: int | None
) -> None:
    directory = tmp_path_factory.mktemp("tokens")
    text = directory / "text.txt"
    text.write_text("\n\n".join(documents), encoding="utf-8")
    sides = split(read_text([text]), seed=seed)
    try:
        expected = [pack(side, byte_tokenizer(), 4, 260, end) for side in sides]
    except InputError:
        with pytest.raises(InputError, match="too short"):
            stream(text, directory, seed=seed, end=end)
        return
    tokens = stream(text, directory, seed=seed, end=end)
    assert np.array_equal(tokens.train, expected[0]) and np.array_equal(tokens.validation, expected[1])


def test_a_single_document_is_cut_into_pieces_as_in_memory(tmp_path: Path) -> None:
    text = tmp_path / "text.txt"
    text.write_text("\n".join(f"line {i}" for i in range(200)))
    training, held_out = split(read_text([text]))
    tokens = stream(text, tmp_path)
    assert np.array_equal(tokens.train, pack(training, byte_tokenizer(), 4, 260, 0))
    assert np.array_equal(tokens.validation, pack(held_out, byte_tokenizer(), 4, 260, 0))


def test_a_twentieth_of_a_single_document_too_long_for_memory_is_held_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sources, "LONGEST", 2000)
    text = tmp_path / "text.txt"
    text.write_text(" ".join(f"word{i}" for i in range(1000)))
    tokens = stream(text, tmp_path)
    assert 0.03 < tokens.validation.size / (tokens.train.size + tokens.validation.size) < 0.07
    words = [
        set(byte_tokenizer().decode(side.flatten().tolist()).split()) for side in (tokens.train, tokens.validation)
    ]
    assert len(words[0] & words[1]) <= 2, "only where a sequence boundary cut a word in two"


def test_a_long_document_stays_on_one_side(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources, "LONGEST", 100)
    text = tmp_path / "text.txt"
    text.write_text("\n\n".join(" ".join([letter * 3] * 100) for letter in "abcdefgh"))
    tokens = stream(text, tmp_path, length=1)
    sides = [
        set(byte_tokenizer().decode(side.flatten().tolist())) - {" "} for side in (tokens.train, tokens.validation)
    ]
    assert len(sides[0]) == 7 and len(sides[1]) == 1 and not sides[0] & sides[1]


def test_tokens_are_made_once(tmp_path: Path) -> None:
    text = tmp_path / "text.txt"
    text.write_text("\n\n".join(f"document {i}" for i in range(30)))
    first = stream(text, tmp_path)
    made = (tmp_path / "tokens" / "train").stat().st_mtime_ns
    assert stream(text, tmp_path).sha256 == first.sha256
    assert (tmp_path / "tokens" / "train").stat().st_mtime_ns == made
    assert stream(text, tmp_path, seed=5).sha256 != first.sha256
    os.truncate(tmp_path / "tokens" / "train", 4)
    assert stream(text, tmp_path).sha256 == first.sha256, "damaged tokens are made again"
    text.write_text("one document\n\nand another")
    assert stream(text, tmp_path).sha256 != first.sha256


def test_a_data_set_that_changed_is_read_again(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    source = f"dataset:{tmp_path / 'data'}"
    hashes = []
    for word in ("old", "new"):
        datasets.Dataset.from_dict({"text": [f"{word} {i}" for i in range(30)]}).save_to_disk(tmp_path / "data")
        hashes.append(tokenise([source], byte_tokenizer(), tmp_path / "tokens", **OPTIONS).sha256)
    assert hashes[0] != hashes[1]


def test_large_vocabularies_take_four_bytes(tmp_path: Path) -> None:
    text = tmp_path / "text.txt"
    text.write_text("one document\n\nand another")
    assert stream(text, tmp_path).train.dtype == np.uint16
    wide = stream(text, tmp_path, vocab_size=100_000, seed=1)
    assert wide.train.dtype == np.uint32
    assert np.array_equal(wide.train, stream(text, tmp_path / "narrow", seed=1).train)


def test_unknown_tokens_and_short_texts_leave_nothing_behind(tmp_path: Path) -> None:
    text = tmp_path / "text.txt"
    text.write_text("one document\n\nand another")
    with pytest.raises(InputError, match="knows only 50 tokens"):
        stream(text, tmp_path, vocab_size=50)
    with pytest.raises(InputError, match="one sequence needs 99"):
        stream(text, tmp_path, length=99)
    assert list(tmp_path.iterdir()) == [text]


def test_a_full_disk_is_said_to_be_full(tmp_path: Path, small_disk: Callable[[int], Path]) -> None:
    text = tmp_path / "text.txt"
    text.write_text("\n\n".join(f"document {i} " * 50 for i in range(300)))
    disk = small_disk(100)
    with pytest.raises(InputError, match="disk is full"):
        stream(text, disk)
    assert list(disk.iterdir()) == []


STREAM = """
import resource, sys
from pathlib import Path
from flextron_export.training.tokens import tokenise
from flextron_export.training.tiny import byte_tokenizer
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
tokens = tokenise([sys.argv[1]], byte_tokenizer(), sys.argv[2], length=128, vocab_size=260, end=0, seed=0)
after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
print(tokens.train.size, (after - before) // 1024)
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("separator", "count"), [("\n\n", 90_000), (" ", 8_000)], ids=["documents, 200 MB", "one document, 20 MB"]
)
def test_a_large_text_is_read_in_little_memory(tmp_path: Path, separator: str, count: int) -> None:
    draw, words = random.Random(0), [f"word{i}" for i in range(5000)]
    text = tmp_path / "text.txt"
    with text.open("w") as file:
        for _ in range(count):
            file.write(" ".join(draw.choices(words, k=300)) + " " + str(draw.random()) + separator)
    size = text.stat().st_size
    assert size > 2300 * count
    done = subprocess.run(
        [sys.executable, "-c", STREAM, str(text), str(tmp_path / "tokens")],
        env={**os.environ, "PYTHONPATH": str(ROOT), "TOKENIZERS_PARALLELISM": "false"},
        capture_output=True,
        text=True,
        check=True,
    )
    tokens, megabytes = map(int, done.stdout.split())
    assert tokens > 0.9 * size
    assert megabytes < 60, f"{size / 1e6:.0f} MB of text took {megabytes} MB"
