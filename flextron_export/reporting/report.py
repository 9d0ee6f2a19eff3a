"""The verb `report`: one page about a bundle: what its budgets cost and how good they are, and how that is known."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from ..bundle.engines import read_engines
from ..bundle.golden import golden_file
from ..bundle.manifest import Bundle
from ..files import check_writable, write_text
from ..planning import Plan, plan
from ..progress import Track, silent
from ..runtime.device import cpu_model
from ..runtime.table import LatencyTable, all_tables
from ..version import __version__
from . import figures
from .page import figure, heading, page, paragraph, table


def report(
    bundle: str | Path,
    out: str | Path,
    *,
    devices: Sequence[str] = (),
    verify: bool = False,
    track: Track = silent,
) -> Path:
    """Write an HTML page about a bundle, for a browser without a network.

    Args:
        bundle: its directory.
        out: the file to write.
        devices: devices that are not at hand, for predictions, see `plan`.
        verify: run `verify` now, and say what it found on this machine.
        track: shows progress.

    Raises:
        BundleError: the bundle is damaged.
        VerificationError: a graph computes something else than the model.
        InputError: a device is not known, or the page cannot be written.
        MissingDependencyError: matplotlib, or for `verify` onnxruntime, is not installed.
    """
    out = Path(out)
    check_writable(out)
    opened = Bundle.open(bundle)
    verified = _verified_here(opened, track) if verify else []
    tables = [t for t in all_tables(opened) if t.fits(opened)]
    plans = [plan(opened, device=t) for t in tables]
    plans += [plan(opened, device=device) for device in devices]
    name = opened.path.resolve().name
    parts = [*_about(opened, name), *_budgets(opened)]
    for number, found in enumerate(plans):
        parts += _device(found, f"f{number}")
    if not plans:
        parts += [heading("Times"), paragraph("This bundle was measured on no device yet: flextron-export calibrate.")]
    parts += [*_proofs(opened, tables, verified), paragraph(f"Written by flextron-export {__version__}.", "quiet")]
    write_text(out, page(f"{name}: elastic model", parts))
    return out


def _about(bundle: Bundle, name: str) -> Iterator[str]:
    a = bundle.architecture
    yield heading(name, 1)
    yield paragraph(
        f"{a.family}, {a.num_layers} layers, hidden size {a.hidden_size}, {a.num_heads} query heads in "
        f"{a.num_kv_heads} groups, {a.intermediate_size} FFN neurons, vocabulary {a.vocab_size}, "
        f"{a.max_positions} positions; {len(bundle.budgets)} budgets in one set of weights."
    )
    parent = bundle.source.get("parent")
    origin = parent.get("path") if isinstance(parent, dict) else None
    size = sum(record.bytes for record in bundle.files.values())
    exporter = bundle.source.get("exporter", "an unknown exporter")
    made = f"From {origin or 'a checkpoint'}, by {exporter}; {len(bundle.files)} files, {size / 1e6:.1f} MB."
    yield paragraph(made, "quiet")


def _budgets(bundle: Bundle) -> Iterator[str]:
    a = bundle.architecture
    rows = []
    for b in sorted(bundle.budgets, key=lambda b: -b.parameters(a)):
        groups, neurons = ([getattr(w, kind) for w in b.layers] for kind in ("groups", "neurons"))
        loss = None if b.validation_loss is None else f"{b.validation_loss:.4f}"
        means = (f"{sum(widths) / len(widths):.1f}" for widths in (groups, neurons))
        rows.append([b.name, loss, f"{b.parameters(a):,}", *means])
    yield heading("Budgets")
    yield table(
        ["budget", "validation loss, nats per token", "parameters outside embeddings", "mean groups", "mean neurons"],
        rows,
    )
    yield figure(figures.widths(bundle), "Share of KV groups and FFN neurons that every budget keeps in each layer.")


def _device(found: Plan, name: str) -> Iterator[str]:
    t = found.table
    device = t.device.get("gpu") or t.device.get("cpu") or t.device["id"]
    kind = "predicted" if t.predicted else "measured"
    how = ", ".join(part for part in (t.target, t.layout, t.dtype) if part != "any")
    yield heading(f"{device} ({how}): {kind}")
    if t.predicted:
        yield from (paragraph(note, "note") for note in found.notes)
    else:
        about = [
            f"{key} {t.device[key]}" for key in ("cores", "threads", "memory_gib", "power_mode") if key in t.device
        ]
        libraries = t.device.get("libraries")
        about += [f"{k} {v}" for k, v in libraries.items()] if isinstance(libraries, dict) else []
        about.append(f"measured {t.conditions.get('date', 'at an unknown time')}")
        yield paragraph(", ".join(about), "quiet")
        yield from (paragraph(note, "note") for note in found.notes)
    times = "ms per token" if t.predicted else "ms per token, p50"
    columns = ["budget", times, *([] if t.predicted else ["p95"]), "tokens per second"]
    columns += [f"ms to first token of {found.prompt_length}", "memory, MB"]
    rows = []
    for row in found.budgets:
        numbers = [row.p50] if t.predicted else [row.p50, row.p95]
        cells = [None if ms is None else f"{ms:.3f}" for ms in numbers]
        pace, first = row.tokens_per_second, row.first_token
        cells += [None if pace is None else f"{pace:.1f}", None if first is None else f"{first:.2f}"]
        rows.append([row.budget.name, *cells, f"{row.memory_bytes / 1e6:.1f}"])
    yield table(columns, rows)
    caption = f"Quality of every budget against time per token and memory at a context of {found.context} ({kind})."
    yield figure(figures.costs(found, name), caption)
    yield figure(
        figures.lengths(t, name),
        f"Time per token against the context, time to the first token against the prompt ({kind}).",
    )


def _proofs(bundle: Bundle, tables: Sequence[LatencyTable], verified: Sequence[Sequence[str]]) -> Iterator[str]:
    rows: list[Sequence[str]] = [*verified]
    for dtype, layouts in bundle.layouts.items():
        there = golden_file(dtype) in bundle.files
        state = "compared with the torch model at export, on the exporting machine" if there else "never compared"
        rows.append([f"graphs {', '.join(layouts)}, {dtype}", state, "ONNX Runtime, CPU" if there else "–"])
    for name, record in read_engines(bundle).items():
        library = f"{record.get('library', 'damaged record')} {record.get('library_version', '')}"
        compiled = record.get("compute_capabilities")
        where = f"for SM {', '.join(map(str, compiled))}" if compiled else "–"
        target, _, rest = name.partition("/")
        ran = any(t.target == target and f"{t.layout}.{t.dtype}" == rest for t in tables)
        state = f"built with {library}" + ("" if ran else "; measured on no device")
        rows.append([f"engine {name}", state, where])
    for t in tables:
        device = t.device.get("gpu") or t.device.get("cpu") or t.device["id"]
        state = f"ran while it was measured, {t.conditions.get('date', 'at an unknown time')}"
        rows.append([f"{t.target}, {t.layout}, {t.dtype}", state, str(device)])
    yield heading("What was verified, and where")
    yield table(["what", "how", "hardware"], rows, text=True)
    yield paragraph(
        "A time that was measured proves that the graphs ran there, not that they were right there.", "quiet"
    )


def _verified_here(bundle: Bundle, track: Track) -> list[list[str]]:
    from ..targets.verify import verify_bundle

    worst: dict[tuple[str, str], tuple[float, float]] = {}
    for check in verify_bundle(bundle, track=track):
        key = check.layout, check.dtype
        worst[key] = max(worst.get(key, (0.0, 0.0))[0], check.difference), check.tolerance
    return [
        [
            f"graphs {layout}, {dtype}",
            f"verified now: largest difference of a logit {difference:.1e} of the largest ({allowed:.0e} allowed)",
            cpu_model(),
        ]
        for (layout, dtype), (difference, allowed) in worst.items()
    ]
