"""Exported graphs compute what the sliced torch model computes, and hold no weights of their own."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import pytest

from flextron_export.bundle.manifest import weights_file
from flextron_export.elastic.checkpoint import ModelWeights
from flextron_export.elastic.model import load_model, narrowed
from flextron_export.elastic.tensors import tensor_specs
from flextron_export.elastic.widths import Budget
from flextron_export.exporting import export
from flextron_export.graph.contract import LAYOUTS
from flextron_export.targets.onnxruntime_cpu import open_session
from flextron_export.targets.verify import BATCH, MODES, TOLERANCE, run_in_steps, verify
from tests.elastic_models import elastic_model

from .conftest import Exported

GRAPHS = [(layout, dtype) for layout in LAYOUTS for dtype in ("fp32", "fp16")]


def test_every_graph_computes_what_the_sliced_model_computes(model: Exported) -> None:
    checks = verify(model.bundle.path, checkpoint=model.checkpoint.path)
    done = {(c.layout, c.dtype, c.budget, c.mode, c.batch) for c in checks}
    assert done == {
        (layout, dtype, budget.name, mode, batch)
        for layout, dtype in GRAPHS
        for budget in model.bundle.budgets
        for mode in MODES
        for batch in (1, BATCH)
    }
    assert max(c.difference for c in checks if c.dtype == "fp32") < 1e-5
    assert all(c.tokens_compared > 0 for c in checks if c.dtype == "fp32")


def test_sub_networks_of_the_tiny_model_differ_from_one_another(grouped: Exported) -> None:
    ids = np.arange(1, 13)[None]
    session = open_session(grouped.bundle, threads=1)
    logits = [run_in_steps(session, budget, ids, 12)[0][1] for budget in grouped.bundle.budgets]
    assert min(np.abs(a - b).max() for i, a in enumerate(logits) for b in logits[:i]) > 0.1


@pytest.mark.parametrize(("layout", "dtype"), GRAPHS)
def test_sequences_of_a_batch_may_have_different_lengths(grouped: Exported, layout: str, dtype: str) -> None:
    """A padded prefill, a piece of two tokens and a decode step, each sequence at its own position."""
    budget = grouped.bundle.budget("crossed")
    draw = np.random.default_rng(0)
    lengths = np.array([3, 7, 5])
    sequences = draw.integers(0, 260, (3, 10))
    session = open_session(grouped.bundle, layout=layout, dtype=dtype, threads=1)
    cache = session.new_cache(budget, 3, 16)
    found = []
    padded = np.where(np.arange(7) < lengths[:, None], sequences[:, :7], 0)
    last = np.arange(3) * 7 + lengths - 1
    prefill = session.step(cache, padded, np.tile(np.arange(7), (3, 1)), np.zeros(3, np.int64), last)
    found.append(prefill.copy())
    for count in (2, 1):
        positions = lengths[:, None] + np.arange(count)
        ids = np.take_along_axis(sequences, positions, axis=1)
        last = np.arange(3) * count + count - 1
        found.append(session.step(cache, ids, positions, lengths, last).copy())
        lengths = lengths + count
    expected = [reference(grouped, budget, sequences[b])[[n - 4, n - 2, n - 1]] for b, n in enumerate(lengths)]
    scale = np.abs(expected).max()
    np.testing.assert_allclose(np.stack(found, axis=1), expected, rtol=0, atol=TOLERANCE[dtype] * scale)


def reference(grouped: Exported, budget: Budget, ids: np.ndarray) -> np.ndarray:
    import torch

    torch_model = load_model(grouped.checkpoint.path)
    with torch.inference_mode(), narrowed(torch_model, grouped.checkpoint.architecture, budget):
        return torch_model(torch.from_numpy(ids)[None]).logits[0].numpy()


@pytest.mark.parametrize(("layout", "dtype"), GRAPHS)
def test_a_cache_larger_than_needed_changes_nothing(grouped: Exported, layout: str, dtype: str) -> None:
    session = open_session(grouped.bundle, layout=layout, dtype=dtype, threads=1)
    budget = grouped.bundle.budget("tapered")
    ids = np.arange(20, 32)[None]
    exact, large = (
        session.step(
            session.new_cache(budget, 1, capacity), ids, np.arange(12)[None], np.zeros(1, np.int64), np.arange(12)
        ).copy()
        for capacity in (12, 111)
    )
    atol = (1e-5 if dtype == "fp32" else 5e-3) * np.abs(exact).max()
    np.testing.assert_allclose(large, exact, rtol=0, atol=atol)


@pytest.mark.parametrize("layout", ["panels", "per-budget"])
@pytest.mark.parametrize("tokens", [1, 3])
def test_slots_beyond_the_live_ones_are_not_even_read(grouped: Exported, layout: str, tokens: int) -> None:
    """So that a short context does not pay for a large cache."""
    session = open_session(grouped.bundle, layout=layout, threads=1)
    budget, ids = grouped.bundle.budget("crossed"), np.arange(20, 32)[None]
    cache = session.new_cache(budget, 1, 50)
    for array in cache.arrays.values():
        array[...] = np.nan
    found = []
    for start in range(0, 12, tokens):
        at = np.arange(start, start + tokens)
        found.append(session.step(cache, ids[:, at], at[None], at[:1], np.arange(tokens)).copy())
    expected = reference(grouped, budget, ids[0])
    np.testing.assert_allclose(np.concatenate(found), expected, rtol=0, atol=1e-5 * np.abs(expected).max())


def test_heads_that_the_fast_kernel_does_not_take_run_with_the_standard_one(tmp_path: Path) -> None:
    checkpoint = elastic_model(tmp_path / "checkpoint", head_dim=12)
    bundle = export(checkpoint.path, tmp_path / "bundle", dtypes=["fp32"])  # which verifies every graph
    graph = load(Exported(checkpoint, bundle), "per-budget", "full")
    assert [n.op_type for n in graph.node].count("Attention") == checkpoint.architecture.num_layers


def test_logits_come_only_for_the_rows_asked_for_and_in_their_order(grouped: Exported) -> None:
    session = open_session(grouped.bundle, threads=1)
    budget = grouped.bundle.budget("small")
    ids, positions = np.arange(8).reshape(2, 4), np.tile(np.arange(4), (2, 1))

    def step(rows: list[int]) -> np.ndarray:
        return session.step(
            session.new_cache(budget, 2, 8), ids, positions, np.zeros(2, np.int64), np.array(rows)
        ).copy()

    everything = step(list(range(8)))
    np.testing.assert_allclose(step([6, 1, 1]), everything[[6, 1, 1]], atol=1e-5)


def test_graphs_are_valid_onnx_and_hold_no_weights(model: Exported, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(model.bundle.path)  # the checker wants to see the files that weights lie in
    for layout, dtype in GRAPHS:
        for path in set(model.bundle.graphs(layout, dtype).values()):
            proto = onnx.load(path, load_external_data=False)
            onnx.checker.check_model(proto)
            inside = [t for t in initializers(proto.graph) if not t.external_data]
            assert all(t.ByteSize() < 400 for t in inside), path
            assert path.stat().st_size < 100_000, path


def test_per_budget_graphs_refer_to_the_first_rows_of_every_weight(model: Exported) -> None:
    architecture, source = model.bundle.architecture, ModelWeights(model.checkpoint.path)
    for budget in model.bundle.budgets:
        weights = external(model, "per-budget", budget.name)
        for spec in tensor_specs(architecture):
            full = spec.take(source[spec.source])
            wanted = full[: spec.active(architecture, budget.layers)[0]]
            np.testing.assert_array_equal(weights[spec.name], wanted, err_msg=spec.name)


def test_panels_cut_every_elastic_weight_at_the_candidates(model: Exported) -> None:
    source, candidates = ModelWeights(model.checkpoint.path), model.bundle.candidates
    weights = external(model, "panels", "full")
    for spec in tensor_specs(model.bundle.architecture):
        full = spec.take(source[spec.source])
        if spec.rows is None:
            np.testing.assert_array_equal(weights[spec.name], full, err_msg=spec.name)
            continue
        widths = candidates.neurons if spec.rows == "neurons" else candidates.groups
        panels = [weights[f"{spec.name}.panel{b}"] for b in range(len(widths))]
        assert [len(p) for p in panels] == [len(full) * n // widths[-1] for n in np.diff(widths, prepend=0)]
        np.testing.assert_array_equal(np.concatenate(panels), full, err_msg=spec.name)


def test_the_weights_of_a_narrower_budget_lie_at_the_start_of_a_wider_ones(grouped: Exported) -> None:
    ranges = [
        {t.name: place(t) for t in initializers(load(grouped, "per-budget", budget.name)) if t.external_data}
        for budget in grouped.bundle.budgets
    ]
    full, small = ranges[0], ranges[-1]
    assert all(small[name][0] == full[name][0] and small[name][1] <= full[name][1] for name in full)
    assert small["layers.0.down"][1] * 4 == full["layers.0.down"][1]


def test_shared_graphs_take_every_weight_as_an_input(grouped: Exported) -> None:
    graph = load(grouped, "shared", "full")
    names = {spec.name for spec in tensor_specs(grouped.bundle.architecture)}
    assert names <= {v.name for v in graph.input}
    assert not any(t.external_data for t in initializers(graph))


def load(model: Exported, layout: str, budget: str) -> onnx.GraphProto:
    return onnx.load(model.bundle.graph(layout, "fp32", budget), load_external_data=False).graph


def initializers(graph: onnx.GraphProto) -> Iterator[onnx.TensorProto]:
    """Of the graph and of the branches inside."""
    yield from graph.initializer
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.HasField("g"):
                yield from initializers(attribute.g)


def place(tensor: onnx.TensorProto) -> tuple[int, int]:
    """Offset and length of an external tensor, in bytes."""
    entries = {e.key: e.value for e in tensor.external_data}
    assert entries["location"] == weights_file("fp32")
    return int(entries["offset"]), int(entries["length"])


def external(model: Exported, layout: str, budget: str) -> dict[str, np.ndarray]:
    """The bytes that a graph refers to, read at the offsets it states."""
    data = (model.bundle.path / weights_file("fp32")).read_bytes()
    found = {}
    for tensor in initializers(load(model, layout, budget)):
        if tensor.external_data:
            offset, length = place(tensor)
            found[tensor.name] = np.frombuffer(data[offset : offset + length], np.float32).reshape(tensor.dims)
    return found
