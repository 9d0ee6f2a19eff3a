"""Self-speculative decoding: the verifier's tokens, its distribution, one cache."""

import itertools

import numpy as np
import pytest

from flextron_export import Runner
from flextron_export.bundle.manifest import Bundle
from flextron_export.elastic.widths import Budget, LayerWidth
from flextron_export.errors import BundleError, InputError, TargetError
from flextron_export.runtime.drafting import Draft, can_draft
from flextron_export.runtime.opening import open_bundle
from flextron_export.runtime.rejection import Distribution
from flextron_export.runtime.sampling import Sampling
from flextron_export.runtime.sequence import LiveSequence
from tests.random_bundle import MAX_POSITIONS

PROMPTS = ["the king went up to", "a", list(range(60))]


def answers(runner, prompt, count, **options):
    generation = runner.generate_ids(prompt, count, **options)
    return list(generation), generation


@pytest.mark.parametrize("layout", ["panels", "shared", "per-budget"])
def test_greedy_answers_are_those_without_drafts(pristine, layout):
    """At every pair of budgets, several draft lengths and prompts, over a growing cache."""
    with Runner(pristine, threads=1, layout=layout, prefix_cache=0) as plain:
        verifiers, lengths = (["full", "p75"], [1, 3, 8]) if layout == "panels" else (["full"], [4])
        for verifier, draft, length in itertools.product(verifiers, ["p75", "p34"], lengths):
            if verifier == draft:
                continue
            with Runner(
                pristine, threads=1, layout=layout, budget=verifier, speculative=length, draft=draft, prefix_cache=0
            ) as runner:
                runner._session._session, session = plain._session.get(), runner._session.get()  # loaded once
                for prompt in PROMPTS:
                    wanted, _ = answers(plain, prompt, 40, selection=runner.selection, stop_on_eos=False)
                    found, generation = answers(runner, prompt, 40, stop_on_eos=False)
                    assert found == wanted
                    drafted = generation.timings.drafted
                    assert drafted.budget == draft and drafted.tokens > drafted.accepted >= 0 and drafted.rounds > 0
                    assert len(generation.timings.token_ms) == generation.timings.tokens - 1 == 39
                runner._session._session = session


def test_an_answer_ends_where_it_would_without_drafts(pristine):
    with Runner(pristine, threads=1) as plain, Runner(pristine, threads=1, speculative=5, draft="p75") as runner:
        tokens, _ = answers(plain, PROMPTS[0], 40, stop_on_eos=False)
        text = plain.tokenizer.decode(tokens)
        for options in [{"stop": text[7:10]}, {"stop": text[20:22], "logprobs": 2}, {"repetition_penalty": 1.4}]:
            wanted, reference = answers(plain, PROMPTS[0], 40, stop_on_eos=False, **options)
            found, generation = answers(runner, PROMPTS[0], 40, stop_on_eos=False, **options)
            assert found == wanted and generation.stopped_by == reference.stopped_by
            assert [entry.token for entry in generation.logprobs] == [entry.token for entry in reference.logprobs]
            assert len(generation.logprobs) == (len(found) if "logprobs" in options else 0)
        for count in (1, 2, 3, 7):
            assert answers(runner, PROMPTS[0], count, stop_on_eos=False)[0] == tokens[:count]
        # To the last slot of the cache.
        full = [3] * (MAX_POSITIONS - 20)
        wanted, reference = answers(plain, full, 500, stop_on_eos=False)
        found, generation = answers(runner, full, 500, stop_on_eos=False)
        assert found == wanted and generation.stopped_by == reference.stopped_by == "context"


def test_an_end_of_text_in_a_draft_ends_the_answer(pristine):
    with Runner(pristine, threads=1) as plain, Runner(pristine, threads=1, speculative=6, draft="p75") as runner:
        tokens, _ = answers(plain, PROMPTS[0], 30, stop_on_eos=False)
        for end in dict.fromkeys(tokens[3:9]):
            for one in (plain, runner):
                one.tokenizer.eos = frozenset([end])
            wanted, reference = answers(plain, PROMPTS[0], 30)
            found, generation = answers(runner, PROMPTS[0], 30)
            assert found == wanted == tokens[: tokens.index(end)]
            assert generation.stopped_by == reference.stopped_by == "eos"
            assert generation.timings.tokens == len(found) + 1


def test_what_was_drafted_leaves_no_trace_in_the_cache(pristine):
    """The next prompt goes on in the cache of a drafted answer as in that of a plain one."""
    with Runner(pristine, threads=1) as plain, Runner(pristine, threads=1, speculative=4) as runner:
        prompt = list(range(30))
        for _ in range(3):
            wanted, _ = answers(plain, prompt, 9, stop_on_eos=False)
            found, generation = answers(runner, prompt, 9, stop_on_eos=False)
            assert found == wanted
            prompt = [*prompt, *found, 5]
        assert generation.timings.reused_tokens >= 47


