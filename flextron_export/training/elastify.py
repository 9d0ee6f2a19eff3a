"""Making a model elastic, from a Hugging Face directory to an elastic checkpoint."""

from __future__ import annotations

import copy
import json
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np

from ..elastic.architecture import Architecture, read_config
from ..elastic.checkpoint import MARKER, ElasticCheckpoint, ModelWeights, copy_tokenizer
from ..elastic.model import load_model
from ..elastic.permutation import permute_
from ..elastic.tensors import tensor_specs
from ..elastic.widths import Budget, Candidates, check_budgets
from ..errors import FlextronError, InputError
from ..files import MALFORMED, new_directory
from .corpus import read_text, split
from .data import load_tokenizer, pack, spread
from .elastic import TrainingSettings, full_smallest_random, train
from .environment import default_device, quiet_transformers, require_training, thread_count, usable_device
from .evaluate import validation_loss
from .importance import measure_importance

IMPORTANCE_SEQUENCES = 128
VALIDATION_SEQUENCES = 256
LEARNING_RATE = 0.64
"""Default learning rate times hidden size: 2e-3, measured best at 320, and in proportion for wider models."""
DTYPES = ("auto", "float32", "bfloat16", "float16")
_TORCH_NAMES = {"F64": "float32", "F32": "float32", "BF16": "bfloat16", "F16": "float16"}
"""safetensors dtype of a model -> torch dtype that `auto` writes; training has no more precision than float32."""


def elastify(
    model_dir: str | Path,
    text: Sequence[str | Path],
    out: str | Path,
    *,
    tokens: int = 180_000,
    loss: str = "mix",
    batch: int = 16,
    length: int = 128,
    learning_rate: float | None = None,
    optimizer: str = "muon",
    candidates: Candidates | None = None,
    budgets: str | Path | Sequence[Budget] | None = None,
    dtype: str = "auto",
    seed: int = 0,
    threads: int | None = None,
    device: str | None = None,
    overwrite: bool = False,
    progress: bool = True,
) -> ElasticCheckpoint:
    """Sort a model by importance, train its sub-networks together, measure them, and write an elastic checkpoint.

    The checkpoint is a Hugging Face directory that transformers loads as the full model. A failure at any point leaves
    what stood at `out` as it was.

    Args:
        model_dir: Hugging Face directory with safetensors weights and tokenizer.json.
        text: text files to train on; a twentieth of their documents is held out to measure the budgets.
        out: checkpoint directory to create.
        tokens: tokens to train on; 0 only sorts.
        loss: `mix`, `distill` or `ce`; see `TrainingSettings`. `distill` stays closest to the original, for a text
            unlike what the model was trained on.
        batch: sequences per step.
        length: tokens per sequence.
        learning_rate: highest learning rate; default `LEARNING_RATE` / hidden size.
        optimizer: `muon` or `adamw`.
        candidates: widths a layer may take; default a quarter, a half, three quarters and all of both widths.
        budgets: the named budgets of the checkpoint, or a JSON file with a list of them (`{"name": ..., "layers":
            [[groups, neurons], ...]}`); default one per candidate, the same in every layer.
        dtype: of the written weights; `auto` is that of the model. Training computes in float32 or mixed precision.
        seed: of everything random.
        threads: CPU threads, or None for torch's own choice.
        device: torch device; default a GPU if there is one.
        overwrite: replace an elastic checkpoint at `out`.
        progress: show progress on standard error.

    Raises:
        CheckpointError: `model_dir` is no model directory, or has no safetensors, or damaged ones.
        UnsupportedModelError: the architecture is not supported.
        InputError: the text, a setting, or a budget cannot be used, or `out` exists or cannot be written.
        MissingDependencyError: torch or transformers is not installed.
        FlextronError: sorting changed the function, or training diverged.
    """
    model_dir, out = Path(model_dir), Path(out)
    # Everything that can be refused is refused before torch is imported and minutes are spent.
    config = read_config(model_dir)
    architecture = Architecture.from_config(config)
    weights = ModelWeights(model_dir)
    weights.check(tensor_specs(architecture))
    candidates = candidates or Candidates.default(architecture)
    candidates.validate(architecture)
    chosen = _budgets(budgets, candidates, architecture)
    learning_rate = LEARNING_RATE / architecture.hidden_size if learning_rate is None else learning_rate
    settings = TrainingSettings(tokens, batch, length, learning_rate, loss, optimizer, seed=seed, threads=threads)
    settings.validate()
    if dtype not in DTYPES:
        raise InputError(f"The dtype {dtype!r} is not known.", fix=f"use one of: {', '.join(DTYPES)}")
    if dtype == "auto":
        dtype = _TORCH_NAMES[weights.info("model.embed_tokens.weight").dtype]
    tokenizer = load_tokenizer(model_dir)
    training, held_out = split(read_text(text), seed=seed)
    end = config.get("eos_token_id")
    end = end[0] if isinstance(end, list) else end
    packed = pack(training, tokenizer, length, architecture.vocab_size, end)
    validation = spread(pack(held_out, tokenizer, length, architecture.vocab_size, end), VALIDATION_SEQUENCES)
    require_training()
    import torch

    device = usable_device(device or default_device())
    with (
        new_directory(out, marker=MARKER, overwrite=overwrite) as directory,
        thread_count(threads),
        quiet_transformers(),
    ):
        model = load_model(model_dir).to(device)
        sort_(model, architecture, spread(packed, IMPORTANCE_SEQUENCES))
        if settings.steps:
            teacher = copy.deepcopy(model).requires_grad_(False) if loss != "ce" else None
            sampler = full_smallest_random(architecture, candidates)
            train(
                model,
                architecture,
                packed,
                settings,
                sampler,
                teacher=teacher,
                progress=progress,
                description="elastic training",
            )
        model.to(getattr(torch, dtype)).save_pretrained(directory)
        # Measured as written: rounding to 16 bits is part of what a budget loses. Read back, as `to` has also rounded
        # what is not written: the frequencies of the rotary embedding. The old model goes first, to make room.
        del model
        model = load_model(directory).to(device)
        checkpoint = ElasticCheckpoint(
            directory,
            architecture,
            candidates,
            tuple(replace(b, validation_loss=validation_loss(model, architecture, b, validation)) for b in chosen),
            parent={
                "path": model_dir.resolve().name,
                "sha256": {name: record.sha256 for name, record in weights.records().items()},
            },
            sorting={"measure": "rms contribution", "sequences": min(len(packed), IMPORTANCE_SEQUENCES)},
            training=asdict(settings) if settings.steps else {},
            files=ModelWeights(directory).records(),
        )
        copy_tokenizer(model_dir, directory)
        checkpoint.write_marker(directory)
    return ElasticCheckpoint.open(out)


