"""Llama 2 and 3: RMS norms, rotary positions, a gated FFN. The families that keep its module names share them."""

from __future__ import annotations

from typing import Any

from .config import Config
from .family import DEFAULTS, Family

OUTSIDE = {"embedding": "model.embed_tokens", "norm": "model.norm", "lm_head": "lm_head"}
LAYERS = "model.layers"
INSIDE = {
    "attention_norm": "input_layernorm",
    "q": "self_attn.q_proj",
    "k": "self_attn.k_proj",
    "v": "self_attn.v_proj",
    "o": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "gate": "mlp.gate_proj",
    "up": "mlp.up_proj",
    "down": "mlp.down_proj",
}


def decoder(config: Config) -> dict[str, Any]:
    """What the families with Llama's layer have in common."""
    return {
        "attention_bias": False,
        "mlp_bias": False,
        "rope": config.rope(),
        "activation": config.activation("hidden_act", "silu"),
    }


def _read(config: Config) -> dict[str, Any]:
    config.whole_attention()
    biases = {name: config.get(name, False) for name in ("attention_bias", "mlp_bias")}
    return {**decoder(config), **biases}


LLAMA = Family("llama", "LlamaForCausalLM", OUTSIDE, LAYERS, INSIDE, _read, absent={**DEFAULTS, "max_positions": 2048})
