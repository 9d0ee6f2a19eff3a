"""Running recipes: each once, its numbers and weights kept, whatever happens to the process."""

from __future__ import annotations

import copy
import fcntl
import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from flextron_export.elastic.architecture import Architecture, read_config
from flextron_export.elastic.model import load_model
from flextron_export.elastic.permutation import permute_
from flextron_export.elastic.widths import Budget, LayerWidth
from flextron_export.errors import InputError
from flextron_export.files import new_directory, write_json
from flextron_export.training.corpus import read_text, split
from flextron_export.training.data import pack, spread
from flextron_export.training.elastic import train
from flextron_export.training.environment import quiet_transformers, thread_count
from flextron_export.training.evaluate import validation_loss
from flextron_export.training.importance import measure_importance
from flextron_export.training.pretrain import train_tokenizer
from flextron_export.training.settings import TrainingSettings
from tools.claims.choices import choose, latency_of, points
from tools.claims.recipes import Choosing, Recipe, Shape, Text, Training, key
from tools.claims.widths import BUDGETS, budget_named, operations_per_token, sampler_of

ROOT = Path(__file__).resolve().parents[2]
RESULT = "result.json"
SPLIT_SEED = 0
IMPORTANCE_SEQUENCES = 256


class Store:
    """Results by recipe. A run that was killed leaves nothing; what is there is whole."""

    def __init__(self, folder: Path, threads: int = 1) -> None:
        self.folder, self.threads = folder, threads

    def result(self, name: str, step: Callable[[Path], dict[str, Any]]) -> dict[str, Any]:
        """The result of that name; if there is none yet, `step` makes it, and may leave files beside it."""
        path = self.folder / name
        if not (path / RESULT).is_file():
            with self._alone(name):
                if not (path / RESULT).is_file():
                    with new_directory(path, marker=RESULT) as directory:
                        start = time.perf_counter()
                        result = step(directory)
                        write_json(directory / RESULT, {**result, "seconds": round(time.perf_counter() - start, 1)})
        value: dict[str, Any] = json.loads((path / RESULT).read_text(encoding="utf-8"))
        return value

    @contextmanager
    def _alone(self, name: str) -> Iterator[None]:
        """Within the block, no other process makes the same result."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with (self.folder / f"{name}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def has(self, recipe: Recipe) -> bool:
        """Whether the recipe has been run."""
        return (self.folder / key(recipe) / RESULT).is_file()

    def run(self, recipe: Recipe) -> dict[str, Any]:
        """Run a recipe, and first those it needs; see `_train` and `choices.choose` for what comes back."""
        for needed in recipe.before:
            self.run(needed)
        if isinstance(recipe, Choosing):
            return self.result(key(recipe), lambda _: self._choose(recipe))
        return self.result(key(recipe), lambda directory: self._train(recipe, directory))

    def model(self, recipe: Training) -> tuple[Any, Architecture]:
        """The model that a recipe makes."""
        self.run(recipe)
        with quiet_transformers():
            directory = self.folder / key(recipe)
            return load_model(directory), Architecture.from_config(read_config(directory))

    def budgets(self, recipe: Choosing) -> dict[float, Budget]:
        """The networks that a recipe chose, by target."""
        return {
            point["target"]: Budget(f"t{100 * point['target']:g}", tuple(LayerWidth(*w) for w in point["layers"]))
            for point in self.run(recipe)["points"]
        }

    def _choose(self, recipe: Choosing) -> dict[str, Any]:
        tokens, validation, _ = tokenised(recipe.start.text)
        model, architecture = self.model(recipe.start)
        with thread_count(self.threads):
            return choose(recipe, model, architecture, tokens, validation, self.threads)

    def _train(self, recipe: Training, directory: Path) -> dict[str, Any]:
        tokens, validation, vocabulary = tokenised(recipe.text)
        with thread_count(self.threads), quiet_transformers():
            if recipe.start is None:
                model = new_model(recipe.shape, vocabulary, recipe.seed)
            else:
                model, _ = self.model(recipe.start)
            model.save_pretrained(directory)
            architecture = Architecture.from_config(read_config(directory))
            reorder_(model, architecture, recipe, tokens)
            near = self.budgets(recipe.around) if recipe.around else {}
            sampler = sampler_of(recipe.train, architecture, recipe.fractions, list(near.values()))
            teacher = None if recipe.loss == "ce" else copy.deepcopy(model).requires_grad_(False)
            settings = TrainingSettings(
                recipe.tokens,
                recipe.batch,
                recipe.text.length,
                recipe.learning_rate,
                recipe.loss,
                recipe.optimizer,
                precision="fp32",
                seed=recipe.seed,
                threads=self.threads,
                full_weight=recipe.full_weight,
            )
            cpu = time.process_time()
            if recipe.tokens:
                train(
                    model,
                    architecture,
                    tokens,
                    settings,
                    sampler,
                    teacher=teacher,
                    description=f"{recipe.name} {recipe.seed}",
                )
            cpu = time.process_time() - cpu
            model.save_pretrained(directory)
            # Of a network trained alone the other widths mean nothing.
            measured = [recipe.train] if recipe.train in BUDGETS and recipe.tokens else list(BUDGETS)
            budgets = {name: budget_named(name, architecture) for name in measured}
            result = {
                "losses": {
                    name: validation_loss(model, architecture, budget, validation, batch=64)
                    for name, budget in budgets.items()
                },
                "parameters": {name: budget.parameters(architecture) for name, budget in budgets.items()},
                "tokens": settings.steps * recipe.batch * recipe.text.length,
                "operations": recipe.tokens
                * operations_per_token(sampler, architecture, recipe.text.length, recipe.loss != "ce"),
                "cpu_seconds": round(cpu, 1),
            }
            if recipe.around:
                result["points"] = points(
                    near, model, architecture, *latency_of(recipe.around, architecture), validation
                )
            return result


@lru_cache(maxsize=2)
def tokenised(text: Text) -> tuple[np.ndarray, np.ndarray, int]:
    """(training tokens [sequences, length], validation tokens likewise, size of the vocabulary)."""
    training, held_out = split(read_text([ROOT / text.path]), seed=SPLIT_SEED)
    tokenizer = train_tokenizer(training, text.vocabulary)
    size = tokenizer.get_vocab_size()
    # One more token than a sequence predicts from, as the first of each is only read.
    validation = spread(pack(held_out, tokenizer, text.length + 1, size, end=0), text.validation)
    return pack(training, tokenizer, text.length, size, end=0), validation, size


def new_model(shape: Shape, vocabulary: int, seed: int) -> Any:
    """A Llama of that shape with random weights."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(seed)
    return LlamaForCausalLM(LlamaConfig(**shape.config(vocabulary)))


def reorder_(model: Any, architecture: Architecture, recipe: Training, tokens: np.ndarray) -> None:
    """Give groups and neurons the recipe's order, in place; the function stays the same."""
    if recipe.order == "unsorted":
        return
    groups, neurons = measure_importance(model, architecture, spread(tokens, IMPORTANCE_SEQUENCES), batch=64).order()
    if recipe.order == "reversed":
        groups, neurons = (np.ascontiguousarray(order[:, ::-1]) for order in (groups, neurons))
    elif recipe.order != "sorted":
        raise InputError(f"There is no order {recipe.order!r}.")
    permute_(model, architecture, groups, neurons)
