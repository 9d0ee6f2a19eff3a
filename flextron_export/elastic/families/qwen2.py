"""Qwen 2 and 2.5: Llama with biases at q, k and v, and a sliding window in the upper layers if asked for."""

from __future__ import annotations

from typing import Any

from ..values import number
from .config import FULL, SLIDING, Config
from .family import DEFAULTS, Family
from .llama import INSIDE, LAYERS, OUTSIDE, decoder


def windows(config: Config) -> tuple[int, ...]:
    """Windows by `use_sliding_window`, `sliding_window`, `max_window_layers` and `layer_types`."""
    window = config.values.get("sliding_window", 4096) if config.get("use_sliding_window", False) else None
    first = config.get("max_window_layers", 28)
    if not number(first):
        config.faults.append(f"max_window_layers {first!r}")
        return ()
    return config.windows(window, lambda layer: FULL if window is None or layer < first else SLIDING)


def _read(config: Config) -> dict[str, Any]:
    biases = {"attention_bias": True, "attention_output_bias": False}
    return {**decoder(config), **biases, "windows": windows(config)}


QWEN2 = Family(
    "qwen2",
    "Qwen2ForCausalLM",
    OUTSIDE,
    LAYERS,
    INSIDE,
    _read,
    absent={**DEFAULTS, "num_kv_heads": 32, "max_positions": 32768},
)
