"""Text in and out of the C++ runtime: the ids and the text of the Python runner."""

from __future__ import annotations

import ctypes
import json
import random
import shutil
import sysconfig
from pathlib import Path

import pytest
from tokenizers import AddedToken, Regex, decoders, models, normalizers, pre_tokenizers, processors, trainers
from tokenizers import Tokenizer as HfTokenizer

from flextron_export import Runner
from flextron_export.files import sha256
from flextron_export.runtime.tokenizer import Tokenizer
from tests.random_bundle import write_manifest

from .test_flextron_run import ENVIRONMENT, LIBRARY, command, generated, refused, run  # noqa: F401  # a fixture

extensions = pytest.importorskip("onnxruntime_extensions")
TOKENIZERS = next(Path(extensions.__file__).parent.glob("_extensions_pydll*.so"), None)
pytestmark = pytest.mark.skipif(LIBRARY is None or TOKENIZERS is None, reason="there are no shared libraries to load")

TEXTS = [
    "In the beginning",
    "Hello, world!  two  spaces\n\n\nnew lines\t tab 12345 3.14 ",
    "naïve café — Größe, Ångström, œuvre",
    "日本語のテキスト and English, 中文字符, 한국어",
    "Привет, мир! Γειά σου Κόσμε",
    "العربية हिन्दी தமிழ் ไทย עברית",
    "🙂🙃👩‍👩‍👧 emoji 🇦🇹",
    "e\u0301 decomposed, \u1112\u1161\u11ab, A\u030a \u00a0 \u200b",
    "don't we'll I'M they'VE\r\nfoo_bar(baz);\n    return x;\n",
    "<|end|>x",
    "",
]
GPT2 = pre_tokenizers.ByteLevel(add_prefix_space=False)
LLAMA3 = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"  # noqa: E501


def split(pattern: str) -> pre_tokenizers.PreTokenizer:
    last = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    return pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(pattern), "isolated"), last])


def trained(splits, normalizer=None, begins=False) -> HfTokenizer:
    tokenizer = HfTokenizer(models.BPE())
    tokenizer.pre_tokenizer, tokenizer.decoder = splits, decoders.ByteLevel()
    if normalizer is not None:
        tokenizer.normalizer = normalizer
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    special = ["<|begin|>", "<|end|>"]
    tokenizer.train_from_iterator(
        TEXTS * 9,
        trainers.BpeTrainer(vocab_size=600, initial_alphabet=alphabet, special_tokens=special, show_progress=False),
    )
    if begins:
        template = processors.TemplateProcessing("<|begin|> $A", special_tokens=[("<|begin|>", 0)])
        tokenizer.post_processor = processors.Sequence([processors.ByteLevel(trim_offsets=False), template])
    return tokenizer


def pieces(special: bool = True) -> HfTokenizer:
    """As Llama 2: a space becomes ▁, unknown characters become byte tokens, decoding drops a leading space."""
    words = [
        "</s>",
        "<s>",
        "<unk>",
        "▁",
        *"abcdefghijklmnopqrstuvwxyz",
        "th",
        "▁th",
        *(f"<0x{i:02X}>" for i in range(256)),
    ]
    model = models.BPE(
        vocab={w: i for i, w in enumerate(words)},
        merges=[("t", "h"), ("▁", "th")],
        byte_fallback=True,
        unk_token="<unk>",
    )
    tokenizer = HfTokenizer(model)
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    steps = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    tokenizer.decoder = decoders.Sequence(steps if special else steps[:3])
    tokenizer.add_special_tokens(["</s>", "<s>", "<unk>"])
    return tokenizer


KINDS = {
    "gpt2": lambda: trained(GPT2),
    "llama3": lambda: trained(split(LLAMA3), begins=True),
    "qwen": lambda: trained(split(LLAMA3.replace(r"\p{N}{1,3}", r"\p{N}")), normalizers.NFC()),
    "digits": lambda: trained(pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), GPT2])),
}


class Library:
    """The C interface on a bundle."""

    def __init__(self, build: Path, bundle: Path) -> None:
        self.c, self.runner = ctypes.CDLL(str(build / "libflextron.so")), ctypes.c_void_p()
        self.c.flextronLastError.restype = ctypes.c_char_p
        self.check(self.c.flextronOpen(str(bundle).encode(), None, ctypes.byref(self.runner)))

    def check(self, status: int) -> None:
        if status:
            raise RuntimeError(f"{status}: {self.c.flextronLastError().decode()}")

    def encode(self, text: str | bytes) -> list[int]:
        ids, count = ctypes.POINTER(ctypes.c_int64)(), ctypes.c_size_t()
        text = text.encode() if isinstance(text, str) else text
        self.check(self.c.flextronEncode(self.runner, text, ctypes.byref(ids), ctypes.byref(count)))
        return ids[: count.value]

    def decode(self, ids: list[int]) -> str:
        text, array = ctypes.c_char_p(), (ctypes.c_int64 * len(ids))(*ids)
        self.check(self.c.flextronDecode(self.runner, array, ctypes.c_size_t(len(ids)), ctypes.byref(text)))
        assert text.value is not None
        return text.value.decode()

    def close(self) -> None:
        self.c.flextronClose(self.runner)


