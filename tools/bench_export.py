"""Export of a large model, and its engine: peak memory, time and sizes, each in a process of its own.

    python tools/bench_export.py [--shape 7b|1b|125m] [--layout shared] [--dtype fp16] [--build SM] [--directory DIR]
                                 [--json FILE]

Random fp16 weights of a Llama shape are written shard by shard, then exported without verification (no torch is
loaded). Time is split into writing the weights file and all the rest; a plain copy of as many bytes is timed too, as
the floor for the first. With `--build 89` TensorRT-RTX then compiles the engine for that compute capability: all
budgets, decoding and prefill, one capacity. With `--neighbours` the same checkpoint is exported by optimum-onnx and by
the builder of onnxruntime-genai, if they are installed; they write the full model alone, and load torch. Exits with 1
if a goal is missed.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import multiprocessing
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Collection, Iterable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from rich.console import Console
from rich.progress import track

from flextron_export.errors import FlextronError, InputError
from flextron_export.exporting import export
from flextron_export.targets.build import build
from flextron_export.training.data import save_tokenizer
from flextron_export.training.tiny import byte_tokenizer
from tools.random_checkpoint import write_random_checkpoint

SHAPES: dict[str, dict[str, Any]] = {
    "125m": {"layers": 12, "hidden": 768, "heads": 12, "kv_heads": 12, "ffn": 2048, "vocab": 32000},
    "1b": {"layers": 16, "hidden": 2048, "heads": 32, "kv_heads": 8, "ffn": 8192, "vocab": 128256, "tied": True},
    "7b": {"layers": 32, "hidden": 4096, "heads": 32, "kv_heads": 32, "ffn": 11008, "vocab": 32000},
}

CAPACITY = 1024
MEMORY_GOAL_MB, SECONDS_GOAL = 1000, 30
"""Of the export, besides writing the weights."""
BUILD_MEMORY_GOAL_MB, BUILD_SECONDS_GOAL = 2000, 60


def peak_mb() -> float:
    """Largest resident memory of this process (Linux). `getrusage` would count what its parent held at its start."""
    status = Path("/proc/self/status").read_text()
    return float(next(line.split()[1] for line in status.splitlines() if line.startswith("VmHWM:"))) * 1024 / 1e6


def _export(source: str, out: str, layout: str, dtype: str) -> dict[str, Any]:
    seconds = {"writing weights": 0.0}

    def timed(items: Collection[Any], description: str) -> Iterable[Any]:
        start = time.perf_counter()
        yield from track(items, description)
        kind = "writing weights" if description.startswith("writing") else description
        seconds[kind] = seconds.get(kind, 0.0) + time.perf_counter() - start

    start = time.perf_counter()
    export(source, out, layouts=[layout], dtypes=[dtype], verify=False, track=timed)
    seconds["all"] = time.perf_counter() - start
    seconds["processor"] = time.process_time()
    return {"seconds": seconds, "peak_mb": peak_mb()}


def _build(bundle: str, layout: str, dtype: str, sm: int) -> dict[str, Any]:
    start, processor = time.perf_counter(), time.process_time()
    record = build(bundle, "tensorrt-rtx", layout=layout, dtype=dtype, sm=(sm,), capacity=CAPACITY, track=track)
    return {
        "seconds": time.perf_counter() - start,
        "processor_seconds": time.process_time() - processor,
        "peak_mb": peak_mb(),
        "plan_mb": sum(plan["bytes"] for plan in record["plans"]) / 1e6,
        "profiles": sum(len(phases) for plan in record["plans"] for phases in plan["profiles"].values()),
    }


def alone(function: Callable[..., dict[str, Any]], *arguments: Any) -> dict[str, Any]:
    """Call it in a process of its own, so that its peak is the function's; if the process dies, this raises."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(function, *arguments).result()


def neighbours(checkpoint: Path, root: Path, dtype: str) -> dict[str, dict[str, float]]:
    """name -> seconds, peak memory and size of what is written."""
    commands = {
        "optimum": ["optimum.exporters.onnx", "--task", "text-generation-with-past", "--dtype", dtype, "--model"],
        "onnxruntime_genai": ["onnxruntime_genai.models.builder", "-p", dtype, "-e", "cpu", "-c", str(root), "-i"],
    }
    found = {}
    for name, words in commands.items():
        if importlib.util.find_spec(name) is None:
            continue
        out = root / name
        target = [str(checkpoint), *(["-o"] if name == "onnxruntime_genai" else []), str(out)]
        start = time.perf_counter()
        process = subprocess.Popen([sys.executable, "-m", *words, *target], stdout=subprocess.DEVNULL)
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:  # each wants a release of transformers of its own
            print(f"{name} ended with {process.returncode}; see its messages above")
            continue
        found[name] = {
            "seconds": time.perf_counter() - start,
            "processor_seconds": usage.ru_utime + usage.ru_stime,
            "peak_mb": usage.ru_maxrss / 1e3,
            "written_mb": sum(f.stat().st_size for f in out.rglob("*") if f.is_file()) / 1e6,
        }
        shutil.rmtree(out)
    return found


