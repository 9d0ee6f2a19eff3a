"""Sizes of the KV cache. It grows in steps: for its memory, and as some attention costs by capacity."""

from __future__ import annotations


def capacity_for(tokens: int, maximum: int | None = None) -> int:
    """Slots of the smallest cache that holds `tokens`: 64, 128, 192, 256, 384, 512, 768, 1024 ... up to `maximum`.

    Steps of half a power of two keep the copies of a growing cache to a small multiple of its final size, and give
    engines few shapes to be optimised for.
    """
    capacity = -(-tokens // 64) * 64 or 64
    if capacity > 256:
        power = 1 << (tokens - 1).bit_length()
        capacity = power * 3 // 4 if tokens <= power * 3 // 4 else power
    return capacity if maximum is None else min(capacity, maximum)
