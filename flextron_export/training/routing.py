"""Applying routers' choices to a model: masks on the inputs of the output projections.

Keys and values exist for all groups, whatever a token chose: a later token may attend with heads that an earlier one
did not want. Only query heads (the input of the attention's output projection) and FFN neurons are limited, per token.
Where all tokens choose the same, this computes what the sliced network computes (`elastic.model.narrowed`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..elastic.architecture import Architecture
from ..elastic.modules import blocks
from ..elastic.router import PARTS
from ..elastic.tensors import rows
from ..elastic.widths import Candidates, LayerWidth
from .environment import autocast

if TYPE_CHECKING:
    import torch

    from .routers import Routers

Decide = Callable[[int, str, "torch.Tensor"], "torch.Tensor"]
"""(layer, part, normed hidden state [batch, tokens, hidden]) -> how much each candidate is used: [..., candidates], in
the end one-hot, with leading dimensions that broadcast against [batch, tokens]."""


def prefixes(architecture: Architecture, candidates: Candidates, part: str) -> torch.Tensor:
    """float32 [candidates, inputs of the output projection]: 1 where a candidate keeps an input, else 0."""
    import torch

    if part == "attention":
        widths = [rows(architecture, "query", LayerWidth(g, 0)) for g in candidates.groups]
    else:
        widths = list(candidates.neurons)
    return (torch.arange(widths[-1]) < torch.tensor(widths)[:, None]).float()


@contextmanager
def routed(model: Any, architecture: Architecture, candidates: Candidates, decide: Decide) -> Iterator[None]:
    """Within the block, every part of every layer uses the candidates that `decide` says.

    An input of an output projection is multiplied by the sum of the uses of the candidates that keep it, so gradients
    reach the uses, also those of candidates wider than the one chosen.
    """
    masks = {part: prefixes(architecture, candidates, part).to(model.device) for part in PARTS}
    uses: dict[tuple[int, str], torch.Tensor] = {}

    def choose(layer: int, part: str) -> Any:
        def hook(_module: Any, _inputs: Any, output: torch.Tensor) -> None:
            uses[layer, part] = decide(layer, part, output)

        return hook

    def limit(layer: int, part: str) -> Any:
        def hook(_module: Any, inputs: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor]:
            import torch

            with torch.autocast(inputs[0].device.type, enabled=False):
                mask = uses.pop((layer, part)) @ masks[part]
            return (inputs[0] * mask.to(inputs[0].dtype),)

        return hook

    handles = []
    for i, block in enumerate(blocks(model)):
        for part, norm, output in (
            ("attention", block.attention_norm, block.attention_output),
            ("ffn", block.ffn_norm, block.ffn_output),
        ):
            handles += [
                norm.register_forward_hook(choose(i, part)),
                output.register_forward_pre_hook(limit(i, part)),
            ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


Use = Callable[["torch.Tensor"], "torch.Tensor"]
"""Logits [..., candidates] -> how much each candidate is used, of the same shape."""


@dataclass
class Pass:
    """What one pass with routers gave.

    Attributes:
        losses: nats of every predicted token, [batch, tokens].
        logits: of every layer and part, in order: the part and its routers' logits (see `routers.Logits`).
        anchor: the same at target 1, on what the routers read in this pass.
    """

    losses: torch.Tensor
    logits: list[tuple[str, torch.Tensor]]
    anchor: list[tuple[str, torch.Tensor]]


def routed_pass(model: Any, routers: Routers, target: float, ids: torch.Tensor, use: Use, precision: str) -> Pass:
    """Predict every token of `ids` from those before it, the routers choosing for a relative latency target.

    A prompt router reads the first half of every sequence. What the routers read carries no gradient to the model, so a
    pass under `torch.no_grad` still gives their logits with gradients, and none of the model's activations are kept.

    Args:
        ids: int64 [batch, tokens + 1].
        use: turns logits into uses; `routers.one_hot` for the choices that count.
        precision: see `environment.autocast`.
    """
    import torch
    from torch.nn.functional import cross_entropy

    inputs, following = ids[:, :-1], ids[:, 1:]
    record = routers.record
    with torch.enable_grad():
        prompt = None
        if record.kind == "prompt":
            prompt = model.get_input_embeddings()(inputs[:, : max(inputs.shape[1] // 2, 1)]).detach()
        at_target, at_full = routers.of(target, prompt), routers.of(1.0, prompt)
    found: list[tuple[str, torch.Tensor]] = []
    anchor: list[tuple[str, torch.Tensor]] = []

    def decide(layer: int, part: str, x: torch.Tensor) -> torch.Tensor:
        with torch.enable_grad():
            logits = at_target(layer, part, x.detach())
            anchor.append((part, at_full(layer, part, x.detach())))
        found.append((part, logits))
        return use(logits)

    with routed(model, routers.architecture, record.candidates, decide), autocast(model.device, precision):
        logits = model(input_ids=inputs, use_cache=False).logits
    losses = cross_entropy(logits.flatten(0, 1).float(), following.flatten(), reduction="none")
    return Pass(losses.view_as(following), found, anchor)
