"""What a budget of a bundle needs in memory, by arithmetic: the weights it reads and its KV cache."""

from __future__ import annotations

import math

from ..elastic.safetensors import numpy_dtype
from ..elastic.tensors import tensor_specs
from ..elastic.widths import Budget
from ..graph.contract import DTYPES, cache_shapes
from .manifest import Bundle


def weight_bytes(bundle: Bundle, dtype: str, budget: Budget) -> int:
    """Bytes of the weights that a budget reads: the first rows of every elastic tensor, the others whole."""
    rows = {spec.name: spec.active(bundle.architecture, budget.layers)[0] for spec in tensor_specs(bundle.architecture)}
    tensors = bundle.weights(dtype).tensors
    return sum(info.row_bytes * rows.get(name, info.shape[0]) for name, info in tensors.items())


def cache_bytes(bundle: Bundle, dtype: str, budget: Budget, slots: int, batch: int = 1) -> int:
    """Bytes of the KV caches of `batch` sequences with `slots` tokens each."""
    shapes = cache_shapes(bundle.architecture, budget, batch, slots)
    return sum(map(math.prod, shapes.values())) * numpy_dtype(DTYPES[dtype]).itemsize
