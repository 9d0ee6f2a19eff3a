"""Requests to a bundle with a prompt router run at the budget that it asks for, among those that meet the target."""

import numpy as np
import pytest

from flextron_export import Runner, calibrate
from flextron_export.errors import InputError
from flextron_export.exporting import export
from flextron_export.runtime.table import BudgetCost, LatencyTable, Timing
from flextron_export.serve.prepare import prepare
from flextron_export.serve.schema import CompletionRequest
from flextron_export.serve.settings import ServeSettings
from flextron_export.training.data import save_tokenizer
from flextron_export.training.tiny import byte_tokenizer
from tests.elastic_models import routed_model

PROMPTS = np.random.default_rng(0).integers(0, 250, (12, 9)).tolist()
SETTINGS = ServeSettings(name="tiny")


@pytest.fixture(scope="module")
def runner(tmp_path_factory):
    directory = tmp_path_factory.mktemp("prompt")
    checkpoint = routed_model(directory / "checkpoint", kind="prompt")
    save_tokenizer(byte_tokenizer(), checkpoint.path)
    bundle = export(checkpoint.path, directory / "bundle", layouts=["panels"], dtypes=["fp32"], verify=False)
    measured = calibrate(bundle, threads=1, contexts=[16], prompt_lengths=[8], repeats=6)
    costs = {
        b.name: BudgetCost(1, (Timing.of(16, [ms]),), (Timing.of(8, [ms]),), 1, 1)
        for b, ms in zip(bundle.budgets, (10.0, 7.0, 6.0, 5.0), strict=True)
    }
    table = LatencyTable(measured.device, measured.target, "panels", "fp32", measured.bundle, costs)
    with Runner(bundle, threads=1, calibration=table) as runner:
        yield runner


def prepared(runner, **fields):
    return prepare(runner, SETTINGS, CompletionRequest(model="tiny", max_tokens=2, **fields))


def test_a_target_is_met_by_the_budget_that_the_router_asks_for(runner):
    picked = [prepared(runner, prompt=prompt, latency_target_ms=7.5).selection for prompt in PROMPTS]
    target = runner.select("7.5ms")
    wanted = [runner.for_prompts(target, [prompt]) for prompt in PROMPTS]
    assert [s.budget for s in picked] == [s.budget for s in wanted]
    assert len({s.budget.name for s in picked}) > 1 and all("for this prompt" in s.reason for s in picked)


def test_prompts_of_one_request_share_a_budget(runner):
    found = prepared(runner, prompt=PROMPTS[:4], n=2, latency_target_ms=7.5)
    assert found.selection.budget == runner.for_prompts(runner.select("7.5ms"), PROMPTS[:4]).budget
    assert len(found.generations) == 8 and "these 4 prompts" in found.selection.reason
    assert {g.selection.budget for g in found.generations} == {found.selection.budget}


def test_a_named_budget_and_no_target_ask_no_router(runner):
    assert prepared(runner, prompt=PROMPTS[0], budget="small").selection.budget.name == "small"
    assert prepared(runner, prompt=PROMPTS[0]).selection is runner.selection


def test_a_token_outside_the_vocabulary_is_refused_before_the_router_reads_it(runner):
    with pytest.raises(InputError, match="outside the vocabulary"):
        prepared(runner, prompt=[3, 99999], latency_target_ms=7.5)
