"""Selection, on the vectors that every implementation shares."""

import json
import random
from pathlib import Path

import pytest

from flextron_export.elastic.widths import Budget
from flextron_export.errors import InputError, NoBudgetFitsError
from flextron_export.runtime.latency_target import LatencyTarget
from flextron_export.runtime.selection import select
from flextron_export.runtime.table import LatencyTable

VECTORS = json.loads(Path(__file__).with_name("selection_vectors.json").read_text())
TABLES = {name: LatencyTable.from_json(value) for name, value in VECTORS["tables"].items()}
ERRORS = {"no-budget-fits": NoBudgetFitsError, "not-measured": InputError}


def run(case, budgets=None):
    budgets = [Budget.from_json(b) for b in case["budgets"]] if budgets is None else budgets
    table, target = TABLES[case["table"]], LatencyTarget(**case["target"])
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
    for part in ("p75", "7.5 ms per token", "7 ms per token (p95)", "256 tokens"):
        assert part in found.reason
    assert "10 ms per token" in found.rejected[0].reason
    assert "validation loss of 1.6000 instead of 1.8000" in found.rejected[1].reason


def test_memory_has_no_percentile():
    case = next(c for c in VECTORS["cases"] if c["name"] == "every limit must hold")
    found = run(case)
    assert "5 ms per token (p95), 18.05 MB at a context" in found.reason
    assert found.rejected[1].reason.startswith("7 ms per token (p95), 27.07 MB is over")
    memory = next(c for c in VECTORS["cases"] if c["name"] == "memory counts the cache's capacity")
    assert "p95" not in run(memory).reason + "".join(r.reason for r in run(memory).rejected)


def test_the_error_says_what_to_do():
    case = next(c for c in VECTORS["cases"] if c["name"] == "nothing fits")
    with pytest.raises(NoBudgetFitsError, match="--best-effort") as caught:
        run(case)
    assert "fastest, p25, takes 3 ms" in str(caught.value)


@pytest.mark.parametrize(
    ("text", "target"),
    [
        ("20ms", LatencyTarget(20.0)),
        (" 20 ms/token ", LatencyTarget(20.0)),
        ("0.5s", LatencyTarget(500.0)),
        (".5 s", LatencyTarget(500.0)),
        ("800us", LatencyTarget(0.8)),
        ("1e1ms", LatencyTarget(10.0)),
        ("50tok/s", LatencyTarget(20.0)),
        ("0.5 tokens / s", LatencyTarget(2000.0)),
        ("1e9 token/s, 1GB", LatencyTarget(1e-6, memory_bytes=10**9)),
        (20, LatencyTarget(20.0)),
        (12.5, LatencyTarget(12.5)),
        ("300ms@128", LatencyTarget(first_token_ms=300.0, prompt_length=128)),
        ("0.3s ttft@128", LatencyTarget(first_token_ms=300.0, prompt_length=128)),
        ("512MB", LatencyTarget(memory_bytes=512_000_000)),
        ("1.5GiB", LatencyTarget(memory_bytes=3 << 29)),
        ("20ms, 300ms@128, 1GB", LatencyTarget(20.0, 300.0, 128, 10**9)),
        (LatencyTarget(3.0), LatencyTarget(3.0)),
    ],
)
def test_targets_are_read(text, target):
    assert LatencyTarget.parse(text) == target


@pytest.mark.parametrize(
    "text",
    [
        *("", "fast", "20", "20 parsecs", "0ms", "-5ms", "20ms,", "20ms,30ms", "5MB/token", "5MB@3", 0, float("nan")),
        *("1e400ms", "1e400MB", "300ms@0", "300ms@" + "9" * 5000),
        *("0tok/s", "1e400tok/s", "50tok", "50/s", "50tok/ms", "20ms,50tok/s", "50tok/s@128"),
    ],
)
def test_other_targets_are_refused_with_a_hint(text):
    with pytest.raises(InputError, match="write 20ms"):
        LatencyTarget.parse(text)
