"""Training the demo's base model."""

from __future__ import annotations

from pathlib import Path

import pytest

from flextron_export.elastic.checkpoint import ModelWeights
from flextron_export.elastic.tensors import tensor_specs
from flextron_export.elastic.widths import full_budget
from flextron_export.training.data import load_tokenizer
from flextron_export.training.pretrain import pretrain, train_tokenizer


@pytest.fixture(scope="module")
def tiny_pretrained(tiny_text: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("pretrain") / "model"
    return pretrain([tiny_text], out, tokens=64, batch=2, length=16, threads=1, progress=False)


def test_it_writes_a_model_that_can_be_made_elastic(tiny_pretrained: Path) -> None:
    from transformers import AutoModelForCausalLM

    from flextron_export.elastic.architecture import Architecture, read_config

    architecture = Architecture.from_config(read_config(tiny_pretrained))
    ModelWeights(tiny_pretrained).check(tensor_specs(architecture))
    assert full_budget(architecture).parameters(architecture) >= 5_000_000
    AutoModelForCausalLM.from_pretrained(tiny_pretrained)


def test_its_tokenizer_encodes_any_text(tiny_pretrained: Path) -> None:
    tokenizer = load_tokenizer(tiny_pretrained)
    for text in ("the king went", "Ünïcode, 中文 and \n\n\ttabs", ""):
        assert tokenizer.decode(tokenizer.encode(text).ids) == text


def test_the_vocabulary_has_at_most_the_size_asked_for() -> None:
    assert train_tokenizer(["some words and some more words"] * 3, vocabulary=260).get_vocab_size() == 260
