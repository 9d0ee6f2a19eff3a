"""Prompts that begin like an earlier one: computed from where they differ, with the same result."""

import pytest

from flextron_export import Runner
from flextron_export.errors import InputError
from tests.random_bundle import MAX_POSITIONS

BASE = [(7 * i) % 250 for i in range(60)]


@pytest.fixture
def runner(pristine):
    with Runner(pristine, threads=1) as runner:
        yield runner


def answer(runner, prompt, count=8, **options):
    generation = runner.generate_ids(prompt, count, stop_on_eos=False, **options)
    return list(generation), generation.timings.reused_tokens


def fresh(pristine, prompt, count=8, **options):
    with Runner(pristine, threads=1, prefix_cache=0) as runner:
        tokens, reused = answer(runner, prompt, count, **options)
    assert reused == 0
    return tokens


def count_steps(runner):
    """Number of tokens that the session computes."""
    session, counted = runner._session.get(), []
    step = session.step
    session.step = lambda cache, ids, *more: counted.append(ids.size) or step(cache, ids, *more)
    return counted


def test_the_same_prompt_again_computes_one_token_of_it(runner, pristine):
    first, _ = answer(runner, BASE)
    computed = count_steps(runner)
    again, reused = answer(runner, BASE)
    assert reused == len(BASE) - 1 and computed[0] == 1
    assert first == again == fresh(pristine, BASE)


def test_a_conversation_goes_on_behind_the_last_answer(runner, pristine):
    prompt, before = BASE, 0
    for turn in range(3):
        tokens, reused = answer(runner, prompt)
        assert tokens == fresh(pristine, prompt)
        assert reused == before  # the last token of an answer is never computed
        before = len(prompt) + len(tokens) - 1
        prompt = [*prompt, *tokens, 3, turn]


def test_a_prompt_that_differs_early_is_computed_from_there(runner, pristine):
    answer(runner, BASE)
    other = [*BASE[:20], *[11] * 30]
    tokens, reused = answer(runner, other)
    assert reused == 20 and tokens == fresh(pristine, other)


def test_another_budget_shares_nothing(runner, pristine):
    answer(runner, BASE)
    tokens, reused = answer(runner, BASE, selection=runner.select(budget="p34"))
    assert reused == 0
    with Runner(pristine, threads=1, budget="p34") as other:
        assert tokens == answer(other, BASE)[0]


def test_a_short_prompt_does_not_pay_for_the_large_cache_of_a_long_one(runner):
    answer(runner, [*BASE, *[5] * 100])
    large = runner._prefixes._idle[-1].cache.capacity
    answer(runner, BASE[:30])
    assert runner._prefixes._idle[-1].cache.capacity == 64 < large


def test_a_longer_conversation_survives_a_short_one_that_begins_alike(pristine):
    with Runner(pristine, threads=1, prefix_cache=2) as runner:
        long = [*BASE, *[5] * 60]
        answer(runner, long)
        assert answer(runner, [*BASE[:25], 9])[1] == 25
        assert answer(runner, [*long, 8])[1] >= len(long)


def test_no_more_caches_are_kept_than_allowed(pristine):
    with Runner(pristine, threads=1, prefix_cache=2) as runner:
        for first in range(5):
            answer(runner, [first + 1, 2, 3])
            assert len(runner._prefixes._idle) <= 2
        assert answer(runner, [5, 2, 3, 4])[1] >= 3 and answer(runner, [1, 2, 3, 4])[1] == 0


def test_a_cancelled_generation_leaves_what_it_computed(pristine):
    with Runner(pristine, threads=1, chunk=10) as runner:
        seen = count_steps(runner)
        generation = runner.generate_ids(BASE, 5)
        step = runner._session.get().step
        runner._session.get().step = lambda *call: (len(seen) == 2 and generation.cancel(), step(*call))[-1]
        assert list(generation) == []
        tokens, reused = answer(runner, BASE)
        assert reused == 30 and tokens == fresh(pristine, BASE)


def test_a_step_that_fails_leaves_nothing_behind(runner, pristine):
    session = runner._session.get()
    step = session.step

    def fail(*call):
        raise RuntimeError("broken")

    session.step = fail
    with pytest.raises(RuntimeError):
        answer(runner, BASE)
    session.step = step
    assert answer(runner, BASE) == (fresh(pristine, BASE), 0)


def test_a_full_cache_is_reused_too(runner):
    prompt = [3] * MAX_POSITIONS
    first, _ = answer(runner, prompt)
    assert answer(runner, prompt) == (first, MAX_POSITIONS - 1)


def test_a_negative_number_of_caches_is_refused(pristine):
    with pytest.raises(InputError, match="-1 caches"):
        Runner(pristine, prefix_cache=-1)
