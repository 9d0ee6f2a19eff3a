"""What a router chose in a graph, compared with torch token by token.

A choice that rounding decides changes every later token, so logits alone could be compared up to the first close call.
Here torch makes the graph's own choices: then all logits must agree, and each choice that is clear in torch must be
the one that the graph made. A prompt router's graph is compared with the same networks in NumPy.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from ..bundle.manifest import Bundle
from ..elastic.checkpoint import ElasticCheckpoint
from ..elastic.router import PARTS, RoutedBudget
from ..elastic.safetensors import numpy_dtype
from ..graph.contract import DTYPES, PROMPT_ROUTER, ROUTED, cache_names, cache_shapes, choice_name, choices
from ._onnxruntime.loading import load_graph
from .verify import MODES, PROMPT, TOLERANCE, Check

if TYPE_CHECKING:
    import torch

PROMPTS = 16


def choice_checks(
    bundle: Bundle, source: ElasticCheckpoint, dtype: str, ids: Mapping[str, np.ndarray], tolerance: float
) -> list[Check]:
    """One check for every target below 1 and mode, over several sequences; its tokens are choices.

    Args:
        ids: int64 [batch, length] by name of the target.
        tolerance: of logits, and of the margin that makes a choice clear, relative to the largest.
    """
    import torch

    from ..training.routers import Routers
    from ..training.routing import routed
    from .references import load_as_stored, relative_margin

    router, model = source.router(), load_as_stored(bundle, dtype, source)
    assert router is not None
    routers = Routers(router.record, source.architecture)
    routers.read(router)
    graph = load_graph(bundle, _with_choices(bundle, dtype), threads=1)
    found = []
    for budget in bundle.budgets_of(ROUTED):
        assert isinstance(budget, RoutedBudget)
        of_target, tokens = routers.of(budget.target), ids[budget.name]
        for mode, step in MODES.items() if budget.target < 1 else ():
            # One by one: a graph need not take later pieces of several sequences at once.
            runs = [_run(graph, bundle, dtype, budget, row[None], step) for row in tokens]
            logits = np.concatenate([run[0] for run in runs])
            chosen = {part: np.concatenate([run[1][part] for run in runs]) for part in runs[0][1]}
            clear_count = wrong_count = 0

            def decide(layer: int, part: str, x: torch.Tensor, chosen: Any = chosen, of: Any = of_target) -> Any:
                nonlocal clear_count, wrong_count
                mine, theirs = of(layer, part, x), torch.from_numpy(chosen[layer, part])
                clear = relative_margin(mine) > tolerance
                clear_count += int(clear.sum())
                wrong_count += int((clear & (mine.argmax(-1) != theirs)).sum())
                return torch.nn.functional.one_hot(theirs, mine.shape[-1]).to(x.dtype)

            with torch.inference_mode(), routed(model, bundle.architecture, bundle.candidates, decide):
                expected = model(torch.from_numpy(tokens)).logits.float().numpy()
            scale = float(np.abs(expected).max()) or 1.0
            apart = float(np.nan_to_num(np.abs(logits - expected), nan=np.inf).max())
            found.append(
                Check(
                    budget.name,
                    ROUTED,
                    dtype,
                    f"{mode}, choices",
                    len(tokens),
                    apart / scale,
                    tolerance,
                    clear_count,
                    wrong_count,
                )
            )
    return found


def prompt_router_checks(bundle: Bundle, seed: int = 0) -> list[Check]:
    """One check for every trained target, and one between each two; its tokens are choices for random prompts."""
    from ..runtime.prompt_router import PromptRouter

    assert bundle.router is not None
    router = bundle.router.open(bundle.path, bundle.architecture)
    graph = PromptRouter(bundle)
    prompts = np.random.default_rng(seed).integers(0, bundle.architecture.vocab_size, (PROMPTS, PROMPT))
    between = [(a + b) / 2 for a, b in itertools.pairwise(bundle.targets)]
    found = []
    for target in (*bundle.targets, *between):
        clear_count = wrong_count = 0
        for prompt in prompts:
            expected = router.layers(target, graph.mean_embedding(prompt))
            for chosen, layer in zip(graph.widths(prompt, target), expected, strict=True):
                for part, width in zip(PARTS, (chosen.groups, chosen.neurons), strict=True):
                    logits, widths = layer[part], bundle.router.choices(part)
                    second, best = np.sort(logits)[-2:] if len(widths) > 1 else (-np.inf, logits[0])
                    clear = target == 1 or best - second > TOLERANCE["fp32"] * np.abs(logits).max()
                    clear_count += int(clear)
                    wrong_count += int(clear and width != (widths[-1] if target == 1 else widths[logits.argmax()]))
        name, allowed = f"r{100 * target:.6g}", TOLERANCE["fp32"]
        found.append(Check(name, PROMPT_ROUTER, "fp32", "choices", PROMPTS, 0.0, allowed, clear_count, wrong_count))
    return found


def _with_choices(bundle: Bundle, dtype: str) -> bytes:
    """The routed graph with every choice as a further output."""
    import onnx

    model = onnx.load(str(bundle.graph(ROUTED, dtype)), load_external_data=False)
    for layer in range(bundle.architecture.num_layers):
        for part in PARTS:
            value = onnx.helper.make_tensor_value_info(choice_name(layer, part), onnx.TensorProto.INT64, None)
            model.graph.output.append(value)
    return bytes(model.SerializeToString())


def _run(
    graph: Any, bundle: Bundle, dtype: str, budget: RoutedBudget, ids: np.ndarray, step: int
) -> tuple[np.ndarray, dict[tuple[int, str], np.ndarray]]:
    """Logits [batch, length, vocab], and the choices int64 [batch, length] of every layer and part."""
    a, (batch, length) = bundle.architecture, ids.shape
    caches = {
        name: np.zeros(shape, numpy_dtype(DTYPES[dtype]))
        for name, shape in cache_shapes(a, budget, batch, length).items()
    }
    parts = [(layer, part) for layer in range(a.num_layers) for part in PARTS]
    names = ["logits", *(f"{name}.out" for name in cache_names(a)), *(choice_name(*part) for part in parts)]
    logits, chosen = [], []
    for start in range(0, length, step):
        piece = ids[:, start : start + step]
        feeds = {
            "ids": piece,
            "positions": np.tile(np.arange(start, start + piece.shape[1]), (batch, 1)),
            "write": np.full(batch, start),
            "rows": np.arange(piece.size),
            **choices(ROUTED, bundle.candidates, budget, batch, bundle.targets),
            **caches,
        }
        first, *values = graph.run(names, feeds)
        logits.append(first.reshape(*piece.shape, -1))
        caches = dict(zip(caches, values, strict=False))
        chosen.append([value.reshape(piece.shape) for value in values[len(caches) :]])
    return np.concatenate(logits, 1), {
        part: np.concatenate(values, 1) for part, values in zip(parts, zip(*chosen, strict=True), strict=True)
    }
