"""Prove the kernels on the GPU at hand, in less than eight minutes.

    python -m tools.gpu_check OUT

Compiles the kernels with nvcc for this GPU, runs every test vector through the C ABI on torch's CUDA tensors (and again
under compute-sanitizer, if there is one), then times them against torch SDPA, cuBLAS and the measured copy bandwidth,
and builds and runs a bundle on every GPU target whose library is installed. Writes `gpu_check.json` and `gpu_check.png`
to OUT. Exits with 1 if a result is wrong; goals that are missed are reported and do not fail the check.
"""

from __future__ import annotations

import argparse
import datetime
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from flextron_export.errors import FlextronError

from .device import ROOT, build_kernels, compute_sanitizer, require_gpu
from .report import Timing, goals, write_report

LIMIT_SECONDS = 8 * 60
SANITIZER_SECONDS = 150


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("out", type=Path, help="directory for the report and the build")
    out: Path = parser.parse_args().out.resolve()
    began = time.monotonic()
    try:
        device = require_gpu()
        out.mkdir(parents=True, exist_ok=True)
        print(f"==> {device['gpu']}, compute capability {device['compute_capability']}", flush=True)
        library = build_kernels(out / "build", device["compute_capability"])
    except FlextronError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    # Here, because they import torch and need its GPU.
    from flextron_export.plugins import Plugins

    from .engine import GPU_TARGETS, make_bundle, run_target
    from .timings import all_timings, copy_bandwidth
    from .vectors import run_vectors

    plugins = Plugins(library)
    report: dict[str, Any] = {"date": datetime.date.today().isoformat(), "device": device}
    count, differences = run_vectors(plugins)
    report["vectors"] = {"cases": count, "differences": differences}
    print(f"==> vectors: {count} cases, {len(differences)} differences", *differences, sep="\n    ", flush=True)
    report["compute_sanitizer"] = _sanitize(library)
    print(f"==> compute-sanitizer: {report['compute_sanitizer']['state']}", flush=True)

    bandwidth = copy_bandwidth()
    timings: list[Timing] = []
    for timing in all_timings(plugins):
        timings.append(timing)
        print(f"    {timing.name}: {timing.milliseconds:.4f} ms", flush=True)
        if time.monotonic() - began > LIMIT_SECONDS - 90:
            report["cut_short"] = f"after {timing.name}"
            break
    for goal in goals(timings, bandwidth):
        sign = "at most" if goal.at_most else "at least"
        print(f"    {'met   ' if goal.met else 'MISSED'} {goal.name}: {goal.value:.2f}, {sign} {goal.limit}")
    sm, report["targets"] = (int(device["compute_capability"].replace(".", "")),), {}
    for target in GPU_TARGETS:
        report["targets"][target] = run_target(make_bundle(out / "engine"), target, sm)
        print(f"==> {target}: {report['targets'][target]}", flush=True)
    report["seconds"] = round(time.monotonic() - began)
    print(f"==> {write_report(out, report, timings, bandwidth)}, {report['seconds']} s")
    states = [report["compute_sanitizer"]["state"], *(found["state"] for found in report["targets"].values())]
    wrong = differences or "failed" in states
    return 1 if wrong else 0


def _sanitize(library: Path) -> dict[str, Any]:
    tool = compute_sanitizer()
    if tool is None:
        return {"state": "skipped", "reason": "compute-sanitizer was not found"}
    command = [tool, "--error-exitcode", "9", sys.executable, "-m", "tools.gpu_check.vectors", str(library)]
    environment = {**os.environ, "PYTORCH_NO_CUDA_MEMORY_CACHING": "1"}  # else an overrun stays inside torch's block
    try:
        done = subprocess.run(
            command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=SANITIZER_SECONDS
        )
    except subprocess.TimeoutExpired:
        return {"state": "skipped", "reason": f"not done after {SANITIZER_SECONDS} s"}
    if done.returncode == 0:
        return {"state": "passed"}
    return {"state": "failed", "reason": (done.stdout + done.stderr)[-4000:]}


if __name__ == "__main__":
    sys.exit(main())
