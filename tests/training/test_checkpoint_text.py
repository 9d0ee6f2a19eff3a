"""The text for routers and the search: the documents that elastify held out stay held out."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from flextron_export.elastic.architecture import read_config
from flextron_export.elastic.checkpoint import ElasticCheckpoint
from flextron_export.errors import InputError
from flextron_export.training.checkpoint_text import checkpoint_text
from flextron_export.training.corpus import read_text, split
from flextron_export.training.data import load_tokenizer, pack


@pytest.mark.parametrize("seed", [0, 7])
def test_the_split_is_that_of_elastify_whatever_the_format(
    seed: int, tiny_checkpoint: Path, tiny_text: Path, tmp_path: Path
) -> None:
    opened = ElasticCheckpoint.open(tiny_checkpoint)
    opened = replace(opened, training={**opened.training, "seed": seed})
    end = read_config(tiny_checkpoint)["eos_token_id"]
    tokenizer = load_tokenizer(tiny_checkpoint)
    train, held_out = (
        pack(side, tokenizer, 32, opened.architecture.vocab_size, end)
        for side in split(read_text([tiny_text]), seed=seed)
    )
    lines = tmp_path / "text.jsonl"
    lines.write_text("".join(json.dumps({"body": d}) + "\n" for d in read_text([tiny_text])))
    for source, field in ((tiny_text, "text"), (lines, "body")):
        data = checkpoint_text(opened, [source], tmp_path / "tokens", length=32, field=field)
        np.testing.assert_array_equal(data.train, train)
        np.testing.assert_array_equal(data.validation, held_out)
    with pytest.raises(InputError, match="no text in the field 'text'"):
        checkpoint_text(opened, [lines], tmp_path / "other", length=32)