@pytest.mark.parametrize(
    "settings", [{"temperature": 1.0}, {"temperature": 0.7, "top_k": 12}, {"temperature": 1.2, "top_p": 0.8}]
)
def test_sampled_tokens_have_the_verifiers_distribution(pristine, settings):
    """The second and third token of many answers against the exact conditional distribution of the full model."""
    settings = {"top_k": 3, **settings}  # few outcomes, so that every cell of the test is filled
    sampling = Sampling(**settings)
    prompt, repeats = [65, 66, 67], 400
    opening = open_bundle(Bundle.open(pristine), threads=1)
    with Runner(pristine, threads=1, speculative=2, draft="p34") as runner:
        sequence = LiveSequence(opening.session(), runner.selection.budget, MAX_POSITIONS)

        def exact(tokens):
            sequence.cut(0)
            return Distribution.of(sampling, sequence.prefill([*prompt, *tokens]))

        expected: dict[tuple[int, ...], float] = {(): 1.0}
        for _ in range(3):
            longer = {}
            for tokens, probability in expected.items():
                distribution = exact(tokens)
                for token, share in zip(distribution.tokens, distribution.probabilities, strict=True):
                    longer[(*tokens, int(token))] = probability * float(share)
            expected = longer
        counts = dict.fromkeys(expected, 0)
        accepted = tokens = 0
        for seed in range(repeats):
            found, generation = answers(runner, prompt, 3, seed=seed, stop_on_eos=False, **settings)
            counts[tuple(found)] += 1  # a KeyError is a token that the filters forbid
            accepted += generation.timings.drafted.accepted
            tokens += generation.timings.drafted.tokens
    assert 0 < accepted < tokens
    chi2 = sum((counts[t] - repeats * p) ** 2 / (repeats * p) for t, p in expected.items() if repeats * p >= 1)
    cells = sum(repeats * p >= 1 for p in expected.values())
    assert chi2 < cells + 6 * (2 * cells) ** 0.5 + 10


def test_the_draft_reads_the_verifiers_cache_and_writes_behind_it(pristine):
    bundle = Bundle.open(pristine)
    session = open_bundle(bundle, threads=1).session()
    sequence = LiveSequence(session, bundle.budget("full"), MAX_POSITIONS)
    sequence.prefill(range(20))
    before = {name: array.copy() for name, array in sequence.cache.arrays.items()}
    draft = Draft(sequence, bundle.budget("p34"))
    first = draft.step(7, 0).copy()
    for name, array in sequence.cache.arrays.items():
        groups = bundle.budget("p34").layers[0].groups
        np.testing.assert_array_equal(array[:, :, :20], before[name][:, :, :20])
        assert array[:, :groups, 20].all() and not array[:, groups:, 20].any()
    sequence.append([7, 8])
    sequence.cut(20)
    sequence.reserve(100)  # the cache moves
    np.testing.assert_allclose(draft.step(7, 0), first, atol=1e-5)
    assert np.abs(sequence.decode(7) - first).max() > 1e-3


def test_a_draft_is_a_budget_no_wider_in_any_layer():
    def budget(*layers):
        return Budget("b", tuple(LayerWidth(*width) for width in layers))

    assert can_draft(budget((2, 64), (4, 32)), budget((4, 64), (4, 64)))
    assert not can_draft(budget((4, 32), (2, 64)), budget((2, 64), (4, 64)))
    assert not can_draft(budget((4, 64), (2, 64)), budget((4, 64), (2, 64)))


def test_what_cannot_draft_is_refused_by_name(pristine):
    with pytest.raises(InputError, match="'nine' is no way of drafting"):
        Runner(pristine, speculative="nine")
    with pytest.raises(InputError, match="full cannot draft for p75"):
        Runner(pristine, threads=1, budget="p75", speculative=2, draft="full")
    with pytest.raises(InputError, match="nothing is drafted"):
        Runner(pristine, threads=1, draft="p34")
    with pytest.raises(BundleError, match="p99"):
        Runner(pristine, threads=1, speculative=2, draft="p99")
    with Runner(pristine, threads=1, budget="p34", speculative=2) as runner:
        _, generation = answers(runner, [1], 3)
        assert "narrower than p34" in generation.timings.drafted.reason and not generation.timings.drafted.budget


def test_a_target_that_cannot_draft_says_so_before_anything_runs(pristine, monkeypatch):
    def refuse(*_):
        raise TargetError("tensorrt cannot run two budgets over one KV cache yet.")

    monkeypatch.setattr("flextron_export.targets.onnxruntime_cpu.OnnxRuntimeSession.narrowed", refuse)
    with pytest.raises(TargetError, match="two budgets over one"):
        Runner(pristine, threads=1, speculative="auto")
    Runner(pristine, threads=1).close()


def test_auto_measures_once_and_says_what_it_found(bundle):
    with Runner(bundle, threads=1, speculative="auto") as runner:
        wanted = None
        found, generation = answers(runner, PROMPTS[0], 20, stop_on_eos=False)
        reason = generation.timings.drafted.reason
        assert "times as fast" in reason
        assert bool(generation.timings.drafted.tokens) == (not reason.startswith("No drafts"))
    (file,) = (bundle.path / "latency").glob("*.drafts.json")
    kept = file.read_bytes()
    with Runner(bundle, threads=1, speculative="auto") as runner:
        assert answers(runner, PROMPTS[0], 20, stop_on_eos=False)[1].timings.drafted.reason == reason
    assert file.read_bytes() == kept
    with Runner(bundle, threads=1) as plain:
        wanted, _ = answers(plain, PROMPTS[0], 20, stop_on_eos=False)
    assert found == wanted
    file.write_text("{")
    with Runner(bundle, threads=1, speculative="auto") as runner:
        assert answers(runner, PROMPTS[0], 20, stop_on_eos=False)[0] == wanted
    assert file.stat().st_size > 100
