"""A bundle with quantised matrices through the commands."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from flextron_export.bundle.manifest import Bundle
from flextron_export.bundle.memory import weight_bytes

QUICK = ("--dtype", "int4", "--threads", 1)


@pytest.mark.parametrize("layout", ["panels", "per-budget"])
def test_int4_is_exported_measured_and_run(call, tiny_checkpoint: Path, tmp_path: Path, layout: str) -> None:
    out = tmp_path / "bundle"
    done = call("export", tiny_checkpoint, "--out", out, "--dtype", "int4", "--layout", layout)
    assert done.exit_code == 0 and f"int4: {layout}" in done.stdout, done.output
    assert json.loads(call("inspect", out, "--json").stdout)["layouts"] == {"int4": [layout]}
    measured = ("--contexts", "8", "--prompt-lengths", "4", "--repeats", 6, "--json")
    table = json.loads(call("calibrate", out, *QUICK, *measured).stdout)
    bundle = Bundle.open(out)
    for budget in bundle.budgets:
        assert table["budgets"][budget.name]["weight_bytes"] >= weight_bytes(bundle, "int4", budget)
    done = call("run", out, *QUICK, "--latency-target", "10s", "--prompt", "the king", "--max-new-tokens", 3)
    assert done.exit_code == 0, done.output
    assert call("build", out, "--target", "onnxruntime-cpu", "--dtype", "int4").exit_code == 0


def test_what_int4_cannot_do_is_said(call, tiny_checkpoint: Path, tmp_path: Path) -> None:
    out = tmp_path / "bundle"
    refused = call("export", tiny_checkpoint, "--out", out, "--dtype", "int4", "--layout", "shared")
    assert refused.exit_code == 3 and "layout shared does not exist in int4" in refused.output
    refused = call("export", tiny_checkpoint, "--out", out, "--dtype", "int4", "--group-size", 256)
    assert refused.exit_code == 3 and "groups of 256 weights: hidden size" in refused.output
    assert call("export", tiny_checkpoint, "--out", out, "--dtype", "int4", "--no-verify").exit_code == 0
    refused = call("run", out, *QUICK, "--low-memory", "--prompt", "the king")
    assert refused.exit_code == 10 and "int4 does not run with its weights left in the mapped file" in refused.output
    refused = call("build", out, "--target", "tensorrt-rtx")
    assert refused.exit_code == 10 and "int4" in refused.output
