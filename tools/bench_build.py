"""How far the estimates of `build --target-device` are from real builds: sizes of engines, peak memory of the builder.

    python tools/bench_build.py [--shape 125m] [--budgets 4] [--layout shared] [--directory DIR]

Random fp16 weights of a Llama shape are exported without verification and compiled by TensorRT-RTX on the CPU, each
layout in a process of its own. Sizes and peak memory do not depend on how busy the machine is.
"""

from __future__ import annotations

import argparse
import multiprocessing
import resource
import sys
import tempfile
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from flextron_export.bundle.manifest import Bundle
from flextron_export.errors import FlextronError
from flextron_export.exporting import export
from flextron_export.targets import get_target
from flextron_export.targets._tensorrt.memory import estimate
from flextron_export.targets._tensorrt.profiles import Limits
from tools.bench_export import SHAPES
from tools.random_checkpoint import write_random_checkpoint

CAPACITY = 1024
LAYOUTS = ("shared", "per-budget", "panels")


def _build(path: str, layout: str) -> tuple[int, int]:
    """Bytes of the engines, and of this process at its peak."""
    bundle = Bundle.open(path, hashes=False)
    record: dict[str, Any] = get_target("tensorrt-rtx").build(
        bundle, layout=layout, dtype="fp16", sm=(89,), capacity=CAPACITY
    )
    return sum(plan["bytes"] for plan in record["plans"]), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=SHAPES, default="125m")
    parser.add_argument("--budgets", type=int, default=4, help="how many of the uniform budgets, widest first")
    parser.add_argument("--layout", action="append", choices=LAYOUTS, help="all by default")
    parser.add_argument("--directory", type=Path, default=Path(tempfile.gettempdir()), help="where there is room")
    options = parser.parse_args()
    layouts = options.layout or LAYOUTS
    with tempfile.TemporaryDirectory(dir=options.directory) as directory:
        root = Path(directory)
        checkpoint = write_random_checkpoint(root / "checkpoint", **SHAPES[options.shape], dtype="F16")
        names = [b.name for b in checkpoint.budgets][: options.budgets]
        bundle = export(checkpoint.path, root / "bundle", layouts=layouts, dtypes=["fp16"], budgets=names, verify=False)
        print(f"{options.shape}, {len(names)} budgets: MB estimated, observed, difference")
        for layout in layouts:
            expected = estimate(bundle, layout, "fp16", Limits.choose(bundle, layout, CAPACITY), on_device=False)
            with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
                engines, peak = pool.submit(_build, str(bundle.path), layout).result()
            for what, guess, found in (
                ("engines", expected.engines, engines),
                ("building", expected.building.total, peak),
            ):
                print(f"{layout:10} {what:8} {guess / 1e6:9.1f} {found / 1e6:9.1f} {100 * (guess / found - 1):+6.1f} %")


if __name__ == "__main__":
    try:
        main()
    except FlextronError as error:
        sys.exit(str(error))
