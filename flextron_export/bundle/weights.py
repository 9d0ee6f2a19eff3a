"""From a Hugging Face checkpoint to the weights file of a bundle: prefix layout, one precision, a tensor at a time."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np

from ..elastic.architecture import Architecture
from ..elastic.checkpoint import ModelWeights
from ..elastic.safetensors import TensorPlan, numpy_dtype, write_safetensors
from ..elastic.tensors import TensorSpec, tensor_specs
from ..errors import CheckpointError
from ..graph.contract import DTYPES
from ..graph.quantization import SCALE, Quantization, stored
from ..progress import Track, silent
from .manifest import FileRecord, weights_file


def write_weights(
    directory: Path,
    architecture: Architecture,
    source: ModelWeights,
    dtype: str,
    quantization: Quantization | None = None,
    track: Track = silent,
) -> FileRecord:
    """Write `weights.<dtype>.safetensors` into `directory`.

    Raises:
        CheckpointError: a weight is not finite, or does not fit into the precision.
    """
    path = directory / weights_file(dtype)
    plans = {}
    for spec in tensor_specs(architecture):
        make = _Parts(source, spec, dtype, quantization)
        for name, tensor in stored(spec, dtype, quantization).items():
            plans[name] = TensorPlan(tensor.dtype, tensor.shape, partial(make, name))
    digest = write_safetensors(path, plans, track)
    return FileRecord(path.stat().st_size, digest)


class _Parts:
    """Makes what is stored of one tensor. What is made together is kept until it is asked for."""

    def __init__(self, source: ModelWeights, spec: TensorSpec, dtype: str, quantization: Quantization | None) -> None:
        self._source, self._spec, self._dtype = source, spec, dtype
        self._quantization = quantization if quantization and quantization.quantizes(spec) else None
        self._made: dict[str, np.ndarray] = {}

    def __call__(self, name: str) -> np.ndarray:
        if name not in self._made:
            array = self._source.read(self._spec.source)
            kind = numpy_dtype("F32" if self._quantization else DTYPES[self._dtype])
            with np.errstate(over="ignore"):  # an overflow is reported below, by name
                converted = self._spec.take(array).astype(kind, order="C", copy=False)
            self._check(_finite(converted), array)
            self._made = {name: converted}
            if self._quantization:
                self._made = self._quantization.encode(self._spec, converted)
                self._check(_finite(self._made[self._spec.name + SCALE]), array)
        return self._made.pop(name)

    def _check(self, finite: bool, array: np.ndarray) -> None:
        if not finite:
            raise CheckpointError(
                f"{self._spec.source} has values that are not finite in {self._dtype}.",
                cause="the checkpoint is damaged" if not _finite(array) else f"a value is too large for {self._dtype}",
                fix="export with --dtype fp32",
            )


def _finite(array: np.ndarray) -> bool:
    # On the bits, in blocks that fit the caches: np.isfinite takes ten times as long on float16. Infinity has all bits
    # of the exponent set and no others; what is not finite has at least these.
    infinity = np.array(np.inf, array.dtype).view(f"u{array.itemsize}")
    bits = array.view(infinity.dtype)
    return all((bits[i : i + 256] & infinity).max() < infinity for i in range(0, len(bits), 256))
