"""Choosing widths per layer, or per token, of an elastic model: what claims (d) and (e) compare."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from flextron_export.elastic.architecture import Architecture
from flextron_export.elastic.router import RouterRecord
from flextron_export.elastic.widths import Budget, Candidates, full_budget
from flextron_export.training.data import spread
from flextron_export.training.evaluate import validation_loss
from flextron_export.training.latency_model import LatencyModel
from flextron_export.training.route import JOINT_SHARE
from flextron_export.training.routed_latency import RoutedLatency
from flextron_export.training.router_budgets import router_budget
from flextron_export.training.router_settings import RouterSettings
from flextron_export.training.search import best_uniform, search
from flextron_export.training.settings import TrainingSettings
from tools.claims.recipes import Choosing
from tools.claims.widths import candidate_widths, latency_table

ROUTER_HIDDEN = 128
SEARCH_SEQUENCES = 192
"""Training sequences by whose loss widths are searched, and a router's refined; what is found is measured on the
validation text."""


def choose(
    recipe: Choosing, model: Any, architecture: Architecture, tokens: np.ndarray, validation: np.ndarray, threads: int
) -> dict[str, Any]:
    """Choose widths for every target of a recipe, and measure them.

    Args:
        model: the elastic model; only a joint fine-tune changes it.
        tokens: int64 [sequences, length], to train routers on, and to choose by.
        validation: int64 [sequences, length + 1].
    """
    candidates, table = latency_of(recipe, architecture)
    latency = RoutedLatency.of(table, architecture, candidates, "static")
    text = spread(tokens, SEARCH_SEQUENCES)
    start = time.process_time()

    def seen(budget: Budget) -> float:
        return validation_loss(model, architecture, budget, text, batch=64)

    wanted = {str(target): target * latency.full for target in recipe.targets}
    if recipe.way == "search":
        searched = search(seen, table, candidates, architecture.num_layers, wanted, max_evaluations=recipe.evaluations)
        chosen = {float(each.budget.name): each.budget for each in searched}
    elif recipe.way == "uniform":
        best = {n: best_uniform(seen, table, candidates, architecture.num_layers, ms) for n, ms in wanted.items()}
        chosen = {float(name): budget for name, budget in best.items() if budget is not None}
    else:
        routers = trained_routers(recipe, model, architecture, candidates, latency, tokens, threads)
        if recipe.way == "dynamic":
            return {
                "points": per_token_points(recipe, model, architecture, candidates, table, routers, validation),
                "cpu_seconds": round(time.process_time() - start, 1),
            }
        router = routers.numpy()
        chosen = {target: router_budget(router, latency, target, loss=seen) for target in recipe.targets}
    return {
        "cpu_seconds": round(time.process_time() - start, 1),
        "points": points(chosen, model, architecture, candidates, table, validation),
        "full": validation_loss(model, architecture, full_budget(architecture), validation, batch=64),
    }


def latency_of(recipe: Choosing, architecture: Architecture) -> tuple[Candidates, LatencyModel]:
    """The candidates of a recipe, and what they cost."""
    candidates = candidate_widths(architecture, recipe.fractions)
    return candidates, latency_table(architecture, candidates, recipe.stands_for, recipe.device, recipe.context)


def points(
    chosen: Mapping[float, Budget],
    model: Any,
    architecture: Architecture,
    candidates: Candidates,
    table: LatencyModel,
    validation: np.ndarray,
) -> list[dict[str, Any]]:
    """What networks for latency targets come to on the held-out text."""
    return [
        {
            "target": target,
            "latency": table.predict(budget, candidates) / table.full(architecture.num_layers),
            "loss": validation_loss(model, architecture, budget, validation, batch=64),
            "layers": [[w.groups, w.neurons] for w in budget.layers],
        }
        for target, budget in chosen.items()
    ]


def per_token_points(
    recipe: Choosing,
    model: Any,
    architecture: Architecture,
    candidates: Candidates,
    table: LatencyModel,
    routers: Any,
    validation: np.ndarray,
) -> list[dict[str, Any]]:
    """What a dynamic router comes to: mean latency, of the exported graph too, and mean widths."""
    from flextron_export.training.router_report import report

    free = RoutedLatency.of(table, architecture, candidates, "static")
    charged = RoutedLatency.of(table, architecture, candidates, "dynamic")
    return [
        {
            "target": result.target,
            "latency": result.relative,
            "exported_latency": exported_latency(result.widths, charged, candidates),
            "loss": result.validation_loss,
            "layers": [list(width) for width in result.widths],
        }
        for result in report(model, routers, free, recipe.targets, lambda milliseconds: None, validation)
    ]


def trained_routers(
    recipe: Choosing,
    model: Any,
    architecture: Architecture,
    candidates: Candidates,
    latency: RoutedLatency,
    tokens: np.ndarray,
    threads: int,
) -> Any:
    """Routers of the recipe's kind, trained for its targets; by a joint fine-tune, the model too."""
    import torch

    from flextron_export.training.joint import train_jointly
    from flextron_export.training.router_loop import train_routers
    from flextron_export.training.routers import Routers, descending

    torch.manual_seed(recipe.seed)
    record = RouterRecord(recipe.way, recipe.method, descending(recipe.targets), ROUTER_HIDDEN, candidates)
    routers = Routers(record, architecture)
    settings = RouterSettings(
        recipe.tokens,
        recipe.batch,
        tokens.shape[1],
        recipe.method,
        precision="fp32",
        seed=recipe.seed,
        threads=threads,
    )
    train_routers(model, routers, latency, tokens, spread(tokens, 2 * recipe.batch), settings)
    if recipe.joint_tokens:
        # Both at a tenth of their rates, as `route` does.
        gentle = replace(settings, tokens=recipe.joint_tokens, learning_rate=JOINT_SHARE * settings.learning_rate)
        train_jointly(model, routers, latency, tokens, joint_settings(recipe, gentle), gentle)
    return routers


def joint_settings(recipe: Choosing, routers: RouterSettings) -> TrainingSettings:
    """How the model is trained in the joint fine-tune: at `route`'s share of the rate of its elastic training."""
    return TrainingSettings(
        recipe.joint_tokens,
        routers.batch,
        routers.length,
        JOINT_SHARE * recipe.start.learning_rate,
        "ce",
        recipe.start.optimizer,
        precision="fp32",
        seed=recipe.seed,
        threads=routers.threads,
    )


def exported_latency(widths: Sequence[tuple[float, float]], latency: RoutedLatency, candidates: Candidates) -> float:
    """Latency of the exported graph at mean widths per layer, relative to the full model's.

    Args:
        widths: groups and neurons of every layer; costs between two candidates are on the line between theirs.
        latency: as a dynamic router meets it: keys and values exist for all heads.
    """
    costs = sum(
        np.interp(groups, candidates.groups, latency.attention) + np.interp(neurons, candidates.neurons, latency.ffn)
        for groups, neurons in widths
    )
    return float(latency.intercept + costs) / latency.full
