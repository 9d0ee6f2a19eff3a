"""Generation as transformers does it, and what a running generation offers."""

import math
import threading

import numpy as np
import pytest

from flextron_export import Runner
from flextron_export.errors import InputError
from flextron_export.exporting import export
from flextron_export.runtime.logprobs import logprob

PROMPT = "the king went up to"


@pytest.fixture(scope="module")
def plain(pristine):
    with Runner(pristine, threads=1) as runner:
        yield runner


@pytest.fixture(scope="module")
def reference(tiny_checkpoint):
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(tiny_checkpoint).eval()


@pytest.fixture(scope="module")
def tiny(tiny_checkpoint, tmp_path_factory):
    out = tmp_path_factory.mktemp("generation") / "bundle"
    export(tiny_checkpoint, out, layouts=("panels",), dtypes=("fp32",), verify=False)
    with Runner(out, threads=1) as runner:
        yield runner


@pytest.mark.parametrize("penalty", [1.0, 1.3, 0.8])
def test_greedy_tokens_are_those_of_transformers(tiny, reference, penalty):
    import torch

    ids = tiny.tokenizer.encode(PROMPT)
    wanted = reference.generate(
        torch.tensor([ids]), max_new_tokens=24, do_sample=False, repetition_penalty=penalty, eos_token_id=None
    )[0, len(ids) :]
    found = list(tiny.generate_ids(ids, 24, repetition_penalty=penalty, stop_on_eos=False))
    assert found == wanted.tolist()


def test_log_probabilities_are_those_of_the_model(tiny, reference):
    import torch

    generation = tiny.generate(PROMPT, 8, temperature=1.5, top_k=9, seed=3, logprobs=4, stop_on_eos=False)
    generation.read()
    ids = tiny.tokenizer.encode(PROMPT)
    with torch.no_grad():
        logits = reference(torch.tensor([[*ids, *generation.tokens]])).logits[0, len(ids) - 1 : -1]
    wanted = logits.log_softmax(-1)
    assert len(generation.logprobs) == 8
    for entry, token, row in zip(generation.logprobs, generation.tokens, wanted, strict=True):
        assert entry.token == token and entry.logprob == pytest.approx(row[token].item(), abs=1e-3)
        assert [value for _, value in entry.top] == pytest.approx(row.topk(4).values.tolist(), abs=1e-3)


def test_the_likeliest_alternatives_come_best_first_and_equal_ones_in_order():
    entry = logprob(np.log(np.array([0.1, 0.2, 0.2, 0.5], np.float32)), 0, 3)
    assert entry.logprob == pytest.approx(math.log(0.1)) and [token for token, _ in entry.top] == [3, 1, 2]
    assert logprob(np.zeros(3, np.float32), 1, 0).top == () and len(logprob(np.zeros(3, np.float32), 1, 20).top) == 3


def test_an_answer_ends_before_a_stop_string_and_nothing_of_it_is_shown(plain):
    text = plain.generate(PROMPT, 40, stop_on_eos=False).read()
    stop = text[10:13]
    generation = plain.generate(PROMPT, 40, stop=stop, stop_on_eos=False)
    shown = "".join(generation)
    assert shown == generation.text == text[: text.index(stop)] and generation.stopped_by == "stop"
    # One that comes in no text, but whose beginning does, changes nothing.
    held = plain.generate(PROMPT, 40, stop=[stop + "\x00", text[-1:] + "\x00"], stop_on_eos=False)
    assert "".join(held) == text and held.stopped_by == "length"
    tokens = plain.generate_ids(PROMPT, 40, stop=stop, stop_on_eos=False)
    assert len(list(tokens)) == plain.timings.tokens < 40 and tokens.stopped_by == "stop"


@pytest.mark.parametrize("options", [{}, {"logprobs": 2}, {"stop": "\x00\x01"}])
def test_pieces_are_the_text(plain, options):
    generation = plain.generate(PROMPT, 30, temperature=1.0, seed=5, **options)
    pieces = list(generation)
    assert all(pieces) and "".join(pieces) == generation.text == plain.tokenizer.decode(generation.tokens)


def test_a_generation_can_be_cancelled_and_says_so(plain):
    generation = plain.generate_ids(PROMPT, 50, stop_on_eos=False)
    for _, _ in zip(range(3), generation, strict=False):
        pass
    generation.cancel()
    assert list(generation) == [] and generation.stopped_by == "cancelled"
    assert len(generation.tokens) == 3 == generation.timings.tokens


def test_a_prompt_is_cancelled_between_its_chunks(pristine):
    with Runner(pristine, threads=1, chunk=4) as runner:
        steps = []
        step = runner._session.get().step
        runner._session.get().step = lambda *call: (steps.append(1), generation.cancel(), step(*call))[-1]
        generation = runner.generate_ids([1] * 100, 5)
        assert list(generation) == [] and len(steps) == 1 and generation.stopped_by == "cancelled"


def test_an_abandoned_generation_says_it_was_cancelled(plain):
    generation = plain.generate(PROMPT, 30, stop_on_eos=False)
    next(generation)
    generation.close()
    assert generation.stopped_by == generation.timings.stopped_by == "cancelled"


def test_threads_share_a_runner_and_each_gets_its_own_answer(pristine):
    """Every budget, greedy and sampled, some with a common beginning, all at once."""
    with Runner(pristine, threads=1, prefix_cache=2) as runner:
        jobs = [
            (runner.select(budget=b.name), f"{PROMPT} {n % 2}", {"temperature": n % 3, "seed": n})
            for n, b in enumerate(runner.bundle.budgets * 3)
        ]

        def answer(selection, prompt, options):
            return list(runner.generate_ids(prompt, 12, selection=selection, stop_on_eos=False, **options))

        alone = [answer(*job) for job in jobs]
        together = [None] * len(jobs)

        def work(number):
            for _ in range(2):
                together[number] = answer(*jobs[number])

        threads = [threading.Thread(target=work, args=(n,)) for n in range(len(jobs))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        assert together == alone


def test_a_generation_runs_at_the_budget_that_was_selected_for_it(plain):
    narrow = plain.select(budget="p34")
    generation = plain.generate(PROMPT, 10, selection=narrow)
    assert generation.read() != plain.generate(PROMPT, 10).read()
    assert generation.selection is narrow and plain.selection.budget.name == "full"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"stop": ["x", ""]}, "stop string is empty"),
        ({"logprobs": 21}, "not between 0 and 20"),
        ({"logprobs": -1, "seed": -2}, "seed -2 is negative.*-1 log-probabilities"),
        ({"min_p": 2.0, "repetition_penalty": 0}, "min-p.*repetition"),
    ],
)
def test_options_that_cannot_be_used_are_named(plain, options, message):
    with pytest.raises(InputError, match=message):
        plain.generate("a", **options)


def test_an_unknown_option_is_a_mistake_of_the_caller(plain):
    with pytest.raises(TypeError, match="temprature"):
        plain.generate("a", temprature=1)
