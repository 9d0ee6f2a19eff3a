"""Text to tokens and back; streaming gives the same text, whole characters only."""

import json
import random

import pytest
from tokenizers import Tokenizer as HfTokenizer
from tokenizers import decoders, models, normalizers, pre_tokenizers, processors

from flextron_export.errors import BundleError, InputError
from flextron_export.runtime.tokenizer import Tokenizer

TEXTS = [
    "In the beginning",
    " leading and  double spaces \n\n new lines\t",
    "naïve café — Größe",
    "日本語のテキスト and English",
    "🙂🙃👩‍👩‍👧 emoji 🇦🇹",
    "mixed: ß水🙂x",
]


def byte_level():
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {"</s>": 0, "<s>": 1} | {letter: i for i, letter in enumerate(letters, 2)}
    tokenizer = HfTokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(["</s>", "<s>"])
    return tokenizer


def byte_fallback():
    """As Llama 2: a space becomes ▁, unknown characters become byte tokens, decoding drops a leading space."""
    words = ["</s>", "<s>", "<unk>", "▁", *"abcdefghijklmnopqrstuvwxyz", "t h", "th", "▁th"]
    vocabulary = {w: i for i, w in enumerate([*words, *(f"<0x{i:02X}>" for i in range(256))])}
    merges = [("t", "h"), ("▁", "th")]
    tokenizer = HfTokenizer(models.BPE(vocab=vocabulary, merges=merges, byte_fallback=True, unk_token="<unk>"))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    tokenizer.add_special_tokens(["</s>", "<s>", "<unk>"])
    return tokenizer


@pytest.fixture(params=[byte_level, byte_fallback])
def tokenizer(request, tmp_path):
    request.param().save(str(tmp_path / "tokenizer.json"))
    return Tokenizer(tmp_path)


@pytest.mark.parametrize("text", TEXTS)
def test_streamed_pieces_are_whole_characters_and_make_the_text(tokenizer, text):
    ids = tokenizer.encode(text)
    pieces = list(tokenizer.stream(ids))
    assert "".join(pieces) == tokenizer.decode(ids)
    assert not any("\ufffd" in piece for piece in pieces)


@pytest.mark.parametrize("text", TEXTS)
def test_text_goes_on_after_a_prompt_cut_anywhere(tokenizer, text):
    ids = tokenizer.encode(text)
    for cut in range(1, len(ids)):
        prompt = tokenizer.decode(ids[:cut])
        if prompt.endswith("\ufffd"):
            prompt = prompt.rstrip("\ufffd")
        assert prompt + "".join(tokenizer.stream(ids[cut:], ids[:cut])) == tokenizer.decode(ids)


def test_pieces_come_as_early_as_their_characters_are_whole(tokenizer):
    emitted = []
    for text in TEXTS[2:]:
        ids = tokenizer.encode(text)
        fed = []

        def feed(ids=ids, fed=fed):
            for i in ids:
                fed.append(i)
                yield i

        for piece in tokenizer.stream(feed()):
            emitted.append(piece)
            assert not tokenizer.decode(fed).endswith("\ufffd")
    assert len(emitted) > 20


def test_broken_bytes_are_shown_and_do_not_stop_the_text(tmp_path):
    byte_level().save(str(tmp_path / "tokenizer.json"))
    tokenizer = Tokenizer(tmp_path)
    good = tokenizer.encode("good")
    lone = tokenizer.encode("ü")[:1]
    pieces = list(tokenizer.stream([*good, *lone * 9, *good]))
    assert "".join(pieces).startswith("good") and "".join(pieces).endswith("good")
    assert "\ufffd" in "".join(pieces)
    # A text that ends in the middle of a character ends with the sign for that.
    assert "".join(tokenizer.stream([*good, *lone])) == "good\ufffd"


def test_random_tokens_end_with_the_text_of_their_valid_tail(tmp_path):
    byte_level().save(str(tmp_path / "tokenizer.json"))
    tokenizer, source = Tokenizer(tmp_path), random.Random(0)
    for _ in range(50):
        noise = [source.randrange(258) for _ in range(source.randrange(1, 60))]
        assert "".join(tokenizer.stream([*noise, *tokenizer.encode("the end")])).endswith("the end")


def test_special_tokens_are_not_text_and_keep_spaces(tokenizer):
    ids = tokenizer.encode("th th")
    assert "".join(tokenizer.stream([0, *ids, 0], [1])) == "".join(tokenizer.stream(ids, [1]))


def test_a_beginning_of_text_is_added_if_the_tokenizer_does_so(tmp_path):
    hf = byte_level()
    hf.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    hf.save(str(tmp_path / "tokenizer.json"))
    assert Tokenizer(tmp_path).encode("a")[0] == 1
    assert Tokenizer(tmp_path).encode("") == [1]


def write(path, value):
    path.write_text(json.dumps(value))


def test_the_end_of_text_comes_from_the_first_file_that_names_it(tmp_path):
    byte_level().save(str(tmp_path / "tokenizer.json"))
    assert Tokenizer(tmp_path).eos == frozenset()
    write(tmp_path / "tokenizer_config.json", {"eos_token": {"content": "</s>"}})
    assert Tokenizer(tmp_path).eos == {0}
    write(tmp_path / "tokenizer_config.json", {"eos_token": "<s>"})
    assert Tokenizer(tmp_path).eos == {1}
    write(tmp_path / "config.json", {"eos_token_id": 7})
    assert Tokenizer(tmp_path).eos == {7}
    write(tmp_path / "generation_config.json", {"eos_token_id": [3, 4]})
    assert Tokenizer(tmp_path).eos == {3, 4}


def test_missing_and_damaged_files_are_named(tmp_path):
    with pytest.raises(InputError, match=r"no tokenizer\.json"):
        Tokenizer(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(BundleError, match=r"tokenizer\.json is damaged"):
        Tokenizer(tmp_path)
    byte_level().save(str(tmp_path / "tokenizer.json"))
    (tmp_path / "generation_config.json").write_text("[")
    with pytest.raises(BundleError, match=r"generation_config\.json is damaged"):
        Tokenizer(tmp_path)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("generation_config.json", "[" * 100_000),
        ("generation_config.json", '{"eos_token_id": "x"}'),
        ("config.json", '{"eos_token_id": [1, 2.5]}'),
        ("tokenizer_config.json", '{"eos_token": {"content": 3}}'),
        ("tokenizer_config.json", '{"eos_token": {}}'),
    ],
)
def test_an_end_of_text_that_is_none_is_damage(tmp_path, name, text):
    byte_level().save(str(tmp_path / "tokenizer.json"))
    (tmp_path / name).write_text(text)
    with pytest.raises(BundleError, match=rf"{name} is damaged"):
        Tokenizer(tmp_path)
