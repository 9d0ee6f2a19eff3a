"""The governor's decisions on recorded times: narrow at once, widen late, never swing to and fro."""

from itertools import pairwise

import numpy as np
import pytest

from flextron_export.runtime.governor import CALM, WINDOW, Governor, Rung

RUNGS = [Rung("full", 7.5, 8.5), Rung("half", 4.5, 5.0), Rung("slim", 2.5, 3.0)]


def drive(governor, slowdowns, widening_ms=0.0, seed=0):
    """Play a machine that is that many times slower at each token; return budget and time of every token."""
    random, played = np.random.default_rng(seed), []
    for slowdown in slowdowns:
        rung = governor.rung
        took = rung.p50 * slowdown * random.uniform(0.98, 1.06)
        played.append((rung.budget, took))
        governor.observe(took, widening_ms)
    return played


def switches(played):
    return sum(a[0] != b[0] for a, b in pairwise(played))


def test_on_a_calm_machine_nothing_changes():
    assert switches(drive(Governor(10.0, RUNGS), [1.0] * 500)) == 0


def test_a_single_late_token_changes_nothing():
    slow = [5.0 if n % 30 == 10 else 1.0 for n in range(300)]
    assert switches(drive(Governor(10.0, RUNGS), slow)) == 0


def test_a_busy_machine_narrows_within_two_late_tokens_and_by_as_much_as_needed():
    played = drive(Governor(10.0, RUNGS), [1.0] * 20 + [1.8] * 30)
    assert [budget for budget, _ in played[20:22]] == ["full"] * 2 and played[22][0] == "half"
    assert drive(Governor(10.0, RUNGS), [1.0] * 20 + [3.0] * 30)[22][0] == "slim"


def test_if_nothing_fits_the_narrowest_runs():
    assert drive(Governor(10.0, RUNGS), [9.0] * 10)[-1][0] == "slim"


def test_it_widens_back_after_a_calm_stretch_and_not_before():
    played = drive(Governor(10.0, RUNGS), [1.8] * 5 + [1.0] * 200)
    budgets = [budget for budget, _ in played]
    assert budgets[2 : 2 + CALM] == ["half"] * CALM and budgets[-1] == "full" and switches(played) == 2


def test_it_does_not_widen_while_the_wider_budget_would_miss():
    played = drive(Governor(10.0, RUNGS), [1.8] * 300)
    assert switches(played) == 1 and played[-1][0] == "half"


def test_it_skips_a_budget_if_the_machine_is_quite_calm_again():
    played = drive(Governor(10.0, RUNGS), [3.0] * 5 + [1.0] * 100)
    assert list(dict.fromkeys(budget for budget, _ in played[2:])) == ["slim", "full"]


def test_widening_that_fails_is_tried_less_and_less_often():
    """A machine that is calm for the narrow budget only."""
    governor, times = Governor(10.0, RUNGS[:2]), []
    for token in range(4000):
        before = governor.rung.budget
        governor.observe(20.0 if before == "full" else 4.5)
        if governor.rung.budget != before and before == "half":
            times.append(token)
    gaps = np.diff(times)
    assert gaps[0] < gaps[1] < gaps[2] and gaps[-1] > 5 * gaps[0]


def test_narrow_only_never_widens():
    played = drive(Governor(10.0, RUNGS, widen=False), [1.8] * 5 + [1.0] * 500)
    assert switches(played) == 1 and played[-1][0] == "half"


def test_a_widening_that_makes_a_token_late_waits_until_the_promise_leaves_one_over():
    """Two late tokens at the beginning: with the one of the widening, 5 % of 60 tokens."""
    played = drive(Governor(10.0, RUNGS), [1.8] * 2 + [1.0] * 200, widening_ms=100.0)
    budgets = [budget for budget, _ in played]
    assert budgets.index("full", 5) >= 59 and budgets[-1] == "full"
    assert drive(Governor(10.0, RUNGS), [1.8] * 2 + [1.0] * 200)[53][0] == "full"


def test_most_tokens_are_within_the_limit_under_a_disturbance_that_comes_and_goes():
    slow = ([1.0] * 150 + [2.5] * 100) * 6
    governed = drive(Governor(10.0, RUNGS), slow)
    fixed = drive(Governor(10.0, RUNGS[:1]), slow)

    def share(played):
        return np.mean([took <= 10.0 for _, took in played])

    assert share(governed) >= 0.95 > share(fixed)
    assert switches(governed) <= 18  # three a period: down, and up in one step or two
    assert sum(budget == "full" for budget, _ in governed) > 0.2 * len(governed)


@pytest.mark.parametrize("rungs", [RUNGS[:1], RUNGS])
def test_the_reason_is_given_with_every_change_and_only_then(rungs):
    governor = Governor(10.0, rungs)
    for _ in range(WINDOW * 4):
        before = governor.rung
        assert (governor.observe(30.0) is not None) == (governor.rung is not before)


def test_late_tokens_far_apart_narrow_too_if_they_are_more_than_the_promise_allows():
    slow = [5.0 if n % 12 == 6 else 1.0 for n in range(300)]
    played = drive(Governor(10.0, RUNGS, widen=False), slow)
    assert [budget for budget, _ in played[30:32]] == ["full", "half"]
