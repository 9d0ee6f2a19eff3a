"""Where a TensorRT engine departs from ONNX Runtime, tensor by tensor, with Polygraphy.

    python tools/compare_tensors.py BUNDLE [--target tensorrt-rtx] [--layout shared] [--budget NAME] [--tokens 8]
                                    [--outputs all] [--compile-only SM]

Compiles one budget's graph with the tensors that are named (`all`: every one that a node of the graph makes) as further
outputs, runs it and ONNX Runtime's CPU on the same prompt, and prints the largest difference of each tensor in the
order of the graph, so that the first large one shows where to look. Further outputs keep TensorRT from fusing, so a
fault that comes from a fusion may vanish with `all`: then name fewer. Needs a GPU, but for `--compile-only 89`, which
compiles for that compute capability.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from flextron_export.bundle.manifest import Bundle, weights_file
from flextron_export.elastic.router import FILE as ROUTER_FILE
from flextron_export.elastic.safetensors import numpy_dtype
from flextron_export.elastic.widths import Budget
from flextron_export.errors import FlextronError, InputError
from flextron_export.graph.contract import DTYPES, cache_shapes, choices, weight_shapes
from flextron_export.targets._onnxruntime.loading import load_graph
from flextron_export.targets._tensorrt.builder import static_graph
from flextron_export.targets._tensorrt.profiles import Limits, profiles

DTYPE = "fp16"
CAPACITY = 64


def feed(bundle: Bundle, layout: str, budget: Budget, tokens: int) -> dict[str, np.ndarray]:
    """Every input of a call with one prompt of random tokens."""
    a, one = bundle.architecture, np.zeros(1, np.int64)
    weights = bundle.weights(DTYPE)
    shapes = weight_shapes(a, budget) if layout == "shared" else {}
    return {
        "ids": np.random.default_rng(0).integers(0, a.vocab_size, (1, tokens)),
        "positions": np.arange(tokens)[None],
        "write": one,
        "rows": one + tokens - 1,
        **{
            name: np.zeros(shape, numpy_dtype(DTYPES[DTYPE]))
            for name, shape in cache_shapes(a, budget, 1, CAPACITY).items()
        },
        **choices(layout, bundle.candidates, budget, 1, bundle.targets),
        **{name: np.array(weights[name][: shape[0]]) for name, shape in shapes.items()},
    }


def read_graph(bundle: Bundle, layout: str, budget: Budget, outputs: list[str]) -> tuple[Any, list[str]]:
    """The graph (an `onnx.ModelProto`) with the cache's capacity as a number, and the names of further outputs."""
    import onnx

    model = onnx.load_from_string(static_graph(bundle.graph(layout, DTYPE, budget.name), bundle.architecture, CAPACITY))
    there = {value.name for value in model.graph.output}
    made = [name for node in model.graph.node for name in node.output if name and name not in there]
    if unknown := [name for name in outputs if name != "all" and name not in made]:
        raise InputError(f"The graph makes no tensor {unknown[0]!r}.", fix="use --outputs all to see their names")
    return model, made if outputs == ["all"] else outputs


def loaders(
    model: Any, outputs: list[str], bundle: Bundle, layout: str, budget: Budget, directory: Path, sm: int | None
) -> tuple[Any, Any]:
    """Polygraphy's loaders of the network, and of the builder's settings."""
    from polygraphy.backend.trt import CreateConfig, ModifyNetworkOutputs, NetworkFromOnnxPath, Profile

    # Weights are ranges of a file that the parser looks for beside the graph.
    for name in (weights_file(DTYPE), ROUTER_FILE):
        if (bundle.path / name).exists():
            (directory / name).symlink_to((bundle.path / name).resolve())
    path = directory / "graph.onnx"
    path.write_bytes(model.SerializeToString())
    (decode, prefill) = profiles(bundle, layout, Limits((CAPACITY,), 1, CAPACITY), CAPACITY, [budget])
    profile = Profile()
    for name, (low, _, _) in decode.shapes.items():
        _, typical, high = prefill.shapes[name]
        profile.add(name, low, typical, high)
    if sm is None:
        config = CreateConfig(profiles=[profile])
    else:
        from polygraphy.backend.tensorrt_rtx import CreateConfigRTX

        config = CreateConfigRTX(profiles=[profile], compute_capabilities=[divmod(sm, 10)])
    network = NetworkFromOnnxPath(str(path), strongly_typed=True)
    names = [value.name for value in model.graph.output]
    return (ModifyNetworkOutputs(network, outputs=[*names, *outputs]) if outputs else network), config


def compare(
    model: Any, outputs: list[str], bundle: Bundle, inputs: dict[str, np.ndarray], network: Any, config: Any
) -> list[tuple[str, float, float]]:
    """(name, largest difference, largest absolute value) of every output, further ones in the order of the graph."""
    import onnx
    from polygraphy.backend.onnxrt import OnnxrtRunner
    from polygraphy.backend.trt import EngineFromNetwork, TrtRunner
    from polygraphy.comparator import Comparator

    for name in outputs:
        model.graph.output.append(onnx.ValueInfoProto(name=name))
    runners = [
        OnnxrtRunner(lambda: load_graph(bundle, model.SerializeToString(), threads=1)),
        TrtRunner(EngineFromNetwork(network, config)),
    ]
    return differences(Comparator.run(runners, data_loader=[inputs]))


def differences(results: Any) -> list[tuple[str, float, float]]:
    """Of the first iteration of two runners."""
    (_, (expected, *_)), (_, (found, *_)) = results.items()
    rows = []
    for name in expected:
        a, b = (np.asarray(values[name], np.float64) for values in (expected, found))
        apart = float(np.nan_to_num(np.abs(a - b), nan=np.inf).max(initial=0))
        rows.append((name, apart, float(np.abs(a).max(initial=0))))
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--target", choices=("tensorrt-rtx", "tensorrt"), default="tensorrt-rtx")
    parser.add_argument("--layout", default="shared")
    parser.add_argument("--budget", help="the first by default")
    parser.add_argument("--tokens", type=int, default=8)
    parser.add_argument("--outputs", default="", help="names of tensors, with commas, or all")
    parser.add_argument("--compile-only", type=int, metavar="SM")
    options = parser.parse_args()
    # Polygraphy decides by this, when it is imported, which of the two libraries it means.
    os.environ["POLYGRAPHY_USE_TENSORRT_RTX"] = str(int(options.target == "tensorrt-rtx"))
    bundle = Bundle.open(options.bundle)
    known = bundle.budgets_of(options.layout)
    budget = bundle.budget(options.budget, options.layout) if options.budget else known[0]
    outputs = [name for name in options.outputs.split(",") if name]
    model, outputs = read_graph(bundle, options.layout, budget, outputs)
    with tempfile.TemporaryDirectory() as directory:
        network, config = loaders(model, outputs, bundle, options.layout, budget, Path(directory), options.compile_only)
        if options.compile_only:
            from polygraphy.backend.trt import engine_bytes_from_network

            plan = engine_bytes_from_network(network, config)
            print(f"compiled for SM {options.compile_only}: {memoryview(plan).nbytes / 1e6:.1f} MB")
            return
        inputs = feed(bundle, options.layout, budget, options.tokens)
        for name, apart, largest in compare(model, outputs, bundle, inputs, network, config):
            print(f"{name:40} {apart:.2e} of {largest:.2e}")


if __name__ == "__main__":
    try:
        main()
    except FlextronError as error:
        sys.exit(str(error))
