"""Engines from C++: what must not run is refused with every reason, before TensorRT is touched; prompts are routed."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from flextron_export import Runner
from flextron_export.bundle.engines import engine_directory, source_hashes
from flextron_export.bundle.manifest import Bundle, FileRecord
from flextron_export.exporting import export
from flextron_export.files import write_json
from flextron_export.runtime.calibrate import calibrate
from flextron_export.runtime.table import Timing
from flextron_export.targets._tensorrt.device import find_device
from tests.elastic_models import routed_model
from tests.targets.test_binding_vectors import record

from .test_flextron_run import LIBRARY, command, generated, refused, run  # noqa: F401  # a fixture

pytestmark = pytest.mark.skipif(LIBRARY is None, reason="this onnxruntime has no shared library to load")
TARGET = ("--target", "tensorrt-rtx", "--layout", "shared", "--dtype", "fp32")
PLUGINS = "libflextron_tensorrt_plugins.so"


@pytest.fixture
def bundle(pristine, tmp_path) -> Path:
    """A bundle with engines whose content is noise, but recorded as it is."""
    path = shutil.copytree(pristine, tmp_path / "bundle")
    opened = Bundle.open(path)
    directory = engine_directory(path, "tensorrt-rtx", "shared", "fp32")
    directory.mkdir(parents=True)
    engine = replace(record(opened, "shared"), dtype="fp32", source=source_hashes(opened, "shared", "fp32"))
    plans = []
    for plan in engine.plans:
        (directory / plan.file).write_bytes(b"noise " * 100)
        written = FileRecord.of(directory / plan.file)
        plans.append(replace(plan, bytes=written.bytes, sha256=written.sha256))
    (directory / PLUGINS).write_bytes(b"noise")
    plugins = {PLUGINS: FileRecord.of(directory / PLUGINS)}
    write_json(directory / "engine.json", replace(engine, plans=tuple(plans), plugins=plugins).to_json())
    return path


def folder(bundle: Path) -> Path:
    return engine_directory(bundle, "tensorrt-rtx", "shared", "fp32")


@pytest.mark.skipif(find_device() is not None, reason="there is a GPU")
def test_without_a_gpu_an_engine_that_fits_is_refused(command, bundle):  # noqa: F811
    refused(run(command, bundle, *TARGET), 10, "needs an NVIDIA GPU", "onnxruntime-cpu")
    refused(run(command, bundle, *TARGET, "--latency-target", "20ms"), 10)


def test_a_truncated_engine_is_refused(command, bundle):  # noqa: F811
    path = folder(bundle) / "64.plan"
    path.write_bytes(path.read_bytes()[:-1])
    refused(run(command, bundle, *TARGET), 10, "64.plan was altered", "flextron-export build")


def test_every_reason_is_named(command, bundle):  # noqa: F811
    (folder(bundle) / "64.plan").unlink()
    (folder(bundle) / PLUGINS).unlink()
    value = json.loads((folder(bundle) / "engine.json").read_text())
    value["source"]["weights.fp32.safetensors"] = "0" * 64
    (folder(bundle) / "engine.json").write_text(json.dumps(value))
    reasons = ("64.plan is missing", f"{PLUGINS} is missing", "built from another weights.fp32.safetensors")
    refused(run(command, bundle, *TARGET), 10, *reasons)


@pytest.mark.parametrize("content", ["", "{", "[]", '{"format": "flextron-engine", "version": 1}', "\0" * 9])
def test_a_damaged_record_is_refused(command, bundle, content):  # noqa: F811
    (folder(bundle) / "engine.json").write_text(content)
    refused(run(command, bundle, *TARGET), 10, "engine.json is damaged")


def test_targets_without_engines_and_without_a_name_are_refused(command, pristine):  # noqa: F811
    refused(run(command, pristine, *TARGET), 10, "has no shared.fp32 engine for tensorrt-rtx", "build")
    refused(run(command, pristine, "--target", "opencl"), 3, "onnxruntime-cpu, tensorrt, tensorrt-rtx")
    refused(run(command, pristine, *TARGET, "--low-memory"), 3, "no low-memory mode")


def test_prompts_are_routed_as_in_python(command, tmp_path):  # noqa: F811
    checkpoint = routed_model(tmp_path / "checkpoint", kind="prompt")
    bundle = export(checkpoint.path, tmp_path / "bundle", layouts=["panels"], dtypes=["fp32"], verify=False)
    measured = calibrate(bundle, threads=1, contexts=[16], prompt_lengths=[8], repeats=6)
    times = dict(zip((b.name for b in bundle.budgets), (10.0, 7.0, 6.0, 5.0), strict=True))
    costs = {name: replace(cost, decode=(Timing.of(16, [times[name]]),)) for name, cost in measured.budgets.items()}
    replace(measured, budgets=costs).save(bundle)
    seen = set()
    with Runner(bundle, "7.5ms", threads=1, calibration="never") as runner:
        for prompt in np.random.default_rng(0).integers(0, 260, (8, 9)).tolist():
            expected = runner.generate_ids(prompt, 3, stop_on_eos=False)
            tokens = list(expected)
            options = ("--latency-target", "7.5ms", "--max-new-tokens", 3, "--ignore-eos")
            found = generated(command, bundle.path, *options, ids=prompt)
            assert found["selection"] == expected.selection.to_json()
            assert found["tokens"] == tokens
            seen.add(found["selection"]["budget"])
    assert len(seen) > 1, "all prompts were routed alike"
    (bundle.path / "router.onnx").write_bytes(b"\xff" * (bundle.path / "router.onnx").stat().st_size)
    refused(run(command, bundle.path, "--latency-target", "7.5ms", "--no-verify-hashes"), 10, "router.onnx")
