"""lm-evaluation-harness gives a checkpoint, its bundle and its own adapter of transformers the same scores."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from flextron_export.errors import InputError
from flextron_export.evaluation.harness import FlextronLM
from flextron_export.evaluation.subject import Subject
from flextron_export.evaluation.tasks import Tasks, metrics

ROOT = Path(__file__).resolve().parents[2]
TASKS = [str(ROOT / "calibration/tasks" / f"{name}.yaml") for name in ("last_word", "continuation")]
PANELS = pytest.mark.parametrize("bundle_subject", ["panels"], indirect=True)
GENERATE = """
task: generate
custom_dataset: !function documents.documents
output_type: generate_until
test_split: test
doc_to_text: "{{text}}"
doc_to_target: ""
generation_kwargs: {until: ["\\n", "q"], max_gen_toks: 24, do_sample: false}
metric_list: [{metric: exact_match, aggregation: mean, higher_is_better: true}]
"""
ROLLING = """
task: rolling
custom_dataset: !function documents.documents
output_type: loglikelihood_rolling
test_split: test
doc_to_text: ""
doc_to_target: "{{text}}"
metric_list: [{metric: word_perplexity}, {metric: byte_perplexity}, {metric: bits_per_byte}]
"""
DOCUMENTS = """
from datasets import Dataset

def documents(**_):
    texts = ["the king went up", "a", "so they came to the city " * 30, "and the river was wide"]
    return {"test": Dataset.from_list([{"text": text} for text in texts])}
"""


@pytest.fixture(scope="module")
def task_files(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    directory = tmp_path_factory.mktemp("tasks")
    (directory / "documents.py").write_text(DOCUMENTS)
    for name, text in (("generate", GENERATE), ("rolling", ROLLING)):
        (directory / f"{name}.yaml").write_text(text)
    return [str(directory / f"{name}.yaml") for name in ("generate", "rolling")]


@pytest.fixture(scope="module")
def tasks(task_files: list[str]) -> Tasks:
    return Tasks([*TASKS, *task_files])


@pytest.fixture(scope="module")
def by_transformers(evaluated: Path, tasks: Tasks) -> dict[str, Any]:
    """Results of the harness's own adapter, which knows nothing of budgets: the full model."""
    from lm_eval.models.huggingface import HFLM

    model: Any = HFLM(pretrained=str(evaluated / "checkpoint"), dtype="float32", device="cpu", batch_size=4)
    return tasks.score(model, limit=5, samples=True)


def answers(results: dict[str, Any], task: str) -> list[Any]:
    """What the model answered to every request, in the order of the documents."""
    samples = sorted(results["samples"][task], key=lambda s: s["doc_id"])
    return [response[0] for sample in samples for response in sample["resps"]]


def assert_equal(found: dict[str, Any], expected: dict[str, Any]) -> None:
    assert set(metrics(found)) == {"kjv_last_word", "kjv_continuation", "generate", "rolling"}
    for task, values in metrics(expected).items():
        assert metrics(found)[task] == pytest.approx(values, rel=5e-3), task
    for task in ("kjv_last_word", "kjv_continuation"):
        for one, other in zip(answers(found, task), answers(expected, task), strict=True):
            (value, greedy), (wanted, wanted_greedy) = one, other
            assert value == pytest.approx(wanted, abs=2e-3) and greedy == wanted_greedy
    assert answers(found, "generate") == answers(expected, "generate")
    assert answers(found, "rolling") == pytest.approx(answers(expected, "rolling"), abs=2e-2)


def test_the_full_checkpoint_equals_the_adapter_of_transformers(
    torch_subject: Subject, tasks: Tasks, by_transformers: dict[str, Any]
) -> None:
    assert_equal(tasks.score(FlextronLM(torch_subject), limit=5, samples=True), by_transformers)


@PANELS
def test_the_full_bundle_equals_the_adapter_of_transformers(
    bundle_subject: Subject, tasks: Tasks, by_transformers: dict[str, Any]
) -> None:
    assert_equal(tasks.score(FlextronLM(bundle_subject, "full"), limit=5, samples=True), by_transformers)


@PANELS
def test_a_narrow_bundle_equals_the_narrow_checkpoint_and_not_the_full_one(
    torch_subject: Subject, bundle_subject: Subject, tasks: Tasks, by_transformers: dict[str, Any]
) -> None:
    narrow = tasks.score(FlextronLM(torch_subject, "crossed"), limit=5, samples=True)
    assert_equal(tasks.score(FlextronLM(bundle_subject, "crossed"), limit=5, samples=True), narrow)
    assert answers(narrow, "rolling") != pytest.approx(answers(by_transformers, "rolling"), abs=1)


