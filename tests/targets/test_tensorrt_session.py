"""The session's logic on a pretended GPU: host memory for CUDA, and ONNX Runtime on the same graph for the engine.

What stays untested is whether the real libraries take the calls as their documentation says.
"""

import ctypes
from itertools import pairwise

import numpy as np
import pytest

from flextron_export.errors import TargetError
from flextron_export.graph.contract import LAYOUTS
from flextron_export.targets import onnxruntime_cpu
from flextron_export.targets._tensorrt import session as session_module
from flextron_export.targets._tensorrt.profiles import Limits, plan_specs
from flextron_export.targets._tensorrt.record import EngineRecord, PlanRecord
from flextron_export.targets._tensorrt.session import TensorRTSession

LIMITS = Limits((64, 128), max_batch=2, max_length=8)


class HostMemory:
    """Stands for `Cuda`: addresses are host addresses; knows what is allocated."""

    stream = 0

    def __init__(self):
        self.held, self.recorded, self.graphs, self.launched = {}, None, [], 0
        HostMemory.latest = self

    def capture(self, enqueue):
        self.recorded = []
        done, recorded, self.recorded = enqueue(), self.recorded, None
        if not done:
            return None
        self.graphs.append(recorded)
        return recorded

    def launch(self, graph):
        assert any(graph is held for held in self.graphs)
        self.launched += 1
        for work in graph:
            work()

    def destroy_graph(self, graph):
        self.graphs = [held for held in self.graphs if held is not graph]

    def allocate(self, size):
        buffer = np.zeros(size + 256, np.uint8)
        address = buffer.ctypes.data + -buffer.ctypes.data % 256
        self.held[address] = buffer
        return address

    def free(self, address):
        del self.held[address]

    def upload(self, address, array):
        assert array.flags.c_contiguous
        ctypes.memmove(address, array.ctypes.data, array.nbytes)

    def download(self, array, address):
        ctypes.memmove(array.ctypes.data, address, array.nbytes)

    def copy_rows(self, to, to_pitch, source, source_pitch, width, rows):
        for i in range(rows):
            ctypes.memmove(to + i * to_pitch, source + i * source_pitch, width)

    def wait(self):
        pass

    def close(self):
        pass


def at(address, shape, dtype):
    size = int(np.prod(shape)) * np.dtype(dtype).itemsize
    return np.frombuffer((ctypes.c_char * size).from_address(address), dtype).reshape(shape)


class Engine:
    """An engine of one plan file."""

    def __init__(self, bundle, layout, spec):
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        options.add_session_config_entry("session.model_external_initializers_file_folder_path", str(bundle.path))
        self.graph = onnxruntime.InferenceSession(str(bundle.graph(layout, "fp16", spec.budget)), options)
        self.spec, self.num_optimization_profiles = spec, len(spec.profiles)
        self.made = []

    def create_execution_context(self, strategy):
        assert strategy == Library.ExecutionContextAllocationStrategy.USER_MANAGED
        self.made.append(Execution(self))
        return self.made[-1]

    def get_device_memory_size_for_profile_v2(self, profile):
        return self.spec.capacity * (profile + 1)

    def get_tensor_location(self, name):
        return Library.TensorLocation.DEVICE


TYPES = {"tensor(int64)": np.int64, "tensor(float16)": np.float16, "tensor(float)": np.float32}


class Execution:
    """An execution context; like TensorRT's it runs with the shapes and addresses of the time when it was recorded."""

    capturable = True

    def __init__(self, engine):
        self.engine, self.profile, self.memory = engine, None, None
        self.shapes, self.addresses = {}, {}

    def set_device_memory(self, address, size):
        assert address % 256 == 0 and HostMemory.latest.held[address].size >= size + 256
        self.memory = address, size

    def set_optimization_profile_async(self, index, stream):
        self.profile = index
        self.shapes.clear()  # as the documentation says
        return index < self.engine.num_optimization_profiles

    def set_input_shape(self, name, shape):
        low, _, high = self.engine.spec.profiles[self.profile].shapes[name]
        self.shapes[name] = shape
        return all(a <= n <= b for a, n, b in zip(low, shape, high, strict=True))

    def set_tensor_address(self, name, address):
        assert address % 256 == 0
        self.addresses[name] = address
        return True

    def execute_async_v3(self, stream):
        shapes, addresses, memory = dict(self.shapes), dict(self.addresses), self.memory
        needed = self.engine.get_device_memory_size_for_profile_v2(self.profile)

        def work():
            assert memory[1] >= needed and memory[0] in HostMemory.latest.held
            graph = self.engine.graph
            feeds = {v.name: at(addresses[v.name], shapes[v.name], TYPES[v.type]).copy() for v in graph.get_inputs()}
            names = [v.name for v in graph.get_outputs()]
            for name, value in zip(names, graph.run(names, feeds), strict=True):
                at(addresses[name], value.shape, value.dtype)[...] = value

        if HostMemory.latest.recorded is None:
            work()
        elif not self.capturable:
            return False
        else:
            HostMemory.latest.recorded.append(work)
        return True


