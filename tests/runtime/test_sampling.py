"""Sampling: who can be chosen, how often, and that the logits are left alone."""

import numpy as np
import pytest

from flextron_export.runtime.sampling import Sampling

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
