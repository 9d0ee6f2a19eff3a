"""What a budget of a bundle needs in memory, by arithmetic: the weights it reads and its KV cache."""

from __future__ import annotations

import math

from ..elastic.safetensors import numpy_dtype
from ..elastic.tensors import tensor_specs
from ..elastic.widths import Budget
from ..graph.contract import DTYPES, cache_shapes
from ..graph.quantization import stored
from .manifest import Bundle


def weight_bytes(bundle: Bundle, dtype: str, budget: Budget) -> int:
    """Bytes of the weights that a budget reads: the first rows of every elastic tensor, the others whole."""
    total, a = 0, bundle.architecture
    for spec in tensor_specs(a):
        active = spec.active(a, budget.layers)[0]
        for kind, shape in stored(spec, dtype, bundle.quantization.get(dtype)).values():
            # A row of integers may hold a whole group of inputs.
            total += math.prod(shape) * active // spec.shape[0] * numpy_dtype(kind).itemsize
    return total


def cache_bytes(bundle: Bundle, dtype: str, budget: Budget, slots: int, batch: int = 1) -> int:
    """Bytes of the KV caches of `batch` sequences with `slots` tokens each."""
    shapes = cache_shapes(bundle.architecture, budget, batch, slots)
    return sum(map(math.prod, shapes.values())) * numpy_dtype(DTYPES[dtype]).itemsize
