"""ElasticLinear and ElasticFeedForward: layers over the first d rows of nested weights, d given per token.

`plugins/elastic_linear/README.md` describes the operators; this is their definition. Clear, not fast.
"""

from __future__ import annotations

import numpy as np


def elastic_linear(
    input: np.ndarray,
    weight: np.ndarray,
    active_rows: np.ndarray,
    scales: np.ndarray | None = None,
    bias: np.ndarray | None = None,
    addend: np.ndarray | None = None,
    *,
    elastic: str = "outputs",
    bits: int = 0,
) -> np.ndarray:
    """One linear layer, in float64.

    Args:
        input: [B, S, hidden], or [B, S, rows] if the rows are inputs; of those only the first d are looked at.
        weight: [rows, hidden]; see `dequantize` for integers.
        active_rows: int32 [B, S], [B] or [1]: d of each token, of each sequence, or of all. Below 0 counts as 0.
        scales: of integer weights; see `dequantize`.
        bias: [rows], only where the rows are outputs.
        addend: [B, S, hidden] or [hidden], only where the rows are inputs: a residual or a bias.
        elastic: "outputs" gives [B, S, rows] with zeros beyond d, "inputs" gives [B, S, hidden].
        bits: 8 or 4 for integer weights, else 0.
    """
    weight = dequantize(weight, scales, bits, down=elastic == "inputs")
    active = _mask(active_rows, input.shape[0], input.shape[1], len(weight))
    if elastic == "outputs":
        output = input.astype(np.float64) @ weight.T
        return np.where(active, output if bias is None else output + bias.astype(np.float64), 0)
    output = np.where(active, input.astype(np.float64), 0) @ weight
    return output if addend is None else output + addend.astype(np.float64)


def elastic_feed_forward(
    input: np.ndarray,
    gate: np.ndarray,
    up: np.ndarray,
    down: np.ndarray,
    active_rows: np.ndarray,
    gate_scales: np.ndarray | None = None,
    up_scales: np.ndarray | None = None,
    down_scales: np.ndarray | None = None,
    gate_bias: np.ndarray | None = None,
    up_bias: np.ndarray | None = None,
    addend: np.ndarray | None = None,
    *,
    activation: str = "silu",
    bits: int = 0,
) -> np.ndarray:
    """down[:d]^T (activation(gate[:d] x) * (up[:d] x)) + addend for every token x, [B, S, hidden] in float64.

    Args:
        input: [B, S, hidden].
        gate: [rows, hidden], as are `up` and `down`; scales, biases, d and the addend are as in `elastic_linear`.
        activation: "silu", or "gelu_tanh", the tanh approximation.
    """
    gated = elastic_linear(input, gate, active_rows, gate_scales, gate_bias, bits=bits)
    hidden = elastic_linear(input, up, active_rows, up_scales, up_bias, bits=bits)
    hidden *= gated / (1 + np.exp(-gated)) if activation == "silu" else _gelu_tanh(gated)
    return elastic_linear(hidden, down, active_rows, down_scales, None, addend, elastic="inputs", bits=bits)


def dequantize(weight: np.ndarray, scales: np.ndarray | None, bits: int, *, down: bool = False) -> np.ndarray:
    """Weights [rows, hidden] in float64.

    Eight bits are int8. Four are int4 in two's complement, two to a byte (uint8, [rows, hidden / 2]), the first in the
    low half. G inputs of a matrix share a scale: neighbours of a row, scales [rows, hidden / G], or with `down`, where
    rows are inputs, neighbours of a column, scales [rows / G, hidden]. If G divides a number of rows, so many rows have
    their scales to themselves.
    """
    if bits == 0 or scales is None:
        return weight.astype(np.float64)
    if bits == 4:
        halves = np.stack([weight & 15, weight >> 4], axis=-1).astype(np.int8)
        weight = np.where(halves > 7, halves - 16, halves).reshape(len(weight), -1)
    axis = 0 if down else 1
    return weight * np.repeat(scales.astype(np.float64), weight.shape[axis] // scales.shape[axis], axis=axis)


def _gelu_tanh(x: np.ndarray) -> np.ndarray:
    return 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))


def _mask(active_rows: np.ndarray, batch: int, length: int, rows: int) -> np.ndarray:
    """[B, S, rows]: which rows a token uses."""
    active = active_rows if active_rows.ndim == 2 else active_rows[:, None]
    return np.arange(rows) < np.broadcast_to(active, (batch, length))[:, :, None]
