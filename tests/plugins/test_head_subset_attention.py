"""HeadSubsetAttention: the reference against torch, the kernels (run on the CPU) against the reference."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from flextron_export.errors import InputError
from flextron_export.graph.operators.head_subset_attention import head_subset_attention, rotate
from flextron_export.plugins import Plugins

from .head_subset_attention_cases import CASES, Case, inputs, load, shapes
from .head_subset_attention_run import differences, parameters
from .running import STORAGE

VECTORS = load()


def torch_attention(case: Case, data: dict[str, np.ndarray]) -> np.ndarray:
    """The same with torch's scaled_dot_product_attention and a mask, in float64."""
    query, key = data["query"].astype(np.float64), data["key"].astype(np.float64)
    if case.rotary:
        query, key = (rotate(x, data["cosine"], data["sine"]) for x in (query, key))
    caches = [np.nan_to_num(data[name]).astype(np.float64) for name in ("key_cache", "value_cache")]
    slots = np.arange(case.capacity)
    for b, past in enumerate(case.past):
        for cache, new in zip(caches, (key, data["value"]), strict=True):
            cache[b, :, past : past + case.length] = new[b].swapaxes(0, 1)
    positions = data["positions"][:, None, :, None]
    mask = (slots <= positions) & (slots > positions - (case.window or case.capacity))
    output = torch.nn.functional.scaled_dot_product_attention(
        torch.from_numpy(query).transpose(1, 2),
        *(torch.from_numpy(cache) for cache in caches),
        attn_mask=torch.from_numpy(mask),
        scale=case.scale or None,
        enable_gqa=True,
    )
    active = data["active_groups"]
    active = np.broadcast_to(active if active.ndim == 2 else active[:, None], (len(case.past), case.length))
    group = np.arange(case.groups * case.heads_per_group) // case.heads_per_group
    return output.transpose(1, 2).numpy() * (group < active[:, :, None])[..., None]


@pytest.mark.parametrize("name", [case.name for case in CASES])
def test_the_vectors_are_what_torch_computes(name: str) -> None:
    case, data = VECTORS[name]
    np.testing.assert_allclose(data["output"], torch_attention(case, data), atol=1.3e-4)


@pytest.mark.parametrize("name", [case.name for case in CASES])
def test_the_vectors_are_what_the_reference_computes(name: str) -> None:
    case, data = VECTORS[name]
    arguments = {key: x for key, x in data.items() if key != "output"}
    output, _, _ = head_subset_attention(**arguments, window=case.window, scale=case.scale)
    np.testing.assert_allclose(data["output"], output, atol=1.3e-4)


def test_a_slot_outside_the_cache_is_dropped() -> None:
    case, data = VECTORS["decode"]
    arguments = {key: x for key, x in data.items() if key != "output"} | {"write": np.array([case.capacity])}
    arguments["positions"] = np.array([[8]])  # sees only the past
    _, key_cache, value_cache = head_subset_attention(**arguments)
    np.testing.assert_array_equal(key_cache, data["key_cache"])
    np.testing.assert_array_equal(value_cache, data["value_cache"])


def test_the_kernels_pass_the_vectors_in_every_type(plugins: Plugins) -> None:
    found = {
        f"{data_type}, {case.name}": problems
        for case, data in VECTORS.values()
        for data_type in STORAGE
        if (problems := differences(plugins, case, data, data_type))
    }
    assert not found


@pytest.mark.parametrize("seed", range(8))
def test_the_kernels_agree_with_the_reference_on_random_shapes(plugins: Plugins, seed: int) -> None:
    draw = np.random.default_rng(seed)
    batch, length, groups = (int(draw.integers(low, high)) for low, high in ((1, 4), (1, 20), (1, 4)))
    past = tuple(int(x) for x in draw.integers(0, 60, batch))
    capacity = max(past) + length + int(draw.integers(0, 100))
    case = Case(
        f"seed {seed}", groups, int(draw.integers(1, 5)), 64, capacity, past, length,
        draw.integers(-1, groups + 2, (batch, length)).tolist(), int(draw.choice([0, 7])), bool(draw.integers(2)),
    )  # fmt: skip
    data = inputs(case, {name: draw.integers(-4, 5, shape) / 4 for name, shape in shapes(case).items()})
    del data["output"]
    data["output"], _, _ = head_subset_attention(**data, window=case.window)
    for data_type in STORAGE:
        assert differences(plugins, case, data, data_type) == []


def test_padding_tokens_with_negative_positions_give_zeros(plugins: Plugins) -> None:
    case, data = VECTORS["short chunk, n per token"]
    padded = {**data, "positions": np.where(np.arange(case.length) == 2, -1, data["positions"])}
    padded["output"] = np.where((padded["positions"] < 0)[:, :, None, None], 0, data["output"])
    for data_type in STORAGE:
        assert differences(plugins, case, padded, data_type) == []


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("size", 8, "size"),
        ("batch", 0, "must be positive"),
        ("window", -1, "must not be negative"),
        ("data_type", 9, "data_type"),
        ("head_dim", 80, "head_dim: 64, 96, 128 and 256"),
        ("capacity", 1 << 25, "capacity"),
        ("key", 0, "must not be null"),
        ("output", 8, "aligned to 16 bytes"),
        ("positions", 0, "positions"),
        ("sine", 16, "give both or neither"),
    ],
)
def test_unusable_arguments_are_refused_by_name(plugins: Plugins, field: str, value: int, message: str) -> None:
    case, data = VECTORS["decode"]
    names = ("query", "key", "value", "key_cache", "value_cache", "output", "positions", "write", "active_groups")
    p = parameters(case, "float32", data["active_groups"], **dict.fromkeys(names, 16))  # never dereferenced
    setattr(p, field, value)
    with pytest.raises(InputError, match=message):
        plugins.run(p)


def test_a_workspace_that_is_too_small_is_refused(plugins: Plugins) -> None:
    case, data = VECTORS["decode, split over the sequence"]
    names = ("query", "key", "value", "key_cache", "value_cache", "output", "positions", "write", "active_groups")
    p = parameters(case, "float16", data["active_groups"], **dict.fromkeys(names, 16))
    needed = plugins.workspace(p)
    assert needed > 0
    with pytest.raises(InputError, match="workspace: smaller"):
        plugins.run(p, 16, needed - 1)
