"""What a family says about itself."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from .config import Config

NAMES = {
    "hidden_size": "hidden_size",
    "num_layers": "num_hidden_layers",
    "num_heads": "num_attention_heads",
    "num_kv_heads": "num_key_value_heads",
    "head_dim": "head_dim",
    "intermediate_size": "intermediate_size",
    "vocab_size": "vocab_size",
    "max_positions": "max_position_embeddings",
    "norm_eps": "rms_norm_eps",
    "tied": "tie_word_embeddings",
}
"""What an architecture takes from a Hugging Face config as it is -> its usual name there."""

DEFAULTS = {"norm_eps": 1e-6, "tied": False}


@dataclass(frozen=True)
class Family:
    """Where a family keeps what an architecture consists of, by the names of docs/bundle-format.md.

    Attributes:
        model_type: of the Hugging Face config.
        model: the class of transformers that a config must name.
        outside: tensor -> its module in the Hugging Face model.
        layers: the list of decoder layers in the Hugging Face model.
        inside: tensor -> its module in a decoder layer. Tensors of one module are fused: its rows are theirs, one after
            the other, in this order.
        read: the other fields of an architecture, from a config; what is not supported goes to its `faults`. A field
            that it returns replaces the one read by name.
        names: field of an architecture -> its name in the config.
        absent: field -> what transformers takes where the config does not have it.
        backbone: the model without its LM head.
        transposed: linear modules are transformers' `Conv1D`, whose weight is [in, out].
        split: attribute of a decoder layer that says how wide each part of a fused projection is.
    """

    model_type: str
    model: str
    outside: Mapping[str, str]
    layers: str
    inside: Mapping[str, str]
    read: Callable[[Config], dict[str, Any]]
    names: Mapping[str, str] = field(default_factory=lambda: NAMES)
    absent: Mapping[str, Any] = field(default_factory=lambda: DEFAULTS)
    backbone: str = "model"
    transposed: bool = False
    split: str | None = None

    def path(self, name: str, layer: int | None = None) -> str:
        """Path of a tensor's module in the Hugging Face model."""
        return self.outside[name] if layer is None else f"{self.layers}.{layer}.{self.inside[name]}"
