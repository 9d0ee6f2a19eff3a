"""Weight-only quantisation: which matrices are stored as small integers, in which shape. Needs numpy alone.

Groups of weights of one output neuron, consecutive along the input, share a scale. Where the input is elastic (o and
down) a group never straddles a candidate width, so that what a budget uses is again the first rows of what is stored,
and slicing before dequantising equals slicing after it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..elastic.architecture import Architecture
from ..elastic.tensors import OUTPUTS, TensorSpec, rows
from ..elastic.widths import Candidates, LayerWidth
from ..errors import InputError
from ..files import integers
from .contract import BITS, DTYPES
from .rounding import round_groups

SCALE = ".scale"
"""Behind a tensor's name: its scales."""
GROUP_SIZES = (16, 32, 64, 128, 256)
"""What ONNX Runtime's MatMulNBits takes."""
PREFERRED = {4: 32, 8: 128}
"""bits -> group size if it divides all widths, else the next smaller one: 8 bits lose little in large groups."""


@dataclass(frozen=True)
class Quantization:
    """How one precision stores its matrices.

    Attributes:
        bits: 4 or 8, stored without a sign: 8 or 128 stands for zero.
        group_size: weights that share a scale.
    """

    bits: int
    group_size: int

    @classmethod
    def choose(
        cls, dtype: str, architecture: Architecture, candidates: Candidates, group_size: int | None = None
    ) -> Quantization:
        """That of a precision, with the group size that was given or the preferred one.

        Raises:
            InputError: the group size, or every one there is, does not divide a width; each is named.
        """
        bits = BITS[dtype]
        sizes = [n for n in reversed(GROUP_SIZES) if n <= PREFERRED[bits]] if group_size is None else [group_size]
        for size in sizes:
            if not (found := cls(bits, size).faults(architecture, candidates)):
                return cls(bits, size)
        raise InputError(
            f"Precision {dtype} cannot have groups of {size} weights: {'; '.join(found)}.",
            cause="every candidate width must be whole groups, so that a narrower network is a prefix",
            fix="elastify with other candidates, or export another precision"
            if group_size is None
            else "leave the group size out, or pass one that divides these",
        )

    def faults(self, architecture: Architecture, candidates: Candidates) -> list[str]:
        """Everything that keeps the model from having this group size, in words."""
        size = self.group_size
        if size not in GROUP_SIZES:
            return [f"it is none of {', '.join(map(str, GROUP_SIZES))}"]
        found = [f"hidden size {architecture.hidden_size}"] if architecture.hidden_size % size else []
        for what, widths in candidates.to_json().items():
            kind = {"groups": "query", "neurons": "neurons"}[what]
            counts = {n: rows(architecture, kind, LayerWidth(n, n)) for n in widths}
            found += [
                f"candidate of {n} {what}" + (f" ({count} channels)" if count != n else "")
                for n, count in counts.items()
                if count % size
            ]
        return [f"{what} is no multiple of it" for what in found]

    def quantizes(self, spec: TensorSpec) -> bool:
        """Whether it is stored as integers: the matrices, but not learned positions."""
        return len(spec.shape) == 2 and spec.name != "position_embedding"

    def stored(self, spec: TensorSpec) -> dict[str, tuple[str, tuple[int, ...]]]:
        """What a matrix is stored as: name -> safetensors dtype and shape. The first dimension is the elastic one."""
        first, second = spec.shape
        grouped = (first // self.group_size, second) if _output(spec) else (first, second // self.group_size)
        return {
            spec.name: ("U8", (*grouped, self.group_size * self.bits // 8)),
            spec.name + SCALE: ("F32", grouped),
        }

    def encode(self, spec: TensorSpec, weights: np.ndarray) -> dict[str, np.ndarray]:
        """The arrays of `stored`, of finite weights in the shape of the specification."""
        size = self.group_size
        if _output(spec):
            grouped = weights.reshape(-1, size, weights.shape[1]).swapaxes(1, 2)
        else:
            grouped = weights.reshape(len(weights), -1, size)
        rounded, scales = round_groups(grouped, self.bits)
        values: np.ndarray = (rounded.astype(np.int16) + (1 << (self.bits - 1))).astype(np.uint8)
        if self.bits == 4:
            values = values[..., 0::2] | values[..., 1::2] << 4
        return {spec.name: values, spec.name + SCALE: scales}

    def decode(self, spec: TensorSpec, values: np.ndarray, scales: np.ndarray) -> np.ndarray:
        """float32 weights of stored rows, all or the first of them."""
        if self.bits == 4:
            values = np.stack([values & 15, values >> 4], axis=-1).reshape(*values.shape[:-1], -1)
        weights = (values.astype(np.float32) - (1 << (self.bits - 1))) * scales[..., None]
        if _output(spec):
            weights = weights.swapaxes(1, 2)
            return weights.reshape(-1, weights.shape[-1])
        return weights.reshape(len(weights), -1)

    def to_json(self) -> dict[str, Any]:
        return {"group_size": self.group_size}

    @classmethod
    def from_json(cls, dtype: str, value: Mapping[str, Any]) -> Quantization:
        """The inverse of `to_json`; ValueError, KeyError or TypeError if it is none."""
        (size,) = integers([value["group_size"]])
        return cls(BITS[dtype], size)


def stored(spec: TensorSpec, dtype: str, quantization: Quantization | None) -> dict[str, tuple[str, tuple[int, ...]]]:
    """What the weights file of a precision holds of a tensor: name -> safetensors dtype and shape."""
    if quantization and quantization.quantizes(spec):
        return quantization.stored(spec)
    return {spec.name: (DTYPES[dtype], spec.shape)}


def _output(spec: TensorSpec) -> bool:
    """Whether its first dimension is the input of the layer."""
    return spec.name.rsplit(".", 1)[-1] in OUTPUTS
