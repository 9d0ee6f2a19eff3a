"""A generation whose budget changes while it runs."""

import shutil
import time
from itertools import pairwise

import numpy as np
import pytest

from flextron_export import Runner
from flextron_export.errors import InputError
from flextron_export.runtime.opening import open_bundle
from flextron_export.runtime.sequence import LiveSequence
from tests.random_bundle import MAX_POSITIONS

PROMPT = list(range(20))


@pytest.fixture(scope="module")
def table(pristine, tmp_path_factory):
    """Measured on a copy: a table in the bundle would spare other tests the measuring they are about."""
    copy = shutil.copytree(pristine, tmp_path_factory.mktemp("measured") / "bundle")
    with Runner(copy, "10s", threads=1) as runner:
        return runner.table


def slowed(runner, slow):
    """Let every step of a budget's group count take `slow(groups, number of the step)` milliseconds more."""
    session, counted = runner._session.get(), []
    step = session.step

    def late(cache, *more):
        counted.append(cache.budget.name)
        time.sleep(slow(cache.budget.name, len(counted)) / 1e3)
        return step(cache, *more)

    session.step = late
    return counted


def test_a_slow_machine_narrows_and_every_switch_is_reported(pristine, table):
    seen = []
    with Runner(pristine, "200ms", threads=1, calibration=table, governor="on", on_switch=seen.append) as runner:
        first = runner.selection.budget.name
        slowed(runner, lambda budget, _: 250 if budget == first else 0)
        generation = runner.generate_ids(PROMPT, 8, stop_on_eos=False)
        assert len(list(generation)) == 8
        (switch,) = generation.timings.switches
        assert seen == [switch] and switch.before == first != switch.after and "more than 200 ms" in switch.reason
        assert generation.timings.to_json()["switches"][0]["after"] == switch.after
        assert not runner._prefixes._idle  # no later prompt goes on in a cache of two budgets


def test_narrowing_moves_nothing_and_widening_computes_anew(pristine):
    opening = open_bundle(pristine, threads=1)
    session, bundle = opening.session(), opening.bundle
    sequence = LiveSequence(session, bundle.budget("full"), MAX_POSITIONS)
    sequence.prefill(PROMPT)
    wide = sequence.cache.arrays
    sequence.change(bundle.budget("p34"))
    assert sequence.mixed and all(np.shares_memory(wide[n], a) for n, a in sequence.cache.arrays.items())
    narrow = sequence.decode(3).copy()
    for token in range(60):  # the cache grows
        sequence.decode(token)
    sequence.change(bundle.budget("full"))
    assert not sequence.mixed and sequence.length == len(PROMPT) + 61
    fresh = LiveSequence(session, bundle.budget("full"), MAX_POSITIONS)
    fresh.prefill(sequence.ids)
    np.testing.assert_allclose(sequence.decode(5), fresh.decode(5), atol=1e-5)
    assert np.isfinite(narrow).all()


def test_settings_that_cannot_be_used_are_refused(pristine, table):
    with pytest.raises(InputError, match="sets none"):
        Runner(pristine, "300ms@16", threads=1, governor="on")
    assert not (pristine / "latency").exists()  # refused before measuring
    with pytest.raises(InputError, match="governor cannot be sometimes"):
        Runner(pristine, "10s", threads=1, calibration=table, governor="sometimes")
    with pytest.raises(InputError, match="with speculative decoding auto"):
        Runner(pristine, "10s", threads=1, calibration=table, governor="on", speculative="auto")


def test_budgets_to_fall_back_to_are_nested_and_faster(pristine, table):
    from flextron_export.runtime.governed import ladder

    with Runner(pristine, threads=1) as runner:
        budgets = runner.bundle.budgets
        steps = ladder(budgets, table, budgets[0])
    assert steps[0] is budgets[0] and len(steps) >= 2
    cost = [table.budgets[b.name].decode[-1].p50 for b in steps]
    assert all(a > b for a, b in pairwise(cost))


def test_a_generation_without_a_time_per_token_keeps_its_budget(pristine, table):
    with Runner(pristine, threads=1, calibration=table, governor="on") as runner:
        counted = slowed(runner, lambda budget, _: 1)
        assert len(list(runner.generate_ids(PROMPT, 6, stop_on_eos=False))) == 6
        assert runner.timings.switches == [] and set(counted) == {"full"}


def test_the_next_generation_begins_with_what_the_last_one_found_out(pristine, table):
    with Runner(pristine, "200ms", threads=1, calibration=table, governor="on", prefix_cache=0) as runner:
        slowed(runner, lambda budget, _: 250 if budget == "full" else 0)
        first = runner.generate_ids(PROMPT, 8, stop_on_eos=False)
        first.read()
        second = runner.generate_ids(PROMPT, 8, stop_on_eos=False)
        second.read()
        (learnt,), (known,) = first.timings.switches, second.timings.switches
        assert learnt.token == 3 and known.token == 1 and known.after == learnt.after
        assert sum(ms > 200 for ms in second.timings.token_ms) == 0
    with Runner(pristine, "200ms", threads=1, calibration=table, governor="narrow", prefix_cache=0) as runner:
        slowed(runner, lambda budget, _: 250 if budget == "full" else 0)
        for _ in range(2):  # no way back: each begins anew
            runner.generate_ids(PROMPT, 5, stop_on_eos=False).read()
            assert runner.timings.switches[0].token == 3
