/*
 * SPDX-License-Identifier: Apache-2.0
 *
 * The kernels for few tokens per sequence, the sequence split over blocks.
 */
#pragma once

#include "slots.cuh"

namespace flextron::head_subset_attention
{

#if defined(__CUDACC__)
constexpr int kTokenWarps = 4;
#else
constexpr int kTokenWarps = 2; // the emulation pays for every thread
#endif
constexpr int kCombineThreads = 64;

//! Partial results of tokenKernel, [tokens, heads, parts, ...].
struct Partials
{
    float* mSums;       //!< [..., head_dim] weighted sums of values
    float* mStatistics; //!< [..., 2] largest score, sum of weights
};

//! Lanes that share one key: a power of two, so that their sums take a butterfly.
__host__ __device__ constexpr int lanesPerKey(int headDim)
{
    int lanes = 1;
    while (lanes * kVector < headDim)
    {
        lanes *= 2;
    }
    return lanes;
}

//! Shared memory of tokenKernel in floats: per warp and head a weighted sum, a largest score and a sum of weights.
__host__ __device__ constexpr int tokenSharedFloats(int headDim, int heads)
{
    return kTokenWarps * heads * (headDim + 2);
}

//! Grid: tokens x parts, groups x chunks of kHeads query heads. Every key and value is read once for kHeads heads: this
//! kernel is bound by memory, so products run on ordinary cores, straight from global memory, without staging.
template <typename T, int kHeadDim, int kHeads>
__global__ void __launch_bounds__(kTokenWarps* kWarpSize)
    tokenKernel(Parameters const p, Partials const partials, int const parts)
{
    constexpr int kLanes = lanesPerKey(kHeadDim);
    constexpr int kKeys = kWarpSize / kLanes;               // keys that a warp takes at once
    constexpr int kUnroll = kHeads * sizeof(T) > 8 ? 2 : 4; // loads in flight per thread, as registers allow
    constexpr int kStep = kKeys * kUnroll;

    std::int64_t const token = blockIdx.x / parts;
    int const part = static_cast<int>(blockIdx.x % parts);
    int const chunks = ceilDivide(p.heads_per_group, kHeads);
    int const group = static_cast<int>(blockIdx.y) / chunks;
    int const firstHead = static_cast<int>(blockIdx.y) % chunks * kHeads; // within the group
    int const heads = smaller(kHeads, p.heads_per_group - firstHead);
    int const sequence = static_cast<int>(token / p.length);
    int const step = static_cast<int>(token % p.length);

    Slots slots = visibleSlots(p, sequence, step, group);
    if (parts > 1)
    {
        int const size = partSize(slots, parts);
        int const begin = slots.mBegin + part * size; // fits: capacities are at most 2^24
        if (begin >= slots.mEnd)
        {
            return; // combineKernel does not look at this part
        }
        slots = {begin, smaller(begin + size, slots.mEnd)};
    }

    int const warp = static_cast<int>(threadIdx.x) / kWarpSize;
    int const lane = static_cast<int>(threadIdx.x) % kWarpSize;
    int const d = lane % kLanes * kVector;
    bool const holds = d < kHeadDim; // with 96 elements, a quarter of the lanes has none
    std::int64_t const queryHead = (token * p.groups + group) * p.heads_per_group + firstHead;
    std::int64_t const cache = (static_cast<std::int64_t>(sequence) * p.groups + group) * p.capacity * kHeadDim + d;
    T const* const keys = static_cast<T const*>(p.key_cache) + cache;
    T const* const values = static_cast<T const*>(p.value_cache) + cache;

    float query[kHeads][kVector] = {};
    float sum[kHeads][kVector] = {};
    float largest[kHeads];
    float weights[kHeads] = {};
    constexpr float kLog2E = 1.4426950408889634F; // exponentials are of base 2
    float const scale = p.scale * kLog2E;
#pragma unroll
    for (int h = 0; h < kHeads; ++h)
    {
        largest[h] = kLowest;
        if (holds && h < heads && !slots.empty())
        {
            T const* const head = static_cast<T const*>(p.query) + (queryHead + h) * kHeadDim;
            loadRotated<T, kHeadDim>(query[h], head, d, p, token);
#pragma unroll
            for (float& x : query[h])
            {
                x *= scale;
            }
        }
    }

    for (int first = slots.mBegin + warp * kStep; first < slots.mEnd; first += kTokenWarps * kStep)
    {
        Packed<T> value[kUnroll];
        float score[kUnroll * kHeads];
#pragma unroll
        for (int u = 0; u < kUnroll; ++u)
        {
            int const slot = first + u * kKeys + lane / kLanes;
            bool const loads = holds && slot < slots.mEnd; // dead slots may hold anything, NaN included
            std::int64_t const row = static_cast<std::int64_t>(slot) * kHeadDim;
            Packed<T> const packed = loads ? loadPacked(keys + row) : Packed<T>{};
            value[u] = loads ? loadPacked(values + row) : Packed<T>{};
            float key[kVector];
            toFloat(key, packed);
#pragma unroll
            for (int h = 0; h < kHeads; ++h)
            {
                float dot = 0.0F;
#pragma unroll
                for (int i = 0; i < kVector; ++i)
                {
                    dot += query[h][i] * key[i];
                }
                score[u * kHeads + h] = dot;
            }
        }
        sumOverLanes<1, kLanes>(score);
#pragma unroll
        for (int h = 0; h < kHeads; ++h)
        {
            float const before = largest[h];
#pragma unroll
            for (int u = 0; u < kUnroll; ++u)
            {
                if (first + u * kKeys + lane / kLanes < slots.mEnd)
                {
                    largest[h] = fmaxf(largest[h], score[u * kHeads + h]);
                }
            }
            float const shrink = exp2f(before - largest[h]);
            weights[h] *= shrink;
#pragma unroll
            for (float& x : sum[h])
            {
                x *= shrink;
            }
        }
#pragma unroll
        for (int u = 0; u < kUnroll; ++u)
        {
            bool const live = first + u * kKeys + lane / kLanes < slots.mEnd;
            float v[kVector];
            toFloat(v, value[u]);
#pragma unroll
            for (int h = 0; h < kHeads; ++h)
            {
                float const weight = live ? exp2f(score[u * kHeads + h] - largest[h]) : 0.0F;
                weights[h] += weight;
#pragma unroll
                for (int i = 0; i < kVector; ++i)
                {
                    sum[h][i] += weight * v[i];
                }
            }
        }
    }

    // Join the keys of the warp: first the largest score, then everything relative to it.
    float common[kHeads];
#pragma unroll
    for (int h = 0; h < kHeads; ++h)
    {
        common[h] = largest[h];
    }
    maxOverLanes<kLanes, kWarpSize>(common);
#pragma unroll
    for (int h = 0; h < kHeads; ++h)
    {
        float const shrink = exp2f(largest[h] - common[h]);
        float joint[kVector + 1];
#pragma unroll
        for (int i = 0; i < kVector; ++i)
        {
            joint[i] = sum[h][i] * shrink;
        }
        joint[kVector] = weights[h] * shrink;
        sumOverLanes<kLanes, kWarpSize>(joint);
        if (lane < kLanes && holds)
        {
            float* const mine = sharedMemory<float>() + (warp * kHeads + h) * (kHeadDim + 2);
#pragma unroll
            for (int i = 0; i < kVector; ++i)
            {
                mine[d + i] = joint[i];
            }
            if (lane == 0)
            {
                mine[kHeadDim] = common[h];
                mine[kHeadDim + 1] = joint[kVector];
            }
        }
    }
    __syncthreads();

    // Join the warps.
    for (int i = static_cast<int>(threadIdx.x); i < heads * kHeadDim; i += kTokenWarps * kWarpSize)
    {
        int const h = i / kHeadDim;
        int const element = i % kHeadDim;
        float const* const entries = sharedMemory<float>() + h * (kHeadDim + 2);
        constexpr int kNext = kHeads * (kHeadDim + 2);
        float top = kLowest;
        for (int w = 0; w < kTokenWarps; ++w)
        {
            top = fmaxf(top, entries[w * kNext + kHeadDim]);
        }
        float total = 0.0F;
        float weight = 0.0F;
        for (int w = 0; w < kTokenWarps; ++w)
        {
            float const shrink = exp2f(entries[w * kNext + kHeadDim] - top);
            total += entries[w * kNext + element] * shrink;
            weight += entries[w * kNext + kHeadDim + 1] * shrink;
        }
        if (parts == 1)
        {
            static_cast<T*>(p.output)[(queryHead + h) * kHeadDim + element] =
                fromFloat<T>(weight > 0.0F ? total / weight : 0.0F); // zero where nothing is seen
            continue;
        }
        std::int64_t const entry = (queryHead + h) * parts + part;
        partials.mSums[entry * kHeadDim + element] = total;
        if (element == 0)
        {
            partials.mStatistics[entry * 2] = top;
            partials.mStatistics[entry * 2 + 1] = weight;
        }
    }
}

//! Grid: tokens, heads.
template <typename T, int kHeadDim>
__global__ void __launch_bounds__(kCombineThreads)
    combineKernel(Parameters const p, Partials const partials, int const parts)
{
    std::int64_t const token = blockIdx.x;
    int const head = static_cast<int>(blockIdx.y);
    Slots const slots = visibleSlots(
        p, static_cast<int>(token / p.length), static_cast<int>(token % p.length), head / p.heads_per_group);
    int const used = slots.empty() ? 0 : ceilDivide(slots.mEnd - slots.mBegin, partSize(slots, parts));
    std::int64_t const row = token * p.groups * p.heads_per_group + head;
    float const* const statistics = partials.mStatistics + row * parts * 2;
    float const* const sums = partials.mSums + row * parts * kHeadDim;
    float top = kLowest;
    for (int part = 0; part < used; ++part)
    {
        top = fmaxf(top, statistics[part * 2]);
    }
    for (int element = static_cast<int>(threadIdx.x); element < kHeadDim; element += kCombineThreads)
    {
        float total = 0.0F;
        float weight = 0.0F;
        for (int part = 0; part < used; ++part)
        {
            float const shrink = exp2f(statistics[part * 2] - top);
            total += sums[part * kHeadDim + element] * shrink;
            weight += statistics[part * 2 + 1] * shrink;
        }
        static_cast<T*>(p.output)[row * kHeadDim + element] = fromFloat<T>(weight > 0.0F ? total / weight : 0.0F);
    }
}

} // namespace flextron::head_subset_attention
