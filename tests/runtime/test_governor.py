"""The governor's decisions on machines that exist only as arithmetic: the same disturbance for every way of running."""

from itertools import pairwise

import numpy as np
import pytest

from flextron_export.runtime.governor import CALM, LONGEST_WAIT, MEMORY, WINDOW, Governor, Rung
from flextron_export.runtime.table import Timing


def rung(name, p50, p95):
    return Rung(name, (Timing(1, 9, p50, p50, p95, p95),))


RUNGS = [rung("full", 7.5, 8.5), rung("half", 4.5, 5.0), rung("slim", 2.5, 3.0)]


def play(governor, times, widening_ms=0.0):
    """Let `times(rung, number of the token)` say how long each token takes; return budget and time of every token."""
    played, number = [], 0
    while (took := times(governor.rung, number)) is not None:
        place = governor.place
        played.append((governor.rung.budget, took))
        governor.observe(took, place, 1, widening_ms)
        number += 1
    return played


def drive(governor, slowdowns, widening_ms=0.0, seed=0):
    """A machine that is that many times slower at each token."""
    random = np.random.default_rng(seed)

    def times(rung, number):
        return rung.p50(1) * slowdowns[number] * random.uniform(0.98, 1.06) if number < len(slowdowns) else None

    return play(governor, times, widening_ms)


def share(played, limit=10.0):
    return np.mean([took <= limit for _, took in played])


def switches(played):
    return sum(a[0] != b[0] for a, b in pairwise(played))


def test_on_a_calm_machine_nothing_changes():
    assert switches(drive(Governor(10.0, RUNGS), [1.0] * 500)) == 0


def test_a_late_token_that_the_promise_leaves_over_changes_nothing():
    slow = [5.0 if n % 30 == 10 else 1.0 for n in range(300)]
    assert switches(drive(Governor(10.0, RUNGS), slow)) == 0


def test_one_late_token_is_enough_where_the_promise_leaves_none_over():
    slow = [5.0 if n % 12 == 6 else 1.0 for n in range(300)]
    played = drive(Governor(10.0, RUNGS, widen=False), slow)
    budgets = [budget for budget, _ in played]
    assert budgets.index("slim") == 19 and switches(played) == 1  # the second late one of 19 tokens


def test_a_busy_machine_narrows_within_two_late_tokens_and_by_as_much_as_needed():
    played = drive(Governor(10.0, RUNGS), [1.0] * 20 + [1.8] * 30)
    assert [budget for budget, _ in played[20:22]] == ["full"] * 2 and played[22][0] == "half"
    assert drive(Governor(10.0, RUNGS), [1.0] * 20 + [3.0] * 30)[22][0] == "slim"


def test_if_the_first_step_down_proves_too_small_the_narrowest_runs():
    rungs = [*RUNGS[:2], rung("third", 3.4, 3.6), RUNGS[2]]
    extra = {"full": 4.0, "half": 6.0, "third": 6.0, "slim": 6.0}  # a delay that does not shrink with the work
    played = play(Governor(10.0, rungs), lambda r, n: r.p50(1) + extra[r.budget] if n < 30 else None)
    assert list(dict.fromkeys(budget for budget, _ in played)) == ["full", "half", "slim"]


def test_if_nothing_fits_the_narrowest_runs():
    assert drive(Governor(10.0, RUNGS), [9.0] * 10)[-1][0] == "slim"


def test_it_widens_back_after_a_calm_stretch_when_it_can_afford_to_and_not_before():
    played = drive(Governor(10.0, RUNGS), [1.8] * 5 + [1.0] * 300)
    budgets = [budget for budget, _ in played]
    # Two late tokens are owed; two more must be earned: 80 tokens at a twentieth each.
    assert budgets[2:79] == ["half"] * 77 and budgets[-1] == "full" and switches(played) == 2
    earned = drive(Governor(10.0, RUNGS), [1.0] * 200 + [1.8] * 5 + [1.0] * 100)
    assert [budget for budget, _ in earned].index("full", 202) == 205 + MEMORY


def test_it_does_not_widen_while_the_wider_budget_would_miss():
    played = drive(Governor(10.0, RUNGS), [1.8] * 300)
    assert switches(played) == 1 and played[-1][0] == "half"


