"""GPT-2, the architecture of GPT-3: LayerNorm, learned positions, a plain FFN, biases everywhere, q, k and v fused."""

from __future__ import annotations

from typing import Any

from ..values import positive
from .config import Config
from .family import Family


def _read(config: Config) -> dict[str, Any]:
    config.accept("scale_attn_weights", True)
    config.accept("scale_attn_by_inverse_layer_idx", False)
    config.accept("add_cross_attention", False)
    hidden = config.get("n_embd")
    return {
        "intermediate_size": config.get("n_inner", 4 * hidden if positive(hidden) else None),
        "attention_bias": True,
        "mlp_bias": True,
        "rope": None,
        "norm": "layer",
        "activation": config.activation("activation_function", "gelu_new"),
        "gated": False,
    }


GPT2 = Family(
    "gpt2",
    "GPT2LMHeadModel",
    {
        "embedding": "transformer.wte",
        "position_embedding": "transformer.wpe",
        "norm": "transformer.ln_f",
        "lm_head": "lm_head",
    },
    "transformer.h",
    {
        "attention_norm": "ln_1",
        "q": "attn.c_attn",
        "k": "attn.c_attn",
        "v": "attn.c_attn",
        "o": "attn.c_proj",
        "ffn_norm": "ln_2",
        "up": "mlp.c_fc",
        "down": "mlp.c_proj",
    },
    _read,
    names={
        "hidden_size": "n_embd",
        "num_layers": "n_layer",
        "num_heads": "n_head",
        "intermediate_size": "n_inner",
        "vocab_size": "vocab_size",
        "max_positions": "n_positions",
        "norm_eps": "layer_norm_epsilon",
        "tied": "tie_word_embeddings",
    },
    absent={"max_positions": 1024, "norm_eps": 1e-5, "tied": True},
    backbone="transformer",
    transposed=True,
    split="attn.split_size",
)
