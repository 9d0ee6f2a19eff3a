"""A batch of unequal prompts: every answer is what the prompt gives alone."""

import numpy as np
import pytest

from flextron_export import Runner
from flextron_export.errors import InputError
from flextron_export.runtime.batch import LiveBatch
from flextron_export.runtime.sequence import LiveSequence
from tests.random_bundle import MAX_POSITIONS

PROMPTS = [[5, 6, 7], list(range(1, 90)), [200], [9] * 40, list(range(50, 120))]


@pytest.fixture(params=["panels", "shared", "per-budget"])
def runner(request, pristine):
    with Runner(pristine, layout=request.param, threads=1, budget="p59") as runner:
        yield runner


@pytest.fixture(scope="module")
def plain(pristine):
    with Runner(pristine, threads=1) as runner:
        yield runner


@pytest.mark.parametrize("chunk", [1, 16, 1000])
def test_logits_of_every_sequence_are_those_it_has_alone(runner, chunk):
    budget = runner.selection.budget
    batch = LiveBatch(runner._session.get(), budget, len(PROMPTS), MAX_POSITIONS, chunk=chunk)
    alone = [LiveSequence(runner._session.get(), budget, MAX_POSITIONS) for _ in PROMPTS]
    found = batch.prefill(PROMPTS, lambda: None)
    wanted = np.stack([s.prefill(p).copy() for s, p in zip(alone, PROMPTS, strict=True)])
    np.testing.assert_allclose(found, wanted, atol=1e-4)
    for step in range(45):  # the cache grows on the way
        tokens = [(step * 7 + i) % 250 for i in range(len(alone))]
        found = batch.decode(tokens)
        wanted = np.stack([s.decode(t).copy() for s, t in zip(alone, tokens, strict=True)])
        np.testing.assert_allclose(found, wanted, atol=1e-4)
        if step == 30:
            batch.keep([3, 0])
            alone = [alone[3], alone[0]]


@pytest.mark.parametrize("options", [{}, {"temperature": 1.0, "top_p": 0.9, "seed": 4, "repetition_penalty": 1.2}])
def test_answers_are_those_of_each_prompt_alone(plain, options):
    answers = plain.generate_batch(PROMPTS, 40, stop_on_eos=False, logprobs=1, **options)
    assert plain.timings.tokens == 40 and len(plain.timings.token_ms) == 39
    for prompt, answer in zip(PROMPTS, answers, strict=True):
        alone = plain.generate(prompt, 40, stop_on_eos=False, logprobs=1, **options)
        assert alone.read() == answer.text and list(alone.tokens) == answer.tokens
        assert [e.logprob for e in answer.logprobs] == pytest.approx([e.logprob for e in alone.logprobs], abs=1e-4)


def test_sequences_end_for_reasons_of_their_own(plain):
    long = [7] * (MAX_POSITIONS - 5)
    text = plain.generate([5, 6, 7], 20, stop_on_eos=False).read()
    answers = plain.generate_batch([[5, 6, 7], long, [200]], 20, stop=[text[4:7]], stop_on_eos=False)
    assert answers[0].stopped_by == "stop" and answers[0].text == text[: text.index(text[4:7])]
    assert answers[1].stopped_by == "context" and len(answers[1].tokens) == 6
    assert answers[2].stopped_by == "length" and len(answers[2].tokens) == 20
    assert answers[2].tokens == list(plain.generate_ids([200], 20, stop_on_eos=False))


def test_prompts_that_cannot_be_used_are_refused(plain):
    with pytest.raises(InputError, match="no prompt"):
        plain.generate_batch([])
    with pytest.raises(InputError, match="empty"):
        plain.generate_batch([[1], []])
