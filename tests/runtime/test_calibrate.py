"""Calibration on a real bundle: what the table holds, where it lies, and when it is used."""

import json
import shutil
import subprocess
import sys
from contextlib import suppress
from dataclasses import asdict, replace

import pytest

from flextron_export import Runner, calibrate
from flextron_export.bundle.manifest import Bundle
from flextron_export.errors import InputError
from flextron_export.runtime.device import fingerprint
from flextron_export.runtime.sampling import Sampling
from flextron_export.runtime.table import LatencyTable, all_tables, content_hash, interpolate
from tests.random_bundle import write_manifest

QUICK = {"threads": 1, "contexts": (8, 100), "prompt_lengths": (4, 30), "repeats": 6}


def load(bundle, threads=1):
    return LatencyTable.load(bundle, fingerprint("onnxruntime-cpu", threads)["id"], "onnxruntime-cpu", "panels", "fp32")


def test_the_table_is_stored_for_this_device_and_read_back(bundle):
    assert load(bundle) is None
    table = calibrate(bundle.path, **QUICK)
    assert load(bundle) == table
    name = f"{table.device['id']}.onnxruntime-cpu.panels.fp32.json"
    assert [p.name for p in (bundle.path / "latency").iterdir()] == [name]
    assert load(bundle, threads=2) is None  # another setting is another device


def test_every_budget_is_measured_at_every_length(bundle):
    table = calibrate(bundle, **QUICK)
    assert list(table.budgets) == [b.name for b in bundle.budgets]
    for budget in bundle.budgets:
        cost = table.budgets[budget.name]
        assert [(t.tokens, t.samples) for t in cost.decode] == [(8, 6), (100, 6)]
        assert [(t.tokens, t.samples) for t in cost.first_token] == [(4, 6), (30, 6)]
        for timing in (*cost.decode, *cost.first_token):
            assert 0 < timing.p50 <= timing.p95 <= timing.p99
        assert cost.parameters == budget.parameters(bundle.architecture)
        # fp32 keys and values of every group of every layer
        assert cost.cache_bytes == 4 * 2 * bundle.architecture.head_dim * sum(w.groups for w in budget.layers)
    widest, narrowest = (table.budgets[b.name] for b in (bundle.budgets[0], bundle.budgets[-1]))
    assert widest.memory_bytes(100) > narrowest.memory_bytes(100) > 0


def test_the_table_says_how_it_was_measured(bundle):
    table = calibrate(bundle, **QUICK)
    assert table.device["threads"] == 1 and table.device["cores"] >= 1
    assert set(table.device["libraries"]) == {"onnxruntime"}
    assert table.conditions["repeats"] == 6 and len(table.conditions["load_average"]) == 2
    assert table.conditions["date"].endswith("+00:00")


def test_lengths_beyond_the_model_are_cut(bundle):
    table = calibrate(bundle, threads=1, contexts=(4096,), prompt_lengths=(512, 1024), repeats=3)
    cost = table.budgets["full"]
    most = bundle.architecture.max_positions
    assert [t.tokens for t in cost.decode] == [most] and [t.tokens for t in cost.first_token] == [most]


@pytest.mark.parametrize("bad", [{"contexts": ()}, {"contexts": (0,)}, {"prompt_lengths": (-1,)}, {"repeats": 0}])
def test_settings_that_measure_nothing_are_refused(bundle, bad):
    with pytest.raises(InputError):
        calibrate(bundle, **{**QUICK, **bad})


def test_a_table_of_another_content_is_not_used(bundle):
    calibrate(bundle, **QUICK)
    value = json.loads((bundle.path / "manifest.json").read_text())
    value["budgets"].pop()
    write_manifest(bundle.path, value)
    changed = Bundle.open(bundle.path)
    assert load(changed) is None
    assert len(all_tables(changed)) == 1  # it is still there to be shown
    with pytest.raises(InputError, match="no measurements"):
        Runner(changed, "5s", threads=1, calibration="never")


