"""Test vectors of ElasticLinear and ElasticFeedForward: `vectors/elastic_linear.npz`, made by running this file.

Every implementation passes the same cases in every storage type: inputs are small multiples of a power of two, exact
in float32, float16 and bfloat16. In the file they are integers in that unit, outputs are float32. Elements of an input
beyond a token's d hold NaN where rows are inputs: no implementation may look at them.
"""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np

from flextron_export.graph.operators.elastic_linear import elastic_feed_forward, elastic_linear

VECTORS = Path(__file__).parent / "vectors" / "elastic_linear.npz"
LEVELS = 7
UNIT = 4
WEIGHT_UNIT = 32
SCALE_UNITS = {8: 2**11, 4: 2**7}
WEIGHTS = ("gate", "up", "down")
TENSORS = ("input", *WEIGHTS, "gate_scales", "up_scales", "down_scales", "gate_bias", "up_bias", "addend", "output")


@dataclass(frozen=True)
class Case:
    name: str
    operation: str = "feed_forward"  # or "outputs", "inputs"
    batch: int = 1
    length: int = 1
    hidden: int = 64
    rows: int = 48
    active: list = field(default_factory=lambda: [48])  # [1], [B] or [B][S]
    activation: str = "silu"
    bits: int = 0
    group: int = 0
    bias: bool = False
    addend: str = ""  # "token": a residual, "all": a bias


MIXED = [[0, 5, 200, 48, 17, 33, 1, 130, 136] * 2]

CASES = (
    Case("decode"),
    Case("decode, half of the rows", active=[24]),
    Case("decode, no row", active=[0], addend="token"),
    Case("decode, a negative number of rows", active=[-3]),
    Case("decode, more rows than there are", active=[1000]),
    Case("decode, an odd number of rows", active=[13], bias=True, addend="all"),
    Case("decode, residual", active=[31], addend="token"),
    Case("decode, gelu", active=[40], activation="gelu_tanh", bias=True),
    Case("decode, sum over several blocks", hidden=32, rows=200, active=[195], addend="token"),
    Case("decode, sum over several blocks, few rows", hidden=32, rows=200, active=[70]),
    Case("decode, wide", hidden=544, rows=8, active=[5], bias=True, addend="all"),
    Case("decode, d per sequence", batch=3, active=[48, 0, 20], addend="token"),
    Case("short chunk, d per token", batch=2, length=5, rows=136, active=[[0, 136, 8, 1, 90], [33, 2, 0, 64, 3]]),
    Case("decode, int8", bits=8, group=32, active=[29], bias=True, rows=64),
    Case("decode, int8, wide", bits=8, group=64, hidden=576, rows=64, active=[8], addend="token"),
    Case("decode, int4", bits=4, group=32, active=[29], addend="all", rows=64),
    Case("decode, int4, wide", bits=4, group=64, hidden=1088, rows=64, active=[7]),
    Case("short chunk, int4", batch=2, length=3, bits=4, group=32, rows=160, active=[[9, 136, 0], [2, 80, 44]]),
    Case("outputs", operation="outputs", active=[17]),
    Case("outputs, bias", operation="outputs", batch=2, active=[48, 3], bias=True),
    Case("outputs, int8", operation="outputs", bits=8, group=64, length=2, active=[40], bias=True),
    Case("outputs, int4", operation="outputs", bits=4, group=32, active=[40]),
    Case("inputs", operation="inputs", active=[17], addend="token"),
    Case("inputs, d per token", operation="inputs", batch=2, length=2, active=[[3, 48], [0, 29]], addend="all"),
    Case("inputs, int8", operation="inputs", bits=8, group=32, rows=224, active=[150], addend="token"),
    Case("inputs, int4", operation="inputs", bits=4, group=64, length=3, active=[40], rows=64),
    Case("prefill", length=16, active=[40], addend="token"),
    Case("prefill, no row", length=17, active=[0], addend="all"),
    Case("prefill, d per token", length=18, rows=136, active=MIXED, bias=True, addend="token"),
    Case("prefill, sequences", batch=2, length=20, active=[48, 11], activation="gelu_tanh"),
    Case("prefill, many tokens and columns", length=66, hidden=160, rows=72, active=[69], addend="token"),
    Case("prefill, several large tiles", batch=3, length=50, hidden=32, rows=72, active=[72, 0, 37]),
    Case("prefill, int8", length=16, bits=8, group=32, active=[39], bias=True, rows=64),
    Case("prefill, int4", length=66, bits=4, group=64, active=[39], addend="token", rows=64),
    Case("prefill, outputs", operation="outputs", length=18, rows=136, active=MIXED, bias=True),
    Case("prefill, outputs, int4", operation="outputs", length=16, bits=4, group=32, active=[33]),
    Case("prefill, inputs", operation="inputs", length=18, rows=136, active=MIXED, addend="token"),
    Case("prefill, inputs, sum over several blocks", operation="inputs", length=20, hidden=32, rows=264, active=[250]),
    Case("prefill, inputs, int8", operation="inputs", length=16, bits=8, group=32, active=[33], addend="all", rows=64),
)


