"""How a graph computes with its matrices: floats, or small numbers with scales as each runtime multiplies them fast."""

from __future__ import annotations

from typing import Protocol

import onnx_ir as ir

from .builder import GraphBuilder, View
from .contract import MICROSOFT
from .quantization import SCALE, Quantization
from .schemes import BlockGroups, Channels, LinearGroups

INT8_ARITHMETIC = 4
"""Accuracy level of MatMulNBits: tokens are rounded to 8 bits, group by group, and multiplied as integers. That is 3
times as fast as float arithmetic in decoding with 4 bits, and 40 times with 8."""


class Part(Protocol):
    """What a graph sees of one matrix: all of it, a budget's first rows, or a panel."""

    def __call__(self, suffix: str = "", view: View | None = None) -> ir.Value:
        """The tensor stored under the matrix's name and a suffix, seen as it is stored or otherwise."""


class Matrices(Protocol):
    """The three things that a decoder does with a matrix."""

    def project(self, x: ir.Value, part: Part, bias: ir.Value | None) -> ir.Value:
        """x Wᵀ + bias, tokens [T, in] -> [T, out], for matrices that are stored [out, in]."""

    def accumulate(self, x: ir.Value, part: Part, residual: ir.Value) -> ir.Value:
        """residual + x W, tokens [T, in] -> [T, out], for matrices that are stored [in, out]."""

    def rows(self, part: Part, indices: ir.Value) -> ir.Value:
        """Rows of a matrix [rows, width], for indices [T] -> [T, width]."""


class FloatMatrices:
    """`Gemm` reads a transposed initializer where it lies, and its third input costs nothing."""

    def __init__(self, g: GraphBuilder) -> None:
        self.g = g

    def project(self, x: ir.Value, part: Part, bias: ir.Value | None) -> ir.Value:
        return self.g.op("Gemm", x, part(), bias, transB=1)

    def accumulate(self, x: ir.Value, part: Part, residual: ir.Value) -> ir.Value:
        return self.g.op("Gemm", x, part(), residual)

    def rows(self, part: Part, indices: ir.Value) -> ir.Value:
        return self.g.op("Gather", part(), indices)


class BlockMatrices:
    """`MatMulNBits` and `GatherBlockQuantized`: ONNX Runtime dequantises inside its kernels.

    A tied embedding is one range of the weights file: the LM head's kernel keeps a rearranged copy of it, while rows
    of tokens are read from the mapped file.
    """

    def __init__(self, g: GraphBuilder, quantization: BlockGroups) -> None:
        self.g, self.bits, self.group = g, quantization.bits, quantization.group_size

    def project(self, x: ir.Value, part: Part, bias: ir.Value | None) -> ir.Value:
        outputs, groups = _sizes(part(SCALE))
        return self._product(x, part(), part(SCALE), outputs, groups, bias)

    def accumulate(self, x: ir.Value, part: Part, residual: ir.Value) -> ir.Value:
        # Stored are groups of inputs, each with all outputs; the kernel wants the outputs first. Both are constants:
        # the runtime transposes them once, before its kernel rearranges them anyway.
        groups, outputs = _sizes(part(SCALE))
        values, scales = (
            self.g.op("Transpose", part(suffix), perm=perm) for suffix, perm in (("", [1, 0, 2]), (SCALE, [1, 0]))
        )
        return self.g.op("Add", residual, self._product(x, values, scales, outputs, groups))

    def rows(self, part: Part, indices: ir.Value) -> ir.Value:
        scales = part(SCALE)
        _, groups = _sizes(scales)
        values = part(view=View((groups * self.group * self.bits // 8,), ir.DataType.UINT8))
        attributes = {"bits": self.bits, "block_size": self.group, "gather_axis": 0, "quantize_axis": 1}
        return self.g.op("GatherBlockQuantized", values, indices, scales, domain=MICROSOFT, **attributes)

    def _product(
        self,
        x: ir.Value,
        values: ir.Value,
        scales: ir.Value,
        outputs: int,
        groups: int,
        bias: ir.Value | None = None,
    ) -> ir.Value:
        attributes = {
            "K": groups * self.group,
            "N": outputs,
            "bits": self.bits,
            "block_size": self.group,
            "accuracy_level": INT8_ARITHMETIC,
        }
        return self.g.op("MatMulNBits", x, values, scales, None, None, bias, domain=MICROSOFT, **attributes)


class DequantizedMatrices:
    """`DequantizeLinear`, which TensorRT fuses with the product and which stays small in its engines."""

    def __init__(self, g: GraphBuilder, quantization: LinearGroups | Channels) -> None:
        self.g, self.group = g, quantization.group_size if isinstance(quantization, LinearGroups) else None

    def project(self, x: ir.Value, part: Part, bias: ir.Value | None) -> ir.Value:
        return self.g.op("Gemm", x, self._rows_of_outputs(part), bias, transB=1)

    def accumulate(self, x: ir.Value, part: Part, residual: ir.Value) -> ir.Value:
        scales = part(SCALE)
        if self.group is None:
            weights = self.g.op("DequantizeLinear", part(), scales, axis=1)
        else:
            _, outputs = _sizes(scales)
            weights = self._groups(part, outputs, axis=0)
        return self.g.op("Gemm", x, weights, residual)

    def rows(self, part: Part, indices: ir.Value) -> ir.Value:
        return self.g.op("Gather", self._rows_of_outputs(part), indices)

    def _rows_of_outputs(self, part: Part) -> ir.Value:
        """float [out, in]."""
        if self.group is not None:
            _, groups = _sizes(part(SCALE))
            return self._groups(part, groups * self.group, axis=1)
        values = part()
        assert values.shape is not None
        # A group is a whole row: TensorRT refuses as many scales as there are rows where that number varies.
        return self.g.op("DequantizeLinear", values, part(SCALE), axis=1, block_size=values.shape[1])

    def _groups(self, part: Part, columns: int, axis: int) -> ir.Value:
        values = part(view=View((columns,), ir.DataType.INT4))
        return self.g.op("DequantizeLinear", values, part(SCALE), axis=axis, block_size=self.group)


def matrices(g: GraphBuilder, quantization: Quantization | None) -> Matrices:
    """Those of a precision."""
    if isinstance(quantization, BlockGroups):
        return BlockMatrices(g, quantization)
    if isinstance(quantization, (LinearGroups, Channels)):
        return DequantizedMatrices(g, quantization)
    return FloatMatrices(g)


def _sizes(value: ir.Value) -> tuple[int, int]:
    """The two sizes of a stored matrix of scales."""
    assert value.shape is not None
    first, second = value.shape.numpy()
    return first, second
