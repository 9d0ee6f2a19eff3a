"""Rotary position embedding: its types and their frequencies."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np

from .values import number

ROPE_TYPES: dict[str, tuple[str, ...]] = {
    "default": (),
    "linear": ("factor",),
    "llama3": ("factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings"),
}
"""rope type -> the parameters it needs."""


@dataclass(frozen=True)
class Rope:
    """Rotary position embedding: base, type and the parameters of that type (transformers' `rope_parameters`)."""

    theta: float = 10000.0
    type: str = "default"
    parameters: dict[str, float] = field(default_factory=dict)

    def faults(self) -> list[str]:
        """Everything that is wrong with it, in words."""
        if self.type not in ROPE_TYPES:
            return [f"rope type {self.type!r} (only {', '.join(ROPE_TYPES)})"]
        found = [] if number(self.theta) and self.theta > 0 else [f"rope_theta {self.theta!r}"]
        for name in ROPE_TYPES[self.type]:
            value = self.parameters.get(name)
            if not number(value) or not value > 0:  # type: ignore[operator]
                found.append(f"rope type {self.type!r} lacks a positive {name}")
        if (
            self.type == "llama3"
            and not found
            and self.parameters["low_freq_factor"] >= self.parameters["high_freq_factor"]
        ):
            found.append("rope: low_freq_factor is not below high_freq_factor")
        return found

    def inverse_frequencies(self, head_dim: int) -> np.ndarray:
        """float32 [head_dim / 2], equal to what transformers computes for the same config."""
        inverse = 1.0 / self.theta ** (np.arange(0, head_dim, 2, dtype=np.float32) / np.float32(head_dim))
        inverse = inverse.astype(np.float32)
        if self.type == "linear":
            inverse = inverse / np.float32(self.parameters["factor"])
        if self.type == "llama3":
            inverse = self._llama3(inverse)
        return np.asarray(inverse, np.float32)

    def _llama3(self, inverse: np.ndarray) -> np.ndarray:
        # Llama 3.1: long wavelengths are slowed by `factor`, short ones kept, those between are blended.
        factor, low, high, original = (
            self.parameters[k]
            for k in ("factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings")
        )
        wavelength = 2 * math.pi / inverse
        smooth = (original / wavelength - low) / (high - low)
        blended = (1 - smooth) / factor * inverse + smooth * inverse
        return np.where(
            wavelength > original / low, inverse / factor, np.where(wavelength < original / high, inverse, blended)
        )
