"""`flextron-export latency`: tables on the terminal, files, exit codes."""

from __future__ import annotations

import json

from flextron_export.training.latency_model import LatencyModel


def test_an_analytic_model_of_a_checkpoint_is_shown_and_written(call, pristine, tmp_path):
    checkpoint = pristine.parent / "checkpoint"
    out = tmp_path / "orin.json"
    done = call("latency", "analytic", checkpoint, "--device", "jetson-agx-orin", "--tokens", 256, "--out", out)
    assert done.exit_code == 0
    assert "attention, KV groups" in done.output and f"written to {out}" in done.output
    assert LatencyModel.load(out).source["device"] == "jetson-agx-orin"
    done = call("latency", "analytic", checkpoint, "--device", "jetson-agx-orin", "--tokens", 256, "--json")
    assert json.loads(done.stdout) == json.loads(out.read_text())


def test_a_shape_needs_no_checkpoint_and_one_of_them_is_needed(call, pristine):
    done = call("latency", "analytic", "--shape", "7b", "--device", "h100", "--json")
    assert json.loads(done.stdout)["candidates"]["groups"] == [8, 16, 24, 32]
    done = call("latency", "analytic", pristine.parent / "checkpoint", "--shape", "7b", "--device", "h100", "--json")
    assert json.loads(done.stdout)["layers"] == 2 and json.loads(done.stdout)["source"]["shape_layers"] == 32
    assert call("latency", "analytic", "--device", "h100").exit_code == 2


def test_an_unknown_device_ends_with_the_exit_code_of_bad_input(call):
    done = call("latency", "analytic", "--shape", "7b", "--device", "abacus")
    assert done.exit_code == 3 and "jetson-orin-nano" in done.output


def test_a_model_is_fitted_to_a_bundle_and_its_error_shown(call, pristine, tmp_path):
    out = tmp_path / "here.json"
    quick = ("--threads", 1, "--budgets", 14, "--held-out", 3, "--repeats", 3, "--tokens", 16, "--out", out)
    done = call("latency", "fit", pristine, *quick)
    assert done.exit_code == 0, done.output
    assert "error on 3 sub-networks (budgets held out): median" in done.output
    assert "a second measurement of the same differs by" in done.output
    assert LatencyModel.load(out).source["budgets"] == 14


def test_where_a_model_cannot_be_written_nothing_is_measured(call, pristine, tmp_path):
    (tmp_path / "file").write_text("text")
    done = call("latency", "fit", pristine, "--out", tmp_path / "file" / "here.json")
    assert done.exit_code == 3 and "cannot be written" in done.output and "measuring" not in done.output
