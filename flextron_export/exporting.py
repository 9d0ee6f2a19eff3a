"""The verb `export`: an elastic checkpoint becomes a bundle, verified before it appears."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from .bundle.manifest import MARKER, Bundle, FileRecord, weights_file
from .bundle.weights import write_weights
from .elastic.checkpoint import MARKER as CHECKPOINT_MARKER
from .elastic.checkpoint import ElasticCheckpoint, copy_tokenizer
from .elastic.safetensors import SafetensorsFile
from .errors import InputError, MissingDependencyError, problems
from .files import new_directory, sha256
from .graph.contract import DTYPES, LAYOUTS, graph_file
from .progress import Track, silent
from .version import __version__

if TYPE_CHECKING:
    from .elastic.widths import Budget


def export(
    checkpoint: str | Path,
    out: str | Path,
    *,
    layouts: Sequence[str] = LAYOUTS,
    dtypes: Sequence[str] = tuple(DTYPES),
    budgets: Sequence[str] | None = None,
    verify: bool = True,
    overwrite: bool = False,
    track: Track = silent,
) -> Bundle:
    """Write a bundle: weights in prefix layout, graphs, tokenizer and golden outputs.

    Args:
        checkpoint: an elastic checkpoint directory.
        out: the bundle directory to create; it appears whole or not at all.
        layouts: graph layouts, each for every precision.
        dtypes: precisions: `fp32` for ONNX Runtime on CPU, `fp16` for TensorRT.
        budgets: names of the budgets to export; all by default.
        verify: compare every graph with the sliced torch model and store golden outputs (needs torch and onnxruntime).
        overwrite: replace an existing bundle.
        track: shows progress.

    Raises:
        CheckpointError, UnsupportedModelError, InputError: the checkpoint or an argument cannot be used.
        VerificationError: a graph does not compute what the model computes; nothing is written.
    """
    _check_choices(layouts, dtypes, budgets)
    source = ElasticCheckpoint.open(checkpoint)
    chosen = tuple(source.budget(name) for name in budgets) if budgets else source.budgets
    weights = source.weights()
    with new_directory(Path(out), marker=MARKER, overwrite=overwrite) as directory:
        files = {name: FileRecord.of(directory / name) for name in copy_tokenizer(source.path, directory)}
        for dtype in dtypes:
            files[weights_file(dtype)] = write_weights(directory, source.architecture, weights, dtype, track)
        for name in write_graphs(directory, source, chosen, layouts, dtypes, track):
            files[name] = FileRecord.of(directory / name)
        origin = {
            "checkpoint_sha256": sha256(source.path / CHECKPOINT_MARKER),
            "parent": source.parent,
            "exporter": f"flextron_export {__version__}",
        }
        bundle = Bundle(
            directory,
            source.architecture,
            source.candidates,
            chosen,
            dict.fromkeys(dtypes, tuple(layouts)),
            files,
            origin,
        )
        bundle.write_manifest(directory)
        if verify:
            from .bundle.golden import golden_file, write_golden
            from .targets.verify import torch_references, verify_bundle

            references = torch_references(source, chosen, track)
            verify_bundle(bundle, references, track=track)
            for dtype in dtypes:
                write_golden(directory / golden_file(dtype), dtype, references)
                files[golden_file(dtype)] = FileRecord.of(directory / golden_file(dtype))
            bundle.write_manifest(directory)
    return Bundle.open(out, hashes=False)


def write_graphs(
    directory: Path,
    source: ElasticCheckpoint,
    budgets: Sequence[Budget],
    layouts: Sequence[str],
    dtypes: Sequence[str],
    track: Track = silent,
) -> list[str]:
    """Build and write every graph; return their paths inside the bundle. Weights stay in the weights files.

    Raises:
        MissingDependencyError: onnx_ir is not installed.
    """
    try:
        import onnx_ir

        from .graph.decoder import build_graph
    except ImportError as error:
        raise MissingDependencyError(
            f"graphs cannot be built: {error}.", fix="pip install 'flextron-export[export]'"
        ) from error
    jobs = [
        (layout, dtype, budget)
        for dtype in dtypes
        for layout in layouts
        for budget in (budgets if layout == "per-budget" else budgets[:1])
    ]
    (directory / "graphs").mkdir()
    written = []
    for layout, dtype, budget in track(jobs, "building graphs"):
        name = graph_file(layout, dtype, budget.name if layout == "per-budget" else None)
        model = build_graph(
            layout,
            dtype,
            source.architecture,
            source.candidates,
            SafetensorsFile(directory / weights_file(dtype)),
            budget,
        )
        (directory / name).write_bytes(onnx_ir.to_proto(model).SerializeToString())
        written.append(name)
    return written


def _check_choices(layouts: Sequence[str], dtypes: Sequence[str], budgets: Sequence[str] | None) -> None:
    found = []
    for kind, given, known in (("layout", layouts, LAYOUTS), ("dtype", dtypes, tuple(DTYPES))):
        found += [f"unknown {kind} {name!r} (known: {', '.join(known)})" for name in given if name not in known]
        found += [f"no {kind} was given"] if not given else []
    for kind, given in (("layout", layouts), ("dtype", dtypes), ("budget", budgets or ())):
        found += [f"{kind} {name} was given twice" for name in sorted({n for n in given if list(given).count(n) > 1})]
    problems(InputError, "cannot export", found)