def shapes(case: Case) -> dict[str, tuple[int, ...]]:
    """Shape of every array of a case, by its name in the parameter struct."""
    tokens = (case.batch, case.length)
    used = {"outputs": ("up",), "inputs": ("down",), "feed_forward": WEIGHTS}[case.operation]
    found: dict[str, tuple[int, ...]] = {"input": (*tokens, case.rows if case.operation == "inputs" else case.hidden)}
    for name in used:
        found[name] = (case.rows, case.hidden // 2 if case.bits == 4 else case.hidden)
        if case.bits:
            down = name == "down"  # groups of rows, else of neighbours in a row
            found[f"{name}_scales"] = (
                (case.rows // case.group, case.hidden) if down else (case.rows, case.hidden // case.group)
            )
        if case.bias and name != "down":
            found[f"{name}_bias"] = (case.rows,)
    if case.addend:
        found["addend"] = (*tokens, case.hidden) if case.addend == "token" else (case.hidden,)
    found["output"] = (*tokens, case.rows if case.operation == "outputs" else case.hidden)
    return found


def draw(case: Case, source: np.random.Generator) -> dict[str, np.ndarray]:
    """Random inputs of a case, as the integers of the file."""
    integers = {}
    for name, shape in shapes(case).items():
        low, high = (1, LEVELS) if name.endswith("_scales") else (-LEVELS, LEVELS)
        if name in WEIGHTS and case.bits:
            low, high = -128, 127  # every byte is a value, or two of four bits
        if name != "output":
            integers[name] = source.integers(low, high + 1, shape).astype(np.int8)
    return integers


def inputs(case: Case, integers: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The inputs: floating point is float32, integer weights as the operator takes them, NaN where nobody may look."""
    data: dict[str, np.ndarray] = {"active_rows": np.array(case.active, np.int32)}
    for name, array in integers.items():
        if name in WEIGHTS and case.bits:
            data[name] = array if case.bits == 8 else array.view(np.uint8)
        else:
            unit = SCALE_UNITS[case.bits] if name.endswith("_scales") else WEIGHT_UNIT if name in WEIGHTS else UNIT
            data[name] = (array / unit).astype(np.float32)
    if case.operation == "inputs":
        active = data["active_rows"] if data["active_rows"].ndim == 2 else data["active_rows"][:, None]
        dead = np.arange(case.rows) >= np.broadcast_to(active, (case.batch, case.length))[:, :, None]
        data["input"][dead] = np.nan
    return data


def reference(case: Case, data: dict[str, np.ndarray]) -> np.ndarray:
    """What the definition gives for a case."""
    if case.operation == "feed_forward":
        arguments = {name: x for name, x in data.items() if name != "output"}
        return elastic_feed_forward(**arguments, activation=case.activation, bits=case.bits)
    weight = "up" if case.operation == "outputs" else "down"
    return elastic_linear(
        data["input"], data[weight], data["active_rows"], data.get(f"{weight}_scales"), data.get("up_bias"),
        data.get("addend"), elastic=case.operation, bits=case.bits,
    )  # fmt: skip


def load() -> dict[str, tuple[Case, dict[str, np.ndarray]]]:
    """Name -> case, and its arrays with the expected output, from the checked-in file."""
    found = {}
    with np.load(VECTORS) as archive:
        flat = {name: archive[name] for name in TENSORS}
        cases = [Case(**fields) for fields in json.loads(str(archive["cases"]))]
    for case in cases:
        tensors = {}
        for name, shape in shapes(case).items():
            tensors[name], flat[name] = flat[name][: math.prod(shape)].reshape(shape), flat[name][math.prod(shape) :]
        output = tensors.pop("output")
        found[case.name] = (case, {**inputs(case, tensors), "output": output})
    return found


def main() -> None:
    """Write the file. Each array of it holds one tensor of all cases, one after another."""
    source = np.random.default_rng(0)
    flat: dict[str, list[np.ndarray]] = {name: [] for name in TENSORS}
    for case in CASES:
        integers = draw(case, source)
        output = reference(case, inputs(case, integers)).astype(np.float32)
        for name, array in {**integers, "output": output}.items():
            flat[name].append(array.ravel())
    cases = np.array(json.dumps([asdict(case) for case in CASES]))
    arrays = {name: np.concatenate(parts) for name, parts in flat.items()}
    np.savez_compressed(VECTORS, cases=cases, **arrays)  # type: ignore[arg-type]
    print(f"{len(CASES)} cases, {VECTORS.stat().st_size} bytes")


if __name__ == "__main__":
    main()
