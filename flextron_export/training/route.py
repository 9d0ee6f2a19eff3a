"""Adding a router to an elastic checkpoint, and the budgets it chooses (docs/routers.md)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from ..elastic.checkpoint import MARKER, ElasticCheckpoint
from ..elastic.model import load_model
from ..elastic.rewriting import with_budgets
from ..elastic.router import KINDS, METHODS, RouterRecord, target_faults
from ..elastic.tensors import tensor_specs
from ..elastic.widths import Budget
from ..errors import InputError, problems
from ..files import check_new_directory
from ..plots import check_image, widths_by_target
from .checkpoint_text import checkpoint_text
from .data import spread
from .elastify import LEARNING_RATE, SAVE_EVERY, TORCH_NAMES, VALIDATION_SEQUENCES
from .environment import (
    default_device,
    enough_memory,
    quiet_transformers,
    require_training,
    thread_count,
    usable_device,
)
from .latency_model import LatencyModel
from .latency_targets import FULL, parse_targets
from .routed_latency import RoutedLatency
from .router_budgets import router_budget
from .router_settings import RouterSettings
from .search import Evaluations, best_uniform
from .settings import TrainingSettings
from .state import States, fixed, remove
from .work import default_work, kept, settle, work_directory

HIDDEN = 128
"""Units between the two layers of a router; no more than the model has."""

REFINING_SEQUENCES = 32
"""Sequences of the training text by which a static router's budgets are refined, and the best uniform ones found."""

JOINT_SHARE = 0.1
"""Default learning rate of the joint fine-tune, as a share of elastic training's."""


