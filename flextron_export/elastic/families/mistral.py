"""Mistral: Llama with a sliding window in every layer, or in none."""

from __future__ import annotations

from typing import Any

from .config import FULL, SLIDING, Config
from .family import DEFAULTS, Family
from .llama import INSIDE, LAYERS, OUTSIDE, decoder


def _read(config: Config) -> dict[str, Any]:
    window = config.values.get("sliding_window", 4096)  # null means none, and absent does not
    kind = FULL if window is None else SLIDING
    kinds = config.values.get("layer_types")
    if isinstance(kinds, list) and any(k != kind for k in kinds):
        # transformers reads them into the config, but its layers do not look at them.
        config.faults.append(f"layer_types {kinds} with sliding_window {window!r}")
    return {**decoder(config), "windows": config.windows(window, lambda layer: kind)}


MISTRAL = Family(
    "mistral",
    "MistralForCausalLM",
    OUTSIDE,
    LAYERS,
    INSIDE,
    _read,
    absent={**DEFAULTS, "num_kv_heads": 8, "max_positions": 131072},
)
