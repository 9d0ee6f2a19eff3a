"""How good a sub-network is: validation loss."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..elastic.architecture import Architecture
from ..elastic.model import narrowed
from ..elastic.widths import Budget
from .environment import training_attention


def validation_loss(
    model: Any,
    architecture: Architecture,
    budget: Budget,
    tokens: np.ndarray,
    *,
    batch: int = 16,
    skip: int = 0,
) -> float:
    """Mean negative log-likelihood of the next token, in nats, computed in the precision of the model's weights.

    Args:
        model: Hugging Face causal LM.
        budget: the sub-network to measure.
        tokens: int64 [sequences, length]; all but the first token of each sequence are predicted.
        batch: sequences per forward pass.
        skip: first predictions of each sequence that do not count.
    """
    import torch
    from torch.nn.functional import cross_entropy

    total = 0.0
    with (
        torch.inference_mode(),
        narrowed(model, architecture, budget),
        training_attention(model, tokens.shape[1]),
    ):
        for start in range(0, len(tokens), batch):
            ids = torch.from_numpy(tokens[start : start + batch]).to(model.device)
            logits = model(input_ids=ids[:, :-1], use_cache=False).logits
            logits, targets = logits[:, skip:].flatten(0, 1).float(), ids[:, 1 + skip :].flatten()
            total += cross_entropy(logits, targets, reduction="sum").item()
    return total / (tokens.shape[0] * (tokens.shape[1] - 1 - skip))
