"""The model in a real Triton server.

$FLEXTRON_TRITON is a directory with `bin/tritonserver` and `backends/python`, such as `pytriton/tritonserver` of the
wheel nvidia-pytriton with the stub for this Python copied beside the backend. $FLEXTRON_TRITON_SITE is a directory with
packages for it: numpy of a version that its backend knows, tokenizers, onnxruntime.
"""

import json
import os
import socket
import subprocess
import time
from pathlib import Path

import httpx
import pytest

from flextron_export import Runner
from flextron_export.triton.repository import triton

ROOT = Path(__file__).resolve().parents[2]
TRITON, SITE = os.environ.get("FLEXTRON_TRITON"), os.environ.get("FLEXTRON_TRITON_SITE")
TEXT = "In the beginning"

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not (TRITON and SITE), reason="$FLEXTRON_TRITON and $FLEXTRON_TRITON_SITE name no Triton"),
]


@pytest.fixture(scope="module")
def address(pristine, tmp_path_factory):
    repository = tmp_path_factory.mktemp("repository")
    model = triton(pristine, repository, name="tiny", threads=1, parallel=2) / "1" / "model.py"
    model.write_text(f"import sys\nsys.path[:0] = {[str(ROOT), SITE]!r}\n{model.read_text()}")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    words = [
        f"{TRITON}/bin/tritonserver",
        "--model-repository",
        repository,
        "--backend-directory",
        f"{TRITON}/backends",
    ]
    words += ["--http-address", "127.0.0.1", "--http-port", port, "--allow-grpc", "false", "--allow-metrics", "false"]
    log = (repository.parent / "log").open("w+")
    process = subprocess.Popen([str(word) for word in words], stdout=log, stderr=subprocess.STDOUT)
    try:
        address = f"http://127.0.0.1:{port}"
        end = time.monotonic() + 60
        while True:
            assert process.poll() is None and time.monotonic() < end, Path(log.name).read_text()
            try:
                if httpx.get(f"{address}/v2/health/ready").status_code == 200:
                    break
            except httpx.TransportError:
                time.sleep(0.3)
        yield f"{address}/v2/models/tiny"
    finally:
        process.terminate()
        process.wait(40)
        log.close()


@pytest.fixture(scope="module")
def runner(pristine):
    with Runner(pristine, threads=1) as runner:
        yield runner


def test_an_answer_is_that_of_the_runner(address, runner):
    body = {"text_input": TEXT, "max_tokens": 12, "ignore_eos": True, "temperature": 0.5, "seed": 3, "stop": ["\x00"]}
    found = httpx.post(f"{address}/generate", json=body, timeout=30).json()
    wanted = runner.generate(TEXT, 12, temperature=0.5, seed=3, stop=["\x00"], stop_on_eos=False)
    assert found["text_output"] == wanted.read()
    assert (found["budget"], found["finish_reason"]) == ("full", wanted.stopped_by)


def test_a_stream_is_the_answer_in_pieces(address, runner):
    body = {"text_input": TEXT, "max_tokens": 12, "ignore_eos": True, "stream": True, "budget": "p34"}
    lines = httpx.post(f"{address}/generate_stream", json=body, timeout=30).text.splitlines()
    events = [json.loads(line[len("data: ") :]) for line in lines if line]
    wanted = runner.generate(TEXT, 12, selection=runner.select(budget="p34"), stop_on_eos=False).read()
    assert "".join(event["text_output"] for event in events) == wanted and len(events) > 3
    assert [event["finish_reason"] for event in events[-2:]] == ["", "length"]


def test_errors_reach_the_client(address):
    for body, part in (({}, "One of text_input"), ({"text_input": TEXT, "budget": "p1"}, "p34")):
        found = httpx.post(f"{address}/generate", json=body, timeout=30)
        assert found.status_code == 400 and part in found.json()["error"]
