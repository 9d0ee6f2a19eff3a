"""Real engines, compiled by TensorRT-RTX on the CPU, and what both TensorRT targets refuse."""

import json
import shutil
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from flextron_export.bundle.manifest import Bundle, FileRecord
from flextron_export.elastic.widths import Budget, LayerWidth
from flextron_export.errors import BundleError, InputError, MissingDependencyError, TargetError
from flextron_export.graph.contract import LAYOUTS
from flextron_export.plugins.libraries import KERNELS, VARIABLE
from flextron_export.targets import get_target
from flextron_export.targets._tensorrt import builder, device, flavour
from flextron_export.targets._tensorrt import target as target_module
from flextron_export.targets._tensorrt.builder import attention_may_decompose, static_graph
from flextron_export.targets._tensorrt.plugin_library import LIBRARY
from flextron_export.targets._tensorrt.progress import STEPS, Fraction
from flextron_export.targets.build import build
from tests.targets.tensorrt_bundle import tensorrt_bundle

pytestmark = pytest.mark.filterwarnings("ignore:Use Deprecated in TensorRT-RTX 1.2. Timing cache")

SMALL = {"capacity": 128, "max_batch": 2, "max_length": 64}


@pytest.fixture(scope="module")
def library():
    return pytest.importorskip("tensorrt_rtx")


@pytest.fixture(scope="module")
def built_bundle(library, shipped, tmp_path_factory):
    """The bundle with an engine of layout `shared`; no test may change it."""
    path = shutil.copytree(shipped.path, tmp_path_factory.mktemp("built") / "bundle")
    build(path, "tensorrt-rtx", **SMALL)
    return Bundle.open(path)


def engine(bundle: Bundle, layout: str = "shared") -> Path:
    return bundle.path / "engines" / "tensorrt-rtx" / f"{layout}.fp16"


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_compiles_and_records_what_was_built(library, fp16_bundle, layout):
    record = build(fp16_bundle.path, "tensorrt-rtx", layout=layout, sm=(89, 86), **SMALL)
    written = json.loads((engine(fp16_bundle, layout) / "engine.json").read_text())
    assert written == json.loads(json.dumps(record))
    assert (record["library"], record["library_version"]) == ("tensorrt_rtx", library.__version__)
    assert record["compute_capabilities"] == (86, 89)
    assert (record["layout"], record["dtype"]) == (layout, "fp16")
    assert (record["max_batch"], record["max_length"]) == (2, 64)
    assert record["attention"] == ("fused or decomposed" if layout == "panels" else "fused")
    assert record["seconds"] > 0
    graphs = ["per-budget.full.fp16", "per-budget.p50.fp16"] if layout == "per-budget" else [f"{layout}.fp16"]
    assert set(record["source"]) == {*(f"graphs/{g}.onnx" for g in graphs), "weights.fp16.safetensors"}
    assert all(fp16_bundle.files[name].sha256 == digest for name, digest in record["source"].items())
    for plan in record["plans"]:
        assert FileRecord.of(engine(fp16_bundle, layout) / plan["file"]) == FileRecord(plan["bytes"], plan["sha256"])
    indices = {
        (b, phase): i for p in record["plans"] for b, found in p["profiles"].items() for phase, i in found.items()
    }
    both = {"decode": 0, "prefill": 1}
    assert indices == {
        (name, phase): i + (2 * k if layout != "per-budget" else 0)
        for k, name in enumerate(("full", "p50"))
        for phase, i in both.items()
    }


def test_a_router_compiles_into_one_pair_of_profiles(library, routed_bundle, tmp_path):
    bundle = shutil.copytree(routed_bundle.path, tmp_path / "bundle")
    record = build(bundle, "tensorrt-rtx", layout="routed", sm=(86,), **SMALL)
    assert [plan["profiles"] for plan in record["plans"]] == [{"routed": {"decode": 0, "prefill": 1}}]
    assert record["attention"] == "fused or decomposed" and "router.safetensors" in record["source"]


def test_an_engine_of_shared_weights_holds_none(library, tmp_path):
    sizes = []
    for ffn in (256, 4096):
        bundle = tensorrt_bundle(tmp_path / str(ffn), ("full",), layers=1, ffn=ffn)
        record = build(bundle.path, "tensorrt-rtx", **SMALL)
        sizes.append(record["plans"][0]["bytes"])
    grown = bundle.files["weights.fp16.safetensors"].bytes
    assert sizes[1] - sizes[0] < grown / 4


