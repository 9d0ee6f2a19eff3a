"""The verb `export`: an elastic checkpoint becomes a bundle, verified before it appears."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING

from .bundle.manifest import MARKER, Bundle, FileRecord, weights_file
from .bundle.weights import write_weights
from .elastic.checkpoint import MARKER as CHECKPOINT_MARKER
from .elastic.checkpoint import ElasticCheckpoint, copy_tokenizer
from .elastic.router import FILE as ROUTER_FILE
from .elastic.router import RouterRecord
from .elastic.safetensors import SafetensorsFile
from .errors import InputError, MissingDependencyError, problems
from .files import new_directory, sha256
from .graph.contract import (
    ALL_LAYOUTS,
    BITS,
    DEFAULT_DTYPES,
    DTYPES,
    LAYOUTS,
    PROMPT_ROUTER,
    ROUTED,
    graph_file,
    layouts_of,
)
from .graph.quantization import Quantization
from .graph.schemes import choose_quantization, has_groups
from .progress import Track, silent
from .version import __version__

if TYPE_CHECKING:
    from .elastic.widths import Budget

CONFIG = "config.json"


def export(
    checkpoint: str | Path,
    out: str | Path,
    *,
    layouts: Sequence[str] | None = None,
    dtypes: Sequence[str] | None = None,
    budgets: Sequence[str] | None = None,
    group_size: int | None = None,
    verify: bool = True,
    overwrite: bool = False,
    track: Track = silent,
) -> Bundle:
    """Write a bundle: weights in prefix layout, graphs, tokenizer and golden outputs.

    Args:
        checkpoint: an elastic checkpoint directory.
        out: the bundle directory to create; it appears whole or not at all.
        layouts: graph layouts, each for every precision that it exists in; by default all that the checkpoint has:
            `routed` needs a dynamic router.
        dtypes: precisions: `fp32`, or with quantised matrices `int8` or `int4`, for ONNX Runtime on CPU; `fp16`,
            `bf16`, `int8-fp16`, `int4-fp16` or `fp8-fp16` for TensorRT; see docs/precisions.md. By default `fp32` and
            `fp16`.
        budgets: names of the budgets to export; all by default.
        group_size: weights that share a scale in `int8`, `int4` and `int4-fp16`; by default up to 128 in `int8` and up
            to 32 in the others, as the widths allow.
        verify: compare every graph with the sliced torch model and store golden outputs (needs torch and onnxruntime).
        overwrite: replace an existing bundle.
        track: shows progress.

    Raises:
        CheckpointError, UnsupportedModelError, InputError: the checkpoint or an argument cannot be used.
        MissingDependencyError: a library is not installed; found out before anything is written.
        VerificationError: a graph does not compute what the model computes; nothing is written.
    """
    _check_choices(layouts, dtypes, budgets)
    _check_libraries(verify)
    source = ElasticCheckpoint.open(checkpoint)
    router = _router(source)
    kept = _layouts(source, router, layouts, dtypes)
    if router and router.kind == "dynamic" and all(ROUTED not in names for names in kept.values()):
        router = None
    quantization = {
        dtype: choose_quantization(dtype, source.architecture, source.candidates, group_size)
        for dtype in kept
        if dtype in BITS
    }
    if group_size is not None and not any(map(has_groups, quantization)):
        raise InputError(f"No precision has groups of {group_size} weights.", fix="add --dtype int4, or leave it out")
    chosen = tuple(source.budget(name) for name in budgets) if budgets else source.budgets
    source.check_files(hashes=True)
    weights = source.weights()
    with new_directory(Path(out), marker=MARKER, overwrite=overwrite) as directory:
        names = copy_tokenizer(source.path, directory)
        shutil.copyfile(source.path / CONFIG, directory / CONFIG)
        if router:
            shutil.copyfile(source.path / ROUTER_FILE, directory / ROUTER_FILE)
        copied = (*names, CONFIG, *([ROUTER_FILE] if router else []))
        files = {name: FileRecord.of(directory / name) for name in copied}
        for dtype in kept:
            files[weights_file(dtype)] = write_weights(
                directory, source.architecture, weights, dtype, quantization.get(dtype), track
            )
        graphs = write_graphs(directory, source, chosen, kept, quantization, track)
        if router and router.kind == "prompt":
            graphs += write_prompt_router(directory, source, router)
        origin = {
            "checkpoint_sha256": sha256(source.path / CHECKPOINT_MARKER),
            "parent": source.parent,
            "exporter": f"flextron_export {__version__}",
        }
        bundle = Bundle(
            directory, source.architecture, source.candidates, chosen, kept, files, origin, router, quantization
        )
        golden = _verify(bundle, source, track) if verify else []
        files = {**files, **{name: FileRecord.of(directory / name) for name in (*graphs, *golden)}}
        replace(bundle, files=files).write_manifest(directory)
    return Bundle.open(out, hashes=False)


def _verify(bundle: Bundle, source: ElasticCheckpoint, track: Track) -> list[str]:
    """Compare every graph with the torch model, and write golden files; return their names."""
    from .bundle.golden import golden_file, write_golden
    from .targets.references import torch_references
    from .targets.verify import verify_bundle

    references = torch_references(bundle, source, track)
    verify_bundle(bundle, references, source, track=track)
    for dtype in bundle.dtypes:
        write_golden(bundle.path / golden_file(dtype), dtype, references[dtype])
    return [golden_file(dtype) for dtype in bundle.dtypes]


def write_graphs(
    directory: Path,
    source: ElasticCheckpoint,
    budgets: Sequence[Budget],
    layouts: Mapping[str, Sequence[str]],
    quantization: Mapping[str, Quantization] = MappingProxyType({}),
    track: Track = silent,
) -> list[str]:
    """Build and write every graph of the layouts (by precision); return their paths inside the bundle.

    Weights stay in the weights files, and a router's in its own.
    """
    import onnx_ir

    from .graph.decoder import build_graph

    jobs = [
        (layout, dtype, budget)
        for dtype, names in layouts.items()
        for layout in names
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
            _router(source) if layout == ROUTED else None,
            quantization.get(dtype),
        )
        (directory / name).write_bytes(onnx_ir.to_proto(model).SerializeToString())
        written.append(name)
    return written


def write_prompt_router(directory: Path, source: ElasticCheckpoint, router: RouterRecord) -> list[str]:
    """Write the graph of a prompt router beside its weights; return its name."""
    import onnx_ir

    from .graph.prompt_router import build_prompt_router

    model = build_prompt_router(router, source.architecture, SafetensorsFile(directory / ROUTER_FILE))
    (directory / PROMPT_ROUTER).write_bytes(onnx_ir.to_proto(model).SerializeToString())
    return [PROMPT_ROUTER]


def _router(source: ElasticCheckpoint) -> RouterRecord | None:
    """The router that is needed to run: a static one has become budgets."""
    router = source.router()
    return router.record if router and router.record.kind != "static" else None


def _layouts(
    source: ElasticCheckpoint,
    router: RouterRecord | None,
    layouts: Sequence[str] | None,
    dtypes: Sequence[str] | None,
) -> dict[str, tuple[str, ...]]:
    """The layouts of every precision; InputError if `routed` was asked for and cannot be made."""
    dynamic = router is not None and router.kind == "dynamic"
    if layouts is not None and ROUTED in layouts and not dynamic:
        has = source.router()
        raise InputError(
            f"Cannot export layout {ROUTED}: {source.path} has {f'a {has.record.kind}' if has else 'no'} router, it "
            "needs a dynamic one.",
            fix=f"flextron-export route {source.path} --kind dynamic --text FILE --latency-model FILE --out CKPT",
        )
    given = layouts or (*LAYOUTS, *([ROUTED] if dynamic else []))
    precisions = dtypes or DEFAULT_DTYPES
    kept = {dtype: tuple(name for name in given if name in layouts_of(dtype)) for dtype in precisions}
    found = [
        f"layout {name} does not exist in {' and '.join(precisions)}"
        for name in layouts or ()
        if not any(name in names for names in kept.values())
    ]
    found += [f"{dtype} exists in {', '.join(layouts_of(dtype))} only" for dtype in precisions if not kept[dtype]]
    problems(InputError, "cannot export", found, fix="ask for other layouts or precisions")
    return kept


def _check_choices(layouts: Sequence[str] | None, dtypes: Sequence[str] | None, budgets: Sequence[str] | None) -> None:
    found = []
    for kind, given, known in (("layout", layouts, ALL_LAYOUTS), ("dtype", dtypes, tuple(DTYPES))):
        found += [f"unknown {kind} {name!r} (known: {', '.join(known)})" for name in given or () if name not in known]
        found += [f"no {kind} was given"] if given is not None and not given else []
    for kind, given in (("layout", layouts or ()), ("dtype", dtypes or ()), ("budget", budgets or ())):
        found += [f"{kind} {name} was given twice" for name in sorted({n for n in given if list(given).count(n) > 1})]
    problems(InputError, "cannot export", found)


def _check_libraries(verify: bool) -> None:
    """Find out what is missing before gigabytes are written."""
    needed = {
        "onnx_ir": "export",
        **({"torch": "train", "transformers": "train", "onnxruntime": "cpu"} if verify else {}),
    }
    missing = {name: extra for name, extra in needed.items() if find_spec(name) is None}
    if missing:
        without = ", or export with --no-verify" if "onnx_ir" not in missing else ""
        raise MissingDependencyError(
            f"Export{' with verification' if verify else ''} needs {', '.join(missing)}.",
            fix=f"pip install 'flextron-export[{','.join(sorted(set(missing.values())))}]'{without}",
        )
