"""Perplexity of a text: every token is predicted once, from the window it is in."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

from flextron_export.elastic.model import load_model, masked
from flextron_export.errors import InputError
from flextron_export.evaluation.perplexity import Text, perplexity
from flextron_export.evaluation.subject import Subject
from flextron_export.runtime.tokenizer import Tokenizer


@pytest.fixture
def tokenizer(evaluated: Path) -> Tokenizer:
    return Tokenizer(evaluated / "bundle")


@pytest.mark.parametrize(("length", "stride"), [(16, 16), (16, 5), (256, 256), (256, 1), (1, 1)])
@pytest.mark.parametrize("tokens", [2, 16, 17, 18, 100])
def test_every_token_but_the_first_is_a_target_once(tokens: int, length: int, stride: int) -> None:
    text = Text(np.arange(tokens, dtype=np.int32), tokens, length, stride)
    requests = list(text.requests())
    assert len(requests) == text.windows
    assert [t for r in requests for t in r.targets] == list(range(1, tokens))
    for r in requests:
        assert len(r.ids) <= length and r.ids[-1] == r.targets[-1] - 1
        assert list(r.ids) == list(range(r.ids[0], r.ids[-1] + 1))
    if stride < length:  # all but the first window have context
        assert all(len(r.targets) <= stride for r in requests[1:])


def test_it_is_the_mean_over_the_windows(
    evaluated: Path, tiny_text: Path, tokenizer: Tokenizer, torch_subject: Subject, bundle_subject: Subject
) -> None:
    import torch

    text = Text.read([tiny_text], tokenizer, 256, length=64, limit=640)
    assert len(text.tokens) == 641
    model = load_model(evaluated / "checkpoint")
    total = 0.0
    with torch.inference_mode(), masked(model, torch_subject.architecture, torch_subject.budget("tapered")):
        for start in range(0, 640, 64):
            window = torch.from_numpy(text.tokens[start : start + 65].astype(np.int64))
            logits = model(window[None, :-1]).logits[0]
            total += torch.nn.functional.cross_entropy(logits, window[1:], reduction="sum").item()
    for scored in (torch_subject, bundle_subject):
        found = perplexity(scored, scored.budget("tapered"), text)
        assert found.tokens == 640
        assert found.nats_per_token == pytest.approx(total / 640, abs=1e-4)
        assert found.perplexity == pytest.approx(math.exp(total / 640), rel=1e-3)
        # One token is one byte here, but for the ends of documents.
        assert found.bits_per_byte == pytest.approx(found.nats_per_token / math.log(2), rel=0.01)


def test_documents_end_with_the_end_of_the_text(tokenizer: Tokenizer, tmp_path: Path) -> None:
    file = tmp_path / "text.txt"
    file.write_text("ab\n\ncd")
    text = Text.read([file], tokenizer, 256)
    (end,) = tokenizer.eos
    assert text.tokens.tolist() == [*tokenizer.encode("ab"), end, *tokenizer.encode("cd"), end]
    assert text.bytes == 4 and text.length == 256


def test_no_more_of_a_text_is_read_than_is_predicted(tokenizer: Tokenizer, tmp_path: Path) -> None:
    file = tmp_path / "text.jsonl"
    file.write_text('{"body": "ab"}\n{"body": "cd"}\nno JSON')
    text = Text.read([file], tokenizer, 256, limit=4, field="body")
    (end,) = tokenizer.eos
    assert text.tokens.tolist() == [*tokenizer.encode("ab"), end, *tokenizer.encode("cd")]
    with pytest.raises(InputError):
        Text.read([file], tokenizer, 256, limit=40, field="body")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"length": 257}, "use a --length from 1 to 256"),
        ({"length": 0}, "Windows of 0 tokens"),
        ({"length": 16, "stride": 17}, "leaves tokens out"),
        ({"limit": 0}, "nothing to predict"),
    ],
)
def test_settings_that_make_no_sense_are_refused(
    tokenizer: Tokenizer, tiny_text: Path, options: dict[str, int], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        Text.read([tiny_text], tokenizer, 256, **options)
