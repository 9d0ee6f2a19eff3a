"""engine.json and the reasons why an engine must not run. No TensorRT needed."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from flextron_export.bundle.engines import MARKER
from flextron_export.bundle.manifest import FileRecord
from flextron_export.errors import TargetError
from flextron_export.targets._tensorrt.flavour import ENTERPRISE, RTX
from flextron_export.targets._tensorrt.record import EngineRecord, PlanRecord, check_engine

PLAN = PlanRecord("256.plan", 10, "aa", 256, {"full": {"decode": 0, "prefill": 1}}, 1.5)
RECORD = EngineRecord(
    target="tensorrt-rtx",
    library="tensorrt_rtx",
    library_version="1.7.1.116",
    compute_capabilities=(86, 89),
    layout="shared",
    dtype="fp16",
    max_batch=4,
    max_length=256,
    attention="fused",
    source={"graphs/shared.fp16.onnx": "bb", "weights.fp16.safetensors": "cc"},
    plans=(PLAN,),
    seconds=1.5,
    exporter="flextron_export 0",
)
HERE = {
    "flavour": RTX,
    "version": "1.7.1.116",
    "compute_capability": 89,
    "known": (75, 80, 86, 89, 120, 121),
    "source": RECORD.source,
    "files": {"256.plan": FileRecord(10, "aa")},
}


def test_an_engine_that_fits_is_accepted():
    check_engine(RECORD, **HERE)
    check_engine(RECORD, **{**HERE, "compute_capability": None})


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"version": "1.8.0"}, "built by TensorRT-RTX 1.7.1.116, installed is 1.8.0"),
        ({"compute_capability": 120}, "built for SM 86, 89, this device has SM 120"),
        ({"files": {}}, "256.plan is missing"),
        ({"files": {"256.plan": FileRecord(10, "ab")}}, "256.plan was altered"),
        ({"files": {"256.plan": FileRecord(9, "aa")}}, "256.plan was altered"),
        (
            {"source": {**RECORD.source, "weights.fp16.safetensors": "cd"}},
            "built from another weights.fp16.safetensors",
        ),
        ({"source": {**RECORD.source, "graphs/shared.fp16.onnx": "cd"}}, "built from another graphs/shared.fp16.onnx"),
        ({"flavour": ENTERPRISE, "version": "10.16.2"}, "built by tensorrt_rtx, here is tensorrt"),
    ],
)
def test_an_engine_that_does_not_fit_is_refused_with_the_command_to_rebuild(change, reason):
    with pytest.raises(TargetError, match=reason) as error:
        check_engine(RECORD, **{**HERE, **change})
    assert error.value.fix.startswith("flextron-export build BUNDLE --target tensorrt-rtx --layout shared --dtype fp16")


def test_every_reason_is_named_at_once():
    with pytest.raises(TargetError, match=r"installed is 2\.0; .*SM 75; .*missing; .*another graphs"):
        check_engine(RECORD, flavour=RTX, version="2.0", compute_capability=75, known=(75,), source={}, files={})


def test_a_device_that_is_no_rtx_is_sent_to_the_other_target():
    with pytest.raises(TargetError) as error:
        check_engine(RECORD, **{**HERE, "compute_capability": 87})
    wanted = "--target tensorrt --layout shared --dtype fp16 --capacity 256 --max-batch 4 --max-length 256"
    assert error.value.fix == f"flextron-export build BUNDLE {wanted}, on this device"


@pytest.mark.parametrize("here", [89, 75])
def test_an_engine_for_another_rtx_device_is_built_again_for_this_one(here):
    record = replace(RECORD, compute_capabilities=(86,))
    with pytest.raises(TargetError, match=f"built for SM 86, this device has SM {here}") as error:
        check_engine(record, **{**HERE, "compute_capability": here})
    assert "--target tensorrt-rtx" in error.value.fix and error.value.fix.endswith(f"--sm {here}")


def test_the_command_to_rebuild_has_the_path_and_every_limit():
    plans = (PLAN, replace(PLAN, capacity=1024))
    record = replace(RECORD, plans=plans, max_batch=2, max_length=64, bundle=Path("my bundle"))
    command = "flextron-export build 'my bundle' --target tensorrt-rtx --layout shared --dtype fp16"
    limits = "--capacity 256,1024 --max-batch 2 --max-length 64"
    assert record.rebuild() == f"{command} {limits} --sm 86,89"
    assert record.rebuild(max_batch=(7,)) == f"{command} {limits.replace('batch 2', 'batch 7')} --sm 86,89"
    assert replace(record, compute_capabilities=RTX.reach).rebuild() == f"{command} {limits}"


def test_the_record_survives_its_file(tmp_path):
    (tmp_path / MARKER).write_text(json.dumps(RECORD.to_json()))
    assert EngineRecord.read(tmp_path) == RECORD


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"version": 99}, "newer flextron_export"),
        ({"format": "something"}, "damaged"),
        ({"plans": [{"file": "x"}]}, "damaged"),
        ({"surprise": 1}, "damaged"),
        ({"version": "1"}, "damaged"),
        ({"plans": []}, "damaged"),
        ({"max_batch": "4"}, "damaged"),
        ({"source": ["x"]}, "damaged"),
        ({"compute_capabilities": 86}, "damaged"),
    ],
)
def test_a_record_that_cannot_be_used_says_so(tmp_path, change, words):
    (tmp_path / MARKER).write_text(json.dumps({**RECORD.to_json(), **change}))
    with pytest.raises(TargetError, match=words):
        EngineRecord.read(tmp_path)


def test_a_truncated_or_missing_record_says_how_to_build(tmp_path):
    with pytest.raises(TargetError, match=r"(?s)no .* engine.*flextron-export build"):
        EngineRecord.read(tmp_path)
    for text in ("{", "[]", "[" * 100_000):
        (tmp_path / MARKER).write_text(text)
        with pytest.raises(TargetError, match="damaged"):
            EngineRecord.read(tmp_path)


def test_the_plan_of_a_budget_that_was_not_built_is_refused():
    assert RECORD.plan("full", 256) is PLAN
    assert replace(RECORD, plans=(PLAN, replace(PLAN, capacity=64))).capacities == (64, 256)
    with pytest.raises(TargetError, match="budget 'half' and capacity 256"):
        RECORD.plan("half", 256)
