"""The model that Triton's Python backend runs: one runner, one answer or a stream of pieces per request.

`triton_python_backend_utils` exists only inside Triton, so it is imported there.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import BundleError, FlextronError, InputError, NoBudgetFitsError
from ..runtime.generation import Generation
from ..runtime.runner import Runner
from .config import INPUTS

_OPTIONS = ("temperature", "top_k", "top_p", "min_p", "repetition_penalty", "seed", "stop")
"""Inputs that are options of a generation under the same name."""


class TritonPythonModel:
    """What Triton's Python backend calls (its README, section "Usage")."""

    def initialize(self, args: Mapping[str, str]) -> None:
        """Load the bundle beside model.py, with the parameters of config.pbtxt."""
        config = json.loads(args["model_config"])
        given = {key: value["string_value"] for key, value in config["parameters"].items()}
        version = Path(args["model_repository"]) / args["model_version"]
        self.runner = Runner(
            version / "bundle",
            given.get("latency_target"),
            budget=given.get("budget"),
            target=given["target"],
            layout=given["layout"],
            dtype=given["dtype"],
            threads=int(given["threads"]) if "threads" in given else None,
            low_memory="low_memory" in given,
            prefix_cache=4,
        )
        parallel = int(given["parallel"])
        self._places = threading.Semaphore(parallel)
        self._threads = ThreadPoolExecutor(parallel, "generate")

    def execute(self, requests: list[Any]) -> None:
        """Start every request, each as soon as there is a place; until then Triton's own queue holds the others."""
        for request in requests:
            self._places.acquire()
            self._threads.submit(self._serve, request, request.get_response_sender())

    def finalize(self) -> None:
        """Finish what runs and release the weights."""
        self._threads.shutdown(wait=True)
        self.runner.close()

    def _serve(self, request: Any, sender: Any) -> None:
        import triton_python_backend_utils as triton  # type: ignore[import-not-found]

        final = triton.TRITONSERVER_RESPONSE_COMPLETE_FINAL
        try:
            inputs = _inputs(triton, request)
            generation = _generation(self.runner, inputs)
            for piece in generation:
                if sender.is_cancelled():
                    generation.cancel()
                elif inputs.get("stream"):
                    sender.send(_response(triton, generation, piece, ""))
            text = "" if inputs.get("stream") else generation.text
            sender.send(_response(triton, generation, text, generation.stopped_by), flags=final)
        except FlextronError as error:
            theirs = isinstance(error, (InputError, BundleError, NoBudgetFitsError))  # what the request asked for
            code = triton.TritonError.INVALID_ARG if theirs else triton.TritonError.INTERNAL
            sender.send(triton.InferenceResponse(error=triton.TritonError(str(error), code)), flags=final)
        except Exception as error:
            # Whatever happens, the request must end, or Triton waits for ever.
            failed = triton.TritonError(f"{type(error).__name__}: {error}", triton.TritonError.INTERNAL)
            sender.send(triton.InferenceResponse(error=failed), flags=final)
        finally:
            self._places.release()


def _inputs(triton: Any, request: Any) -> dict[str, Any]:
    """Values by name: a list for lengths that vary, else one value."""
    found: dict[str, Any] = {}
    for name, (kind, length) in INPUTS.items():
        tensor = triton.get_input_tensor_by_name(request, name)
        if tensor is None:
            continue
        values = tensor.as_numpy().ravel().tolist()
        if kind == "TYPE_STRING":
            values = [value.decode() for value in values]
        if length == 1 and len(values) != 1:
            raise InputError(f"{name} must hold one value, not {len(values)}.")
        found[name] = values if length < 0 else values[0]
    return found


def _generation(runner: Runner, inputs: Mapping[str, Any]) -> Generation[str]:
    given = [name for name in ("text_input", "input_ids", "messages") if name in inputs]
    if len(given) != 1:
        raise InputError(f"One of text_input, input_ids and messages is needed; {len(given)} were given.")
    prompt = inputs[given[0]]
    if given[0] == "messages":
        try:
            messages = json.loads(prompt)
        except ValueError as error:
            raise InputError(f"messages are no JSON: {error}.") from error
        if not isinstance(messages, list) or not all(isinstance(message, dict) for message in messages):
            raise InputError("messages are no list of objects.", fix='send [{"role": "user", "content": "..."}]')
        prompt = runner.chat_prompt(messages)
    elif given[0] == "text_input":
        prompt = runner.tokenizer.encode(prompt)
    count = inputs.get("max_tokens", 64)
    targets = [inputs[name] for name in ("latency_target", "latency_target_ms") if name in inputs]
    if len(targets) > 1:
        raise InputError("Two latency targets were given.", fix="send one of latency_target and latency_target_ms")
    selection = runner.selection
    if targets or "budget" in inputs:
        context = min(max(len(prompt) + count, 1), runner.max_tokens)
        effort = bool(inputs.get("best_effort"))
        target = targets[0] if targets else None
        selection = runner.select(target, budget=inputs.get("budget"), context=context, best_effort=effort)
    options = {name: inputs[name] for name in _OPTIONS if name in inputs}
    options["stop_on_eos"] = not inputs.get("ignore_eos", False)
    return runner.generate(prompt, count, selection=runner.for_prompts(selection, [prompt]), **options)


def _response(triton: Any, generation: Generation[str], text: str, finish_reason: str) -> Any:
    selection = generation.selection
    values = {
        "text_output": text,
        "budget": selection.budget.name,
        "reason": selection.reason,
        "finish_reason": finish_reason,
    }
    tensors = [triton.Tensor(name, np.array([value.encode()], np.object_)) for name, value in values.items()]
    return triton.InferenceResponse(output_tensors=tensors)
