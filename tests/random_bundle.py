"""A bundle with random weights and a byte tokenizer, made in a second without torch: for tests of what runs bundles."""

import json
from pathlib import Path
from typing import Any

from flextron_export.bundle.manifest import MARKER, seal
from flextron_export.exporting import export
from flextron_export.training.data import save_tokenizer
from flextron_export.training.tiny import byte_tokenizer
from tools.random_checkpoint import write_random_checkpoint

MAX_POSITIONS = 200
SHAPE = {"layers": 2, "hidden": 64, "heads": 8, "kv_heads": 4, "ffn": 128, "vocab": 257}


def random_checkpoint(out: Path) -> Path:
    """Budgets full, p75, p59 and p34, without validation losses."""
    write_random_checkpoint(out, **SHAPE, max_positions=MAX_POSITIONS)
    save_tokenizer(byte_tokenizer(), out)
    return out


def random_bundle(directory: Path, **options) -> Path:
    """Export such a checkpoint to `directory / "bundle"`; `options` are those of `export`."""
    export(random_checkpoint(directory / "checkpoint"), directory / "bundle", dtypes=("fp32",), verify=False, **options)
    return directory / "bundle"


def write_manifest(bundle: Path, value: dict[str, Any]) -> None:
    """Another manifest for a bundle, with its seal."""
    (bundle / MARKER).write_text(json.dumps(value))
    seal(bundle)