def route(
    checkpoint: str | Path,
    text: Sequence[str | Path],
    out: str | Path,
    *,
    latency_model: str | Path | LatencyModel,
    kind: str = "static",
    method: str = "gumbel",
    targets: Sequence[float | str] = (1.0, 0.75, 0.5),
    budget_targets: Sequence[float | str] | None = None,
    tokens: int = 200_000,
    joint_tokens: int = 0,
    batch: int = 16,
    length: int = 128,
    hidden_size: int | None = None,
    learning_rate: float = 1e-2,
    joint_learning_rate: float | None = None,
    threshold: float = 0.1,
    text_field: str = "text",
    seed: int = 0,
    threads: int | None = None,
    device: str | None = None,
    plot: str | Path | None = None,
    metrics: str | Path | None = None,
    work: str | Path | None = None,
    save_every: int = SAVE_EVERY,
    resume: bool = False,
    overwrite: bool = False,
    progress: bool = True,
) -> ElasticCheckpoint:
    """Train a router for an elastic checkpoint and write the checkpoint with it; of a static one, with its budgets too.

    All budgets are measured on the text held out here, so that their losses can be compared. A failure at any point
    leaves what stood at `out` as it was.

    Args:
        checkpoint: elastic checkpoint directory.
        text: text files, JSONL files or data sets to train on, see `sources.read_parts`; a twentieth of their documents
            is held out, the same as by `elastify`.
        out: checkpoint directory to create; may be `checkpoint` itself, with `overwrite`.
        latency_model: what widths cost, or a file of it.
        kind: `static`, `dynamic` (per token) or `prompt`.
        method: `gumbel` or `surrogate`.
        targets: latencies to train for: shares of the full model's, or milliseconds as `12ms`; 1 is added.
        budget_targets: latencies for which a static router's widths become named budgets; default `targets`.
        tokens: tokens to train the router on, the model frozen; each pass of the model counts once.
        joint_tokens: tokens to train model and router on together afterwards.
        batch: sequences per step.
        length: tokens per sequence.
        hidden_size: units of a router; default `HIDDEN`, or the model's hidden size if that is less.
        learning_rate: of the router.
        joint_learning_rate: of the model; default a tenth of `elastify`'s.
        threshold: error of the surrogate, in nats, below which the router steps.
        text_field: field that holds the text in JSONL files and data sets.
        seed: of everything random but what is held out.
        threads: CPU threads, or None for torch's own choice.
        device: torch device; default a GPU if there is one.
        plot: PNG to draw the widths of every target into.
        metrics: directory for TensorBoard.
        work: directory for tokens and states, kept; default `OUT.work`, removed when the checkpoint is written.
        save_every: steps between two states that a killed run can go on from; one is saved after the last step, too, in
            case the checkpoint cannot be written. 0 saves none.
        resume: go on from the newest state in the work directory, to the same result; begin if there is none.
        overwrite: replace an elastic checkpoint at `out`.
        progress: show progress on standard error.

    Returns:
        The new checkpoint; `checkpoint.notes["router"]["results"]` holds what every target came to.

    Raises:
        CheckpointError: the checkpoint cannot be used.
        InputError: the text, a setting, a target or the latency model cannot be used, or `out` cannot be written.
        MissingDependencyError: torch or transformers is not installed.
        FlextronError: training diverged.
    """
    # Everything that can be refused is refused before torch is imported and minutes are spent.
    opened = ElasticCheckpoint.open(checkpoint)
    architecture, candidates = opened.architecture, opened.candidates
    weights = opened.weights()
    for name, value, known in (("kind", kind, KINDS), ("method", method, METHODS)):
        if value not in known:
            raise InputError(f"The {name} {value!r} is not known.", fix=f"use one of: {', '.join(known)}")
    table = latency_model if isinstance(latency_model, LatencyModel) else LatencyModel.load(latency_model)
    latency = RoutedLatency.of(table, architecture, candidates, kind)
    wanted = _targets(targets, latency)
    trained = tuple(dict.fromkeys((1.0, *wanted.values())))
    if len(trained) == 1:
        raise InputError("There is no target below the full model's latency.", fix="pass --targets such as 0.75,0.5")
    problems(InputError, "these targets cannot be trained", target_faults(trained))
    asked = wanted if budget_targets is None else _targets(budget_targets, latency)
    if outside := [f"{t:g}" for t in asked.values() if not trained[-1] <= t <= 1]:
        raise InputError(
            f"The router is trained for targets from {trained[-1]:g} to 1, not for {', '.join(outside)}.",
            fix="add a smaller target to --targets",
        )
    settings = RouterSettings(
        tokens, batch, length, method, learning_rate, threshold=threshold, seed=seed, threads=threads
    )
    settings.validate()
    joint = TrainingSettings(
        joint_tokens,
        batch,
        length,
        JOINT_SHARE * LEARNING_RATE / architecture.hidden_size if joint_learning_rate is None else joint_learning_rate,
        "ce",
        "muon",
        seed=seed,
        threads=threads,
    )
    joint.validate()
    hidden = min(HIDDEN, architecture.hidden_size) if hidden_size is None else hidden_size
    if hidden < 1:
        raise InputError(f"The router's hidden size is {hidden}.", fix="pass at least 1")
    if plot is not None:
        check_image(Path(plot))
    check_new_directory(Path(out), marker=MARKER, overwrite=overwrite)
    require_training()
    import torch

    from .evaluate import validation_loss
    from .joint import train_jointly
    from .router_loop import train_routers
    from .router_report import report
    from .routers import Routers
    from .stages import Stages

    place = default_work(out) if work is None else Path(work)
    with (
        work_directory(place, keep=work is not None),
        thread_count(threads),
        quiet_transformers(),
        enough_memory("training routers", "pass a smaller --batch, --length or --hidden-size"),
    ):
        settle(place, resume=resume, overwrite=overwrite)
        data = checkpoint_text(opened, text, place / "tokens", length=length, field=text_field, progress=progress)
        about = {
            **fixed(settings),
            "model": {name: file.sha256 for name, file in weights.records().items()},
            "text": data.sha256,
            "latency_model": table.to_json(),
            "kind": kind,
            "targets": trained,
            "hidden_size": hidden,
            "joint": fixed(joint),
        }
        states = States(place, every=save_every, about=about, resume=resume)
        stages = Stages(states)
        packed, validation = data.train, spread(data.validation, VALIDATION_SEQUENCES)
        model = load_model(opened.path).to(usable_device(device or default_device()))
        torch.manual_seed(seed)
        routers = Routers(RouterRecord(kind, method, trained, hidden, candidates), architecture).to(model.device)
        done = train_routers(
            model, routers, latency, packed, validation, settings, stages=stages, metrics=metrics, progress=progress
        )
        notes: dict[str, Any] = {**asdict(settings), "steps": settings.steps, "router_steps": done.stepped}
        if method == "surrogate":
            notes["surrogate_error"] = done.steps[-1].error if done.steps else None
        dtype = getattr(torch, TORCH_NAMES[weights.info(tensor_specs(architecture)[0].source).dtype])
        if joint.steps:
            gentle = replace(settings, tokens=joint_tokens, learning_rate=JOINT_SHARE * learning_rate)
            train_jointly(model, routers, latency, packed, joint, gentle, stages=stages, progress=progress)
            notes["joint"] = asdict(joint)
            for value in model.state_dict().values():  # what is written is what is measured
                value.copy_(value.to(dtype))
        seen = spread(packed, REFINING_SEQUENCES)
        losses = Evaluations(lambda budget: validation_loss(model, architecture, budget, seen))
        fitted = table.for_model(candidates, architecture.num_layers)
        reported = {target: name for name, target in (wanted | asked).items()} | {1.0: FULL}
        chosen: dict[float, Budget] = {}
        if kind == "static":
            numpy_router = routers.numpy()
            chosen = {
                target: router_budget(numpy_router, latency, target, name=name, loss=losses.of)
                for target, name in reported.items()
            }

        def rival(milliseconds: float) -> Budget | None:
            return best_uniform(losses.of, fitted, candidates, architecture.num_layers, milliseconds)

        results = report(model, routers, latency, sorted(reported, reverse=True), rival, validation, chosen)
        budgets = {b.name: b for b in opened.budgets}
        new = [replace(chosen[target], name=name) for name, target in asked.items() if target in chosen]
        budgets |= {b.name: b for b in new if b.name != FULL or FULL not in budgets}
        measured = [
            replace(b, validation_loss=validation_loss(model, architecture, b, validation)) for b in budgets.values()
        ]

        def add(directory: Path) -> None:
            if joint.steps:
                model.to(dtype).save_pretrained(directory, max_shard_size="1000TB")
            routers.write(directory)

        record = replace(
            routers.record,
            latency_model=table.to_json(),
            training=notes,
            results=tuple(result.to_json() for result in results),
        )
        with kept(place):
            if plot is not None:
                widths_by_target(record, Path(plot))
            written = with_budgets(
                opened,
                sorted(measured, key=lambda b: -b.parameters(architecture)),
                out,
                add=add,
                leave_out=[file.path.name for file in weights.files] + ["model.safetensors.index.json"]
                if joint.steps
                else [],
                notes={"router": record.to_json()},
                overwrite=overwrite,
            )
        remove(states.all())
    return written


def _targets(given: Sequence[float | str], latency: RoutedLatency) -> dict[str, float]:
    found = parse_targets(given, latency.full)
    latency.check_targets(list(found.values()))
    return found
