"""Every shipped device file is valid; a damaged one is refused with everything that is wrong with it."""

from __future__ import annotations

from pathlib import Path

import pytest

from flextron_export.errors import InputError
from flextron_export.targets import TARGETS
from flextron_export.targets.device_description import device_description, device_ids

SHIPPED = Path(__file__).parents[2] / "engines/targets"


def test_the_devices_of_the_documentation_are_there_and_lie_in_engines_too() -> None:
    assert set(device_ids()) >= {
        "jetson-orin-nano", "jetson-orin-nx", "jetson-agx-orin", "jetson-thor", "rtx-3090", "rtx-4090", "rtx-5090",
        "dgx-spark", "h100", "h200",
    }  # fmt: skip
    assert {p.stem for p in SHIPPED.glob("*.toml")} == set(device_ids())


@pytest.mark.parametrize("id", device_ids())
def test_every_device_is_valid_and_plausible(id: str) -> None:
    device = device_description(id)
    assert device.id == id
    assert set(device.targets) <= set(TARGETS)
    # TensorRT-RTX compiles for these alone.
    assert ("tensorrt-rtx" in device.targets) == (device.sm in (75, 80, 86, 89, 120, 121))
    # Half the width is at least the speed; arithmetic outruns memory on every GPU there is.
    assert device.tflops["fp32"] <= device.tflops["fp16"] <= device.tflops.get("int8", 1e9)
    assert device.tflops["fp16"] * 1e12 > 50 * device.bandwidth_gb_s * 1e9


def test_an_unknown_device_is_refused_with_those_there_are() -> None:
    with pytest.raises(InputError, match=r"no device 'orin'(.|\n)*dgx-spark, h100, (.|\n)*\.toml"):
        device_description("orin")


def test_a_device_of_ones_own_is_read_from_a_file(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text((SHIPPED / "h100.toml").read_text().replace("3350.0", "2000"))
    assert device_description(path).id == "mine"
    assert device_description(path).bandwidth_gb_s == 2000


@pytest.mark.parametrize(
    ("change", "messages"),
    [
        (("sm = 90", "sm = -1\nbogus = 1"), ["unknown key 'bogus'"]),
        (("sm = 90", "sm = -1"), ["sm is -1"]),
        (('kind = "server"', 'kind = "jetson"'), ["every Jetson has it"]),
        (("launch_us = 2.0\n", ""), ["launch_us is missing"]),
        (("fp16 = 989.4", "fp12 = 0"), ["unknown precision 'fp12'", "tflops.fp12 is 0", "tflops lacks fp16"]),
        (("[sources]\n", "[sources]\n[other]\n"), ["unknown key 'other'"]),
        (('bandwidth_gb_s = "', 'other = "'), ["sources does not say where bandwidth_gb_s comes from"]),
        (("sm = 90", "sm = "), ["is no TOML"]),
        (('targets = ["tensorrt"]', "targets = 3"), ["targets is no list"]),
    ],
)
def test_a_damaged_file_is_refused(tmp_path: Path, change: tuple[str, str], messages: list[str]) -> None:
    path = tmp_path / "mine.toml"
    text = (SHIPPED / "h100.toml").read_text()
    assert change[0] in text
    path.write_text(text.replace(*change))
    with pytest.raises(InputError) as error:
        device_description(path)
    for message in messages:
        assert message in error.value.what


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot be read"):
        device_description(tmp_path / "none.toml")
