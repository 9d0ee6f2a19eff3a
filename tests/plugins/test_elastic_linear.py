"""ElasticLinear, ElasticFeedForward: the reference against torch, the kernels (on the CPU) against the reference."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from flextron_export.elastic.tensors import TensorSpec
from flextron_export.errors import InputError
from flextron_export.graph.operators.elastic_linear import dequantize
from flextron_export.graph.schemes import LinearGroups
from flextron_export.plugins import Plugins

from .elastic_linear_cases import CASES, WEIGHTS, Case, draw, inputs, load, reference
from .elastic_linear_run import differences, parameters
from .running import STORAGE

VECTORS = load()


def torch_output(case: Case, data: dict[str, np.ndarray]) -> np.ndarray:
    """The same with torch's linear layers, one token at a time with the weights cut to its rows, in float64."""
    linear = torch.nn.functional.linear
    weights = {
        name: torch.from_numpy(dequantize(data[name], data.get(f"{name}_scales"), case.bits, down=name == "down"))
        for name in WEIGHTS if name in data
    }  # fmt: skip
    tensors = {name: torch.from_numpy(x).double() for name, x in data.items() if x.dtype.kind == "f"}
    active = data["active_rows"] if data["active_rows"].ndim == 2 else data["active_rows"][:, None]
    active = np.broadcast_to(active, (case.batch, case.length)).clip(0, case.rows)
    output = torch.zeros(data["output"].shape, dtype=torch.float64)

    def up(name: str, x: torch.Tensor, d: int) -> torch.Tensor:
        bias = tensors.get(f"{name}_bias")
        return linear(x, weights[name][:d], None if bias is None else bias[:d])

    for b, s in np.ndindex(case.batch, case.length):
        d, x = int(active[b, s]), tensors["input"][b, s]
        if case.operation == "outputs":
            output[b, s, :d] = up("up", x, d)
            continue
        if case.operation == "feed_forward":
            gated = up("gate", x, d)
            silu = case.activation == "silu"
            gated = torch.nn.functional.silu(gated) if silu else torch.nn.functional.gelu(gated, approximate="tanh")
            x = gated * up("up", x, d)
        output[b, s] = linear(x[:d], weights["down"][:d].T)
        if case.addend:
            output[b, s] += tensors["addend"][b, s] if case.addend == "token" else tensors["addend"]
    return output.numpy()