def test_the_content_hash_depends_on_weights_graphs_engine_and_widths(bundle):
    def hash_of(bundle):
        return content_hash(bundle, "onnxruntime-cpu", "panels", "fp32")

    hashes = {content_hash(bundle, "onnxruntime-cpu", layout, "fp32") for layout in ("panels", "shared", "per-budget")}
    for name in ("weights.fp32.safetensors", "graphs/panels.fp32.onnx"):
        files = {**bundle.files, name: replace(bundle.files[name], sha256="0" * 64)}
        hashes.add(hash_of(replace(bundle, files=files)))
    narrower = tuple(replace(b, layers=bundle.budgets[-1].layers) for b in bundle.budgets)
    hashes.add(hash_of(replace(bundle, budgets=narrower)))
    assert len(hashes) == 6 and hash_of(bundle) in hashes
    # Better training data about the same widths changes no latency.
    losses = tuple(replace(b, validation_loss=2.0) for b in bundle.budgets)
    assert hash_of(replace(bundle, budgets=losses)) in hashes
    engine = bundle.path / "engines" / "onnxruntime-cpu" / "panels.fp32" / "engine.json"
    engine.parent.mkdir(parents=True)
    engine.write_text('{"first_run_seconds": 1}')
    assert hash_of(bundle) in hashes  # nothing was compiled
    engine.write_text('{"plans": [{"sha256": "abc"}]}')
    assert hash_of(bundle) not in hashes


def test_the_content_is_that_before_measuring(bundle):
    """An engine that is built meanwhile is not the one that was measured."""
    engine = bundle.path / "engines" / "onnxruntime-cpu" / "panels.fp32" / "engine.json"
    before = content_hash(bundle, "onnxruntime-cpu", "panels", "fp32")

    def track(items, description):
        engine.parent.mkdir(parents=True, exist_ok=True)
        engine.write_text('{"plans": [{"sha256": "abc"}]}')
        return items

    assert calibrate(bundle, track=track, **QUICK).bundle == before
    assert content_hash(bundle, "onnxruntime-cpu", "panels", "fp32") != before


DAMAGED_TABLES = ("", "{", "[]", '{"format": "flextron-latency", "version": 99}', '{"format": 3}', "[" * 100_000)


@pytest.mark.parametrize("text", DAMAGED_TABLES, ids=lambda text: text[:40])
def test_a_damaged_table_counts_as_none_and_is_replaced(bundle, text):
    table = calibrate(bundle, **QUICK)
    table.path(bundle).write_text(text)
    assert load(bundle) is None and all_tables(bundle) == []
    assert load(bundle) is None
    calibrate(bundle, **QUICK)
    assert load(bundle) is not None


@pytest.mark.parametrize(
    ("place", "change"),
    [
        *(("decode", {"p95": value}) for value in ("x", -1, float("nan"), 1e999, True)),
        *(("decode", change) for change in ({"tokens": 8.5}, {"tokens": "8"}, {"samples": None}, {"tokens": 100})),
        *(("cost", change) for change in ({"weight_bytes": "x"}, {"cache_bytes": -1}, {"parameters": 1.5})),
        *(("cost", change) for change in ({"decode": "no"}, {"first_token": [3]})),
        *(("table", change) for change in ({"device": "here"}, {"target": 3}, {"version": 1.0})),
    ],
)
def test_a_value_of_another_type_or_a_length_that_occurs_twice_makes_a_damaged_table(bundle, place, change):
    table = calibrate(bundle, **QUICK)
    damaged = json.loads(json.dumps(table.to_json()))
    cost = damaged["budgets"]["full"]
    {"table": damaged, "cost": cost, "decode": cost["decode"][0]}[place].update(change)
    table.path(bundle).write_text(json.dumps(damaged))
    assert load(bundle) is None and all_tables(bundle) == []


