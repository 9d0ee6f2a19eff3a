"""One small class per peer: load a model, prefill a prompt, decode a token. Run by `worker`, in any Python that has it.

Only the standard library and numpy are imported before a peer is loaded, so that start-up and memory are its own.
"""

from __future__ import annotations

import sys
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any

import numpy as np


class Engine(ABC):
    """A loaded model on one thread, holding one sequence of at most `capacity` tokens."""

    @abstractmethod
    def __init__(self, model: Path, budget: str, dtype: str, capacity: int) -> None:
        """Load `model`, the file or directory that `files.write` made for this peer."""

    @abstractmethod
    def prefill(self, ids: list[int]) -> int:
        """Begin anew with these tokens; the likeliest next one."""

    @abstractmethod
    def decode(self, token: int) -> int:
        """Append a token; the likeliest next one."""


class Flextron(Engine):
    """This project, from Python."""

    layout = "panels"

    def __init__(self, model: Path, budget: str, dtype: str, capacity: int) -> None:
        sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
        from flextron_export.bundle.manifest import Bundle
        from flextron_export.targets.onnxruntime_cpu import open_session

        self.bundle = Bundle.open(model, hashes=False)
        self.session = open_session(self.bundle, layout=self.layout, dtype=dtype, threads=1)
        self.capacity = capacity
        self.use(budget)

    def use(self, budget: str) -> None:
        """Go on with another budget of the same session."""
        self.budget = self.bundle.budget(budget)

    def prefill(self, ids: list[int]) -> int:
        from flextron_export.runtime.sequence import LiveSequence

        self.sequence = LiveSequence(self.session, self.budget, self.capacity)
        return int(self.sequence.prefill(ids).argmax())

    def decode(self, token: int) -> int:
        return int(self.sequence.decode(token).argmax())


class FlextronPerBudget(Flextron):
    layout = "per-budget"


class Transformers(Engine):
    """transformers, eager: what `generate` calls, without its bookkeeping."""

    def __init__(self, model: Path, budget: str, dtype: str, capacity: int) -> None:
        import torch
        from transformers import AutoModelForCausalLM

        torch.set_num_threads(1)
        self.torch, self.capacity = torch, capacity
        self.model: Any = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32).eval()
        self.step: Any = self.model.forward

    def new_cache(self) -> Any:
        from transformers import DynamicCache

        return DynamicCache(config=self.model.config)

    def prefill(self, ids: list[int]) -> int:
        self.cache = self.new_cache()
        return self.run(self.model.forward, ids)

    def decode(self, token: int) -> int:
        return self.run(self.step, [token])

    def run(self, step: Any, ids: list[int]) -> int:
        with self.torch.inference_mode():
            tokens = self.torch.tensor([ids])
            return int(step(input_ids=tokens, past_key_values=self.cache, logits_to_keep=1).logits[0, -1].argmax())


class TransformersCompiled(Transformers):
    """transformers, its decode step compiled by torch for a cache of fixed size."""

    def __init__(self, model: Path, budget: str, dtype: str, capacity: int) -> None:
        super().__init__(model, budget, dtype, capacity)
        self.step = self.torch.compile(self.model.forward)

    def new_cache(self) -> Any:
        from transformers import StaticCache

        return StaticCache(config=self.model.config, max_cache_len=self.capacity)


class OnnxRuntimeGenAI(Engine):
    """onnxruntime-genai on a model of its own builder."""

    def __init__(self, model: Path, budget: str, dtype: str, capacity: int) -> None:
        import onnxruntime_genai

        self.library, self.capacity = onnxruntime_genai, capacity
        self.model = onnxruntime_genai.Model(str(model))

    def prefill(self, ids: list[int]) -> int:
        params = self.library.GeneratorParams(self.model)
        params.set_search_options(max_length=self.capacity, min_length=self.capacity, do_sample=False)
        self.generator = self.library.Generator(self.model, params)
        self.generator.append_tokens(np.array([ids], np.int32))
        return self.next_token()

    def decode(self, token: int) -> int:
        # It chose `token` itself, and appends it on the way to the next.
        return self.next_token()

    def next_token(self) -> int:
        self.generator.generate_next_token()
        return int(self.generator.get_next_tokens()[0])


class LlamaCpp(Engine):
    """llama.cpp through llama-cpp-python."""

    def __init__(self, model: Path, budget: str, dtype: str, capacity: int) -> None:
        import llama_cpp

        self.library = llama_cpp
        self.llama = llama_cpp.Llama(
            str(model), n_ctx=capacity, n_batch=512, n_threads=1, n_threads_batch=1, verbose=False
        )

    def prefill(self, ids: list[int]) -> int:
        self.llama.reset()
        self.llama.eval(ids)
        return self.best()

    def decode(self, token: int) -> int:
        self.llama.eval([token])
        return self.best()

    def best(self) -> int:
        logits = self.library.llama_get_logits(self.llama.ctx)
        return int(np.ctypeslib.as_array(logits, shape=(self.llama.n_vocab(),)).argmax())


ENGINES: dict[str, type[Engine]] = {
    "flextron panels": Flextron,
    "flextron per-budget": FlextronPerBudget,
    "transformers eager": Transformers,
    "transformers compiled": TransformersCompiled,
    "onnxruntime-genai": OnnxRuntimeGenAI,
    "llama.cpp": LlamaCpp,
}
LIBRARY = {
    "flextron panels": "onnxruntime",
    "flextron per-budget": "onnxruntime",
    "transformers eager": "transformers",
    "transformers compiled": "transformers",
    "onnxruntime-genai": "onnxruntime_genai",
    "llama.cpp": "llama_cpp",
}
"""peer -> the module that must be there."""
DTYPES = {
    "flextron panels": ("fp32", "int8", "int4"),
    "flextron per-budget": ("fp32", "int8", "int4"),
    "transformers eager": ("fp32",),
    "transformers compiled": ("fp32",),
    "onnxruntime-genai": ("fp32", "int4"),
    "llama.cpp": ("fp32", "int8", "int4"),
}
"""peer -> precisions in which it runs here; llama.cpp's are F32, Q8_0 and Q4_0."""