class Library:
    """Stands for `tensorrt_rtx`: a plan file holds its own name."""

    class Logger:
        ERROR = 0

        def __init__(self, severity):
            pass

    class TensorLocation:
        DEVICE, HOST = 0, 1

    class CudaGraphStrategy:
        WHOLE_GRAPH_CAPTURE = "whole graph"

    class ExecutionContextAllocationStrategy:
        STATIC, ON_PROFILE_CHANGE, USER_MANAGED = range(3)

    def __init__(self, bundle, layout):
        specs = {s.file: s for s in plan_specs(bundle, layout, LIMITS)}

        class Runtime:
            def __init__(self, log):
                pass

            def deserialize_cuda_engine(self, content):
                return Engine(bundle, layout, specs[content.decode()])

        self.Runtime = Runtime


@pytest.fixture
def opened(shipped, tmp_path, monkeypatch):
    pytest.importorskip("onnxruntime")
    monkeypatch.setattr(session_module, "Cuda", HostMemory)

    def open_session(layout, bundle=shipped):
        plans = []
        for spec in plan_specs(bundle, layout, LIMITS):
            indices = {}
            for i, p in enumerate(spec.profiles):
                indices.setdefault(p.budget, {})[p.phase] = i
            (tmp_path / spec.file).write_text(spec.file)
            plans.append(PlanRecord(spec.file, 1, "", spec.capacity, indices, 0.0))
        record = EngineRecord(
            "tensorrt-rtx", "tensorrt_rtx", "1", (89,), layout, "fp16", 2, 8, "fused", {}, tuple(plans), 0.0, "test"
        )
        return TensorRTSession(Library(bundle, layout), bundle, tmp_path, record)

    return open_session


def generate(session, budget, prompt, steps):
    """Logits of the last prompt token and of `steps` more tokens, two sequences at once; the cache grows on the way."""
    batch = len(prompt)
    cache = session.new_cache(budget, batch, 30)
    found = []
    ids, start = prompt, 0
    for step in range(steps + 1):
        count = ids.shape[1]
        positions = np.tile(np.arange(start, start + count), (batch, 1))
        rows = np.arange(batch) * count + count - 1
        if step == 2:
            session.grow(cache, 100)
        found.append(session.step(cache, ids, positions, np.full(batch, start), rows).copy())
        start += count
        ids = (prompt[:, :1] + 7 * step) % 250
    return np.stack(found), cache


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_session_computes_what_onnx_runtime_does_in_pieces_decode_and_after_growing(opened, shipped, layout):
    prompt = np.random.default_rng(0).integers(0, 250, (2, 19))  # three pieces of at most 8
    session = opened(layout)
    reference = onnxruntime_cpu.open_session(shipped, layout=layout, dtype="fp16")
    for budget in (*shipped.budgets, shipped.budgets[0]):  # there and back again
        wanted, _ = generate(reference, budget, prompt, 4)
        found, cache = generate(session, budget, prompt, 4)
        assert (cache.capacity, found.dtype) == (128, np.float32)
        np.testing.assert_allclose(found, wanted, atol=2e-2)


def contexts(session):
    """Plan and profile of every context that was made."""
    return list(session._contexts._made)


def test_every_budget_and_phase_has_a_context_of_its_own(opened, shipped):
    session = opened("shared")
    for budget in (*shipped.budgets, *shipped.budgets):
        generate(session, budget, np.ones((1, 3), np.int64), 3)
    # Each budget: prefill and decoding at capacity 64, decoding at 128 (the cache grows).
    decoding = [("128.plan", 0), ("128.plan", 2)]
    assert sorted(contexts(session)) == sorted([*decoding, *(("64.plan", profile) for profile in range(4))])
    assert len({c.execution.memory for c in session._contexts._made.values()}) == 1, "they share their activations"


@pytest.mark.parametrize("layout", LAYOUTS)
def test_repeated_decode_steps_are_captured_and_launched(opened, shipped, layout):
    session = opened(layout)
    cuda = session._cuda
    one = np.zeros((1, 1), np.int64)
    caches = [session.new_cache(budget, 1, 64) for budget in shipped.budgets]
    alone, found = [session.new_cache(budget, 1, 64) for budget in shipped.budgets], []
    reference = onnxruntime_cpu.open_session(shipped, layout=layout, dtype="fp16")
    for at in range(5):
        for cache in caches:
            found.append(session.step(cache, one + 7 * at, one + at, one[0] + at, one[0]).copy())
    wanted = {b.name: reference.new_cache(b, 1, 64) for b in shipped.budgets}
    expected = [
        reference.step(wanted[b.name], one + 7 * at, one + at, one[0] + at, one[0]).copy()
        for at in range(5)
        for b in shipped.budgets
    ]
    np.testing.assert_allclose(found, expected, atol=2e-2)
    if layout == "panels":
        assert cuda.launched == 0, "conditionals are not captured"
        return
    # The first step sets everything up, the second is captured; budgets in turn keep their graphs.
    assert (len(cuda.graphs), cuda.launched) == (2, 8)
    session.step(alone[0], one, one, one[0], one[0])
    assert len(cuda.graphs) == 1, "another cache has other addresses"
    session.close()
    assert cuda.graphs == []


