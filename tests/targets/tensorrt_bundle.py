"""A small fp16 bundle in every layout, with random weights: 2 layers, 4 KV groups of 4 heads of 16."""

from pathlib import Path

from flextron_export.bundle.manifest import Bundle
from flextron_export.exporting import export
from tools.random_checkpoint import write_random_checkpoint

SHAPE = {"layers": 2, "hidden": 256, "heads": 16, "kv_heads": 4, "ffn": 256, "vocab": 257}
MAX_POSITIONS = 512
BUDGETS = ("full", "p50")


def tensorrt_bundle(directory: Path, budgets: tuple[str, ...] = BUDGETS, **shape: int) -> Bundle:
    """Export such a checkpoint; `shape` replaces sizes of SHAPE."""
    source = write_random_checkpoint(directory / "checkpoint", **{**SHAPE, **shape}, max_positions=MAX_POSITIONS)
    export(source.path, directory / "bundle", dtypes=("fp16",), budgets=budgets, verify=False)
    return Bundle.open(directory / "bundle")