@pytest.mark.parametrize(
    "shape",
    [{"kv_heads": 16}, {"heads": 4, "kv_heads": 1}, {"heads": 32, "kv_heads": 8}],
    ids=["mha", "wide", "narrow"],
)
def test_other_head_shapes_compile(library, tmp_path, shape):
    bundle = tensorrt_bundle(tmp_path, ("full",), layers=1, **shape)
    record = build(bundle.path, "tensorrt-rtx", **SMALL)
    fused = bundle.architecture.head_dim >= 16
    assert record["attention"] == ("fused" if fused else "fused or decomposed")


def test_head_sizes_without_a_fused_kernel_may_decompose(shipped):
    for head_dim, may in ((8, True), (16, False), (20, True), (64, False), (256, False), (512, True)):
        bundle = replace(shipped, architecture=replace(shipped.architecture, head_dim=head_dim))
        assert attention_may_decompose(bundle, "shared") is may


def test_building_shows_progress(library, fp16_bundle):
    seen = []

    def track(items, description):
        for item in items:
            seen.append(description)
            yield item

    build(fp16_bundle.path, "tensorrt-rtx", track=track, **{**SMALL, "capacity": 64})
    assert seen == ["compiling 64.plan"] * STEPS


def test_an_interrupt_cancels_the_compilation_and_leaves_no_engine(library, fp16_bundle):
    def track(items, description):
        yield 0
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build(fp16_bundle.path, "tensorrt-rtx", track=track, **SMALL)
    assert [p.name for p in engine(fp16_bundle).parent.iterdir()] == []


def test_a_phase_counts_as_one_step_of_its_parent():
    fraction = Fraction()
    fraction.start("all", None, 2)
    fraction.step("all", 0)
    assert fraction.value == 0.5
    fraction.start("part", "all", 4)
    fraction.step("part", 0)
    assert fraction.value == 0.625
    fraction.finish("part")
    fraction.start("part", "all", 100)
    fraction.step("part", 0)
    fraction.step("unknown", 3)
    assert fraction.value == 0.625  # never backwards


def test_a_failure_while_writing_leaves_the_old_engine(built_bundle, tmp_path, monkeypatch):
    fp16_bundle = Bundle.open(shutil.copytree(built_bundle.path, tmp_path / "bundle"))
    before = {p.name: FileRecord.of(p) for p in engine(fp16_bundle).iterdir()}
    other = engine(fp16_bundle, "per-budget")
    other.mkdir()
    (other / "engine.json").write_text("untouched")

    opened = Path.open

    def full(self, mode="r", *arguments, **options):
        path = Path("/dev/full") if self.suffix == ".plan" and "w" in mode else self
        return opened(path, mode, *arguments, **options)

    monkeypatch.setattr(Path, "open", full)
    with pytest.raises(InputError, match="disk is full"):
        build(fp16_bundle.path, "tensorrt-rtx", **SMALL)
    assert {p.name: FileRecord.of(p) for p in engine(fp16_bundle).iterdir()} == before
    assert sorted(p.name for p in engine(fp16_bundle).parent.iterdir()) == ["per-budget.fp16", "shared.fp16"]
    assert (other / "engine.json").read_text() == "untouched"


def test_building_again_replaces_the_engine(built_bundle, tmp_path):
    fp16_bundle = Bundle.open(shutil.copytree(built_bundle.path, tmp_path / "bundle"))
    build(fp16_bundle.path, "tensorrt-rtx", **{**SMALL, "capacity": 64})
    assert sorted(p.name for p in engine(fp16_bundle).iterdir()) == ["64.plan", "engine.json"]


def test_what_the_library_refuses_is_said_in_its_own_words(library, fp16_bundle, monkeypatch):
    monkeypatch.setattr(builder, "static_graph", lambda *_: b"this is no graph")
    with pytest.raises(TargetError, match=r"TensorRT-RTX .* cannot compile shared\.fp16\.onnx: ."):
        build(fp16_bundle.path, "tensorrt-rtx", **SMALL)
    assert not engine(fp16_bundle).exists()


