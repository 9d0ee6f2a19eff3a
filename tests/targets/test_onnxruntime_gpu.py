"""ONNX Runtime's GPU providers: refused where they are absent, as they really are here; all else with the CPU instead.

What stays untested is the providers themselves.
"""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from flextron_export.bundle.manifest import Bundle
from flextron_export.errors import InputError, MissingDependencyError, TargetError
from flextron_export.graph.contract import LAYOUTS
from flextron_export.targets import get_target, onnxruntime_cpu, settle
from flextron_export.targets._onnxruntime import target as target_module
from flextron_export.targets._onnxruntime.compiled import (
    CompiledSession,
    shape_ranges,
    tensorrt_rtx_settings,
    tensorrt_settings,
)
from flextron_export.targets._onnxruntime.loading import load_graph
from flextron_export.targets._onnxruntime.placement import Device
from flextron_export.targets._onnxruntime.provider import CPU, CUDA, TENSORRT, TENSORRT_RTX, Provider
from flextron_export.targets._onnxruntime.session import OnnxRuntimeSession
from flextron_export.targets._onnxruntime.target import OnnxRuntimeGpuTarget
from flextron_export.targets._tensorrt.profiles import Limits
from flextron_export.targets.verify import run_in_steps
from tests.targets.test_tensorrt_session import generate

onnxruntime = pytest.importorskip("onnxruntime")
NAMES = ("onnxruntime-cuda", "onnxruntime-tensorrt", "onnxruntime-tensorrt-rtx")
LIMITS = Limits((128,), max_batch=2, max_length=8)


def on_device(bundle: Bundle, layout: str) -> OnnxRuntimeSession:
    """A session that keeps its memory behind addresses, as on a GPU."""
    return OnnxRuntimeSession(bundle, layout, "fp16", 1, provider=CPU, placement=Device("cpu"))


def compiled(bundle: Bundle, layout: str, folder: Path, provider: Provider = CPU) -> CompiledSession:
    return CompiledSession(
        bundle,
        layout,
        "fp16",
        1,
        provider=provider,
        placement=Device("cpu"),
        limits=LIMITS,
        settings=lambda ranges, folder: {},
        folder=folder,
    )


@pytest.mark.parametrize("name", NAMES)
def test_an_absent_provider_is_refused_with_what_to_install(shipped, name):
    target = get_target(name)
    if target.provider.name in onnxruntime.get_available_providers():
        pytest.skip("it is there")
    for use in (target.open_session, target.build):
        with pytest.raises(MissingDependencyError, match=r"(?s)provider.*pip install"):
            use(shipped, layout="shared", dtype="fp16")
    assert not (shipped.path / "engines" / name).exists()


@pytest.mark.parametrize("provider", [CUDA, TENSORRT])
def test_a_provider_that_onnx_runtime_leaves_out_is_no_silent_cpu(shipped, provider):
    if provider.name in onnxruntime.get_available_providers():
        pytest.skip("it is there")
    with pytest.warns(UserWarning, match="not in available"), pytest.raises(TargetError, match="left out"):
        load_graph(shipped, shipped.graph("shared", "fp16"), threads=1, provider=provider)


def test_a_library_that_cannot_be_loaded_is_an_error_with_its_own_words(tmp_path, monkeypatch):
    (tmp_path / "broken_provider.py").write_text(f"def get_library_path(): return {str(tmp_path / 'no.so')!r}")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(TargetError, match=r"(?s)TensorRT-RTX provider cannot be loaded: .*no\.so.*driver"):
        replace(TENSORRT_RTX, module="broken_provider").require()


@pytest.mark.parametrize("name", NAMES)
def test_what_a_target_takes(shipped, name):
    target = get_target(name)
    assert settle(name, shipped) == ("shared", "fp16")
    target.check(shipped, "per-budget", "fp16")
    with pytest.raises(TargetError, match=rf"{name} does not run fp32(?s:.*)--dtype fp16"):
        target.check(shipped, "shared", "fp32")
    if name == "onnxruntime-cuda":
        target.check(shipped, "panels", "fp16")
        assert target.ANY_WIDTHS
    else:
        with pytest.raises(TargetError, match=rf"{name} does not run layout panels(?s:.*)per-budget"):
            target.check(shipped, "panels", "fp16")
        assert not target.ANY_WIDTHS


def test_the_range_of_a_budget_spans_decoding_and_prefill_at_exact_widths(shipped):
    budget = shipped.budgets[1]
    low, typical, high = (
        dict(part.split(":") for part in text.split(",")) for text in shape_ranges(shipped, "shared", LIMITS, budget)
    )
    assert (low["ids"], typical["ids"], high["ids"]) == ("1x1", "1x1", "2x8")
    assert (low["rows"], high["rows"], low["write"], high["write"]) == ("1", "2", "1", "2")
    groups, head_dim = budget.layers[0].groups, shipped.architecture.head_dim
    assert low["k.0"] == f"1x{groups}x128x{head_dim}" and high["k.0"] == f"2x{groups}x128x{head_dim}"
    rows = groups * shipped.architecture.heads_per_group * head_dim
    assert low["layers.0.q"] == high["layers.0.q"] == f"{rows}x{shipped.architecture.hidden_size}"
    assert set(low) == set(typical) == set(high)


