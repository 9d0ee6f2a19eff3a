"""Bad requests, bad clients, limits and the end of a server; always an answer that says what is wrong."""

import json
import signal
import socket
import threading
import time
from contextlib import suppress

import httpx
import openai
import pytest

from tests.serve.server_process import TEXT, Server, running

GREEDY = {"model": "tiny", "temperature": 0, "extra_body": {"ignore_eos": True}}
LONG = {"prompt": TEXT, "max_tokens": 5000, "stream": True, **GREEDY}


def post(server, body, path="/v1/completions", **options):
    content = body if isinstance(body, (bytes, str)) else json.dumps(body)
    return httpx.post(f"{server.address}{path}", content=content, timeout=30, **options)


def error(response, status):
    assert response.status_code == status, response.text
    found = response.json()["error"]
    assert set(found) == {"message", "type", "param", "code"} and found["message"]
    return found["message"]


@pytest.mark.parametrize(
    ("body", "part"),
    [
        ("", "no JSON"),
        ("{", "no JSON"),
        ("[1]", "no object"),
        (b"\xff\xfe{}", "no JSON"),
        ("[" * 100_000, "no JSON"),
        ('{"a":' * 100_000, "no JSON"),
        ({}, "model: Field required; prompt: Field required"),
        ({"model": "tiny", "prompt": 5}, "prompt"),
        ({"model": "tiny", "prompt": TEXT, "max_tokens": "many"}, "max_tokens"),
        ({"model": "tiny", "prompt": TEXT, "max_tokens": -1}, "nothing to generate"),
        ({"model": "tiny", "prompt": TEXT, "temprature": 1}, "temprature"),
        ({"model": "tiny", "prompt": TEXT, "tools": []}, "tools"),
        ({"model": "tiny", "prompt": TEXT, "presence_penalty": 1}, "presence_penalty"),
        ({"model": "tiny", "prompt": TEXT, "seed": -1}, "seed"),
        ('{"model": "tiny", "prompt": "a", "temperature": NaN}', "temperature"),
        ('{"model": "tiny", "prompt": "a", "top_p": 1e999}', "top-p"),
        ('{"model": "tiny", "prompt": "a", "max_tokens": ' + "9" * 5000 + "}", "no JSON"),
        ({"model": "tiny", "prompt": TEXT, "top_p": 0, "top_k": -3}, "top-k -3 is negative; top-p"),
        ({"model": "tiny", "prompt": ""}, "empty"),
        ({"model": "tiny", "prompt": []}, "empty"),
        ({"model": "tiny", "prompt": [[1], []]}, "empty"),
        ({"model": "tiny", "prompt": [257]}, "outside the vocabulary"),
        ({"model": "tiny", "prompt": TEXT, "stop": [""]}, "stop string is empty"),
        ({"model": "tiny", "prompt": TEXT, "n": 9}, "8 are allowed"),
        ({"model": "tiny", "prompt": [TEXT] * 3, "n": 3}, "9 answers were asked for; 8 are allowed"),
        ({"model": "tiny", "prompt": TEXT, "stop": ["x"] * 17}, "stop"),
        ({"model": "tiny", "prompt": TEXT, "stop": "x" * 1001}, "stop"),
        ({"model": "x" * 1000, "prompt": TEXT}, "model"),
        ({"model": "tiny", "prompt": "x" * 6001}, "6001 tokens; at most 6000"),
        ({"model": "tiny", "prompt": TEXT, "latency_target": "soon"}, "not a target"),
        ({"model": "tiny", "prompt": TEXT, "latency_target_ms": -5}, "positive"),
        ({"model": "tiny:p34", "prompt": TEXT, "latency_target_ms": 5}, "one of them"),
        ({"model": "tiny", "prompt": TEXT, "latency_target_ms": 5, "latency_target": "5ms"}, "either"),
    ],
    ids=lambda value: str(value)[:50],
)
def test_a_request_that_cannot_be_used_is_refused_with_its_fault(server, body, part):
    assert part in error(post(server, body), 400)


@pytest.mark.parametrize(
    ("messages", "part"),
    [
        ([], "messages"),
        ([{"role": "wizard", "content": "x"}], "role"),
        ([{"role": "user"}], "content"),
        ([{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "file:///etc/passwd"}}]}], "content"),
    ],
)
def test_a_conversation_that_cannot_be_used_is_refused(server, messages, part):
    body = {"model": "tiny", "messages": messages}
    assert part in error(post(server, body, "/v1/chat/completions"), 400)