def test_scores_come_back_in_the_order_of_the_requests_whatever_the_batch(torch_subject: Subject, tasks: Tasks) -> None:
    found = [tasks.score(FlextronLM(torch_subject, batch_size=b), limit=5, samples=True) for b in (1, "auto")]
    assert_equal(*found)


def test_sampled_texts_follow_the_seed(torch_subject: Subject) -> None:
    from lm_eval.api.instance import Instance

    options = {"do_sample": True, "temperature": 2.0, "top_k": 50, "max_gen_toks": 12, "until": []}
    requests = [Instance("generate_until", {}, (text, dict(options)), i) for i, text in enumerate(("one", "two"))]
    model = FlextronLM(torch_subject)
    first, again = (model.generate_until(requests, disable_tqdm=True) for _ in range(2))
    assert first == again and first[0] != first[1]
    with pytest.raises(InputError, match="256 new tokens leave no room"):
        model.generate_until([Instance("generate_until", {}, ("one", {"until": []}), 0)], disable_tqdm=True)


@pytest.mark.parametrize("kind", [str, dict])
def test_the_harness_knows_the_model_by_name(evaluated: Path, kind: type) -> None:
    import lm_eval
    from lm_eval.tasks import TaskManager

    arguments = {"path": str(evaluated / "bundle"), "budget": "small", "threads": 1}
    results = lm_eval.simple_evaluate(
        model="flextron",
        model_args=",".join(f"{k}={v}" for k, v in arguments.items()) if kind is str else arguments,
        device="cuda:0",  # what its command line passes by default
        tasks=TASKS[:1],
        limit=2,
        bootstrap_iters=0,
        task_manager=TaskManager(include_defaults=False),
    )
    assert results["config"]["budget"]["name"] == "small" and results["config"]["target"] == "onnxruntime-cpu"
    assert results["results"]["kjv_last_word"]["perplexity,none"] > 1


def test_unknown_tasks_are_named_with_what_is_meant(monkeypatch: pytest.MonkeyPatch) -> None:
    manager = "flextron_export.evaluation.tasks.TaskManager"

    class Few:  # the real list takes seconds to read
        all_tasks = ("arc_easy", "piqa")

        def __init__(self, include_defaults: bool) -> None:
            assert include_defaults

        def match_tasks(self, names: list[str]) -> list[str]:
            return [n for n in names if n in self.all_tasks]

    said: list[str] = []

    def track(items: Any, description: str, /) -> Any:
        said.append(description)
        return items

    monkeypatch.setattr(manager, Few)
    with pytest.raises(InputError, match=r"no such task: 'arc_eazy' \(did you mean arc_easy\?\); 'magic'"):
        Tasks(["arc_eazy", "piqa", "magic"], track)
    with pytest.raises(InputError, match=r"there is no task file nowhere\.yaml"):
        Tasks(["nowhere.yaml"], track)
    assert said == ["reading the harness's own tasks (up to a minute)"], "task files do without"


def test_a_task_file_that_is_none_is_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "bad.yaml").write_text("task: bad\noutput_type: loglikelihood\ncustom_dataset: !function no.thing\n")
    with pytest.raises(InputError, match=r"cannot be loaded: .*bad\.yaml: "):
        Tasks([str(tmp_path / "bad.yaml")])


@pytest.mark.slow
def test_data_that_cannot_be_had_are_named_with_the_way_to_get_them(evaluated: Path, tmp_path: Path) -> None:
    code = (
        "from flextron_export.evaluation.evaluate import evaluate\n"
        f"evaluate({str(evaluated / 'bundle')!r}, tasks=['arc_easy', 'mmlu'])"
    )
    environment = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "HF_HOME": str(tmp_path), "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, timeout=300)
    assert done.returncode == 1
    for words in ("arc_easy (allenai/ai2_arc ARC-Easy)", "mmlu (cais/mmlu)", "HF_HUB_OFFLINE=1", "TaskManager().load("):
        assert words in done.stderr


def test_without_the_library_the_extra_is_named() -> None:
    code = (
        "import sys; sys.modules['lm_eval'] = None\n"
        "from flextron_export.errors import MissingDependencyError\n"
        "try:\n    import flextron_export.evaluation.tasks\n"
        "except MissingDependencyError as error:\n    print(error)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env={"PYTHONPATH": str(ROOT)}
    )
    assert "flextron-export[eval]" in done.stdout