def test_settings_name_the_ranges_and_the_folder(tmp_path):
    ranges = ("ids:1x1", "ids:1x2", "ids:1x3")
    for make, prefix in ((tensorrt_settings, "trt"), (tensorrt_rtx_settings, "nv")):
        found = make(ranges, tmp_path)
        assert tuple(found[f"{prefix}_profile_{kind}_shapes"] for kind in ("min", "opt", "max")) == ranges
        assert str(tmp_path) in found.values() and all(isinstance(value, str) for value in found.values())


def close(found: np.ndarray, wanted: np.ndarray) -> None:
    np.testing.assert_allclose(found, wanted, atol=2e-3)  # addresses differ in alignment, and sums with them


@pytest.mark.parametrize("layout", LAYOUTS)
def test_memory_behind_addresses_gives_what_the_hosts_gives(shipped, layout):
    prompt = np.random.default_rng(0).integers(0, 250, (2, 19))
    both = on_device(shipped, layout), onnxruntime_cpu.open_session(shipped, layout=layout, dtype="fp16", threads=1)
    for budget in (*shipped.budgets, shipped.budgets[0]):
        (found, cache), (wanted, other) = (generate(session, budget, prompt, 4) for session in both)
        close(found, wanted)  # the cache grew on the way
        for name, array in other.arrays.items():
            close(both[0].placement.get(cache.arrays[name]), array)
        one = np.full((3, 1), 7)
        steps = [
            session.step(session.copy(c, [1, 0, 1], 15, 64), one, one + 8, np.full(3, 15), np.arange(3)).copy()
            for session, c in zip(both, (cache, other), strict=True)
        ]
        close(*steps)


def test_a_router_runs_at_every_target(routed_bundle):
    ids = np.random.default_rng(1).integers(0, 250, (2, 9))
    both = on_device(routed_bundle, "routed"), onnxruntime_cpu.open_session(routed_bundle, dtype="fp16", threads=1)
    for budget in routed_bundle.budgets_of("routed"):
        close(*(np.concatenate([x for _, x in run_in_steps(session, budget, ids, 4)], 1) for session in both))


def test_a_narrowed_cache_is_the_same_memory(shipped):
    session = on_device(shipped, "shared")
    wide, narrow = shipped.budgets
    cache = session.new_cache(wide, 1, 16)
    ids = np.array([[1, 2, 3]])
    session.step(cache, ids, np.arange(3)[None], np.zeros(1, np.int64), np.array([2]))
    view = session.narrowed(cache, narrow)
    session.step(view, ids[:, :1], np.array([[3]]), np.array([3]), np.array([0]))
    groups = narrow.layers[0].groups
    whole, part = (session.placement.get(c.arrays["k.0"]) for c in (cache, view))
    assert part.shape[1] == groups < whole.shape[1]
    np.testing.assert_array_equal(part, whole[:, :groups])
    assert whole[:, :groups, 3].any() and not whole[:, groups:, 3].any()


def test_weights_are_on_the_device_once_for_all_budgets(shipped):
    session = on_device(shipped, "shared")
    assert session.memory() >= sum(i.length for i in shipped.weights("fp16").tensors.values())
    addresses = [{n: t.value[0].data_ptr() for n, t in session._budget_weights(b).items()} for b in shipped.budgets]
    assert addresses[0] == addresses[1]


@pytest.mark.parametrize("layout", ["shared", "per-budget"])
def test_what_compiles_runs_long_prompts_in_pieces_and_one_capacity(shipped, layout, tmp_path):
    prompt = np.random.default_rng(0).integers(0, 250, (2, 19))
    session = compiled(shipped, layout, tmp_path)
    reference = onnxruntime_cpu.open_session(shipped, layout=layout, dtype="fp16")
    for budget in shipped.budgets:
        (found, cache), (wanted, _) = (generate(s, budget, prompt, 4) for s in (session, reference))
        assert cache.capacity == session.max_capacity == 128
        np.testing.assert_allclose(found, wanted, atol=2e-2)
    assert list(session._compiled) == [b.name for b in shipped.budgets]
    ids = prompt[:1, :11]
    found, wanted = (run_in_steps(s, shipped.budgets[0], ids, 11)[0][1] for s in (session, reference))
    np.testing.assert_allclose(found, wanted, atol=2e-2)  # more rows than sequences
    with pytest.raises(TargetError, match=r"up to 2 sequences of 128 tokens, not 3 of 64(?s:.*)--max-batch"):
        session.new_cache(shipped.budgets[0], 3, 64)
    with pytest.raises(TargetError, match="not 2 of 129"):
        session.grow(session.new_cache(shipped.budgets[0], 2, 64), 129)


