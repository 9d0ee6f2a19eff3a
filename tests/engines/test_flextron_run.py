"""The C++ runtime generates what the Python runner generates, and answers bad input with a code and a sentence."""

import json
import os
import shutil
import subprocess
from pathlib import Path

import onnxruntime
import pytest

from flextron_export import Runner, calibrate
from flextron_export.bundle.manifest import Bundle
from flextron_export.exporting import export
from tests.elastic_models import FAMILIES, MODELS, elastic_model

LAYOUTS = ("panels", "shared", "per-budget")
BUDGETS = ("full", "p75", "p59", "p34")
PROMPT = [1, 2, 3, 200, 7]
LONG_PROMPT = [(7 * i) % 250 for i in range(150)]
LIBRARY = next((Path(onnxruntime.__file__).parent / "capi").glob("libonnxruntime.so.*"), None)
# Leaks are looked for in the C++ tests; here ONNX Runtime keeps what it allocated until the process ends.
ENVIRONMENT = {**os.environ, "FLEXTRON_ONNXRUNTIME": str(LIBRARY), "ASAN_OPTIONS": "detect_leaks=0"}

pytestmark = pytest.mark.skipif(LIBRARY is None, reason="this onnxruntime has no shared library to load")


@pytest.fixture(scope="session")
def command(engines_build):
    return engines_build / "flextron-run"


@pytest.fixture
def bundle(pristine, tmp_path):
    """A copy that a test may change."""
    return shutil.copytree(pristine, tmp_path / "bundle")


def run(command, bundle, *options, ids=PROMPT, environment=ENVIRONMENT):
    prompt = ["--ids", ",".join(map(str, ids))] if ids else []
    words = [command, bundle, *prompt, "--threads", "1", *map(str, options)]
    return subprocess.run(words, capture_output=True, text=True, timeout=60, env=environment)


def generated(command, bundle, *options, **settings):
    done = run(command, bundle, "--json", *options, **settings)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def refused(done, code, *parts):
    """It ended with that exit code, and with one sentence rather than a crash."""
    assert done.returncode == code, (done.returncode, done.stderr)
    assert "error: " in done.stderr and "next: " in done.stderr
    for part in parts:
        assert part in done.stderr, done.stderr


