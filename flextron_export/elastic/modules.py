"""Where the parts of a Hugging Face model are, as its family describes it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from .architecture import Architecture
from .families import FAMILIES
from .families.family import Family
from .tensors import OUTPUTS, PROJECTIONS, fused


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


@dataclass(frozen=True)
class Projection:
    """A linear module of a decoder layer: one linear layer, or several fused.

    Attributes:
        layer: which decoder layer.
        module: nn.Linear, weight [out, in], or transformers' Conv1D, weight [in, out].
        parts: for each linear layer, what its elastic rows count (see `tensors.rows`), the first row and their number.
        output: its input is elastic, else its output.
        transposed: it is a Conv1D.
    """

    layer: int
    module: Any
    parts: tuple[tuple[str, int, int], ...]
    output: bool
    transposed: bool

    @property
    def dimension(self) -> int:
        """The elastic dimension of its weight."""
        return int(self.output != self.transposed)


def backbone(model: Any) -> Any:
    """The model without its LM head."""
    return model.get_submodule(_family(model).backbone)


def layers(model: Any) -> Any:
    """The decoder layers, in order, as one module."""
    return model.get_submodule(_family(model).layers)


def blocks(model: Any) -> list[Block]:
    """The decoder layers, in order."""
    inside = _family(model).inside
    names = ("attention_norm", "o", "ffn_norm", "down")
    return [Block(*(layer.get_submodule(inside[name]) for name in names)) for layer in layers(model)]


def projections(model: Any, architecture: Architecture) -> Iterator[Projection]:
    """Every linear module of every decoder layer."""
    family = _family(model)
    for i, layer in enumerate(layers(model)):
        seen: set[str] = set()
        for name in architecture.projections:
            path = family.inside[name]
            if path in seen:
                continue
            seen.add(path)
            parts = tuple((PROJECTIONS[part], *span) for part, span in fused(architecture, name).items())
            yield Projection(i, layer.get_submodule(path), parts, name in OUTPUTS, family.transposed)


def splits(model: Any) -> Iterator[tuple[Any, str]]:
    """For each decoder layer with a fused projection, the module and the attribute that say how wide its parts are."""
    family = _family(model)
    if family.split is not None:
        path, _, attribute = family.split.rpartition(".")
        for layer in layers(model):
            yield layer.get_submodule(path), attribute


def output_weight(projection: Any) -> Any:
    """The weight of an output projection as [hidden, in], whichever way the module stores it; a view."""
    return projection.weight.T if hasattr(projection, "nf") else projection.weight  # only Conv1D, [in, out], has `nf`


def _family(model: Any) -> Family:
    return FAMILIES[model.config.model_type]
