"""The latency table of widths: prediction, adaptation to another model, files."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from flextron_export.elastic.widths import Budget, Candidates, LayerWidth
from flextron_export.errors import InputError
from flextron_export.training.latency_model import LatencyModel

CANDIDATES = Candidates((2, 4), (32, 64, 128))
MODEL = LatencyModel("decode", 256, 1.0, (0.25, 0.5), (1.0, 2.0, 4.0), {"made": "by hand"}, CANDIDATES, 2)


def test_a_budget_costs_the_intercept_and_each_layers_widths() -> None:
    budget = Budget("b", (LayerWidth(2, 128), LayerWidth(4, 32)))
    assert MODEL.predict(budget, CANDIDATES) == 1.0 + (0.25 + 4.0) + (0.5 + 1.0)
    assert MODEL.full(2) == 1.0 + 2 * (0.5 + 4.0)
    assert MODEL.fastest(2) == 1.0 + 2 * (0.25 + 1.0)


def test_a_width_that_is_no_candidate_is_refused() -> None:
    with pytest.raises(InputError, match="'b' has a width that is no candidate"):
        MODEL.predict(Budget("b", (LayerWidth(3, 128),) * 2), CANDIDATES)


def test_candidates_of_another_number_or_fraction_are_refused_all_at_once() -> None:
    with pytest.raises(InputError, match=r"2 entries for groups, there are 3 .*25 %, 50 %, 100 %.*candidates 25 %, 75"):
        MODEL.check(Candidates((1, 2, 4), (32, 96, 128)))


def test_a_model_of_another_size_takes_the_entries_of_the_same_fractions_and_the_time_of_all_layers() -> None:
    small = MODEL.for_model(Candidates((4, 8), (96, 192, 384)), 4)
    assert small.groups == (0.125, 0.25)
    assert small.full(4) == MODEL.full(2)
    assert small.layers == 4


def test_a_saved_model_reads_back_the_same(tmp_path: Path) -> None:
    MODEL.save(tmp_path / "model.json")
    assert LatencyModel.load(tmp_path / "model.json") == MODEL


def test_every_bad_field_is_named_at_once() -> None:
    bad = replace(MODEL, phase="idle", tokens=0, intercept=float("nan"), groups=(1.0, 0.5), neurons=(), layers=0)
    with pytest.raises(InputError) as error:
        bad.validate()
    for text in ("phase", "tokens", "intercept", "a wider layer must not be faster", "neurons is", "layers is 0"):
        assert text in error.value.what


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": "other"}, "its format is 'other'"),
        ({"version": 2}, "reads up to 1"),
        ({"version": True}, "no list of integers"),
        ({"groups": [1, "2"]}, "no list of milliseconds"),
        ({"groups": 3}, "no latency model"),
        ({"neurons": [1.0]}, "1 entries for 3 candidates"),
        ({"candidates": {"groups": [0, 0], "neurons": [32, 64, 128]}}, "not positive and ascending"),
    ],
)
def test_a_damaged_file_is_refused_with_what_is_wrong(tmp_path: Path, change: dict, message: str) -> None:
    path = tmp_path / "model.json"
    path.write_text(json.dumps({**MODEL.to_json(), **change}))
    with pytest.raises(InputError, match=message):
        LatencyModel.load(path)


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="There is no latency model"):
        LatencyModel.load(tmp_path / "none.json")