@pytest.mark.parametrize("model", ["other", "tiny:p99", "../bundle", "/etc/passwd", ""])
def test_an_unknown_model_or_budget_is_named(server, model):
    assert "There are: " in error(post(server, {"model": model, "prompt": TEXT}), 404)
    assert "p34" in error(post(server, {"model": "tiny", "budget": "p1", "prompt": TEXT}), 404)


@pytest.mark.parametrize(
    "path", ["/", "/etc/passwd", "/..%2f..%2fetc/passwd", "/v1/models/..%2f..%2fmanifest.json", "/static/x", "/docs"]
)
def test_no_path_leads_to_a_file(server, path):
    error(httpx.get(f"{server.address}{path}"), 404)


def test_other_methods_are_refused(server):
    error(httpx.get(f"{server.address}/v1/completions"), 405)


def test_a_body_that_is_too_large_is_refused_before_it_is_read(server):
    large = b" " * (1 << 21)
    assert "1048576 bytes" in error(post(server, large), 413)

    def chunks():
        for _ in range(64):
            yield b" " * (1 << 15)

    with suppress(httpx.WriteError, httpx.ReadError):  # the server may close before all is sent
        assert "1048576 bytes" in error(httpx.post(f"{server.address}/v1/completions", content=chunks()), 413)
    assert httpx.get(f"{server.address}/health").status_code == 200


def raw(server, data):
    connection = socket.create_connection((server.host, server.port), timeout=20)
    connection.sendall(data)
    return connection


HEAD = b"POST /v1/completions HTTP/1.1\r\nhost: x\r\ncontent-length: 50\r\n\r\n"


def test_a_client_that_sends_its_body_too_slowly_is_told_and_others_are_served_meanwhile(server):
    slow = [raw(server, HEAD + b'{"model"') for _ in range(5)]
    assert post(server, {"model": "tiny", "prompt": TEXT, "max_tokens": 2}).status_code == 200
    for connection in slow:
        assert b"408" in connection.recv(4096).split(b"\r\n")[0]
        connection.close()


@pytest.mark.parametrize(
    "data",
    [b"", b"\x00" * 100, b"GET\r\n\r\n", HEAD[:-2], HEAD + b"{", b"POST / HTTP/1.1\r\ncontent-length: -5\r\n\r\n"],
    ids=["nothing", "zeros", "no request", "half a head", "half a body", "negative length"],
)
def test_a_broken_client_disturbs_nobody(server, data):
    raw(server, data).close()
    assert post(server, {"model": "tiny", "prompt": TEXT, "max_tokens": 2}).status_code == 200


def metric(server, name):
    lines = httpx.get(f"{server.address}/metrics").text.splitlines()
    return next((float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith(name)), 0.0)


def eventually(check, seconds=20):
    end = time.monotonic() + seconds
    while not check():
        assert time.monotonic() < end
        time.sleep(0.05)


CANCELLED = 'flextron_generations_total{budget="full",reason="cancelled"}'


def test_a_client_that_goes_away_ends_its_generation(server, client):
    before = metric(server, CANCELLED)
    stream = client.completions.create(**LONG)
    next(iter(stream))
    stream.close()
    eventually(lambda: metric(server, CANCELLED) == before + 1)
    impatient = server.client(timeout=0.5)
    with pytest.raises(openai.APITimeoutError):
        impatient.completions.create(prompt=TEXT, max_tokens=5900, **GREEDY)
    eventually(lambda: metric(server, CANCELLED) == before + 2)
    eventually(lambda: metric(server, "flextron_requests_running") == 0)


def test_a_client_that_reads_slowly_holds_no_place(server, client):
    """Its answer waits in the server; others are served."""
    body = json.dumps({"model": "tiny", "prompt": TEXT, "max_tokens": 300, "stream": True, "ignore_eos": True}).encode()
    head = b"POST /v1/completions HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n" % len(body)
    slow = [raw(server, head + body) for _ in range(3)]  # more than run at once
    assert client.completions.create(prompt=TEXT, max_tokens=2, **GREEDY).choices[0].text
    for connection in slow:
        found = b""
        while b"[DONE]" not in found:
            part = connection.recv(65536)
            assert part
            found += part
        connection.close()


