/*
 * SPDX-License-Identifier: Apache-2.0
 *
 * The kernel for many tokens per sequence, on tensor cores.
 */
#pragma once

#include "slots.cuh"

namespace flextron::head_subset_attention
{

#if defined(__CUDACC__)
constexpr int kTileWarps = 4;
#else
constexpr int kTileWarps = 2; // the emulation pays for every thread
#endif

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
    maxOverLanes<1, kWarpSize>(bounds);
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
        maxOverLanes<1, 4>(top);
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

    sumOverLanes<1, 4>(weights);
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
