"""The verb `import`: somebody else's nested model and its slicing table become an elastic checkpoint, untrained."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

from .elastic.architecture import Architecture, read_config
from .elastic.checkpoint import MARKER, ElasticCheckpoint, ModelWeights, copy_tokenizer
from .elastic.slices import budgets_of_slices, read_slices
from .elastic.tensors import tensor_specs
from .files import check_space, new_directory, sha256

INDEX = "model.safetensors.index.json"


def import_slices(
    model: str | Path, table: str | Path, out: str | Path, *, names: Sequence[str] = (), overwrite: bool = False
) -> ElasticCheckpoint:
    """Write an elastic checkpoint whose budgets are the slices of a table.

    The model is taken as it is: neither sorted nor trained, since its maker nested it.

    Args:
        model: a Hugging Face directory of a supported family.
        table: see `read_slices`.
        out: the checkpoint to create; it appears whole or not at all.
        names: slices to take; all by default.
        overwrite: replace an existing checkpoint.

    Raises:
        UnsupportedModelError: the model's architecture is not supported; of known elastic models, what of them.
        CheckpointError: its weights do not fit its config.
        InputError: the table cannot be read, a slice cannot be expressed, or `out` cannot be written.
    """
    model, table, out = Path(model), Path(table), Path(out)
    architecture = Architecture.from_config(read_config(model))
    candidates, budgets = budgets_of_slices(read_slices(table), architecture, names)
    weights = ModelWeights(model)
    weights.check(tensor_specs(architecture))
    check_space(out, sum(file.size for file in weights.files))
    records = weights.records()
    with new_directory(out, marker=MARKER, overwrite=overwrite) as directory:
        for name in ("config.json", *records, *([INDEX] if (model / INDEX).is_file() else [])):
            shutil.copyfile(model / name, directory / name)
        copy_tokenizer(model, directory)
        ElasticCheckpoint(
            directory,
            architecture,
            candidates,
            budgets,
            parent={"path": model.resolve().name, "sha256": {name: record.sha256 for name, record in records.items()}},
            sorting={"importance": "nested by its maker", "table": table.name, "table_sha256": sha256(table)},
            files=records,
        ).write_marker(directory)
    return ElasticCheckpoint.open(out)
