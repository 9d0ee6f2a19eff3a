"""The same elastic checkpoint as every peer reads it: a bundle, Hugging Face directories per budget, GGUF files."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np

from flextron_export.elastic.checkpoint import ElasticCheckpoint, ModelWeights
from flextron_export.elastic.safetensors import TensorPlan, write_safetensors
from flextron_export.elastic.tensors import tensor_specs
from flextron_export.elastic.widths import Budget
from flextron_export.exporting import export
from flextron_export.files import write_json
from flextron_export.training.data import save_tokenizer
from flextron_export.training.tiny import byte_tokenizer
from tools.random_checkpoint import write_random_checkpoint

SHAPE: dict[str, Any] = {"layers": 12, "hidden": 768, "heads": 12, "kv_heads": 12, "ffn": 2048, "vocab": 32000}
GGUF = {"fp32": "F32", "int8": "Q8_0", "int4": "Q4_0"}


def write_checkpoint(out: Path) -> ElasticCheckpoint:
    """A random model with the tokenizer that some builders ask for."""
    checkpoint = write_random_checkpoint(out, **SHAPE)
    save_tokenizer(byte_tokenizer(), out)
    return checkpoint


def write_bundle(checkpoint: ElasticCheckpoint, out: Path, dtype: str) -> Path:
    """Layouts `panels` and `per-budget` in one precision."""
    export(checkpoint.path, out, layouts=("panels", "per-budget"), dtypes=(dtype,), verify=False)
    return out


def write_budget(checkpoint: ElasticCheckpoint, budget: Budget, out: Path) -> Path:
    """A budget of uniform widths as a plain Hugging Face model.

    It is called a Mistral, which computes the same: transformers refuses a Llama whose heads do not divide its hidden
    size.
    """
    out.mkdir()
    a, width = checkpoint.architecture, budget.layers[0]
    config = json.loads((checkpoint.path / "config.json").read_text())
    sizes = {
        "architectures": ["MistralForCausalLM"],
        "model_type": "mistral",
        "sliding_window": None,
        "num_attention_heads": width.groups * a.heads_per_group,
        "num_key_value_heads": width.groups,
        "head_dim": a.head_dim,
        "intermediate_size": width.neurons,
    }
    write_json(out / "config.json", {**config, **sizes, "dtype": "float32"})
    weights, plans = ModelWeights(checkpoint.path), {}
    for spec in tensor_specs(a):
        part = spec.take(weights[spec.source])[: spec.active(a, budget.layers)[0]]
        part = np.ascontiguousarray(part.T if spec.transposed else part)
        plans[spec.source] = TensorPlan("F32", part.shape, lambda part=part: part)  # type: ignore[misc]
    write_safetensors(out / "model.safetensors", plans)
    save_tokenizer(byte_tokenizer(), out)
    return out


def write_genai(model: Path, out: Path, dtype: str, python: str) -> Path:
    """What onnxruntime-genai's builder makes of it, told to use one thread."""
    command = [python, "-m", "onnxruntime_genai.models.builder", "-i", model, "-o", out, "-p", dtype, "-e", "cpu"]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"onnxruntime-genai's builder failed: {done.stderr.strip().splitlines()[-1:]}")
    config = json.loads((out / "genai_config.json").read_text())
    config["model"]["decoder"]["session_options"].update(intra_op_num_threads=1, inter_op_num_threads=1)
    write_json(out / "genai_config.json", config)
    return out


def write_gguf(model: Path, out: Path, dtype: str, python: str) -> Path:
    """What llama.cpp reads, written and quantised by the Python that has `gguf` and `llama_cpp`."""
    script = Path(__file__).with_name("gguf_file.py")
    done = subprocess.run(
        [python, str(script), str(model), str(out), GGUF[dtype]], capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise RuntimeError(f"no GGUF file could be written: {done.stderr.strip().splitlines()[-1:]}")
    return out


def python_with(module: str, pythons: list[str]) -> str | None:
    """The first Python that finds a module."""
    code = f"import importlib.util, sys; sys.exit(importlib.util.find_spec({module!r}) is None)"
    for python in (sys.executable, *pythons):
        if subprocess.run([python, "-c", code], capture_output=True, check=False).returncode == 0:
            return python
    return None