@pytest.mark.parametrize("name", [case.name for case in CASES])
def test_the_vectors_are_what_torch_computes(name: str) -> None:
    case, data = VECTORS[name]
    np.testing.assert_allclose(data["output"], torch_output(case, data), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("name", [case.name for case in CASES])
def test_the_vectors_are_what_the_reference_computes(name: str) -> None:
    case, data = VECTORS[name]
    np.testing.assert_allclose(data["output"], reference(case, data), rtol=1e-6, atol=1e-6)


def test_four_bits_hold_every_integer_from_minus_8_to_7() -> None:
    packed = np.array([[(k & 15) | ((-k - 1) & 15) << 4 for k in range(-8, 8)]], np.uint8)
    values = dequantize(packed, np.array([[0.5]]), 4)
    np.testing.assert_array_equal(values[0, ::2], np.arange(-8, 8) / 2)
    np.testing.assert_array_equal(values[0, 1::2], -np.arange(-7, 9) / 2)


@pytest.mark.parametrize("down", [False, True])
def test_the_first_groups_of_rows_are_those_of_a_narrower_matrix(down: bool) -> None:
    draw = np.random.default_rng(0)
    weight = draw.integers(-128, 128, (96, 64), np.int8)
    scales = draw.random((3, 64) if down else (96, 2))
    whole = dequantize(weight, scales, 8, down=down)
    narrow = dequantize(weight[:64], scales[:2] if down else scales[:64], 8, down=down)
    np.testing.assert_array_equal(narrow, whole[:64])


@pytest.mark.parametrize("name", ["up", "down"])
def test_the_operators_take_matrices_as_they_lie_in_a_bundle_of_int4_fp16(name: str) -> None:
    scheme = LinearGroups(bits=4, group_size=32)
    spec = TensorSpec(f"layers.0.{name}", "", (96, 64), 0, "neurons", transposed=name == "down")
    weights = np.random.default_rng(0).standard_normal(spec.shape).astype(np.float32)
    values, scales = scheme.encode(spec, weights).values()
    taken = dequantize(values, scales, 4, down=name == "down")
    np.testing.assert_array_equal(taken.astype(np.float32), scheme.decode(spec, values, scales))


def test_the_kernels_pass_the_vectors_in_every_type(plugins: Plugins) -> None:
    found = {
        f"{data_type}, {case.name}": problems
        for case, data in VECTORS.values()
        for data_type in STORAGE
        if (problems := differences(plugins, case, data, data_type))
    }
    assert not found


@pytest.mark.parametrize("seed", range(12))
def test_the_kernels_agree_with_the_reference_on_random_shapes(plugins: Plugins, seed: int) -> None:
    source = np.random.default_rng(seed)
    bits = int(source.choice([0, 8, 4]))
    batch, length, groups, rows = (int(source.integers(low, high)) for low, high in ((1, 4), (1, 24), (1, 5), (1, 20)))
    operation = ("feed_forward", "outputs", "inputs")[seed % 3]
    rows *= 64 if bits else 8
    case = Case(
        f"seed {seed}", operation, batch, length, groups * 64, rows,
        source.integers(-1, rows + 3, (batch, length)).tolist(), str(source.choice(["silu", "gelu_tanh"])),
        bits, int(source.choice([32, 64])) if bits else 0, bool(source.integers(2)),
        str(source.choice(["", "token", "all"])) if operation != "outputs" else "",
    )  # fmt: skip
    data = inputs(case, draw(case, source))
    data["output"] = reference(case, data).astype(np.float32)
    for data_type in STORAGE:
        assert differences(plugins, case, data, data_type) == []


@pytest.mark.parametrize("name", ["decode, residual", "decode, sum over several blocks", "prefill"])
def test_a_residual_can_be_updated_in_place(plugins: Plugins, name: str) -> None:
    case, data = VECTORS[name]
    arrays = {key: x.astype(np.float16) if x.dtype.kind == "f" else x for key, x in data.items()}
    arrays["output"] = arrays["addend"]
    p = parameters(case, "float16", data["active_rows"], **{key: x.ctypes.data for key, x in arrays.items()})
    workspace = np.zeros(plugins.workspace(p) // 4, np.float32)
    plugins.run(p, workspace.ctypes.data, workspace.nbytes)
    np.testing.assert_allclose(arrays["output"], data["output"], atol=2e-3 * np.abs(data["output"]).max())


NAMES = ("input", "gate", "up", "down", "output", "active_rows")


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("size", 8, "size"),
        ("rows", 0, "must be positive"),
        ("operation", 3, "operation"),
        ("multiprocessors", -1, "must not be negative"),
        ("addend_token_stride", 3, "addend_token_stride"),
        ("group_size", 32, "group_size must divide the inputs"),
        ("data_type", 9, "data_type"),
        ("weight_type", 3, "weight_type"),
        ("activation", 2, "activation"),
        ("hidden", 40, "multiples of 32"),
        ("rows", 12, "multiples of 8"),
        ("rows", 1 << 18, "at most"),
        ("gate", 0, "weights of the operation"),
        ("up_scales", 16, "scales"),
        ("up_bias", 8, "aligned to 16 bytes"),
        ("output", 8, "aligned to 16 bytes"),
        ("active_rows", 0, "must not be null"),
    ],
)
def test_unusable_arguments_are_refused_by_name(plugins: Plugins, field: str, value: int, message: str) -> None:
    case, data = VECTORS["decode"]
    p = parameters(case, "float32", data["active_rows"], **dict.fromkeys(NAMES, 16))  # never dereferenced
    setattr(p, field, value)
    with pytest.raises(InputError, match=message):
        plugins.run(p, 16, 1 << 30)


def test_a_workspace_that_is_too_small_is_refused(plugins: Plugins) -> None:
    case, data = VECTORS["decode, sum over several blocks"]
    p = parameters(case, "float16", data["active_rows"], **dict.fromkeys(NAMES, 16))
    needed = plugins.workspace(p)
    assert needed > case.rows * 2  # the activations between the halves, and parts
    with pytest.raises(InputError, match="workspace: smaller"):
        plugins.run(p, 16, needed - 1)
