"""Latency tables that nobody measured: from a device's data sheet, or from a latency model."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from ..bundle.manifest import Bundle
from ..bundle.memory import cache_bytes, weight_bytes
from ..elastic.tensors import tensor_specs
from ..elastic.widths import Budget
from ..graph.contract import cache_shapes
from ..runtime.calibrate import CONTEXTS, PROMPT_LENGTHS
from ..runtime.table import BudgetCost, LatencyTable, Timing
from ..targets.device_description import DeviceDescription
from .analytic_latency import WEIGHT_BYTES, analytic_latency
from .latency_model import LatencyModel

Times = Mapping[str, Sequence[Timing]]
"""By the budget's name."""


def predicted_by_data_sheet(bundle: Bundle, device: DeviceDescription, dtype: str | None = None) -> LatencyTable:
    """What every budget would cost at least, at the lengths that `calibrate` measures (`analytic_latency`).

    Args:
        bundle: its widths; it need not hold that precision.
        device: its data sheet.
        dtype: precision of the weights, fp16 by default.

    Raises:
        InputError: the device does not have the precision.
    """
    a = bundle.architecture
    dtype = dtype or ("fp16" if "fp16" in device.precisions else device.precisions[0])

    def times(phase: str, lengths: Sequence[int]) -> Times:
        found: dict[str, list[Timing]] = {b.name: [] for b in bundle.budgets}
        for tokens in sorted({min(n, a.max_positions) for n in lengths}):
            model = analytic_latency(a, bundle.candidates, device, phase=phase, tokens=tokens, dtype=dtype)
            for b in bundle.budgets:
                found[b.name].append(_exactly(tokens, model.predict(b, bundle.candidates)))
        return found

    about = {"id": device.id, "gpu": device.name}
    source = f"bytes and operations over the data sheet of {device.name}, a lower bound, {dtype} weights"
    times_of = times("decode", CONTEXTS), times("prefill", PROMPT_LENGTHS)
    sizes = {b.name: _sizes(bundle, b, dtype) for b in bundle.budgets}
    return _table(bundle, about, device.targets[0], dtype, *times_of, sizes, source)


def predicted_by_model(bundle: Bundle, model: LatencyModel, name: str, dtype: str) -> LatencyTable:
    """What a latency model says of every budget: times per token, or to the first token, at its one length.

    Args:
        model: of this or another bundle, see `LatencyModel.for_model`.
        name: what the model is called in `predicted`.
        dtype: precision of the weights, for their size: one of the bundle's.

    Raises:
        InputError: the model does not fit the bundle's candidate widths.
        BundleError: the bundle does not hold the precision.
    """
    bundle.weights(dtype)
    a = bundle.architecture
    fitted = model.for_model(bundle.candidates, a.num_layers)
    times = {b.name: [_exactly(model.tokens, fitted.predict(b, bundle.candidates))] for b in bundle.budgets}
    made, device = model.source.get("made", "made in an unknown way"), model.source.get("device", "unknown")
    about = device if isinstance(device, dict) else {"id": str(device)}
    source = f"latency model {name} of device {about.get('id')}, {made}, at {model.tokens} tokens"
    decode, first = (times, {}) if model.phase == "decode" else ({}, times)
    sizes = {b.name: (weight_bytes(bundle, dtype, b), cache_bytes(bundle, dtype, b, 1)) for b in bundle.budgets}
    return _table(bundle, {"id": "unknown", **about}, "any", dtype, decode, first, sizes, source)


def _table(
    bundle: Bundle,
    device: dict[str, Any],
    target: str,
    dtype: str,
    decode: Times,
    first_token: Times,
    sizes: Mapping[str, tuple[int, int]],
    source: str,
) -> LatencyTable:
    costs = {}
    for budget in bundle.budgets:
        times = tuple(decode.get(budget.name, ())), tuple(first_token.get(budget.name, ()))
        costs[budget.name] = BudgetCost(budget.parameters(bundle.architecture), *times, *sizes[budget.name])
    return LatencyTable(device, target, "any", dtype, "", costs, predicted=source)


def _exactly(tokens: int, ms: float) -> Timing:
    return Timing(tokens, 0, ms, ms, ms, ms)


def _sizes(bundle: Bundle, budget: Budget, dtype: str) -> tuple[int, int]:
    """Bytes of the weights that a budget reads, in a precision that the bundle need not hold, and of its KV cache per
    slot: without scales, as the analytic latency has it."""
    a = bundle.architecture
    weights = sum(math.prod(spec.active(a, budget.layers)) for spec in tensor_specs(a))
    cached = sum(math.prod(shape) for shape in cache_shapes(a, budget, 1, 1).values())
    return round(weights * WEIGHT_BYTES[dtype]), cached * (4 if dtype == "fp32" else 2)
