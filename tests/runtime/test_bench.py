"""`bench`: budgets at several live lengths, in caches of one capacity from the start."""

import json
import subprocess
import sys

import pytest

from flextron_export.errors import BundleError, InputError
from flextron_export.runtime.bench import bench
from flextron_export.targets.onnxruntime_cpu import OnnxRuntimeSession
from tests.random_bundle import MAX_POSITIONS


def test_every_length_is_measured_in_a_cache_of_the_whole_capacity(pristine, monkeypatch):
    capacities, grown = set(), []
    new_cache = OnnxRuntimeSession.new_cache

    def spy(self, budget, batch, capacity):
        capacities.add(capacity)
        return new_cache(self, budget, batch, capacity)

    monkeypatch.setattr(OnnxRuntimeSession, "new_cache", spy)
    monkeypatch.setattr(OnnxRuntimeSession, "grow", lambda *arguments: grown.append(arguments))
    found = bench(pristine, live=(100, 8), capacity=150, budgets=("p59", "full"), repeats=6, threads=1)
    assert list(found.decode) == ["p59", "full"]
    assert all([(t.tokens, t.samples) for t in timings] == [(8, 6), (100, 6)] for timings in found.decode.values())
    assert capacities == {150, 64} and not grown  # 64: what warming up takes
    assert not (pristine / "latency").exists()


def test_the_command_measures_what_the_model_holds(pristine):
    arguments = [sys.executable, "-m", "flextron_export", "bench", pristine, "--repeats", "6", "--threads", "1"]
    table = json.loads(subprocess.run([*arguments, "--json"], capture_output=True, check=True).stdout)
    assert table["capacity"] == MAX_POSITIONS and len(table["decode"]) == 4
    assert [t["tokens"] for t in table["decode"]["full"]] == [64, MAX_POSITIONS]
    text = subprocess.run([*arguments, "--budget", "p34"], capture_output=True, text=True, check=True).stdout
    assert "in a cache of 200: onnxruntime-cpu, panels, fp32" in text and "p34" in text and "full" not in text


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"capacity": 201}, "holds 1 to 200"),
        ({"capacity": 0}, "holds 1 to 200"),
        ({"live": (8, 151), "capacity": 150}, r"\[8, 151\] do not fit"),
        ({"live": ()}, "do not fit"),
        ({"live": (0, 8)}, "do not fit"),
        ({"repeats": 0}, "0 repeats"),
        ({"budgets": ("p99",)}, "p99"),
    ],
)
def test_what_cannot_be_measured_is_refused_by_name(pristine, options, message):
    with pytest.raises((InputError, BundleError), match=message):
        bench(pristine, threads=1, **options)
