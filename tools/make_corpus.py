#!/usr/bin/env python3
"""Make calibration/text/kjv.txt.xz from Debian's packages of the King James Bible.

Needs Debian or a derivative on the processor of the packages' `bible` program, with libreadline8 installed.
Writes one line of running prose per chapter, chapters separated by a blank line. The same packages give the same bytes.
"""

from __future__ import annotations

import argparse
import lzma
import re
import subprocess
import tempfile
from itertools import groupby
from pathlib import Path

PACKAGES = ("bible-kjv-text", "bible-kjv")
OUTPUT = Path(__file__).resolve().parent.parent / "calibration/text/kjv.txt.xz"
CHAPTERS = 1189


def dump(directory: Path) -> str:
    """Download and unpack the packages into `directory`; return one verse per line, such as `Ge1:1 In the ...`."""
    subprocess.run(["apt-get", "download", *PACKAGES], cwd=directory, check=True)
    for package in directory.glob("*.deb"):
        subprocess.run(["dpkg", "-x", package, directory], check=True)
    # -f turns page layout off, -p says where the text is.
    command = [f"{directory}/usr/bin/bible", "-f", "-p", f"{directory}/usr/lib", "Gen1:1-Rev22:21"]
    return subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, check=True, text=True).stdout


def chapters(verses: str) -> list[str]:
    """Join the verses of each chapter into prose, without their numbers and with single spaces."""
    found = re.findall(r"^(\w+):\d+ (.*)$", verses, flags=re.MULTILINE)
    return [
        " ".join(" ".join(text for _, text in group).split()) for _, group in groupby(found, key=lambda verse: verse[0])
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=OUTPUT)
    output = parser.parse_args().output
    with tempfile.TemporaryDirectory() as directory:
        text = chapters(dump(Path(directory)))
    if len(text) != CHAPTERS:
        raise SystemExit(f"error: {len(text)} chapters instead of {CHAPTERS}: the program's output has changed")
    output.write_bytes(lzma.compress("\n\n".join(text).encode() + b"\n", preset=9 | lzma.PRESET_EXTREME))
    print(f"{output}: {len(text)} chapters, {sum(map(len, text)):,} characters, {output.stat().st_size:,} bytes packed")


if __name__ == "__main__":
    main()
