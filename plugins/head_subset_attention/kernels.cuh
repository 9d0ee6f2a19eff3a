/*
 * SPDX-License-Identifier: Apache-2.0
 *
 * The kernels. One call runs, in order on one stream:
 *
 *   writeKernel    rotates the new keys, writes keys and values of all groups into the cache
 *   tokenKernel    few tokens per sequence: one block per token, group and part of the sequence
 *   combineKernel  joins the parts, if there is more than one
 * or
 *   tileKernel     many tokens per sequence: one block per 64 (token, query head) rows of a group, on tensor cores
 *
 * Grids depend on shapes only. How many groups are active and how many slots are live is read here, and blocks without
 * work leave at once, so that a launch can be captured and replayed while both change.
 */
#pragma once

#include "../common/portable.cuh"
#include "head_subset_attention.h"

namespace flextron::head_subset_attention
{

using Parameters = FlextronHeadSubsetAttention;

#if defined(__CUDACC__)
constexpr int kTokenWarps = 4;
constexpr int kTileWarps = 4;
#else
constexpr int kTokenWarps = 2; // the emulation pays for every thread
constexpr int kTileWarps = 2;
#endif
constexpr int kWriteThreads = 128;
constexpr int kCombineThreads = 64;

constexpr int kMinimumPart = 64; //!< slots for which a further block is worth its start
constexpr int kPartGranularity = 16;

//! Half-open range of cache slots.
struct Slots
{
    int mBegin;
    int mEnd;

