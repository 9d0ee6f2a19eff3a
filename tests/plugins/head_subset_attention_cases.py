"""Test vectors of HeadSubsetAttention: `vectors/head_subset_attention.npz`, made by running this file.

Every implementation passes the same cases in every storage type: inputs are multiples of 1/4 below 2, exact in
float32, float16 and bfloat16. In the file they are int8 in that unit, outputs int16 in units of 2**-12. Cache slots
that were never written hold NaN: no implementation may look at them.
"""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np

from flextron_export.graph.operators.head_subset_attention import head_subset_attention

VECTORS = Path(__file__).parent / "vectors" / "head_subset_attention.npz"
UNIT = 4
LEVELS = 7
OUTPUT_UNIT = 2**12
TENSORS = ("query", "key", "value", "key_cache", "value_cache", "cosine", "sine", "output")


@dataclass(frozen=True)
class Case:
    name: str
    groups: int = 2
    heads_per_group: int = 2
    head_dim: int = 64
    capacity: int = 40
    past: tuple[int, ...] = (0,)  # one per sequence
    length: int = 1
    active: list = field(default_factory=lambda: [2])  # [1], [B] or [B][S]
    window: int = 0
    rotary: bool = False
    scale: float = 0.0


CASES = (
    Case("decode", past=(9,)),
    Case("decode, first token"),
    Case("decode, no group", past=(9,), active=[0]),
    Case("decode, one group of two", past=(9,), active=[1]),
    Case("decode, more groups than there are", past=(9,), active=[7]),
    Case("decode, unequal pasts, n per sequence", past=(3, 39, 17), active=[1, 2, 0]),
    Case("decode, split over the sequence", capacity=200, past=(199,), groups=1, heads_per_group=1, active=[1]),
    Case("decode, split, short sequence", capacity=200, past=(70,), groups=1, heads_per_group=4, active=[1]),
    Case("decode, split, window", capacity=200, past=(195, 20), groups=1, active=[1], window=120),
    Case("decode, cache full to the last slot", capacity=33, past=(32,)),
    Case("decode, window", past=(30, 2), window=5, active=[2]),
    Case("decode, rotary", past=(9,), rotary=True, active=[1]),
    Case("decode, head_dim 96", head_dim=96, past=(21,), rotary=True),
    Case("decode, head_dim 128", head_dim=128, past=(21,), rotary=True),
    Case("decode, head_dim 256", head_dim=256, past=(21,), groups=1, active=[1]),
    Case("decode, 3 heads per group", past=(9,), heads_per_group=3),
    Case("decode, 5 heads per group", past=(9,), heads_per_group=5, groups=1, active=[1]),
    Case("decode, 9 heads per group", past=(9,), heads_per_group=9, groups=1, active=[1]),
    Case("decode, scale", past=(9,), scale=0.5),
    Case("short chunk, n per token", past=(5, 20), length=3, active=[[0, 1, 2], [2, 0, 1]], rotary=True),
    Case("prefill", length=17, heads_per_group=1),
    Case("prefill, n per token", length=16, active=[[0, 1, 2, 1] * 4], heads_per_group=1, rotary=True),
    Case("prefill, no group", length=16, heads_per_group=1, active=[0]),
    Case("prefill, chunk behind a past", capacity=100, past=(70,), length=17, groups=1, active=[1]),
    Case("prefill, unequal pasts", capacity=64, past=(0, 40), length=16, groups=1, active=[1, 1]),
    Case("prefill, window", capacity=100, past=(75,), length=17, groups=1, heads_per_group=1, active=[1], window=9),
    Case("prefill, head_dim 96", length=16, groups=1, heads_per_group=1, head_dim=96, active=[1], rotary=True),
    Case("prefill, head_dim 128", length=16, groups=1, heads_per_group=1, head_dim=128, active=[1]),
    Case("prefill, head_dim 256", length=16, groups=1, heads_per_group=1, head_dim=256, active=[1]),
)


def shapes(case: Case) -> dict[str, tuple[int, ...]]:
    """Shape of every array of a case."""
    batch, length, heads = len(case.past), case.length, case.groups * case.heads_per_group
    new = (batch, length, case.groups, case.head_dim)
    cache = (batch, case.groups, case.capacity, case.head_dim)
    table = {"cosine": (batch, length, case.head_dim // 2), "sine": (batch, length, case.head_dim // 2)}
    return {
        "query": (batch, length, heads, case.head_dim), "key": new, "value": new, "key_cache": cache,
        "value_cache": cache, **(table if case.rotary else {}), "output": (batch, length, heads, case.head_dim),
    }  # fmt: skip


def inputs(case: Case, tensors: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """`tensors` with the integer inputs, and NaN in every slot that is not written yet."""
    past = np.array(case.past, np.int64)
    data = {name: array.astype(np.float32) for name, array in tensors.items()}
    for b in range(len(past)):
        for name in ("key_cache", "value_cache"):
            data[name][b, :, past[b] :] = np.nan
    return {
        **data,
        "positions": past[:, None] + np.arange(case.length),
        "write": past,
        "active_groups": np.array(case.active, np.int32),
    }


def load() -> dict[str, tuple[Case, dict[str, np.ndarray]]]:
    """Name -> case, and its arrays with the expected output, from the checked-in file."""
    found = {}
    with np.load(VECTORS) as archive:
        flat = {name: archive[name] / (OUTPUT_UNIT if name == "output" else UNIT) for name in TENSORS}
        cases = [Case(**fields) for fields in json.loads(str(archive["cases"]))]
    for case in cases:
        tensors = {}
        for name, shape in shapes(case).items():
            tensors[name], flat[name] = flat[name][: math.prod(shape)].reshape(shape), flat[name][math.prod(shape) :]
        found[case.name] = (case, inputs(case, tensors))
    return found


def main() -> None:
    """Write the file. Each array of it holds one tensor of all cases, one after another."""
    draw = np.random.default_rng(0)
    flat: dict[str, list[np.ndarray]] = {name: [] for name in TENSORS}
    for case in CASES:
        # Rotary tables hold any factors; they need not lie on a circle.
        levels = {"cosine": UNIT, "sine": UNIT}
        integers = {
            name: draw.integers(-levels.get(name, LEVELS), levels.get(name, LEVELS) + 1, shape).astype(np.int8)
            for name, shape in shapes(case).items() if name != "output"
        }  # fmt: skip
        for name in ("key_cache", "value_cache"):
            for b, past in enumerate(case.past):
                integers[name][b, :, past:] = 0
        data = inputs(case, {name: array / UNIT for name, array in integers.items()})
        output, _, _ = head_subset_attention(**data, window=case.window, scale=case.scale)
        integers["output"] = np.rint(output * OUTPUT_UNIT).astype(np.int16)
        for name, array in integers.items():
            flat[name].append(array.ravel())
    VECTORS.parent.mkdir(exist_ok=True)
    cases = np.array(json.dumps([asdict(case) for case in CASES]))
    arrays = {name: np.concatenate(parts) for name, parts in flat.items()}
    np.savez_compressed(VECTORS, cases=cases, **arrays)  # type: ignore[arg-type]
    print(f"{len(CASES)} cases, {VECTORS.stat().st_size} bytes")


if __name__ == "__main__":
    main()
