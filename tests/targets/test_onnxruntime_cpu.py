"""ONNX Runtime on the CPU: caches change in place, weights stay in the mapped file, one session serves every budget."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import numpy as np
import onnx
import pytest

from flextron_export.bundle.manifest import Bundle, weights_file
from flextron_export.errors import BundleError, TargetError
from flextron_export.graph.contract import LAYOUTS, weight_shapes
from flextron_export.targets import TARGETS, get_target, onnxruntime_cpu
from flextron_export.targets.onnxruntime_cpu import OnnxRuntimeSession, open_session
from flextron_export.targets.target import Target
from tests.random_bundle import random_bundle


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return Bundle.open(random_bundle(tmp_path_factory.mktemp("random")))


@pytest.fixture(params=LAYOUTS)
def session(bundle: Bundle, request: pytest.FixtureRequest) -> Iterator[OnnxRuntimeSession]:
    opened = open_session(bundle, layout=request.param, threads=1)
    yield opened
    opened.close()


def feed(
    session: OnnxRuntimeSession, cache: onnxruntime_cpu.OnnxRuntimeCache, ids: list[int], start: int = 0
) -> np.ndarray:
    """Logits of the last of the tokens of a single sequence."""
    positions = start + np.arange(len(ids))[None]
    return session.step(cache, np.array([ids]), positions, np.array([start]), np.array([len(ids) - 1])).copy()


def test_the_cache_is_updated_in_place_and_nowhere_else(session: OnnxRuntimeSession) -> None:
    cache = session.new_cache(session.bundle.budgets[1], 1, 16)
    arrays = dict(cache.arrays)
    feed(session, cache, [1, 2, 3])
    first = {name: array[:, :, :3].copy() for name, array in arrays.items()}
    for start in range(3, 8):
        feed(session, cache, [start], start)
    for name, array in arrays.items():
        assert cache.arrays[name] is array
        np.testing.assert_array_equal(array[:, :, :3], first[name])
        assert array[:, :, :8].all() and not array[:, :, 8:].any()


def test_a_decode_step_is_prepared_once(session: OnnxRuntimeSession) -> None:
    cache = session.new_cache(session.bundle.budgets[0], 1, 16)
    feed(session, cache, [1])
    (call,) = cache.calls.values()
    first = feed(session, cache, [2], 1)
    assert list(cache.calls.values()) == [call]
    assert np.abs(feed(session, cache, [3], 2) - first).max() > 0


def test_a_cache_that_grows_keeps_what_it_holds(session: OnnxRuntimeSession) -> None:
    budget = session.bundle.budgets[2]
    grown, large = session.new_cache(budget, 1, 4), session.new_cache(budget, 1, 64)
    for cache in (grown, large):
        feed(session, cache, [5, 6, 7, 8])
    session.grow(grown, 64)
    assert grown.capacity == 64
    for name, array in grown.arrays.items():
        assert array.shape == large.arrays[name].shape
        np.testing.assert_array_equal(array, large.arrays[name])
    np.testing.assert_allclose(feed(session, grown, [9], 4), feed(session, large, [9], 4), atol=1e-6)


def test_caches_of_several_budgets_live_side_by_side(session: OnnxRuntimeSession) -> None:
    budgets = session.bundle.budgets
    alone = [feed(session, session.new_cache(b, 1, 8), [3, 1, 4]) for b in budgets]
    caches = [session.new_cache(b, 1, 8) for b in budgets]
    for cache in caches:
        feed(session, cache, [3, 1])
    together = [feed(session, cache, [4], 2) for cache in caches]
    np.testing.assert_allclose(together, alone, atol=1e-5)
    assert min(np.abs(a - b).max() for a, b in pairwise(alone)) > 1e-3


def test_every_layout_gives_the_same_logits(bundle: Bundle) -> None:
    for budget in bundle.budgets:
        logits = []
        for layout in LAYOUTS:
            session = open_session(bundle, layout=layout, threads=1)
            logits.append(feed(session, session.new_cache(budget, 1, 8), [1, 2, 3, 4]))
        np.testing.assert_allclose(logits[1:], [logits[0]] * 2, atol=1e-5)


def test_panels_serve_every_budget_with_one_session(bundle: Bundle) -> None:
    session = open_session(bundle, layout="panels", threads=1)
    for budget in bundle.budgets:
        feed(session, session.new_cache(budget, 1, 8), [1])
    assert len(session._sessions) == 1


def test_per_budget_graphs_are_loaded_when_they_are_needed(bundle: Bundle) -> None:
    session = open_session(bundle, layout="per-budget", threads=1)
    assert session._sessions == {}
    feed(session, session.new_cache(bundle.budgets[3], 1, 8), [1])
    assert list(session._sessions) == [bundle.graph("per-budget", "fp32", bundle.budgets[3].name)]


def test_shared_weights_are_prefixes_of_the_mapped_file(bundle: Bundle) -> None:
    session = open_session(bundle, layout="shared", threads=1)
    mapped = session._weights
    assert mapped is not None
    for budget in bundle.budgets:
        shapes = weight_shapes(bundle.architecture, budget)
        bound = session._budget_weights(budget)
        assert set(bound) == set(shapes)
        for name, array in bound.items():
            # The runtime is given the address of the first row in the file's mapping: no private copy.
            assert array.shape == shapes[name] and array.flags.c_contiguous
            assert array.ctypes.data == mapped[name].ctypes.data
        base = mapped["layers.0.q"]
        while not isinstance(base, np.memmap):
            base = base.base


def test_a_layout_or_precision_that_was_not_exported_is_named(bundle: Bundle) -> None:
    with pytest.raises(BundleError, match=r"no panels graph in fp16(.|\n)*--layout panels --dtype fp16"):
        open_session(bundle, dtype="fp16")
    with pytest.raises(BundleError, match="no routed graph"):
        onnxruntime_cpu.check(bundle, "routed", "fp32")


@pytest.mark.parametrize("name", TARGETS)
def test_every_target_offers_what_the_protocol_says(name: str) -> None:
    found = get_target(name)
    wanted = [n for n in vars(Target) if not n.startswith("_")]
    assert {"DEFAULT_LAYOUT", "LOW_MEMORY", "check", "build", "open_session", "device"} <= set(wanted)
    assert all(n in dir(found) for n in wanted)


def damaged_copy(bundle: Bundle, out: Path) -> Bundle:
    shutil.copytree(bundle.path, out)
    return Bundle.open(out)


@pytest.mark.parametrize("damage", ["truncated", "no graph", "range beyond the weights", "unknown operator"])
def test_a_damaged_graph_is_refused_by_name(bundle: Bundle, tmp_path: Path, damage: str) -> None:
    copy = damaged_copy(bundle, tmp_path / "bundle")
    path = copy.graph("panels", "fp32")
    if damage == "truncated":
        path.write_bytes(path.read_bytes()[:-1000])
    elif damage == "no graph":
        path.write_bytes(b"not a protobuf")
    else:
        model = onnx.load(path, load_external_data=False)
        if damage == "unknown operator":
            model.graph.node[0].op_type = "Teleport"
        else:
            tensor = next(t for t in model.graph.initializer if t.external_data)
            next(e for e in tensor.external_data if e.key == "offset").value = str(1 << 40)
        path.write_bytes(model.SerializeToString())
    with pytest.raises(TargetError, match=r"refuses .*panels\.fp32\.onnx"):
        open_session(copy, threads=1)


def test_a_weights_file_that_vanished_is_refused_by_name(bundle: Bundle, tmp_path: Path) -> None:
    copy = damaged_copy(bundle, tmp_path / "bundle")
    (copy.path / weights_file("fp32")).unlink()
    with pytest.raises(TargetError, match=r"weights\.fp32\.safetensors"):
        open_session(copy, threads=1)
    with pytest.raises(BundleError, match=r"weights\.fp32\.safetensors cannot be read"):
        open_session(copy, layout="shared", threads=1)


@pytest.mark.parametrize(
    ("token", "slot"), [(9999, 0), (1, 8), (1, -1)], ids=["no such token", "beyond the cache", "before the cache"]
)
def test_a_call_out_of_range_is_an_error_and_changes_no_memory_around(
    session: OnnxRuntimeSession, token: int, slot: int
) -> None:
    cache = session.new_cache(session.bundle.budgets[0], 1, 8)
    with pytest.raises(TargetError, match=r"cannot run (.|\n)*out of range"):
        session.step(cache, np.array([[token]]), np.array([[0]]), np.array([slot]), np.array([0]))
    assert not any(array.any() for array in cache.arrays.values())


def test_a_narrowed_cache_is_the_same_memory(session: OnnxRuntimeSession) -> None:
    wide, narrow = session.bundle.budget("full"), session.bundle.budget("p34")
    cache = session.new_cache(wide, 1, 16)
    feed(session, cache, [1, 2, 3])
    view = session.narrowed(cache, narrow)
    feed(session, view, [4], 3)
    for name, array in cache.arrays.items():
        groups = view.arrays[name].shape[1]
        assert np.shares_memory(array, view.arrays[name]) and groups < array.shape[1]
        assert array[:, :groups, 3].all() and not array[:, groups:, 3].any()


def test_routed_tokens_share_no_cache_between_budgets(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    session = open_session(bundle, layout="panels", threads=1)
    cache = session.new_cache(bundle.budgets[0], 1, 16)
    monkeypatch.setattr(session, "layout", "routed")
    with pytest.raises(TargetError, match="Layout routed cannot run two budgets"):
        session.narrowed(cache, bundle.budgets[1])
