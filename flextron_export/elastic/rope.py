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
    "yarn": ("factor", "original_max_position_embeddings"),
}
"""rope type -> the parameters it needs."""
YARN_OPTIONS = ("attention_factor", "beta_fast", "beta_slow", "mscale", "mscale_all_dim")


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
        if self.type == "yarn":
            given = {name: self.parameters[name] for name in YARN_OPTIONS if name in self.parameters}
            found += [f"rope: {name} {v!r} is not positive" for name, v in given.items() if not number(v) or not v > 0]
            if not found and self._yarn_rotations[0] < self._yarn_rotations[1]:
                found.append("rope: beta_fast is below beta_slow")
            if self.theta == 1:
                found.append("rope_theta 1 has no wavelengths to choose among")
        return found

    @property
    def scaling(self) -> float:
        """What cos and sin are multiplied by (`attention_factor` of yarn, arXiv 2309.00071; else 1)."""
        if self.type != "yarn":
            return 1.0
        p = self.parameters

        def magnitude(scale: float, m: float = 1.0) -> float:
            return 0.1 * m * math.log(scale) + 1 if scale > 1 else 1.0

        if "attention_factor" in p:
            return float(p["attention_factor"])
        if "mscale" in p and "mscale_all_dim" in p:
            return magnitude(p["factor"], p["mscale"]) / magnitude(p["factor"], p["mscale_all_dim"])
        return magnitude(p["factor"])

    def inverse_frequencies(self, head_dim: int) -> np.ndarray:
        """float32 [head_dim / 2], equal to what transformers computes for the same config."""
        inverse = 1.0 / self.theta ** (np.arange(0, head_dim, 2, dtype=np.float32) / np.float32(head_dim))
        inverse = inverse.astype(np.float32)
        if self.type == "linear":
            inverse = inverse / np.float32(self.parameters["factor"])
        if self.type == "llama3":
            inverse = self._llama3(inverse)
        if self.type == "yarn":
            inverse = self._yarn(inverse, head_dim)
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

    @property
    def _yarn_rotations(self) -> tuple[float, float]:
        """Turns within the original context from which a frequency is kept, and up to which it is slowed entirely."""
        return self.parameters.get("beta_fast", 32), self.parameters.get("beta_slow", 1)

    def _yarn(self, inverse: np.ndarray, head_dim: int) -> np.ndarray:
        # Long wavelengths are slowed by `factor`, short ones kept, those between are blended along the dimensions.
        original = self.parameters["original_max_position_embeddings"]
        low, high = (
            head_dim * math.log(original / (turns * 2 * math.pi)) / (2 * math.log(self.theta))
            for turns in self._yarn_rotations
        )
        if self.parameters.get("truncate", 1):
            low, high = math.floor(low), math.ceil(high)
        low, high = max(low, 0), min(high, head_dim - 1)
        if low == high:
            high += 0.001  # as transformers does, against a division by zero
        slowed = np.clip((np.arange(head_dim // 2, dtype=np.float32) - low) / (high - low), 0, 1)
        return inverse / self.parameters["factor"] * slowed + inverse * (1 - slowed)
