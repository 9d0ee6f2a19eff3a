"""Where the parts of a Hugging Face model are: the one place that knows the module names of a family."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Block:
    """One decoder layer.

    Attributes:
        attention_norm: its output is what attention reads.
        attention_output: the output projection; its input is the attended heads [..., query heads x head_dim].
        ffn_norm: its output is what the FFN reads.
        ffn_output: the last projection of the FFN; its input is the neurons [..., neurons].
    """

    attention_norm: Any
    attention_output: Any
    ffn_norm: Any
    ffn_output: Any


def backbone(model: Any) -> Any:
    """The model without its LM head."""
    return model.model


def blocks(model: Any) -> list[Block]:
    """The decoder layers, in order."""
    return [
        Block(layer.input_layernorm, layer.self_attn.o_proj, layer.post_attention_layernorm, layer.mlp.down_proj)
        for layer in backbone(model).layers
    ]


def output_weight(projection: Any) -> Any:
    """The weight of an output projection as [hidden, in], whichever way the module stores it; a view."""
    return projection.weight
