"""What a budget of a bundle needs in memory, by arithmetic: the weights it reads and its KV cache."""

from __future__ import annotations

import math

from ..elastic.safetensors import item_size
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
        for tensor in stored(spec, dtype, bundle.quantization.get(dtype)).values():
            total += math.prod(tensor.active(active)) * item_size(tensor.dtype)
    return total


def cache_bytes(bundle: Bundle, dtype: str, budget: Budget, slots: int, batch: int = 1) -> int:
    """Bytes of the KV caches of `batch` sequences with `slots` tokens each."""
    shapes = cache_shapes(bundle.architecture, budget, batch, slots)
    return sum(map(math.prod, shapes.values())) * item_size(DTYPES[dtype])