    __device__ bool empty() const
    {
        return mBegin >= mEnd;
    }
};

//! Partial results of tokenKernel, [tokens, heads, parts, ...].
struct Partials
{
    float* mSums;       //!< [..., head_dim] weighted sums of values
    float* mStatistics; //!< [..., 2] largest score, sum of weights
};

//! The slots that a token sees in a group: none if the group is not active for it.
__device__ __forceinline__ Slots visibleSlots(Parameters const& p, int sequence, int step, int group)
{
    // Strides of 0 broadcast; the products fit, as they address real tensors.
    int const active = p.active_groups[static_cast<std::int64_t>(sequence) * p.active_groups_batch_stride
                                       + static_cast<std::int64_t>(step) * p.active_groups_token_stride];
    std::int64_t const position = p.positions[static_cast<std::int64_t>(sequence) * p.length + step];
    if (group >= active || position < 0)
    {
        return {0, 0};
    }
    int const end = position < p.capacity ? static_cast<int>(position) + 1 : p.capacity;
    if (p.window == 0 || position < p.window)
    {
        return {0, end};
    }
    std::int64_t const begin = position - p.window + 1;
    return {begin < end ? static_cast<int>(begin) : end, end};
}

//! Slots per part when `slots` are shared out over at most `parts` blocks.
__device__ __forceinline__ int partSize(Slots slots, int parts)
{
    int const even = ceilDivide(slots.mEnd - slots.mBegin, parts);
    return larger(kMinimumPart, ceilDivide(even, kPartGranularity) * kPartGranularity);
}

//! Eight elements from `d` on of a query or key of token `token`, rotated if there are tables.
template <typename T, int kHeadDim>
__device__ __forceinline__ void loadRotated(
    float (&x)[kVector], T const* head, int d, Parameters const& p, std::int64_t token)
{
    toFloat(x, loadPacked(head + d));
    if (p.cosine == nullptr)
    {
        return;
    }
    constexpr int kHalf = kHeadDim / 2; // a multiple of kVector: eight elements never straddle the middle
    bool const lower = d < kHalf;
    std::int64_t const entry = token * kHalf + (lower ? d : d - kHalf);
    float partner[kVector];
    float cosine[kVector];
    float sine[kVector];
    toFloat(partner, loadPacked(head + (lower ? d + kHalf : d - kHalf)));
    toFloat(cosine, loadPacked(static_cast<T const*>(p.cosine) + entry));
    toFloat(sine, loadPacked(static_cast<T const*>(p.sine) + entry));
#pragma unroll
    for (int i = 0; i < kVector; ++i)
    {
        x[i] = x[i] * cosine[i] + (lower ? -partner[i] : partner[i]) * sine[i];
    }
}

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
#pragma unroll
        for (int mask = 1; mask < kLanes; mask *= 2)
        {
            float other[kUnroll * kHeads];
#pragma unroll
            for (int i = 0; i < kUnroll * kHeads; ++i)
            {
                other[i] = score[i];
            }
            shuffleXor(other, mask);
#pragma unroll
            for (int i = 0; i < kUnroll * kHeads; ++i)
            {
                score[i] += other[i];
            }
        }
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
#pragma unroll
    for (int mask = kLanes; mask < kWarpSize; mask *= 2)
    {
        float other[kHeads];
#pragma unroll
        for (int h = 0; h < kHeads; ++h)
        {
            other[h] = common[h];
        }
        shuffleXor(other, mask);
#pragma unroll
        for (int h = 0; h < kHeads; ++h)
        {
            common[h] = fmaxf(common[h], other[h]);
        }
    }
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
#pragma unroll
        for (int mask = kLanes; mask < kWarpSize; mask *= 2)
        {
            float other[kVector + 1];
#pragma unroll
            for (int i = 0; i <= kVector; ++i)
            {
                other[i] = joint[i];
            }
            shuffleXor(other, mask);
#pragma unroll
            for (int i = 0; i <= kVector; ++i)
            {
                joint[i] += other[i];
            }
        }
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

//! Keys per step of tileKernel, as registers and shared memory allow.
__host__ __device__ constexpr int tileKeys(int headDim)
{
    return headDim > 128 ? 32 : 64;
}

//! Elements between rows in shared memory: the padding spreads a fragment's rows over all banks.
__host__ __device__ constexpr int tileStride(int headDim)
{
    return headDim + kVector;
}

//! Shared memory of tileKernel in elements: queries, keys, values.
__host__ __device__ constexpr int tileSharedElements(int headDim)
{
    return (kTileWarps * 16 + 2 * tileKeys(headDim)) * tileStride(headDim);
}

//! Grid: tiles, groups, sequences. Rows are (token, query head) pairs of one group, so that its keys and values are
//! read once for all its heads; a warp owns 16 rows. Of every 8 columns of a product, lane l holds l % 4 * 2 and the
//! next, in the rows l / 4 and l / 4 + 8: two rows per thread, four threads per row.
template <typename T, int kHeadDim>
__global__ void __launch_bounds__(kTileWarps* kWarpSize) tileKernel(Parameters const p)
{
    constexpr int kThreads = kTileWarps * kWarpSize;
    constexpr int kRows = kTileWarps * 16;
    constexpr int kKeys = tileKeys(kHeadDim);
    constexpr int kStride = tileStride(kHeadDim);
    constexpr int kVectors = kHeadDim / kVector;
    T* const queries = sharedMemory<T>();
    T* const keys = queries + kRows * kStride;
    T* const values = keys + kKeys * kStride;

    int const thread = static_cast<int>(threadIdx.x);
    int const warp = thread / kWarpSize;
    int const lane = thread % kWarpSize;
    int const sequence = static_cast<int>(blockIdx.z);
    int const group = static_cast<int>(blockIdx.y);
    int const rows = p.length * p.heads_per_group;
    int const firstRow = static_cast<int>(gridDim.x - 1 - blockIdx.x) * kRows; // the longest rows start first
    std::int64_t const firstToken = static_cast<std::int64_t>(sequence) * p.length;

    // Slots that any row sees; every warp finds the same.
    float bounds[2] = {kLowest, kLowest}; // -begin and end; exact below 2^24
    for (int row = firstRow + lane; row < smaller(firstRow + kRows, rows); row += kWarpSize)
    {
        Slots const slots = visibleSlots(p, sequence, row / p.heads_per_group, group);
        if (!slots.empty())
        {
            bounds[0] = fmaxf(bounds[0], static_cast<float>(-slots.mBegin));
            bounds[1] = fmaxf(bounds[1], static_cast<float>(slots.mEnd));
        }
    }
#pragma unroll
    for (int mask = 1; mask < kWarpSize; mask *= 2)
    {
        float other[2] = {bounds[0], bounds[1]};
        shuffleXor(other, mask);
        bounds[0] = fmaxf(bounds[0], other[0]);
        bounds[1] = fmaxf(bounds[1], other[1]);
    }
    Slots const all = bounds[1] < 0.0F ? Slots{0, 0} : Slots{static_cast<int>(-bounds[0]), static_cast<int>(bounds[1])};

    auto const outputRow = [&](int row)
    {
        std::int64_t const token = firstToken + row / p.heads_per_group;
        return ((token * p.groups + group) * p.heads_per_group + row % p.heads_per_group) * kHeadDim;
    };

    for (int i = thread; i < kRows * kVectors && !all.empty(); i += kThreads)
    {
        int const row = i / kVectors;
        int const d = i % kVectors * kVector;
        float query[kVector] = {};
        if (firstRow + row < rows)
        {
            loadRotated<T, kHeadDim>(query, static_cast<T const*>(p.query) + outputRow(firstRow + row), d, p,
                firstToken + (firstRow + row) / p.heads_per_group);
        }
        storePacked(queries + row * kStride + d, fromFloat<T>(query));
    }

    Slots visible[2] = {};
#pragma unroll
    for (int half = 0; half < 2; ++half)
    {
        int const row = firstRow + warp * 16 + lane / 4 + half * 8;
        if (row < rows)
        {
            visible[half] = visibleSlots(p, sequence, row / p.heads_per_group, group);
        }
    }
    float output[kHeadDim / 8][4] = {};
    float largest[2] = {kLowest, kLowest};
    float weights[2] = {}; // of this thread's columns only, until the end
    constexpr float kLog2E = 1.4426950408889634F;
    float const scale = p.scale * kLog2E;
    std::int64_t const cache = (static_cast<std::int64_t>(sequence) * p.groups + group) * p.capacity * kHeadDim;

    for (int first = all.mBegin; first < all.mEnd; first += kKeys)
    {
        __syncthreads(); // the last step's keys and values are used up
        for (int i = thread; i < kKeys * kVectors; i += kThreads)
        {
            int const key = i / kVectors;
            int const d = i % kVectors * kVector;
            bool const live = first + key < all.mEnd; // dead slots may hold anything: zero times NaN is NaN
            std::int64_t const from = cache + static_cast<std::int64_t>(first + key) * kHeadDim + d;
            storePacked(
                keys + key * kStride + d, live ? loadPacked(static_cast<T const*>(p.key_cache) + from) : Packed<T>{});
            storePacked(values + key * kStride + d,
                live ? loadPacked(static_cast<T const*>(p.value_cache) + from) : Packed<T>{});
        }
        __syncthreads();

        float score[kKeys / 8][4] = {};
#pragma unroll
        for (int d = 0; d < kHeadDim; d += 16)
        {
            auto const word = [&](T const* tile, int row, int column)
            { return *reinterpret_cast<std::uint32_t const*>(tile + row * kStride + column); };
            int const row = warp * 16 + lane / 4;
            int const column = d + lane % 4 * 2;
            std::uint32_t const a[4] = {word(queries, row, column), word(queries, row + 8, column),
                word(queries, row, column + 8), word(queries, row + 8, column + 8)};
#pragma unroll
            for (int n = 0; n < kKeys / 8; ++n)
            {
                std::uint32_t const b[2] = {
                    word(keys, n * 8 + lane / 4, column), word(keys, n * 8 + lane / 4, column + 8)};
                multiplyAdd<T>(score[n], a, b);
            }
        }

        float top[2] = {largest[0], largest[1]};
#pragma unroll
        for (int n = 0; n < kKeys / 8; ++n)
        {
#pragma unroll
            for (int i = 0; i < 4; ++i)
            {
                int const slot = first + n * 8 + lane % 4 * 2 + i % 2;
                Slots const& mine = visible[i / 2];
                bool const seen = slot >= mine.mBegin && slot < mine.mEnd;
                score[n][i] = seen ? score[n][i] * scale : 2.0F * kLowest; // weight 0 even if a row has seen nothing
                top[i / 2] = fmaxf(top[i / 2], score[n][i]);
            }
        }
#pragma unroll
        for (int mask = 1; mask < 4; mask *= 2)
        {
            float other[2] = {top[0], top[1]};
            shuffleXor(other, mask);
            top[0] = fmaxf(top[0], other[0]);
            top[1] = fmaxf(top[1], other[1]);
        }
        float const shrink[2] = {exp2f(largest[0] - top[0]), exp2f(largest[1] - top[1])};
#pragma unroll
        for (int half = 0; half < 2; ++half)
        {
            largest[half] = top[half];
            weights[half] *= shrink[half];
        }
#pragma unroll
        for (int n = 0; n < kHeadDim / 8; ++n)
        {
#pragma unroll
            for (int i = 0; i < 4; ++i)
            {
                output[n][i] *= shrink[i / 2];
            }
        }
#pragma unroll
        for (int n = 0; n < kKeys / 8; ++n)
        {
#pragma unroll
            for (int i = 0; i < 4; ++i)
            {
                score[n][i] = exp2f(score[n][i] - top[i / 2]);
                weights[i / 2] += score[n][i];
            }
        }
#pragma unroll
        for (int k = 0; k < kKeys; k += 16)
        {
            // The scores of 16 keys already lie as the left operand wants them.
            float const(&low)[4] = score[k / 8];
            float const(&high)[4] = score[k / 8 + 1];
            std::uint32_t const a[4] = {
                pack<T>(low[0], low[1]), pack<T>(low[2], low[3]), pack<T>(high[0], high[1]), pack<T>(high[2], high[3])};
#pragma unroll
            for (int n = 0; n < kHeadDim / 8; ++n)
            {
                std::uint32_t b[2];
                loadTransposed(b, values + k * kStride + n * 8, kStride);
                multiplyAdd<T>(output[n], a, b);
            }
        }
    }

#pragma unroll
    for (int mask = 1; mask < 4; mask *= 2)
    {
        float other[2] = {weights[0], weights[1]};
        shuffleXor(other, mask);
        weights[0] += other[0];
        weights[1] += other[1];
    }
#pragma unroll
    for (int half = 0; half < 2; ++half)
    {
        int const row = firstRow + warp * 16 + lane / 4 + half * 8;
        if (row >= rows)
        {
            continue;
        }
        float const inverse = weights[half] > 0.0F ? 1.0F / weights[half] : 0.0F; // zero where nothing is seen
        T* const to = static_cast<T*>(p.output) + outputRow(row) + lane % 4 * 2;
#pragma unroll
        for (int n = 0; n < kHeadDim / 8; ++n)
        {
            *reinterpret_cast<std::uint32_t*>(to + n * 8) =
                pack<T>(output[n][half * 2] * inverse, output[n][half * 2 + 1] * inverse);
        }
    }
}

} // namespace flextron::head_subset_attention
