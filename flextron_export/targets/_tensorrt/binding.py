"""The binding plan: which engine and profile serve a call, and the shape and place of every tensor. Pure functions.

The weights of layout `shared` lie in one device buffer, whole; a budget binds the same addresses with fewer rows.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from ...bundle.manifest import Bundle
from ...elastic.safetensors import item_size
from ...elastic.widths import Budget
from ...errors import TargetError
from ...graph.contract import DTYPES, ROUTED, StepShape, cache_names, cache_shapes, choices, input_shapes, weight_shapes
from .profiles import Shape
from .record import EngineRecord

ALIGNMENT = 256
"""Bytes to which TensorRT wants every address aligned."""


@dataclass(frozen=True)
class Layout:
    """Places in one device buffer: name -> byte offset, and the size of the whole."""

    offsets: dict[str, int]
    bytes: int

    @classmethod
    def of(cls, sizes: Iterable[tuple[str, int]]) -> Layout:
        """Tensors one behind the other, each aligned; `sizes` gives name and bytes."""
        offsets, end = {}, 0
        for name, size in sizes:
            offsets[name] = end
            end += -(-size // ALIGNMENT) * ALIGNMENT
        return cls(offsets, end)


@dataclass(frozen=True)
class Binding:
    """Everything one call sets on an execution context.

    Attributes:
        plan: file name of the engine.
        profile: index of the optimisation profile.
        shapes: shape of every input.
        logits: shape of the logits, float32.
        weights: weight inputs, to be bound at their offsets in the weights' buffer.
        choices: what the inputs that choose the budget hold (`panels`, `routed`).
        in_place: cache input -> the output bound to the same address.
    """

    plan: str
    profile: int
    shapes: dict[str, Shape]
    logits: Shape
    weights: tuple[str, ...]
    choices: dict[str, np.ndarray]
    in_place: dict[str, str]


def bind(bundle: Bundle, record: EngineRecord, budget: Budget, step: StepShape) -> Binding:
    """The binding plan of one call.

    Raises:
        TargetError: the engine was built for less than the call asks.
    """
    limits = (
        ("sequences", step.batch, record.max_batch, "max_batch"),
        ("tokens per sequence", step.length, record.max_length, "max_length"),
        ("rows of logits", step.rows, record.max_batch, "max_batch"),
    )
    for what, asked, most, option in limits:
        if asked > most:
            raise TargetError(
                f"The engine takes up to {most} {what}, not {asked}.", fix=record.rebuild(**{option: (asked,)})
            )
    a, quantization = bundle.architecture, bundle.quantization.get(record.dtype)
    # One profile serves every target of a router.
    name = ROUTED if record.layout == ROUTED else budget.name
    plan = record.plan(name, step.capacity)
    phase = "decode" if step.length == 1 else "prefill"
    return Binding(
        plan.file,
        plan.profiles[name][phase],
        dict(input_shapes(record.layout, a, bundle.candidates, budget, step, bundle.targets, quantization)),
        (step.rows, a.vocab_size),
        tuple(weight_shapes(a, budget, quantization)) if record.layout == "shared" else (),
        choices(record.layout, bundle.candidates, budget, step.batch, bundle.targets),
        {name: f"{name}.out" for name in cache_names(a)},
    )


def cache_layout(bundle: Bundle, dtype: str, budget: Budget, batch: int, capacity: int) -> Layout:
    """Places of the KV caches of one batch in one buffer."""
    shapes: Mapping[str, Shape] = cache_shapes(bundle.architecture, budget, batch, capacity)
    size = item_size(DTYPES[dtype])
    return Layout.of((name, int(np.prod(shape)) * size) for name, shape in shapes.items())


def fitting_capacity(record: EngineRecord, tokens: int) -> int:
    """The smallest capacity there are engines for that holds `tokens`; TargetError if none does."""
    for capacity in record.capacities:
        if capacity >= tokens:
            return capacity
    most = record.capacities[-1]
    raise TargetError(
        f"The engine was built for up to {most} tokens per sequence, not {tokens}.",
        fix=record.rebuild(capacity=(*record.capacities[:-1], tokens)),
    )


@dataclass(frozen=True)
class Piece:
    """Part of a prompt that one call takes.

    Attributes:
        start, stop: its tokens within each sequence.
        rows: flattened positions within the piece whose logits are wanted; one that nobody wants rather than none.
        into: where these logits go among the rows of the whole call; empty if nobody wants them.
    """

    start: int
    stop: int
    rows: tuple[int, ...]
    into: tuple[int, ...]


def pieces(length: int, rows: Iterable[int], max_length: int, max_rows: int) -> list[Piece]:
    """Cut a call of `length` tokens per sequence into calls of at most `max_length`, with at most `max_rows` of logits.

    Args:
        rows: flattened positions (sequence x length + token) whose logits are wanted, at most `max_rows` of one token
            position.
    """
    wanted = [(i, *divmod(int(row), length)) for i, row in enumerate(rows)]
    counts = Counter(t for _, _, t in wanted)
    cut: list[Piece] = []
    start = 0
    while start < length:
        stop, count = start + 1, counts[start]
        while stop < min(start + max_length, length) and count + counts[stop] <= max_rows:
            count += counts[stop]
            stop += 1
        here = [(i, b * (stop - start) + t - start) for i, b, t in wanted if start <= t < stop]
        cut.append(Piece(start, stop, tuple(r for _, r in here) or (0,), tuple(i for i, _ in here)))
        start = stop
    return cut
