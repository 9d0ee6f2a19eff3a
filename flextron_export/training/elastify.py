"""Making a model elastic, from a Hugging Face directory to an elastic checkpoint."""

from __future__ import annotations

import copy
import json
from collections.abc import Sequence
from dataclasses import asdict, astuple, replace
from math import prod
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
from ..files import MALFORMED, check_new_directory, check_space, check_writable, new_directory
from ..plots import check_image, importance_curves
from .data import check_positions, load_tokenizer, spread
from .distribution import check_accelerator, launched, make_accelerator, sharded
from .elastic import train
from .environment import default_device, quiet_transformers, require_training, thread_count, usable_device
from .evaluate import validation_loss
from .importance import DEFAULT_IMPORTANCE, Importance, measure_behind, measure_importance
from .sampling import make_sampler
from .settings import TrainingSettings
from .state import States, remove
from .tokens import tokenise
from .work import default_work, kept, settle, work_directory

IMPORTANCE_SEQUENCES = 128
VALIDATION_SEQUENCES = 256
VALIDATION_SHARE = 0.05
SAVE_EVERY = 500
LEARNING_RATE = 0.64
"""Default learning rate times hidden size: 2e-3, measured best at 320, and in proportion for wider models."""
DTYPES = ("auto", "float32", "bfloat16", "float16")
TORCH_NAMES = {"F64": "float32", "F32": "float32", "BF16": "bfloat16", "F16": "float16"}
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
    warmup: float = 0.05,
    precision: str = "auto",
    accumulate: int = 1,
    recompute: bool = False,
    full_weight: float = 1.0,
    sampling: str = "sandwich",
    around: str | Path | Sequence[Budget] | None = None,
    candidates: Candidates | None = None,
    budgets: str | Path | Sequence[Budget] | None = None,
    importance: str = DEFAULT_IMPORTANCE,
    importance_sequences: int = IMPORTANCE_SEQUENCES,
    report: str | Path | None = None,
    dtype: str = "auto",
    text_field: str = "text",
    work: str | Path | None = None,
    save_every: int = SAVE_EVERY,
    resume: bool = False,
    tensorboard: str | Path | None = None,
    seed: int = 0,
    threads: int | None = None,
    device: str | None = None,
    overwrite: bool = False,
    progress: bool = True,
) -> ElasticCheckpoint:
    """Sort a model by importance, train its sub-networks together, measure them, and write an elastic checkpoint.

    The checkpoint is a Hugging Face directory that transformers loads as the full model. A failure at any point leaves
    what stood at `out` as it was. Under a launcher (accelerate, torchrun) every process calls this alike; they train
    together (docs/training.md).

    Args:
        model_dir: Hugging Face directory with safetensors weights and tokenizer.json.
        text: text files, JSONL files or data sets to train on, see `sources.read_parts`; a twentieth of their documents
            is held out to measure the budgets. They are tokenised onto disk, so memory does not grow with them.
        out: checkpoint directory to create.
        tokens: tokens to train on; 0 only sorts.
        loss: `mix`, `distill` or `ce`; see `TrainingSettings`. `distill` stays closest to the original, for a text
            unlike what the model was trained on.
        batch: sequences per step, over all processes.
        length: tokens per sequence.
        learning_rate: highest learning rate; default `LEARNING_RATE` / hidden size.
        optimizer: `muon` or `adamw`.
        warmup: share of the steps over which the learning rate rises; then it falls along a cosine.
        precision: `bf16`, `fp32`, or `auto`: bf16 where the hardware multiplies it faster.
        accumulate: parts in which a process computes its share of a batch, to save memory.
        recompute: gradient checkpointing, to save memory.
        full_weight: how much the full model's loss counts against each of the other two sub-networks' of a step.
        sampling: which sub-networks train together: `sandwich`, `uniform`, `random` or `router`; see `sampling`.
        around: budgets that `router` stays near: a list, a JSON file of one, or an elastic checkpoint.
        candidates: widths a layer may take; default a quarter, a half, three quarters and all of both widths, but no
            fewer than four query heads.
        budgets: the named budgets of the checkpoint, or a JSON file with a list of them (`{"name": ..., "layers":
            [[groups, neurons], ...]}`); default one per candidate, the same in every layer.
        importance: what groups and neurons are sorted by; see `MEASURES` and `CONTROLS` of `training.importance`.
        importance_sequences: sequences of the text, evenly spread over it, that importance is measured on.
        report: image to draw the importance of every layer to, as it was when the model was sorted; the ending (.png,
            .svg, .pdf) decides the format.
        dtype: of the written weights; `auto` is that of the model. Training computes in float32 or mixed precision.
        text_field: field that holds the text in JSONL files and data sets.
        work: directory for tokens and states, kept; default `OUT.work`, removed when the checkpoint is written.
        save_every: steps between two states that a killed run can go on from; one is saved after the last step, too,
            in case the checkpoint cannot be written. 0 saves none.
        resume: go on from the newest state in the work directory, to the same result; begin if there is none.
        tensorboard: directory for TensorBoard files.
        seed: of everything random.
        threads: CPU threads, or None for torch's own choice.
        device: torch device; default a GPU if there is one. Under a launcher, each process has its own.
        overwrite: replace an elastic checkpoint at `out`.
        progress: show progress on standard error.

    Raises:
        CheckpointError: `model_dir` is no model directory, or has no safetensors, or damaged ones.
        UnsupportedModelError: the architecture is not supported.
        InputError: the text, a setting, or a budget cannot be used, or `out` exists, cannot be written, or
            does not fit on the disk.
        MissingDependencyError: torch or transformers, or for a report matplotlib, is not installed.
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
    settings = TrainingSettings(
        tokens,
        batch,
        length,
        learning_rate,
        loss,
        optimizer,
        warmup,
        precision=precision,
        seed=seed,
        threads=threads,
        accumulate=accumulate,
        recompute=recompute,
        full_weight=full_weight,
    )
    settings.validate()
    check_positions(length, architecture)
    sampler = make_sampler(sampling, architecture, candidates, _read_budgets(around) if around is not None else None)
    measure_behind(importance)
    if importance_sequences < 1:
        raise InputError(f"Importance cannot be measured on {importance_sequences} sequences.", fix="use 1 or more")
    if report is not None:
        check_image(Path(report))
    if tensorboard is not None:
        check_writable(Path(tensorboard), directory=True)
    if dtype not in DTYPES:
        raise InputError(f"The dtype {dtype!r} is not known.", fix=f"use one of: {', '.join(DTYPES)}")
    if dtype == "auto":
        dtype = TORCH_NAMES[weights.info(tensor_specs(architecture)[0].source).dtype]
    tokenizer = load_tokenizer(model_dir)
    end = config.get("eos_token_id")
    end = end[0] if isinstance(end, list) else end
    require_training()
    import torch
    from accelerate.utils import broadcast

    accelerator = make_accelerator()
    check_accelerator(accelerator, settings)
    if device is not None and launched():
        raise InputError("The device of each of several processes is the launcher's choice.", fix="leave out --device")
    device = str(accelerator.device) if launched() else usable_device(device or default_device())
    check_new_directory(out, marker=MARKER, overwrite=overwrite)
    check_space(out, sum(prod(s.shape) for s in tensor_specs(architecture)) * getattr(torch, dtype).itemsize)
    place = default_work(out) if work is None else Path(work)
    with (
        work_directory(place, keep=work is not None),
        thread_count(threads),
        quiet_transformers(),
    ):
        if accelerator.is_main_process:
            settle(place, resume=resume, overwrite=overwrite)
        with accelerator.main_process_first():  # the others then find what it wrote
            data = tokenise(
                text,
                tokenizer,
                place / "tokens",
                length=length,
                vocab_size=architecture.vocab_size,
                end=end,
                seed=seed,
                field=text_field,
                validation_share=VALIDATION_SHARE,
                limit=streamed_limit(tokens, length),
                progress=progress and accelerator.is_main_process,
            )
        parent = {name: record.sha256 for name, record in weights.records().items()}
        about = {
            "model": parent,
            "text": data.sha256,
            "importance": [importance, importance_sequences],
            "sampling": sampling,
            "candidates": candidates.to_json(),
            "around": [[list(astuple(w)) for w in b.layers] for b in _read_budgets(around)] if around else [],
        }
        states = States(place, every=save_every, about=about, resume=resume)
        states.check(settings)
        model = load_model(model_dir).to(device)
        calibration = spread(data.train, importance_sequences)
        ranked = sort_(model, architecture, calibration, importance, seed)
        if report is not None and accelerator.is_main_process:
            sequences = f"{len(calibration)} sequences of {length} tokens"
            importance_curves(ranked, Path(report), candidates, f"{model_dir.name}, by {importance}, {sequences}")
        if settings.steps:
            if accelerator.num_processes > 1:
                # Units of equal importance may have been sorted differently on different devices.
                broadcast([p.data for p in model.parameters()])
            teacher = copy.deepcopy(model).requires_grad_(False) if loss != "ce" else None
            train(
                model.cpu() if sharded(accelerator) else model,
                architecture,
                data.train,
                settings,
                sampler,
                teacher=teacher,
                accelerator=accelerator,
                states=states,
                metrics=tensorboard,
                progress=progress,
                description="elastic training",
            )
            del teacher
        if accelerator.is_main_process:
            with kept(place), new_directory(out, marker=MARKER, overwrite=overwrite) as directory:
                model.to(getattr(torch, dtype)).save_pretrained(directory)
                # Measured as written: rounding to 16 bits is part of what a budget loses. Read back, as `to` has also
                # rounded what is not written: the frequencies of the rotary embedding. The old model goes first, to
                # make room.
                del model
                model = load_model(directory).to(device)
                validation = spread(data.validation, VALIDATION_SEQUENCES)
                measured = (
                    replace(b, validation_loss=validation_loss(model, architecture, b, validation)) for b in chosen
                )
                checkpoint = ElasticCheckpoint(
                    directory,
                    architecture,
                    candidates,
                    tuple(measured),
                    parent={"path": model_dir.resolve().name, "sha256": parent},
                    sorting={
                        "measure": importance,
                        "sequences": len(calibration),
                        "length": length,
                        **({"seed": seed} if importance == "random" else {}),
                    },
                    training={**asdict(settings), "sampling": sampling} if settings.steps else {},
                    files=ModelWeights(directory).records(),
                )
                copy_tokenizer(model_dir, directory)
                checkpoint.write_marker(directory)
            remove(states.all())
        accelerator.wait_for_everyone()
    return ElasticCheckpoint.open(out)


def streamed_limit(tokens: int, length: int) -> int:
    """Tokens to read of a streamed data set, which may be larger than any disk: what a run needs.

    Args:
        tokens: to train on.
        length: tokens per sequence.
    """
    return round(max(tokens, VALIDATION_SEQUENCES * length / VALIDATION_SHARE) / (1 - VALIDATION_SHARE))


def sort_(
    model: Any, architecture: Architecture, tokens: np.ndarray, importance: str = DEFAULT_IMPORTANCE, seed: int = 0
) -> Importance:
    """Measure importance on the tokens and sort the model in place, most important first.

    Args:
        tokens: int64 [sequences, length].
        importance: a measure, or a control that orders otherwise.
        seed: of the control `random`.

    Returns:
        The importance of the units in their new order; for a control, by the default measure.

    Raises:
        InputError: there is no such measure.
        FlextronError: the sorted model computes something else.
    """
    import torch

    measured = measure_importance(model, architecture, tokens, measure=measure_behind(importance))
    order = measured.order(importance, seed)
    probe = torch.from_numpy(tokens[:1]).to(model.device)
    with torch.inference_mode():
        before = model(input_ids=probe, use_cache=False).logits
        permute_(model, architecture, *order)
        after = model(input_ids=probe, use_cache=False).logits
    error, scale = (after - before).abs().max().item(), before.abs().max().item()
    if not error <= 1e-3 * scale:
        raise FlextronError(
            f"Sorting changed what the model computes: its logits, up to {scale:.3g}, differ by {error:.3g}.",
            cause="the weights are not finite"
            if not np.isfinite(scale)
            else "the model is not the plain one that its config describes",
            fix="check that transformers generates sensible text with it",
        )
    return measured.reordered(*order)


def _budgets(
    given: str | Path | Sequence[Budget] | None, candidates: Candidates, architecture: Architecture
) -> tuple[Budget, ...]:
    if given is None:
        return candidates.uniform_budgets(architecture)
    given = _read_budgets(given)
    check_budgets(given, candidates, architecture)
    return tuple(given)


def _read_budgets(given: str | Path | Sequence[Budget]) -> Sequence[Budget]:
    """Budgets as they are, of a JSON file with a list of them, or of an elastic checkpoint."""
    if not isinstance(given, (str, Path)):
        return given
    if Path(given).is_dir():
        return ElasticCheckpoint.open(Path(given)).budgets
    try:
        return [Budget.from_json(value) for value in json.loads(Path(given).read_text(encoding="utf-8"))]
    except (OSError, *MALFORMED) as error:
        raise InputError(
            f"The budgets in {given} cannot be read: {type(error).__name__} {error}.",
            fix='write a list such as [{"name": "small", "layers": [[2, 256], [1, 256]]}], one pair per layer',
        ) from error