def test_what_cannot_be_captured_runs_as_before(opened, shipped, monkeypatch):
    monkeypatch.setattr(Execution, "capturable", False)
    session = opened("shared")
    reference = onnxruntime_cpu.open_session(shipped, layout="shared", dtype="fp16")
    found, wanted = (generate(s, shipped.budgets[0], np.ones((1, 3), np.int64), 5)[0] for s in (session, reference))
    np.testing.assert_allclose(found, wanted, atol=2e-2)
    assert session._cuda.launched == 0


def test_a_library_that_captures_by_itself_is_told_to(opened, shipped, monkeypatch):
    configs = []

    class Config:
        cuda_graph_strategy = None

        def set_execution_context_allocation_strategy(self, strategy):
            self.strategy = strategy

    def create_runtime_config(engine):
        configs.append(Config())
        return configs[-1]

    plain = Engine.create_execution_context
    monkeypatch.setattr(Engine, "create_runtime_config", create_runtime_config, raising=False)
    monkeypatch.setattr(Engine, "create_execution_context", lambda self, config: plain(self, config.strategy))
    session = opened("shared")
    generate(session, shipped.budgets[0], np.ones((1, 3), np.int64), 5)
    assert {c.cuda_graph_strategy for c in configs} == {"whole graph"} and session._cuda.launched == 0


def test_a_router_chooses_as_on_onnx_runtime_at_every_target_and_batch(opened, routed_bundle):
    session = opened("routed", routed_bundle)
    reference = onnxruntime_cpu.open_session(routed_bundle, layout="routed", dtype="fp16")
    rng, seen = np.random.default_rng(3), []
    for batch, name in ((2, "r50"), (1, "r75"), (1, "r100"), (1, "r60"), (2, "r75")):
        prompt, budget = rng.integers(0, 250, (batch, 11)), routed_bundle.budget(name, "routed")
        (found, _), (wanted, _) = (generate(s, budget, prompt, 3) for s in (session, reference))
        np.testing.assert_allclose(found, wanted, atol=2e-2)
        seen.append(wanted[0, 0])
    assert min(np.abs(a - b).max() for a, b in pairwise(seen)) > 0.05


def test_every_row_of_a_prompt_is_had_from_an_engine_that_computes_as_many_as_it_takes_sequences(opened, shipped):
    ids = np.random.default_rng(2).integers(0, 250, (2, 11))
    found = []
    for session in (opened("shared"), onnxruntime_cpu.open_session(shipped, layout="shared", dtype="fp16")):
        cache = session.new_cache(shipped.budgets[0], 2, 30)
        positions = np.tile(np.arange(11), (2, 1))
        found.append(session.step(cache, ids, positions, np.zeros(2, np.int64), np.arange(22)[::-1]).copy())
    assert session.max_batch is None and opened("shared").max_batch == 2
    np.testing.assert_allclose(*found, atol=2e-2)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_copied_slots_of_chosen_sequences_are_those_of_onnx_runtime(opened, shipped, layout):
    prompt = np.random.default_rng(1).integers(0, 250, (2, 20))
    found = []
    for session in (opened(layout), onnxruntime_cpu.open_session(shipped, layout=layout, dtype="fp16")):
        _, cache = generate(session, shipped.budgets[1], prompt, 3)
        for sequences, tokens in (([1], 15), ([1, 0], 20)):
            copy = session.copy(cache, sequences, tokens, 64)
            assert (copy.batch, copy.capacity) == (len(sequences), 64)
            next_ids = np.full((len(sequences), 1), 9)
            places = np.full((len(sequences), 1), tokens)
            found.append(session.step(copy, next_ids, places, places[:, 0], np.arange(len(sequences))).copy())
    np.testing.assert_allclose(np.vstack(found[:2]), np.vstack(found[2:]), atol=2e-2)


def test_weights_are_uploaded_once_and_all_memory_is_given_back(opened, shipped):
    session = opened("shared")
    memory = session._cuda.held
    kept = len(memory)
    before = session.memory()
    assert before >= sum(i.length for i in shipped.weights("fp16").tensors.values())
    _, cache = generate(session, shipped.budgets[0], np.ones((1, 3), np.int64), 3)
    assert len(memory) == kept + 2  # the cache, and the activations of all contexts
    del cache
    assert len(memory) == kept + 1
    largest = max(engine.get_device_memory_size_for_profile_v2(3) for engine in session._contexts._engines.values())
    assert largest == 128 * 4 and session.memory() < before + largest + 100  # the plans of this test are a few bytes
    session.close()
    assert memory == {}


def test_a_call_beyond_the_engine_is_refused(opened, shipped):
    session = opened("shared")
    assert session.max_capacity == 128
    with pytest.raises(TargetError, match="up to 128 tokens"):
        session.new_cache(shipped.budgets[0], 1, 129)
    cache = session.new_cache(shipped.budgets[0], 3, 64)
    one = np.zeros((3, 1), np.int64)
    with pytest.raises(TargetError, match="up to 2 sequences, not 3"):
        session.step(cache, one, one, np.zeros(3, np.int64), np.arange(3))
