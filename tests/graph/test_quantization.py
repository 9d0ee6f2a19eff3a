"""Quantised matrices: rounding, slicing, one copy of a tied embedding, and graphs that compute what they mean."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flextron_export.bundle.golden import read_golden
from flextron_export.bundle.manifest import Bundle, weights_file
from flextron_export.bundle.memory import weight_bytes
from flextron_export.elastic.tensors import OUTPUTS, rows, tensor_specs
from flextron_export.elastic.widths import LayerWidth
from flextron_export.errors import BundleError, CheckpointError, InputError, TargetError, VerificationError
from flextron_export.exporting import export
from flextron_export.files import read_object, write_json
from flextron_export.graph import matrices
from flextron_export.graph.contract import BITS, DTYPES
from flextron_export.graph.quantization import SCALE
from flextron_export.graph.rounding import round_groups
from flextron_export.graph.schemes import BlockGroups, Groups
from flextron_export.targets.onnxruntime_cpu import open_session
from flextron_export.targets.verify import verify
from tests.elastic_models import MODELS, elastic_model, routed_model
from tests.random_bundle import write_manifest

from .conftest import Exported
from .test_graphs import initializers

LAYOUTS = ("panels", "per-budget")
BLOCKS = ("int8", "int4")
"""For ONNX Runtime on CPU: MatMulNBits."""
LINEAR = ("int8-fp16", "int4-fp16", "fp8-fp16")
"""For TensorRT: DequantizeLinear."""


def quantized(kind: str, directory: Path, **options: Any) -> Exported:
    checkpoint = elastic_model(directory / "checkpoint", **MODELS[kind])
    options = {"verify": False, "dtypes": tuple(BITS), **options}
    bundle = export(checkpoint.path, directory / "bundle", **options)
    return Exported(checkpoint, bundle)


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Exported:
    return quantized("grouped", tmp_path_factory.mktemp("quantized"))


@pytest.mark.parametrize("bits", [4, 8])
def test_rounding_loses_less_than_to_the_nearest_of_symmetric_steps(bits: int) -> None:
    groups = np.random.default_rng(0).standard_normal((500, 32)).astype(np.float32)
    most = (1 << (bits - 1)) - 1
    step = np.abs(groups).max(-1, keepdims=True) / most
    nearest = np.rint(groups / step) * step
    for positive in (False, True):
        integers, scales = round_groups(groups, bits, positive=positive)
        assert integers.min() >= -most - 1 and integers.max() <= most
        assert np.square(groups - integers * scales[:, None]).sum() < 0.92 * np.square(groups - nearest).sum()
    assert scales.min() > 0


@given(
    st.sampled_from([4, 8]),
    st.floats(-1e30, 1e30, allow_subnormal=True).map(np.float32),
    st.lists(st.integers(-8, 7), min_size=16, max_size=16),
)
def test_what_integers_can_say_is_kept(bits: int, scale: np.float32, integers: list[int]) -> None:
    """Such as zeros, one value among zeros, subnormal and very large weights."""
    if -8 not in integers:
        integers[0] = -8
    groups = (scale * np.array([integers])).astype(np.float32)
    found, scales = round_groups(groups * (16 if bits == 8 else 1), bits)
    assert np.isfinite(scales).all()
    np.testing.assert_allclose(found * scales[:, None], groups * (16 if bits == 8 else 1), rtol=1e-5, atol=1e-44)


@pytest.mark.parametrize("dtype", BITS)
def test_slicing_before_dequantising_is_slicing_after_it(small: Exported, dtype: str) -> None:
    bundle, weights = small.bundle, small.bundle.weights(dtype)
    quantization = bundle.quantization[dtype]
    sliced = 0
    for spec in tensor_specs(bundle.architecture):
        if not quantization.quantizes(spec):
            assert weights.tensors[spec.name].dtype == DTYPES[dtype]
            continue
        values, scales = weights[spec.name], weights[spec.name + SCALE]
        whole = quantization.decode(spec, values, scales)
        assert whole.shape == spec.shape
        if spec.rows is None:
            continue
        for n in bundle.candidates.neurons if spec.rows == "neurons" else bundle.candidates.groups:
            count = rows(bundle.architecture, spec.rows, LayerWidth(n, n))
            used = {name: tensor.active(count)[0] for name, tensor in quantization.stored(spec).items()}
            part = quantization.decode(spec, values[: used[spec.name]], scales[: used[spec.name + SCALE]])
            np.testing.assert_array_equal(part, whole[:count], err_msg=spec.name)
            sliced += 1
    assert sliced == 2 * (4 * 3 + 3 * 4)


@pytest.mark.parametrize("dtype", LINEAR)
def test_channels_too_small_for_float16_scales_become_zeros(small: Exported, dtype: str) -> None:
    quantization = small.bundle.quantization[dtype]
    for spec in tensor_specs(small.bundle.architecture):
        if quantization.quantizes(spec):
            weights = np.random.default_rng(0).standard_normal(spec.shape).astype(np.float32)
            weights[:16] *= 1e-12
            weights[:, -16:] *= 1e-12
            weights[16:32] = 0
            made = quantization.encode(spec, weights)
            assert (made[spec.name + SCALE] > 0).all()
            found = quantization.decode(spec, made[spec.name], made[spec.name + SCALE])
            small_ones = np.abs(weights) < 1e-9
            np.testing.assert_allclose(found[small_ones], 0, atol=1e-7, err_msg=spec.name)
            assert np.linalg.norm(found - weights) < 0.13 * np.linalg.norm(weights)


def test_weights_too_large_for_float16_scales_are_refused(small: Exported, tmp_path: Path) -> None:
    from tests.bundle.test_export import DOWN, with_weight

    large = with_weight(small.checkpoint, tmp_path / "large", DOWN, 3e7)
    for dtype in ("int4-fp16", "fp8-fp16"):
        with pytest.raises(CheckpointError, match=rf"{DOWN} has .* not finite in {dtype}(.|\n)*too large for {dtype}"):
            export(large, tmp_path / "out", dtypes=[dtype], verify=False)
    export(large, tmp_path / "out", dtypes=["int4"], verify=False)


@pytest.mark.parametrize("dtype", BITS)
def test_o_and_down_have_their_groups_along_the_input(small: Exported, dtype: str) -> None:
    """So that an output neuron's weights share scales, as the kernels of every runtime want it."""
    quantization = small.bundle.quantization[dtype]
    for spec in tensor_specs(small.bundle.architecture):
        if quantization.quantizes(spec):
            output = spec.name.rsplit(".", 1)[-1] in OUTPUTS
            weights = np.zeros(spec.shape, np.float32)
            weights[(slice(None), 3) if output else 3] = 5
            scales = quantization.encode(spec, weights)[spec.name + SCALE]
            inputs = spec.shape[0 if output else 1]
            size = quantization.group_size if isinstance(quantization, Groups) else inputs
            assert (scales != 1).sum() == inputs // size, spec.name


