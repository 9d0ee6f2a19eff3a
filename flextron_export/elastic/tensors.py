"""The tensors of a model: their names in a bundle, their source in a Hugging Face checkpoint, and how they narrow.

Every elastic matrix is stored with its elastic dimension first, so that a narrower network is the first rows of
the same buffer.
"""

from __future__ import annotations

from dataclasses import dataclass

from .architecture import Architecture
from .widths import LayerWidth


@dataclass(frozen=True)
class TensorSpec:
    """One tensor in prefix layout.

    Attributes:
        name: its name in the bundle and in graphs.
        source: its name in the Hugging Face checkpoint.
        shape: full shape in the bundle.
        layer: its layer, or None.
        rows: what its first dimension counts, or None if it is not elastic: `query` (query heads x head_dim), `key` (KV
            groups x head_dim) or `neurons`.
        transposed: stored as the transpose of the source (o and down: [in, hidden]).
    """

    name: str
    source: str
    shape: tuple[int, ...]
    layer: int | None = None
    rows: str | None = None
    transposed: bool = False

    def active(self, architecture: Architecture, widths: tuple[LayerWidth, ...]) -> tuple[int, ...]:
        """Shape of the prefix that a budget with these widths uses."""
        if self.rows is None or self.layer is None:
            return self.shape
        return (rows(architecture, self.rows, widths[self.layer]), *self.shape[1:])


def rows(architecture: Architecture, kind: str, width: LayerWidth) -> int:
    """Rows of a tensor of that kind (`query`, `key` or `neurons`) at a width."""
    per_group = {"query": architecture.heads_per_group * architecture.head_dim, "key": architecture.head_dim}
    return width.neurons if kind == "neurons" else width.groups * per_group[kind]


def tensor_specs(a: Architecture) -> list[TensorSpec]:
    """All tensors of an architecture, in the order in which a forward pass reads them."""
    full = LayerWidth(a.num_kv_heads, a.intermediate_size)
    specs = [TensorSpec("embedding", "model.embed_tokens.weight", (a.vocab_size, a.hidden_size))]
    for i in range(a.num_layers):
        source = f"model.layers.{i}."
        specs.append(TensorSpec(f"layers.{i}.attention_norm", source + "input_layernorm.weight", (a.hidden_size,), i))
        for name, module, kind, biased in (
            ("q", "self_attn.q_proj", "query", a.attention_bias),
            ("k", "self_attn.k_proj", "key", a.attention_bias),
            ("v", "self_attn.v_proj", "key", a.attention_bias),
            ("o", "self_attn.o_proj", "query", a.attention_bias),
            ("gate", "mlp.gate_proj", "neurons", a.mlp_bias),
            ("up", "mlp.up_proj", "neurons", a.mlp_bias),
            ("down", "mlp.down_proj", "neurons", a.mlp_bias),
        ):
            if name == "gate":
                specs.append(
                    TensorSpec(f"layers.{i}.ffn_norm", source + "post_attention_layernorm.weight", (a.hidden_size,), i)
                )
            output, count = name in ("o", "down"), rows(a, kind, full)
            specs.append(
                TensorSpec(f"layers.{i}.{name}", f"{source}{module}.weight", (count, a.hidden_size), i, kind, output)
            )
            if biased:
                bias = f"layers.{i}.{name}_bias", f"{source}{module}.bias"
                specs.append(TensorSpec(*bias, (a.hidden_size,), i) if output else TensorSpec(*bias, (count,), i, kind))
    specs.append(TensorSpec("norm", "model.norm.weight", (a.hidden_size,)))
    if not a.tied:
        specs.append(TensorSpec("lm_head", "lm_head.weight", (a.vocab_size, a.hidden_size)))
    return specs
