"""Qwen 3: Llama with an RMS norm over every head of q and k, before the rotary embedding."""

from __future__ import annotations

from typing import Any

from .config import Config
from .family import DEFAULTS, Family
from .llama import INSIDE, LAYERS, OUTSIDE, decoder
from .qwen2 import windows


def _read(config: Config) -> dict[str, Any]:
    biases = {"attention_bias": config.get("attention_bias", False)}
    return {**decoder(config), **biases, "qk_norm": True, "windows": windows(config)}


QWEN3 = Family(
    "qwen3",
    "Qwen3ForCausalLM",
    OUTSIDE,
    LAYERS,
    {**INSIDE, "q_norm": "self_attn.q_norm", "k_norm": "self_attn.k_norm"},
    _read,
    absent={**DEFAULTS, "num_kv_heads": 32, "head_dim": 128, "max_positions": 32768},
)