def copy_seconds(file: Path) -> float:
    """Seconds a plain copy of a file takes, flushed to disk as the export flushes its own."""
    start = time.perf_counter()
    with file.open("rb") as source, file.with_suffix(".copy").open("wb") as target:
        shutil.copyfileobj(source, target, 16 << 20)
        target.flush()
        os.fsync(target.fileno())
    seconds = time.perf_counter() - start
    file.with_suffix(".copy").unlink()
    return seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=SHAPES, default="7b")
    parser.add_argument("--layout", default="shared")
    parser.add_argument("--dtype", default="fp16")
    parser.add_argument("--build", type=int, metavar="SM", help="compile an engine too, for this compute capability")
    parser.add_argument("--neighbours", action="store_true", help="export with optimum-onnx and onnxruntime-genai too")
    parser.add_argument("--directory", type=Path, default=Path(tempfile.gettempdir()), help="where there is room")
    parser.add_argument("--json", type=Path, help="write the numbers to this file")
    options = parser.parse_args()
    shape = SHAPES[options.shape]
    parameters = shape["vocab"] * shape["hidden"] * 2 + shape["layers"] * shape["hidden"] * (
        4 * shape["hidden"] + 3 * shape["ffn"]
    )
    size = 4 if options.dtype == "fp32" else 2
    needed = parameters * max(2 + size, 2 * size) + (1 << 30)
    free = shutil.disk_usage(options.directory).free
    if free < needed:
        raise InputError(
            f"{needed / 1e9:.0f} GB of disk are needed, {free / 1e9:.0f} GB are free in {options.directory}.",
            fix="pass another --directory",
        )
    with tempfile.TemporaryDirectory(dir=options.directory) as directory:
        root = Path(directory)
        write_random_checkpoint(root / "checkpoint", **shape, dtype="F16", track=track)
        bundle = str(root / "bundle")
        result = alone(_export, str(root / "checkpoint"), bundle, options.layout, options.dtype)
        if options.neighbours:
            save_tokenizer(byte_tokenizer(), root / "checkpoint")  # they copy one
            result["neighbours"] = neighbours(root / "checkpoint", root, options.dtype)
        shutil.rmtree(root / "checkpoint")  # room for the copy
        weights = root / "bundle" / f"weights.{options.dtype}.safetensors"
        result.update(
            shape=options.shape, layout=options.layout, dtype=options.dtype, weights_gb=weights.stat().st_size / 1e9
        )
        result["graph_mb"] = sum(f.stat().st_size for f in (root / "bundle" / "graphs").iterdir()) / 1e6
        result["plain_copy_seconds"] = copy_seconds(weights)
        if options.build:
            result["engine"] = alone(_build, bundle, options.layout, options.dtype, options.build)
    seconds = result["seconds"]
    rest = seconds["all"] - seconds["writing weights"]
    lines = (
        f"{options.shape}, {options.layout}, {options.dtype}: {result['weights_gb']:.2f} GB of weights",
        f"peak memory {result['peak_mb']:.0f} MB, graph {result['graph_mb']:.2f} MB",
        f"writing weights {seconds['writing weights']:.1f} s (a plain copy: {result['plain_copy_seconds']:.1f} s)",
        f"all the rest {rest:.1f} s; processor time of the whole process {seconds['processor']:.1f} s",
    )
    Console().print("\n".join(lines), highlight=False)
    goals = [
        (f"peak memory at most {MEMORY_GOAL_MB} MB", result["peak_mb"] <= MEMORY_GOAL_MB),
        (f"at most {SECONDS_GOAL} s besides writing the weights", rest <= SECONDS_GOAL),
    ]
    for name, row in result.get("neighbours", {}).items():
        print(
            f"{name}: {row['seconds']:.1f} s ({row['processor_seconds']:.1f} s of processor time), peak memory "
            f"{row['peak_mb']:.0f} MB, {row['written_mb']:.0f} MB written"
        )
    if engine := result.get("engine"):
        text = (
            f"engine for SM {options.build}, {engine['profiles']} profiles: {engine['seconds']:.1f} s "
            f"({engine['processor_seconds']:.1f} s of processor time), peak memory {engine['peak_mb']:.0f} MB, "
            f"plan {engine['plan_mb']:.1f} MB"
        )
        Console().print(text, highlight=False)
        goals += [
            (f"engine: at most {BUILD_SECONDS_GOAL} s", engine["seconds"] <= BUILD_SECONDS_GOAL),
            (f"engine: at most {BUILD_MEMORY_GOAL_MB} MB", engine["peak_mb"] <= BUILD_MEMORY_GOAL_MB),
        ]
    for text, met in goals:
        print(f"{'met' if met else 'missed'}: {text}")
    if options.json:
        options.json.write_text(json.dumps(result, indent=1))
    sys.exit(0 if all(met for _, met in goals) else 1)


if __name__ == "__main__":
    try:
        main()
    except FlextronError as error:
        sys.exit(str(error))
