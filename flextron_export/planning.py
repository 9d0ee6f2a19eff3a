"""The verb `plan`: what every budget of a bundle costs, measured here or elsewhere, or predicted for a device that is
not at hand."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .bundle.manifest import Bundle
from .elastic.widths import Budget
from .errors import InputError, NoBudgetFitsError
from .files import MALFORMED, read_object
from .progress import Track, silent
from .runtime.calibrate import CONTEXTS, PROMPT_LENGTHS
from .runtime.latency_target import LatencyTarget
from .runtime.measurements import Measurements
from .runtime.opening import How, SharedSession, open_bundle
from .runtime.selection import Selection, rank, select
from .runtime.table import FORMAT as TABLE
from .runtime.table import BudgetCost, LatencyTable, all_tables, interpolate
from .targets.device_description import DeviceDescription, device_description
from .training.latency_model import FORMAT as MODEL
from .training.latency_model import LatencyModel
from .training.predicted_table import predicted_by_data_sheet, predicted_by_model

if TYPE_CHECKING:
    from typing_extensions import Unpack


@dataclass(frozen=True)
class PlannedBudget:
    """What one budget costs at the plan's lengths.

    Attributes:
        p50, p95: milliseconds per token; both the same prediction where nothing was measured.
        first_token: p95 of the milliseconds to the first token; None where the table has none.
        memory_bytes: weights and KV cache.
    """

    budget: Budget
    parameters: int
    p50: float | None
    p95: float | None
    first_token: float | None
    memory_bytes: int

    @property
    def tokens_per_second(self) -> float | None:
        """At the median time per token."""
        return 1e3 / self.p50 if self.p50 else None

    def to_json(self) -> dict[str, Any]:
        pace = self.tokens_per_second
        return {
            "budget": self.budget.name,
            "validation_loss": self.budget.validation_loss,
            "parameters": self.parameters,
            "ms_per_token_p50": self.p50,
            "ms_per_token_p95": self.p95,
            "tokens_per_second": None if pace is None else round(pace, 2),
            "first_token_ms_p95": self.first_token,
            "memory_bytes": self.memory_bytes,
        }


@dataclass(frozen=True)
class Plan:
    """Every budget with its numbers, best quality first.

    Attributes:
        table: where the numbers come from; `table.predicted` says how they were computed if nobody measured them.
        context, prompt_length: the lengths they hold for.
        budgets: what they are.
        selection: which one the target would pick; None if there is no target or none meets it.
        verdict: the same in words, and which comes closest if none does; empty without a target.
        notes: what somebody who relies on them should know.
    """

    table: LatencyTable
    context: int
    prompt_length: int
    budgets: tuple[PlannedBudget, ...]
    selection: Selection | None
    verdict: str
    notes: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        table = self.table
        return {
            "device": table.device,
            "target": table.target,
            "layout": table.layout,
            "dtype": table.dtype,
            "predicted": table.predicted or None,
            "context": self.context,
            "prompt_length": self.prompt_length,
            "budgets": [budget.to_json() for budget in self.budgets],
            "selection": None if self.selection is None else self.selection.to_json(),
            "verdict": self.verdict or None,
            "notes": list(self.notes),
        }


def plan(
    bundle: str | Path | Bundle,
    latency_target: str | float | LatencyTarget | None = None,
    *,
    device: str | Path | LatencyTable | None = None,
    context: int | None = None,
    prompt_length: int | None = None,
    calibration: str = "auto",
    track: Track = silent,
    **how: Unpack[How],
) -> Plan:
    """List what every budget costs, and which one a target would pick.

    Args:
        bundle: its directory.
        latency_target: see `LatencyTarget.parse`.
        device: whose numbers; this device by default. Else the id of a device that the bundle has measurements of; a
            device that is described (`device_ids`, or a `.toml` file), for predictions from its data sheet; or a JSON
            file: a latency table, or a latency model for predictions; or a table.
        context: tokens in the cache; by default the longest that was measured.
        prompt_length: of the time to the first token; by default that of the target, or the middle one measured.
        calibration: for this device, as for `Runner`.
        track: shows progress.
        how: target, layout, dtype, threads, low_memory: see `How`. For a described device only the precision matters.

    Raises:
        InputError: there is no such device or file, or an argument cannot be used.
        BundleError, TargetError, MissingDependencyError: the bundle cannot be opened so.
    """
    if any(length is not None and length < 1 for length in (context, prompt_length)):
        raise InputError(f"context {context} and prompt length {prompt_length} must be at least 1.")
    target = None if latency_target is None else LatencyTarget.parse(latency_target)
    opened = bundle if isinstance(bundle, Bundle) else Bundle.open(bundle, hashes=False)
    described: DeviceDescription | None = None
    if device is None:
        session = SharedSession(open_bundle(opened, **how))
        try:
            table = Measurements(session, calibration, track).find(target, context)
        finally:
            session.close()
    elif isinstance(device, LatencyTable):
        table = device
    elif str(device).endswith(".json"):
        table = _from_file(opened, Path(device), how)
    elif measured := _measured_elsewhere(opened, str(device), how):
        table = measured
    else:
        try:
            described = device_description(device)
        except InputError as error:
            known = sorted({t.device["id"] for t in all_tables(opened)})
            there = f"{opened.path} has measurements of: {', '.join(known)}" if known else None
            raise InputError(error.what, cause=there, fix=error.fix) from error
        table = predicted_by_data_sheet(opened, described, how.get("dtype"))
    if target is not None and target.prompt_length is not None and prompt_length is None:
        prompt_length = target.prompt_length
    context = table.longest_context or CONTEXTS[-1] if context is None else context
    lengths = [t.tokens for cost in table.budgets.values() for t in cost.first_token] or [*PROMPT_LENGTHS]
    prompt_length = sorted(set(lengths))[len(set(lengths)) // 2] if prompt_length is None else prompt_length
    budgets = [b for b in opened.budgets_of(table.layout) if b.name in table.budgets]
    if not budgets:
        raise InputError("The latency table measured none of these budgets.", fix="flextron-export calibrate BUNDLE")
    rows = tuple(_row(b, table.budgets[b.name], context, prompt_length) for b in rank(budgets, table))
    selection, verdict = None, ""
    if target is not None:
        try:
            selection = select(budgets, table, target, context=context)
            verdict = selection.reason
        except NoBudgetFitsError as error:
            verdict = error.what
    notes = []
    if table.predicted:
        notes.append(f"All times are predictions, not measurements: {table.predicted}.")
    if table.caution and device is not None:  # of this device, `Measurements` has said it
        notes.append(table.caution)
    if described is not None and (over := [r.budget.name for r in rows if r.memory_bytes > described.usable_bytes]):
        size = f"{described.usable_bytes / 1e9:.1f} GB that are left on {described.name}"
        notes.append(f"Too large for the {size}: {', '.join(over)}.")
    return Plan(table, context, prompt_length, rows, selection, verdict, tuple(notes))


def _row(budget: Budget, cost: BudgetCost, context: int, prompt_length: int) -> PlannedBudget:
    p50, p95 = (
        interpolate([(t.tokens, getattr(t, name)) for t in cost.decode], context) if cost.decode else None
        for name in ("p50", "p95")
    )
    first = cost.first_token_ms(prompt_length) if cost.first_token else None
    return PlannedBudget(budget, cost.parameters, p50, p95, first, cost.memory_bytes(context))


def _measured_elsewhere(bundle: Bundle, device: str, how: How) -> LatencyTable | None:
    """Measurements of that device in the bundle, of what it holds now."""
    found = [t for t in all_tables(bundle) if t.device["id"] == device]
    for name in ("target", "layout", "dtype"):
        found = [t for t in found if how.get(name) in (None, getattr(t, name))]
    fitting = [t for t in found if t.fits(bundle)]
    if found and not fitting:
        raise InputError(
            f"The measurements of {device} are of another content of {bundle.path}.",
            cause="the bundle was exported or built anew since",
            fix="flextron-export calibrate BUNDLE, on that device",
        )
    return fitting[0] if fitting else None


def _from_file(bundle: Bundle, path: Path, how: How) -> LatencyTable:
    value = read_object(path, InputError)
    if value.get("format") == TABLE:
        try:
            table = LatencyTable.from_json(value)
        except MALFORMED as error:
            raise InputError(f"{path} is damaged: {type(error).__name__} {error}.") from error
        if not table.fits(bundle):
            raise InputError(f"{path} measured another bundle.", fix="calibrate this one on that device")
        return table
    if value.get("format") != MODEL:
        raise InputError(f"{path} is neither a latency table nor a latency model.", fix="see docs/latency-model.md")
    return predicted_by_model(bundle, LatencyModel.load(path), str(path), how.get("dtype") or bundle.dtypes[0])
