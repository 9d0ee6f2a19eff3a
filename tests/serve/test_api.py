"""What the `openai` client gets from a real server process."""

from concurrent.futures import ThreadPoolExecutor

import httpx
import openai
import pytest

from tests.serve.server_process import TEMPLATE, TEXT

GREEDY = {"model": "tiny", "temperature": 0, "extra_body": {"ignore_eos": True}}
MESSAGES = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}]
CHAT_TEXT = "<system>Be brief.<user>Hi<assistant>"


def greedy(**extra):
    return {**GREEDY, "extra_body": {**GREEDY["extra_body"], **extra}}


def test_the_models_are_the_bundle_and_its_budgets(client, runner):
    names = [model.id for model in client.models.list()]
    assert names == ["tiny", *(f"tiny:{b.name}" for b in runner.bundle.budgets)]
    assert client.models.retrieve("tiny:p34").object == "model"
    with pytest.raises(openai.NotFoundError, match="no model 'other'"):
        client.models.retrieve("other")


def test_a_completion_is_what_the_runner_generates(client, runner):
    found = client.completions.create(prompt=TEXT, max_tokens=20, **GREEDY)
    assert found.object == "text_completion" and found.model == "tiny" and found.id.startswith("cmpl-")
    assert found.choices[0].text == runner.generate(TEXT, 20, stop_on_eos=False).read()
    assert found.choices[0].finish_reason == "length"
    usage = found.usage
    assert (usage.prompt_tokens, usage.completion_tokens, usage.total_tokens) == (len(TEXT), 20, len(TEXT) + 20)
    about = found.flextron
    assert about["budget"] == "full" and "widest" in about["reason"] and about["timings"][0]["p95"] > 0


@pytest.mark.parametrize("prompt", [[TEXT, "And God said"], [[1, 2, 3], [4, 5]], [7, 8, 9]])
def test_prompts_may_be_several_and_token_ids(client, runner, prompt):
    found = client.completions.create(prompt=prompt, max_tokens=8, **GREEDY)
    each = prompt if not isinstance(prompt[0], int) else [prompt]
    assert [c.index for c in found.choices] == list(range(len(each)))
    assert [c.text for c in found.choices] == [runner.generate(p, 8, stop_on_eos=False).read() for p in each]


def test_a_chat_is_what_the_runner_generates_after_the_template(client, runner):
    assert TEMPLATE.startswith("{%")
    found = client.chat.completions.create(messages=MESSAGES, max_completion_tokens=20, **GREEDY)
    message = found.choices[0].message
    assert message.role == "assistant"
    assert message.content == runner.generate(CHAT_TEXT, 20, stop_on_eos=False).read()
    parts = [{"role": "user", "content": [{"type": "text", "text": "H"}, {"type": "text", "text": "i"}]}]
    again = client.chat.completions.create(messages=[MESSAGES[0], *parts], max_completion_tokens=20, **GREEDY)
    assert again.choices[0].message.content == message.content


@pytest.mark.parametrize("chat", [False, True])
def test_a_stream_is_the_whole_answer_in_pieces(client, chat):
    ask = client.chat.completions.create if chat else client.completions.create
    given = {"messages": MESSAGES} if chat else {"prompt": TEXT}
    settings = {**given, **GREEDY, "max_tokens": 30}
    whole = ask(**settings)
    chunks = list(ask(**settings, stream=True, stream_options={"include_usage": True}))
    assert len(chunks) > 10 and len({c.id for c in chunks}) == 1
    parts = [c.choices[0] for c in chunks if c.choices]
    text = "".join((p.delta.content or "") if chat else p.text for p in parts)
    assert text == (whole.choices[0].message.content if chat else whole.choices[0].text)
    assert [p.finish_reason for p in parts[-2:]] == [None, "length"]
    assert chunks[-1].usage.completion_tokens == 30
    if chat:
        assert parts[0].delta.role == "assistant" and parts[1].delta.role is None
    assert chunks[0].flextron["budget"] == "full" and chunks[-2].flextron["timings"][0]["stopped_by"] == "length"


def test_several_answers_with_one_seed_differ_and_can_be_repeated(client, runner):
    settings = {"prompt": TEXT, "model": "tiny", "max_tokens": 12, "n": 3, "seed": 5, "temperature": 1.3}
    first = client.completions.create(**settings, extra_body={"ignore_eos": True, "top_k": 40})
    again = list(client.completions.create(**settings, stream=True, extra_body={"ignore_eos": True, "top_k": 40}))
    texts = [c.text for c in first.choices]
    streamed = ["".join(c.choices[0].text for c in again if c.choices[0].index == i) for i in range(3)]
    options = {"temperature": 1.3, "top_k": 40, "stop_on_eos": False}
    assert texts == streamed == [runner.generate(TEXT, 12, seed=5 + i, **options).read() for i in range(3)]
    assert len(set(texts)) == 3