@pytest.fixture(scope="module")
def narrow(served):
    """A server with one place and no queue."""
    options = ("--parallel", 1, "--waiting", 0, "--max-body", 4000, "--max-prompt", 100, "--max-new-tokens", 5500)
    with running(served, *options, "--api-key", "secret") as server:
        yield server


def test_one_request_too_many_is_refused_and_served_when_a_place_is_free(narrow):
    client = narrow.client(api_key="secret")
    stream = client.completions.create(**LONG)
    next(iter(stream))
    with pytest.raises(openai.RateLimitError, match="try again") as refused:
        client.completions.create(prompt=TEXT, max_tokens=1, **GREEDY)
    assert refused.value.response.headers["retry-after"] == "1"
    stream.close()
    patient = narrow.client(api_key="secret", max_retries=8)
    assert patient.completions.create(prompt=TEXT, max_tokens=1, **GREEDY).choices[0].finish_reason == "length"


def test_limits_can_be_set(narrow):
    key = {"authorization": "Bearer secret"}
    assert "100 are allowed" in error(post(narrow, {"model": "tiny", "prompt": "x" * 101}, headers=key), 400)
    assert "4000 bytes" in error(post(narrow, " " * 4001, headers=key), 413)


def test_a_key_is_asked_for_everywhere_but_for_the_health(narrow):
    with pytest.raises(openai.AuthenticationError, match="key"):
        narrow.client(api_key="wrong").models.list()
    error(httpx.get(f"{narrow.address}/metrics"), 401)
    assert httpx.get(f"{narrow.address}/health").status_code == 200


def test_a_client_that_goes_away_leaves_the_queue(server, client):
    streams = [client.completions.create(**{**LONG, "max_tokens": 5900}) for _ in range(2)]  # every place
    for stream in streams:
        next(iter(stream))
    impatient = server.client(timeout=0.3)
    with pytest.raises(openai.APITimeoutError):
        impatient.completions.create(prompt=TEXT, max_tokens=1, **GREEDY)
    eventually(lambda: metric(server, "flextron_requests_waiting") == 0)
    assert metric(server, "flextron_requests_running") == 2
    for stream in streams:
        stream.close()
    eventually(lambda: metric(server, "flextron_requests_running") == 0)


def test_a_full_queue_is_left_after_a_while(served):
    with running(served, "--parallel", 1, "--waiting", 4, "--wait", 0.3) as server:
        client = server.client()
        stream = client.completions.create(**LONG)
        next(iter(stream))
        with pytest.raises(openai.InternalServerError, match="No place was free"):
            client.completions.create(prompt=TEXT, max_tokens=1, **GREEDY)
        stream.close()


def test_a_running_answer_is_finished_when_the_server_is_told_to_stop(served):
    server = Server(served)
    stream = iter(server.client().completions.create(**{**LONG, "max_tokens": 2000}))
    chunks = [next(stream)]
    ended = []
    stopping = threading.Thread(target=lambda: ended.append(server.end()))
    stopping.start()
    chunks += list(stream)
    stopping.join()
    assert chunks[-1].choices[0].finish_reason == "length" and len(chunks) > 500
    code, written = ended[0]
    assert code == 0 and "Traceback" not in written, written
    with pytest.raises(openai.APIConnectionError):
        server.client().models.list()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_an_answer_that_takes_too_long_does_not_keep_a_server_from_stopping(served, number):
    server = Server(served, "--grace", 0)
    stream = iter(server.client().completions.create(**{**LONG, "max_tokens": 5900}))
    next(stream)
    start = time.monotonic()
    server.process.send_signal(number)
    with pytest.raises(openai.APIError, match="stopped before the answer was complete"):
        list(stream)
    code, written = server.end(None)
    assert code == 0 and time.monotonic() - start < 15 and "Traceback" not in written, written


def test_a_port_that_is_taken_is_named(served):
    from click.testing import CliRunner

    from flextron_export.cli import main

    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = CliRunner().invoke(main, ["serve", str(served), "--port", str(port), "--threads", "1"])
    assert done.exit_code == 3 and f"127.0.0.1:{port} cannot be listened on" in done.stderr


def test_settings_that_make_no_sense_are_all_named():
    from flextron_export.errors import InputError
    from flextron_export.serve.settings import ServeSettings

    with pytest.raises(InputError, match=r"colon; parallel 0 is below 1; .*wait_seconds.*prompt_tokens 0 is below 1"):
        ServeSettings("a:b", parallel=0, wait_seconds=float("nan"), prompt_tokens=0).validate()
