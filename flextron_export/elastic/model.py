"""Sub-networks of a torch model: the same weights, fewer rows.

`narrowed` slices (what runs and trains), `masked` zeroes (what slicing must equal). Both act on a Hugging Face model in
place and undo themselves; neither keeps a copy of a weight.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import MissingDependencyError
from .architecture import Architecture
from .modules import Projection, blocks, projections, splits
from .tensors import rows
from .widths import Budget

if TYPE_CHECKING:
    import torch
    from torch import nn


def load_model(path: Path) -> Any:
    """The full model of a directory as a Hugging Face module: float32, in evaluation mode, from safetensors only.

    Raises:
        MissingDependencyError: torch or transformers is not installed.
    """
    try:
        from transformers import AutoModelForCausalLM
    except ImportError as error:
        raise MissingDependencyError(
            f"transformers cannot be imported: {error}.", fix="pip install 'flextron-export[train]'"
        ) from error
    return AutoModelForCausalLM.from_pretrained(
        path, dtype="float32", use_safetensors=True, local_files_only=True
    ).eval()


@contextmanager
def narrowed(model: Any, architecture: Architecture, budget: Budget) -> Iterator[None]:
    """Within the block, `model` computes only the budget's sub-network; gradients reach only the active rows.

    A KV cache made inside the block has the budget's number of heads in each layer: do not use it with another budget.
    """
    changed: list[tuple[Any, str, Any]] = []  # module, attribute, what it was; None: it was not its own
    try:
        for projection in projections(model, architecture):
            width = budget.layers[projection.layer]
            counts = [rows(architecture, kind, width) for kind, _, _ in projection.parts]
            if counts != [full for _, _, full in projection.parts]:
                projection.module.forward = _narrow_forward(projection, counts)
                changed.append((projection.module, "forward", None))
        for (module, attribute), width in zip(splits(model), budget.layers, strict=False):
            changed.append((module, attribute, getattr(module, attribute)))
            setattr(module, attribute, rows(architecture, "query", width))
        yield
    finally:
        for module, attribute, before in changed:
            if before is None:
                delattr(module, attribute)
            else:
                setattr(module, attribute, before)


def _narrow_forward(projection: Projection, counts: list[int]) -> Any:
    """The forward function of a linear module over the first rows of each of its parts."""
    import torch
    from torch.nn.functional import linear

    module, dimension = projection.module, projection.dimension
    spans = [(start, count) for (_, start, _), count in zip(projection.parts, counts, strict=True)]

    def take(tensor: torch.Tensor, dimension: int) -> torch.Tensor:
        parts = [tensor.narrow(dimension, *span) for span in spans]
        return parts[0] if len(parts) == 1 else torch.cat(parts, dimension)

    def forward(x: torch.Tensor) -> torch.Tensor:
        # The weights are looked up here: sharded training gathers them only while the layer runs.
        weight, bias = take(module.weight, dimension), module.bias
        if bias is not None and not projection.output:
            bias = take(bias, 0)
        return linear(x, weight.T if projection.transposed else weight, bias)

    return forward


@contextmanager
def masked(model: Any, architecture: Architecture, budget: Budget) -> Iterator[None]:
    """Within the block, output projections read zeros beyond the budget's width: the definition of a sub-network."""

    def hook(count: int) -> Any:
        def zero(module: nn.Module, inputs: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor]:
            x = inputs[0].clone()
            x[..., count:] = 0
            return (x,)

        return zero

    handles = []
    for block, width in zip(blocks(model), budget.layers, strict=True):
        for module, kind in ((block.attention_output, "query"), (block.ffn_output, "neurons")):
            handles.append(module.register_forward_pre_hook(hook(rows(architecture, kind, width))))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
