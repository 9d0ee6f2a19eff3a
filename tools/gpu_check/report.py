"""What the timings mean: bytes, bandwidth, goals; the JSON and the plot. Needs no GPU."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from flextron_export.files import write_json

BYTES = {0: 2.0, 8: 1.0, 4: 0.5}
"""Bytes of a weight by its bits; 0 for float16."""


@dataclass(frozen=True)
class Timing:
    """One measured case.

    Args:
        name: what ran, unique.
        kind: "decode_attention", "small_attention", "prefill_attention", "decode_linear" or "prefill_linear".
        milliseconds: median of one call.
        bytes: what the call has to read and write in device memory.
        fraction: of the heads or rows that were active.
        reference: who `reference_milliseconds`, the median of the same work at full width, belongs to.
    """

    name: str
    kind: str
    milliseconds: float
    bytes: float
    fraction: float = 1.0
    reference: str = ""
    reference_milliseconds: float | None = None

    @property
    def gigabytes_per_second(self) -> float:
        return self.bytes / self.milliseconds / 1e6

    def to_json(self, copy_bandwidth: float) -> dict[str, Any]:
        """`copy_bandwidth` in GB/s."""
        found = {
            **asdict(self),
            "gigabytes_per_second": self.gigabytes_per_second,
            "of_copy_bandwidth": self.gigabytes_per_second / copy_bandwidth,
        }
        if self.reference_milliseconds is not None:
            found["time_to_reference"] = self.milliseconds / self.reference_milliseconds
        return found


@dataclass(frozen=True)
class Goal:
    """A figure and the limit that it should keep."""

    name: str
    value: float
    limit: float
    at_most: bool

    @property
    def met(self) -> bool:
        return self.value <= self.limit if self.at_most else self.value >= self.limit


def cache_bytes(groups: int, slots: int, head_dim: int, batch: int = 1) -> float:
    """Keys and values of that many groups and live slots in 16-bit storage."""
    return 2.0 * 2 * batch * groups * slots * head_dim


def feed_forward_bytes(rows: int, hidden: int, bits: int = 0, group: int = 128) -> float:
    """Gate, up and down of that many rows, with a 16-bit scale for every group of integers."""
    per_row = hidden * BYTES[bits] + (hidden // group * 2 if bits else 0)
    return 3.0 * rows * per_row


def goals(timings: Sequence[Timing], copy_bandwidth: float) -> list[Goal]:
    """What was aimed at, as far as it was measured. `copy_bandwidth` in GB/s."""
    found = []
    for timing in timings:
        share = timing.gigabytes_per_second / copy_bandwidth
        ratio = timing.milliseconds / timing.reference_milliseconds if timing.reference_milliseconds else None
        if timing.kind == "decode_attention" and timing.fraction == 1:
            found.append(Goal(f"{timing.name}: share of copy bandwidth", share, 0.8, at_most=False))
        if timing.kind == "decode_linear" and timing.fraction == 1:
            found.append(Goal(f"{timing.name}: share of copy bandwidth", share, 0.85, at_most=False))
        if timing.kind == "small_attention" and ratio is not None:
            found.append(Goal(f"{timing.name}: time to {timing.reference}", ratio, 1.0, at_most=True))
        if timing.kind == "prefill_attention" and timing.fraction == 1 and ratio is not None:
            found.append(Goal(f"{timing.name}: time to {timing.reference}", ratio, 2.0, at_most=True))
    whole = {t.name.removesuffix(", all"): t for t in timings if t.kind == "decode_attention" and t.fraction == 1}
    for timing in timings:
        base = whole.get(timing.name.removesuffix(", half"))
        if timing.kind == "decode_attention" and timing.fraction == 0.5 and base is not None:
            name = f"{timing.name}: time to all heads"
            found.append(Goal(name, timing.milliseconds / base.milliseconds, 0.55, at_most=True))
    return found


def write_report(directory: Path, report: dict[str, Any], timings: Sequence[Timing], copy_bandwidth: float) -> Path:
    """Write `gpu_check.json` and, if anything was timed, `gpu_check.png`; returns the JSON's path."""
    figures = [{**asdict(goal), "met": goal.met} for goal in (goals(timings, copy_bandwidth) if timings else [])]
    content = {
        **report,
        "copy_gigabytes_per_second": copy_bandwidth or None,
        "goals": figures,
        "timings": [timing.to_json(copy_bandwidth) for timing in timings],
    }
    path = directory / "gpu_check.json"
    write_json(path, content)
    if timings:
        _plot(directory / "gpu_check.png", report, timings, copy_bandwidth)
    return path


def _plot(path: Path, report: dict[str, Any], timings: Sequence[Timing], copy_bandwidth: float) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 1.2 + 0.42 * len(timings)), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True)
    rows = range(len(timings))
    left.barh([y - 0.2 for y in rows], [t.milliseconds for t in timings], 0.38, label="these kernels")
    compared = [(y + 0.2, t) for y, t in zip(rows, timings, strict=True) if t.reference_milliseconds is not None]
    times = [t.reference_milliseconds or 0.0 for _, t in compared]
    left.barh([y for y, _ in compared], times, 0.38, color="0.7", label="torch SDPA or cuBLAS, full width")
    left.set_yticks(list(rows), [t.name for t in timings], fontsize=8)
    left.invert_yaxis()
    left.set_xscale("log")
    left.set_xlabel("milliseconds per call (median)")
    left.legend(fontsize=8)
    right.barh(list(rows), [t.gigabytes_per_second / copy_bandwidth for t in timings], 0.6, color="tab:green")
    right.axvline(1.0, color="0.3", linestyle="--", linewidth=1)
    right.set_xlabel(f"bytes per second, of the copy bandwidth ({copy_bandwidth:.0f} GB/s)")
    figure.suptitle(f"{report.get('device', {}).get('gpu', 'GPU')}, {report.get('date', '')}", fontsize=10)
    figure.savefig(path, dpi=110)
