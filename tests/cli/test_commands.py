"""The commands: output, exit codes, help without optional libraries."""

import json
import shutil
import subprocess
import sys

import pytest

from flextron_export import __version__, errors
from flextron_export.cli import COMMANDS, main

QUICK = ("--threads", 1, "--contexts", "8,64", "--prompt-lengths", "4", "--repeats", 6)
BLOCKER = """
import sys
class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in BLOCKED:
            raise ImportError(f"blocked: {name}", name=name)
BLOCKED = sys.argv[1].split(",")
sys.meta_path.insert(0, Blocker())
sys.argv = ["flextron-export", *sys.argv[2:]]
"""
OPTIONAL = (
    "torch,transformers,safetensors,onnx,onnx_ir,onnxruntime,tensorrt,tensorrt_rtx,polygraphy,cuda,matplotlib,ml_dtypes"
)


def without(libraries, code, *arguments):
    return subprocess.run(
        [sys.executable, "-c", BLOCKER + code, libraries, *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
    )


def command_without(libraries, *arguments):
    return without(libraries, "from flextron_export.cli import main; main()", *arguments)


@pytest.mark.parametrize("command", COMMANDS)
def test_help_has_an_example_and_needs_no_optional_library(command):
    done = command_without(
        OPTIONAL + ",rich,numpy,tokenizers" if command != "elastify" else OPTIONAL, command, "--help"
    )
    assert done.returncode == 0, done.stderr
    assert f"flextron-export {command} " in done.stdout and "Example:" in done.stdout
    assert "--json" in done.stdout


def test_the_list_of_commands_and_the_version():
    done = command_without(OPTIONAL, "--help")
    assert done.returncode == 0 and all(command in done.stdout for command in COMMANDS)
    done = subprocess.run(
        [sys.executable, "-m", "flextron_export", "--version"], capture_output=True, text=True, check=True
    )
    assert done.stdout == f"flextron-export, version {__version__}\n"


def test_the_package_imports_alone():
    done = without(
        OPTIONAL + ",rich,click,numpy,tokenizers", "import flextron_export; print(flextron_export.__version__)"
    )
    assert done.stdout.strip() == __version__, done.stderr


def test_the_runtime_runs_with_numpy_tokenizers_and_its_target_alone(bundle):
    others = ",".join(name for name in (*OPTIONAL.split(","), "rich", "click") if name != "onnxruntime")
    code = (
        "from flextron_export import Runner\n"
        "with Runner(sys.argv[1], '10s', threads=1, calibration='always') as runner:\n"
        "    print(len(list(runner.generate_ids('In the', 5, stop_on_eos=False))))"
    )
    done = without(others, code, bundle)
    assert done.stdout.strip() == "5", done.stderr


def test_a_missing_library_names_its_extra(pristine):
    done = command_without("onnxruntime", "run", pristine, "--prompt", "x")
    assert done.returncode == errors.MissingDependencyError.exit_code
    assert "flextron-export[cpu]" in done.stderr


@pytest.mark.parametrize("library", ["fastapi", "uvicorn", "prometheus_client"])
def test_the_server_names_its_extra(pristine, library):
    done = command_without(library, "serve", pristine, "--port", 0, "--threads", 1, "--calibration", "never")
    assert done.returncode == errors.MissingDependencyError.exit_code
    assert library in done.stderr and "flextron-export[serve]" in done.stderr


def test_calibrate_prints_a_table_and_keeps_it(call, bundle):
    done = call("calibrate", bundle, *QUICK)
    assert done.exit_code == 0, done.output
    assert "full" in done.stdout and "p95 at 64" in done.stdout and "1 threads" in done.stdout
    assert "at least 6 decode steps per context length, 6 first tokens per prompt length" in done.stdout
    assert len(list((bundle / "latency").iterdir())) == 1
    table = json.loads(call("calibrate", bundle, *QUICK, "--layout", "shared", "--json").stdout)
    assert table["layout"] == "shared" and set(table["budgets"]) == {"full", "p75", "p59", "p34"}


def test_run_streams_text_and_explains_on_standard_error(call, bundle):
    call("calibrate", bundle, *QUICK)
    done = call("run", bundle, "--threads", 1, "--latency-target", "10s", "--prompt", "In the", "--ignore-eos")
    assert done.exit_code == 0, done.output
    assert done.stdout.strip()
    assert "full is the best budget that meets 10000 ms per token" in done.stderr
    assert "not p34: it fits with" in done.stderr and "more parameters" in done.stderr
    assert "64 tokens; first after" in done.stderr and "target met in this run" in done.stderr


def test_run_as_json(call, bundle):
    settings = ("--prompt", "In the", "--max-new-tokens", 5, "--ignore-eos", "--threads", 1, "--json")
    done = call("run", bundle, "--latency-target", "1us", "--best-effort", *settings)
    found = json.loads(done.stdout)
    assert found["selection"]["met"] is False and found["timings"]["met"] is False
    assert len(found["selection"]["rejected"]) == 3 and found["timings"]["tokens"] == 5
    assert "Measuring now" in done.stderr
    by_name = json.loads(call("run", bundle, "--budget", "p34", *settings).stdout)
    assert by_name["selection"]["budget"] == "p34"


def test_run_with_the_same_seed_gives_the_same_text(call, bundle):
    sampled = ("--prompt", "In the", "--temperature", 1, "--top-k", 40, "--threads", 1, "--ignore-eos", "--seed")
    first, again, other = (call("run", bundle, *sampled, seed).stdout for seed in (1, 1, 2))
    assert first == again != other


def test_run_with_stop_strings_and_log_probabilities(call, bundle):
    settings = ("--prompt", "In the", "--max-new-tokens", 12, "--ignore-eos", "--threads", 1, "--json")
    whole = json.loads(call("run", bundle, *settings, "--logprobs", 2).stdout)
    assert len(whole["logprobs"]) == len(whole["tokens"]) == 12
    assert [entry["token"] for entry in whole["logprobs"]] == whole["tokens"]
    assert whole["logprobs"][0]["top"][0] == [whole["tokens"][0], pytest.approx(whole["logprobs"][0]["logprob"])]
    stop = whole["text"][5:7]
    found = json.loads(call("run", bundle, *settings, "--stop", "no such text", "--stop", stop).stdout)
    assert found["text"] == whole["text"][: whole["text"].index(stop)] and found["timings"]["stopped_by"] == "stop"
    penalised = json.loads(call("run", bundle, *settings, "--repetition-penalty", 1.5).stdout)
    assert penalised["tokens"] != whole["tokens"]


def test_run_answers_a_message_with_the_chat_template(call, bundle):
    settings = ("--max-new-tokens", 8, "--ignore-eos", "--threads", 1)
    refused = call("run", bundle, "--prompt", "hi", "--chat")
    assert refused.exit_code == errors.InputError.exit_code and "no chat template" in refused.stderr
    (bundle / "chat_template.jinja").write_text("{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}")
    found = call("run", bundle, "--prompt", "hi", "--chat", "--system", "be brief", *settings)
    assert found.stdout == call("run", bundle, "--prompt", "<system>be brief<user>hi", *settings).stdout
    assert call("run", bundle, "--prompt", "hi", "--system", "be brief").exit_code == 2


def test_run_reads_a_prompt_from_standard_input(call, bundle):
    settings = ("--threads", 1, "--ignore-eos", "--max-new-tokens", 8)
    piped = call("run", bundle, "--prompt-file", "-", *settings, input="In the")
    assert piped.stdout == call("run", bundle, "--prompt", "In the", *settings).stdout


def test_export_inspect_and_verify(call, tiny_checkpoint, tmp_path):
    out = tmp_path / "bundle"
    done = call("export", tiny_checkpoint, "--out", out, "--layout", "panels", "--dtype", "fp32", "--json")
    assert done.exit_code == 0, done.output
    written = json.loads(done.stdout)
    assert written["layouts"] == {"fp32": ["panels"]} and written["verified"] and written["bytes"] > 10_000
    checks = json.loads(call("verify", out, "--checkpoint", tiny_checkpoint, "--json").stdout)
    assert checks and all(check["passed"] for check in checks)
    assert "checks passed" in call("verify", out).stdout
    shown = json.loads(call("inspect", out, "--json").stdout)
    assert shown["kind"] == "bundle" and shown["budgets"][0]["name"] == "full" and shown["latency"] == []
    again = call("export", tiny_checkpoint, "--out", out)
    assert again.exit_code == errors.InputError.exit_code and "--overwrite" in again.stderr


def test_build_says_where_the_result_is(call, bundle):
    done = call("build", bundle, "--target", "onnxruntime-cpu", "--layout", "shared")
    assert done.exit_code == 0 and "shared.fp32: onnxruntime 1." in done.stdout
    record = json.loads(call("build", bundle, "--target", "onnxruntime-cpu", "--json").stdout)
    assert record["layout"] == "panels"
    refused = call("build", bundle, "--target", "onnxruntime-cpu", "--sm", "86,89")
    assert refused.exit_code == errors.InputError.exit_code and "leave out --sm" in refused.stderr
    assert "engine onnxruntime-cpu/panels.fp32: onnxruntime 1." in call("inspect", bundle).stdout


def test_inspect_shows_a_checkpoint_and_a_bundle(call, bundle, pristine):
    checkpoint = pristine.parent / "checkpoint"
    done = call("inspect", checkpoint)
    assert done.exit_code == 0 and "checkpoint" in done.stdout and "p34" in done.stdout
    assert json.loads(call("inspect", checkpoint, "--json").stdout)["kind"] == "checkpoint"
    call("calibrate", bundle, *QUICK)
    done = call("inspect", bundle)
    assert "layouts in fp32: panels, shared, per-budget" in done.stdout
    assert "latency table" in done.stdout and "not used" not in done.stdout


def test_inspect_counts_memory_and_graphs_and_draws_widths(call, pristine, tmp_path):
    plot = tmp_path / "widths.svg"
    done = call("inspect", pristine, "--contexts", "64,128,9999", "--plot", plot)
    assert done.exit_code == 0, done.output
    assert "memory in MB, fp32, one sequence" in done.stdout and "with KV cache for 200" in done.stdout
    assert "panels.fp32.onnx" in done.stdout and "most frequent" in done.stdout
    assert "full: " in plot.read_text()
    found = json.loads(call("inspect", pristine, "--contexts", "64,128", "--json").stdout)
    full, narrow = (found["memory"]["fp32"][name] for name in ("full", "p34"))
    # 2 layers, keys and values, 4 groups of 8 channels, 4 bytes; the narrowest budget keeps 2 groups.
    assert full["cache_bytes"] == {"64": 2 * 2 * 4 * 8 * 4 * 64, "128": 2 * 2 * 4 * 8 * 4 * 128}
    assert narrow["cache_bytes"]["64"] == full["cache_bytes"]["64"] // 2
    weights = 4 * (found["budgets"][0]["parameters"] + 2 * 257 * 64)
    assert full["weight_bytes"] == weights == found["files"]["weights.fp32.safetensors"] - 4096
    shared, panels = (found["graphs"][f"{name}.fp32.onnx"] for name in ("shared", "panels"))
    assert shared["weights"] == 0 and panels["weight_bytes"] >= weights
    assert "If" not in shared["operators"] and panels["operators"]["If"] > 0
    assert shared["nodes"] == sum(shared["operators"].values()) and shared["operators"]["Attention"] == 2


def test_inspect_needs_no_onnx_and_refuses_what_it_cannot_do(call, pristine, tmp_path):
    done = command_without("onnx", "inspect", pristine)
    assert done.returncode == 0 and "graphs: not counted, as onnx is not installed" in done.stdout, done.stderr
    assert call("inspect", pristine, "--contexts", "0").exit_code == errors.InputError.exit_code
    refused = call("inspect", pristine, "--plot", tmp_path / "x.doc")
    assert refused.exit_code == errors.InputError.exit_code and "no image format" in refused.stderr


def test_inspect_puts_back_a_bundle_after_a_crash_while_it_was_replaced(call, bundle):
    call("build", bundle, "--target", "onnxruntime-cpu")
    engine = bundle / "engines" / "onnxruntime-cpu" / "panels.fp32"
    shutil.copytree(engine, engine.with_name(".shared.fp32.part-x"))  # a build that was killed
    engine.rename(engine.with_name(".panels.fp32.old"))
    bundle.rename(bundle.with_name(f".{bundle.name}.old"))
    done = call("inspect", bundle, "--json")
    assert done.exit_code == 0, done.output
    assert list(json.loads(done.stdout)["engines"]) == ["onnxruntime-cpu/panels.fp32"]


@pytest.mark.parametrize("text", ["", "[]", "[" * 100_000, '{"format": "flextron-engine", "version": 1, "plans": 3}'])
def test_inspect_shows_damaged_records_and_run_measures_anew(call, bundle, text):
    record = bundle / "engines" / "onnxruntime-cpu" / "panels.fp32" / "engine.json"
    record.parent.mkdir(parents=True)
    record.write_text(text)
    (bundle / "latency").mkdir()
    (bundle / "latency" / "x.json").write_text(text)
    done = call("inspect", bundle)
    assert done.exit_code == 0 and "engine onnxruntime-cpu/panels.fp32: damaged record" in done.stdout
    assert "latency table" not in done.stdout


def test_build_settles_defaults_as_run_does(call, pristine, tmp_path):
    """A bundle that has neither the target's layout nor its precision."""
    out = tmp_path / "other"
    options = ("--layout", "shared", "--dtype", "fp16", "--out", out)
    assert call("export", pristine.parent / "checkpoint", *options).exit_code == 0
    done = call("build", out, "--target", "onnxruntime-cpu")
    assert done.exit_code == 0 and "shared.fp16: onnxruntime" in done.stdout, done.output
    ran = call("run", out, "--prompt", "In", "--max-new-tokens", 2, "--threads", 1)
    assert ran.exit_code == 0, ran.output


@pytest.mark.parametrize(
    ("arguments", "kind", "words"),
    [
        (("run", "{missing}", "--prompt", "x"), errors.BundleError, "is not a bundle"),
        (("run", "{bundle}", "--prompt", "x" * 300), errors.InputError, "300 tokens; the cache holds at most 200"),
        (("run", "{bundle}", "--prompt", "x", "--budget", "p99"), errors.BundleError, "full, p75, p59, p34"),
        (("run", "{bundle}", "--prompt", "x", "--target", "tpu"), errors.InputError, "no target 'tpu'"),
        (("run", "{bundle}", "--prompt", "x", "--dtype", "int4"), errors.BundleError, "int4"),
        (("run", "{bundle}", "--prompt", "x", "--latency-target", "soon"), errors.InputError, "not a target"),
        (("calibrate", "{missing}"), errors.BundleError, "is not a bundle"),
        (("export", "{missing}", "--out", "{new}"), errors.CheckpointError, "is not a model directory"),
        (("export", "{checkpoint}", "--out", "{new}", "--budgets", "p1"), errors.CheckpointError, "no budget 'p1'"),
        (("export", "{checkpoint}", "--out", "{new}", "--layout", "x"), errors.InputError, "unknown layout 'x'"),
        (("build", "{bundle}", "--target", "tpu"), errors.InputError, "no target 'tpu'"),
        (("verify", "{missing}"), errors.BundleError, "is not a bundle"),
        (("inspect", "{missing}"), errors.InputError, "There is no directory"),
    ],
    ids=lambda value: " ".join(value[:1]) if isinstance(value, tuple) else None,
)
def test_each_kind_of_error_has_its_exit_code_and_says_what_to_do(call, pristine, tmp_path, arguments, kind, words):
    places = {"missing": tmp_path / "missing", "new": tmp_path / "new", "bundle": pristine}
    places["checkpoint"] = pristine.parent / "checkpoint"
    done = call(*(str(a).format(**places) for a in arguments))
    assert done.exit_code == kind.exit_code, done.output
    assert done.stderr.startswith("error: ") and words in done.stderr and "Traceback" not in done.stderr
    assert not (tmp_path / "new").exists()


def test_nothing_fits_has_an_exit_code_of_its_own(call, bundle):
    call("calibrate", bundle, *QUICK)
    done = call("run", bundle, "--threads", 1, "--prompt", "x", "--latency-target", "1us")
    assert done.exit_code == 8
    assert "the fastest, " in done.stderr and "--best-effort" in done.stderr


def test_exit_codes_are_distinct_and_documented():
    from pathlib import Path

    kinds = [k for k in vars(errors).values() if isinstance(k, type) and issubclass(k, errors.FlextronError)]
    codes = [kind.exit_code for kind in kinds]
    assert len(set(codes)) == len(codes) and not {0, 2, 130} & set(codes)
    page = (Path(__file__).parents[2] / "docs" / "command-line.md").read_text()
    for kind in kinds:
        assert f"| {kind.exit_code} |" in page and kind.__name__ in page


@pytest.mark.parametrize(
    "arguments", [["run", "x"], ["nonsense"], ["build", "x"], ["calibrate", "x", "--contexts", "a"]]
)
def test_wrong_usage_is_2(call, arguments):
    assert call(*arguments).exit_code == 2


def test_an_interruption_is_130(call, monkeypatch, pristine):
    def interrupt(*_arguments, **_options):
        raise KeyboardInterrupt

    monkeypatch.setattr("flextron_export.runtime.calibrate.calibrate", interrupt)
    assert call("calibrate", pristine).exit_code == 130


def test_an_unexpected_error_keeps_its_traceback(monkeypatch, pristine):
    from click.testing import CliRunner

    def fail(*_arguments, **_options):
        raise ZeroDivisionError

    monkeypatch.setattr("flextron_export.runtime.calibrate.calibrate", fail)
    assert isinstance(CliRunner().invoke(main, ["calibrate", str(pristine)]).exception, ZeroDivisionError)


def test_a_prompt_file_that_is_not_text_is_refused(call, pristine, tmp_path):
    path = tmp_path / "prompt"
    path.write_bytes(b"\xff\xfe\x00abc")
    result = call("run", pristine, "--prompt-file", path, "--threads", 1)
    assert result.exit_code == errors.InputError.exit_code
    assert "not UTF-8" in result.stderr


def test_the_title_of_a_narrow_table_stays_on_one_line(capsys):
    from flextron_export.cli.common import print_table

    title = "a/long/path to a checkpoint: parameters without embeddings, validation loss"
    print_table(title, ["a", "b"], [["x", 1]])
    assert capsys.readouterr().out.splitlines()[0] == title


def test_a_plan_marks_predictions_and_names_what_a_target_would_pick(call, bundle):
    predicted = call("plan", bundle, "--device", "jetson-orin-nano", "--latency-target", "1s")
    assert predicted.exit_code == 0
    assert "PREDICTED" in predicted.output and "predictions, not measurements" in predicted.output
    assert "p95" not in predicted.output and "full is the best budget that meets 1000 ms" in predicted.output
    assert call("calibrate", bundle, *QUICK).exit_code == 0
    here = json.loads(call("plan", bundle, "--threads", 1, "--json").stdout)
    assert here["predicted"] is None and here["context"] == 64 and len(here["budgets"]) == 4
    elsewhere = json.loads(call("plan", bundle, "--device", here["device"]["id"], "--json").stdout)
    assert elsewhere["budgets"] == here["budgets"]


def test_a_governor_without_a_target_is_wrong_usage(call, bundle):
    done = call("run", bundle, "--prompt", "a", "--governor", "on")
    assert done.exit_code == 2 and "--governor needs a --latency-target" in done.stderr
