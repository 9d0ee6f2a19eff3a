#!/usr/bin/env python3
"""Make the local tasks in calibration/tasks from the text in calibration/text.

Only chapters that `elastify` and the demo hold out with their default seed are used. The same text gives the same
bytes.

`last_word.jsonl`: passages whose last word occurs earlier in them, as in LAMBADA (Paperno et al., arXiv 1606.06031).
`continuation.jsonl`: two sentences and four that might follow, one of which does; the others come from other chapters,
begin with the same kind of letter, and have like length.
"""

from __future__ import annotations

import argparse
import json
import random
import re
from collections.abc import Iterator
from pathlib import Path

from flextron_export.files import write_text
from flextron_export.training.corpus import read_text, split

ROOT = Path(__file__).resolve().parent.parent
TEXT = ROOT / "calibration/text/kjv.txt.xz"
OUT = ROOT / "calibration/tasks"
ITEMS = 200
PASSAGE = 35
"""Words that a passage has at least."""


def sentences(document: str) -> list[str]:
    """Sentences of a document, each with its final mark."""
    return [s.strip() for s in re.findall(r"[^.?!]+[.?!]", document)]


def last_words(documents: list[list[str]]) -> Iterator[dict[str, str]]:
    """At most six passages of every document."""
    for document in documents:
        passage: list[str] = []
        found = 0
        for sentence in document:
            passage += sentence.split()
            if len(passage) < PASSAGE:
                continue
            *before, last = passage
            word = last.strip(".?!,;:()'")
            known = {w.strip(".?!,;:()'").lower() for w in before}
            if len(word) >= 4 and word.isalpha() and word.islower() and word in known and found < 6:
                found += 1
                yield {"context": " ".join(before), "word": word}
            passage = []


def continuations(documents: list[list[str]], draw: random.Random) -> Iterator[dict[str, object]]:
    """One question from every document that has one, then a second from each, and so on."""
    pool = [(d, s) for d, document in enumerate(documents) for s in document if 8 <= len(s.split()) <= 30]
    for start in range(0, 40, 5):
        for d, document in enumerate(documents):
            if len(document) < start + 3:
                continue
            first, second, right = document[start : start + 3]
            if not 8 <= len(right.split()) <= 30:
                continue
            like = [
                s
                for other, s in pool
                if other != d and abs(len(s) - len(right)) <= len(right) // 5 and s[0].isupper() == right[0].isupper()
            ]
            if len(like) < 3:
                continue
            choices = [right, *draw.sample(like, 3)]
            draw.shuffle(choices)
            yield {"context": f"{first} {second}", "choices": choices, "label": choices.index(right)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=OUT)
    output = parser.parse_args().output
    documents = [sentences(d) for d in split(read_text([TEXT]))[1]]
    for name, items in (
        ("last_word", last_words(documents)),
        ("continuation", continuations(documents, random.Random(0))),
    ):
        chosen = [item for item, _ in zip(items, range(ITEMS), strict=False)]
        path = output / f"{name}.jsonl"
        write_text(path, "".join(json.dumps(item) + "\n" for item in chosen))
        print(f"{path}: {len(chosen)} items, {path.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