def test_only_the_capacity_of_the_graph_is_replaced(shipped):
    import onnx

    graph = shipped.graph("shared", "fp16")
    before = onnx.load(graph, load_external_data=False)
    after = onnx.load_from_string(static_graph(graph, shipped.architecture, 77))
    assert before.graph.node == after.graph.node
    for old, new in zip(
        (*before.graph.input, *before.graph.output), (*after.graph.input, *after.graph.output), strict=True
    ):
        if old.name.split(".")[0] in ("k", "v"):
            assert new.type.tensor_type.shape.dim[2].dim_value == 77
            old.type.tensor_type.shape.dim[2].dim_value = 77
        assert old == new


@pytest.mark.parametrize("target", ["tensorrt-rtx", "tensorrt"])
class TestRefusals:
    """What `check` refuses, by name; no library is needed for that."""

    def test_fp32(self, shipped, target):
        with pytest.raises(TargetError, match=r"(?s)no attention kernel in fp32.*--dtype fp16"):
            get_target(target).check(shipped, "shared", "fp32")

    def test_a_graph_that_was_not_exported(self, shipped, target):
        bundle = replace(shipped, layouts={"fp16": ("panels",)})
        with pytest.raises(BundleError, match="no shared graph"):
            get_target(target).check(bundle, "shared", "fp16")

    def test_too_few_query_heads(self, shipped, target):
        narrow = replace(shipped.architecture, num_heads=4, num_kv_heads=4)
        budget = Budget("thin", (LayerWidth(4, 64), LayerWidth(3, 64)))
        bundle = replace(shipped, architecture=narrow, budgets=(budget,))
        with pytest.raises(TargetError, match="fewer than 4 query heads at batch 1: budget 'thin', layer 1: 3 query"):
            get_target(target).check(bundle, "shared", "fp16")


@pytest.mark.parametrize("sm", [(87,), (89, 90), (110,), (100,)])
def test_devices_that_are_no_rtx_are_sent_to_the_other_target(library, fp16_bundle, sm):
    with pytest.raises(TargetError, match=rf"not for {sm[-1]}(?s:.*)--target tensorrt"):
        build(fp16_bundle.path, "tensorrt-rtx", sm=sm, **SMALL)
    assert not engine(fp16_bundle).exists()


def test_without_a_list_an_engine_reaches_all_rtx_devices_but_turing(built_bundle):
    record = json.loads((engine(built_bundle) / "engine.json").read_text())
    assert record["compute_capabilities"] == [80, 86, 89, 120, 121]


@pytest.mark.parametrize(
    ("target", "limits", "words"),
    [
        ("onnxruntime-cpu", {"capacity": 64}, "takes no capacity(?s:.*)run at any size"),
        ("onnxruntime-tensorrt", {"separate": True}, "takes no separate(?s:.*)capacity, max_batch, max_length"),
        ("tensorrt-rtx", {"capacities": 64}, "takes no capacities(?s:.*)capacity, max_batch, max_length, separate"),
    ],
)
def test_limits_that_a_target_does_not_take_are_named(fp16_bundle, target, limits, words):
    with pytest.raises(InputError, match=words):
        build(fp16_bundle.path, target, **limits)


def test_the_other_target_takes_no_devices(fp16_bundle):
    with pytest.raises(InputError, match=r"(?s)takes no compute capabilities.*leave out --sm"):
        build(fp16_bundle.path, "tensorrt", sm=(87,))


@pytest.mark.parametrize(("target", "module"), [("tensorrt-rtx", "tensorrt_rtx"), ("tensorrt", "tensorrt")])
def test_a_missing_library_names_the_extra(fp16_bundle, monkeypatch, target, module):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(MissingDependencyError, match=rf"pip install 'flextron-export\[{target}\]'"):
        build(fp16_bundle.path, target)


def test_a_library_without_our_operators_is_refused_with_its_version(monkeypatch, fp16_bundle):
    monkeypatch.setattr(flavour, "import_module", lambda name: type("Old", (), {"__version__": "10.2.0.19"}))
    with pytest.raises(TargetError, match=r"TensorRT 10\.2\.0\.19 lacks operators .* 10\.3 or newer(?s:.*)JetPack"):
        build(fp16_bundle.path, "tensorrt")


class Enterprise:
    """TensorRT-RTX under the name and version of TensorRT, with a registry of plugins of its own."""

    def __init__(self, library, version, loads=True):
        self._library, self.__version__, self._loads = library, version, loads
        self.all_creators, self.loaded = [], []

    def __getattr__(self, name):
        return getattr(self._library, name)

    def get_plugin_registry(self):
        return self

    def load_library(self, path):
        self.loaded.append(path)
        if not self._loads:
            return None
        self.all_creators.append(SimpleNamespace(name="HeadSubsetAttention"))
        return object()


