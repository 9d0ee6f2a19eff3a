"""What is trained, as values: a recipe holds everything its result depends on, the runs before it included."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from typing import Any

from flextron_export.elastic.architecture import Architecture

VERSION = 2
"""Raised when a recipe comes to mean something else, so that no earlier result is taken for its own."""


@dataclass(frozen=True)
class Shape:
    """A Llama with plain multi-head attention, as in the paper."""

    hidden: int
    layers: int
    heads: int
    head_dim: int
    neurons: int

    def config(self, vocabulary: int) -> dict[str, Any]:
        """What `config.json` says of it."""
        return {
            "model_type": "llama",
            "architectures": ["LlamaForCausalLM"],
            "hidden_size": self.hidden,
            "num_hidden_layers": self.layers,
            "num_attention_heads": self.heads,
            "num_key_value_heads": self.heads,
            "head_dim": self.head_dim,
            "intermediate_size": self.neurons,
            "vocab_size": vocabulary,
            "max_position_embeddings": 1024,
            "tie_word_embeddings": True,
            "bos_token_id": None,
            "eos_token_id": 0,
        }

    def architecture(self, vocabulary: int) -> Architecture:
        return Architecture.from_config(self.config(vocabulary))


@dataclass(frozen=True)
class Text:
    """What is read: a text file, and how it becomes tokens. The held-out part is the same for all seeds.

    Attributes:
        path: the file; relative to the repository.
        length: tokens per sequence.
        validation: sequences the loss is measured on, spread over the held-out documents.
    """

    path: str
    vocabulary: int
    length: int
    validation: int


@dataclass(frozen=True)
class Training:
    """One run of `flextron_export.training`: where it starts, what it trains, and how.

    Attributes:
        name: for people; part of the key.
        shape: of the model.
        start: the run whose weights it starts from, and that it is distilled from; None: random weights.
        order: `sorted`, `unsorted`, `reversed` or `random`: the order given to groups and neurons before training.
        train: `full`, a sampling scheme (`sandwich`, `uniform`, `random`, `router`), or the name of the one budget to
            train.
        tokens: to read; 0 trains nothing, so that only sorting is measured.
        loss: `ce`, `distill` or `mix`.
        fractions: of the full widths, that a sampling scheme draws from.
        around: the run whose networks `router` stays near.
        full_weight: see `TrainingSettings`.
    """

    name: str
    text: Text
    shape: Shape
    seed: int
    tokens: int
    learning_rate: float
    start: Training | None = None
    order: str = "unsorted"
    train: str = "full"
    loss: str = "ce"
    optimizer: str = "muon"
    batch: int = 32
    fractions: tuple[float, ...] = ()
    around: Choosing | None = None
    full_weight: float = 1.0

    @property
    def before(self) -> tuple[Recipe, ...]:
        """The runs it needs."""
        return tuple(recipe for recipe in (self.start, self.around) if recipe is not None)

    @property
    def depth(self) -> int:
        """Runs that come before it, one after the other."""
        return max((recipe.depth + 1 for recipe in self.before), default=0)


@dataclass(frozen=True)
class Choosing:
    """One way to choose the widths of an elastic model at latency targets.

    Attributes:
        name: for people; part of the key.
        start: the run whose model it is.
        way: `uniform` (the best widths that are the same in every layer), `search`, or a kind of router: `static` or
            `dynamic`.
        targets: latencies relative to the full model.
        fractions: of the full widths: the candidates.
        stands_for: the large shape whose layers' latencies count, on `device`, with `context` tokens in the cache.
        tokens: that routers are trained on.
        method: how routers are trained.
        evaluations: most losses that the search computes.
        joint_tokens: then read to train model and router together.
    """

    name: str
    start: Training
    seed: int
    way: str
    targets: tuple[float, ...]
    fractions: tuple[float, ...]
    stands_for: str
    device: str
    context: int
    tokens: int = 0
    method: str = "gumbel"
    batch: int = 32
    evaluations: int = 120
    joint_tokens: int = 0

    @property
    def before(self) -> tuple[Recipe, ...]:
        """The runs it needs."""
        return (self.start,)

    @property
    def depth(self) -> int:
        """Runs that come before it, one after the other."""
        return self.start.depth + 1


Recipe = Training | Choosing


def key(recipe: Recipe) -> str:
    """Name of the folder of its result: equal recipes have equal keys, and no others."""
    described = json.dumps({"version": VERSION, **asdict(recipe)}, sort_keys=True)
    return f"{recipe.name}-{recipe.seed}-{hashlib.sha256(described.encode()).hexdigest()[:12]}"
