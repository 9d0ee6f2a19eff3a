"""The runner on a real bundle: what it generates does not depend on how the work is cut."""

import json
from types import SimpleNamespace

import numpy as np
import pytest

from flextron_export import Runner
from flextron_export.bundle.manifest import Bundle
from flextron_export.elastic.widths import Budget
from flextron_export.errors import BundleError, InputError, NoBudgetFitsError
from flextron_export.runtime.capacity import capacity_for
from flextron_export.runtime.sequence import LiveSequence
from tests.random_bundle import MAX_POSITIONS

LAYOUTS = ("panels", "shared", "per-budget")
PROMPT = "In the beginning God created the heaven and the earth."


@pytest.fixture(params=LAYOUTS)
def runner(request, pristine):
    with Runner(pristine, layout=request.param, budget="full", threads=1) as runner:
        yield runner


@pytest.fixture(scope="module")
def plain(pristine):
    with Runner(pristine, threads=1) as runner:
        yield runner


def decode_all(runner, prompt, count, **options):
    """Greedy tokens and all logits of a sequence that is set up with `options`."""
    sequence = LiveSequence(runner._session.get(), runner.selection.budget, MAX_POSITIONS, **options)
    rows = [sequence.prefill(prompt).copy()]
    for _ in range(count):
        rows.append(sequence.decode(int(rows[-1].argmax())).copy())
    return [int(row.argmax()) for row in rows], np.array(rows), sequence


def test_a_cache_that_grows_gives_the_tokens_of_a_large_one(runner):
    prompt = runner.tokenizer.encode(PROMPT)
    grown, grown_logits, sequence = decode_all(runner, prompt, 140)
    assert sequence.cache.capacity == capacity_for(len(prompt) + 140, MAX_POSITIONS) > 64
    large, large_logits, _ = decode_all(runner, prompt, 140, capacity=MAX_POSITIONS)
    assert grown == large
    assert np.abs(grown_logits - large_logits).max() < 1e-4


@pytest.mark.parametrize("chunk", [1, 7, 53])
def test_prefill_in_chunks_equals_prefill_at_once(runner, chunk):
    prompt = runner.tokenizer.encode(PROMPT)
    whole, whole_logits, _ = decode_all(runner, prompt, 5, chunk=len(prompt))
    parts, parts_logits, _ = decode_all(runner, prompt, 5, chunk=chunk)
    assert whole == parts
    assert np.abs(whole_logits - parts_logits).max() < 1e-4


def test_layouts_generate_the_same_tokens(pristine):
    found = []
    for layout in LAYOUTS:
        with Runner(pristine, layout=layout, budget="p59", threads=1) as runner:
            found.append(list(runner.generate_ids(PROMPT, 20)))
    assert found[0] == found[1] == found[2]


def test_budgets_differ(pristine):
    texts = set()
    for budget in Bundle.open(pristine).budgets:
        with Runner(pristine, budget=budget.name, threads=1) as runner:
            texts.add(tuple(runner.generate_ids(PROMPT, 20)))
    assert len(texts) == len(Bundle.open(pristine).budgets)


def test_a_short_context_keeps_a_small_cache(plain):
    _, _, sequence = decode_all(plain, [1, 2, 3], 10)
    assert sequence.cache.capacity == 64


def test_capacities_grow_in_steps_up_to_the_maximum():
    steps = sorted({capacity_for(n) for n in range(2049)})
    assert steps == [64, 128, 192, 256, 384, 512, 768, 1024, 1536, 2048]
    assert all(capacity_for(n) >= n for n in range(5000))
    assert capacity_for(130, 150) == 150 and capacity_for(1, 10) == 10


def test_same_seed_same_text_and_another_seed_another_text(plain):
    def text(seed):
        return "".join(plain.generate(PROMPT, 30, temperature=1.0, top_k=50, top_p=0.95, seed=seed))

    assert text(1) == text(1) != text(2)


def test_pieces_are_the_text_of_the_ids(plain):
    ids = list(plain.generate_ids(PROMPT, 40))
    assert "".join(plain.generate(PROMPT, 40)) == plain.tokenizer.decode(ids)


def test_timings_count_every_token(plain):
    tokens = list(plain.generate_ids(PROMPT, 12, stop_on_eos=False))
    timings = plain.timings
    assert (timings.tokens, len(timings.token_ms), len(tokens)) == (12, 11, 12)
    assert timings.stopped_by == "length" and timings.prompt_tokens == len(PROMPT)
    assert timings.first_token_ms > 0 and timings.p50 <= timings.p95
    assert timings.met is None
    assert json.loads(json.dumps(timings.to_json()))["tokens"] == 12


def test_the_callers_time_is_not_counted(plain):
    import time

    for _ in plain.generate_ids(PROMPT, 4, stop_on_eos=False):
        time.sleep(0.2)
    assert sum(plain.timings.token_ms) < 500


def test_generation_stops_when_the_cache_is_full(plain):
    prompt = list(range(1, MAX_POSITIONS - 3))
    tokens = list(plain.generate_ids(prompt, 50, stop_on_eos=False))
    # The last token needs no slot: nothing is computed after it.
    assert len(tokens) == MAX_POSITIONS - len(prompt) + 1
    assert plain.timings.stopped_by == "context"


def test_generation_stops_at_the_end_of_text(plain, monkeypatch):
    first = next(plain.generate_ids(PROMPT, 1))
    monkeypatch.setattr(plain.tokenizer, "eos", frozenset([first]))
    assert list(plain.generate_ids(PROMPT, 5)) == []
    assert plain.timings.stopped_by == "eos"
    assert next(plain.generate_ids(PROMPT, 5, stop_on_eos=False)) == first