def test_it_does_not_widen_while_delays_are_seen_that_a_longer_token_would_meet_more_often():
    """Every tenth narrow token is interrupted for 6 ms: harmless there, too often for the budgets with more work."""

    def times(rung, number):
        if number >= 600:
            return None
        work, gap = rung.p50(1), 25.0
        return work + 6.0 * (int((number + 1) * work / gap) - int(number * work / gap))

    played = play(Governor(10.0, RUNGS), times)
    assert switches(played) <= 3 and played[-1][0] == "slim" and share(played) > 0.98


def test_it_skips_a_budget_if_the_machine_is_quite_calm_again():
    played = drive(Governor(10.0, RUNGS), [3.0] * 5 + [1.0] * 200)
    assert list(dict.fromkeys(budget for budget, _ in played[2:])) == ["slim", "full"]


def test_widening_that_fails_is_tried_less_and_less_often():
    """A machine that is calm for the narrow budget only."""
    governor, times = Governor(10.0, RUNGS[:2]), []
    for token in range(4000):
        place = governor.place
        governor.observe(4.5 if place else 20.0, place, 1)
        if governor.place < place:
            times.append(token)
    gaps = np.diff(times)
    assert list(gaps) == sorted(gaps) and gaps[0] < 80 and gaps[-1] >= CALM * LONGEST_WAIT


def test_narrow_only_never_widens():
    played = drive(Governor(10.0, RUNGS, widen=False), [1.8] * 5 + [1.0] * 500)
    assert switches(played) == 1 and played[-1][0] == "half"


def test_a_widening_that_makes_a_token_late_waits_until_the_promise_leaves_one_more_over():
    slow = [1.8] * 2 + [1.0] * 200
    soon, late = ([b for b, _ in drive(Governor(10.0, RUNGS), slow, widening_ms=ms)] for ms in (0.0, 100.0))
    assert late.index("full", 5) - soon.index("full", 5) == pytest.approx(20, abs=1)


def test_a_debt_is_made_up_for_within_a_thousand_tokens():
    governor = Governor(10.0, RUNGS)
    drive(governor, [9.0] * 5000)
    played = drive(governor, [1.0] * 2000)
    assert 900 < [budget for budget, _ in played].index("full") < 1100


def test_a_token_of_a_rung_that_was_left_does_not_narrow_again():
    """Of two threads, one learns later than the other that the budget has changed."""
    governor = Governor(10.0, RUNGS)
    governor.observe(18.0, 0, 1)
    governor.observe(18.0, 0, 1)
    assert governor.rung.budget == "slim" or governor.rung.budget == "half"
    place = governor.place
    for _ in range(WINDOW):
        governor.observe(18.0, 0, 1)
    assert governor.place == place and governor.credit < -5


@pytest.mark.parametrize("work", [1.0, 4.0])
@pytest.mark.parametrize("busy", [60, 400, 2000])
@pytest.mark.parametrize("kind", ["slices", "throttled"])
def test_the_promise_is_kept_wherever_the_narrowest_budget_alone_would_keep_it(kind, busy, work):
    """Calm and busy stretches of the same length: a competitor that gets 4 ms turns, or a clock at half the speed."""

    def machine(seconds=10.0, seed=0):
        random, now, turn = np.random.default_rng(seed), 0.0, 4.0

        def times(rung, number):
            nonlocal now, turn
            start, left = now, rung.p50(1) * work * random.lognormal(0, 0.03)
            if start > seconds * 1e3:
                return None
            while left > 0:
                disturbed = now % (2 * busy) > busy
                step = min(left, turn if kind == "slices" and disturbed else 1.0)
                now += step * (2 if kind == "throttled" and disturbed else 1)
                left -= step
                turn = turn - step if disturbed else 4.0
                if kind == "slices" and turn <= 1e-9:
                    now, turn = now + 4.0, 4.0
            return now - start

        return times

    rungs = [rung("full", 1.8, 1.95), rung("p75", 1.4, 1.5), rung("p50", 1.0, 1.1), rung("p25", 0.6, 0.66)]
    scaled = [rung(r.budget, r.p50(1) * work, r.p95(1) * work) for r in rungs]
    limit = 5.0 if kind == "slices" and work == 1 else 2.5 * work
    governing = machine()
    governed = play(Governor(limit, scaled), lambda r, n: governing(rungs[scaled.index(r)], n))
    fixed = {r.budget: share(play(Governor(limit, [r]), machine()), limit) for r in rungs}
    if fixed["p25"] >= 0.97:
        assert share(governed, limit) >= 0.95 > fixed["full"]
        assert np.mean([budget == "p25" for budget, _ in governed]) < 0.9
    else:
        assert share(governed, limit) >= fixed["p25"] - 0.03
