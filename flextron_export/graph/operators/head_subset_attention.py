"""HeadSubsetAttention: attention over the first n KV groups of a cache sized for the largest budget.

`plugins/head_subset_attention/README.md` describes the operator; this is its definition. Clear, not fast.
"""

from __future__ import annotations

import numpy as np


def head_subset_attention(
    query: np.ndarray,
    key: np.ndarray,
    value: np.ndarray,
    key_cache: np.ndarray,
    value_cache: np.ndarray,
    positions: np.ndarray,
    write: np.ndarray,
    active_groups: np.ndarray,
    cosine: np.ndarray | None = None,
    sine: np.ndarray | None = None,
    *,
    window: int = 0,
    scale: float = 0.0,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Attention output in float64, and the updated caches in their own dtype.

    Args:
        query: [B, S, heads, head_dim]; the heads of a KV group are neighbours.
        key: [B, S, groups, head_dim], as is `value`.
        key_cache: [B, groups, capacity, head_dim], as is `value_cache`; not changed.
        positions: int64 [B, S]; a token sees the slots up to its position, none if that is negative.
        write: int64 [B], slot of each sequence's first new token; slots outside the cache are dropped.
        active_groups: int32 [B, S], [B] or [1]: n of each token. Heads beyond n groups give zeros.
        cosine: [B, S, head_dim / 2], as is `sine`; given, query and key are rotated first.
        window: how many slots a token sees, its own included; 0 means all.
        scale: of the scores; 0 means 1 / sqrt(head_dim).
    """
    batch, length, heads, head_dim = query.shape
    groups, capacity = key_cache.shape[1:3]
    query, key = query.astype(np.float64), key.astype(np.float64)
    if cosine is not None and sine is not None:
        query, key = rotate(query, cosine, sine), rotate(key, cosine, sine)
    key_cache, value_cache = key_cache.copy(), value_cache.copy()
    for b in range(batch):
        for s in range(length):
            slot = write[b] + s
            if 0 <= slot < capacity:  # all groups, active or not
                key_cache[b, :, slot] = key[b, s]
                value_cache[b, :, slot] = value[b, s]

    output = np.zeros(query.shape)
    active = active_groups.reshape(-1, 1) if active_groups.ndim == 1 else active_groups
    active = np.broadcast_to(active, (batch, length))
    for b in range(batch):
        for s in range(length):
            end = min(int(positions[b, s]) + 1, capacity)
            begin = max(int(positions[b, s]) + 1 - window, 0) if window else 0
            if begin >= end:
                continue
            for head in range(heads):
                group = head * groups // heads
                if group >= active[b, s]:
                    continue
                keys = key_cache[b, group, begin:end].astype(np.float64)
                scores = keys @ query[b, s, head] * (scale or head_dim**-0.5)
                weights = np.exp(scores - scores.max())
                values = value_cache[b, group, begin:end].astype(np.float64)
                output[b, s, head] = weights @ values / weights.sum()
    return output, key_cache, value_cache


def rotate(x: np.ndarray, cosine: np.ndarray, sine: np.ndarray) -> np.ndarray:
    """Rotary embedding of [B, S, heads, head_dim]: element i is paired with i + head_dim / 2."""
    low, high = np.split(x.astype(np.float64), 2, axis=-1)
    c, s = (table.astype(np.float64)[:, :, None] for table in (cosine, sine))
    return np.concatenate([low * c - high * s, high * c + low * s], axis=-1)