def test_a_prompt_that_fills_the_cache_is_answered_and_a_longer_one_refused_with_numbers(plain):
    assert len(list(plain.generate_ids([5] * MAX_POSITIONS, 3))) == 1
    with pytest.raises(InputError, match=f"{MAX_POSITIONS + 1} tokens; the cache holds at most {MAX_POSITIONS}"):
        plain.generate_ids([5] * (MAX_POSITIONS + 1))


@pytest.mark.parametrize(
    ("prompt", "settings", "message"),
    [
        ([], {}, "empty"),
        ("", {}, "empty"),
        ([1, 257], {}, "outside the vocabulary"),
        ([-1], {}, "outside the vocabulary"),
        ([1], {"max_new_tokens": 0}, "nothing to generate"),
        ([1], {"temperature": -1, "top_p": 0, "top_k": -2}, "temperature.*top-k.*top-p"),
    ],
)
def test_bad_input_is_refused_before_anything_runs(plain, prompt, settings, message):
    with pytest.raises(InputError, match=message):
        plain.generate(prompt, **settings)


def test_without_a_target_the_widest_budget_runs_and_nothing_is_measured(bundle):
    with Runner(bundle, threads=1) as runner:
        assert runner.selection.budget.name == "full" and runner.table is None
    assert not (bundle.path / "latency").exists()


def test_a_budget_that_was_not_exported_is_named(pristine):
    with pytest.raises(BundleError, match="'p99' was not exported"):
        Runner(pristine, budget="p99")


def test_contradicting_arguments(pristine):
    with pytest.raises(InputError, match="latency target and a budget"):
        Runner(pristine, "20ms", budget="full")
    with pytest.raises(InputError, match="calibration 'sometimes'"):
        Runner(pristine, "20ms", calibration="sometimes")
    with pytest.raises(InputError, match="0 threads"):
        Runner(pristine, threads=0)


def test_an_altered_file_is_noticed_unless_hashes_are_off(bundle):
    path = bundle.path / "tokenizer.json"
    path.write_bytes(path.read_bytes().replace(b'"version"', b'"vertion"'))
    with pytest.raises(BundleError, match=r"tokenizer\.json was altered"):
        Runner(bundle.path)
    Runner(bundle.path, verify_hashes=False).close()


def test_a_closed_runner_says_so(pristine):
    with Runner(pristine, threads=1) as runner:
        running = runner.generate_ids([1], 5, stop_on_eos=False)
        next(running)
    with pytest.raises(InputError, match="closed"):
        runner.generate([1])
    with pytest.raises(InputError, match="closed"):
        next(running)


def test_two_generations_at_once_do_not_disturb_each_other(plain):
    alone = list(plain.generate_ids([1, 2, 3], 10)), list(plain.generate_ids([9, 8], 10))
    first, second = plain.generate_ids([1, 2, 3], 10), plain.generate_ids([9, 8], 10)
    together = list(zip(first, second, strict=True))
    assert together == list(zip(*alone, strict=True))


def test_a_target_calibrates_once_says_so_and_selects(bundle, caplog):
    with Runner(bundle, "10s", threads=1) as runner:
        assert runner.selection.budget.name == "full" and "best budget that meets" in runner.selection.reason
        assert [r.why for r in runner.selection.rejected] == ["lower-quality"] * (len(bundle.budgets) - 1)
        assert len(list(runner.generate_ids(PROMPT, 3, stop_on_eos=False))) == 3
        assert runner.timings.met is True
    assert caplog.text.count("Measuring now") == 1
    caplog.clear()
    with pytest.raises(NoBudgetFitsError, match="the fastest"):
        Runner(bundle, "1us", threads=1, calibration="never")
    with Runner(bundle, "1us", threads=1, best_effort=True) as runner:
        assert not runner.selection.met
        list(runner.generate_ids(PROMPT, 3, stop_on_eos=False))
        assert runner.timings.met is False
    assert "Measuring now" not in caplog.text


def test_never_calibrating_names_the_command(pristine):
    with pytest.raises(InputError, match="calibrate"):
        Runner(pristine, "5s", calibration="never")


def test_a_session_that_rounds_capacities_up_is_asked_to_grow_only_when_it_is_full():
    """Compiled engines have caches of certain sizes only. This one, in numpy, counts on from the last token."""
    budget, calls = Budget("full", ()), []

    class Engine:
        max_capacity = 300

        def new_cache(self, budget, batch, capacity):
            calls.append(("new", capacity))
            return SimpleNamespace(budget=budget, batch=batch, capacity=100)

        def grow(self, cache, capacity):
            calls.append(("grow", capacity))
            cache.capacity = 300

        def step(self, cache, ids, positions, write, rows):
            assert positions[0, 0] == write[0] and positions[0, -1] < cache.capacity
            return np.eye(256, dtype=np.float32)[(ids[0, rows] + 1) % 256]

    sequence = LiveSequence(Engine(), budget, 300)
    assert sequence.prefill(list(range(50))).argmax() == 50
    for token in range(50, 150):
        assert sequence.decode(token).argmax() == token + 1
    assert calls == [("new", 64), ("grow", 128)]


def test_a_negative_seed_is_refused(pristine):
    with Runner(pristine, budget="full", threads=1) as runner, pytest.raises(InputError, match="seed -1 is negative"):
        runner.generate("a", seed=-1)


def test_the_advice_to_calibrate_measures_what_was_missing(pristine):
    with pytest.raises(InputError) as caught:
        Runner(pristine, "5s", calibration="never", layout="shared", threads=1, low_memory=True)
    wanted = "--target onnxruntime-cpu --layout shared --dtype fp32 --threads 1 --low-memory"
    assert caught.value.fix.endswith(wanted)
