"""The claims tool's own logic: what identifies a run, what is kept of it, and how seeds become a verdict."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from flextron_export.elastic.widths import Candidates, check_budgets
from flextron_export.training.routed_latency import RoutedLatency
from flextron_export.training.sampling import full_only
from tools.claims.choices import exported_latency
from tools.claims.protocol import CLAIMS, FULL, ORDERS, QUICK, TARGETS
from tools.claims.recipes import key
from tools.claims.runs import Store
from tools.claims.tables import Spread, loss_between, verdict
from tools.claims.widths import BUDGETS, budget_named, candidate_widths, operations_per_token, sampler_of, uniform
from tools.reproduce_claims import reproduce


def test_a_run_is_known_by_everything_it_depends_on() -> None:
    recipe = FULL.elastic(1, 0.2)
    assert recipe.start is not None
    changed = (
        replace(recipe, seed=2),
        replace(recipe, learning_rate=1e-4),
        replace(recipe, start=replace(recipe.start, tokens=1)),
        replace(recipe, text=replace(recipe.text, vocabulary=300)),
    )
    assert key(recipe) == key(FULL.elastic(1, 0.2))
    assert len({key(r) for r in (recipe, *changed)}) == 5


def test_runs_of_a_seed_have_names_of_their_own_and_one_base() -> None:
    recipes = {r for runs in FULL.plans(1).values() for r in runs}
    assert len({r.name for r in recipes}) == len(recipes)
    starts = {None, FULL.base(1), FULL.sorted(1, "sorted"), FULL.elastic(1, FULL.shares[-1])}
    assert {r.start for r in recipes} == starts
    assert set(FULL.plans(1)) == set(CLAIMS)
    assert FULL.plans(2)["g"] == [], "further settings are tried with one seed"


def test_a_run_comes_after_all_that_it_needs() -> None:
    around = FULL.around(1, 0.2, "search")
    assert around.before == (FULL.base(1), FULL.choosing(1, "search", trained=False))
    assert [r.depth for r in (FULL.base(1), FULL.sorted(1, "sorted"), around.before[1], around)] == [0, 1, 2, 3]
    assert key(around) != key(replace(around, around=FULL.choosing(1, "uniform", trained=False)))


def test_a_failed_run_leaves_nothing_and_a_finished_one_is_not_made_again(tmp_path: Path) -> None:
    store, made = Store(tmp_path), []

    def fail(directory: Path) -> dict[str, Any]:
        (directory / "half.txt").write_text("half")
        raise KeyboardInterrupt

    def finish(directory: Path) -> dict[str, Any]:
        made.append(directory)
        return {"loss": 1.5}

    with pytest.raises(KeyboardInterrupt):
        store.result("run", fail)
    assert not (tmp_path / "run").exists()
    assert store.result("run", finish)["loss"] == store.result("run", finish)["loss"] == 1.5
    assert len(made) == 1


def test_the_measured_budgets_are_candidates() -> None:
    architecture = FULL.shape.architecture(512)
    candidates = candidate_widths(architecture, FULL.fractions)
    candidates.validate(architecture)
    check_budgets([budget_named(name, architecture) for name in BUDGETS], candidates, architecture)


def test_an_elastic_step_costs_its_passes_and_the_teachers() -> None:
    architecture = FULL.shape.architecture(512)
    plain = operations_per_token(full_only(architecture), architecture, 64, teacher=False)
    distilled = operations_per_token(full_only(architecture), architecture, 64, teacher=True)
    sandwich = operations_per_token(
        sampler_of("sandwich", architecture, FULL.fractions), architecture, 64, teacher=True
    )
    assert distilled == pytest.approx(plain * 4 / 3)
    assert plain + distilled < sandwich < 3 * distilled


def test_equal_compute_means_equal_operations() -> None:
    tokens = FULL.same_compute(0.076, "p50", 512)
    architecture, narrow = FULL.shape.architecture(512), FULL.scratch(1, "p50", tokens).shape.architecture(512)
    sampler = sampler_of(FULL.sampling, architecture, FULL.fractions)
    elastic = 0.076 * FULL.tokens * operations_per_token(sampler, architecture, 64, FULL.elastic_loss != "ce")
    assert tokens * operations_per_token(full_only(narrow), narrow, 64, teacher=False) == pytest.approx(elastic)


def test_a_verdict_needs_more_than_noise_and_seeds_that_agree() -> None:
    assert verdict(Spread((-0.1, -0.08, -0.12)), 0.02) == "lower"
    assert verdict(Spread((0.05, 0.04, 0.06)), 0.02) == "higher"
    assert verdict(Spread((0.3, 0.2, -0.01)), 0.02) == "equal"
    assert verdict(Spread((0.5, 0.05, 0.05)), 0.02) == "equal"
    assert verdict(Spread((0.01, 0.015, 0.005)), 0.02) == "equal"


def test_a_difference_is_taken_seed_by_seed() -> None:
    difference = Spread((3.0, 2.0, 1.0)) - Spread((2.9, 1.9, 0.9))
    assert difference.values == pytest.approx((0.1, 0.1, 0.1))
    assert difference.deviation == pytest.approx(0, abs=1e-9)


def test_networks_are_compared_at_the_same_latency() -> None:
    points = [(10.0, 3.0), (4.0, 4.0), (8.0, 3.2), (9.0, 3.9)]  # the last is slower and worse than the one before
    assert loss_between(points, 6.0) == pytest.approx(3.6)
    assert loss_between(points, 9.0) == pytest.approx(3.2)
    assert loss_between(points, 3.0) is None and loss_between(points, 11.0) is None and loss_between([], 5.0) is None


def test_targets_are_met_by_the_uniform_widths_they_come_from() -> None:
    architecture = FULL.shape.architecture(512)
    for target, fractions in zip(FULL.targets(), TARGETS, strict=True):
        assert target - 0.001 < FULL.latency(uniform(architecture, *fractions)) <= target


def test_mean_widths_cost_what_lies_between_their_candidates() -> None:
    candidates = Candidates((2, 4), (50, 100))
    latency = RoutedLatency(2.0, (2.5, 3.0), (4.0, 8.0), 2)
    assert exported_latency([(4, 100), (4, 100)], latency, candidates) == 1
    assert exported_latency([(2, 100), (4, 100)], latency, candidates) == pytest.approx(1 - 0.5 / 24)
    assert exported_latency([(4, 75), (4, 100)], latency, candidates) == pytest.approx(1 - 2 / 24)


@pytest.mark.slow
def test_a_small_run_of_the_whole_protocol(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    arguments = (QUICK, 1, tuple(CLAIMS), 1, tmp_path / "work")
    numbers = reproduce(*arguments, tmp_path / "report")
    assert json.loads((tmp_path / "report" / "claims.json").read_text()) == json.loads(json.dumps(numbers))
    # An order changes nothing in the full model, and everything in the others.
    full, half = ([numbers["runs"][f"order-{order}"][0]["losses"][b] for order in ORDERS] for b in ("full", "p50"))
    assert full == pytest.approx([full[0]] * 3, abs=1e-4)
    assert len(set(half)) == 3
    assert {p.suffix for p in (tmp_path / "report").iterdir()} == {".json", ".md", ".png"}
    capfd.readouterr()
    assert reproduce(*arguments, tmp_path / "again")["runs"] == numbers["runs"]
    assert "step" not in capfd.readouterr().err