def test_stop_strings_end_an_answer(client):
    text = client.completions.create(prompt=TEXT, max_tokens=40, **GREEDY).choices[0].text
    stop = text[8:11]
    found = client.completions.create(prompt=TEXT, max_tokens=40, stop=[stop, "\x00"], **GREEDY).choices[0]
    assert found.text == text[: text.index(stop)] and found.finish_reason == "stop"
    parts = client.completions.create(prompt=TEXT, max_tokens=40, stop=stop, stream=True, **GREEDY)
    assert "".join(p.choices[0].text for p in parts) == found.text


def test_log_probabilities(client, runner):
    wanted = runner.generate(TEXT, 6, logprobs=2, stop_on_eos=False)
    wanted.read()
    values = [pytest.approx(entry.logprob, abs=1e-4) for entry in wanted.logprobs]
    found = client.completions.create(prompt=TEXT, max_tokens=6, logprobs=2, **GREEDY).choices[0]
    assert found.logprobs.token_logprobs == values and len(found.logprobs.top_logprobs[0]) == 2
    assert len(found.logprobs.tokens) == len(found.logprobs.text_offset) == 6
    settings = {"messages": [{"role": "user", "content": TEXT}], "max_tokens": 6, "logprobs": True, "top_logprobs": 2}
    chat = client.chat.completions.create(**settings, **GREEDY).choices[0]
    content = chat.logprobs.content
    assert len(content) == 6 and [len(entry.top_logprobs) for entry in content] == [2] * 6
    assert content[0].logprob == pytest.approx(content[0].top_logprobs[0].logprob)
    streamed = client.chat.completions.create(**settings, stream=True, **GREEDY)
    entries = [e for c in streamed for e in (c.choices[0].logprobs.content if c.choices[0].logprobs else [])]
    assert [e.token for e in entries] == [e.token for e in content]


def test_a_budget_is_asked_for_by_name(client, runner):
    narrow = runner.generate(TEXT, 10, selection=runner.select(budget="p34"), stop_on_eos=False).read()
    by_model = client.completions.create(prompt=TEXT, max_tokens=10, **{**GREEDY, "model": "tiny:p34"})
    by_field = client.completions.create(prompt=TEXT, max_tokens=10, **greedy(budget="p34"))
    assert by_model.choices[0].text == by_field.choices[0].text == narrow
    assert by_model.flextron["budget"] == "p34" and "by name" in by_field.flextron["reason"]


def test_each_request_may_set_a_latency_target_and_learns_which_budget_and_why(client):
    loose = client.completions.create(prompt=TEXT, max_tokens=10, **greedy(latency_target_ms=10_000))
    assert loose.flextron["budget"] == "full" and "best budget that meets" in loose.flextron["reason"]
    assert loose.flextron["met"] is True and loose.flextron["numbers"]["ms_per_token"] > 0
    with pytest.raises(openai.BadRequestError, match="fastest") as refused:
        client.completions.create(prompt=TEXT, max_tokens=10, **greedy(latency_target_ms=1e-6))
    assert refused.value.code == "no_budget_fits" and "best_effort" in str(refused.value)
    effort = client.completions.with_raw_response.create(
        prompt=TEXT, max_tokens=10, **greedy(latency_target="1us,2us@8", best_effort=True)
    )
    about = effort.parse().flextron
    assert about["met"] is False and effort.headers["x-flextron-budget"] == about["budget"]
    assert about["timings"][0]["met"] is False


def test_a_conversation_does_not_compute_its_beginning_again(client):
    first = client.chat.completions.create(messages=MESSAGES, max_tokens=10, **GREEDY)
    answer = {"role": "assistant", "content": "ok"}
    more = [*MESSAGES, answer, {"role": "user", "content": "And then?"}]
    second = client.chat.completions.create(messages=more, max_tokens=10, **GREEDY)
    assert first.usage.prompt_tokens < second.usage.prompt_tokens
    assert second.usage.prompt_tokens_details.cached_tokens >= len("<system>Be brief.<user>Hi")


def test_threads_ask_at_once_and_each_gets_its_own_answer(client, runner):
    prompts = [f"{TEXT} {n}" for n in range(10)]
    wanted = [runner.generate(p, 15, stop_on_eos=False).read() for p in prompts]

    def ask(number):
        if number % 2:
            return client.completions.create(prompt=prompts[number], max_tokens=15, **GREEDY).choices[0].text
        chunks = client.completions.create(prompt=prompts[number], max_tokens=15, stream=True, **GREEDY)
        return "".join(chunk.choices[0].text for chunk in chunks)

    with ThreadPoolExecutor(len(prompts)) as pool:
        assert list(pool.map(ask, range(len(prompts)))) == wanted


def test_health_and_metrics(server, client):
    assert httpx.get(f"{server.address}/health").json() == {"status": "ok"}
    client.completions.create(prompt=TEXT, max_tokens=3, **greedy(latency_target_ms=10_000))
    text = httpx.get(f"{server.address}/metrics").text
    values = dict(line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#"))
    assert float(values['flextron_requests_total{path="/v1/completions",status="200"}']) >= 1
    assert float(values['flextron_generated_tokens_total{budget="full"}']) >= 3
    assert float(values['flextron_token_seconds_count{budget="full"}']) >= 2
    assert float(values['flextron_targets_total{budget="full",met="yes"}']) >= 1
    assert values["flextron_requests_waiting"] == "0.0"
