"""Rows of the embedding, in whatever precision a bundle has it."""

from __future__ import annotations

import numpy as np

from ..elastic.tensors import tensor_specs
from ..graph.quantization import SCALE
from .manifest import Bundle


class EmbeddingRows:
    """float32 rows for tokens; the file is mapped, and only rows that are asked for are read."""

    def __init__(self, bundle: Bundle) -> None:
        dtype = bundle.dtypes[0]
        self._spec = next(spec for spec in tensor_specs(bundle.architecture) if spec.name == "embedding")
        self._weights, self._quantization = bundle.weights(dtype), bundle.quantization.get(dtype)

    def __getitem__(self, tokens: np.ndarray) -> np.ndarray:
        """int64 [T] -> float32 [T, hidden]."""
        rows, name = self._weights[self._spec.name][tokens], self._spec.name
        if self._quantization is None:
            return np.asarray(rows, np.float32)
        return self._quantization.decode(self._spec, rows, self._weights[name + SCALE][tokens])