def test_cpp_tests(engines_build):
    done = subprocess.run([engines_build / "tests" / "flextron_tests"], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("budget", BUDGETS)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_greedy_tokens_are_those_of_python(command, pristine, layout, budget):
    with Runner(pristine, layout=layout, budget=budget, threads=1) as runner:
        expected = list(runner.generate_ids(PROMPT, 80, stop_on_eos=False))  # the cache grows on the way
    found = generated(command, pristine, "--layout", layout, "--budget", budget, "--max-new-tokens", 80, "--ignore-eos")
    assert found["tokens"] == expected
    assert found["timings"]["tokens"] == 80 and found["timings"]["stopped_by"] == "length"
    assert 0 < found["timings"]["p50"] <= found["timings"]["p95"]


@pytest.mark.parametrize("kind", FAMILIES[1:])
def test_greedy_tokens_of_every_family_are_those_of_python(command, tmp_path, kind):
    """Over layers that differ in width, with a prompt and an answer longer than the attention windows."""
    checkpoint = elastic_model(tmp_path / "checkpoint", **MODELS[kind])
    bundle = export(checkpoint.path, tmp_path / "bundle", dtypes=("fp32",), verify=False).path
    for layout in LAYOUTS:
        with Runner(bundle, layout=layout, budget="crossed", threads=1) as runner:
            expected = list(runner.generate_ids(LONG_PROMPT[:20], 50, stop_on_eos=False))
        options = ("--layout", layout, "--budget", "crossed", "--max-new-tokens", 50, "--ignore-eos", "--chunk", 7)
        assert generated(command, bundle, *options, ids=LONG_PROMPT[:20])["tokens"] == expected


@pytest.mark.parametrize("dtype", ["int8", "int4"])
def test_tokens_of_quantised_matrices_are_those_of_python(command, tmp_path, dtype):
    checkpoint = elastic_model(tmp_path / "checkpoint")
    bundle = export(checkpoint.path, tmp_path / "bundle", dtypes=(dtype,), verify=False).path
    for layout in ("panels", "per-budget"):
        for budget in ("full", "crossed"):
            with Runner(bundle, layout=layout, dtype=dtype, budget=budget, threads=1) as runner:
                expected = list(runner.generate_ids(PROMPT, 40, stop_on_eos=False))
            options = ("--layout", layout, "--budget", budget, "--max-new-tokens", 40, "--ignore-eos")
            # The only precision of a bundle needs no asking for.
            assert generated(command, bundle, *options)["tokens"] == expected
    refused(run(command, bundle, "--low-memory"), 10, f"{dtype} does not run with its weights left in the mapped file")
    calibrate(bundle, dtype=dtype, threads=1, contexts=[8], prompt_lengths=[4], repeats=6)
    chosen = generated(command, bundle, "--dtype", dtype, "--latency-target", "10s", "--max-new-tokens", 2)
    assert chosen["selection"]["budget"] == "full"


@pytest.mark.parametrize("seed", [0, 7, 2**40 + 1])
def test_sampled_tokens_are_those_of_python(command, pristine, seed):
    with Runner(pristine, budget="p59", threads=1) as runner:
        expected = list(
            runner.generate_ids(PROMPT, 30, temperature=0.9, top_k=50, top_p=0.95, seed=seed, stop_on_eos=False)
        )
    settings = ("--temperature", 0.9, "--top-k", 50, "--top-p", 0.95, "--seed", seed, "--ignore-eos")
    found = generated(command, pristine, "--budget", "p59", "--max-new-tokens", 30, *settings)
    assert found["tokens"] == expected


@pytest.mark.parametrize("temperature", [0, 1.1])
def test_min_p_and_the_repetition_penalty_are_those_of_python(command, pristine, temperature):
    chosen = {"temperature": temperature, "min_p": 0.02, "repetition_penalty": 1.4}
    with Runner(pristine, budget="p59", threads=1) as runner:
        expected = list(runner.generate_ids(PROMPT, 30, seed=3, stop_on_eos=False, **chosen))
    settings = [word for name, value in chosen.items() for word in (f"--{name.replace('_', '-')}", value)]
    settings += ["--seed", 3, "--ignore-eos", "--max-new-tokens", 30]
    assert generated(command, pristine, "--budget", "p59", *settings)["tokens"] == expected


@pytest.mark.parametrize("chunk", [1, 64, 1000])
def test_prefill_in_chunks_changes_nothing(command, pristine, chunk):
    with Runner(pristine, threads=1) as runner:
        expected = list(runner.generate_ids(LONG_PROMPT, 10, stop_on_eos=False))
    options = ("--chunk", chunk, "--max-new-tokens", 10, "--ignore-eos")
    assert generated(command, pristine, *options, ids=LONG_PROMPT)["tokens"] == expected


def test_generation_stops_when_the_cache_is_full_and_at_end_of_text(command, pristine, bundle):
    full = generated(command, pristine, "--max-new-tokens", 100, "--ignore-eos", ids=LONG_PROMPT)
    assert full["timings"]["stopped_by"] == "context" and len(full["tokens"]) == 51
    tokens = generated(command, pristine, "--max-new-tokens", 10, "--ignore-eos")["tokens"]
    name = "generation_config.json"
    (bundle / name).write_text(json.dumps({"eos_token_id": [tokens[4]]}))
    ended = generated(command, bundle, "--max-new-tokens", 10)
    assert ended["tokens"] == tokens[: tokens.index(tokens[4])] and ended["timings"]["stopped_by"] == "eos"


def test_it_selects_as_python_by_the_table_that_python_measured(command, bundle):
    table = calibrate(bundle, threads=1, contexts=[8, 100], prompt_lengths=[8], repeats=6)
    p95 = {name: cost.ms_per_token(100) for name, cost in table.budgets.items()}
    target = f"{sum(p95.values()) / len(p95)}ms"  # some budgets are over it, some are not
    with Runner(bundle, target, threads=1, calibration="never") as runner:
        expected = runner.selection.to_json()
    found = generated(command, bundle, "--latency-target", target)["selection"]
    assert found["budget"] == expected["budget"] and found["reason"] == expected["reason"]
    assert found["rejected"] == expected["rejected"]
    refused(run(command, bundle, "--latency-target", "1us"), 8, "fastest", "--best-effort")
    assert generated(command, bundle, "--latency-target", "1us", "--best-effort")["selection"]["met"] is False


def test_it_reads_the_table_of_a_bundle_that_cannot_be_written(command, bundle, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (bundle / "latency").write_text("not a directory")
    calibrate(bundle, threads=1, contexts=[8], prompt_lengths=[8], repeats=3)
    environment = {**ENVIRONMENT, "XDG_CACHE_HOME": str(tmp_path / "cache")}
    found = generated(command, bundle, "--latency-target", "10s", environment=environment)
    assert found["selection"]["met"] is True


def test_without_measurements_it_says_how_to_get_them(command, pristine):
    refused(run(command, pristine, "--latency-target", "20ms", "--calibration", "never"), 3, "--calibrate")


@pytest.mark.parametrize(
    ("options", "code", "part"),
    [
        (("--budget", "p1"), 6, "use one of: full, p75"),
        (("--layout", "other"), 6, "no other graph"),
        (("--dtype", "fp16"), 6, "in fp16"),
        (("--latency-target", "20 parsecs"), 3, "write 20ms"),
        (("--latency-target", "20ms", "--budget", "full"), 3, "one of them"),
        (("--max-new-tokens", "0"), 3, "nothing to generate"),
        (("--max-new-tokens", "x"), 2, "--max-new-tokens"),
        (("--unknown",), 2, "--unknown"),
        (("--threads", "100000"), 3, "100000 threads"),
        (("--onnxruntime", "/nowhere/libonnxruntime.so"), 9, "/nowhere/libonnxruntime.so"),
    ],
)
def test_what_cannot_be_used_is_named(command, pristine, options, code, part):
    refused(run(command, pristine, *options), code, part)


@pytest.mark.parametrize(("ids", "part"), [([257], "vocabulary"), ([-1], "vocabulary"), ([1] * 201, "at most 200")])
def test_a_prompt_that_does_not_fit_is_refused(command, pristine, ids, part):
    refused(run(command, pristine, ids=ids), 3, part)


def test_a_library_that_is_missing_or_another_is_named(command, pristine, engines_build):
    other = {**ENVIRONMENT, "FLEXTRON_ONNXRUNTIME": str(engines_build / "libflextron.so")}
    refused(run(command, pristine, environment=other), 9, "is no ONNX Runtime")


def damage(bundle, name, kind):
    path = bundle / name
    content = path.read_bytes()
    changed = {
        "missing": None,
        "empty": b"",
        "cut": content[: len(content) // 2],
        "longer": content + b"x",
        "altered": bytes([content[0] ^ 1]) + content[1:],
    }[kind]
    if changed is None:
        path.unlink()
    else:
        path.write_bytes(changed)


@pytest.mark.parametrize("kind", ["missing", "empty", "cut", "longer", "altered"])
@pytest.mark.parametrize("name", ["manifest.json", "weights.fp32.safetensors", "graphs/panels.fp32.onnx"])
def test_a_damaged_bundle_is_refused(command, bundle, name, kind):
    damage(bundle, name, kind)
    refused(run(command, bundle), 6, name)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_graph_of_another_content_is_no_crash(command, bundle, layout):
    """Sizes are right and hashes are not looked at: ONNX Runtime must refuse it."""
    for graph in Bundle.open(bundle).graphs(layout, "fp32").values():
        graph.write_bytes(b"\xff" * graph.stat().st_size)
    refused(run(command, bundle, "--layout", layout, "--no-verify-hashes"), 10, "ONNX Runtime")


def test_a_weights_header_of_another_content_is_no_crash(command, bundle):
    path = bundle / "weights.fp32.safetensors"
    path.write_bytes(b"\xff" * path.stat().st_size)
    refused(run(command, bundle, "--layout", "shared", "--no-verify-hashes"), 6, "weights.fp32.safetensors")


@pytest.mark.slow
def test_under_address_and_undefined_behaviour_sanitizers(sanitized_build, pristine, bundle):
    """The readers' tests with every damaged input, and the command with ONNX Runtime, which is not instrumented."""
    test_cpp_tests(sanitized_build)
    command = sanitized_build / "flextron-run"
    for layout in LAYOUTS:
        found = generated(command, pristine, "--layout", layout, "--max-new-tokens", 80, "--ignore-eos")
        assert len(found["tokens"]) == 80
    damage(bundle, "weights.fp32.safetensors", "cut")
    refused(run(command, bundle), 6, "weights")
