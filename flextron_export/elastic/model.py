"""Sub-networks of a torch model: the same weights, fewer rows.

`narrowed` slices (what runs and trains), `masked` zeroes (what slicing must equal). Both act on a Hugging Face model in
place and undo themselves; neither copies a weight.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import MissingDependencyError
from .architecture import Architecture
from .tensors import rows
from .widths import Budget

if TYPE_CHECKING:
    import torch
    from torch import nn

_PROJECTIONS = {
    "q_proj": ("self_attn", "query", 0),
    "k_proj": ("self_attn", "key", 0),
    "v_proj": ("self_attn", "key", 0),
    "o_proj": ("self_attn", "query", 1),
    "gate_proj": ("mlp", "neurons", 0),
    "up_proj": ("mlp", "neurons", 0),
    "down_proj": ("mlp", "neurons", 1),
}
"""projection -> its module, what its elastic dimension counts, and which dimension of nn.Linear's weight that is."""


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


def _linears(model: Any) -> Iterator[tuple[int, str, nn.Linear]]:
    for i, layer in enumerate(model.model.layers):
        for name, (module, _, _) in _PROJECTIONS.items():
            yield i, name, getattr(getattr(layer, module), name)


@contextmanager
def narrowed(model: Any, architecture: Architecture, budget: Budget) -> Iterator[None]:
    """Within the block, `model` computes only the budget's sub-network; gradients reach only the active rows.

    A KV cache made inside the block has the budget's number of heads in each layer: do not use it with another budget.
    """
    from torch.nn.functional import linear

    def forward(module: nn.Linear, count: int, dimension: int) -> Any:
        weight, bias = module.weight, module.bias
        if dimension == 1:
            return lambda x: linear(x, weight[:, :count], bias)
        return lambda x: linear(x, weight[:count], None if bias is None else bias[:count])

    changed = []
    try:
        for i, name, module in _linears(model):
            _, kind, dimension = _PROJECTIONS[name]
            count = rows(architecture, kind, budget.layers[i])
            if count < module.weight.shape[dimension]:
                module.forward = forward(module, count, dimension)  # type: ignore[method-assign]
                changed.append(module)
        yield
    finally:
        for module in changed:
            del module.forward


@contextmanager
def masked(model: Any, architecture: Architecture, budget: Budget) -> Iterator[None]:
    """Within the block, output projections read zeros beyond the budget's width: the definition of a sub-network."""

    def hook(count: int) -> Any:
        def zero(module: nn.Module, inputs: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor]:
            x = inputs[0].clone()
            x[..., count:] = 0
            return (x,)

        return zero

    handles = [
        module.register_forward_pre_hook(hook(rows(architecture, _PROJECTIONS[name][1], budget.layers[i])))
        for i, name, module in _linears(model)
        if _PROJECTIONS[name][2] == 1
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
