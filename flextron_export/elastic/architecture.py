"""The architecture of a model, read from its Hugging Face config: no torch, no ONNX."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import CheckpointError, UnsupportedModelError, problems

if TYPE_CHECKING:
    from .widths import Budget

FAMILIES = {"llama": "LlamaForCausalLM"}
"""model_type -> the architecture name a config must carry."""

ROPE_TYPES = ("default", "linear", "llama3")


@dataclass(frozen=True)
class Rope:
    """Rotary position embedding: base, type and the parameters of that type (transformers' `rope_parameters`)."""

    theta: float = 10000.0
    type: str = "default"
    parameters: dict[str, float] = field(default_factory=dict)

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
        factor, low, high, original = (self.parameters[k] for k in ("factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings"))
        wavelength = 2 * math.pi / inverse
        smooth = (original / wavelength - low) / (high - low)
        blended = (1 - smooth) / factor * inverse + smooth * inverse
        return np.where(wavelength > original / low, inverse / factor, np.where(wavelength < original / high, inverse, blended))


@dataclass(frozen=True)
class Architecture:
    """Shape of a decoder-only transformer. Sizes are counts; `head_dim` is explicit, as q may be wider than the hidden size."""

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

    @property
    def embedding_parameters(self) -> int:
        """Parameters of the embedding and the LM head; they are not elastic."""
        return self.vocab_size * self.hidden_size * (1 if self.tied else 2)

    def full_budget(self) -> Budget:
        """The whole model as a budget named `full`."""
        from .widths import Budget, LayerWidth

        return Budget("full", (LayerWidth(self.num_kv_heads, self.intermediate_size),) * self.num_layers)

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Architecture:
        return cls(**{**value, "rope": Rope(**value["rope"])})

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Architecture:
        """Read a Hugging Face config.

        Raises:
            UnsupportedModelError: the family, an option or a size is not one this package handles; every one is named.
        """
        family = config.get("model_type")
        names = config.get("architectures") or [FAMILIES.get(str(family))]
        if family not in FAMILIES or FAMILIES[family] not in names:
            raise UnsupportedModelError(
                f"The architecture {', '.join(map(str, names))} (model_type {family!r}) is not supported.",
                fix=f"use one of: {', '.join(FAMILIES.values())}",
            )
        required = ("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size", "vocab_size")
        problems(UnsupportedModelError, "config.json", [f"{k} is missing or no positive integer" for k in required if not _positive(config.get(k))])
        found = []
        heads, hidden = config["num_attention_heads"], config["hidden_size"]
        kv_heads = config.get("num_key_value_heads") or heads
        head_dim = config.get("head_dim") or hidden // heads
        if not _positive(kv_heads) or heads % kv_heads:
            found.append(f"{heads} query heads are not a multiple of {kv_heads} KV heads")
        if not _positive(head_dim) or head_dim % 2:
            found.append(f"head_dim {head_dim} is not even")
        if config.get("hidden_act", "silu") not in ("silu", "swish"):
            found.append(f"activation {config['hidden_act']!r} (only silu)")
        if config.get("quantization_config"):
            found.append("the checkpoint is already quantised")
        rope = _rope(config)
        if rope.type not in ROPE_TYPES:
            found.append(f"rope type {rope.type!r} (only {', '.join(ROPE_TYPES)})")
        else:
            needed = {"linear": ("factor",), "llama3": ("factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings")}
            found += [f"rope type {rope.type!r} lacks {k}" for k in needed.get(rope.type, ()) if k not in rope.parameters]
        problems(UnsupportedModelError, "config.json asks for what is not supported", found)
        return cls(
            family=family,
            hidden_size=hidden,
            num_layers=config["num_hidden_layers"],
            num_heads=heads,
            num_kv_heads=kv_heads,
            head_dim=head_dim,
            intermediate_size=config["intermediate_size"],
            vocab_size=config["vocab_size"],
            max_positions=config.get("max_position_embeddings", 2048),
            norm_eps=float(config.get("rms_norm_eps", 1e-6)),
            tied=bool(config.get("tie_word_embeddings", False)),
            attention_bias=bool(config.get("attention_bias", False)),
            mlp_bias=bool(config.get("mlp_bias", False)),
            rope=rope,
        )


def _rope(config: dict[str, Any]) -> Rope:
    # transformers 5 writes `rope_parameters`; older configs write `rope_theta` and `rope_scaling`.
    given = {**(config.get("rope_scaling") or {}), **(config.get("rope_parameters") or {})}
    kind = given.pop("rope_type", None) or given.pop("type", None) or "default"
    given.pop("type", None)
    theta = given.pop("rope_theta", None) or config.get("rope_theta") or 10000.0
    return Rope(float(theta), kind, {k: v for k, v in given.items() if isinstance(v, (int, float))})


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
            cause="a hub name instead of a path, or a directory of another kind" if not Path(directory).exists() else None,
            fix="pass the path of a directory that transformers' save_pretrained wrote",
        )
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, UnicodeDecodeError) as error:
        raise CheckpointError(f"{path} is not valid JSON: {error}.") from error
    if not isinstance(config, dict):
        raise CheckpointError(f"{path} does not hold a JSON object.")
    return config
