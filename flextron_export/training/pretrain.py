"""A small model trained from nothing: what the demo makes elastic, so that it needs no download."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from ..elastic.architecture import Architecture
from ..elastic.widths import full_budget
from ..files import check_new_directory, new_directory, write_json
from .corpus import read_text, split
from .data import END, MARKER, pack, save_tokenizer, spread
from .elastic import TrainingSettings, full_only, train
from .elastify import SAVE_EVERY
from .environment import quiet_transformers, require_training, thread_count
from .evaluate import validation_loss
from .state import States
from .work import default_work, kept, settle, work_directory

if TYPE_CHECKING:
    from tokenizers import Tokenizer

VOCABULARY = 2048
VALIDATION_SEQUENCES = 256


def pretrain(
    text: Sequence[str | Path],
    out: str | Path,
    *,
    tokens: int = 660_000,
    batch: int = 16,
    length: int = 128,
    learning_rate: float = 1e-2,
    seed: int = 0,
    threads: int | None = None,
    save_every: int = SAVE_EVERY,
    resume: bool = False,
    overwrite: bool = False,
    progress: bool = True,
) -> Path:
    """Train a byte-level BPE tokenizer and a small Llama on a text, and write them as a Hugging Face directory.

    Args:
        text: text files; see `corpus.read_text`.
        out: directory to create.
        tokens: tokens to read, repeating the text as often as needed.
        batch: sequences per step.
        length: tokens per sequence.
        learning_rate: highest learning rate.
        seed: of the weights, the order of the text, and what is held out.
        threads: CPU threads, or None for torch's own choice.
        save_every: steps between two states in `OUT.work`, which is removed when the model is written; one is saved
            after the last step, too. 0 saves none.
        resume: go on from the newest state, to the same result; begin if there is none.
        overwrite: replace a directory that this function wrote.
        progress: show progress on standard error.

    Returns:
        The directory; `pretraining.json` in it holds the validation loss in nats per token.

    Raises:
        InputError: the text or a setting cannot be used, or `out` exists or cannot be written.
        MissingDependencyError: torch or transformers is not installed.
        FlextronError: training diverged.
    """
    require_training()
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    settings = TrainingSettings(
        tokens, batch, length, learning_rate, loss="ce", optimizer="muon", seed=seed, threads=threads
    )
    settings.validate()
    check_new_directory(Path(out), marker=MARKER, overwrite=overwrite)
    training, held_out = split(read_text(text), seed=seed)
    tokenizer = train_tokenizer(training)
    vocabulary = tokenizer.get_vocab_size()
    packed = pack(training, tokenizer, length, vocabulary, end=0)
    validation = spread(pack(held_out, tokenizer, length, vocabulary, end=0), VALIDATION_SEQUENCES)
    config = LlamaConfig(
        hidden_size=320,
        num_hidden_layers=4,
        num_attention_heads=16,
        num_key_value_heads=8,
        head_dim=32,
        intermediate_size=1024,
        vocab_size=vocabulary,
        max_position_embeddings=1024,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=0,
    )
    place = default_work(out)
    with work_directory(place, keep=False), thread_count(threads), quiet_transformers():
        settle(place, resume=resume, overwrite=overwrite)
        about = {"model": config.to_dict(), "text": hashlib.sha256(packed.tobytes()).hexdigest()}
        states = States(place, every=save_every, about=about, resume=resume)
        torch.manual_seed(seed)
        model = LlamaForCausalLM(config)
        architecture = Architecture.from_config(config.to_dict())
        train(
            model,
            architecture,
            packed,
            settings,
            full_only(architecture),
            states=states,
            progress=progress,
            description="pretraining",
        )
        loss = validation_loss(model, architecture, full_budget(architecture), validation)
        with kept(place), new_directory(Path(out), marker=MARKER, overwrite=overwrite) as directory:
            model.save_pretrained(directory)
            save_tokenizer(tokenizer, directory)
            write_json(directory / MARKER, {"validation_loss": loss, "settings": asdict(settings)})
    return Path(out)


def train_tokenizer(documents: Sequence[str], vocabulary: int = VOCABULARY) -> Tokenizer:
    """A byte-level BPE with at most that many tokens; token 0 ends a text."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    # Every byte is in the alphabet, so that any text can be encoded.
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=[END],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(documents, trainer)
    return tokenizer