def sort_(model: Any, architecture: Architecture, tokens: np.ndarray) -> None:
    """Measure importance on the tokens and sort the model in place, most important first.

    Raises:
        FlextronError: the sorted model computes something else.
    """
    import torch

    probe = torch.from_numpy(tokens[:1]).to(model.device)
    with torch.inference_mode():
        before = model(input_ids=probe, use_cache=False).logits
        permute_(model, architecture, *measure_importance(model, architecture, tokens).order())
        after = model(input_ids=probe, use_cache=False).logits
    error, scale = (after - before).abs().max().item(), before.abs().max().item()
    if not error <= 1e-3 * scale:
        raise FlextronError(
            f"Sorting changed what the model computes: its logits, up to {scale:.3g}, differ by {error:.3g}.",
            cause="the weights are not finite"
            if not np.isfinite(scale)
            else "the model is not the plain Llama that its config says",
            fix="check that transformers generates sensible text with it",
        )


def _budgets(
    given: str | Path | Sequence[Budget] | None, candidates: Candidates, architecture: Architecture
) -> tuple[Budget, ...]:
    if given is None:
        return candidates.uniform_budgets(architecture)
    if isinstance(given, (str, Path)):
        try:
            given = [Budget.from_json(value) for value in json.loads(Path(given).read_text(encoding="utf-8"))]
        except (OSError, *MALFORMED) as error:
            raise InputError(
                f"The budgets in {given} cannot be read: {type(error).__name__} {error}.",
                fix='write a list such as [{"name": "small", "layers": [[2, 256], [1, 256]]}], one pair per layer',
            ) from error
    check_budgets(given, candidates, architecture)
    return tuple(given)
