"""Write an elastic checkpoint of any Llama shape with random weights, shard by shard: what the benchmarks run on."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from flextron_export.elastic.architecture import Architecture, read_config
from flextron_export.elastic.checkpoint import ElasticCheckpoint
from flextron_export.elastic.safetensors import TensorPlan, numpy_dtype, write_safetensors
from flextron_export.elastic.tensors import TensorSpec, tensor_specs
from flextron_export.elastic.widths import Candidates
from flextron_export.files import write_json
from flextron_export.progress import Track, silent


def write_random_checkpoint(
    out: Path,
    *,
    layers: int,
    hidden: int,
    heads: int,
    kv_heads: int,
    ffn: int,
    vocab: int,
    dtype: str = "F32",
    tied: bool = False,
    max_positions: int = 4096,
    shard_bytes: int = 2 << 30,
    track: Track = silent,
) -> ElasticCheckpoint:
    """Write config, shards with their index and `elastic.json` with the default candidates and uniform budgets."""
    out.mkdir(parents=True, exist_ok=True)
    config = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": hidden,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "intermediate_size": ffn,
        "vocab_size": vocab,
        "max_position_embeddings": max_positions,
        "tie_word_embeddings": tied,
        "rms_norm_eps": 1e-5,
        "bos_token_id": 1,
        "eos_token_id": 2,
    }
    write_json(out / "config.json", config)
    architecture = Architecture.from_config(read_config(out))
    rng = np.random.default_rng(0)
    # One random block is repeated in every matrix: drawing billions of numbers would take longer than all the rest.
    block = rng.standard_normal(1 << 20, dtype=np.float32) / np.float32(np.sqrt(hidden))

    def make(spec: TensorSpec) -> np.ndarray:
        shape = spec.source_shape
        if len(shape) == 1:
            return np.ones(shape, numpy_dtype(dtype))
        return np.resize(np.roll(block, int(rng.integers(block.size))).astype(numpy_dtype(dtype)), shape)

    shards: list[dict[str, TensorPlan]] = [{}]
    size = 0
    for spec in tensor_specs(architecture):
        shape = spec.source_shape
        bytes_needed = int(np.prod(shape)) * numpy_dtype(dtype).itemsize
        if size + bytes_needed > shard_bytes and shards[-1]:
            shards.append({})
            size = 0
        shards[-1][spec.source] = TensorPlan(dtype, shape, lambda spec=spec: make(spec))  # type: ignore[misc]
        size += bytes_needed
    names = {}
    for number, plans in enumerate(track(shards, "writing random shards"), 1):
        file = f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        write_safetensors(out / file, plans)
        names.update(dict.fromkeys(plans, file))
    (out / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": names}))
    candidates = Candidates.default(architecture)
    checkpoint = ElasticCheckpoint(
        out, architecture, candidates, candidates.uniform_budgets(architecture), training={"weights": "random"}
    )
    checkpoint.write_marker(out)
    return checkpoint
