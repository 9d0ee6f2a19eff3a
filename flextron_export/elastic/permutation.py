"""Sorting groups and neurons of a model without changing what it computes."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..errors import InputError, problems
from .architecture import Architecture


def permute_(model: Any, architecture: Architecture, group_order: np.ndarray, neuron_order: np.ndarray) -> None:
    """Reorder the KV groups and the FFN neurons of every layer of a Hugging Face model, in place.

    A group is one KV head with all its query heads; they move together and stay contiguous. Within a head nothing
    moves, as rotary embeddings depend on the place. The output of the model changes by rounding only.

    Args:
        group_order: int [layers, kv_heads]; entry k is the old index of what becomes group k.
        neuron_order: int [layers, ffn], likewise.

    Raises:
        InputError: an order is not a permutation of the model's groups or neurons.
    """
    import torch

    a = architecture
    found = []
    for name, order, count in (
        ("group_order", group_order, a.num_kv_heads),
        ("neuron_order", neuron_order, a.intermediate_size),
    ):
        if order.shape != (a.num_layers, count) or not np.array_equal(
            np.sort(order, 1), np.broadcast_to(np.arange(count), order.shape)
        ):
            found.append(f"{name} holds no permutation of {count} for each of {a.num_layers} layers")
    problems(InputError, "cannot sort the model", found)

    def blocks(order: np.ndarray, size: int) -> torch.Tensor:
        rows = order[:, None] * size + np.arange(size)
        return torch.from_numpy(rows.reshape(-1).astype(np.int64)).to(model.device)

    def move(linear: Any, index: torch.Tensor, dimension: int) -> None:
        # Bitwise the same numbers elsewhere; biases follow rows, the bias of an output projection stays.
        linear.weight.copy_(linear.weight.index_select(dimension, index))
        if dimension == 0 and linear.bias is not None:
            linear.bias.copy_(linear.bias[index])

    with torch.no_grad():
        for layer, groups, neurons in zip(model.model.layers, group_order, neuron_order, strict=True):
            query, key = blocks(groups, a.heads_per_group * a.head_dim), blocks(groups, a.head_dim)
            neuron = blocks(neurons, 1)
            attention, mlp = layer.self_attn, layer.mlp
            for linear, index, dimension in (
                (attention.q_proj, query, 0),
                (attention.k_proj, key, 0),
                (attention.v_proj, key, 0),
                (attention.o_proj, query, 1),
                (mlp.gate_proj, neuron, 0),
                (mlp.up_proj, neuron, 0),
                (mlp.down_proj, neuron, 1),
            ):
                move(linear, index, dimension)
