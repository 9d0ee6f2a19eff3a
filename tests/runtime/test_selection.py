"""Selection, on the vectors that every implementation shares."""

import json
import random
from pathlib import Path

import pytest

from flextron_export.elastic.widths import Budget
from flextron_export.errors import InputError, NoBudgetFitsError
from flextron_export.runtime.selection import Target, select
from flextron_export.runtime.table import LatencyTable

VECTORS = json.loads(Path(__file__).with_name("selection_vectors.json").read_text())
TABLES = {name: LatencyTable.from_json(value) for name, value in VECTORS["tables"].items()}
ERRORS = {"no-budget-fits": NoBudgetFitsError, "not-measured": InputError}


def run(case, budgets=None):
    budgets = [Budget.from_json(b) for b in case["budgets"]] if budgets is None else budgets
    table, target = TABLES[case["table"]], Target(**case["target"])
    return select(budgets, table, target, context=case["context"], best_effort=case["best_effort"])


def approximately(numbers):
    return None if numbers is None else pytest.approx(numbers, rel=1e-9)


@pytest.mark.parametrize("case", VECTORS["cases"], ids=lambda c: c["name"])
def test_vector(case):
    expected = case["expected"]
    if "error" in expected:
        with pytest.raises(ERRORS[expected["error"]]) as caught:
            run(case)
        assert all(name in str(caught.value) for name in expected["names"])
        return
    found = run(case).to_json()
    assert (found["budget"], found["met"]) == (expected["budget"], expected["met"])
    assert found["numbers"] == approximately(expected["numbers"])
    assert [(r["budget"], r["why"]) for r in found["rejected"]] == [
        (r["budget"], r["why"]) for r in expected["rejected"]
    ]
    for mine, theirs in zip(found["rejected"], expected["rejected"], strict=True):
        assert mine["numbers"] == approximately(theirs["numbers"])


@pytest.mark.parametrize("case", [c for c in VECTORS["cases"] if "budget" in c["expected"]], ids=lambda c: c["name"])
def test_order_of_budgets_does_not_matter(case):
    budgets = [Budget.from_json(b) for b in case["budgets"]]
    expected = run(case)
    for seed in range(5):
        random.Random(seed).shuffle(budgets)
        assert run(case, budgets) == expected


def test_the_explanation_has_budget_target_and_numbers():
    case = VECTORS["cases"][0]
    found = run(case)
    for part in ("p75", "7.5 ms per token", "7 ms per token", "256 tokens"):
        assert part in found.reason
    assert "10 ms per token" in found.rejected[0].reason
    assert "validation loss of 1.6000 instead of 1.8000" in found.rejected[1].reason


def test_the_error_says_what_to_do():
    case = next(c for c in VECTORS["cases"] if c["name"] == "nothing fits")
    with pytest.raises(NoBudgetFitsError, match="--best-effort") as caught:
        run(case)
    assert "fastest, p25, takes 3 ms" in str(caught.value)


@pytest.mark.parametrize(
    ("text", "target"),
    [
        ("20ms", Target(20.0)),
        (" 20 ms/token ", Target(20.0)),
        ("0.5s", Target(500.0)),
        (".5 s", Target(500.0)),
        ("800us", Target(0.8)),
        ("1e1ms", Target(10.0)),
        (20, Target(20.0)),
        (12.5, Target(12.5)),
        ("300ms@128", Target(first_token_ms=300.0, prompt_length=128)),
        ("0.3s ttft@128", Target(first_token_ms=300.0, prompt_length=128)),
        ("512MB", Target(memory_bytes=512_000_000)),
        ("1.5GiB", Target(memory_bytes=3 << 29)),
        ("20ms, 300ms@128, 1GB", Target(20.0, 300.0, 128, 10**9)),
        (Target(3.0), Target(3.0)),
    ],
)
def test_targets_are_read(text, target):
    assert Target.parse(text) == target


@pytest.mark.parametrize(
    "text", ["", "fast", "20", "20 parsecs", "0ms", "-5ms", "20ms,", "20ms,30ms", "5MB/token", "5MB@3", 0, float("nan")]
)
def test_other_targets_are_refused_with_a_hint(text):
    with pytest.raises(InputError, match="write 20ms"):
        Target.parse(text)
