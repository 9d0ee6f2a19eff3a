"""Reading a Hugging Face config: options that several families share, and what is refused."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ..rope import Rope
from ..values import number, positive

ACTIVATIONS = {
    "silu": "silu",
    "swish": "silu",
    "gelu": "gelu",
    "gelu_python": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_fast": "gelu_tanh",
    "gelu_accurate": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "gelu_python_tanh": "gelu_tanh",
    "relu": "relu",
}
"""transformers' name of an activation -> ours; those that compute the same have the same."""

FULL, SLIDING = "full_attention", "sliding_attention"


class Config:
    """A Hugging Face config that is being read.

    Attributes:
        faults: everything found in it that is not supported, in words.
    """

    def __init__(self, values: dict[str, Any]) -> None:
        self.values = values
        self.faults = ["the checkpoint is already quantised"] if values.get("quantization_config") else []
        self.accept("pretraining_tp", 1)

    def get(self, name: str, default: Any = None) -> Any:
        """A value; the default where it is absent or null."""
        value = self.values.get(name)
        return default if value is None else value

    def accept(self, name: str, harmless: Any = None) -> None:
        """Refuse every value of an option but null and the harmless one."""
        if self.values.get(name) not in (None, harmless):
            self.faults.append(f"{name} {self.values[name]!r}")

    def activation(self, name: str, default: str) -> str:
        """The activation that an option names."""
        given = self.get(name, default)
        if not isinstance(given, str) or given not in ACTIVATIONS:
            self.faults.append(f"activation {given!r} (only {', '.join(ACTIVATIONS)})")
            return default
        return ACTIVATIONS[given]

    def rope(self) -> Rope:
        """The rotary embedding; only of all elements of a head."""
        # transformers 5 writes `rope_parameters`; older configs write `rope_theta` and `rope_scaling`.
        given: dict[str, Any] = {}
        self.accept("partial_rotary_factor", 1)
        for key in ("rope_scaling", "rope_parameters"):
            value = self.get(key, {})
            # Anything but numbers and the type's name is a table of another kind of rope, or one rope per layer kind.
            if not isinstance(value, dict) or any(isinstance(v, dict) for v in value.values()):
                return Rope(type=f"{key} = {value}")
            given.update(value)
        if given.get("partial_rotary_factor") not in (None, 1):
            self.faults.append(f"partial_rotary_factor {given['partial_rotary_factor']!r}")
        kind = given.get("rope_type") or given.get("type") or "default"
        theta = given.pop("rope_theta", None) or self.get("rope_theta", 10000.0)
        if kind in ("llama3", "yarn"):  # the context before it was extended, in the order of transformers
            given.setdefault("original_max_position_embeddings", self.get("max_position_embeddings"))
            if before := self.get("original_max_position_embeddings"):
                given["original_max_position_embeddings"] = before
        truncate = {"truncate": int(given["truncate"])} if isinstance(given.get("truncate"), bool) else {}
        return Rope(theta, str(kind), {k: v for k, v in given.items() if number(v)} | truncate)

    def whole_attention(self) -> None:
        """Refuse every kind of attention but that over the whole context."""
        if self.values.get("use_sliding_window") is not False:
            self.accept("sliding_window")
        self.windows(None, lambda layer: FULL)

    def windows(self, window: Any, kind: Callable[[int], str]) -> tuple[int, ...]:
        """How many tokens the attention of each layer sees, 0 for all; empty where every layer sees all.

        Args:
            window: tokens that a sliding layer sees, its own included.
            kind: layer -> `FULL` or `SLIDING`, where the config has no `layer_types`.
        """
        given, layers = self.values.get("layer_types"), self.get("num_hidden_layers", 0)
        kinds = given if given is not None else [kind(i) for i in range(layers if positive(layers) else 0)]
        if not isinstance(kinds, list) or any(k not in (FULL, SLIDING) for k in kinds):
            self.faults.append(f"layer_types {kinds}")
            return ()
        if positive(layers) and len(kinds) != layers:
            self.faults.append(f"layer_types has {len(kinds)} entries for {layers} layers")
        if SLIDING not in kinds:
            return ()
        if not positive(window):
            self.faults.append(f"sliding_window {window!r} with {SLIDING}")
            return ()
        return tuple(window if k == SLIDING else 0 for k in kinds)
