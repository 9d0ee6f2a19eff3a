"""Whether drafting pays: arithmetic on constructed measurements."""

import json

import pytest

from flextron_export.errors import InputError
from flextron_export.runtime.speculation import (
    Acceptance,
    DraftCost,
    DraftCosts,
    Tuner,
    best_plan,
    expected_tokens,
    factor,
    parse_speculative,
)

DRAFTS = {"half": DraftCost(5.0, 0.9, 0.85), "slim": DraftCost(1.0, 0.6, 0.5)}
CHEAP = DraftCosts(64, 10.0, (11.0, 12.0, 13.0, 14.0), DRAFTS)
"""Verifying several tokens costs hardly more than one: memory-bound, as large models are."""
DEAR = DraftCosts(64, 10.0, (20.0, 30.0, 40.0, 50.0), DRAFTS)
"""Every verified token costs as much as a step: bound by arithmetic, as small models on a CPU are."""


def test_tokens_per_round_are_a_geometric_sum():
    assert expected_tokens(0.0, 4) == 1 and expected_tokens(1.0, 4) == 5
    assert expected_tokens(0.5, 2) == pytest.approx(1.75)


def test_the_factor_counts_drafting_and_verifying():
    assert factor(CHEAP, "slim", 2, 0.5) == pytest.approx(1.75 * 10 / (2 * 1 + 12))


def test_the_best_plan_is_the_best_of_all():
    plan = best_plan(CHEAP, {"half": 0.9, "slim": 0.6})
    every = [factor(CHEAP, n, k, a) for n, a in (("half", 0.9), ("slim", 0.6)) for k in (1, 2, 3, 4)]
    assert plan.factor == max(every) and plan.factor > 1.4
    assert best_plan(CHEAP, {}) is None


def test_drafts_that_do_not_pay_are_reported_and_not_used():
    tuner = Tuner(DEAR, greedy=True)
    assert tuner.plan.factor < 1 and tuner.length(10) == 0
    assert tuner.reason.startswith("No drafts") and f"{tuner.plan.factor:.2f} times" in tuner.reason
    assert Tuner(CHEAP, greedy=True).length(10) > 0


def test_a_text_that_the_draft_does_not_follow_ends_the_drafting():
    tuner = Tuner(CHEAP, greedy=False)
    begin = tuner.length(0)
    for _ in range(200):
        tuner.observe(begin, 0)
    assert tuner.length(0) == 0


def test_a_text_that_it_follows_well_is_drafted_further():
    tuner = Tuner(CHEAP, greedy=False)
    for _ in range(200):
        tuner.observe(2, 2)
    assert tuner.length(0) == len(CHEAP.verify_ms)


def test_only_decided_tokens_count_for_the_acceptance():
    acceptance = Acceptance(0.5)
    for _ in range(3000):
        acceptance.observe(4, 1)  # one accepted, one rejected, two never looked at
    assert acceptance.estimate == pytest.approx(0.5, abs=0.03)


def test_one_draft_can_be_asked_for():
    assert Tuner(CHEAP, greedy=True, draft="half").plan.draft == "half"


def test_measurements_survive_json():
    assert DraftCosts.from_json(json.loads(json.dumps(CHEAP.to_json()))) == CHEAP
    for key, value in [("step_ms", -1.0), ("verify_ms", [float("nan")]), ("context", 1.5)]:
        with pytest.raises((ValueError, TypeError)):
            DraftCosts.from_json({**CHEAP.to_json(), key: value})


@pytest.mark.parametrize("value", ["on", "0", 0, 9, -1, "2.5", True])
def test_a_setting_that_means_nothing_is_refused(value):
    with pytest.raises(InputError, match="off, auto, or 1 to 8"):
        parse_speculative(value)


def test_settings():
    assert [parse_speculative(v) for v in ("off", "auto", "4", 8)] == ["off", "auto", 4, 8]
