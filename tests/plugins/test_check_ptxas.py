"""The reader of register and spill reports."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

TOOL = Path(__file__).parents[2] / "tools" / "check_ptxas.py"
REPORT = """ptxas info    : Compiling entry function 'kernel' for 'sm_87'
ptxas info    : Function properties for kernel
    0 bytes stack frame, {spilled} bytes spill stores, {spilled} bytes spill loads
ptxas info    : Used 40 registers, used 0 barriers, 432 bytes cmem[0]
"""


def check(report: str, exit_code: int = 0) -> subprocess.CompletedProcess[str]:
    program = f"import sys; sys.stderr.write({report!r}); sys.exit({exit_code})"
    command = [sys.executable, str(TOOL), "--", sys.executable, "-c", program]
    return subprocess.run(command, capture_output=True, text=True)


def test_a_report_without_spills_passes() -> None:
    done = check(REPORT.format(spilled=0))
    assert (done.returncode, done.stdout) == (0, "1 kernels, at most 40 registers, 0 spill\n")


def test_a_spill_fails_and_is_named() -> None:
    done = check(REPORT.format(spilled=8))
    assert done.returncode == 1
    assert "sm_87 kernel: 8 bytes spill stores" in done.stdout


def test_a_failed_compilation_keeps_its_output_and_exit_code() -> None:
    done = check("error: no", exit_code=2)
    assert (done.returncode, done.stdout) == (2, "error: no")
