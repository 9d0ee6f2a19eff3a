"""Medians of CUDA events over replayed graphs, so that the host's launch time is not measured."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator
from typing import Any

import torch

from flextron_export.plugins import (
    ACTIVATIONS,
    DATA_TYPES,
    OPERATIONS,
    WEIGHT_TYPES,
    ElasticLinear,
    HeadSubsetAttention,
    Plugins,
)

from .report import Timing, cache_bytes, feed_forward_bytes

REPLAYS = 15
HEAD_DIM, GROUPS, HEADS_PER_GROUP = 128, 8, 4
HIDDEN, ROWS, GROUP = 4096, 14336, 128
PREFILL = 2048


def median_milliseconds(call: Callable[[], Any], calls: int = 10) -> float:
    """Of one call: a graph of several is captured after a warm-up and replayed."""
    torch.cuda.synchronize()  # what the call reads was written on another stream
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        for _ in range(3):
            call()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, stream=stream):
        for _ in range(calls):
            call()
    times = []
    for _ in range(REPLAYS + 2):
        start, stop = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        start.record()
        graph.replay()
        stop.record()
        torch.cuda.synchronize()
        times.append(start.elapsed_time(stop) / calls)
    return statistics.median(times[2:])


def copy_bandwidth() -> float:
    """GB/s read and written by a copy of 512 MiB on the device."""
    source = torch.empty(1 << 29, dtype=torch.uint8, device="cuda")
    target = torch.empty_like(source)
    return 2 * source.numel() / median_milliseconds(lambda: target.copy_(source), calls=3) / 1e6


def all_timings(plugins: Plugins) -> Iterator[Timing]:
    """Every case, one after another; each frees its tensors."""
    for megabytes in (256, 512):
        slots = megabytes * 10**6 // int(cache_bytes(GROUPS, 1, HEAD_DIM))
        yield from _decode_attention(plugins, "decode_attention", f"decode attention, K/V {megabytes} MB", slots)
    for slots in (256, 1024, 4096):
        yield from _decode_attention(plugins, "small_attention", f"decode attention, {slots} slots", slots)
    yield from _prefill_attention(plugins)
    for bits in (0, 8, 4):
        yield from _feed_forward(plugins, "decode_linear", tokens=1, bits=bits)
    yield from _feed_forward(plugins, "decode_linear", tokens=8, bits=0)
    for tokens in (64, PREFILL):
        yield from _feed_forward(plugins, "prefill_linear", tokens=tokens, bits=0)


def _run(plugins: Plugins, parameters: Any) -> Callable[[], None]:
    size = plugins.workspace(parameters)
    workspace = torch.empty(max(size, 16), dtype=torch.uint8, device="cuda")
    return lambda: plugins.run(parameters, workspace.data_ptr(), size, torch.cuda.current_stream().cuda_stream)


def _half(*shape: int) -> torch.Tensor:
    return torch.randn(shape, device="cuda", dtype=torch.float16) * 0.1


def _attention(tensors: dict[str, torch.Tensor], length: int, capacity: int) -> HeadSubsetAttention:
    return HeadSubsetAttention(
        data_type=DATA_TYPES["float16"], batch=1, length=length, groups=GROUPS, heads_per_group=HEADS_PER_GROUP,
        head_dim=HEAD_DIM, capacity=capacity, **{name: tensor.data_ptr() for name, tensor in tensors.items()},
    )  # fmt: skip


def _attention_tensors(length: int, capacity: int, past: int) -> dict[str, torch.Tensor]:
    caches = {name: _half(1, GROUPS, capacity, HEAD_DIM) for name in ("key_cache", "value_cache")}
    query = _half(1, length, GROUPS * HEADS_PER_GROUP, HEAD_DIM)
    return {
        **caches,
        "query": query,
        "output": torch.empty_like(query),
        "key": _half(1, length, GROUPS, HEAD_DIM),
        "value": _half(1, length, GROUPS, HEAD_DIM),
        "positions": torch.arange(past, past + length, device="cuda")[None],
        "write": torch.tensor([past], device="cuda"),
        "active_groups": torch.tensor([GROUPS], dtype=torch.int32, device="cuda"),
    }


def _decode_attention(plugins: Plugins, kind: str, name: str, slots: int) -> Iterator[Timing]:
    tensors = _attention_tensors(1, slots, slots - 1)
    query = tensors["query"].transpose(1, 2)
    sdpa = torch.nn.functional.scaled_dot_product_attention
    reference = median_milliseconds(lambda: sdpa(query, tensors["key_cache"], tensors["value_cache"], enable_gqa=True))
    call = _run(plugins, _attention(tensors, 1, slots))
    for label, groups in (("all", GROUPS), ("half", GROUPS // 2)):
        tensors["active_groups"].fill_(groups)
        size = cache_bytes(groups, slots, HEAD_DIM)
        milliseconds = median_milliseconds(call)
        yield Timing(f"{name}, {label}", kind, milliseconds, size, groups / GROUPS, "torch SDPA", reference)


def _prefill_attention(plugins: Plugins) -> Iterator[Timing]:
    tensors = _attention_tensors(PREFILL, PREFILL, 0)
    query, key, value = (tensors[name].transpose(1, 2).contiguous() for name in ("query", "key", "value"))
    sdpa = torch.nn.functional.scaled_dot_product_attention
    reference = median_milliseconds(lambda: sdpa(query, key, value, is_causal=True, enable_gqa=True))
    call = _run(plugins, _attention(tensors, PREFILL, PREFILL))
    for label, groups in (("all", GROUPS), ("half", GROUPS // 2)):
        tensors["active_groups"].fill_(groups)
        moved = cache_bytes(groups, PREFILL, HEAD_DIM) * (1 + HEADS_PER_GROUP)  # K, V, query, output
        milliseconds = median_milliseconds(call)
        name = f"prefill attention, {PREFILL} tokens, {label}"
        yield Timing(name, "prefill_attention", milliseconds, moved, groups / GROUPS, "torch SDPA", reference)


def _feed_forward(plugins: Plugins, kind: str, *, tokens: int, bits: int) -> Iterator[Timing]:
    linear, silu = torch.nn.functional.linear, torch.nn.functional.silu
    x, output = _half(1, tokens, HIDDEN), torch.empty(1, tokens, HIDDEN, device="cuda", dtype=torch.float16)
    gate, up, down = (_half(ROWS, HIDDEN) for _ in range(3))
    reference = median_milliseconds(lambda: torch.matmul(silu(linear(x, gate)) * linear(x, up), down))
    active = torch.tensor([ROWS], dtype=torch.int32, device="cuda")
    tensors = {"input": x, "gate": gate, "up": up, "down": down, "active_rows": active, "output": output}
    if bits:
        for name in ("gate", "up", "down"):
            width = HIDDEN * bits // 8
            tensors[name] = torch.randint(-128, 128, (ROWS, width), device="cuda", dtype=torch.int8)
            tensors[f"{name}_scales"] = _half(ROWS, HIDDEN // GROUP)
    parameters = ElasticLinear(
        operation=OPERATIONS["feed_forward"], data_type=DATA_TYPES["float16"], weight_type=WEIGHT_TYPES[bits],
        group_size=GROUP if bits else 0, batch=1, length=tokens, hidden=HIDDEN, rows=ROWS,
        activation=ACTIVATIONS["silu"], **{name: tensor.data_ptr() for name, tensor in tensors.items()},
    )  # fmt: skip
    call = _run(plugins, parameters)
    weights = f"int{bits}" if bits else "fp16"
    for label, rows in (("all", ROWS), ("half", ROWS // 2)):
        active.fill_(rows)
        size = feed_forward_bytes(rows, HIDDEN, bits, GROUP) + 2.0 * tokens * (2 * HIDDEN + 2 * rows)
        name = f"feed-forward, {tokens} tokens, {weights}, {label}"
        milliseconds = median_milliseconds(call)
        yield Timing(name, kind, milliseconds, size, rows / ROWS, "cuBLAS, fp16", reference)
