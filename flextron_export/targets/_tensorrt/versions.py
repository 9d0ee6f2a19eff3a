"""What differs between releases of TensorRT and TensorRT-RTX: how graphs are lowered, known faults, switches.

Nothing else in this package asks for a version. The table of faults is shown in docs/tensorrt.md.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, Literal

Version = tuple[int, ...]
Lowering = Literal["native", "plugin"]

NATIVE: Lowering = "native"
"""Graphs go to the parser as they are: it knows Attention, TensorScatter, RotaryEmbedding and RMSNormalization."""
PLUGIN: Lowering = "plugin"
"""Attention and its cache are the plugin HeadSubsetAttention, the rest is opset 20."""

FIRST: dict[str, dict[Lowering, Version]] = {
    "tensorrt-rtx": {NATIVE: (1, 7)},
    "tensorrt": {PLUGIN: (10, 3), NATIVE: (10, 15)},
}
"""Target -> lowering -> first release for it. 10.3 is the first with plugins that update a cache in place; TensorRT-RTX
has no plugins."""

KNOWN_SM = (75, 80, 86, 87, 89, 90, 100, 103, 107, 110, 120, 121)
"""Compute capabilities that some release since 10.5 compiles for (support matrices up to 11.3)."""

HEAD_SIZES = (64, 96, 128, 256)
"""Head sizes that the plugin has kernels for."""


def version_numbers(version: str) -> Version:
    """(1, 7, 1, 116) of "1.7.1.116"."""
    return tuple(int(n) for n in re.findall(r"\d+", version))


def lowering_of(target: str, version: str) -> Lowering | None:
    """The lowering that a release takes, native if it can; None if it is too old for any."""
    numbers = version_numbers(version)
    for lowering in (NATIVE, PLUGIN):
        first = FIRST[target].get(lowering)
        if first is not None and numbers >= first:
            return lowering
    return None


@dataclass(frozen=True)
class Fault:
    """A known fault of some releases, and what is done about it.

    Attributes:
        id: short name; `engine.json` lists those that a build worked around.
        what: what goes wrong.
        workaround: what this package does.
        source: where it is reported, or how it was found.
        target: whose releases have it.
        first, until: the first release that has it (or that it was seen in), the first one without; None if there is
            none yet.
        sm: devices that have it; () stands for all.
        least_batch: profiles must take at least so many sequences.
        doubtful: layouts whose engines may be wrong; building one of them warns.
        always: graphs and checks avoid it whatever the release, so nothing is to be done when building.
    """

    id: str
    what: str
    workaround: str
    source: str
    target: str = "tensorrt"
    first: Version = (10, 3)
    until: Version | None = None
    sm: tuple[int, ...] = ()
    least_batch: int = 1
    doubtful: tuple[str, ...] = ()
    always: bool = False

    def concerns(self, target: str, version: str, sm: int | None) -> bool:
        """Whether a release has it on a device; None stands for a device that is not known."""
        numbers = version_numbers(version)
        there = self.first <= numbers and (self.until is None or numbers < self.until)
        return target == self.target and there and (not self.sm or sm is None or sm in self.sm)


FAULTS = (
    Fault(
        "fused-projections-batch-1",
        "linear layers with the same input (q, k, v; gate, up) are fused wrongly where profiles take one sequence only",
        "profiles take at least two sequences",
        "github.com/NVIDIA/TensorRT-Edge-LLM issues 105 and 151 (10.13.3.9, SM 110); its limitations page (10.15)",
        first=(10, 13),
        least_batch=2,
    ),
    Fault(
        "conditional-transpose",
        "tensors that come out of a conditional and are transposed can be wrong",
        "building a layout with conditionals (panels, routed) warns",
        "github.com/NVIDIA/TensorRT issue 4846 (11.1 and 11.2, seen with a Resize behind; SM 75 and 86)",
        first=(11, 1),
        doubtful=("panels", "routed"),
    ),
    Fault(
        "attention-of-primitives",
        "attention made of primitive operators is fused wrongly",
        "before 10.15 attention is our plugin, from 10.15 the library's own layer",
        "github.com/NVIDIA/TensorRT issue 4333 (10.7, L4)",
        until=(10, 15),
        always=True,
    ),
    Fault(
        "live-length-ignored",
        "Attention ignores its input `nonpad_kv_seqlen` without an error",
        "graphs give an explicit mask",
        "found by compiling with TensorRT-RTX 1.7.1, whose parser is the same",
        first=(10, 14),
        always=True,
    ),
    Fault(
        "causal-alignment",
        "`is_causal` is aligned to the first key where there are more keys than queries",
        "graphs give an explicit mask",
        "NvInfer.h of 11.0, which adds the choice",
        first=(10, 14),
        until=(11,),
        always=True,
    ),
    Fault(
        "attention-one-output",
        "Attention with outputs for its keys and values is refused",
        "graphs update caches by TensorScatter",
        "github.com/NVIDIA/TensorRT issue 4738 (10.16)",
        first=(10, 14),
        always=True,
    ),
    Fault(
        "attention-in-conditional",
        "Attention inside an `If` does not compile",
        "attention stays outside conditionals",
        "found by compiling with TensorRT-RTX 1.7.1",
        target="tensorrt-rtx",
        first=(1, 7),
        always=True,
    ),
    Fault(
        "few-query-heads",
        "attention of one token is refused where batch times query heads is below 4",
        "budgets with fewer than 4 query heads in a layer are refused",
        "found by compiling with TensorRT-RTX 1.7.1",
        target="tensorrt-rtx",
        first=(1, 7),
        always=True,
    ),
    Fault(
        "low-precision-flags",
        "precision flags are ignored, and an engine silently computes in fp32",
        "networks are strongly typed: precisions are those of the graph",
        "github.com/NVIDIA/TensorRT issue 4590 (10.13.3, SM 110)",
        until=(11,),
        always=True,
    ),
)


def faults(target: str, version: str, sm: int | None) -> tuple[Fault, ...]:
    """The faults a release has on a device that need something to be done when an engine is built."""
    return tuple(fault for fault in FAULTS if not fault.always and fault.concerns(target, version, sm))


def least_batch(target: str, version: str, sm: int | None) -> int:
    """How many sequences profiles must take at least."""
    return max((fault.least_batch for fault in faults(target, version, sm)), default=1)


def prepare(library: Any, config: Any, lowering: Lowering) -> None:
    """Switch on in a builder configuration what a lowering needs."""
    if lowering == PLUGIN:
        # Without it the plugin's cache outputs are buffers of their own, and every call copies the caches.
        config.set_preview_feature(library.PreviewFeature.ALIASED_PLUGIN_IO_10_03, True)
