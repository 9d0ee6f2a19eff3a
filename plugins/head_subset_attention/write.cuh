/*
 * SPDX-License-Identifier: Apache-2.0
 *
 * The kernel that writes new keys and values into the cache.
 */
#pragma once

#include "slots.cuh"

namespace flextron::head_subset_attention
{

constexpr int kWriteThreads = 128;

//! Grid: tokens. Slots outside the cache are dropped.
template <typename T, int kHeadDim>
__global__ void __launch_bounds__(kWriteThreads) writeKernel(Parameters const p)
{
    constexpr int kVectors = kHeadDim / kVector;
    std::int64_t const token = blockIdx.x;
    int const sequence = static_cast<int>(token / p.length);
    std::int64_t const slot = p.write[sequence] + token % p.length;
    if (slot < 0 || slot >= p.capacity)
    {
        return;
    }
    for (int i = static_cast<int>(threadIdx.x); i < p.groups * kVectors; i += kWriteThreads)
    {
        int const group = i / kVectors;
        int const d = i % kVectors * kVector;
        std::int64_t const from = (token * p.groups + group) * kHeadDim;
        std::int64_t const to =
            ((static_cast<std::int64_t>(sequence) * p.groups + group) * p.capacity + slot) * kHeadDim;
        float key[kVector];
        loadRotated<T, kHeadDim>(key, static_cast<T const*>(p.key) + from, d, p, token);
        storePacked(static_cast<T*>(p.key_cache) + to + d, fromFloat<T>(key));
        storePacked(static_cast<T*>(p.value_cache) + to + d, loadPacked(static_cast<T const*>(p.value) + from + d));
    }
}

} // namespace flextron::head_subset_attention
