"""The C++ runtime measures, and its tables and Python's are of one kind: either runner uses what the other measured."""

import json
import shutil

import pytest

from flextron_export import Runner, calibrate
from flextron_export.bundle.manifest import Bundle
from flextron_export.runtime.table import LatencyTable, all_tables

from .test_flextron_run import ENVIRONMENT, LIBRARY, command, generated, refused, run  # noqa: F401  # a fixture

pytestmark = pytest.mark.skipif(LIBRARY is None, reason="this onnxruntime has no shared library to load")
QUICK = ("--calibrate", "--contexts", "8,100", "--prompt-lengths", "8", "--repeats", 6)


@pytest.fixture
def bundle(pristine, tmp_path):
    """A copy that a test may change."""
    return shutil.copytree(pristine, tmp_path / "bundle", ignore=shutil.ignore_patterns("latency"))


@pytest.fixture
def table(command, bundle):  # noqa: F811
    done = run(command, bundle, *QUICK, ids=())
    assert done.returncode == 0, done.stderr
    (found,) = all_tables(Bundle.open(bundle))
    assert str(found.path(Bundle.open(bundle))) in done.stderr
    return found


def sizes(table: LatencyTable) -> dict:
    return {name: (cost.parameters, cost.cache_bytes) for name, cost in table.budgets.items()}


def test_python_selects_by_the_table_that_cpp_measured(command, bundle, table):  # noqa: F811
    p95 = [cost.ms_per_token(100) for cost in table.budgets.values()]
    target = f"{sum(p95) / len(p95)}ms,{2**40}MB"
    with Runner(bundle, target, threads=1, calibration="never") as runner:
        expected = runner.selection.to_json()
    assert generated(command, bundle, "--latency-target", target)["selection"] == expected


def test_both_write_the_same_table_but_for_the_times(bundle, table):
    path = table.path(Bundle.open(bundle))
    before = json.loads(path.read_text())
    other = calibrate(bundle, threads=1, contexts=[8, 100], prompt_lengths=[8], repeats=6)
    assert other.path(Bundle.open(bundle)) == path
    assert (table.device, table.bundle, sizes(table)) == (other.device, other.bundle, sizes(other))
    assert table.conditions["sampling"] == other.conditions["sampling"]
    after = json.loads(path.read_text())
    assert set(before) == set(after)
    for name, cost in before["budgets"].items():
        assert set(cost) == set(after["budgets"][name])
        for kind in ("decode", "first_token"):
            lengths = [timing["tokens"] for timing in cost[kind]]
            assert lengths == [timing["tokens"] for timing in after["budgets"][name][kind]]
            assert all(0 < t["p50"] <= t["p95"] <= t["p99"] and t["samples"] >= 6 for t in cost[kind])


@pytest.mark.parametrize("layout", ["shared", "per-budget"])
def test_memory_is_what_a_budget_reads_and_what_the_library_keeps(command, bundle, layout):  # noqa: F811
    assert run(command, bundle, *QUICK, "--layout", layout, ids=()).returncode == 0
    (found,) = all_tables(Bundle.open(bundle))
    assert found.layout == layout
    weights = (bundle / "weights.fp32.safetensors").stat().st_size
    for cost in found.budgets.values():
        assert 4 * cost.parameters < cost.weight_bytes < weights + 2**25


def test_a_target_without_measurements_measures_once(command, bundle):  # noqa: F811
    found = generated(command, bundle, "--latency-target", "10s,150ms@190")
    assert found["selection"]["numbers"]["ms_per_token"] > 0
    (table,) = all_tables(Bundle.open(bundle))
    assert [t.tokens for t in table.budgets["full"].first_token] == [16, 128, 200]  # more does not fit
    path = table.path(Bundle.open(bundle))
    before = path.read_bytes()
    assert run(command, bundle, "--latency-target", "10s", "--calibration", "never").returncode == 0
    assert path.read_bytes() == before
    path.write_text("{")
    refused(run(command, bundle, "--latency-target", "10s", "--calibration", "never"), 3, "no measurements")


def test_a_bundle_that_cannot_be_written_is_measured_all_the_same(command, bundle, tmp_path, monkeypatch):  # noqa: F811
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    environment = {**ENVIRONMENT, "XDG_CACHE_HOME": str(tmp_path / "cache")}
    (bundle / "latency").write_text("not a directory")
    done = run(command, bundle, *QUICK, ids=(), environment=environment)
    assert done.returncode == 0 and f"kept as {tmp_path / 'cache'}" in done.stderr
    with Runner(bundle, "10s", threads=1, calibration="never") as runner:
        assert runner.selection.met
    shutil.rmtree(tmp_path / "cache")
    (tmp_path / "cache").write_text("no directory either")
    done = run(command, bundle, *QUICK, "--latency-target", "10s", environment=environment)
    assert done.returncode == 0 and "in memory only" in done.stderr


def test_a_table_of_a_busy_machine_is_used_with_a_warning(command, bundle, table):  # noqa: F811
    path = table.path(Bundle.open(bundle))
    value = json.loads(path.read_text())
    value["conditions"]["load_average"] = [99.5, 99.5]
    path.write_text(json.dumps(value))
    caution = LatencyTable.from_json(value).caution
    assert caution and caution in run(command, bundle, "--latency-target", "10s").stderr
    value["conditions"]["load_average"] = [0.0, 1.0]
    path.write_text(json.dumps(value))
    assert "busy" not in run(command, bundle, "--latency-target", "10s").stderr


@pytest.mark.parametrize(
    ("options", "code", "part"),
    [
        (("--repeats", "0"), 3, "measure nothing"),
        (("--contexts", "0,5"), 3, "at least 1"),
        (("--contexts", "x"), 2, "--contexts"),
        (("--calibration", "sometimes"), 2, "none of auto"),
        (("--latency-target", "10s", "--budget", "full"), 3, "one of them"),
    ],
)
def test_what_cannot_be_measured_is_named(command, bundle, options, code, part):  # noqa: F811
    refused(run(command, bundle, *QUICK, *options, ids=()), code, part)
    assert not (bundle / "latency").exists()
