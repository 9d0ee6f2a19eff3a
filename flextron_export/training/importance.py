"""Importance of KV groups and FFN neurons, and the order that sorting gives them.

Every measure looks at the inputs of the two output projections of a layer: the heads that attention has computed, and
the FFN's neurons. Flextron (arXiv 2406.10260) sorts by importance; Minitron (arXiv 2407.14679), of the same group,
prunes by activations at the same two places; first-order Taylor is that of Molchanov et al. (arXiv 1611.06440).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ..elastic.architecture import Architecture
from ..elastic.modules import Block, backbone, blocks, output_weight
from ..errors import InputError
from .environment import training_attention

if TYPE_CHECKING:
    import torch

MEASURES = {
    "rms": "root mean square over tokens of the norm of what the unit adds to the residual stream",
    "mean": "mean over tokens of that norm",
    "activation": "Minitron's: mean |activation| of a sequence, root mean square over sequences, L2 norm over channels",
    "taylor": "mean over sequences of the first-order change of the loss if the unit were removed, nats per token",
}
CONTROLS = {
    "random": "any order, by the seed",
    "reversed": "least important first, by rms",
    "none": "the order of the original",
}
"""Orders to compare the measures with; none of them is good."""
IMPORTANCE = (*MEASURES, *CONTROLS)
DEFAULT_IMPORTANCE = "rms"


@dataclass(frozen=True)
class Importance:
    """Importance of every elastic unit, never negative; larger is more important.

    Attributes:
        groups: float64 [layers, kv_heads].
        neurons: float64 [layers, ffn].
    """

    groups: np.ndarray
    neurons: np.ndarray

    def order(self, importance: str = DEFAULT_IMPORTANCE, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
        """(group_order, neuron_order), int64 of the same shapes: the index of what comes first, second, and so on.

        Args:
            importance: a measure puts the most important first (equal ones keep their order); a control does what
                `CONTROLS` says.
            seed: of `random`.
        """
        random = np.random.default_rng(seed)

        def sort(values: np.ndarray) -> np.ndarray:
            stored = np.broadcast_to(np.arange(values.shape[1]), values.shape)
            if importance == "none":
                return stored.copy()
            if importance == "random":
                return random.permuted(stored, axis=1)
            order = np.argsort(-values, 1, kind="stable")
            return order[:, ::-1].copy() if importance == "reversed" else order

        return sort(self.groups), sort(self.neurons)

    def reordered(self, group_order: np.ndarray, neuron_order: np.ndarray) -> Importance:
        """The importance of the same units after the model was permuted by these orders."""
        return Importance(
            np.take_along_axis(self.groups, group_order, 1), np.take_along_axis(self.neurons, neuron_order, 1)
        )


def measure_behind(importance: str) -> str:
    """The measure whose values an order is made or shown with: itself, or `rms` for a control.

    Raises:
        InputError: there is neither a measure nor a control of that name.
    """
    if importance not in IMPORTANCE:
        raise InputError(
            f"There is no measure of importance {importance!r}.", fix=f"use one of: {', '.join(IMPORTANCE)}"
        )
    return importance if importance in MEASURES else DEFAULT_IMPORTANCE


def measure_importance(
    model: Any, architecture: Architecture, tokens: np.ndarray, *, measure: str = DEFAULT_IMPORTANCE, batch: int = 16
) -> Importance:
    """Run the model over a text and measure.

    Args:
        model: Hugging Face causal LM.
        tokens: integers [sequences, length]; may be memory-mapped.
        measure: one of `MEASURES`.
        batch: sequences per pass; the statistics are streamed, so memory does not grow with the text. The result does
            not depend on it.
    """
    import torch

    a = architecture
    units = {"groups": a.num_kv_heads, "neurons": a.intermediate_size}
    sums = {k: torch.zeros(a.num_layers, n, dtype=torch.float64, device=model.device) for k, n in units.items()}
    run = _taylor if measure == "taylor" else _forward
    with training_attention(model, tokens.shape[1]):
        for start in range(0, len(tokens), batch):
            ids = torch.from_numpy(tokens[start : start + batch].astype(np.int64, copy=False)).to(model.device)
            run(model, a, ids, sums, measure)
    count = tokens.size if measure in ("rms", "mean") else len(tokens)
    values = {k: (total.cpu().numpy() / count).clip(0) for k, total in sums.items()}
    if measure in ("rms", "activation"):  # sums of squares
        values = {k: np.sqrt(v) for k, v in values.items()}
    return Importance(**values)


def _forward(model: Any, a: Architecture, ids: torch.Tensor, sums: dict[str, torch.Tensor], measure: str) -> None:
    """Add what one forward pass shows to the sums."""
    import torch

    def add(layer: int, kind: str, x: torch.Tensor, block: Block) -> None:
        if measure == "activation":
            channels = x.abs().mean(1).square().sum(0)  # [q] or [neurons]
            sums[kind][layer] += channels.view(sums[kind].shape[1], -1).sum(1)
            return
        norms = _group_norms(x, block, a) if kind == "groups" else _neuron_norms(x, block)
        sums[kind][layer] += (norms.square() if measure == "rms" else norms).sum(0, dtype=torch.float64)

    with torch.inference_mode(), _inputs(model, add):
        backbone(model)(input_ids=ids, use_cache=False)


def _group_norms(x: torch.Tensor, block: Block, a: Architecture) -> torch.Tensor:
    """Norm of what each group adds to each token: [batch, length, q] -> [tokens, groups]."""
    # |W x|^2 = xT (WT W) x, so contributions of the size of the residual stream need not be formed for every group.
    size = a.heads_per_group * a.head_dim
    weight = output_weight(block.attention_output).float().reshape(a.hidden_size, a.num_kv_heads, size).transpose(0, 1)
    heads = x.reshape(-1, a.num_kv_heads, size).transpose(0, 1)  # [groups, tokens, size]
    return ((heads @ (weight.transpose(1, 2) @ weight)) * heads).sum(-1).clamp(min=0).sqrt().T


def _neuron_norms(x: torch.Tensor, block: Block) -> torch.Tensor:
    """Norm of what each neuron adds to each token: [batch, length, neurons] -> [tokens, neurons]."""
    return x.flatten(0, 1).abs() * output_weight(block.ffn_output).float().norm(dim=0)


def _taylor(model: Any, a: Architecture, ids: torch.Tensor, sums: dict[str, torch.Tensor], _: str) -> None:
    """Add |gradient x activation|, summed within each sequence and unit, of one forward and backward pass.

    Every unit of every sequence is multiplied by a gate of 1; the gradient of its gate is the sum over tokens of
    gradient x activation, which is how much the loss would fall if it were removed, to first order.
    """
    import torch
    from torch.nn.functional import cross_entropy

    gates: dict[tuple[str, int], torch.Tensor] = {}

    def gate(layer: int, kind: str, x: torch.Tensor, _: Block) -> torch.Tensor:
        units = sums[kind].shape[1]
        ones = torch.ones(len(x), 1, units, 1, dtype=x.dtype, device=x.device, requires_grad=True)
        gates[kind, layer] = ones
        return (x.unflatten(-1, (units, -1)) * ones).flatten(-2)

    with torch.enable_grad(), _frozen(model), _inputs(model, gate):
        logits = model(input_ids=ids, use_cache=False).logits[:, :-1].flatten(0, 1).float()
        # The mean over each sequence's tokens, added up over sequences: one sequence has no part in another's gates.
        loss = cross_entropy(logits, ids[:, 1:].flatten(), reduction="sum") / (ids.shape[1] - 1)
        gradients = torch.autograd.grad(loss, list(gates.values()))
    for (kind, layer), gradient in zip(gates, gradients, strict=True):
        sums[kind][layer] += gradient[:, 0, :, 0].abs().sum(0, dtype=torch.float64)


@contextmanager
def _inputs(model: Any, see: Callable[[int, str, Any, Block], Any]) -> Iterator[None]:
    """Within the block, `see(layer, kind, x, block)` gets the inputs of every output projection.

    `kind` is `groups` (x [batch, length, q]) or `neurons` (x [batch, length, neurons]), x in float32 or wider. If it
    returns something, that takes the place of x.
    """

    def hook(layer: int, kind: str, block: Block) -> Any:
        def replace(_: Any, inputs: tuple[Any, ...]) -> tuple[Any, ...] | None:
            x = inputs[0]
            found = see(layer, kind, x if x.element_size() >= 4 else x.float(), block)
            return None if found is None else (found.to(x.dtype),)

        return replace

    handles = []
    for i, block in enumerate(blocks(model)):
        handles.append(block.attention_output.register_forward_pre_hook(hook(i, "groups", block)))
        handles.append(block.ffn_output.register_forward_pre_hook(hook(i, "neurons", block)))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def _frozen(model: Any) -> Iterator[None]:
    """Within the block no weight takes a gradient, so a backward pass keeps none in memory."""
    trained = [p for p in model.parameters() if p.requires_grad]
    for parameter in trained:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in trained:
            parameter.requires_grad_(True)
