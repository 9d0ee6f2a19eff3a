"""TensorRT-RTX compiles graphs with quantised matrices, which stay small in its engines, for devices that have them."""

from __future__ import annotations

import pytest

from flextron_export.bundle.manifest import Bundle
from flextron_export.errors import TargetError
from flextron_export.exporting import export
from flextron_export.targets import get_target
from flextron_export.targets._tensorrt.flavour import ENTERPRISE, RTX
from flextron_export.targets._tensorrt.precision import capable
from flextron_export.targets.build import build
from tests.elastic_models import FAMILIES, MODELS, elastic_model, routed_model
from tools.random_checkpoint import write_random_checkpoint

SHAPE = {"layers": 1, "hidden": 512, "heads": 16, "kv_heads": 4, "ffn": 2048, "vocab": 4096}
SMALL = {"sm": (89,), "capacity": 64, "max_batch": 2, "max_length": 32}
CELLS = {
    "bf16": ("panels", "shared", "per-budget"),
    "int8-fp16": ("panels", "shared", "per-budget"),
    "fp8-fp16": ("panels", "shared", "per-budget"),
    "int4-fp16": ("panels", "per-budget"),
}


QUANTISED = [dtype for dtype in CELLS if dtype != "bf16"]


@pytest.fixture(scope="module")
def library():
    return pytest.importorskip("tensorrt_rtx", reason="tensorrt-rtx is not installed")


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """One layer whose matrices are much of an engine, in fp16 and every precision for TensorRT."""
    directory = tmp_path_factory.mktemp("precisions")
    source = write_random_checkpoint(directory / "checkpoint", **SHAPE, max_positions=512)
    return export(source.path, directory / "bundle", dtypes=("fp16", *CELLS), budgets=["full"], verify=False)


@pytest.mark.parametrize("dtype", ["int4-fp16", *(pytest.param(d, marks=pytest.mark.slow) for d in QUANTISED)])
def test_matrices_stay_small_in_an_engine(library, bundle: Bundle, dtype: str) -> None:
    sizes = {}
    for name in ("fp16", dtype):
        (plan,) = build(bundle.path, "tensorrt-rtx", layout="per-budget", dtype=name, **SMALL)["plans"]
        sizes[name] = plan["bytes"]
    saved = bundle.files["weights.fp16.safetensors"].bytes - bundle.files[f"weights.{dtype}.safetensors"].bytes
    # An embedding in float16 is there once, too.
    assert sizes["fp16"] - sizes[dtype] > 0.8 * saved


@pytest.mark.parametrize(
    ("dtype", "layout"),
    [
        pytest.param(dtype, layout, marks=() if (dtype, layout) == ("fp8-fp16", "shared") else pytest.mark.slow)
        for dtype, layouts in CELLS.items()
        for layout in layouts
    ],
)
def test_every_layout_compiles(library, tmp_path, dtype: str, layout: str) -> None:
    source = elastic_model(tmp_path / "checkpoint")
    options = {"layouts": [layout], "dtypes": [dtype], "budgets": ["full", "crossed"], "verify": False}
    record = build(export(source.path, tmp_path / "bundle", **options).path, "tensorrt-rtx", dtype=dtype, **SMALL)
    assert (record["layout"], record["dtype"], list(record["compute_capabilities"])) == (layout, dtype, [89])
    assert f"weights.{dtype}.safetensors" in record["source"]


@pytest.mark.slow
@pytest.mark.parametrize("kind", FAMILIES[1:])
def test_every_family_compiles(library, tmp_path, kind: str) -> None:
    source = elastic_model(tmp_path / "checkpoint", **MODELS[kind])
    options = {"layouts": ["per-budget"], "dtypes": ["int4-fp16"], "budgets": ["small"], "verify": False}
    assert build(export(source.path, tmp_path / "bundle", **options).path, "tensorrt-rtx", **SMALL)["plans"]


@pytest.mark.slow
@pytest.mark.parametrize("dtype", QUANTISED)
def test_a_router_compiles(library, tmp_path, dtype: str) -> None:
    source = routed_model(tmp_path / "checkpoint")
    bundle = export(source.path, tmp_path / "bundle", dtypes=(dtype,), layouts=("routed",), verify=False)
    assert build(bundle.path, "tensorrt-rtx", layout="routed", dtype=dtype, **SMALL)["plans"]


def test_devices_without_such_numbers_are_named() -> None:
    with pytest.raises(TargetError, match=r"SM 86 does not compute in fp8-fp16(.|\n)*SM 89(.|\n)*--sm 89"):
        capable(RTX, "fp8-fp16", (86, 120), None)
    with pytest.raises(TargetError, match=r"SM 87 does not compute in fp8-fp16(.|\n)*another device"):
        capable(ENTERPRISE, "fp8-fp16", (), 87)
    with pytest.raises(TargetError, match="SM 75 does not compute in int4-fp16"):
        capable(RTX, "int4-fp16", (75,), None)
    assert capable(RTX, "fp8-fp16", (89, 120), None) == (89, 120)
    assert capable(RTX, "fp8-fp16", (), None) == (89, 120, 121)
    assert capable(RTX, "int4-fp16", (), None) == capable(RTX, "fp16", (), None) == ()
    assert capable(ENTERPRISE, "fp8-fp16", (), 110) == ()


def test_precisions_for_processors_are_refused_with_those_to_use(bundle: Bundle, tmp_path) -> None:
    source = bundle.path.parent / "checkpoint"
    other = export(source, tmp_path / "bundle", dtypes=["int4", "fp32"], layouts=["panels"], verify=False)
    for target in ("tensorrt-rtx", "tensorrt"):
        for dtype, wanted in (("int4", "int4-fp16"), ("fp32", "fp16")):
            with pytest.raises(TargetError, match=rf"in {dtype}\.(.|\n)*export again with --dtype {wanted},"):
                get_target(target).check(other, "panels", dtype)
