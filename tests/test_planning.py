"""What a plan says of every budget, and that predictions are never taken for measurements."""

import json

import pytest

from flextron_export import calibrate, plan
from flextron_export.bundle.manifest import Bundle
from flextron_export.errors import InputError
from flextron_export.runtime.table import LatencyTable, interpolate
from flextron_export.training.latency_model import LatencyModel
from tests.random_bundle import MAX_POSITIONS, random_bundle

OPTIONS = {"contexts": (16, 64), "prompt_lengths": (8, 32), "repeats": 6, "threads": 1}


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    return Bundle.open(random_bundle(tmp_path_factory.mktemp("plan")))


@pytest.fixture(scope="module")
def table(bundle):
    return calibrate(bundle, **OPTIONS)


def test_every_budget_is_listed_with_what_was_measured_here(bundle, table):
    found = plan(bundle, "10s", threads=1, context=40, prompt_length=8, calibration="never")
    assert found.table == table and found.table.predicted == "" and found.notes == ()
    assert [row.budget.name for row in found.budgets] == ["full", "p75", "p59", "p34"]
    for row in found.budgets:
        cost = table.budgets[row.budget.name]
        assert row.p95 == pytest.approx((cost.decode[0].p95 + cost.decode[1].p95) / 2)
        assert row.p50 == interpolate([(t.tokens, t.p50) for t in cost.decode], 40)
        assert row.first_token == cost.first_token[0].p95 and row.memory_bytes == cost.memory_bytes(40)
        assert row.tokens_per_second == pytest.approx(1000 / row.p50)
    assert found.selection.budget.name == "full" and found.verdict == found.selection.reason
    assert json.loads(json.dumps(found.to_json()))["predicted"] is None


def test_lengths_default_to_those_of_the_table_and_of_the_target(bundle, table):
    found = plan(bundle, "1s@5", threads=1, calibration="never")
    assert (found.context, found.prompt_length) == (64, 5)
    assert plan(bundle, threads=1, calibration="never").prompt_length == 32


def test_if_nothing_fits_the_closest_is_named(bundle, table):
    found = plan(bundle, "1us", threads=1, calibration="never")
    assert found.selection is None
    assert found.verdict.startswith("No budget meets 0.001 ms per token on this device") and "best effort" not in (
        found.verdict
    )


def test_a_device_that_measured_is_found_by_its_id(bundle, table):
    assert plan(bundle, device=table.device["id"]).table == table
    assert plan(bundle, device=table.path(bundle)).table == table


def test_a_described_device_is_predicted_and_says_so(bundle):
    found = plan(bundle, "1000000tok/s", device="jetson-orin-nano", dtype="int4")
    assert "lower bound" in found.table.predicted and "predictions, not measurements" in found.notes[0]
    times = [row.p50 for row in found.budgets]
    assert times == sorted(times, reverse=True) and all(row.p50 == row.p95 > 0 for row in found.budgets)
    assert found.context == MAX_POSITIONS and all(row.first_token > 0 for row in found.budgets)
    assert "by prediction" in found.verdict and "(predicted)" in found.verdict and "p95" not in found.verdict
    assert found.to_json()["predicted"]
    with pytest.raises(InputError, match="has no fp8"):
        plan(bundle, device="jetson-orin-nano", dtype="fp8")


def test_a_budget_that_does_not_fit_the_devices_memory_is_named(bundle, tmp_path):
    from flextron_export.targets.device_description import _shipped

    text = _shipped().joinpath("rtx-4090.toml").read_text(encoding="utf-8")
    (tmp_path / "small.toml").write_text(text.replace("memory_bytes = 25769803776", "memory_bytes = 500200000"))
    found = plan(bundle, device=tmp_path / "small.toml")
    over = [row.budget.name for row in found.budgets if row.memory_bytes > 200_000]
    assert 0 < len(over) < 4 and any(f": {', '.join(over)}." in note for note in found.notes)


@pytest.mark.parametrize("phase", ["decode", "prefill"])
def test_a_latency_model_predicts_one_kind_of_time(bundle, tmp_path, phase):
    groups, neurons = (len(getattr(bundle.candidates, kind)) for kind in ("groups", "neurons"))
    entries = tuple(range(1, groups + 1)), tuple(range(1, neurons + 1))
    source = {"made": "by hand", "device": "board"}
    LatencyModel(phase, 50, 3.0, *entries, source, bundle.candidates, 2).save(tmp_path / "model.json")
    found = plan(bundle, device=tmp_path / "model.json")
    assert "by hand" in found.table.predicted and "board" in found.table.predicted
    full = found.budgets[0]
    assert (full.p50 if phase == "decode" else full.first_token) == 3 + 2 * (groups + neurons)
    assert (full.first_token if phase == "decode" else full.p50) is None


def test_what_cannot_be_planned_with_is_named(bundle, table, tmp_path):
    with pytest.raises(InputError, match=r"no device 'nope'(.|\n)*has measurements of: " + table.device["id"]):
        plan(bundle, device="nope")
    (tmp_path / "other.json").write_text('{"format": "something"}')
    with pytest.raises(InputError, match="neither a latency table nor a latency model"):
        plan(bundle, device=tmp_path / "other.json")
    with pytest.raises(InputError, match="damaged"):
        plan(bundle, device=tmp_path / "absent.json")
    foreign = LatencyTable(table.device, table.target, table.layout, table.dtype, "0", table.budgets)
    (tmp_path / "foreign.json").write_text(json.dumps(foreign.to_json()))
    with pytest.raises(InputError, match="measured another bundle"):
        plan(bundle, device=tmp_path / "foreign.json")
    (tmp_path / "torn.json").write_text(json.dumps({**table.to_json(), "budgets": []}))
    with pytest.raises(InputError, match="damaged"):
        plan(bundle, device=tmp_path / "torn.json")
    with pytest.raises(InputError, match="at least 1"):
        plan(bundle, context=0)
