"""Weight-only quantisation: which matrices are stored as small numbers, in which shape. Needs numpy alone.

`stored` describes what the weights file of a precision holds of a tensor; `schemes` has the ways to quantise. In all of
them slicing before dequantising equals slicing after it: what a budget uses is again the first rows of what is stored.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..elastic.architecture import Architecture
from ..elastic.tensors import OUTPUTS, TensorSpec, tensor_specs
from ..elastic.widths import Candidates
from .contract import DTYPES

SCALE = ".scale"
"""Behind a matrix's name: its scales."""


@dataclass(frozen=True)
class Stored:
    """A tensor of a weights file.

    Attributes:
        dtype: in words of safetensors.
        shape: its first dimension is the elastic one.
        unit: rows of the matrix that one row of this holds; None: it is used whole at any width.
    """

    dtype: str
    shape: tuple[int, ...]
    unit: int | None = 1

    def rows(self, start: int, stop: int) -> tuple[int, int]:
        """Where rows of the matrix lie in this."""
        return (0, self.shape[0]) if self.unit is None else (start // self.unit, stop // self.unit)

    def active(self, rows: int) -> tuple[int, ...]:
        """Shape of what the first rows of the matrix need of this."""
        return (self.rows(0, rows)[1], *self.shape[1:])


class Quantization(ABC):
    """How one precision stores its matrices."""

    def quantizes(self, spec: TensorSpec) -> bool:
        """Whether it is stored in few bits: the matrices, but not learned positions."""
        return len(spec.shape) == 2 and spec.name != "position_embedding"

    @abstractmethod
    def faults(self, architecture: Architecture, candidates: Candidates) -> list[str]:
        """Everything that keeps a model from being quantised so, in words."""

    @abstractmethod
    def stored(self, spec: TensorSpec) -> dict[str, Stored]:
        """What a matrix is stored as, by name."""

    @abstractmethod
    def encode(self, spec: TensorSpec, weights: np.ndarray) -> dict[str, np.ndarray]:
        """The arrays of `stored`, of finite float32 weights in the shape of the specification."""

    @abstractmethod
    def decode(self, spec: TensorSpec, values: np.ndarray, scales: np.ndarray) -> np.ndarray:
        """float32 weights of stored rows, all or the first of them."""

    @abstractmethod
    def to_json(self) -> dict[str, Any]:
        """What a reader of the manifest must know besides the precision's name."""


def stored(spec: TensorSpec, dtype: str, quantization: Quantization | None) -> dict[str, Stored]:
    """What the weights file of a precision holds of a tensor, by name."""
    if quantization and quantization.quantizes(spec):
        return quantization.stored(spec)
    return {spec.name: Stored(DTYPES[dtype], spec.shape)}


def stored_tensors(architecture: Architecture, dtype: str, quantization: Quantization | None) -> dict[str, Stored]:
    """Everything that the weights file of a precision holds."""
    return {
        name: tensor
        for spec in tensor_specs(architecture)
        for name, tensor in stored(spec, dtype, quantization).items()
    }


def is_output(spec: TensorSpec) -> bool:
    """Whether a matrix's first dimension is the input of the layer."""
    return spec.name.rsplit(".", 1)[-1] in OUTPUTS
