"""The ways to quantise: a scale for a group of weights, as ONNX Runtime or TensorRT takes it, or for a channel."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..elastic.architecture import Architecture
from ..elastic.safetensors import numpy_dtype
from ..elastic.tensors import TensorSpec, rows
from ..elastic.widths import Candidates, LayerWidth
from ..errors import InputError
from ..files import integers
from .contract import BITS, DTYPES
from .quantization import SCALE, Quantization, Stored, is_output
from .rounding import round_groups

GROUP_SIZES = (16, 32, 64, 128, 256)
"""What ONNX Runtime's MatMulNBits takes."""
PREFERRED = {4: 32, 8: 128}
"""bits -> group size if it divides all widths, else the next smaller one: 8 bits lose little in large groups."""
FP8_LARGEST = 448
"""Largest finite number of float8 e4m3fn."""


@dataclass(frozen=True)
class Groups(Quantization):
    """Groups of consecutive inputs of one output neuron share a scale, and no group straddles a candidate width.

    Attributes:
        bits: 4 or 8.
        group_size: weights that share a scale.
    """

    bits: int
    group_size: int

    def faults(self, architecture: Architecture, candidates: Candidates) -> list[str]:
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

    def scales(self, spec: TensorSpec, dtype: str) -> Stored:
        """The scales of a matrix: one for each group."""
        (first, second), size = spec.shape, self.group_size
        if is_output(spec):
            return Stored(dtype, (first // size, second), size)
        return Stored(dtype, (first, second // size))

    def to_json(self) -> dict[str, Any]:
        return {"group_size": self.group_size}


class BlockGroups(Groups):
    """As ONNX Runtime's MatMulNBits takes them: without a sign, group by group, 8 or 128 standing for zero."""

    def stored(self, spec: TensorSpec) -> dict[str, Stored]:
        scales = self.scales(spec, "F32")
        values = Stored("U8", (*scales.shape, self.group_size * self.bits // 8), scales.unit)
        return {spec.name: values, spec.name + SCALE: scales}

    def encode(self, spec: TensorSpec, weights: np.ndarray) -> dict[str, np.ndarray]:
        rounded, scales = round_groups(_grouped(spec, weights, self.group_size), self.bits)
        values: np.ndarray = (rounded.astype(np.int16) + (1 << (self.bits - 1))).astype(np.uint8)
        return {spec.name: _packed(values) if self.bits == 4 else values, spec.name + SCALE: scales}

    def decode(self, spec: TensorSpec, values: np.ndarray, scales: np.ndarray) -> np.ndarray:
        values = _unpacked(values) if self.bits == 4 else values
        return _ungrouped(spec, (values.astype(np.float32) - (1 << (self.bits - 1))) * scales[..., None])


class LinearGroups(Groups):
    """As ONNX's DequantizeLinear takes them: 4 bits with a sign in the shape of the matrix, positive scales."""

    def stored(self, spec: TensorSpec) -> dict[str, Stored]:
        first, second = spec.shape
        return {spec.name: Stored("U8", (first, second // 2)), spec.name + SCALE: self.scales(spec, "F16")}

    def encode(self, spec: TensorSpec, weights: np.ndarray) -> dict[str, np.ndarray]:
        grouped = _grouped(spec, weights, self.group_size)
        scales = _half(round_groups(grouped, self.bits, positive=True)[1])
        matrix = _ungrouped(spec, _nearest(grouped, scales, self.bits))
        return {spec.name: _packed(matrix.view(np.uint8) & 15), spec.name + SCALE: scales}

    def decode(self, spec: TensorSpec, values: np.ndarray, scales: np.ndarray) -> np.ndarray:
        signed = (_unpacked(values) << 4).view(np.int8) >> 4
        grouped = _grouped(spec, signed, self.group_size).astype(np.float32)
        return _ungrouped(spec, grouped * scales[..., None].astype(np.float32))


@dataclass(frozen=True)
class Channels(Quantization):
    """One number of 8 bits per weight, and one positive scale for every output neuron, whatever the width.

    Attributes:
        kind: `int8` or `fp8` (float8 e4m3fn).
    """

    kind: str

    def faults(self, architecture: Architecture, candidates: Candidates) -> list[str]:
        return []

    def stored(self, spec: TensorSpec) -> dict[str, Stored]:
        first, second = spec.shape
        # An output neuron of o and down is a column: its scale is the same for all widths.
        scale = Stored("F16", (second,), None) if is_output(spec) else Stored("F16", (first, 1))
        return {spec.name: Stored({"int8": "I8", "fp8": "F8_E4M3"}[self.kind], spec.shape), spec.name + SCALE: scale}

    def encode(self, spec: TensorSpec, weights: np.ndarray) -> dict[str, np.ndarray]:
        channels = weights.T if is_output(spec) else weights
        if self.kind == "int8":
            scales = _half(round_groups(channels, 8, positive=True)[1])
            rounded = _nearest(channels, scales, 8)
        else:
            largest = np.abs(channels).max(-1)
            scales = _half(np.where(largest == 0, 1, largest / FP8_LARGEST))
            shares = np.clip(channels / scales[:, None].astype(np.float32), -FP8_LARGEST, FP8_LARGEST)
            rounded = shares.astype(numpy_dtype("F8_E4M3"))
        if is_output(spec):
            return {spec.name: rounded.T, spec.name + SCALE: scales}
        return {spec.name: rounded, spec.name + SCALE: scales[:, None]}

    def decode(self, spec: TensorSpec, values: np.ndarray, scales: np.ndarray) -> np.ndarray:
        weights: np.ndarray = values.astype(np.float32) * scales.astype(np.float32)
        return weights

    def to_json(self) -> dict[str, Any]:
        return {}


def choose_quantization(
    dtype: str, architecture: Architecture, candidates: Candidates, group_size: int | None = None
) -> Quantization:
    """That of a precision, with the group size that was given or the preferred one.

    Raises:
        InputError: the group size, or every one there is, does not divide a width; each is named.
    """
    if not has_groups(dtype):
        return _quantization(dtype)
    sizes = [n for n in reversed(GROUP_SIZES) if n <= PREFERRED[BITS[dtype]]] if group_size is None else [group_size]
    for size in sizes:
        found = _quantization(dtype, size)
        if not (faults := found.faults(architecture, candidates)):
            return found
    raise InputError(
        f"Precision {dtype} cannot have groups of {size} weights: {'; '.join(faults)}.",
        cause="every candidate width must be whole groups, so that a narrower network is a prefix",
        fix="elastify with other candidates, or export another precision"
        if group_size is None
        else "leave the group size out, or pass one that divides these",
    )


def read_quantization(dtype: str, value: Mapping[str, Any]) -> Quantization:
    """The inverse of `to_json`; ValueError, KeyError or TypeError if it is none."""
    if not has_groups(dtype):
        return _quantization(dtype)
    (size,) = integers([value["group_size"]])
    return _quantization(dtype, size)


def has_groups(dtype: str) -> bool:
    """Whether a precision with quantised matrices has a group size."""
    return BITS[dtype] == 4 or DTYPES[dtype] == "F32"


def _quantization(dtype: str, group_size: int = 0) -> Quantization:
    if not has_groups(dtype):
        return Channels(dtype.split("-")[0])
    return (BlockGroups if DTYPES[dtype] == "F32" else LinearGroups)(BITS[dtype], group_size)


def _grouped(spec: TensorSpec, matrix: np.ndarray, size: int) -> np.ndarray:
    """A matrix as [output neurons or groups, groups or output neurons, group]: as its rows come first, a view."""
    if is_output(spec):
        return matrix.reshape(-1, size, matrix.shape[1]).swapaxes(1, 2)
    return matrix.reshape(len(matrix), -1, size)


def _ungrouped(spec: TensorSpec, groups: np.ndarray) -> np.ndarray:
    """The inverse of `_grouped`."""
    if is_output(spec):
        groups = groups.swapaxes(1, 2)
        return groups.reshape(-1, groups.shape[-1])
    return groups.reshape(len(groups), -1)


def _packed(values: np.ndarray) -> np.ndarray:
    """Two numbers below 16 in a byte, the first in the lower half."""
    return values[..., 0::2] | values[..., 1::2] << 4


def _unpacked(values: np.ndarray) -> np.ndarray:
    """The inverse of `_packed`."""
    return np.stack([values & 15, values >> 4], axis=-1).reshape(*values.shape[:-1], -1)


def _nearest(groups: np.ndarray, scales: np.ndarray, bits: int) -> np.ndarray:
    """Signed integers for scales that were rounded themselves, such as those of weights too small for float16."""
    lowest = -(1 << (bits - 1))
    integers_ = np.clip(np.rint(groups / scales[..., None].astype(np.float32)), lowest, -lowest - 1)
    nearest: np.ndarray = integers_.astype(np.int8)
    return nearest


def _half(scales: np.ndarray) -> np.ndarray:
    """float16, positive still; infinite where a weight is too large for it."""
    with np.errstate(over="ignore"):
        return np.maximum(scales.astype(np.float16), np.finfo(np.float16).smallest_subnormal)