class TestBuilt:
    """The verbs, with the CPU's provider in the place of one that compiles, and a pretended GPU."""

    @pytest.fixture
    def target(self, monkeypatch):
        monkeypatch.setattr(target_module, "require_device", lambda title: None)
        return OnnxRuntimeGpuTarget("onnxruntime-tensorrt", CPU, lambda ranges, folder: {})

    def test_the_record_holds_the_limits_and_opens_with_them(self, target, fp16_bundle):
        record = target.build(fp16_bundle, layout="shared", dtype="fp16", capacity=64, max_batch=3, max_length=16)
        path = fp16_bundle.path / "engines" / "onnxruntime-tensorrt" / "shared.fp16" / "engine.json"
        assert json.loads(path.read_text()) == json.loads(json.dumps(record))
        assert record["limits"] == {"capacities": (64,), "max_batch": 3, "max_length": 16, "separate": False}
        assert set(record["first_run_seconds"]) == {b.name for b in fp16_bundle.budgets}
        session = target.open_session(fp16_bundle, layout="shared", dtype="fp16")
        assert (session.max_capacity, session.max_batch, session.limits.max_length) == (64, 3, 16)

    @pytest.mark.parametrize(
        ("change", "words"),
        [
            ({"library_version": "1.0"}, "built by ONNX Runtime 1.0"),
            ({"source": {}}, "other graphs or weights"),
            ({"limits": {"capacities": [64]}}, "damaged"),
            ({"limits": None}, "damaged"),
            ({"limits": {"capacities": ["64"], "max_batch": 1, "max_length": 1}}, "damaged"),
        ],
    )
    def test_an_engine_that_does_not_fit_is_refused_with_the_command(self, target, fp16_bundle, change, words):
        target.build(fp16_bundle, layout="shared", dtype="fp16", capacity=64)
        path = fp16_bundle.path / "engines" / "onnxruntime-tensorrt" / "shared.fp16" / "engine.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
        with pytest.raises(TargetError, match=rf"(?s){words}.*flextron-export build .* onnxruntime-tensorrt"):
            target.open_session(fp16_bundle, layout="shared", dtype="fp16")

    def test_what_was_not_built_says_how(self, target, fp16_bundle):
        with pytest.raises(TargetError, match=r"(?s)no per-budget\.fp16 engine.*flextron-export build"):
            target.open_session(fp16_bundle, layout="per-budget", dtype="fp16")

    def test_senseless_limits_are_refused(self, target, fp16_bundle, monkeypatch):
        for limits in ({"capacity": (64, 128)}, {"capacity": 9999}, {"max_batch": 0}):
            with pytest.raises(InputError):
                target.build(fp16_bundle, layout="shared", dtype="fp16", **limits)
        with pytest.raises(InputError, match="any size"):
            replace(target, settings=None).build(fp16_bundle, layout="shared", dtype="fp16", capacity=64)
        assert not (fp16_bundle.path / "engines" / "onnxruntime-tensorrt").exists()

    def test_a_failure_leaves_the_old_engine(self, target, fp16_bundle, monkeypatch):
        target.build(fp16_bundle, layout="shared", dtype="fp16", capacity=64)
        before = (fp16_bundle.path / "engines/onnxruntime-tensorrt/shared.fp16/engine.json").read_bytes()
        monkeypatch.setattr(target_module, "run_once", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            target.build(fp16_bundle, layout="shared", dtype="fp16", capacity=128)
        assert (fp16_bundle.path / "engines/onnxruntime-tensorrt/shared.fp16/engine.json").read_bytes() == before

    def test_a_runner_runs_on_it(self, target, fp16_bundle, monkeypatch):
        from flextron_export import Runner, targets

        monkeypatch.setitem(targets.TARGETS, "onnxruntime-tensorrt", "_onnxruntime.target:_FOR_TEST")
        monkeypatch.setattr(target_module, "_FOR_TEST", target, raising=False)
        shutil.rmtree(fp16_bundle.path / "engines", ignore_errors=True)
        target.build(fp16_bundle, layout="shared", dtype="fp16", capacity=64)
        found = []
        for name in ("onnxruntime-tensorrt", "onnxruntime-cpu"):
            options = {"target": name, "layout": "shared", "dtype": "fp16", "threads": 1, "calibration": "never"}
            with Runner(fp16_bundle, budget="p50", **options) as runner:
                found.append(list(runner.generate_ids([5, 6, 7], 12, stop_on_eos=False)))
        assert found[0] == found[1]
