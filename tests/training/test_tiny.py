"""The tiny model."""

from __future__ import annotations

from pathlib import Path

import pytest

from flextron_export.elastic.architecture import Architecture, read_config
from flextron_export.elastic.checkpoint import ModelWeights
from flextron_export.elastic.tensors import tensor_specs
from flextron_export.elastic.widths import MINIMUM_QUERY_HEADS, Candidates
from flextron_export.files import sha256
from flextron_export.training.tiny import tiny_model

LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 5e5,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}


def test_the_same_seed_gives_the_same_bytes(tmp_path: Path) -> None:
    one, two, other = (tiny_model(tmp_path / str(i), seed=seed) for i, seed in enumerate((1, 1, 2)))
    files = sorted(p.name for p in one.iterdir())
    assert [sha256(one / f) for f in files] == [sha256(two / f) for f in files]
    assert sha256(one / "model.safetensors") != sha256(other / "model.safetensors")


@pytest.mark.parametrize(
    "options", [{}, {"kv_heads": 8, "tied": False}, {"bias": True, "head_dim": 32}, {"rope": LLAMA3}]
)
def test_every_variant_is_a_supported_model(tmp_path: Path, options: dict[str, object]) -> None:
    directory = tiny_model(tmp_path / "model", **options)  # type: ignore[arg-type]
    architecture = Architecture.from_config(read_config(directory))
    ModelWeights(directory).check(tensor_specs(architecture))
    assert Candidates.default(architecture).groups[0] * architecture.heads_per_group >= MINIMUM_QUERY_HEADS
