"""The verb `search`: named budgets of an elastic checkpoint, found for latency targets without a router."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from ..elastic.checkpoint import MARKER, ElasticCheckpoint
from ..elastic.model import load_model
from ..elastic.rewriting import with_budgets
from ..elastic.widths import Budget
from ..errors import InputError
from ..files import check_new_directory
from .checkpoint_text import checkpoint_text
from .data import spread
from .elastify import VALIDATION_SEQUENCES
from .environment import default_device, quiet_transformers, require_training, thread_count, usable_device
from .evaluate import validation_loss
from .journal import journalled
from .latency_model import LatencyModel
from .latency_targets import parse_targets
from .search import Found, check_targets, search
from .work import JOURNAL, default_work, kept, settle, work_directory

SEQUENCES = 32
MAX_EVALUATIONS = 1000


def search_checkpoint(
    checkpoint: str | Path | ElasticCheckpoint,
    text: Sequence[str | Path],
    latency: LatencyModel,
    targets: Sequence[str | float],
    out: str | Path,
    *,
    sequences: int = SEQUENCES,
    length: int = 128,
    max_evaluations: int | None = MAX_EVALUATIONS,
    text_field: str = "text",
    seed: int | None = None,
    threads: int | None = None,
    device: str | None = None,
    work: str | Path | None = None,
    resume: bool = False,
    overwrite: bool = False,
    report: Callable[[int, float], None] | None = None,
) -> tuple[ElasticCheckpoint, list[Found]]:
    """Search per-layer widths for latency targets and write them as named budgets into a new checkpoint.

    The search sees documents that `elastify` trains on, given the same text; the losses that are written and
    returned are of those it holds out. Budgets of the same names are replaced, others kept. A failure leaves what stood
    at `out`.

    Args:
        checkpoint: an elastic checkpoint.
        text: text files, JSONL files or data sets, see `sources.read_parts`.
        latency: fitted or analytic; adapted to the checkpoint (`LatencyModel.for_model`).
        targets: parts of the full model's latency, or times such as `12ms`.
        out: checkpoint directory to create, or with `overwrite` the checkpoint itself.
        sequences: of the text, that every evaluation of the search reads.
        length: tokens per sequence.
        max_evaluations: most losses to compute for the search; None for no limit.
        text_field: field that holds the text in JSONL files and data sets.
        seed: of the split of the text; default that of `elastify`.
        threads: CPU threads.
        device: torch device; default a GPU if there is one.
        work: directory for tokens and computed losses, kept; default `OUT.work`, removed when the checkpoint is
            written.
        resume: go on with the losses that an interrupted search computed, to the same result; other targets, latencies
            and limits may be asked for. Begin if there are none.
        overwrite: replace an elastic checkpoint at `out`.
        report: called with the number of evaluations so far and the latest loss.

    Returns:
        The new checkpoint, and what was found for each target, the slowest first.

    Raises:
        CheckpointError: the checkpoint is damaged.
        InputError: a target cannot be met, the latency model has other candidates, the text cannot be used, or `out`
            exists or cannot be written.
        MissingDependencyError: torch or transformers is not installed.
    """
    if not isinstance(checkpoint, ElasticCheckpoint):
        checkpoint = ElasticCheckpoint.open(checkpoint)
    architecture, candidates = checkpoint.architecture, checkpoint.candidates
    layers = architecture.num_layers
    # Everything that can be refused is refused before torch is imported and minutes are spent.
    latency = latency.for_model(candidates, layers)
    full = latency.full(layers)
    wanted = {name: share * full for name, share in parse_targets(targets, full).items()}
    check_targets(latency, layers, wanted)
    if sequences < 1 or length < 2 or (max_evaluations is not None and max_evaluations < 1):
        raise InputError(
            f"{sequences} sequences of {length} tokens and {max_evaluations} evaluations cannot be searched with."
        )
    out = Path(out)
    check_new_directory(out, marker=MARKER, overwrite=overwrite)
    weights = checkpoint.weights()
    require_training()
    device = usable_device(device or default_device())
    place = default_work(out) if work is None else Path(work)
    with work_directory(place, keep=work is not None), thread_count(threads), quiet_transformers():
        settle(place, resume=resume, overwrite=overwrite)
        data = checkpoint_text(checkpoint, text, place / "tokens", length=length, field=text_field, seed=seed)
        seen, held_out = spread(data.train, sequences), spread(data.validation, VALIDATION_SEQUENCES)
        model = load_model(checkpoint.path).to(device)

        def measured(budget: Budget) -> Budget:
            return replace(budget, validation_loss=validation_loss(model, architecture, budget, held_out))

        about = {
            "model": {name: file.sha256 for name, file in weights.records().items()},
            "text": data.sha256,
            "sequences": sequences,
        }
        with journalled(lambda b: validation_loss(model, architecture, b, seen), place / JOURNAL, about) as loss:
            found = search(
                loss,
                latency,
                candidates,
                layers,
                wanted,
                max_evaluations=max_evaluations,
                report=report,
            )
        found = [
            replace(f, budget=measured(f.budget), uniform=None if f.uniform is None else measured(f.uniform))
            for f in found
        ]
        record = {
            "targets": {f.budget.name: {"asked_ms": f.target, "predicted_ms": f.milliseconds} for f in found},
            "latency_model": latency.to_json(),
            "sequences": len(seen),
            "length": length,
            "seed": checkpoint.training.get("seed", 0) if seed is None else seed,
        }
        budgets = [b for b in checkpoint.budgets if b.name not in wanted] + [f.budget for f in found]
        with kept(place):
            written = with_budgets(checkpoint, budgets, out, notes={"search": record}, overwrite=overwrite)
        (place / JOURNAL).unlink()
    return written, found
