"""The elastic checkpoint: a Hugging Face model directory with `elastic.json` beside it (docs/checkpoint-format.md)."""

from __future__ import annotations

import math
import shutil
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import CheckpointError, FlextronError, problems
from ..files import MALFORMED, integers, read_object, recover, write_json
from .architecture import Architecture, read_config
from .records import FileRecord, faults
from .router import FILE as ROUTER_FILE
from .router import Router, RouterRecord
from .safetensors import SafetensorsFile, TensorInfo
from .tensors import TensorSpec, tensor_specs
from .widths import Budget, Candidates, check_budgets

FORMAT = "flextron-elastic-checkpoint"
SCHEMA = 1
MARKER = "elastic.json"
FLOATS = ("F32", "F16", "BF16", "F64")
KEYS = ("format", "schema", "candidates", "budgets", "parent", "sorting", "training", "weights")
"""Keys of `elastic.json` that are fields of an `ElasticCheckpoint`."""
TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
    "generation_config.json",
)


class ModelWeights:
    """The weights of a Hugging Face model directory, mapped: one safetensors file or shards with an index.

    As in transformers, the names may lack their first part: so a model is written that had no LM head.

    Raises:
        CheckpointError: no safetensors, a missing shard, a missing tensor or one of another shape.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = Path(directory)
        index, single = self.directory / "model.safetensors.index.json", self.directory / "model.safetensors"
        if single.is_file():
            names = [single.name]
        elif index.is_file():
            names = _shards(index)
        else:
            pickles = [p.name for pattern in ("*.bin", "*.pt", "*.pth") for p in self.directory.glob(pattern)]
            raise CheckpointError(
                f"{directory} has no model.safetensors.",
                cause=f"it holds pickled weights ({pickles[0]}), which run code when loaded and are refused"
                if pickles
                else None,
                fix="load it with transformers and write it again with save_pretrained, which writes safetensors",
            )
        self.files = [SafetensorsFile(self.directory / name) for name in names]
        self._where = {tensor: file for file in self.files for tensor in file.tensors}

    def __contains__(self, name: str) -> bool:
        return self._name(name) in self._where

    def __getitem__(self, name: str) -> np.ndarray:
        name = self._name(name)
        return self._where[name][name]

    def read(self, name: str) -> np.ndarray:
        """A copy of a tensor; see `SafetensorsFile.read`."""
        name = self._name(name)
        return self._where[name].read(name)

    def info(self, name: str) -> TensorInfo:
        """Type, shape and place of a tensor in its file; KeyError if there is none of that name."""
        name = self._name(name)
        return self._where[name].tensors[name]

    def _name(self, name: str) -> str:
        return name if name in self._where else name.partition(".")[2]

    def records(self) -> dict[str, FileRecord]:
        """Size and SHA-256 of every weights file, by name; reads them whole."""
        return {file.path.name: FileRecord.of(file.path) for file in self.files}

    def check(self, specs: Sequence[TensorSpec]) -> None:
        """Raise CheckpointError naming every tensor that is missing, has another shape or holds no floats."""
        found = []
        for spec in specs:
            expected = spec.source_shape
            if spec.source not in self:
                found.append(f"{spec.source} is missing")
                continue
            info = self.info(spec.source)
            if info.shape != expected:
                found.append(f"{spec.source} is {list(info.shape)}, config.json says {list(expected)}")
            if info.dtype not in FLOATS:
                found.append(f"{spec.source} is {info.dtype}, not {', '.join(FLOATS)}")
        more = [f"and {len(found) - 5} more"] if len(found) > 5 else []
        problems(CheckpointError, f"the weights in {self.directory} do not fit its config.json", found[:5] + more)


def _shards(index: Path) -> list[str]:
    """File names of the shards that an index lists."""
    fix = "copy the checkpoint again"
    names = read_object(index, CheckpointError, fix).get("weight_map")
    if not isinstance(names, dict) or not names:
        raise CheckpointError(f"{index} is damaged: it has no weight_map.", fix=fix)
    shards = sorted({str(n) for n in names.values()})
    problems(CheckpointError, str(index), _outside(shards))
    return shards


def _outside(names: Iterable[str]) -> list[str]:
    """Names that are a path to somewhere else, in words."""
    return [f"{n!r} is not a file name in this directory" for n in names if n in ("", "..") or Path(n).name != n]


@dataclass(frozen=True)
class ElasticCheckpoint:
    """An opened elastic checkpoint.

    Attributes:
        path: its directory.
        parent: where it came from: `path` and `sha256` of the parent's weights.
        sorting: how groups and neurons were ranked.
        training: how it was trained, or empty.
        files: size and SHA-256 of its weights files, by name; empty where nobody recorded them.
        notes: every other key of `elastic.json`, such as how budgets were found; kept as it is.
    """

    path: Path
    architecture: Architecture
    candidates: Candidates
    budgets: tuple[Budget, ...]
    parent: dict[str, Any] = field(default_factory=dict)
    sorting: dict[str, Any] = field(default_factory=dict)
    training: dict[str, Any] = field(default_factory=dict)
    files: dict[str, FileRecord] = field(default_factory=dict)
    notes: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def open(cls, path: str | Path) -> ElasticCheckpoint:
        """Open and check a checkpoint directory; of the weights, the size is checked (see `check_files`).

        Raises:
            CheckpointError: it is missing, damaged, not elastic, or of a newer schema.
            UnsupportedModelError: its architecture is not supported.
        """
        path = Path(path)
        recover(path)
        architecture = Architecture.from_config(read_config(path))
        marker = path / MARKER
        if not marker.is_file():
            raise CheckpointError(
                f"{path} is not elastic: it has no {MARKER}.",
                fix=f"flextron-export elastify {path} --text FILE --out CKPT",
            )
        value = read_object(marker, CheckpointError, "run elastify again")
        try:
            if value["format"] != FORMAT:
                raise ValueError(f"its format is {value['format']!r}")
            (schema,) = integers([value["schema"]])
            if schema > SCHEMA:
                raise CheckpointError(
                    f"{marker} has schema {schema}; this version reads up to {SCHEMA}.", fix="upgrade flextron-export"
                )
            candidates = Candidates.from_json(value["candidates"])
            budgets = tuple(Budget.from_json(b) for b in value["budgets"])
            extra = {k: dict(value.get(k) or {}) for k in ("parent", "sorting", "training")}
            files = {name: FileRecord.from_json(r) for name, r in dict(value.get("weights") or {}).items()}
            if outside := _outside(files):
                raise ValueError("; ".join(outside))
            notes = {k: v for k, v in value.items() if k not in KEYS}
        except MALFORMED as error:
            raise CheckpointError(
                f"{marker} is damaged: {type(error).__name__} {error}.", fix="run elastify again"
            ) from error
        try:
            candidates.validate(architecture)
            check_budgets(budgets, candidates, architecture)
        except FlextronError as error:
            raise CheckpointError(f"{marker}: {error.what}") from error
        checkpoint = cls(path, architecture, candidates, budgets, **extra, files=files, notes=notes)
        checkpoint.check_files(hashes=False)
        checkpoint.router()
        return checkpoint

    def router(self) -> Router | None:
        """The router, its weights mapped; None if the checkpoint has none.

        Raises:
            CheckpointError: what `elastic.json` says about it is damaged or of a newer version, it chooses among other
                candidates, or `router.safetensors` does not fit.
        """
        if "router" not in self.notes:
            return None
        again = f"train it again: flextron-export route {self.path}"
        try:
            record = RouterRecord.from_json(self.notes["router"])
        except MALFORMED as error:
            raise CheckpointError(
                f"The router in {self.path / MARKER} is damaged: {type(error).__name__} {error}.", fix=again
            ) from error
        if record.candidates != self.candidates:
            raise CheckpointError(
                f"The router in {self.path} chooses among other widths than the checkpoint's candidates.", fix=again
            )
        if self.files and ROUTER_FILE not in self.files:
            raise CheckpointError(f"{self.path / ROUTER_FILE} is not among the files that {MARKER} records.", fix=again)
        return record.open(self.path, self.architecture)

    def check_files(self, *, hashes: bool = True) -> None:
        """Raise CheckpointError naming every recorded file that is missing, of another size or altered.

        Args:
            hashes: compare SHA-256 too, which reads the weights whole.
        """
        found = faults(self.path, self.files, hashes=hashes)
        problems(
            CheckpointError, f"the checkpoint {self.path} is damaged", found, "copy it again, or run elastify again"
        )

    def budget(self, name: str) -> Budget:
        """The budget of that name; CheckpointError names the ones there are."""
        for budget in self.budgets:
            if budget.name == name:
                return budget
        raise CheckpointError(
            f"There is no budget {name!r} in {self.path}.", fix=f"use one of: {', '.join(b.name for b in self.budgets)}"
        )

    def weights(self) -> ModelWeights:
        """The mapped weights, checked against the architecture.

        Raises:
            CheckpointError: they are damaged, do not fit, or lie in files that the checkpoint does not record.
        """
        weights = ModelWeights(self.path)
        if self.files:  # a file put beside them may be read in their place
            unknown = [file.path.name for file in weights.files if file.path.name not in self.files]
            found = [f"{name} is not among the weights that {MARKER} records" for name in unknown]
            problems(CheckpointError, f"the checkpoint {self.path} was altered", found, "remove what was added to it")
        weights.check(tensor_specs(self.architecture))
        return weights

    def write_marker(self, directory: Path) -> None:
        """Write `elastic.json` into a directory that already holds the model.

        Raises:
            FlextronError: a budget's loss is no finite number; nobody could open the checkpoint.
        """
        if lost := [b for b in self.budgets if b.validation_loss is not None and not math.isfinite(b.validation_loss)]:
            raise FlextronError(
                "The checkpoint is not written: "
                + "; ".join(f"the validation loss of {b.name} is {b.validation_loss}" for b in lost),
                cause="training diverged in its last step, or the weights are too large for the type they have on disk",
                fix="try a lower --learning-rate, or another --dtype",
            )
        write_json(
            directory / MARKER,
            {
                **self.notes,
                "format": FORMAT,
                "schema": SCHEMA,
                "candidates": self.candidates.to_json(),
                "budgets": [b.to_json() for b in self.budgets],
                "parent": self.parent,
                "sorting": self.sorting,
                "training": self.training,
                "weights": {name: record.to_json() for name, record in self.files.items()},
            },
        )


def copy_tokenizer(source: Path, destination: Path) -> list[str]:
    """Copy the tokenizer files and the chat template that `source` has; return their names."""
    names = [name for name in TOKENIZER_FILES if (source / name).is_file()]
    for name in names:
        shutil.copyfile(source / name, destination / name)
    return names
