"""A tiny model with random weights: everything of a real one except its knowledge. For tests and first steps."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..elastic.families import FAMILIES
from ..files import new_directory, write_json
from .data import END, MARKER, save_tokenizer
from .environment import quiet_transformers, require_training

if TYPE_CHECKING:
    from tokenizers import Tokenizer


def tiny_model(
    out: str | Path,
    *,
    family: str = "llama",
    seed: int = 0,
    layers: int = 2,
    hidden: int = 64,
    heads: int = 8,
    kv_heads: int = 4,
    head_dim: int = 16,
    neurons: int = 128,
    tied: bool = True,
    rope: dict[str, float | str] | None = None,
    bias: bool = False,
    overwrite: bool = False,
    **options: Any,
) -> Path:
    """Write a tiny model with random weights and a tokenizer of single bytes as a Hugging Face directory.

    Args:
        out: directory to create.
        family: its `model_type`; sizes that the family does not have are ignored (GPT-2 has as many KV heads as heads).
        rope: transformers' `rope_parameters`, or None for the plain rotary embedding.
        bias: set `attention_bias` and `mlp_bias`, random ones.
        overwrite: replace an earlier tiny model.
        options: more of the Hugging Face config, under its names.

    Returns:
        The directory. The same arguments give the same bytes.

    Raises:
        InputError: `out` exists, or cannot be written.
        MissingDependencyError: torch or transformers is not installed.
    """
    require_training()
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    sizes = {
        "hidden_size": hidden,
        "num_layers": layers,
        "num_heads": heads,
        "num_kv_heads": kv_heads,
        "head_dim": head_dim,
        "intermediate_size": neurons,
        "vocab_size": 260,
        "max_positions": 256,
        "tied": tied,
    }
    names = FAMILIES[family].names
    given: dict[str, Any] = {names[size]: value for size, value in sizes.items() if size in names}
    if rope:
        given["rope_parameters"] = rope
    if bias:
        given |= {"attention_bias": True, "mlp_bias": True}
    config = AutoConfig.for_model(family, **{**given, "bos_token_id": 0, "eos_token_id": 0, **options})
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
        # transformers starts biases at zero and norms at one, which would hide a forgotten one; and its weights are so
        # small that no sub-network would differ from another.
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(torch.randn_like(parameter) * 0.1)
    with new_directory(Path(out), marker=MARKER, overwrite=overwrite) as directory, quiet_transformers():
        model.save_pretrained(directory)
        write_json(directory / MARKER, {"random": True, "seed": seed})
        save_tokenizer(byte_tokenizer(), directory)
    return Path(out)


def byte_tokenizer() -> Tokenizer:
    """A byte-level BPE without merges: 256 bytes and the end of the text."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    vocabulary = {END: 0} | {letter: i for i, letter in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()), 1)}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([END])
    return tokenizer
