"""Optimisers and the learning-rate schedule."""

from __future__ import annotations

import math
from typing import Any

from ..elastic.modules import layers

OPTIMIZERS = ("muon", "adamw")


class Optimizer:
    """AdamW for everything, or Muon for the matrices inside the layers and AdamW for the rest.

    Muon's step is scaled to the size of AdamW's (arXiv 2502.16982), so one learning rate serves both.
    """

    def __init__(self, model: Any, name: str, learning_rate: float, weight_decay: float) -> None:
        import torch

        inside = {id(p) for p in layers(model).parameters() if p.ndim == 2}
        parameters = [p for p in model.parameters() if p.requires_grad]
        matrices = [p for p in parameters if p.ndim == 2]
        hidden = [p for p in matrices if id(p) in inside] if name == "muon" else []
        others = {id(p) for p in hidden}
        adam = [
            {"params": [p for p in matrices if id(p) not in others], "weight_decay": weight_decay},
            {"params": [p for p in parameters if p.ndim != 2], "weight_decay": 0.0},
        ]
        self.learning_rate = learning_rate
        self.parts: list[Any] = [
            torch.optim.AdamW([g for g in adam if g["params"]], lr=learning_rate, betas=(0.9, 0.95))
        ]
        if hidden:
            self.parts.append(
                torch.optim.Muon(hidden, lr=learning_rate, weight_decay=weight_decay, adjust_lr_fn="match_rms_adamw")
            )

    def prepare(self, accelerator: Any, model: Any) -> Any:
        """The model as accelerate wraps it for this run; the optimisers then step on its parameters."""
        model, *self.parts = accelerator.prepare(model, *self.parts)
        return model

    def step(self, scale: float) -> None:
        """Apply the gradients at `scale` times the learning rate, and clear them."""
        for part in self.parts:
            for group in part.param_groups:
                group["lr"] = scale * self.learning_rate
            part.step()
        self.clear()

    def clear(self) -> None:
        for part in self.parts:
            part.zero_grad(set_to_none=True)


def cosine(step: int, steps: int, warmup: int, floor: float = 0.05) -> float:
    """Scale at a step (from 0): a linear rise over `warmup` steps, then half a cosine to `floor`."""
    if step < warmup:
        return (step + 1) / warmup
    return floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(steps - warmup, 1)))
