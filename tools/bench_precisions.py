"""What rounding costs: perplexity of every budget in every precision, on the text that training held out.

    python tools/bench_precisions.py CKPT [--text FILE] [--tokens 16384] [--json FILE]

The checkpoint is exported in every precision but bf16, which ONNX Runtime does not compute in, and scored there.
Printed are perplexities, their ratio to that of fp32, and megabytes of the weights that the full model reads.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from flextron_export.bundle.manifest import Bundle
from flextron_export.bundle.memory import weight_bytes
from flextron_export.cli.common import print_table, track
from flextron_export.elastic.checkpoint import ElasticCheckpoint
from flextron_export.errors import FlextronError
from flextron_export.evaluation.perplexity import LENGTH, Text, perplexity
from flextron_export.evaluation.subject import open_subject
from flextron_export.exporting import export
from flextron_export.graph.contract import DTYPES
from flextron_export.training.checkpoint_text import checkpoint_text

TEXT = Path(__file__).resolve().parents[1] / "calibration" / "text" / "kjv.txt.xz"


def measure(checkpoint: ElasticCheckpoint, text: Text, directory: Path) -> dict[str, dict[str, dict[str, float]]]:
    """precision -> budget -> perplexity and bytes."""
    found: dict[str, dict[str, dict[str, float]]] = {}
    for dtype in track([name for name in DTYPES if name != "bf16"], "scoring"):
        out = directory / dtype
        bundle: Bundle = export(checkpoint.path, out, layouts=["per-budget"], dtypes=[dtype], verify=False)
        subject = open_subject(bundle.path, layout="per-budget", dtype=dtype, threads=1, hashes=False)
        found[dtype] = {
            budget.name: {
                "perplexity": perplexity(subject, budget, text).perplexity,
                "weight_bytes": weight_bytes(bundle, dtype, budget),
            }
            for budget in bundle.budgets
        }
        subject.close()
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--text", type=Path, default=TEXT, help="what the checkpoint was trained on")
    parser.add_argument("--tokens", type=int, default=16384, help="tokens of the held-out part to predict")
    parser.add_argument("--json", type=Path, help="write the numbers to this file")
    options = parser.parse_args()
    checkpoint = ElasticCheckpoint.open(options.checkpoint)
    length = min(LENGTH, checkpoint.architecture.max_positions)
    with tempfile.TemporaryDirectory() as directory:
        tokens = checkpoint_text(checkpoint, [options.text], Path(directory) / "tokens", length=length)
        held_out = np.asarray(tokens.validation, np.int32).ravel()[: options.tokens + 1]
        found = measure(checkpoint, Text(held_out, len(held_out), length, length), Path(directory))
    exact = found["fp32"]
    rows = [
        [
            dtype,
            *(f"{v['perplexity']:.3f} ({v['perplexity'] / exact[name]['perplexity']:.4f}x)" for name, v in of.items()),
            f"{of[checkpoint.budgets[0].name]['weight_bytes'] / 1e6:.1f}",
        ]
        for dtype, of in found.items()
    ]
    title = f"perplexity of {len(held_out) - 1:,} tokens held out, and its ratio to fp32"
    print_table(title, ["precision", *(b.name for b in checkpoint.budgets), "MB, full"], rows)
    if options.json:
        options.json.write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    try:
        main()
    except FlextronError as error:
        sys.exit(str(error))
