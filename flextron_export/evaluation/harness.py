"""A budget as a model of lm-evaluation-harness, registered there as `flextron`.

    from flextron_export.evaluation.harness import FlextronLM
    lm_eval.simple_evaluate(model=FlextronLM("bundle", budget="p50"), tasks=["arc_easy"])

`python -m flextron_export.evaluation` is the `lm-eval` command that knows this model. Requests are encoded, truncated
and scored as by the harness's own adapter of transformers, so that their numbers can be compared.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import InputError, MissingDependencyError
from ..runtime.sampling import Sampler, Sampling
from ..runtime.tokenizer import Tokenizer
from .scoring import LARGEST_BATCH, Request, score
from .subject import Subject, Where, open_subject

try:
    from lm_eval.api.model import TemplateLM
    from lm_eval.api.registry import register_model
    from lm_eval.models.utils import normalize_gen_kwargs, postprocess_generated_text
    from lm_eval.utils import get_rolling_token_windows, make_disjoint_window
    from tqdm import tqdm
except ImportError as problem:
    raise MissingDependencyError(
        f"Scoring tasks needs lm-evaluation-harness, which cannot be imported: {problem}.",
        fix="pip install 'flextron-export[eval]'",
    ) from problem

if TYPE_CHECKING:
    from lm_eval.api.instance import Instance
    from typing_extensions import Unpack

Encoded = tuple[Any, list[int], list[int]]
"""What the harness hands on: a key for its cache, the tokens of the context, those of the continuation."""


@register_model("flextron")
class FlextronLM(TemplateLM):
    """One budget of an elastic checkpoint (in torch) or of a bundle (on a target).

    Args:
        path: the checkpoint or bundle, or a `Subject` that is open already.
        budget: its name; the widest by default.
        batch_size: most sequences in a call; by default, or for `auto`, chosen by their length.
        max_gen_toks: tokens to generate where a task does not say.
        where: target, layout, dtype, threads, low_memory, device: see `open_subject`.

    Raises:
        FlextronError: it cannot be opened.
    """

    def __init__(
        self,
        path: str | Subject,
        budget: str | None = None,
        *,
        batch_size: int | str | None = None,
        max_batch_size: int | None = None,
        max_gen_toks: int = 256,
        **where: Unpack[Where],
    ) -> None:
        super().__init__()
        self.subject: Subject = open_subject(path, **where) if isinstance(path, str) else path
        widest = max(self.subject.budgets, key=lambda b: b.parameters(self.subject.architecture))
        self.budget = widest if budget is None else self.subject.budget(budget)
        self.max_length, self.max_gen_toks = self.subject.max_length, max_gen_toks
        self.batch_size = None if str(batch_size or "auto").startswith("auto") else int(str(batch_size))
        self._tokenizer = Tokenizer(self.subject.path)
        end = self._tokenizer.named("eos_token")
        self._end = end if end is not None else next(iter(sorted(self._tokenizer.eos)), None)

    @classmethod
    def create_from_arg_string(cls, arg_string: str, additional_config: dict[str, Any] | None = None) -> FlextronLM:
        return super().create_from_arg_string(arg_string, _without_device(additional_config))

    @classmethod
    def create_from_arg_obj(
        cls, arg_dict: dict[str, Any], additional_config: dict[str, Any] | None = None
    ) -> FlextronLM:
        return super().create_from_arg_obj(arg_dict, _without_device(additional_config))

    @property
    def eot_token_id(self) -> int:
        if self._end is None:
            raise InputError(
                f"{self.subject.path} names no end-of-text token, which a text without context begins with.",
                fix='add "eos_token" to its tokenizer_config.json, and export again',
            )
        return self._end

    @property
    def prefix_token_id(self) -> int:
        begin = self._tokenizer.named("bos_token")
        return self.eot_token_id if begin is None else begin

    @property
    def tokenizer_name(self) -> str:
        return str(self.subject.path).replace("/", "__")

    def get_model_info(self) -> dict[str, Any]:
        """For the `config` of the harness's results."""
        return {"path": str(self.subject.path), "budget": self.budget.to_json(), **self.subject.about()}

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **_: Any) -> list[int]:
        if add_special_tokens is None:  # a text that begins with the token already gets no other
            add_special_tokens = not (
                self._end is not None and string.startswith(self._tokenizer.token(self.prefix_token_id))
            )
        return self._tokenizer.encode(string, special=add_special_tokens)

    def loglikelihood_rolling(self, requests: Sequence[Instance], disable_tqdm: bool = False) -> list[float]:
        texts = [request.args[0] for request in requests]
        windows: list[Encoded] = []
        owners = []
        for i, text in enumerate(texts):
            for window in get_rolling_token_windows(
                token_list=self.tok_encode(text),
                prefix_token=self.prefix_token_id,
                max_seq_len=self.max_length,
                context_len=1,
            ):
                windows.append((None, *make_disjoint_window(window)))
                owners.append(i)
        found = self._loglikelihood_tokens(windows, disable_tqdm=disable_tqdm)
        totals = [0.0] * len(texts)
        for owner, (value, _) in zip(owners, found, strict=True):
            totals[owner] += value
        for text, total in zip(texts, totals, strict=True):
            self.cache_hook.add_partial("loglikelihood_rolling", (text,), total)
        return totals

    def _loglikelihood_tokens(
        self, requests: Sequence[Encoded], disable_tqdm: bool = False, **_: Any
    ) -> list[tuple[float, bool]]:
        # What does not fit is cut off at the left; the last token is predicted, not read.
        read = [
            Request(tuple((context + continuation)[-(self.max_length + 1) : -1]), tuple(continuation))
            for _, context, continuation in requests
        ]
        answers: list[tuple[float, bool]] = [(0.0, False)] * len(requests)
        with tqdm(total=len(read), disable=disable_tqdm or None, desc=f"{self.budget.name}: log-likelihoods") as bar:
            for i, found in score(self.subject, self.budget, read, batch=self.batch_size):
                answers[i] = float(found.log_likelihoods.sum()), bool(found.greedy.all())
                if requests[i][0] is not None:
                    self.cache_hook.add_partial("loglikelihood", requests[i][0], answers[i])
                bar.update()
        return answers

    def generate_until(self, requests: Sequence[Instance], disable_tqdm: bool = False) -> list[str]:
        """Continue every context until a stop sequence, the end of the text, or as many tokens as are wanted."""
        asked = [request.args for request in requests]
        alike: dict[str, list[int]] = {}
        for i, (_, options) in enumerate(asked):
            alike.setdefault(repr(sorted(options.items(), key=str)), []).append(i)
        answers = [""] * len(asked)
        with tqdm(total=len(asked), disable=disable_tqdm or None, desc=f"{self.budget.name}: texts") as bar:
            for indices in alike.values():
                options = normalize_gen_kwargs(asked[indices[0]][1], self.max_gen_toks)
                room = self.max_length - options["max_gen_toks"]
                if room < 1:
                    raise InputError(
                        f"{options['max_gen_toks']} new tokens leave no room for a context: the model holds "
                        f"{self.max_length}.",
                        fix="lower max_gen_toks in the task's generation_kwargs",
                    )
                contexts = {i: self.tok_encode(asked[i][0])[-room:] or [self.prefix_token_id] for i in indices}
                indices.sort(key=lambda i: len(contexts[i]), reverse=True)
                size = min(self.batch_size or LARGEST_BATCH, self.subject.max_batch or LARGEST_BATCH)
                for start in range(0, len(indices), size):
                    chosen = indices[start : start + size]
                    for i, text in zip(chosen, self._generate([contexts[i] for i in chosen], options), strict=True):
                        answers[i] = text
                        self.cache_hook.add_partial("generate_until", asked[i], text)
                    bar.update(len(chosen))
        return answers

    def _generate(self, contexts: Sequence[Sequence[int]], options: dict[str, Any]) -> list[str]:
        count, until = options["max_gen_toks"], [stop for stop in options["until"] if stop]
        stops = self._tokenizer.eos | ({self._end} if self._end is not None else set())
        sampling = Sampling()
        if options["do_sample"]:
            known = ("temperature", "top_k", "top_p", "min_p", "repetition_penalty")
            sampling = Sampling(**{name: options[name] for name in known if options.get(name) is not None})
            sampling.validate()
        samplers = [Sampler(sampling, seed, context) for seed, context in enumerate(contexts)]
        written: list[list[int]] = [[] for _ in contexts]
        texts = [""] * len(contexts)
        open_ = set(range(len(contexts)))
        running = self.subject.continuation(self.budget, contexts, max(map(len, contexts)) + count)
        for step in range(count):
            tokens = np.zeros(len(contexts), np.int64)  # of a finished sequence, nobody looks at what follows
            for b in sorted(open_):
                tokens[b] = samplers[b].choose(running.logits[b])
                if int(tokens[b]) in stops:
                    open_.discard(b)
                    continue
                written[b].append(int(tokens[b]))
                texts[b] = self._tokenizer.decode(written[b])
                if any(stop in texts[b] for stop in until):
                    open_.discard(b)
            if not open_ or step == count - 1:
                break
            running.push(tokens)
        return [postprocess_generated_text(text, until, None) for text in texts]


def _without_device(options: dict[str, Any] | None) -> dict[str, Any]:
    """The harness's own --device is cuda:0 where nobody chose one; who wants one names it in `model_args`."""
    return {name: value for name, value in (options or {}).items() if name != "device"}
