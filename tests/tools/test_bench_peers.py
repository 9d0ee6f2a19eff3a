"""The comparison with peers: all run the same model, and the goals say what they compare."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest

from flextron_export.bundle.manifest import Bundle
from tests.random_bundle import random_bundle, random_checkpoint
from tools.peers.engines import Flextron, Transformers
from tools.peers.files import write_budget
from tools.peers.gguf_file import interleaved, read
from tools.peers.measuring import Process
from tools.peers.report import TIMES, goals

PROMPT = list(range(20, 32))


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return Bundle.open(random_bundle(tmp_path_factory.mktemp("random")))


def test_a_budget_written_for_the_peers_is_what_the_bundle_runs(bundle: Bundle, tmp_path: Path) -> None:
    from flextron_export.elastic.checkpoint import ElasticCheckpoint

    checkpoint = ElasticCheckpoint.open(random_checkpoint(tmp_path / "checkpoint"))
    budget = checkpoint.budget("p59")
    model = write_budget(checkpoint, budget, tmp_path / "p59")
    ours, theirs = Flextron(bundle.path, "p59", "fp32", 64), Transformers(model, "p59", "fp32", 64)
    tokens = []
    for engine in (ours, theirs):
        token = engine.prefill(PROMPT)
        tokens.append([token, *(token := engine.decode(token) for _ in range(6))])
    assert tokens[0] == tokens[1] and len(set(tokens[0])) > 1
    names = read(model / "model.safetensors")
    assert names["model.layers.0.self_attn.q_proj.weight"].shape[0] == budget.layers[0].groups * 2 * 8
    assert json.loads((model / "config.json").read_text())["num_key_value_heads"] == budget.layers[0].groups


def test_rows_of_a_head_are_interleaved_for_llama_cpp() -> None:
    rows = np.arange(12)[:, None] * np.ones((1, 3))
    assert interleaved(rows, 2)[:, 0].tolist() == [0, 3, 1, 4, 2, 5, 6, 9, 7, 10, 8, 11]


def test_a_worker_answers_and_says_what_went_wrong(bundle: Bundle) -> None:
    process = Process("flextron panels", sys.executable, 64, "fp32")
    with pytest.raises(RuntimeError, match="is not a bundle"):
        process("load", str(bundle.path / "missing"), "full")
    process("load", str(bundle.path), "full")
    wall, processor = process("prefill", PROMPT)
    assert wall > 0 and processor > 0
    steps = process("decode", 3)
    assert len(steps["times"]) == len(steps["tokens"]) == 3
    process("use", "p34")
    process("prefill", PROMPT)
    assert process("decode", 3)["tokens"] != steps["tokens"] and process("memory") > 10
    process.close()


def test_goals_compare_times_memory_and_half_the_width_with_every_peer() -> None:
    def row(peer: str, budget: str, ms: float) -> dict:
        return {"peer": peer, "budget": budget, **dict.fromkeys(TIMES, ms)}

    result = {
        "weight_bytes": {"full": 100.0, "p50": 50.0},
        "speed": {
            "a full": row("a", "full", 10),
            "a p50": row("a", "p50", 5.3),
            "b full": row("b", "full", 10),
            "c full": row("c", "full", 9),
            "read": {},
        },
        "memory_mb": {"a": {"one": 5, "all": 6}, "b": {"one": 5, "all": 5.5}},
    }
    verdicts = dict(goals(result, ("a",)))
    assert verdicts["decode, short: a full at 1.00 of b full"] and not verdicts["start: a full at 1.11 of c full"]
    # 0.95 of the ratio of bytes: at most 0.5 / 0.95 = 0.526 of a peer's time.
    assert not verdicts["a p50 at 0.53 of b full; bytes 0.50, at most 0.53"]
    assert not verdicts["a p50 at 0.59 of c full; bytes 0.50, at most 0.53"]
    assert verdicts["memory, one budget: a at 1.00 of b full"]
    assert not verdicts["memory, four budgets: a at 1.09 of b full"]
    result["speed"]["a p50"] = row("a", "p50", 5.2)
    assert dict(goals(result, ("a",)))["a p50 at 0.52 of b full; bytes 0.50, at most 0.53"]
