"""Tokenising, packing and drawing batches."""

from __future__ import annotations

from itertools import islice
from pathlib import Path

import numpy as np
import pytest

from flextron_export.errors import CheckpointError, InputError
from flextron_export.training.data import batches, load_tokenizer, pack, spread
from flextron_export.training.tiny import byte_tokenizer


def test_documents_are_joined_and_cut_into_sequences() -> None:
    tokens = pack(["abcd", "efg"], byte_tokenizer(), 3, 260, end=0)
    assert tokens.dtype == np.int64 and tokens.shape == (3, 3)
    assert byte_tokenizer().decode(tokens.reshape(-1).tolist()) == "abcdefg"
    assert [tokens[1, 1], tokens[2, 2]] == [0, 0]


def test_a_short_text_is_refused_with_the_numbers() -> None:
    with pytest.raises(InputError, match="it has 5 tokens, one sequence needs 128"):
        pack(["short"], byte_tokenizer(), 128, 260)
    with pytest.raises(InputError, match="it has 8 tokens, one training sequence needs 9"):
        next(batches(np.zeros((1, 8), np.int64), 1, 8, 0))


def test_tokens_that_the_model_does_not_know_are_refused() -> None:
    with pytest.raises(InputError, match="knows only 50 tokens"):
        pack(["some text"], byte_tokenizer(), 4, 50)


def test_batches_are_windows_of_the_text_and_depend_on_the_seed_only() -> None:
    tokens = np.arange(100).reshape(10, 10)
    first = [list(islice(batches(tokens, 4, 7, seed), 5)) for seed in (3, 3, 4)]
    assert np.array_equal(first[0], first[1]) and not np.array_equal(first[0], first[2])
    assert first[0][0].shape == (4, 8)
    assert (np.diff(first[0][0], axis=1) == 1).all()
    assert max(b.max() for b in islice(batches(tokens, 4, 7, 0), 200)) == 99, "the last token is drawn too"


def test_spread_takes_sequences_from_the_whole_text() -> None:
    tokens = np.arange(20).reshape(10, 2)
    assert spread(tokens, 3)[:, 0].tolist() == [0, 8, 18]
    assert spread(tokens, 99) is tokens


def test_truncation_and_padding_of_the_file_change_no_text(tmp_path: Path) -> None:
    tokenizer = byte_tokenizer()
    tokenizer.enable_truncation(3)
    tokenizer.enable_padding(length=50)
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    loaded = load_tokenizer(tmp_path)
    assert loaded.decode(pack(["abcdef", "gh"], loaded, 8, 260).reshape(-1).tolist()) == "abcdefgh"


def test_a_model_without_tokenizer_or_with_a_damaged_one_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"no tokenizer\.json"):
        load_tokenizer(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{")
    with pytest.raises(CheckpointError, match="damaged"):
        load_tokenizer(tmp_path)
