"""Sorting groups and neurons of a model without changing what it computes."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..errors import InputError, problems
from .architecture import Architecture
from .modules import projections


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

    sizes = {"query": a.heads_per_group * a.head_dim, "key": a.head_dim, "neurons": 1}
    with torch.no_grad():
        for projection in projections(model, a):
            orders = {"query": group_order, "key": group_order, "neurons": neuron_order}
            index = torch.cat(
                [blocks(orders[kind][projection.layer], sizes[kind]) + start for kind, start, _ in projection.parts]
            )
            module, dimension = projection.module, projection.dimension
            # Bitwise the same numbers elsewhere; biases follow rows, the bias of an output projection stays.
            module.weight.copy_(module.weight.index_select(dimension, index))
            if module.bias is not None and not projection.output:
                module.bias.copy_(module.bias[index])
