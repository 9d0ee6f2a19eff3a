"""The architecture of a model, read from its Hugging Face config: no torch, no ONNX."""

from __future__ import annotations

from dataclasses import MISSING, asdict, dataclass, fields
from pathlib import Path
from typing import Any

from ..errors import CheckpointError, UnsupportedModelError, problems
from ..files import integers, read_object
from .families import FAMILIES
from .families.config import Config
from .families.family import NAMES
from .families.refused import missing_parts
from .rope import Rope
from .values import number, positive

SIZES = (
    "hidden_size",
    "num_layers",
    "num_heads",
    "num_kv_heads",
    "head_dim",
    "intermediate_size",
    "vocab_size",
    "max_positions",
)
NORMS = ("rms", "layer")
ACTIVATIONS = ("silu", "gelu", "gelu_tanh", "relu")
ATTENTION, FFN = ("q", "k", "v", "o"), ("gate", "up", "down")
"""The linear layers of a decoder layer; a plain FFN has no `gate`."""


@dataclass(frozen=True)
class Architecture:
    """What a decoder-only transformer computes: sizes, which are counts, and features.

    Attributes:
        head_dim: explicit, as the query may be wider than the hidden size.
        max_positions: longest context; with learned positions nothing beyond it exists.
        norm_eps: of every normalisation.
        tied: the LM head is the embedding.
        attention_bias: q, k, v and o have biases.
        mlp_bias: gate, up and down have biases.
        rope: the rotary embedding; None where a learned vector for each position is added to the embedding.
        norm: `rms`, or `layer` (minus the mean, and with a bias).
        activation: `silu`, `gelu`, `gelu_tanh` (its approximation by tanh) or `relu`.
        gated: the FFN is down(activation(gate) * up), else down(activation(up)).
        attention_output_bias: with `attention_bias`, o has one too.
        qk_norm: every head of q and k is RMS-normalised before the rotary embedding.
        windows: how many tokens the attention of each layer sees, its own included, 0 for all; empty: no layer has one.
    """

    family: str
    hidden_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    intermediate_size: int
    vocab_size: int
    max_positions: int
    norm_eps: float
    tied: bool
    attention_bias: bool
    mlp_bias: bool
    rope: Rope | None
    norm: str = "rms"
    activation: str = "silu"
    gated: bool = True
    attention_output_bias: bool = True
    qk_norm: bool = False
    windows: tuple[int, ...] = ()

    def faults(self) -> list[str]:
        """Everything that is wrong with it, in words; sizes have the names of a Hugging Face config."""
        found = [] if self.family in FAMILIES else [f"family {self.family!r}"]
        names = {**NAMES, **(FAMILIES[self.family].names if self.family in FAMILIES else {})}
        found += [
            f"{name} is {getattr(self, size)!r}, no positive integer"
            for size, name in names.items()
            if size in SIZES and not positive(getattr(self, size))
        ]
        if not number(self.norm_eps) or self.norm_eps < 0:
            found.append(f"{names['norm_eps']} is {self.norm_eps!r}")
        found += [
            f"{names.get(flag, flag)} is {getattr(self, flag)!r}"
            for flag in ("tied", "attention_bias", "mlp_bias", "gated", "attention_output_bias", "qk_norm")
            if not isinstance(getattr(self, flag), bool)
        ]
        for name, known in (("norm", NORMS), ("activation", ACTIVATIONS)):
            if getattr(self, name) not in known:
                found.append(f"{name} {getattr(self, name)!r} (only {', '.join(known)})")
        if positive(self.num_heads) and positive(self.num_kv_heads) and self.num_heads % self.num_kv_heads:
            found.append(f"{self.num_heads} query heads are not a multiple of {self.num_kv_heads} KV heads")
        if self.windows and (
            len(self.windows) != self.num_layers or not all(w == 0 or positive(w) for w in self.windows)
        ):
            found.append(f"the attention windows {list(self.windows)} are not one for each of {self.num_layers} layers")
        if self.family in FAMILIES:
            there = FAMILIES[self.family].outside.keys() | FAMILIES[self.family].inside.keys()
            features = {"position_embedding": self.rope is None, "q_norm": self.qk_norm}
            needed = (*self.projections, *(name for name, used in features.items() if used))
            found += [f"the family {self.family!r} has no {name}" for name in needed if name not in there]
        if self.rope is None:
            return found
        if positive(self.head_dim) and self.head_dim % 2:
            found.append(f"head_dim {self.head_dim} is not even")
        return found + self.rope.faults()

    @property
    def heads_per_group(self) -> int:
        """Query heads of one KV group."""
        return self.num_heads // self.num_kv_heads

    @property
    def projections(self) -> tuple[str, ...]:
        """The linear layers of a decoder layer."""
        return ATTENTION + (FFN if self.gated else FFN[1:])

    def biased(self, projection: str) -> bool:
        """Whether a linear layer has a bias."""
        if projection in FFN:
            return self.mlp_bias
        return self.attention_bias and (projection != "o" or self.attention_output_bias)

    def window(self, layer: int) -> int:
        """How many tokens the attention of a layer sees, its own included; 0 for all."""
        return self.windows[layer] if self.windows else 0

    @property
    def norm_parameters(self) -> int:
        """Parameters of a norm over the hidden size."""
        return self.hidden_size * (2 if self.norm == "layer" else 1)

    def layer_parameters(self, groups: int, neurons: int) -> int:
        """Active parameters of one layer at that width, norms and biases included."""
        query, key = groups * self.heads_per_group * self.head_dim, groups * self.head_dim
        rows = {"q": query, "k": key, "v": key, "o": query}
        weights = biases = 0
        for name in self.projections:
            elastic = rows.get(name, neurons)
            weights += elastic * self.hidden_size
            if self.biased(name):
                biases += self.hidden_size if name in ("o", "down") else elastic
        return weights + biases + 2 * self.norm_parameters + (2 * self.head_dim if self.qk_norm else 0)

    def to_json(self) -> dict[str, Any]:
        """A JSON object; features at their default are left out, so that older readers open what has none of them."""
        value = {**asdict(self), "windows": list(self.windows)}
        defaults = {f.name: f.default for f in fields(self) if f.default is not MISSING}
        return {k: v for k, v in value.items() if k not in defaults or getattr(self, k) != defaults[k]}

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Architecture:
        """The inverse of `to_json`; ValueError, KeyError, TypeError or AttributeError if it is none."""
        rope, windows = value["rope"], integers(value.get("windows", []))
        architecture = cls(**{**value, "rope": None if rope is None else Rope(**rope), "windows": windows})
        if found := architecture.faults():
            raise ValueError("; ".join(found))
        return architecture

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Architecture:
        """Read a Hugging Face config.

        Raises:
            UnsupportedModelError: the family, an option or a size is not one this package handles; every one is named.
        """
        kind = config.get("model_type")
        family = FAMILIES.get(kind) if isinstance(kind, str) else None
        names = config.get("architectures") or [family.model if family else None]
        if family is None or not isinstance(names, list) or family.model not in names:
            given = ", ".join(map(str, names)) if isinstance(names, list) else repr(names)
            raise UnsupportedModelError(
                f"The architecture {given} (model_type {kind!r}) is not supported.",
                cause=missing_parts(config),
                fix=f"use one of: {', '.join(f.model for f in FAMILIES.values())}",
            )
        reader = Config(config)
        # Values may be anything until `faults` has seen them.
        found: dict[str, Any] = {"num_kv_heads": None, "head_dim": None}
        found |= {ours: config.get(name, family.absent.get(ours)) for ours, name in family.names.items()}
        found |= family.read(reader)
        for name, value in family.absent.items():
            if found[name] is None and name not in ("num_kv_heads", "head_dim"):
                found[name] = value
        heads, hidden = found["num_heads"], found["hidden_size"]
        if found["num_kv_heads"] is None:
            found["num_kv_heads"] = heads
        if found["head_dim"] is None and positive(heads) and positive(hidden):
            found["head_dim"] = hidden // heads
            if hidden % heads:
                reader.faults.append(
                    f"hidden_size {hidden} is not a multiple of {heads} heads and there is no head_dim"
                )
        architecture = cls(family=family.model_type, **found)
        faults = reader.faults + architecture.faults()
        problems(UnsupportedModelError, "config.json asks for what is not supported", faults)
        return architecture


def read_config(directory: Path) -> dict[str, Any]:
    """config.json of a model directory.

    Raises:
        CheckpointError: no such directory, or config.json is missing or no JSON object.
    """
    path = Path(directory) / "config.json"
    if not path.is_file():
        raise CheckpointError(
            f"{directory} is not a model directory: it has no config.json.",
            cause="a hub name instead of a path, or a directory of another kind"
            if not Path(directory).exists()
            else None,
            fix="pass the path of a directory that transformers' save_pretrained wrote",
        )
    return read_object(path, CheckpointError)
