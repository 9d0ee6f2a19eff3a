"""`flextron-export search`: found budgets on the terminal and in the checkpoint, exit codes."""

from __future__ import annotations

import json

from flextron_export.elastic.checkpoint import ElasticCheckpoint


def test_budgets_are_found_for_a_described_device(call, tiny_checkpoint, tiny_text, tmp_path):
    quick = ("--text", tiny_text, "--length", 32, "--sequences", 2, "--threads", 1, "--max-evaluations", 30)
    how = (
        "--latency-device",
        "jetson-orin-nano",
        "--latency-shape",
        "7b",
        "--latency-dtype",
        "int4",
        "--targets",
        "0.8,0.6",
    )
    done = call("search", tiny_checkpoint, *quick, *how, "--out", tmp_path / "out")
    assert done.exit_code == 0, done.output
    assert "best uniform" in done.output and "t80" in done.output
    out = ElasticCheckpoint.open(tmp_path / "out")
    assert {"t80", "t60"} <= {b.name for b in out.budgets}
    assert out.notes["search"]["latency_model"]["source"]["shape"] == "7b"
    done = call("search", tiny_checkpoint, *quick, *how, "--out", tmp_path / "again", "--json")
    found = {f["name"]: f for f in json.loads(done.stdout)["found"]}
    assert found["t60"]["layers"] == out.budget("t60").to_json()["layers"]
    assert found["t60"]["predicted_ms"] <= found["t60"]["asked_ms"]


def test_one_latency_model_is_needed_and_targets_must_be_possible(call, tiny_checkpoint, tiny_text, tmp_path):
    common = ("search", tiny_checkpoint, "--text", tiny_text, "--out", tmp_path / "out")
    assert call(*common, "--targets", "0.5").exit_code == 2
    both = ("--latency-model", "here.json", "--latency-device", "h100")
    assert call(*common, "--targets", "0.5", *both).exit_code == 2
    done = call(*common, "--targets", "0.5", "--latency-model", "here.json", "--latency-shape", "7b")
    assert done.exit_code == 2 and "--latency-shape belongs to --latency-device" in done.output
    done = call(*common, "--targets", "0.5", "--latency-model", tmp_path / "none.json")
    assert done.exit_code == 3 and "There is no latency model" in done.output
    done = call(*common, "--targets", "0.001", "--latency-device", "h100")
    assert done.exit_code == 3 and "but the fastest network" in done.output


def test_what_the_search_would_be_for_nothing_with_is_refused_before_it(call, tiny_checkpoint, tiny_text, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "letter.txt").write_text("keep")
    common = ("search", tiny_checkpoint, "--text", tiny_text, "--targets", "0.999", "--latency-device", "h100")
    done = call(*common, "--out", tmp_path / "mine", "--overwrite")
    assert done.exit_code == 3 and "was not written by this tool" in done.output
    done = call(*common, "--out", tmp_path / "out", "--length", 100_000)
    assert done.exit_code == 3 and "the model has 256 positions" in done.output
