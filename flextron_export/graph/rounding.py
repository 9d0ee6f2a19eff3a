"""Weights to small integers: groups of them share a scale, which is searched for the least squared error."""

from __future__ import annotations

import numpy as np

BLOCK = 1 << 18
"""Weights that are rounded at once: what is computed of them stays in the processor's caches."""


def round_groups(weights: np.ndarray, bits: int, *, positive: bool = False) -> tuple[np.ndarray, np.ndarray]:
    """Signed integers and scales for groups of weights, weight ~ scale x integer.

    For each group, scales that put its value of largest magnitude at or near the lowest integer are tried (a scale may
    be negative: there is one integer more below zero than above), or near the highest for positive scales. Of the
    roundings they give, the one is kept whose squared error is least once its scale is the best for it: with
    c = sum(w q) and d = sum(q q) that scale is c / d and the error sum(w w) - c c / d.

    Args:
        weights: float [..., group], finite.
        bits: 4 or 8.
        positive: no scale may be negative.

    Returns:
        int8 [..., group], and float32 [...]: the scales, 1 where all weights are zero.
    """
    groups = weights.reshape(-1, weights.shape[-1])
    integers, scales = np.empty(groups.shape, np.int8), np.empty(len(groups), np.float32)
    step = max(BLOCK // groups.shape[1], 1)
    for start in range(0, len(groups), step):
        part = slice(start, start + step)
        integers[part], scales[part] = _round(groups[part].astype(np.float32, copy=False), bits, positive)
    return integers.reshape(weights.shape), scales.reshape(weights.shape[:-1])


def _round(groups: np.ndarray, bits: int, positive: bool) -> tuple[np.ndarray, np.ndarray]:
    lowest = -(1 << (bits - 1))
    extreme = np.take_along_axis(groups, np.abs(groups).argmax(-1)[:, None], -1)
    extreme[extreme == 0] = 1
    places = lowest + (np.linspace(-1, 1, 5) if bits == 4 else np.arange(-1, 2))
    if positive:
        extreme, places = np.abs(extreme), -lowest - 1 + (np.linspace(0, 1.5, 4) if bits == 4 else np.linspace(0, 1, 3))
    shares = groups / extreme  # from -1 to 1, so that no sum below overflows
    best, scales = np.full(len(groups), -1.0, np.float32), np.ones(len(groups), np.float32)
    kept = np.zeros_like(groups)
    for place in places:
        tried = np.clip(np.rint(shares * np.float32(place)), lowest, -lowest - 1)
        squares = np.maximum(np.einsum("ij,ij->i", tried, tried), 1)
        product = np.einsum("ij,ij->i", shares, tried)
        gain = product * product / squares
        better = gain > best
        best[better], kept[better] = gain[better], tried[better]
        scales[better] = (product / squares)[better]
    scales[best <= 0] = 1
    return kept.astype(np.int8), scales * extreme[:, 0]
