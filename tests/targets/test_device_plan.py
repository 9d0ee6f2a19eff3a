"""What is built for a described device: the choice, its memory, and refusals with numbers and alternatives."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from flextron_export.bundle.manifest import Bundle, FileRecord, weights_file
from flextron_export.bundle.memory import cache_bytes, weight_bytes
from flextron_export.elastic.architecture import Architecture
from flextron_export.elastic.tensors import tensor_specs
from flextron_export.elastic.widths import Candidates
from flextron_export.errors import InputError, TargetError
from flextron_export.graph.contract import DTYPES
from flextron_export.targets import device_planning
from flextron_export.targets._tensorrt import device as gpu
from flextron_export.targets._tensorrt.memory import estimate
from flextron_export.targets._tensorrt.profiles import Limits, plan_specs
from flextron_export.targets.build import build
from flextron_export.targets.device_description import device_description
from flextron_export.targets.device_planning import plan_device
from flextron_export.training.analytic_latency import shape_architecture


def sparse_bundle(out: Path, architecture: Architecture, dtypes=("fp16",)) -> Bundle:
    """A bundle of any size that takes no room: its weights file is a hole behind a header."""
    out.mkdir()
    layouts = ("panels", "shared", "per-budget")
    files = {}
    for dtype in dtypes:
        size, end, header = {"fp16": 2, "fp32": 4}[dtype], 0, {}
        for spec in tensor_specs(architecture):
            length = size
            for n in spec.shape:
                length *= n
            header[spec.name] = {"dtype": DTYPES[dtype], "shape": spec.shape, "data_offsets": [end, end + length]}
            end += length
        text = json.dumps(header).encode()
        with (out / weights_file(dtype)).open("wb") as file:
            file.write(len(text).to_bytes(8, "little") + text)
            file.truncate(8 + len(text) + end)
        files[weights_file(dtype)] = FileRecord(8 + len(text) + end, "0")
    candidates = Candidates.default(architecture)
    budgets = candidates.uniform_budgets(architecture)
    return Bundle(out, architecture, candidates, budgets, dict.fromkeys(dtypes, layouts), files)


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """1B: it fits nearly everywhere."""
    return sparse_bundle(tmp_path_factory.mktemp("plan") / "1b", shape_architecture("1b"), ("fp32", "fp16"))


@pytest.fixture(scope="module")
def large(tmp_path_factory):
    """8B in fp16: 16 GB."""
    return sparse_bundle(tmp_path_factory.mktemp("plan") / "8b", shape_architecture("8b"))


class TestChoice:
    def test_a_jetson_builds_itself_with_the_lowering_of_its_jetpack(self, small):
        plan = plan_device(small, "jetson-orin-nano")
        assert (plan.target, plan.on_device, plan.host_bytes) == ("tensorrt", True, None)
        assert [(r.version, r.jetpack, r.lowering) for r in plan.releases] == [
            ("10.3.0", ("6.1", "6.2"), "plugin"),
            ("10.16.2", ("7.2",), "native"),
        ]
        choice = plan.require()
        assert (choice.layout, choice.dtype) == ("shared", "fp16") and not plan.alternatives
        assert "--target tensorrt --layout shared --dtype fp16" in plan.command and "--sm" not in plan.command

    def test_the_release_can_be_named(self, small):
        plan = plan_device(small, "jetson-thor", tensorrt="10.13.3.9", max_batch=1)
        assert [(r.version, r.lowering) for r in plan.releases] == [("10.13.3.9", "plugin")]
        assert plan.require().limits.max_batch == 2  # one sequence would be computed wrongly by it
        with pytest.raises(InputError, match="'new' is no release"):
            plan_device(small, "h100", tensorrt="new")
        with pytest.raises(TargetError, match=r"TensorRT 10\.2 on NVIDIA H100 .* cannot run this model"):
            plan_device(small, "h100", tensorrt="10.2")

    def test_a_card_is_built_for_ahead_of_time(self, small):
        plan = plan_device(small, "rtx-4090")
        assert (plan.target, plan.on_device) == ("tensorrt-rtx", False)
        assert plan.command.endswith("--sm 89")
        assert "CUDA and TensorRT" not in plan.require().estimate.building.parts
        assert plan_device(small, "rtx-4090", target="tensorrt").on_device

    def test_a_server_may_have_either_lowering(self, small):
        assert [r.lowering for r in plan_device(small, "h100").releases] == ["plugin", "native"]

    def test_layout_and_precision_may_be_given(self, small):
        choice = plan_device(small, "rtx-4090", layout="panels", capacity=512, max_length=64).require()
        assert (choice.layout, choice.limits.capacities, choice.limits.max_length) == ("panels", (512,), 64)
        with pytest.raises(
            TargetError, match=r"Nothing of .* shared fp32 is refused: TensorRT-RTX has no .* in fp32\."
        ):
            plan_device(small, "rtx-4090", dtype="fp32", layout="shared").require()

    def test_one_engine_per_budget_where_all_in_one_are_too_large_to_build(self, large, monkeypatch):
        """Ahead of time the memory of this machine counts."""
        whole, separate = (
            estimate(
                large, "shared", "fp16", Limits.choose(large, "shared", separate=s), on_device=False
            ).building.total
            for s in (False, True)
        )
        assert separate < whole
        monkeypatch.setattr(device_planning, "_available", lambda: (separate + whole) // 2)
        plan = plan_device(large, "dgx-spark")
        assert plan.require().limits.separate and "--separate" in plan.command
        assert "to build, where" in plan.refused[0].against


class TestRefusal:
    def test_numbers_and_alternatives(self, large):
        plan = plan_device(large, "jetson-orin-nano")
        assert plan.chosen is None and plan.command == ""
        with pytest.raises(TargetError) as error:
            plan.require()
        text = str(error.value)
        assert "shared fp16 needs 17." in text and "7.16 of its 8.59 GB are left" in text
        assert "--target-device jetson-agx-orin" in text
        assert plan.to_json()["fits"] is False and plan.to_json()["chosen"] is None

    def test_a_shorter_cache_or_a_smaller_batch(self, small):
        """1B needs 2.5 GB of weights, so 64 sequences of 2048 tokens are what is too much."""
        plan = plan_device(small, "jetson-orin-nano", capacity=2048, max_batch=64, layout="shared")
        assert plan.chosen is None
        shorter = next(a for a in plan.alternatives if a.startswith("--capacity"))
        assert "--max-batch 2" in plan.alternatives
        capacity = int(shorter.split()[1])
        assert plan_device(small, "jetson-orin-nano", capacity=capacity, max_batch=64, layout="shared").chosen
        assert not plan_device(small, "jetson-orin-nano", capacity=2 * capacity, max_batch=64, layout="shared").chosen

    def test_fewer_budgets(self, small):
        """Engines with weights inside: those of all four budgets of 1B are too much, and the widest is to build."""
        how = {"layout": "per-budget", "capacity": 512, "max_batch": 1}
        plan = plan_device(small, "jetson-orin-nano", **how)
        assert "needs 7." in plan.refused[0].against and "GB to build" in plan.refused[0].against
        fewer = next(a for a in plan.alternatives if a.startswith("export with --budgets"))
        kept = [b for b in small.budgets if b.name in fewer.split()[3].split(",")]
        assert 0 < len(kept) < 4 and small.budgets[0] not in kept
        assert plan_device(replace(small, budgets=tuple(kept)), "jetson-orin-nano", **how).chosen

    def test_a_device_of_another_target(self, small):
        with pytest.raises(TargetError, match=r"tensorrt-rtx builds nothing for NVIDIA Jetson .*\(SM 87\)"):
            plan_device(small, "jetson-orin-nano", target="tensorrt-rtx")
        with pytest.raises(InputError, match="no target 'tpu'"):
            plan_device(small, "jetson-orin-nano", target="tpu")
        with pytest.raises(TargetError, match="onnxruntime-cpu builds nothing"):
            plan_device(small, "jetson-orin-nano", target="onnxruntime-cpu")

    def test_an_sm_no_target_knows(self, small):
        with pytest.raises(TargetError, match="No target knows SM 61, which NVIDIA H100"):
            plan_device(small, replace(device_description("h100"), sm=61))

    def test_heads_that_only_newer_releases_take(self, tmp_path):
        bundle = sparse_bundle(tmp_path / "80", replace(shape_architecture("1b"), head_dim=80))
        plan = plan_device(bundle, "jetson-orin-nano")
        assert [r.lowering for r in plan.releases] == [None, "native"]
        with pytest.raises(TargetError, match=r"(?s)10\.3\.0 on .* cannot run this.*heads of 64, 96.*heads of 80"):
            plan_device(bundle, "jetson-orin-nano", tensorrt="10.3.0")

    def test_a_bundle_without_a_layout_to_plan(self, small):
        with pytest.raises(TargetError, match=r"(?s)no layout that is planned.*fp32: routed.*--layout shared"):
            plan_device(replace(small, layouts={"fp32": ("routed",)}), "rtx-4090")

    def test_quantised_weights_need_the_native_lowering(self, small):
        layouts = {"int8-fp16": ("shared", "per-budget")}
        with pytest.raises(TargetError, match=r"shared int8-fp16 is refused: .* needs TensorRT 10\.15"):
            plan_device(replace(small, layouts=layouts), "jetson-orin-nano", tensorrt="10.3.0").require()

    def test_a_precision_that_the_device_lacks(self, small):
        no_fp16 = replace(device_description("rtx-4090"), precisions=("fp32",))
        with pytest.raises(TargetError, match="shared fp16 is refused: NVIDIA GeForce RTX 4090 has no fp16"):
            plan_device(small, no_fp16).require()


class TestEstimate:
    def test_what_is_exact(self, small):
        limits = Limits.choose(small, "shared", (256, 1024), 4, 256)
        found = estimate(small, "shared", "fp16", limits, on_device=True)
        assert found.running.parts["weights"] == small.files[weights_file("fp16")].bytes
        assert found.caches == {c: cache_bytes(small, "fp16", small.budget("full"), c, 4) for c in (256, 1024)}
        assert found.running.parts["KV caches"] == found.caches[1024] == 16 * 2 * 8 * 64 * 1024 * 4 * 2
        assert found.running.total == sum(found.running.parts.values())

    def test_an_engine_per_budget_holds_the_weights_of_that_budget(self, small):
        limits = Limits.choose(small, "per-budget", 512)
        found = estimate(small, "per-budget", "fp16", limits, on_device=False)
        assert found.running.parts["weights"] == sum(weight_bytes(small, "fp16", b) for b in small.budgets)
        one = estimate(replace(small, budgets=small.budgets[-1:]), "per-budget", "fp16", limits, on_device=False)
        assert one.running.total < found.running.total and one.building.total < found.building.total

    def test_usable_memory_is_less_than_the_device_has(self):
        nano, card = device_description("jetson-orin-nano"), device_description("rtx-4090")
        assert 6.5e9 < nano.usable_bytes < 7.5e9 and card.usable_bytes < card.memory_bytes


def test_separate_engines_are_one_per_budget_and_capacity(shipped):
    limits = Limits.choose(shipped, "shared", (64, 128), separate=True)
    specs = plan_specs(shipped, "shared", limits)
    assert [s.file for s in specs] == ["full.64.plan", "p50.64.plan", "full.128.plan", "p50.128.plan"]
    assert all({p.budget for p in s.profiles} == {s.budget} for s in specs)
    assert not Limits.choose(shipped, "panels", separate=True).separate  # they would hold the weights twice


class TestBuilding:
    def test_a_plan_is_carried_out(self, shipped, tmp_path, monkeypatch):
        pytest.importorskip("tensorrt_rtx")
        bundle = Path(shutil.copytree(shipped.path, tmp_path / "bundle"))
        planned = plan_device(shipped, "rtx-4090", capacity=128, max_batch=2, max_length=64).require()
        room = planned.estimate.building.total - 1
        monkeypatch.setattr(device_planning, "_available", lambda: room)
        record = build(bundle, target_device="rtx-4090", capacity=128, max_batch=2, max_length=64)
        assert (record["target"], record["compute_capabilities"]) == ("tensorrt-rtx", (89,))
        assert [p["file"] for p in record["plans"]] == ["full.128.plan", "p50.128.plan"]
        assert {p["file"]: list(p["profiles"]) for p in record["plans"]}["p50.128.plan"] == ["p50"]

    @pytest.mark.parametrize("here", [None, gpu.Device("NVIDIA H100", 90, 13000)])
    def test_elsewhere_it_says_what_to_run_there(self, shipped, monkeypatch, here):
        from flextron_export.targets import build as build_module

        monkeypatch.setattr(build_module, "find_device", lambda: here)
        wide = replace(shipped, architecture=replace(shipped.architecture, head_dim=64))
        monkeypatch.setattr(build_module.Bundle, "open", lambda path: wide)
        with pytest.raises(TargetError, match=r"(?s)not NVIDIA Jetson Orin Nano.*copy .* there, and run there: flex"):
            build(shipped.path, target_device="jetson-orin-nano")

    def test_neither_target_nor_device(self, shipped):
        with pytest.raises(InputError, match="--target or --target-device"):
            build(shipped.path)
