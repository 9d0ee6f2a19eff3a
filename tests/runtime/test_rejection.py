"""Speculative rejection sampling: what is taken follows the verifier's distribution exactly, whatever was proposed."""

import numpy as np
import pytest

from flextron_export.runtime.rejection import Distribution, decide
from flextron_export.runtime.sampling import Sampling

SETTINGS = [
    Sampling(temperature=1.0),
    Sampling(temperature=0.6),
    Sampling(temperature=1.3, top_k=4),
    Sampling(temperature=1.0, top_p=0.7),
    Sampling(temperature=0.8, top_k=6, top_p=0.9, min_p=0.05),
    Sampling(temperature=1.0, repetition_penalty=1.5),
    Sampling(),
]
VOCABULARY = 9


def both(sampling, seed):
    random = np.random.default_rng(seed)
    logits = (random.normal(0, 1.5, (2, VOCABULARY))).astype(np.float32)
    return [Distribution.of(sampling, row, np.array([1, 4])) for row in logits]


def dense(distribution):
    return distribution.at(np.arange(VOCABULARY))


@pytest.mark.parametrize("sampling", SETTINGS)
@pytest.mark.parametrize("seed", range(4))
def test_the_token_taken_has_exactly_the_verifiers_distribution(sampling, seed):
    """Not by drawing: accepted mass plus what is drawn after a rejection, summed over every proposal."""
    verified, proposed = both(sampling, seed)
    p, q = dense(verified), dense(proposed)
    assert p.sum() == pytest.approx(1) and q.sum() == pytest.approx(1)
    accepted = np.minimum(p, q)
    assert verified.overlap(proposed) == pytest.approx(accepted.sum())
    result = accepted + (1 - accepted.sum()) * dense(verified.beyond(proposed))
    np.testing.assert_allclose(result, p, atol=1e-12)


@pytest.mark.parametrize("sampling", SETTINGS)
def test_drawn_tokens_have_the_verifiers_distribution(sampling):
    """Chi-square against the exact probabilities; a fixed seed, and a bound that only a wrong sampler passes."""
    verified, proposed = both(sampling, 7)
    random, draws = np.random.default_rng(0), 20000
    counts = np.zeros(VOCABULARY)
    for _ in range(draws):
        counts[decide(verified, proposed, proposed.draw(random), random)[1]] += 1
    expected = dense(verified) * draws
    likely = expected > 0
    assert not counts[~likely].any()
    chi2 = ((counts - expected)[likely] ** 2 / expected[likely]).sum()
    assert chi2 < 40  # 8 degrees of freedom at most: exceeded once in 300,000
    if likely.sum() > 1:  # the same test sees that the draft has another distribution
        assert ((dense(proposed) * draws - expected)[likely] ** 2 / expected[likely]).sum() > 400


def test_equal_distributions_accept_everything():
    verified, _ = both(Sampling(temperature=1.0), 1)
    random = np.random.default_rng(0)
    assert all(decide(verified, verified, token, random) == (True, token) for token in range(VOCABULARY))
    assert dense(verified.beyond(verified)).sum() == pytest.approx(1)


def test_a_greedy_choice_draws_no_random_number():
    verified, proposed = both(Sampling(), 3)
    random = np.random.default_rng(0)
    token = proposed.draw(random)
    decide(verified, verified, verified.draw(random), random)
    assert random.random() == np.random.default_rng(0).random()
    assert decide(verified, proposed, token, random)[1] == verified.draw(random)
