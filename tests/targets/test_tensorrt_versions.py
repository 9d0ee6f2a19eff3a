"""Lowering by release, and the table of known faults."""

from pathlib import Path

import pytest

from flextron_export.targets._tensorrt.versions import FAULTS, faults, least_batch, lowering_of

PAGE = Path(__file__).parents[2] / "docs" / "tensorrt.md"


@pytest.mark.parametrize(
    ("target", "version", "lowering"),
    [
        ("tensorrt", "10.2.0.19", None),
        ("tensorrt", "10.3.0.30", "plugin"),
        ("tensorrt", "10.13.3.9", "plugin"),
        ("tensorrt", "10.14.1.48", "plugin"),
        ("tensorrt", "10.15.1.29", "native"),
        ("tensorrt", "10.16.2", "native"),
        ("tensorrt", "11.4.1", "native"),
        ("tensorrt-rtx", "1.6.0.10", None),
        ("tensorrt-rtx", "1.7.1.116", "native"),
    ],
)
def test_the_lowering_follows_the_release(target, version, lowering):
    assert lowering_of(target, version) == lowering


@pytest.mark.parametrize(
    ("target", "version", "least"),
    [("tensorrt", "10.12.0", 1), ("tensorrt", "10.13.3.9", 2), ("tensorrt", "11.1.0", 2), ("tensorrt-rtx", "1.7.1", 1)],
)
def test_profiles_of_one_sequence_are_widened_where_the_fault_is(target, version, least):
    assert least_batch(target, version, 110) == least


def test_faults_end_with_the_release_without_them():
    assert {f.id for f in faults("tensorrt", "10.3.0", 87)} == set()
    assert {f.id for f in faults("tensorrt", "11.2.1", 86)} == {"fused-projections-batch-1", "conditional-transpose"}
    ended = next(f for f in FAULTS if f.id == "attention-of-primitives")
    assert ended.concerns("tensorrt", "10.14.1", None) and not ended.concerns("tensorrt", "10.15.0", None)


def test_every_fault_is_documented_with_its_source():
    page = PAGE.read_text()
    assert len({f.id for f in FAULTS}) == len(FAULTS)
    for fault in FAULTS:
        assert f"| `{fault.id}` |" in page and fault.what in page and fault.workaround in page and fault.source in page
        # One that is not avoided always is worked around by a switch here, or warned of.
        assert fault.always or fault.least_batch > 1 or fault.doubtful