@pytest.fixture
def enterprise(library, monkeypatch, tmp_path):
    """A pretended Orin with a release of TensorRT, whose plugins TensorRT-RTX finds as ONNX functions in the graph."""
    from functools import partial

    from flextron_export.graph import plugin_lowering

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(target_module, "require_device", lambda title: device.Device("Orin", 87, 12060))
    monkeypatch.setattr(target_module, "find_device", lambda: device.Device("Orin", 87, 12060))
    monkeypatch.setattr(plugin_lowering, "lower_to_plugins", partial(plugin_lowering.lower_to_plugins, bodies=True))
    (tmp_path / "plugins").mkdir()
    for name in (LIBRARY, KERNELS):
        (tmp_path / "plugins" / name).write_bytes(name.encode())
    monkeypatch.setenv(VARIABLE, str(tmp_path / "plugins"))

    def pretend(version, **options):
        pretended = Enterprise(library, version, **options)
        monkeypatch.setattr(flavour, "import_module", lambda name: pretended)
        return pretended

    return pretend


def test_the_enterprise_library_goes_through_the_same_builder(enterprise, fp16_bundle, tmp_path):
    """Everything but the library itself; the timings of its kernels are kept by release and device."""
    enterprise("10.16.2.5")
    record = build(fp16_bundle.path, "tensorrt", **{**SMALL, "max_batch": 1})
    assert (record["target"], record["library"], record["compute_capabilities"]) == ("tensorrt", "tensorrt", (87,))
    assert (record["lowering"], record["plugins"], record["attention"]) == ("native", {}, "fused")
    # Profiles of one sequence would be computed wrongly.
    assert record["max_batch"] == 2 and record["workarounds"] == ("fused-projections-batch-1",)
    assert (fp16_bundle.path / "engines" / "tensorrt" / "shared.fp16" / "128.plan").is_file()
    timings = tmp_path / "cache" / "flextron-export" / "timing" / "tensorrt-10.16.2.5-sm87.cache"
    kept = timings.read_bytes()
    assert kept
    timings.write_bytes(b"damaged")
    build(fp16_bundle.path, "tensorrt", **SMALL)
    assert timings.read_bytes() == kept


@pytest.fixture(scope="module")
def wide(tmp_path_factory):
    """A bundle with heads of 64, which the plugin has kernels for; no test may change it."""
    shape = {"layers": 1, "heads": 4, "kv_heads": 1, "ffn": 64}
    return tensorrt_bundle(tmp_path_factory.mktemp("wide"), ("full",), **shape)


class TestPlugins:
    """TensorRT before 10.15 gets our plugin; the library lies beside the engine and is loaded from there."""

    @pytest.fixture
    def bundle(self, wide, tmp_path):
        return Bundle.open(shutil.copytree(wide.path, tmp_path / "bundle"))

    def test_an_engine_comes_with_the_library_it_needs(self, enterprise, bundle, tmp_path, monkeypatch):
        library = enterprise("10.3.0.30")
        record = build(bundle.path, "tensorrt", **SMALL)
        assert (record["lowering"], record["attention"]) == ("plugin", "plugin")
        assert library.loaded == [str((tmp_path / "plugins" / LIBRARY).resolve())]
        folder = bundle.path / "engines" / "tensorrt" / "shared.fp16"
        assert {p.name for p in folder.iterdir()} == {"128.plan", LIBRARY, KERNELS, "engine.json"}
        assert json.loads((folder / "engine.json").read_text())["plugins"][KERNELS]["bytes"] == len(KERNELS)

        # Another process, in which nothing is registered: loaded from the bundle, after its hash was checked.
        library = enterprise("10.3.0.30")
        session = SimpleNamespace(TensorRTSession=lambda *_: "session")
        monkeypatch.setitem(sys.modules, "flextron_export.targets._tensorrt.session", session)
        target = get_target("tensorrt")
        assert target.open_session(bundle, layout="shared", dtype="fp16") == "session"
        assert library.loaded == [str(folder.resolve() / LIBRARY)]
        (folder / KERNELS).write_bytes(b"another")
        with pytest.raises(TargetError, match=rf"{KERNELS} was altered"):
            target.open_session(bundle, layout="shared", dtype="fp16")
        (folder / LIBRARY).unlink()
        with pytest.raises(TargetError, match=rf"{LIBRARY} is missing"):
            target.open_session(bundle, layout="shared", dtype="fp16")
        assert len(library.loaded) == 1
        enterprise("10.13.3.9")
        with pytest.raises(TargetError, match=r"built by TensorRT 10\.3\.0\.30, installed is 10\.13\.3\.9"):
            target.open_session(bundle, layout="shared", dtype="fp16")

    def test_a_missing_library_names_the_place_and_how_to_build_it(self, enterprise, bundle, monkeypatch, tmp_path):
        enterprise("10.3.0.30")
        (tmp_path / "plugins" / KERNELS).unlink()
        with pytest.raises(MissingDependencyError, match=rf"(?s){KERNELS} cannot be found in .*plugins.*cmake"):
            build(bundle.path, "tensorrt", **SMALL)
        assert not (bundle.path / "engines").exists()

    def test_a_library_that_tensorrt_does_not_take_is_named(self, enterprise, bundle):
        enterprise("10.3.0.30", loads=False)
        with pytest.raises(TargetError, match=rf"{LIBRARY} cannot be used: TensorRT refused it"):
            build(bundle.path, "tensorrt", **SMALL)

    def test_heads_without_a_kernel_are_refused(self, enterprise, fp16_bundle):
        enterprise("10.14.1.48")
        with pytest.raises(TargetError, match="no kernel for heads of 16, only for 64, 96, 128, 256"):
            build(fp16_bundle.path, "tensorrt", **SMALL)


