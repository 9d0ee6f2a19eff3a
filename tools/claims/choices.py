"""Choosing widths per layer, or per token, of an elastic model: what claims (d) and (e) compare."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from flextron_export.elastic.architecture import Architecture
from flextron_export.elastic.router import RouterRecord
from flextron_export.elastic.widths import Budget, Candidates
from flextron_export.training.data import spread
from flextron_export.training.evaluate import validation_loss
from flextron_export.training.routed_latency import RoutedLatency
from flextron_export.training.search import search
from tools.claims.recipes import Choosing
from tools.claims.widths import candidate_widths, latency_table

ROUTER_HIDDEN = 128
SEARCH_SEQUENCES = 192
"""Training sequences by whose loss widths are searched; what is found is measured on the validation text."""


def choose(
    recipe: Choosing, model: Any, architecture: Architecture, tokens: np.ndarray, validation: np.ndarray, threads: int
) -> dict[str, Any]:
    """Choose widths for every target of a recipe, and measure them.

    Args:
        model: the elastic model; it is not changed.
        tokens: int64 [sequences, length], to train routers on, and to choose by.
        validation: int64 [sequences, length + 1].
    """
    candidates = candidate_widths(architecture, recipe.fractions)
    table = latency_table(architecture, candidates, recipe.stands_for, recipe.device, recipe.context)
    latency = RoutedLatency.of(table, architecture, candidates, "static")

    if recipe.way in ("static", "dynamic"):
        from flextron_export.training.router_report import report

        routers = trained_routers(recipe, model, architecture, candidates, latency, tokens, threads)
        per_token = RoutedLatency.of(table, architecture, candidates, "dynamic")
        return {
            "points": [
                {
                    "target": result.target,
                    "latency": result.relative,
                    "exported_latency": exported_latency(result.widths, per_token, candidates),
                    "loss": result.validation_loss,
                    "layers": [list(width) for width in result.widths],
                }
                for result in report(model, routers, latency, recipe.targets, (), validation)
            ]
        }

    def measured(target: float, budget: Budget) -> dict[str, Any]:
        return {
            "target": target,
            "latency": latency.of_budget(budget, candidates) / latency.full,
            "loss": validation_loss(model, architecture, budget, validation, batch=64),
            "layers": [[w.groups, w.neurons] for w in budget.layers],
        }

    text = spread(tokens, SEARCH_SEQUENCES)
    found = search(
        lambda budget: validation_loss(model, architecture, budget, text, batch=64),
        table,
        candidates,
        architecture.num_layers,
        {str(target): target * latency.full for target in recipe.targets},
        max_evaluations=recipe.evaluations,
    )
    points = []
    for each in found:
        point = measured(float(each.budget.name), each.budget)
        rival = each.uniform and measured(point["target"], each.uniform)
        points.append({**point, "uniform": rival})
    return {"points": points}


def trained_routers(
    recipe: Choosing,
    model: Any,
    architecture: Architecture,
    candidates: Candidates,
    latency: RoutedLatency,
    tokens: np.ndarray,
    threads: int,
) -> Any:
    """Routers of the recipe's kind, trained for its targets by straight-through Gumbel-softmax."""
    import torch

    from flextron_export.training.router_loop import train_routers
    from flextron_export.training.router_settings import RouterSettings
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
    return routers


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