@pytest.fixture
def open_with(engines_build, pristine, tmp_path, monkeypatch):
    """Opens a bundle with another tokenizer."""
    monkeypatch.setenv("FLEXTRON_ONNXRUNTIME", str(LIBRARY))
    monkeypatch.setenv("FLEXTRON_TOKENIZERS", str(TOKENIZERS))
    opened = []

    def open_with(tokenizer: HfTokenizer) -> tuple[Library, Tokenizer]:
        bundle = shutil.copytree(pristine, tmp_path / "bundle")
        tokenizer.save(str(bundle / "tokenizer.json"))
        manifest = json.loads((bundle / "manifest.json").read_text())
        manifest["files"]["tokenizer.json"] = {
            "bytes": (bundle / "tokenizer.json").stat().st_size,
            "sha256": sha256(bundle / "tokenizer.json"),
        }
        write_manifest(bundle, manifest)
        opened.append(Library(engines_build, bundle))
        return opened[-1], Tokenizer(bundle)

    yield open_with
    for library in opened:
        library.close()


@pytest.mark.parametrize("kind", KINDS)
def test_ids_and_text_are_those_of_python(open_with, kind):
    cpp, python = open_with(KINDS[kind]())
    for text in TEXTS:
        ids = python.encode(text)
        assert cpp.encode(text) == ids
        assert cpp.decode(ids) == python.decode(ids)
    source = random.Random(0)
    for _ in range(50):  # mostly bytes that are no characters
        ids = [source.randrange(600) for _ in range(source.randrange(1, 60))]
        assert cpp.decode(ids) == python.decode(ids)


@pytest.mark.parametrize("strips", [True, False])
def test_text_out_of_byte_fallback_is_that_of_python(open_with, strips):
    cpp, python = open_with(pieces(strips))
    for text in TEXTS:
        ids = python.encode(text)
        assert cpp.decode(ids) == python.decode(ids)
    with pytest.raises(RuntimeError, match=r"3: .*byte fallback(.|\n)*token ids"):
        cpp.encode("text")


@pytest.mark.parametrize(
    ("change", "part"),
    [
        (lambda: trained(pre_tokenizers.ByteLevel(add_prefix_space=True)), "splits texts"),
        (lambda: trained(split(r"[a-c]+|.")), "splits texts"),
        (lambda: trained(GPT2, normalizers.Lowercase()), "normalizer is Lowercase"),
        (lambda: _with_token(AddedToken("world", lstrip=True)), "token world"),
        (lambda: HfTokenizer(models.WordLevel({"a": 0}, "a")), "model is WordLevel"),
    ],
)
def test_a_tokenizer_that_would_give_other_ids_is_refused(open_with, change, part):
    cpp, _ = open_with(change())
    with pytest.raises(RuntimeError, match=f"3: .*{part}"):
        cpp.encode("text")


def _with_token(token: AddedToken) -> HfTokenizer:
    tokenizer = trained(GPT2)
    tokenizer.add_tokens([token])
    return tokenizer


def test_what_is_no_text_is_refused(open_with):
    cpp, _ = open_with(KINDS["gpt2"]())
    with pytest.raises(RuntimeError, match="3: The prompt is not UTF-8"):
        cpp.encode(b"\xff")


# The library in the Python package is a Python module too, so it wants Python beside it.
PYTHON = Path(sysconfig.get_config_var("LIBDIR") or "", sysconfig.get_config_var("LDLIBRARY") or "none")
WITH_TEXT = {**ENVIRONMENT, "FLEXTRON_TOKENIZERS": str(TOKENIZERS), "LD_PRELOAD": str(PYTHON)}
needs_python = pytest.mark.skipif(".so" not in PYTHON.name, reason="this Python is no shared library")


@needs_python
@pytest.mark.parametrize("seed", [1, 2])
def test_generated_text_is_that_of_python(command, pristine, tmp_path, seed):  # noqa: F811
    """Random weights write broken bytes, mostly."""
    prompt = "Größe 水: "
    (tmp_path / "prompt").write_text(prompt)
    settings = ("--temperature", 1.5, "--seed", seed, "--max-new-tokens", 60, "--ignore-eos")
    options = ("--prompt-file", tmp_path / "prompt", *settings)
    found = generated(command, pristine, *options, ids=(), environment=WITH_TEXT)
    with Runner(pristine, threads=1) as runner:
        expected = runner.generate(prompt, 60, temperature=1.5, seed=seed, stop_on_eos=False)
        text = expected.read()
    assert found["tokens"] == list(expected.tokens) and found["text"] == text
    shown = run(command, pristine, "--prompt", prompt, *settings, ids=(), environment=WITH_TEXT)
    assert shown.returncode == 0 and shown.stdout == text + "\n"


def test_without_the_library_text_is_refused_and_ids_work(command, pristine):  # noqa: F811
    without = {**ENVIRONMENT, "FLEXTRON_TOKENIZERS": "/nowhere/extensions.so"}
    refused(
        run(command, pristine, "--prompt", "a", ids=(), environment=without), 9, "/nowhere/extensions.so", "token ids"
    )
    assert run(command, pristine, environment=without).returncode == 0
    other = {**ENVIRONMENT, "FLEXTRON_TOKENIZERS": str(LIBRARY)}
    refused(run(command, pristine, "--prompt", "a", ids=(), environment=other), 9, "is no onnxruntime-extensions")


@needs_python
def test_prompts_that_cannot_be_used_are_named(command, pristine, tmp_path):  # noqa: F811
    (tmp_path / "zero").write_bytes(b"a\0b")
    (tmp_path / "latin").write_bytes("Größe".encode("latin-1"))
    for options, code, part in (
        (("--prompt", "a", "--prompt-file", "b"), 2, "one of"),
        (("--prompt-file", tmp_path / "none"), 2, "cannot be read"),
        (("--prompt-file", tmp_path / "zero"), 2, "no text"),
        (("--prompt-file", tmp_path / "latin"), 3, "UTF-8"),
        (("--prompt", ""), 3, "prompt is empty"),
    ):
        refused(run(command, pristine, *options, ids=(), environment=WITH_TEXT), code, part)
