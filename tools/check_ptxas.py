"""Run an nvcc command and read the report of `-Xptxas=-v`: fail on register spills, print the largest register counts.

    python tools/check_ptxas.py -- nvcc -arch=sm_87 -Xptxas=-v -c kernels.cu

A spilled register turns arithmetic into memory traffic; here it means that a tile is too large for its head size.
"""

from __future__ import annotations

import re
import subprocess
import sys

KERNEL = re.compile(r"Compiling entry function '(\w+)' for '(\w+)'")
SPILL = re.compile(r"(\d+) bytes spill stores, (\d+) bytes spill loads")
REGISTERS = re.compile(r"Used (\d+) registers")


def read(report: str) -> tuple[dict[str, int], list[str]]:
    """Kernel and architecture -> registers, and a line for each that spills."""
    registers, spills, current = {}, [], "?"
    for line in report.splitlines():
        if found := KERNEL.search(line):
            current = f"{found[2]} {found[1]}"
        elif (found := SPILL.search(line)) and any(int(n) for n in found.groups()):
            spills.append(f"{current}: {found[0]}")
        elif found := REGISTERS.search(line):
            registers[current] = int(found[1])
    return registers, spills


def main() -> int:
    command = sys.argv[sys.argv.index("--") + 1 :]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    registers, spills = read(done.stdout)
    if done.returncode or not registers:
        print(done.stdout, end="")
        return done.returncode
    for line in done.stdout.splitlines():
        if "warning" in line:
            print(line)
    print(f"{len(registers)} kernels, at most {max(registers.values())} registers, {len(spills)} spill")
    print("\n".join(spills), end="\n" if spills else "")
    return 1 if spills else 0


if __name__ == "__main__":
    sys.exit(main())
