"""The architecture of a model, read from its Hugging Face config: no torch, no ONNX."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import CheckpointError, UnsupportedModelError, problems
from ..files import read_object

FAMILIES = {"llama": "LlamaForCausalLM"}
"""model_type -> the architecture name a config must carry."""

ROPE_TYPES: dict[str, tuple[str, ...]] = {
    "default": (),
    "linear": ("factor",),
    "llama3": ("factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings"),
}
"""rope type -> the parameters it needs."""

_CONFIG_NAMES = {
    "hidden_size": "hidden_size",
    "num_layers": "num_hidden_layers",
    "num_heads": "num_attention_heads",
    "num_kv_heads": "num_key_value_heads",
    "head_dim": "head_dim",
    "intermediate_size": "intermediate_size",
    "vocab_size": "vocab_size",
    "max_positions": "max_position_embeddings",
}
"""size -> its name in a Hugging Face config."""


@dataclass(frozen=True)
class Rope:
    """Rotary position embedding: base, type and the parameters of that type (transformers' `rope_parameters`)."""

    theta: float = 10000.0
    type: str = "default"
    parameters: dict[str, float] = field(default_factory=dict)

    def faults(self) -> list[str]:
        """Everything that is wrong with it, in words."""
        if self.type not in ROPE_TYPES:
            return [f"rope type {self.type!r} (only {', '.join(ROPE_TYPES)})"]
        found = [] if _number(self.theta) and self.theta > 0 else [f"rope_theta {self.theta!r}"]
        for name in ROPE_TYPES[self.type]:
            value = self.parameters.get(name)
            if not _number(value) or not value > 0:  # type: ignore[operator]
                found.append(f"rope type {self.type!r} lacks a positive {name}")
        if (
            self.type == "llama3"
            and not found
            and self.parameters["low_freq_factor"] >= self.parameters["high_freq_factor"]
        ):
            found.append("rope: low_freq_factor is not below high_freq_factor")
        return found

    def inverse_frequencies(self, head_dim: int) -> np.ndarray:
        """float32 [head_dim / 2], equal to what transformers computes for the same config."""
        inverse = 1.0 / self.theta ** (np.arange(0, head_dim, 2, dtype=np.float32) / np.float32(head_dim))
        inverse = inverse.astype(np.float32)
        if self.type == "linear":
            inverse = inverse / np.float32(self.parameters["factor"])
        if self.type == "llama3":
            inverse = self._llama3(inverse)
        return np.asarray(inverse, np.float32)

    def _llama3(self, inverse: np.ndarray) -> np.ndarray:
        # Llama 3.1: long wavelengths are slowed by `factor`, short ones kept, those between are blended.
        factor, low, high, original = (
            self.parameters[k]
            for k in ("factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings")
        )
        wavelength = 2 * math.pi / inverse
        smooth = (original / wavelength - low) / (high - low)
        blended = (1 - smooth) / factor * inverse + smooth * inverse
        return np.where(
            wavelength > original / low, inverse / factor, np.where(wavelength < original / high, inverse, blended)
        )


@dataclass(frozen=True)
class Architecture:
    """Shape of a decoder-only transformer. Sizes are counts.

    `head_dim` is explicit, as the query may be wider than the hidden size.
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
    rope: Rope

    def faults(self) -> list[str]:
        """Everything that is wrong with it, in words; sizes have the names of a Hugging Face config."""
        found = [] if self.family in FAMILIES else [f"family {self.family!r}"]
        found += [
            f"{name} is {getattr(self, size)!r}, no positive integer"
            for size, name in _CONFIG_NAMES.items()
            if not _positive(getattr(self, size))
        ]
        if not _number(self.norm_eps) or self.norm_eps < 0:
            found.append(f"rms_norm_eps is {self.norm_eps!r}")
        flags = {"tie_word_embeddings": self.tied, "attention_bias": self.attention_bias, "mlp_bias": self.mlp_bias}
        found += [f"{name} is {value!r}" for name, value in flags.items() if not isinstance(value, bool)]
        if _positive(self.num_heads) and _positive(self.num_kv_heads) and self.num_heads % self.num_kv_heads:
            found.append(f"{self.num_heads} query heads are not a multiple of {self.num_kv_heads} KV heads")
        if _positive(self.head_dim) and self.head_dim % 2:
            found.append(f"head_dim {self.head_dim} is not even")
        return found + self.rope.faults()

    @property
    def heads_per_group(self) -> int:
        """Query heads of one KV group."""
        return self.num_heads // self.num_kv_heads

    def layer_parameters(self, groups: int, neurons: int) -> int:
        """Active parameters of one layer at that width, norms and biases included."""
        query, key = groups * self.heads_per_group * self.head_dim, groups * self.head_dim
        weights = self.hidden_size * (2 * query + 2 * key + 3 * neurons + 2)
        attention = query + 2 * key + self.hidden_size if self.attention_bias else 0
        return weights + attention + (2 * neurons + self.hidden_size if self.mlp_bias else 0)

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Architecture:
        """The inverse of `to_json`; ValueError, KeyError, TypeError or AttributeError if it is none."""
        architecture = cls(**{**value, "rope": Rope(**value["rope"])})
        if found := architecture.faults():
            raise ValueError("; ".join(found))
        return architecture

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Architecture:
        """Read a Hugging Face config.

        Raises:
            UnsupportedModelError: the family, an option or a size is not one this package handles; every one is named.
        """
        family = config.get("model_type")
        names = config.get("architectures") or [FAMILIES.get(str(family))]
        if not isinstance(family, str) or not isinstance(names, list) or FAMILIES.get(family) not in names:
            given = ", ".join(map(str, names)) if isinstance(names, list) else repr(names)
            raise UnsupportedModelError(
                f"The architecture {given} (model_type {family!r}) is not supported.",
                fix=f"use one of: {', '.join(FAMILIES.values())}",
            )
        found = _unsupported(config)
        get: Any = config.get  # sizes may be anything until `faults` has seen them
        heads, hidden, head_dim = get("num_attention_heads"), get("hidden_size"), get("head_dim")
        if head_dim is None and _positive(heads) and _positive(hidden):
            head_dim = hidden // heads
            if hidden % heads:
                found.append(f"hidden_size {hidden} is not a multiple of {heads} heads and there is no head_dim")
        architecture = cls(
            family=family,
            hidden_size=hidden,
            num_layers=get("num_hidden_layers"),
            num_heads=heads,
            num_kv_heads=_default(get("num_key_value_heads"), heads),
            head_dim=head_dim,
            intermediate_size=get("intermediate_size"),
            vocab_size=get("vocab_size"),
            max_positions=_default(get("max_position_embeddings"), 2048),
            norm_eps=_default(get("rms_norm_eps"), 1e-6),
            tied=_default(get("tie_word_embeddings"), False),
            attention_bias=_default(get("attention_bias"), False),
            mlp_bias=_default(get("mlp_bias"), False),
            rope=_rope(config),
        )
        problems(UnsupportedModelError, "config.json asks for what is not supported", found + architecture.faults())
        return architecture


def _unsupported(config: dict[str, Any]) -> list[str]:
    """Options that change what the model computes and that nothing here implements."""
    found = ["the checkpoint is already quantised"] if config.get("quantization_config") else []
    if _default(config.get("hidden_act"), "silu") not in ("silu", "swish"):
        found.append(f"activation {config['hidden_act']!r} (only silu)")
    rope = config.get("rope_parameters")
    options = {**(rope if isinstance(rope, dict) else {}), **config}
    if options.get("use_sliding_window") is False:
        options["sliding_window"] = None
    for option, harmless in (("pretraining_tp", 1), ("partial_rotary_factor", 1), ("sliding_window", None)):
        if options.get(option) not in (None, harmless):
            found.append(f"{option} {options[option]!r}")
    kinds = config.get("layer_types") or []
    if not isinstance(kinds, list) or any(kind != "full_attention" for kind in kinds):
        found.append(f"layer_types {kinds}")
    return found


def _rope(config: dict[str, Any]) -> Rope:
    # transformers 5 writes `rope_parameters`; older configs write `rope_theta` and `rope_scaling`.
    given: dict[str, Any] = {}
    for key in ("rope_scaling", "rope_parameters"):
        value = config.get(key) or {}
        # Anything but numbers and the type's name is a table of another kind of rope, or one rope per kind of layer.
        if not isinstance(value, dict) or any(isinstance(v, dict) for v in value.values()):
            return Rope(type=f"{key} = {value}")
        given.update(value)
    kind = given.get("rope_type") or given.get("type") or "default"
    theta = given.pop("rope_theta", None) or _default(config.get("rope_theta"), 10000.0)
    return Rope(theta, str(kind), {k: v for k, v in given.items() if _number(v)})


def _default(value: Any, default: Any) -> Any:
    return default if value is None else value


def _number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < 1e30


def _positive(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


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
