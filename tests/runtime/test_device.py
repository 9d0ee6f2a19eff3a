"""The fingerprint of a device."""

import re

from flextron_export.runtime import device
from flextron_export.runtime.device import fingerprint


def test_it_is_stable_and_fit_for_a_file_name():
    first = fingerprint("onnxruntime-cpu")
    assert first == fingerprint("onnxruntime-cpu")
    assert re.fullmatch(r"[a-z0-9-]+-[0-9a-f]{8}", first["id"])
    assert first["cores"] >= 1 and first["cpu"] and first["libraries"]["onnxruntime"]


def test_the_default_number_of_threads_is_that_of_the_cores():
    assert fingerprint("onnxruntime-cpu") == fingerprint("onnxruntime-cpu", device.usable_cores())


def test_threads_libraries_and_gpu_make_another_device(monkeypatch):
    from flextron_export.targets import onnxruntime_cpu

    ids = {fingerprint("onnxruntime-cpu", threads)["id"] for threads in (1, 2, 3)}
    monkeypatch.setattr(onnxruntime_cpu, "versions", lambda: {"onnxruntime": "9.9"})
    ids.add(fingerprint("onnxruntime-cpu", 1)["id"])
    monkeypatch.setattr(onnxruntime_cpu, "device", lambda: {"gpu": "NVIDIA H200"})
    gpu = fingerprint("onnxruntime-cpu", 1)["id"]
    assert len(ids | {gpu}) == 5 and gpu.startswith("nvidia-h200-")


def test_names_of_processors_become_short():
    assert device._slug("Intel(R) Core(TM) i7-8650U CPU @ 1.90GHz") == "intel-core-i7-8650u"
    assert device._slug("AMD Ryzen 9 5950X 16-Core Processor") == "amd-ryzen-9-5950x-16-core"
    assert device._slug("") == "unknown"
