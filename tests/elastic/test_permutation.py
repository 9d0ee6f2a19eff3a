"""Sorting changes the order of groups and neurons, and nothing that the model computes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from flextron_export.elastic.architecture import Architecture, read_config
from flextron_export.elastic.permutation import permute_
from flextron_export.errors import InputError
from flextron_export.training.tiny import tiny_model


def load(directory: Path) -> tuple[Any, Architecture]:
    from transformers import LlamaForCausalLM

    return LlamaForCausalLM.from_pretrained(directory).eval(), Architecture.from_config(read_config(directory))


def orders(architecture: Architecture) -> tuple[np.ndarray, np.ndarray]:
    draw = np.random.default_rng(1)
    layers = range(architecture.num_layers)
    return (
        np.stack([draw.permutation(architecture.num_kv_heads) for _ in layers]),
        np.stack([draw.permutation(architecture.intermediate_size) for _ in layers]),
    )


@pytest.mark.parametrize("kv_heads", [8, 4, 1], ids=["multi-head", "grouped", "multi-query"])
@pytest.mark.parametrize("bias", [False, True], ids=["plain", "biases"])
def test_a_permuted_model_computes_the_same(tmp_path: Path, kv_heads: int, bias: bool) -> None:
    import torch

    model, architecture = load(tiny_model(tmp_path / "model", kv_heads=kv_heads, bias=bias))
    ids = torch.arange(1, 33).reshape(2, 16)
    with torch.no_grad():
        before = model(ids).logits
        permute_(model, architecture, *orders(architecture))
        after = model(ids).logits
    torch.testing.assert_close(after, before, rtol=1e-4, atol=1e-4)


def test_groups_move_with_all_their_query_heads(tiny_model_dir: Path) -> None:
    import torch

    model, a = load(tiny_model_dir)
    attention = model.model.layers[1].self_attn
    query, key = attention.q_proj.weight.detach().clone(), attention.k_proj.weight.detach().clone()
    groups, neurons = orders(a)
    permute_(model, a, groups, neurons)
    new, old, size = 2, groups[1][2], a.heads_per_group * a.head_dim
    assert torch.equal(attention.q_proj.weight[new * size : (new + 1) * size], query[old * size : (old + 1) * size])
    assert torch.equal(attention.k_proj.weight[new * 16 : new * 16 + 16], key[old * 16 : old * 16 + 16])


def test_an_order_that_is_no_permutation_is_refused(tiny_model_dir: Path) -> None:
    model, architecture = load(tiny_model_dir)
    groups, neurons = orders(architecture)
    groups[0, 0] = groups[0, 1]
    with pytest.raises(InputError, match="group_order"):
        permute_(model, architecture, groups, neurons)
    with pytest.raises(InputError, match="neuron_order"):
        permute_(model, architecture, orders(architecture)[0], neurons[:, :-1])
