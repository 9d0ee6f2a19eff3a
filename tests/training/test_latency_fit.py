"""Fitting a latency model: what it recovers, what it refuses, and its error on a real bundle."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from flextron_export.elastic.widths import Budget, Candidates, LayerWidth
from flextron_export.errors import InputError
from flextron_export.training.latency_fit import Errors, draw_budgets, fit_bundle, fit_latency
from flextron_export.training.latency_model import LatencyModel
from tests.random_bundle import random_bundle

CANDIDATES = Candidates((2, 4, 6, 8), (64, 128, 256))
LAYERS = 6
TRUE = LatencyModel("decode", 1, 0.5, (0.2, 0.4, 0.6, 0.8), (0.1, 0.2, 0.4), {}, CANDIDATES, LAYERS)


def times(budgets: tuple[Budget, ...], noise: float = 0.0) -> list[float]:
    random = np.random.default_rng(7)
    return [TRUE.predict(b, CANDIDATES) * (1 + noise * random.standard_normal()) for b in budgets]


def test_an_additive_table_is_recovered_exactly_split_of_the_intercept_included() -> None:
    budgets = draw_budgets(CANDIDATES, LAYERS, 30)
    fitted = fit_latency(budgets, times(budgets), CANDIDATES)
    # Costs are proportional to width here, so the intercept that the slope leaves over is the true one.
    assert fitted.groups == pytest.approx(TRUE.groups)
    assert fitted.neurons == pytest.approx(TRUE.neurons)
    assert fitted.intercept == pytest.approx(TRUE.intercept)


def test_noise_of_two_percent_leaves_a_monotone_table_that_predicts_others_within_two() -> None:
    budgets, others = draw_budgets(CANDIDATES, LAYERS, 30), draw_budgets(CANDIDATES, LAYERS, 20, seed=1)
    fitted = fit_latency(budgets, times(budgets, 0.02), CANDIDATES)
    assert list(fitted.groups) == sorted(fitted.groups) and list(fitted.neurons) == sorted(fitted.neurons)
    errors = Errors.of([fitted.predict(b, CANDIDATES) for b in others], times(others))
    assert errors.median < 0.02 and errors.worst < 0.05


def test_a_step_that_measures_faster_when_wider_costs_nothing() -> None:
    falling = replace(TRUE, groups=(0.8, 0.6, 0.4, 0.2))
    budgets = draw_budgets(CANDIDATES, LAYERS, 30)
    fitted = fit_latency(budgets, [falling.predict(b, CANDIDATES) for b in budgets], CANDIDATES)
    assert len(set(fitted.groups)) == 1
    fitted.validate()


def test_random_budgets_spread_over_the_whole_range() -> None:
    spread = [TRUE.predict(b, CANDIDATES) for b in draw_budgets(CANDIDATES, LAYERS, 100)]
    full, fastest = TRUE.full(LAYERS), TRUE.fastest(LAYERS)
    assert min(spread) < fastest + 0.2 * (full - fastest) and max(spread) > full - 0.2 * (full - fastest)
    assert draw_budgets(CANDIDATES, LAYERS, 5, seed=3) == draw_budgets(CANDIDATES, LAYERS, 5, seed=3)


def test_budgets_of_one_width_in_every_layer_are_refused() -> None:
    uniform = tuple(
        Budget(f"u{i}", (LayerWidth(g, n),) * LAYERS)
        for i, (g, n) in enumerate([(2, 64), (4, 128), (6, 128), (8, 256)] * 3)
    )
    with pytest.raises(InputError, match=r"12 budgets cannot tell the 6 parts(.|\n)*panels"):
        fit_latency(uniform, times(uniform), CANDIDATES)


def test_times_that_are_none_are_refused() -> None:
    budgets = draw_budgets(CANDIDATES, LAYERS, 10)
    for bad in ([1.0] * 9, [1.0] * 9 + [0.0], [1.0] * 9 + [float("nan")]):
        with pytest.raises(InputError, match="no milliseconds of 10 budgets"):
            fit_latency(budgets, bad, CANDIDATES)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory):
    return random_bundle(tmp_path_factory.mktemp("fit"), layouts=("panels", "per-budget"))


@pytest.mark.parametrize("phase", ["decode", "prefill"])
def test_a_real_bundle_gets_a_model_with_its_error_on_budgets_held_out(bundle, phase: str) -> None:
    model = fit_bundle(bundle, phase=phase, tokens=64, threads=1, budgets=16, held_out=4, repeats=6, max_seconds=5)
    assert (model.phase, model.tokens, model.layers) == (phase, 64, 2)
    assert model.candidates == Candidates((2, 3, 4), (32, 64, 96, 128))
    error, again = model.source["error"], model.source["repeatability"]
    assert error["budgets"] == again["budgets"] == 4 and 0 <= error["median"] <= error["worst"] < 2
    assert model.source["target"] == "onnxruntime-cpu" and model.source["device"]["threads"] == 1
    assert LatencyModel.from_json(model.to_json()) == model


def test_more_tokens_than_the_model_holds_are_cut_with_a_warning(bundle, caplog: pytest.LogCaptureFixture) -> None:
    model = fit_bundle(bundle, tokens=100_000, threads=1, budgets=16, held_out=1, repeats=3, max_seconds=2)
    (warning,) = caplog.messages
    assert f"holds {model.tokens} tokens, not 100000: measured with {model.tokens}" in warning


def test_a_layout_that_runs_named_budgets_alone_says_that_these_cannot_tell(bundle) -> None:
    with pytest.raises(InputError, match="4 budgets cannot tell the 6 parts"):
        fit_bundle(bundle, layout="per-budget", tokens=16, threads=1, repeats=3)


def test_bad_arguments_are_refused(bundle) -> None:
    with pytest.raises(InputError, match="phase 'idle', 0 tokens"):
        fit_bundle(bundle, phase="idle", tokens=0)