@pytest.mark.parametrize("kind", ["grouped", *(pytest.param(k, marks=pytest.mark.slow) for k in MODELS)])
def test_graphs_for_onnxruntime_compute_what_the_rounded_model_computes(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In float arithmetic exactly; as shipped, tokens are rounded to 8 bits on the way."""
    monkeypatch.setattr(matrices, "INT8_ARITHMETIC", 1)
    exact = quantized(kind, tmp_path / "exact", dtypes=BLOCKS)
    checks = verify(exact.bundle.path, checkpoint=exact.checkpoint.path)
    assert {(c.dtype, c.layout) for c in checks} == {(dtype, layout) for dtype in BLOCKS for layout in LAYOUTS}
    assert {c.budget for c in checks} == {"full", "tapered", "crossed", "small"}
    assert max(c.difference for c in checks) < 1e-5
    monkeypatch.undo()
    shipped = quantized(kind, tmp_path / "shipped", dtypes=BLOCKS, verify=True)
    checks = verify(shipped.bundle.path)
    assert 1e-3 < max(c.difference for c in checks) < 0.03
    assert all(c.tokens_compared > 0 for c in checks)


@pytest.mark.parametrize("kind", ["gpt2", *(pytest.param(k, marks=pytest.mark.slow) for k in MODELS)])
def test_graphs_for_tensorrt_compute_what_the_rounded_model_computes(kind: str, tmp_path: Path) -> None:
    """In half precision, on ONNX Runtime, which knows their operators too."""
    found = quantized(kind, tmp_path, dtypes=LINEAR)
    checks = verify(found.bundle.path, checkpoint=found.checkpoint.path)
    layouts = {"int4-fp16": LAYOUTS, "int8-fp16": (*LAYOUTS, "shared"), "fp8-fp16": (*LAYOUTS, "shared")}
    assert {(c.dtype, c.layout) for c in checks} == {(d, layout) for d, names in layouts.items() for layout in names}
    assert max(c.difference for c in checks) < 5e-3
    assert all(c.tokens_compared > 0 for c in checks)


@pytest.mark.slow
def test_routed_graphs_for_tensorrt_make_the_choices_of_the_rounded_model(tmp_path: Path) -> None:
    checkpoint = routed_model(tmp_path / "checkpoint")
    bundle = export(checkpoint.path, tmp_path / "bundle", dtypes=LINEAR, layouts=["routed"])
    assert {c.dtype for c in verify(bundle.path, checkpoint=checkpoint.path)} == set(LINEAR)


def test_what_rounding_changes_is_more_in_fewer_bits(small: Exported, tmp_path: Path) -> None:
    """The references are those of the rounded weights, and differ from the model's own accordingly."""
    bundle = export(small.checkpoint.path, tmp_path / "bundle", dtypes=("fp32", *BLOCKS), layouts=["panels"])
    exact, eight, four = (read_golden(bundle, dtype)["full"].logits[:, 0] for dtype in ("fp32", "int8", "int4"))
    scale = np.abs(exact).max()
    assert 0 < 10 * np.abs(eight - exact).max() < np.abs(four - exact).max() < 0.5 * scale


@pytest.mark.parametrize("dtype", BLOCKS)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_tied_embedding_is_one_range_of_the_file(small: Exported, layout: str, dtype: str) -> None:
    assert small.bundle.architecture.tied
    graph = onnx.load(small.bundle.graph(layout, dtype, "full"), load_external_data=False).graph
    places = {
        t.name: {e.key: e.value for e in t.external_data} for t in initializers(graph) if t.name.startswith("embedding")
    }
    assert set(places) == {"embedding", "embedding.rows", "embedding.scale"}
    assert places["embedding"] == places["embedding.rows"]
    assert places["embedding"]["location"] == weights_file(dtype)
    sizes = {dtype: small.bundle.files[weights_file(dtype)].bytes for dtype in BITS}
    assert sizes["int4"] < 0.62 * sizes["int8"] and sizes["int4-fp16"] < 0.62 * sizes["fp8-fp16"]


@pytest.mark.parametrize("dtype", BLOCKS)
def test_all_matrices_are_multiplied_as_integers(small: Exported, dtype: str) -> None:
    graph = onnx.load(small.bundle.graph("per-budget", dtype, "small"), load_external_data=False).graph
    kinds = [node.op_type for node in graph.node]
    assert kinds.count("MatMulNBits") == 2 * 7 + 1
    assert kinds.count("GatherBlockQuantized") == 1
    assert "Gemm" not in kinds


@pytest.mark.parametrize("dtype", LINEAR)
def test_all_matrices_stay_small_in_graphs_for_tensorrt(small: Exported, dtype: str) -> None:
    graph = onnx.load(small.bundle.graph("per-budget", dtype, "small"), load_external_data=False).graph
    kinds = [node.op_type for node in graph.node]
    assert kinds.count("DequantizeLinear") == 2 * 7 + 1 + 1  # the embedding for tokens and for logits
    element = {
        "int4-fp16": onnx.TensorProto.INT4,
        "int8-fp16": onnx.TensorProto.INT8,
        "fp8-fp16": onnx.TensorProto.FLOAT8E4M3FN,
    }[dtype]
    matrices = [t for t in initializers(graph) if t.external_data and t.data_type == element]
    assert len(matrices) == 2 * 7 + 1
    assert all(
        ".norm" in t.name or t.name.endswith(("norm", SCALE)) or t in matrices or not t.external_data
        for t in initializers(graph)
    )


def test_the_bytes_of_a_budget_are_those_of_its_stored_rows(small: Exported) -> None:
    for dtype in BITS:
        tensors = small.bundle.weights(dtype).tensors.values()
        assert weight_bytes(small.bundle, dtype, small.bundle.budget("full")) == sum(t.length for t in tensors)
    full, least = (weight_bytes(small.bundle, "int4", small.bundle.budget(name)) for name in ("full", "small"))
    # Everything that is elastic: 2 layers of q, k, v and o at half their groups, gate, up and down at a quarter.
    weights = 2 * 64 * (2 * 64 + 2 * 32 + 3 * 96)
    assert full - least == weights // 2 + weights // small.bundle.quantization["int4"].group_size * 4


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"layouts": ["shared"], "dtypes": ["int4"]}, "layout shared does not exist in int4"),
        ({"layouts": ["shared", "panels"], "dtypes": ["int8"]}, "layout shared does not exist in int8"),
        ({"layouts": ["shared"], "dtypes": ["int4", "fp32"]}, "int4 exists in panels, per-budget only"),
        ({"layouts": ["shared"], "dtypes": ["int4-fp16"]}, "layout shared does not exist in int4-fp16"),
        ({"dtypes": ["int4-fp16"], "group_size": 64}, r"Precision int4-fp16 .* candidate of 3 groups \(96 channels\)"),
        ({"dtypes": ["int8-fp16"], "group_size": 32}, "No precision has groups of 32 weights"),
        ({"group_size": 24}, "groups of 24 weights: it is none of 16, 32, 64, 128, 256"),
        ({"group_size": 0}, "groups of 0 weights: it is none of"),
        (
            {"group_size": 64},
            r"groups of 64 weights: candidate of 3 groups \(96 channels\) is no multiple of it; .*32 neurons",
        ),
        ({"group_size": 256}, "hidden size 64 is no multiple"),
        ({"group_size": 32, "dtypes": ["fp32"]}, "No precision has groups of 32 weights"),
    ],
)
def test_what_cannot_be_quantised_is_refused_by_name(
    small: Exported, tmp_path: Path, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        export(small.checkpoint.path, tmp_path / "out", **{"dtypes": ["int4"], "verify": False, **options})
    assert list(tmp_path.iterdir()) == []


def test_widths_that_no_group_divides_are_named(tmp_path: Path) -> None:
    checkpoint = elastic_model(tmp_path / "checkpoint", hidden=40, head_dim=20)
    with pytest.raises(InputError, match=r"groups of 16 weights: hidden size 40 .*3 groups \(120 channels\)"):
        export(checkpoint.path, tmp_path / "out", dtypes=["int4"], verify=False)


def test_a_group_size_that_is_given_is_kept(small: Exported, tmp_path: Path) -> None:
    bundle = export(small.checkpoint.path, tmp_path / "out", dtypes=["int4"], group_size=16)
    assert Bundle.open(bundle.path).quantization == {"int4": BlockGroups(4, 16)}
    assert verify(bundle.path)


def test_they_do_not_run_from_the_mapped_file(small: Exported) -> None:
    for dtype in BLOCKS:
        with pytest.raises(TargetError, match=f"{dtype} does not run with its weights left in the mapped file"):
            open_session(small.bundle, dtype=dtype, low_memory=True)


def test_weights_that_are_not_finite_are_refused(small: Exported, tmp_path: Path) -> None:
    from tests.bundle.test_export import DOWN, with_weight

    damaged = with_weight(small.checkpoint, tmp_path / "damaged", DOWN, np.nan)
    with pytest.raises(CheckpointError, match=f"{DOWN} has values that are not finite"):
        export(damaged, tmp_path / "out", dtypes=["int4"], verify=False)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (None, "how int4 is quantised is missing"),
        ({"int4": {}}, "KeyError"),
        ({"int4": {"group_size": "32"}}, "damaged"),
        ({"int4": {"group_size": 128}}, "int4 has groups of 128: hidden size 64 is no multiple of it"),
        ({"int4": {"group_size": -32}}, "it is none of 16"),
        ({"int5": {"group_size": 32}}, "int5"),
        ([32], "damaged"),
    ],
)
def test_a_manifest_must_say_the_group_size(small: Exported, tmp_path: Path, value: Any, message: str) -> None:
    manifest = read_object(small.bundle.path / "manifest.json", BundleError)
    manifest["quantization"] = value
    write_json(tmp_path / "manifest.json", manifest)
    with pytest.raises(BundleError, match=message):
        Bundle.open(tmp_path)


def test_weights_of_another_group_size_do_not_fit(small: Exported, tmp_path: Path) -> None:
    bundle = export(small.checkpoint.path, tmp_path / "out", dtypes=["int4"], group_size=16, verify=False)
    manifest = read_object(bundle.path / "manifest.json", BundleError)
    manifest["quantization"]["int4"]["group_size"] = 32
    write_manifest(bundle.path, manifest)
    with pytest.raises(BundleError, match=r"embedding should be U8 \[\d+, 2, 16\]"):
        Bundle.open(bundle.path).weights("int4")


def test_matrices_that_are_not_the_checkpoints_are_found(
    small: Exported, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The reference has the weights of the bundle, so these are compared with the checkpoint's."""
    encode = BlockGroups.encode

    def wrong(self: BlockGroups, spec: Any, weights: np.ndarray) -> dict[str, np.ndarray]:
        return encode(self, spec, weights * 2 if spec.name == "layers.1.up" else weights)

    monkeypatch.setattr(BlockGroups, "encode", wrong)
    with pytest.raises(VerificationError, match=r"not those of the checkpoint: layers\.1\.up differs by 100%"):
        export(small.checkpoint.path, tmp_path / "out", dtypes=["int8"])
