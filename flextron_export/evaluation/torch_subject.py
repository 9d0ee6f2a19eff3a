"""The budgets of an elastic checkpoint, computed by transformers."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any

import numpy as np

from ..elastic.checkpoint import ElasticCheckpoint
from ..elastic.model import load_model, narrowed
from ..elastic.modules import backbone
from ..elastic.widths import Budget
from ..targets.cores import check_threads
from ..training.environment import default_device, quiet_transformers, require_training, thread_count, usable_device
from .subject import LOGITS_PER_CALL, Continuation


class TorchSubject:
    """See `Subject`: the sliced model, in float32.

    Args:
        checkpoint: an opened checkpoint.
        device: torch device; default a GPU if there is one.
        threads: CPU threads, or None for torch's own choice.
    """

    max_batch: int | None = None

    def __init__(self, checkpoint: ElasticCheckpoint, device: str | None = None, threads: int | None = None) -> None:
        require_training()
        check_threads(threads)
        self.checkpoint = checkpoint
        self.path, self.architecture, self.budgets = checkpoint.path, checkpoint.architecture, checkpoint.budgets
        self.max_length = checkpoint.architecture.max_positions
        checkpoint.weights()  # checks that they fit
        self._stack = ExitStack()
        self._stack.enter_context(thread_count(threads))
        with quiet_transformers():
            self.model: Any = load_model(checkpoint.path).to(usable_device(device or default_device()))

    def budget(self, name: str) -> Budget:
        return self.checkpoint.budget(name)

    def about(self) -> dict[str, Any]:
        return {"kind": "checkpoint", "device": str(self.model.device), "dtype": "fp32"}

    def log_likelihoods(
        self, budget: Budget, ids: np.ndarray, rows: np.ndarray, which: np.ndarray, tokens: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        import torch

        device = self.model.device
        scores, best = np.empty(len(which)), np.empty(len(rows), np.int64)
        step = max(LOGITS_PER_CALL // self.architecture.vocab_size, 1)
        with torch.inference_mode(), narrowed(self.model, self.architecture, budget):
            read = backbone(self.model)(input_ids=torch.from_numpy(ids).to(device), use_cache=False)
            hidden = read.last_hidden_state.flatten(0, 1)
            for start in range(0, len(rows), step):
                wanted = torch.from_numpy(rows[start : start + step]).to(device)
                logits = self.model.get_output_embeddings()(hidden[wanted]).float()
                best[start : start + step] = logits.argmax(-1).cpu().numpy()
                asked = np.flatnonzero((which >= start) & (which < start + step))
                row, token = (torch.from_numpy(v[asked]).to(device) for v in (which - start, tokens))
                scores[asked] = logits.log_softmax(-1)[row, token].cpu().numpy()
        return scores, best

    def continuation(self, budget: Budget, contexts: Sequence[Sequence[int]], longest: int) -> Continuation:
        return _TorchContinuation(self, budget, contexts)

    def close(self) -> None:
        self._stack.close()


class _TorchContinuation:
    """See `Continuation`: contexts end at the same place, as a cache of transformers grows by whole columns."""

    def __init__(self, subject: TorchSubject, budget: Budget, contexts: Sequence[Sequence[int]]) -> None:
        import torch

        self._subject, self._budget = subject, budget
        longest = max(map(len, contexts))
        lengths = torch.tensor([len(c) for c in contexts], device=subject.model.device)
        ids = np.zeros((len(contexts), longest), np.int64)
        for row, context in zip(ids, contexts, strict=True):
            row[longest - len(context) :] = context
        places = torch.arange(longest, device=lengths.device) - (longest - lengths[:, None])
        self._mask = (places >= 0).long()
        self._next = lengths[:, None]
        self._cache: Any = None
        self._read(torch.from_numpy(ids).to(lengths.device), places.clamp(min=0))

    def push(self, tokens: np.ndarray) -> None:
        import torch

        self._mask = torch.cat([self._mask, torch.ones_like(self._mask[:, :1])], dim=1)
        self._read(torch.from_numpy(tokens[:, None]).to(self._mask.device), self._next)
        self._next = self._next + 1

    def _read(self, ids: Any, positions: Any) -> None:
        import torch

        subject = self._subject
        with torch.inference_mode(), narrowed(subject.model, subject.architecture, self._budget):
            read = backbone(subject.model)(
                input_ids=ids,
                attention_mask=self._mask,
                position_ids=positions,
                past_key_values=self._cache,
                use_cache=True,
            )
            self._cache = read.past_key_values
            logits = subject.model.get_output_embeddings()(read.last_hidden_state[:, -1])
            self.logits = logits.float().cpu().numpy()
