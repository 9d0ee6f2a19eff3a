"""The demo's own logic: what is done is skipped, and its targets lie between budgets. `make demo` runs it whole."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from flextron_export.bundle.manifest import Bundle
from flextron_export.errors import InputError
from flextron_export.runtime.calibrate import calibrate
from flextron_export.runtime.table import LatencyTable
from tests.random_bundle import random_bundle
from tools.demo import CONTEXT, Steps, defaults, two_targets


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> tuple[Bundle, LatencyTable]:
    bundle = Bundle.open(random_bundle(tmp_path_factory.mktemp("demo")))
    return bundle, calibrate(bundle, contexts=(CONTEXT,), prompt_lengths=(8,), repeats=6, threads=1)


def run(work: Path, settings: dict[str, dict[str, str]]) -> list[str]:
    """Run steps `a` and `b` with these settings; return those that were not skipped."""
    ran: list[str] = []

    def make(name: str) -> None:
        ran.append(name)
        (work / name).mkdir(exist_ok=True)

    steps = Steps(work)
    for name, values in settings.items():
        steps.run(name, work / name, values, lambda name=name: make(name))  # type: ignore[misc]
    return ran


def test_a_step_is_run_once_and_again_when_it_or_one_before_it_changes(tmp_path: Path) -> None:
    first = {"a": {"x": "1"}, "b": {"y": "1"}}
    assert run(tmp_path, first) == ["a", "b"]
    assert run(tmp_path, first) == []
    assert run(tmp_path, {**first, "b": {"y": "2"}}) == ["b"]
    assert run(tmp_path, {**first, "a": {"x": "2"}}) == ["a", "b"]


def test_a_step_whose_result_is_gone_is_run_again(tmp_path: Path) -> None:
    settings = {"a": {}, "b": {}}
    run(tmp_path, settings)
    (tmp_path / "b").rmdir()
    assert run(tmp_path, settings) == ["b"]


def test_a_changed_default_is_a_changed_setting() -> None:
    assert defaults(lambda x, tokens=3: None) != defaults(lambda x, tokens=4: None)


def test_the_targets_lie_between_the_fastest_and_the_slowest_budget(measured: tuple[Bundle, LatencyTable]) -> None:
    bundle, table = measured
    p95 = sorted(cost.ms_per_token(CONTEXT) for cost in table.budgets.values())
    low, high = two_targets(table, bundle)
    assert p95[0] <= low <= high <= p95[-1]


def test_fewer_than_three_budgets_are_refused(measured: tuple[Bundle, LatencyTable]) -> None:
    bundle, table = measured
    few = replace(bundle, budgets=bundle.budgets[:2])
    with pytest.raises(InputError, match="three budgets"):
        two_targets(table, few)
