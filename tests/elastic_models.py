"""Tiny elastic models of every kind, neither sorted nor trained: their sub-networks are prefixes all the same."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from flextron_export.elastic.architecture import Architecture, read_config
from flextron_export.elastic.checkpoint import ElasticCheckpoint
from flextron_export.elastic.router import RouterRecord
from flextron_export.elastic.widths import Budget, Candidates, LayerWidth
from flextron_export.training.routers import Routers
from flextron_export.training.tiny import tiny_model

LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 10000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
MODELS: dict[str, dict[str, Any]] = {
    "grouped": {},
    "multi-head": {"kv_heads": 8},
    "biases, gelu": {"bias": True, "hidden_act": "gelu"},
    "untied, query wider than hidden": {"tied": False, "hidden": 32, "head_dim": 32},
    "llama3 rope": {"rope": LLAMA3},
    "linear rope, relu": {
        "rope": {"rope_type": "linear", "rope_theta": 500.0, "factor": 4.0},
        "hidden_act": "relu",
    },
    "yarn rope": {
        "family": "qwen3",
        "rope": {
            "rope_type": "yarn",
            "rope_theta": 10000.0,
            "factor": 4.0,
            "original_max_position_embeddings": 64,
            "beta_fast": 8.0,
        },
    },
    "mistral": {"family": "mistral", "sliding_window": 7},
    "qwen2": {"family": "qwen2", "use_sliding_window": True, "sliding_window": 5, "max_window_layers": 1},
    "qwen3": {
        "family": "qwen3",
        "attention_bias": True,
        "use_sliding_window": True,
        "sliding_window": 6,
        "layer_types": ["sliding_attention", "full_attention"],
    },
    "gpt2": {"family": "gpt2"},
}
"""kind -> options of `tiny_model`."""

FAMILIES = ("grouped", "mistral", "qwen2", "qwen3", "gpt2")
"""One kind of every family."""


def elastic_model(out: Path, **options: Any) -> ElasticCheckpoint:
    """A tiny model with budgets `full`, `tapered`, `crossed` (these two differ from layer to layer) and `small`."""
    tiny_model(out, **options)
    architecture = Architecture.from_config(read_config(out))
    least, some, full = (architecture.num_kv_heads * quarters // 4 for quarters in (2, 3, 4))
    budgets = {
        "full": [(full, 128), (full, 128)],
        "tapered": [(full, 64), (some, 96)],
        "crossed": [(least, 64), (some, 32)],
        "small": [(least, 32), (least, 32)],
    }
    checkpoint = ElasticCheckpoint(
        out,
        architecture,
        Candidates((least, some, full), (32, 64, 96, 128)),
        tuple(Budget(name, tuple(LayerWidth(*w) for w in layers)) for name, layers in budgets.items()),
    )
    checkpoint.write_marker(out)
    return checkpoint


def routed_model(
    out: Path, *, kind: str = "dynamic", targets: tuple[float, ...] = (1.0, 0.75, 0.5), **options: Any
) -> ElasticCheckpoint:
    """`elastic_model` with a random router, whose choices differ from input to input and target to target."""
    import torch

    checkpoint = elastic_model(out, **options)
    torch.manual_seed(0)
    routers = Routers(
        RouterRecord(kind, "gumbel", targets, 16, checkpoint.candidates, results=_results(targets)),
        checkpoint.architecture,
    )
    with torch.no_grad():
        for name, value in routers.named_parameters():
            if name.endswith("input"):
                value.mul_(3)
    routers.write(out)
    checkpoint = replace(checkpoint, notes={"router": routers.record.to_json()})
    checkpoint.write_marker(out)
    return ElasticCheckpoint.open(out)


def _results(targets: tuple[float, ...]) -> tuple[dict[str, Any], ...]:
    return tuple({"target": target, "validation_loss": 5 - target} for target in targets)
