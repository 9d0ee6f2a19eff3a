"""Which engines a bundle needs on TensorRT, and their optimisation profiles. Pure functions: no TensorRT, no files.

A profile gives the smallest, typical and largest shape of every input. Widths are exact in it, so that kernels are
chosen for the budget; only batch, length and number of logit rows vary. TensorRT wants the cache's capacity as a
constant, so an engine serves one capacity, and a short context need not pay for a long one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from ...bundle.manifest import Bundle
from ...elastic.widths import Budget
from ...errors import InputError, problems
from ...graph.contract import ROUTED, StepShape, input_shapes

Shape = tuple[int, ...]
PHASES = ("decode", "prefill")
TYPICAL_PREFILL = 64


@dataclass(frozen=True)
class Limits:
    """What an engine must be able to take.

    Attributes:
        capacities: cache slots per sequence, ascending; one engine for each.
        max_batch: most sequences in a call.
        max_length: most tokens per sequence in a prefill call; a longer prompt is fed in pieces.
        separate: layout `shared`: every budget gets engines of its own, built one after the other in less memory.
    """

    capacities: tuple[int, ...]
    max_batch: int = 4
    max_length: int = 256
    separate: bool = False

    @classmethod
    def choose(
        cls,
        bundle: Bundle,
        layout: str,
        capacity: int | Sequence[int] | None = None,
        max_batch: int = 4,
        max_length: int = 256,
        separate: bool = False,
    ) -> Limits:
        """Limits from what the user gave; capacities by default up to 1024 and the model's positions.

        An engine of layout `shared` holds no weights, so it gets a small capacity besides the large one.
        """
        if capacity is None:
            largest = min(1024, bundle.architecture.max_positions)
            capacity = [c for c in (256,) if layout == "shared" and c < largest] + [largest]
        capacities = (capacity,) if isinstance(capacity, int) else tuple(capacity)
        limits = cls(tuple(sorted(set(capacities))), max_batch, max_length, separate and layout == "shared")
        limits.validate(bundle)
        # A prompt never has more tokens than the largest cache has slots.
        return replace(limits, max_length=min(max_length, limits.capacities[-1]))

    def validate(self, bundle: Bundle) -> None:
        """Raise InputError naming every limit that makes no sense for the bundle."""
        most = bundle.architecture.max_positions
        found = [f"a capacity of {c} slots" for c in self.capacities if c < 1]
        found += [f"a capacity of {c}, but the model has {most} positions" for c in self.capacities if c > most]
        found += [] if self.capacities else ["no capacity"]
        found += [f"a batch of {self.max_batch}"] if self.max_batch < 1 else []
        found += [f"a length of {self.max_length} tokens"] if self.max_length < 1 else []
        problems(InputError, "these limits cannot be built", found)


@dataclass(frozen=True)
class Profile:
    """Shapes of all inputs for one budget and phase: name -> (smallest, typical, largest)."""

    budget: str
    phase: str
    shapes: Mapping[str, tuple[Shape, Shape, Shape]]


@dataclass(frozen=True)
class PlanSpec:
    """One engine to compile: its file name, the budget whose graph it is made of, its capacity, its profiles."""

    file: str
    budget: str
    capacity: int
    profiles: tuple[Profile, ...]


def profiles(
    bundle: Bundle,
    layout: str,
    limits: Limits,
    capacity: int,
    budgets: Sequence[Budget] | None = None,
    dtype: str = "fp16",
) -> list[Profile]:
    """One profile per budget and phase, in the order of `budgets` (by default all that `served` says)."""
    found = []
    a, candidates, quantization = bundle.architecture, bundle.candidates, bundle.quantization.get(dtype)
    for budget in served(bundle, layout) if budgets is None else budgets:
        for phase in PHASES:
            longest = min(limits.max_length, capacity) if phase == "prefill" else 1
            steps = (
                StepShape(1, 1, capacity, 1),
                StepShape(1, min(longest, TYPICAL_PREFILL), capacity, 1),
                StepShape(limits.max_batch, longest, capacity, limits.max_batch),
            )
            low, typical, high = (
                input_shapes(layout, a, candidates, budget, step, bundle.targets, quantization) for step in steps
            )
            found.append(Profile(budget.name, phase, {n: (low[n], typical[n], high[n]) for n in low}))
    return found


def served(bundle: Bundle, layout: str) -> tuple[Budget, ...]:
    """The budgets that need profiles of their own: all, or for a router, whose shapes are the same, one: `routed`."""
    if layout == ROUTED:
        return (replace(bundle.budgets_of(ROUTED)[0], name=ROUTED),)
    return bundle.budgets


def plan_specs(bundle: Bundle, layout: str, limits: Limits, dtype: str = "fp16") -> list[PlanSpec]:
    """The engines of a layout: one per capacity, and for `per-budget` and `separate` one per budget and capacity."""
    specs = []
    for capacity in limits.capacities:
        if layout == "per-budget" or limits.separate:
            for budget in bundle.budgets:
                name = f"{budget.name}.{capacity}.plan"
                chosen = tuple(profiles(bundle, layout, limits, capacity, [budget], dtype))
                specs.append(PlanSpec(name, budget.name, capacity, chosen))
        else:
            chosen = tuple(profiles(bundle, layout, limits, capacity, dtype=dtype))
            specs.append(PlanSpec(f"{capacity}.plan", chosen[0].budget, capacity, chosen))
    return specs
