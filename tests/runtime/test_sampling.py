"""Sampling: who can be chosen, how often, and that the logits are left alone."""

import json
from pathlib import Path

import numpy as np
import pytest

from flextron_export.errors import InputError, TargetError
from flextron_export.runtime.sampling import Sampler, Sampling

LOGITS = np.log(np.array([0.05, 0.5, 0.3, 0.15], np.float32))


def draws(sampling, count=4000, seed=0):
    random = np.random.default_rng(seed)
    return np.bincount([sampling.choose(LOGITS, random) for _ in range(count)], minlength=4) / count


def test_greedy_takes_the_first_of_the_likeliest():
    assert Sampling().choose(np.array([1.0, 3.0, 3.0], np.float32), np.random.default_rng()) == 1


def test_greedy_draws_no_random_number_and_copies_nothing():
    class Watched(np.ndarray):
        copies = 0

        def astype(self, *args, **kwargs):
            Watched.copies += 1
            return super().astype(*args, **kwargs)

    random = np.random.default_rng(0)
    before = random.bit_generator.state
    Sampling().choose(LOGITS.view(Watched), random)
    assert random.bit_generator.state == before and Watched.copies == 0


def test_temperature_one_follows_the_probabilities():
    assert draws(Sampling(1.0)) == pytest.approx(np.exp(LOGITS), abs=0.03)


def test_a_low_temperature_nears_greedy_and_a_high_one_uniform():
    assert draws(Sampling(0.05))[1] > 0.99
    assert draws(Sampling(100.0)) == pytest.approx([0.25] * 4, abs=0.03)


def test_top_k_keeps_the_k_likeliest():
    assert draws(Sampling(1.0, top_k=2)) == pytest.approx([0, 0.625, 0.375, 0], abs=0.03)
    assert draws(Sampling(1.0, top_k=1))[1] == 1


def test_top_p_keeps_the_least_set_that_reaches_it():
    assert draws(Sampling(1.0, top_p=0.6)) == pytest.approx([0, 0.625, 0.375, 0], abs=0.03)
    assert draws(Sampling(1.0, top_p=0.01))[1] == 1


def test_top_k_of_everything_and_top_p_of_one_change_nothing():
    assert (draws(Sampling(1.0, top_k=4)) == draws(Sampling(1.0))).all()


def test_the_logits_are_not_changed():
    before = LOGITS.copy()
    draws(Sampling(0.7, 3, 0.9), 10)
    assert (before == LOGITS).all()


def test_extreme_logits_do_not_overflow():
    logits = np.array([-3e38, 3e38, 0.0], np.float32)
    assert Sampling(0.01).choose(logits, np.random.default_rng(0)) == 1


def test_the_choices_are_those_that_every_implementation_makes():
    vectors = json.loads((Path(__file__).parent / "sampling_vectors.json").read_text())
    for case in vectors["cases"]:
        sampler = Sampler(Sampling(**case["settings"]), case["seed"], case["prompt"])
        logits = np.array(vectors["logits"][case["logits"]], np.float32)
        assert [sampler.choose(logits) for _ in case["tokens"]] == case["tokens"], case


SETTINGS = [
    {"temperature": 0.7},
    {"top_k": 7},
    {"top_p": 0.9},
    {"top_p": 0.3},
    {"min_p": 0.1},
    {"temperature": 1.7, "top_k": 50, "top_p": 0.8},
    {"temperature": 0.8, "top_k": 30, "top_p": 0.95, "min_p": 0.05, "repetition_penalty": 1.3},
    {"repetition_penalty": 0.8, "top_p": 0.6},
]


@pytest.mark.parametrize("spread", [0.1, 1.0, 4.0])
@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_distributions_are_those_of_transformers(settings, spread):
    import torch
    from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=300,
        hidden_size=8,
        intermediate_size=8,
        num_hidden_layers=1,
        num_attention_heads=1,
        eos_token_id=None,
    )
    full = {"top_k": 0, "top_p": 1.0, "temperature": 1.0, **settings}
    wanted = GenerationConfig(do_sample=True, bos_token_id=None, eos_token_id=None, pad_token_id=None, **full)
    seen = np.array([3, 5, 200], np.int64)
    processors = LlamaForCausalLM(config)._get_logits_processor(wanted, input_ids_seq_length=3)
    for seed in range(5):
        logits = (np.random.default_rng(seed).standard_normal(300) * spread).astype(np.float32)
        expected = processors(torch.tensor(seen)[None], torch.tensor(logits)[None]).softmax(-1)[0].numpy()
        sampling = Sampling(**full)
        tokens, odds = sampling.candidates(sampling.penalised(logits, seen))
        found = np.zeros(300)
        found[slice(None) if tokens is None else tokens] = odds / odds.sum()
        assert (np.flatnonzero(found) == np.flatnonzero(expected)).all()
        assert np.abs(found - expected).max() < 1e-6


@pytest.mark.parametrize("top_p", [0.05, 0.5, 0.77, 0.999])
@pytest.mark.parametrize("kind", ["normal", "equal", "steps", "one"])
def test_the_nucleus_found_without_sorting_everything_is_that_of_a_full_sort(kind, top_p):
    random = np.random.default_rng(0)
    odds = {
        "normal": np.exp(random.standard_normal(500) * 3),
        "equal": np.ones(64),
        "steps": np.exp(-random.integers(0, 4, 200).astype(float)),
        "one": np.array([1.0, *[1e-30] * 50]),
    }[kind]
    odds /= odds.max()
    order = np.argsort(-odds, kind="stable")
    count = int(np.searchsorted(odds[order].cumsum(), top_p * odds.sum())) + 1
    tokens, _ = Sampling(1.0, top_p=top_p).candidates(np.log(odds).astype(np.float32))
    logits = np.log(odds).astype(np.float32).astype(np.float64)
    assert len(tokens) == count and set(logits[tokens]) == set(logits[order[:count]])
    assert (np.diff(tokens) > 0).all()


def test_of_equal_tokens_top_p_takes_the_first_and_top_k_takes_all():
    logits = np.zeros(8, np.float32)
    assert list(Sampling(1.0, top_p=0.5).candidates(logits)[0]) == [0, 1, 2, 3]
    assert len(Sampling(1.0, top_k=3).candidates(logits)[0]) == 8


def test_a_repetition_penalty_acts_on_greedy_choices_too_and_spares_the_logits():
    logits = np.array([2.0, 1.5, -1.0], np.float32)
    sampler = Sampler(Sampling(repetition_penalty=2.0), None, [2])
    assert [sampler.choose(logits) for _ in range(3)] == [0, 1, 0]
    assert list(logits) == [2.0, 1.5, -1.0]


@pytest.mark.parametrize("settings", [{}, {"temperature": 1.0}, {"temperature": 1.0, "top_k": 2, "top_p": 0.5}])
def test_logits_that_are_not_numbers_are_an_error(settings):
    with pytest.raises(TargetError, match="not numbers"):
        Sampling(**settings).choose(np.array([0.0, np.nan, 1.0, 2.0], np.float32), np.random.default_rng(0))


def test_every_setting_that_makes_no_sense_is_named():
    bad = Sampling(float("nan"), -1, 0.0, 2.0, 0.0)
    with pytest.raises(InputError, match=r"temperature.*top-k.*top-p.*min-p.*repetition penalty"):
        bad.validate()
