"""The model as Triton calls it, with Python objects in place of Triton's; test_server.py runs it in Triton itself."""

import json
import sys
import threading
from types import SimpleNamespace

import numpy as np
import pytest

from flextron_export import Runner
from flextron_export.triton.repository import triton
from tests.triton.test_repository import parse

TEXT = "In the beginning"
FINAL = 1


class Sender:
    """Collects responses until the final one."""

    def __init__(self):
        self.responses, self.ended, self.cancelled = [], threading.Event(), False

    def send(self, response, flags=0):
        assert not self.ended.is_set()
        self.responses.append(response)
        if flags == FINAL:
            self.ended.set()

    def is_cancelled(self):
        return self.cancelled


class Request:
    def __init__(self, **inputs):
        self.inputs, self.sender = inputs, Sender()

    def get_response_sender(self):
        return self.sender

    def texts(self, name="text_output"):
        assert self.sender.ended.wait(30)
        return [response.values[name] for response in self.sender.responses if response.error is None]

    def error(self):
        assert self.sender.ended.wait(30) and len(self.sender.responses) == 1
        return self.sender.responses[0].error


class TritonError(Exception):
    INVALID_ARG, INTERNAL = "invalid", "internal"


class Response:
    def __init__(self, output_tensors=(), error=None):
        self.values = {name: value[0].decode() for name, value in output_tensors}
        self.error = error


def tensor(request, name):
    if name not in request.inputs:
        return None
    values = np.array(request.inputs[name], ndmin=1)
    if values.dtype.kind == "U":
        values = np.array([value.encode() for value in values.tolist()], np.object_)
    return SimpleNamespace(as_numpy=lambda: values)


@pytest.fixture(scope="module")
def model(pristine, tmp_path_factory):
    utils = SimpleNamespace(
        TRITONSERVER_RESPONSE_COMPLETE_FINAL=FINAL,
        TritonError=TritonError,
        InferenceResponse=Response,
        Tensor=lambda name, array: (name, array),
        get_input_tensor_by_name=tensor,
    )
    path = triton(pristine, tmp_path_factory.mktemp("model"), name="tiny", threads=1, parallel=2, budget="p75")
    parameters = parse((path / "config.pbtxt").read_text())["parameters"]
    config = {"parameters": {p["key"][0]: {"string_value": p["value"][0]["string_value"][0]} for p in parameters}}
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "triton_python_backend_utils", utils)
        patch.syspath_prepend(str(path / "1"))
        from model import TritonPythonModel

        model = TritonPythonModel()
        model.initialize({"model_config": json.dumps(config), "model_repository": str(path), "model_version": "1"})
        yield model
        model.finalize()


def ask(model, **inputs):
    request = Request(**inputs)
    model.execute([request])
    return request


@pytest.fixture(scope="module")
def runner(pristine):
    with Runner(pristine, threads=1, budget="p75") as runner:
        yield runner


def test_an_answer_is_that_of_the_runner(model, runner):
    wanted = runner.generate(TEXT, 12, temperature=0.9, seed=3, stop_on_eos=False).read()
    request = ask(model, text_input=TEXT, max_tokens=12, temperature=0.9, seed=3, ignore_eos=True)
    assert request.texts() == [wanted] and request.texts("finish_reason") == ["length"]
    assert request.texts("budget") == ["p75"] and "by name" in request.texts("reason")[0]


def test_a_stream_is_the_answer_in_pieces_and_its_end(model, runner):
    wanted = list(runner.generate(TEXT, 12, stop_on_eos=False))
    request = ask(model, input_ids=runner.tokenizer.encode(TEXT), max_tokens=12, ignore_eos=True, stream=True)
    assert request.texts() == [*wanted, ""]
    assert request.texts("finish_reason") == [*[""] * len(wanted), "length"]


def test_requests_run_at_once_and_each_gets_its_own_answer(model, runner):
    requests = [Request(text_input=f"{TEXT} {n}", max_tokens=8, ignore_eos=True) for n in range(6)]
    model.execute(requests)
    for n, request in enumerate(requests):
        assert request.texts() == [runner.generate(f"{TEXT} {n}", 8, stop_on_eos=False).read()]


def test_a_budget_may_be_asked_for(model, pristine):
    with Runner(pristine, threads=1, budget="p34") as narrow:
        wanted = narrow.generate(TEXT, 5, stop_on_eos=False).read()
    request = ask(model, text_input=TEXT, max_tokens=5, ignore_eos=True, budget="p34")
    assert request.texts() == [wanted] and request.texts("budget") == ["p34"]


@pytest.mark.parametrize(
    ("inputs", "part"),
    [
        ({}, "One of text_input"),
        ({"text_input": TEXT, "input_ids": [1]}, "2 were given"),
        ({"text_input": ""}, "empty"),
        ({"text_input": TEXT, "max_tokens": 0}, "nothing to generate"),
        ({"text_input": TEXT, "top_p": [0.5, 0.6]}, "top_p must hold one value, not 2"),
        ({"text_input": TEXT, "temperature": -1.0}, "temperature"),
        ({"text_input": TEXT, "budget": "p1"}, "p34"),
        ({"text_input": TEXT, "latency_target": "1ms", "latency_target_ms": 1.0}, "Two latency targets"),
        ({"messages": "["}, "no JSON"),
        ({"messages": "[1]"}, "no list of objects"),
        ({"messages": '[{"role": "user", "content": "x"}]'}, "no chat template"),
    ],
)
def test_what_cannot_be_used_is_the_clients_error(model, inputs, part):
    error = ask(model, **inputs).error()
    assert part in error.args[0] and error.args[1] == "invalid"


def test_a_cancelled_request_ends_and_gives_its_place_back(model):
    request = Request(text_input=TEXT, max_tokens=180, ignore_eos=True)
    request.sender.cancelled = True
    model.execute([request])
    assert request.texts("finish_reason") == ["cancelled"]
    assert ask(model, text_input=TEXT, max_tokens=1).texts()


def test_a_failure_ends_the_request_with_an_error(model, monkeypatch):
    monkeypatch.setattr(model.runner, "generate", lambda *_, **__: 1 / 0)
    error = ask(model, text_input=TEXT).error()
    assert "ZeroDivisionError" in error.args[0] and error.args[1] == "internal"
