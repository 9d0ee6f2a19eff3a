"""Importance of KV groups and FFN neurons: how much each adds to the residual stream.

Both are the root mean square, over tokens, of the norm of what the unit adds: its activation times its part of the
output projection. Flextron (arXiv 2406.10260) sorts by importance; Minitron (arXiv 2407.14679), of the same group,
prunes by activations at the same two places.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from ..elastic.architecture import Architecture
from ..elastic.modules import backbone, blocks, output_weight
from .environment import training_attention


@dataclass(frozen=True)
class Importance:
    """Importance of every elastic unit, never negative; larger is more important.

    Attributes:
        groups: float64 [layers, kv_heads].
        neurons: float64 [layers, ffn].
    """

    groups: np.ndarray
    neurons: np.ndarray

    def order(self) -> tuple[np.ndarray, np.ndarray]:
        """(group_order, neuron_order): most important first; equal ones keep their order."""
        return np.argsort(-self.groups, 1, kind="stable"), np.argsort(-self.neurons, 1, kind="stable")


def measure_importance(model: Any, architecture: Architecture, tokens: np.ndarray, *, batch: int = 16) -> Importance:
    """Run the model over a text and measure.

    Args:
        model: Hugging Face causal LM.
        tokens: int64 [sequences, length].
        batch: sequences per forward pass; the statistics are streamed, so memory does not grow with the text.
    """
    import torch

    a = architecture
    size = a.heads_per_group * a.head_dim
    device = model.device
    # Sums over tokens of x xT within a group, and of x^2 of a neuron, at the inputs of the output projections.
    moments = torch.zeros(a.num_layers, a.num_kv_heads, size, size, dtype=torch.float64, device=device)
    squares = torch.zeros(a.num_layers, a.intermediate_size, dtype=torch.float64, device=device)

    def attention_hook(layer: int) -> Any:
        def hook(_: Any, inputs: tuple[torch.Tensor, ...]) -> None:
            x = inputs[0].float().reshape(-1, a.num_kv_heads, size).transpose(0, 1)  # [groups, tokens, size]
            moments[layer] += x.transpose(1, 2) @ x

        return hook

    def neuron_hook(layer: int) -> Any:
        def hook(_: Any, inputs: tuple[torch.Tensor, ...]) -> None:
            squares[layer] += inputs[0].float().flatten(0, -2).square().sum(0)

        return hook

    layers = blocks(model)
    handles = [b.attention_output.register_forward_pre_hook(attention_hook(i)) for i, b in enumerate(layers)]
    handles += [b.ffn_output.register_forward_pre_hook(neuron_hook(i)) for i, b in enumerate(layers)]
    try:
        with torch.inference_mode(), training_attention(model, tokens.shape[1]):
            for start in range(0, len(tokens), batch):
                backbone(model)(input_ids=torch.from_numpy(tokens[start : start + batch]).to(device), use_cache=False)
    finally:
        for handle in handles:
            handle.remove()

    groups, neurons = np.empty(moments.shape[:2]), np.empty(squares.shape)
    for i, block in enumerate(layers):
        # mean |W x|^2 = trace(WT W mean(x xT)), so contributions need not be formed token by token.
        output = output_weight(block.attention_output).detach().double()
        output = output.reshape(a.hidden_size, a.num_kv_heads, size).transpose(0, 1)
        groups[i] = ((output.transpose(1, 2) @ output) * moments[i]).sum((1, 2)).cpu().numpy()
        down = output_weight(block.ffn_output).detach().double()
        neurons[i] = (squares[i] * down.square().sum(0)).cpu().numpy()
    return Importance(np.sqrt(groups.clip(0) / tokens.size), np.sqrt(neurons / tokens.size))