def test_a_doubtful_layout_warns(enterprise, fp16_bundle, caplog):
    enterprise("11.1.0.106")
    build(fp16_bundle.path, "tensorrt", layout="panels", **SMALL)
    assert "issue 4846" in caplog.text


class TestOpening:
    """Without a GPU an engine cannot run, but everything before that is checked."""

    @pytest.fixture
    def built(self, built_bundle, tmp_path, monkeypatch):
        monkeypatch.setattr(target_module, "find_device", lambda: None)
        monkeypatch.setattr(device, "find_device", lambda: None)
        return Bundle.open(shutil.copytree(built_bundle.path, tmp_path / "bundle"))

    def test_without_a_gpu_it_says_so(self, built):
        with pytest.raises(TargetError, match="needs an NVIDIA GPU with its driver"):
            get_target("tensorrt-rtx").open_session(built, layout="shared", dtype="fp16")
        with pytest.raises(TargetError, match="needs an NVIDIA GPU"):
            get_target("tensorrt-rtx").device()

    def test_an_engine_that_was_not_built(self, built):
        with pytest.raises(TargetError, match=r"(?s)no panels\.fp16 engine for tensorrt-rtx.*flextron-export build"):
            get_target("tensorrt-rtx").open_session(built, layout="panels", dtype="fp16")

    def test_an_altered_engine(self, built):
        path = engine(built) / "128.plan"
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 1
        path.write_bytes(content)
        with pytest.raises(TargetError, match=r"128\.plan was altered"):
            get_target("tensorrt-rtx").open_session(built, layout="shared", dtype="fp16")

    def test_an_engine_for_another_device(self, built, monkeypatch):
        monkeypatch.setattr(target_module, "find_device", lambda: device.Device("Jetson", 87, 13020))
        with pytest.raises(TargetError, match=r"(?s)this device has SM 87.*--target tensorrt"):
            get_target("tensorrt-rtx").open_session(built, layout="shared", dtype="fp16")

    def test_an_engine_of_another_version(self, built):
        path = engine(built) / "engine.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), "library_version": "1.0"}))
        with pytest.raises(TargetError, match=r"built by TensorRT-RTX 1\.0, installed is"):
            get_target("tensorrt-rtx").open_session(built, layout="shared", dtype="fp16")

    def test_an_engine_of_other_weights(self, built):
        path = engine(built) / "engine.json"
        value = json.loads(path.read_text())
        value["source"]["weights.fp16.safetensors"] = "0"
        path.write_text(json.dumps(value))
        with pytest.raises(TargetError, match="built from another weights"):
            get_target("tensorrt-rtx").open_session(built, layout="shared", dtype="fp16")


def test_versions_are_part_of_a_fingerprint(library):
    assert get_target("tensorrt-rtx").versions() == {"tensorrt_rtx": library.__version__}
