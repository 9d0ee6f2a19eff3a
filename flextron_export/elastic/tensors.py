"""The tensors of a model: their names in a bundle, their source in a Hugging Face checkpoint, and how they narrow.

Every elastic matrix is stored with its elastic dimension first, so that a narrower network is the first rows of
the same buffer.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from .architecture import Architecture
from .families import FAMILIES
from .widths import LayerWidth

PROJECTIONS = {
    "q": "query",
    "k": "key",
    "v": "key",
    "o": "query",
    "gate": "neurons",
    "up": "neurons",
    "down": "neurons",
}
"""linear layer -> what its elastic dimension counts; see `rows`."""

OUTPUTS = ("o", "down")
"""The linear layers that write into the residual stream: their inputs are elastic."""


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
        transposed: stored as the transpose of the source.
        start: where its rows begin in those of the source, which may hold several tensors.
        of: rows of the source, or None if it holds this tensor alone.
    """

    name: str
    source: str
    shape: tuple[int, ...]
    layer: int | None = None
    rows: str | None = None
    transposed: bool = False
    start: int = 0
    of: int | None = None

    @property
    def source_shape(self) -> tuple[int, ...]:
        """Shape of the source in the Hugging Face checkpoint."""
        whole = (self.shape[0] if self.of is None else self.of, *self.shape[1:])
        return whole[::-1] if self.transposed else whole

    def take(self, source: Any) -> Any:
        """This tensor out of its source, an array or a torch tensor; a view."""
        return (source.T if self.transposed else source)[self.start : self.start + self.shape[0]]

    def active(self, architecture: Architecture, widths: tuple[LayerWidth, ...]) -> tuple[int, ...]:
        """Shape of the prefix that a budget with these widths uses."""
        if self.rows is None or self.layer is None:
            return self.shape
        return (rows(architecture, self.rows, widths[self.layer]), *self.shape[1:])


def rows(architecture: Architecture, kind: str, width: LayerWidth) -> int:
    """Rows of a tensor of that kind (`query`, `key` or `neurons`) at a width."""
    per_group = {"query": architecture.heads_per_group * architecture.head_dim, "key": architecture.head_dim}
    return width.neurons if kind == "neurons" else width.groups * per_group[kind]


def full_width(architecture: Architecture) -> LayerWidth:
    """The width of a whole layer."""
    return LayerWidth(architecture.num_kv_heads, architecture.intermediate_size)


def fused(architecture: Architecture, name: str) -> dict[str, tuple[int, int]]:
    """The linear layers that share a module with this one: name -> (first row, rows), in the order of their rows."""
    inside, full = FAMILIES[architecture.family].inside, full_width(architecture)
    found, start = {}, 0
    for other in architecture.projections:
        if inside[other] == inside[name]:
            count = rows(architecture, PROJECTIONS[other], full)
            found[other] = start, count
            start += count
    return found


def tensor_specs(a: Architecture) -> list[TensorSpec]:
    """All tensors of an architecture, in the order in which a forward pass reads them."""
    family = FAMILIES[a.family]
    embedding = (a.vocab_size, a.hidden_size)
    specs = [TensorSpec("embedding", family.path("embedding") + ".weight", embedding)]
    if a.rope is None:
        specs.append(
            TensorSpec(
                "position_embedding", family.path("position_embedding") + ".weight", (a.max_positions, a.hidden_size)
            )
        )
    for i in range(a.num_layers):
        specs += _norm(a, "attention_norm", i)
        for name in a.projections:
            if name == a.projections[4]:
                specs += _norm(a, "ffn_norm", i)
            specs += _linear(a, name, i)
            if name == "v" and a.qk_norm:
                for head_norm in ("q_norm", "k_norm"):
                    source = f"{family.path(head_norm, i)}.weight"
                    specs.append(TensorSpec(f"layers.{i}.{head_norm}", source, (a.head_dim,), i))
    specs += _norm(a, "norm")
    if not a.tied:
        specs.append(TensorSpec("lm_head", family.path("lm_head") + ".weight", embedding))
    return specs


def _norm(a: Architecture, name: str, layer: int | None = None) -> Iterator[TensorSpec]:
    path, ours = FAMILIES[a.family].path(name, layer), name if layer is None else f"layers.{layer}.{name}"
    yield TensorSpec(ours, f"{path}.weight", (a.hidden_size,), layer)
    if a.norm == "layer":
        yield TensorSpec(f"{ours}_bias", f"{path}.bias", (a.hidden_size,), layer)


def _linear(a: Architecture, name: str, layer: int) -> Iterator[TensorSpec]:
    family, parts, output = FAMILIES[a.family], fused(a, name), name in OUTPUTS
    path, ours, kind = family.path(name, layer), f"layers.{layer}.{name}", PROJECTIONS[name]
    start, count = parts[name]
    of = sum(n for _, n in parts.values()) if len(parts) > 1 else None
    transposed = output != family.transposed
    yield TensorSpec(ours, f"{path}.weight", (count, a.hidden_size), layer, kind, transposed, start, of)
    if a.biased(name) and output:
        yield TensorSpec(f"{ours}_bias", f"{path}.bias", (a.hidden_size,), layer)
    elif a.biased(name):
        yield TensorSpec(f"{ours}_bias", f"{path}.bias", (count,), layer, kind, start=start, of=of)
