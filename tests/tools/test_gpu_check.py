"""The parts of the GPU check that need no GPU: refusal, vectors, arithmetic, report."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import onnxruntime
import pytest
import torch

from flextron_export.plugins import Parameters, Plugins
from tests.plugins import elastic_linear_cases, head_subset_attention_cases
from tests.plugins.running import STORAGE, Memory
from tools.gpu_check import engine
from tools.gpu_check.report import Timing, cache_bytes, feed_forward_bytes, goals, write_report
from tools.gpu_check.vectors import DeviceMemory, run_vectors

ROOT = Path(__file__).parents[2]


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_it_says_so_and_writes_nothing(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tools.gpu_check", str(tmp_path / "out")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 9
    assert "error: The GPU check needs a CUDA GPU, and PyTorch sees none." in done.stderr
    assert "next: run this on a machine with an NVIDIA GPU" in done.stderr
    assert not (tmp_path / "out").exists()


def test_a_target_is_compared_with_the_cpu_in_every_layout_it_takes(tmp_path: Path, monkeypatch: Any) -> None:
    bundle = engine.make_bundle(tmp_path)
    found = engine.run_target(bundle, "onnxruntime-cpu")
    assert found["state"] == "passed" and set(found["differences"]) == {"panels", "shared", "per-budget"}
    if "CUDAExecutionProvider" not in onnxruntime.get_available_providers():
        found = engine.run_target(bundle, "onnxruntime-cuda")
        assert found["state"] == "skipped" and "CUDA provider" in found["reason"]
    assert engine.run_target(bundle, "tensorrt")["state"] in ("skipped", "failed")
    monkeypatch.setattr(engine, "run_in_steps", lambda *_: [(0, np.random.default_rng().standard_normal((1, 3, 5)))])
    assert engine.run_target(bundle, "onnxruntime-cpu")["state"] == "failed"


class Idle(Plugins):
    """A kernel library that computes nothing."""

    def __init__(self) -> None:
        pass

    def workspace(self, parameters: Parameters) -> int:
        return 0

    def run(self, parameters: Parameters, workspace: int = 0, workspace_bytes: int = 0, stream: int = 0) -> None:
        pass


def test_every_vector_is_run_in_every_type_and_a_kernel_that_does_nothing_fails_them_all() -> None:
    count, found = run_vectors(Idle(), Memory)
    cases = (*elastic_linear_cases.CASES, *head_subset_attention_cases.CASES)
    assert count == len(cases) * len(STORAGE)
    for case in cases:
        assert sum(f", {case.name}: output differs" in line for line in found) >= len(STORAGE)


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16, np.int64, np.int8])
def test_arrays_come_back_from_a_tensor_as_they_were(dtype: type) -> None:
    memory = DeviceMemory("cpu")
    array = np.arange(12).reshape(3, 4).astype(dtype)
    addresses = memory.place({"x": array})
    assert addresses["x"] % 16 == 0
    np.testing.assert_array_equal(memory.read("x"), array)
    assert memory.read("x").dtype == array.dtype


def test_bytes_are_those_of_what_is_read() -> None:
    # 8 heads of 128 elements, keys and values of two bytes: 4 KiB per slot.
    assert cache_bytes(8, 1000, 128) == 1000 * 4096
    assert feed_forward_bytes(10, 256) == 3 * 10 * 512
    assert feed_forward_bytes(10, 256, 8, 128) == 3 * 10 * (256 + 2 * 2)
    assert feed_forward_bytes(10, 256, 4, 128) == 3 * 10 * (128 + 2 * 2)


ALL = Timing("decode attention, all", "decode_attention", 0.2, 256e6, 1.0, "torch SDPA", 0.25)
HALF = Timing("decode attention, half", "decode_attention", 0.12, 128e6, 0.5, "torch SDPA", 0.25)
LINEAR = Timing("feed-forward", "decode_linear", 0.1, 90e6)


def test_goals_compare_with_the_copy_bandwidth_and_with_full_width() -> None:
    assert ALL.gigabytes_per_second == pytest.approx(1280)
    found = {goal.name: goal for goal in goals([ALL, HALF, LINEAR], 1500)}
    share = found["decode attention, all: share of copy bandwidth"]
    assert share.met and share.value == pytest.approx(1280 / 1500)
    narrow = found["decode attention, half: time to all heads"]
    assert not narrow.met and narrow.value == pytest.approx(0.6)
    assert not found["feed-forward: share of copy bandwidth"].met  # 900 GB/s of 1500
    assert len(found) == 3


def test_small_caches_are_compared_with_sdpa() -> None:
    (goal,) = goals([Timing("small", "small_attention", 0.01, 1e6, 1.0, "torch SDPA", 0.02)], 1500)
    assert goal.met and goal.value == 0.5


def test_the_report_is_one_json_and_one_plot(tmp_path: Path) -> None:
    report = {"date": "2026-01-02", "device": {"gpu": "a GPU"}, "vectors": {"cases": 3, "differences": []}}
    path = write_report(tmp_path, report, [ALL, HALF, LINEAR], 1500)
    content = json.loads(path.read_text())
    assert content["copy_gigabytes_per_second"] == 1500
    assert [t["of_copy_bandwidth"] for t in content["timings"]] == pytest.approx([1280 / 1500, 128 / 180, 900 / 1500])
    assert content["timings"][0]["time_to_reference"] == pytest.approx(0.8)
    assert "time_to_reference" not in content["timings"][2]
    assert [goal["met"] for goal in content["goals"]] == [True, False, False]
    assert (tmp_path / "gpu_check.png").stat().st_size > 10_000
    assert sorted(p.name for p in tmp_path.iterdir()) == ["gpu_check.json", "gpu_check.png"]
