"""A checkpoint in torch and its bundle on ONNX Runtime give the log-likelihoods that transformers gives."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from flextron_export.elastic.model import load_model, masked
from flextron_export.errors import FlextronError, InputError
from flextron_export.evaluation import scoring, subject
from flextron_export.evaluation.scoring import Request, score
from flextron_export.evaluation.subject import Subject, open_subject

RANDOM = np.random.default_rng(0)


def request(length: int, targets: int) -> Request:
    return Request(*(tuple(map(int, RANDOM.integers(0, 260, n))) for n in (length, targets)))


REQUESTS = [request(40, 3), request(7, 7), request(1, 1), request(256, 20), request(40, 1)]
REQUESTS.append(Request(REQUESTS[0].ids, (*REQUESTS[0].targets[::-1], 5, 6)))
"""The last reads what the first reads, and asks for more."""


def by_transformers(model: Any, one: Request) -> tuple[np.ndarray, np.ndarray]:
    import torch

    with torch.inference_mode():
        logits = model(torch.tensor([one.ids])).logits[0, -len(one.targets) :]
    best = logits.argmax(-1).numpy()
    return logits.log_softmax(-1)[range(len(one.targets)), one.targets].numpy(), best == np.array(one.targets)


@pytest.mark.parametrize("budget", ["full", "crossed"])
@pytest.mark.parametrize("batch", [None, 1, 3])
def test_scores_are_those_of_transformers(
    evaluated: Path, torch_subject: Subject, bundle_subject: Subject, budget: str, batch: int | None
) -> None:
    model = load_model(evaluated / "checkpoint")
    with masked(model, torch_subject.architecture, torch_subject.budget(budget)):
        expected = [by_transformers(model, one) for one in REQUESTS]
    for scored in (torch_subject, bundle_subject):
        found = dict(score(scored, scored.budget(budget), REQUESTS, batch=batch))
        assert sorted(found) == list(range(len(REQUESTS)))
        for i, (values, greedy) in enumerate(expected):
            np.testing.assert_allclose(found[i].log_likelihoods, values, atol=2e-4)
            assert (found[i].greedy == greedy).all()


def test_small_calls_give_the_same(
    torch_subject: Subject, bundle_subject: Subject, monkeypatch: pytest.MonkeyPatch
) -> None:
    def scores() -> list[np.ndarray]:
        found = [dict(score(s, s.budget("tapered"), REQUESTS, batch=4)) for s in (torch_subject, bundle_subject)]
        return [f[i].log_likelihoods for f in found for i in range(len(REQUESTS))]

    large = scores()
    monkeypatch.setattr(subject, "LOGITS_PER_CALL", 260 * 9)  # 9 rows, so pieces of two tokens
    monkeypatch.setattr("flextron_export.evaluation.torch_subject.LOGITS_PER_CALL", 260 * 9)
    for one, other in zip(scores(), large, strict=True):
        np.testing.assert_allclose(one, other, atol=2e-4)


def test_equal_inputs_are_read_once_and_the_longest_first(
    torch_subject: Subject, monkeypatch: pytest.MonkeyPatch
) -> None:
    shapes = []
    inner = torch_subject.log_likelihoods

    def count(budget: Any, ids: np.ndarray, rows: np.ndarray, *rest: np.ndarray) -> Any:
        shapes.append((*ids.shape, len(rows)))
        return inner(budget, ids, rows, *rest)

    monkeypatch.setattr(torch_subject, "log_likelihoods", count)
    list(score(torch_subject, torch_subject.budget("full"), REQUESTS, batch=2))
    # 256 with 40, whose five targets include those of the shorter request; then the other 40 with 7; then 1.
    assert shapes == [(2, 256, 25), (2, 40, 8), (1, 1, 1)]


def test_a_target_that_takes_few_sequences_gets_few(torch_subject: Subject, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch_subject, "max_batch", 2)
    sizes = []
    inner = torch_subject.log_likelihoods
    monkeypatch.setattr(
        torch_subject, "log_likelihoods", lambda b, ids, *rest: (sizes.append(len(ids)), inner(b, ids, *rest))[1]
    )
    found = dict(score(torch_subject, torch_subject.budget("small"), REQUESTS))
    assert max(sizes) == 2 and len(found) == len(REQUESTS)


@pytest.mark.parametrize("budget", ["full", "tapered"])
def test_continuations_of_different_lengths_are_those_of_each_alone(
    evaluated: Path, torch_subject: Subject, bundle_subject: Subject, budget: str
) -> None:
    import torch

    model = load_model(evaluated / "checkpoint")
    contexts = [list(map(int, RANDOM.integers(0, 260, n))) for n in (9, 1, 70)]
    tokens = RANDOM.integers(0, 260, (4, 3))
    for scored in (torch_subject, bundle_subject):
        running = scored.continuation(scored.budget(budget), contexts, 74)
        for step in range(5):
            for b, context in enumerate(contexts):
                ids = [*context, *map(int, tokens[:step, b])]
                with torch.inference_mode(), masked(model, scored.architecture, scored.budget(budget)):
                    expected = model(torch.tensor([ids])).logits[0, -1].numpy()
                np.testing.assert_allclose(running.logits[b], expected, atol=3e-4)
            if step < 4:
                running.push(tokens[step])


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (Request((1,) * 257, (1,)), "257 tokens, but the model holds 256"),
        (Request((1, 260), (1,)), "token 260 is outside the vocabulary of 260"),
        (Request((1,), (1, 2)), "2 targets after 1 tokens"),
    ],
)
def test_requests_that_cannot_be_scored_are_refused(torch_subject: Subject, bad: Request, message: str) -> None:
    with pytest.raises(InputError, match=message):
        list(score(torch_subject, torch_subject.budget("full"), [REQUESTS[0], bad]))


def test_what_is_no_number_is_an_error(torch_subject: Subject, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        torch_subject, "log_likelihoods", lambda b, ids, rows, which, t: (np.full(len(which), np.nan), rows)
    )
    with pytest.raises(FlextronError, match="not finite numbers"):
        list(score(torch_subject, torch_subject.budget("full"), REQUESTS))


def test_options_of_the_other_kind_are_refused_by_name(evaluated: Path) -> None:
    with pytest.raises(InputError, match="--target onnxruntime-cpu; --layout panels"):
        open_subject(evaluated / "checkpoint", target="onnxruntime-cpu", layout="panels")
    with pytest.raises(InputError, match="not on the torch device 'cpu'"):
        open_subject(evaluated / "bundle", device="cpu")
    with pytest.raises(InputError, match="There is no directory"):
        open_subject(evaluated / "nothing")


def test_the_largest_batch_is_bounded() -> None:
    assert scoring.LARGEST_BATCH * 16 <= subject.TOKENS_PER_CALL
