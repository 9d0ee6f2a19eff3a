"""Routers as torch modules; the names of their parameters are those of `router.safetensors`."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn.functional import leaky_relu, linear

from ..elastic.architecture import Architecture
from ..elastic.router import FILE, PARTS, SLOPE, Router, RouterRecord, encode
from ..elastic.safetensors import TensorPlan, write_safetensors


class TwoLayers(nn.Module):
    """Logits from the code of a latency target and, where there is one, an input; no bias.

    The code's columns of the first layer stand in for its bias: they differ from target to target.
    """

    input: nn.Parameter | None

    def __init__(self, targets: int, inputs: int | None, hidden: int, outputs: int) -> None:
        super().__init__()

        def weights(rows: int, columns: int) -> nn.Parameter:
            return nn.Parameter(torch.empty(rows, columns).uniform_(-1, 1) / math.sqrt(columns))

        self.target = weights(hidden, targets)
        self.input = None if inputs is None else weights(hidden, inputs)
        self.output = weights(outputs, hidden)

    def forward(self, code: torch.Tensor, x: torch.Tensor | None = None) -> torch.Tensor:
        """[outputs], or [..., outputs] for x [..., inputs]; computed in float32 whatever surrounds it."""
        with torch.autocast(code.device.type, enabled=False):
            hidden = linear(code, self.target)
            if self.input is not None and x is not None:
                hidden = hidden + linear(x.float(), self.input)
            return linear(leaky_relu(hidden, SLOPE), self.output)


class Routers(nn.Module):
    """The routers of a model: one per layer and part, or one for all of a prompt."""

    def __init__(self, record: RouterRecord, architecture: Architecture) -> None:
        super().__init__()
        self.record, self.architecture = record, architecture
        counts = {part: len(record.choices(part)) for part in PARTS}
        targets, hidden = len(record.targets), record.hidden_size
        if record.kind == "prompt":
            outputs = architecture.num_layers * sum(counts.values())
            self.prompt = TwoLayers(targets, architecture.hidden_size, hidden, outputs)
        else:
            inputs = architecture.hidden_size if record.kind == "dynamic" else None
            self.layers = nn.ModuleList(
                nn.ModuleDict({part: TwoLayers(targets, inputs, hidden, counts[part]) for part in PARTS})
                for _ in range(architecture.num_layers)
            )

    def code(self, target: float) -> torch.Tensor:
        """See `elastic.router.encode`."""
        return torch.from_numpy(encode(self.record.targets, target)).to(next(self.parameters()).device)

    def of(self, target: float, embeddings: torch.Tensor | None = None) -> Logits:
        """The logits at a target, as a function of layer, part and hidden state.

        Args:
            embeddings: [batch, prompt, hidden], the prompts' embeddings, for a prompt router.
        """
        code = self.code(target)
        if self.record.kind == "prompt":
            assert embeddings is not None
            return Logits(self, code, self._prompt(code, embeddings))
        return Logits(self, code, None)

    def _prompt(self, code: torch.Tensor, embeddings: torch.Tensor) -> torch.Tensor:
        mean = embeddings.detach().float().mean(1)
        x = mean * torch.rsqrt(mean.square().mean(-1, keepdim=True) + 1e-12)
        return self.prompt(code, x).view(len(x), 1, self.architecture.num_layers, -1)

    def read(self, router: Router) -> None:
        """Take over the weights of a router that was read from a checkpoint."""
        self.load_state_dict({name: torch.from_numpy(np.array(value)) for name, value in router.tensors.items()})

    def write(self, directory: Path) -> None:
        """Write `router.safetensors` into a directory."""
        tensors = self.numpy().tensors
        plans = {name: TensorPlan("F32", v.shape, lambda v=v: v) for name, v in tensors.items()}  # type: ignore[misc]
        write_safetensors(directory / FILE, plans)

    def numpy(self) -> Router:
        """A copy in NumPy."""
        copies = {name: value.detach().float().cpu().numpy().copy() for name, value in self.state_dict().items()}
        return Router(self.record, copies)


class Logits:
    """The routers at one target: call with a layer, a part and the part's normed input."""

    def __init__(self, routers: Routers, code: torch.Tensor, prompt: torch.Tensor | None) -> None:
        self._routers, self._code, self._prompt = routers, code, prompt

    def __call__(self, layer: int, part: str, x: torch.Tensor) -> torch.Tensor:
        """Static: [candidates]; prompt: [batch, 1, candidates]; dynamic: [batch, tokens, candidates]."""
        if self._prompt is not None:
            groups = len(self._routers.record.candidates.groups)
            row = self._prompt[:, :, layer]
            return row[..., :groups] if part == "attention" else row[..., groups:]
        network: Any = self._routers.layers[layer]
        return network[part](self._code, x)


def one_hot(logits: torch.Tensor) -> torch.Tensor:
    """1 at the largest logit (the first of equal ones), else 0."""
    return torch.zeros_like(logits).scatter_(-1, logits.argmax(-1, keepdim=True), 1.0)


def gumbel_noise(like: torch.Tensor) -> torch.Tensor:
    """Gumbel(0, 1) numbers: the largest of logits with this noise is a draw from their softmax."""
    tiny = torch.finfo(like.dtype).tiny
    return -torch.empty_like(like).exponential_().clamp_min(tiny).log()


def descending(targets: Sequence[float]) -> tuple[float, ...]:
    """Distinct targets, widest first, with the full model's."""
    return tuple(sorted({1.0, *targets}, reverse=True))