def test_a_token_is_chosen_in_every_measured_step_and_the_table_says_how(bundle, monkeypatch):
    chosen = []
    choose = Sampling.choose
    monkeypatch.setattr(Sampling, "choose", lambda self, *more: chosen.append(self) or choose(self, *more))
    table = calibrate(bundle, **QUICK)
    steps = sum(t.samples for cost in table.budgets.values() for t in (*cost.decode, *cost.first_token))
    assert len(chosen) > steps and all(asdict(sampling) == table.conditions["sampling"] for sampling in chosen)
    assert chosen[0].temperature > 0 and chosen[0].top_p < 1


@pytest.mark.parametrize(
    ("load", "threads", "busy"),
    [
        ([0.1, 1.1], 1, False),
        ([1.6, 1.0], 1, True),
        ([0.3, 2.9], 1, True),
        ([0.2, 2.2], 2, False),
        ([0.7, 2.2], 2, True),
    ],
)
def test_a_table_measured_on_a_busy_machine_says_so_when_it_is_used(bundle, caplog, load, threads, busy):
    table = calibrate(bundle, **QUICK)
    device = {**table.device, "cores": 2, "threads": threads}
    table = replace(table, device=device, conditions={**table.conditions, "load_average": load})
    assert bool(table.caution) == busy
    table.save(bundle)
    caplog.clear()
    Runner(bundle, "10s", threads=1, calibration="never").close()
    assert ("busy" in caplog.text and "flextron-export calibrate" in caplog.text) == busy


def test_the_table_of_a_bundle_that_cannot_be_written_lies_in_the_users_cache(bundle, caplog, monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (bundle.path / "latency").write_text("not a directory")
    table = calibrate(bundle.path, **QUICK)
    (kept,) = (tmp_path / "cache" / "flextron-export" / "latency").iterdir()
    assert str(kept) in caplog.text and load(bundle) == table
    Runner(bundle, "10s", threads=1, calibration="never").close()
    # A newer one in the bundle counts as soon as it can be written.
    (bundle.path / "latency").unlink()
    newer = calibrate(bundle.path, **QUICK)
    assert not kept.exists() and load(bundle) == newer


def test_on_a_full_disk_the_table_lies_in_the_users_cache(bundle, small_disk, caplog, monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    place = small_disk(4000)
    moved = Bundle.open(shutil.copytree(bundle.path, place / "bundle"))
    with suppress(OSError), (place / "filler").open("wb") as file:
        while True:
            file.write(bytes(1024))
            file.flush()
    calibrate(moved, **QUICK)
    assert "cannot be written" in caplog.text and load(moved) is not None
    assert not list(moved.path.glob("latency/.*")) and list((tmp_path / "cache").rglob("*.json"))


def test_where_nothing_can_be_written_the_table_is_kept_in_memory(bundle, caplog, monkeypatch):
    (bundle.path / "latency").write_text("not a directory")
    monkeypatch.setenv("XDG_CACHE_HOME", str(bundle.path / "latency"))
    table = calibrate(bundle, **QUICK)
    assert table.budgets["full"].decode
    assert "in memory only" in caplog.text


def test_two_processes_at_once_leave_a_whole_table(bundle):
    code = (
        "import sys; from flextron_export import calibrate\n"
        "for _ in range(4): calibrate(sys.argv[1], threads=1, contexts=(8,), prompt_lengths=(4,), repeats=3)"
    )
    running = [subprocess.Popen([sys.executable, "-c", code, str(bundle.path)], stderr=subprocess.PIPE) for _ in "ab"]
    for process in running:
        assert process.communicate(timeout=120)[1] == b""
        assert process.returncode == 0
    assert load(bundle) is not None
    assert len(list((bundle.path / "latency").iterdir())) == 1  # no temporary file is left


def test_interpolation():
    points = [(10, 1.0), (20, 3.0), (40, 4.0)]
    assert [interpolate(points, n) for n in (1, 10, 15, 20, 30, 40, 60)] == [1, 1, 2, 3, 3.5, 4, 5]
    assert interpolate([(10, 2.0)], 99) == 2.0
    assert interpolate([(10, 2.0), (20, 1.0)], 99) == 1.0
    with pytest.raises(InputError):
        interpolate([], 5)
