"""Public elastic models that are known and cannot be expressed: what of them, by the names of their configs."""

from __future__ import annotations

from typing import Any

GEMMA_3N = {
    "altup_num_inputs": "AltUp: several residual streams",
    "laurel_rank": "LAuReL: a low-rank path beside every residual",
    "hidden_size_per_layer_input": "per-layer embeddings",
    "num_kv_shared_layers": "layers that share the keys and values of others",
    "activation_sparsity_pattern": "activations cut to their largest",
    "final_logit_softcapping": "soft-capped logits",
}
NEMOTRON_ELASTIC = {
    "mamba_num_heads": "Mamba-2 layers",
    "hybrid_override_pattern": "layers of one kind each: Mamba-2, attention or FFN",
    "layers_block_type": "layers of one kind each: Mamba-2, attention or FFN",
    "n_routed_experts": "mixtures of experts",
}
MODELS = {
    "gemma3n": ("Gemma 3n", GEMMA_3N),
    "gemma3n_text": ("Gemma 3n", GEMMA_3N),
    "nemotron_h": ("Nemotron-H, on which Nemotron-Elastic is built,", NEMOTRON_ELASTIC),
}
"""model_type -> what people call it, and the options of its config that none of our families has."""


def missing_parts(config: dict[str, Any]) -> str | None:
    """What a known model has that cannot be expressed, in words; None for a model that is not known here."""
    kind = config.get("model_type")
    if not isinstance(kind, str) or kind not in MODELS:
        return None
    name, options = MODELS[kind]
    text = config.get("text_config")
    values = {**config, **text} if isinstance(text, dict) else config
    parts = [f"{what} ({option} {_short(values[option])})" for option, what in options.items() if values.get(option)]
    return f"{name} has what none of these families has: {'; '.join(parts) or 'layers of other kinds'}"


def _short(value: Any) -> str:
    return "of every layer" if isinstance(value, (list, str)) else repr(value)
