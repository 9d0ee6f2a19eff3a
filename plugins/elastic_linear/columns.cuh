/*
 * SPDX-License-Identifier: Apache-2.0
 *
 * Rows are inputs, few tokens; and the kernel that joins the parts of their sum, those of tiles.cuh too.
 */
#pragma once

#include "active_rows.cuh"

namespace flextron::elastic_linear
{

#if defined(__CUDACC__)
constexpr int kColumnWarps = 8;
#else
constexpr int kColumnWarps = 2; // the emulation pays for every thread
#endif
constexpr int kCombineThreads = 64;

//! Columns of a row that a lane of columnKernel loads at once and owns.
template <typename W>
constexpr int kColumnSpan = isQuantized<W> ? 16 : kVector;

//! Columns of a block of columnKernel.
template <typename W>
constexpr int kBlockColumns = kWarpSize * kColumnSpan<W>;

//! Elements between the sums of a span in shared memory: the padding spreads them over the banks.
constexpr int kSpanStride = kWarpSize + 1;

//! Shared memory of columnKernel in floats: the sums of every warp for one token.
template <typename W>
constexpr int kColumnSharedFloats = kColumnWarps * kColumnSpan<W> * kSpanStride;

//! Grid: parts x groups of tokens, groups of columns. Warps take different rows. The input is [tokens, rows].
template <typename T, typename W, int kTokens>
__global__ void __launch_bounds__(kColumnWarps* kWarpSize)
    columnKernel(Parameters const p, T const* const input, float* const partials, int const parts)
{
    constexpr int kSpan = kColumnSpan<W>;
    constexpr int kUnroll = 4;
    int const groups = ceilDivide(tokenCount(p), kTokens);
    int const firstToken = static_cast<int>(blockIdx.x) % groups * kTokens;
    int const part = static_cast<int>(blockIdx.x) / groups;
    int const tokens = smaller(kTokens, tokenCount(p) - firstToken);
    int active[kTokens];
    int most = 0;
#pragma unroll
    for (int t = 0; t < kTokens; ++t)
    {
        active[t] = t < tokens ? activeRows(p, firstToken + t) : 0;
        most = larger(most, active[t]);
    }
    Rows const rows = rowsOfPart(most, parts, part);
    if (parts > 1 && rows.mBegin >= rows.mEnd)
    {
        return; // combineKernel does not look at this part
    }

    int const warp = static_cast<int>(threadIdx.x) / kWarpSize;
    int const lane = static_cast<int>(threadIdx.x) % kWarpSize;
    int const firstColumn = static_cast<int>(blockIdx.y) * kBlockColumns<W>;
    int const column = firstColumn + lane * kSpan;
    bool const holds = column < p.hidden;
    float sum[kTokens][kSpan] = {};
    for (int first = rows.mBegin + warp * kUnroll; first < rows.mEnd; first += kColumnWarps * kUnroll)
    {
        Weights<W, kSpan> weights[kUnroll];
        float x[kUnroll][kTokens];
        Packed<T> scales[kSpan / kVector] = {}; // a group holds a multiple of 32 rows, so all kUnroll of them
        if constexpr (isQuantized<W>)
        {
#pragma unroll
            for (int i = 0; i < kSpan / kVector; ++i)
            {
                std::int64_t const from = static_cast<std::int64_t>(first / p.group_size) * p.hidden + column;
                scales[i] = holds ? loadPacked(static_cast<T const*>(p.down_scales) + from + i * kVector) : Packed<T>{};
            }
        }
#pragma unroll
        for (int u = 0; u < kUnroll; ++u)
        {
            int const row = first + u;
            bool const loads = holds && row < rows.mEnd;
            std::int64_t const element = static_cast<std::int64_t>(row) * p.hidden + column;
            weights[u] = loads ? loadWeights<W, kSpan>(p.down, element) : Weights<W, kSpan>{};
#pragma unroll
            for (int t = 0; t < kTokens; ++t)
            {
                // Elements beyond d may hold anything, NaN included.
                std::int64_t const entry = static_cast<std::int64_t>(firstToken + t) * p.rows + row;
                x[u][t] = row < smaller(active[t], rows.mEnd) ? toFloat(input[entry]) : 0.0F;
            }
        }
#pragma unroll
        for (int i = 0; i < kSpan; i += kVector)
        {
            float w[kUnroll][kVector];
#pragma unroll
            for (int u = 0; u < kUnroll; ++u)
            {
                decode<W>(w[u], weights[u].mWords + i * kBits<W> / 32);
            }
            float scale[kVector];
            if constexpr (isQuantized<W>)
            {
                toFloat(scale, scales[i / kVector]);
            }
#pragma unroll
            for (int t = 0; t < kTokens; ++t)
            {
#pragma unroll
                for (int j = 0; j < kVector; ++j)
                {
                    float part = 0.0F;
#pragma unroll
                    for (int u = 0; u < kUnroll; ++u)
                    {
                        (isQuantized<W> ? part : sum[t][i + j]) += x[u][t] * w[u][j];
                    }
                    if constexpr (isQuantized<W>)
                    {
                        sum[t][i + j] += part * scale[j];
                    }
                }
            }
        }
    }

    // Join the warps, one token after another.
    float* const shared = sharedMemory<float>();
#pragma unroll
    for (int t = 0; t < kTokens; ++t)
    {
        if (t >= tokens)
        {
            break;
        }
        __syncthreads();
#pragma unroll
        for (int i = 0; i < kSpan; ++i)
        {
            shared[(warp * kSpan + i) * kSpanStride + lane] = sum[t][i];
        }
        __syncthreads();
        int const token = firstToken + t;
        for (int i = static_cast<int>(threadIdx.x); i < kBlockColumns<W>; i += kColumnWarps * kWarpSize)
        {
            int const to = firstColumn + i;
            if (to >= p.hidden)
            {
                break;
            }
            float total = 0.0F;
            for (int w = 0; w < kColumnWarps; ++w)
            {
                total += shared[(w * kSpan + i % kSpan) * kSpanStride + i / kSpan];
            }
            if (parts > 1)
            {
                partials[(static_cast<std::int64_t>(token) * parts + part) * p.hidden + to] = total;
                continue;
            }
            T const* const addend = addendOf<T>(p, token);
            total += addend != nullptr ? toFloat(addend[to]) : 0.0F;
            static_cast<T*>(p.output)[static_cast<std::int64_t>(token) * p.hidden + to] = fromFloat<T>(total);
        }
    }
}

//! Grid: tokens, groups of columns. `tokensPerBlock` is that of the kernel that wrote the parts.
template <typename T>
__global__ void __launch_bounds__(kCombineThreads, 1)
    combineKernel(Parameters const p, float const* const partials, int const parts, int const tokensPerBlock)
{
    int const token = static_cast<int>(blockIdx.x);
    int const most = mostActiveRows(p, token / tokensPerBlock * tokensPerBlock, tokensPerBlock);
    int const used = ceilDivide(most, partSize(most, parts));
    int const column = (static_cast<int>(blockIdx.y) * kCombineThreads + static_cast<int>(threadIdx.x)) * kVector;
    if (column >= p.hidden)
    {
        return;
    }
    float sum[kVector] = {};
    if (T const* const addend = addendOf<T>(p, token))
    {
        toFloat(sum, loadPacked(addend + column));
    }
    for (int part = 0; part < used; ++part)
    {
        float x[kVector];
        toFloat(x, loadPacked(partials + (static_cast<std::int64_t>(token) * parts + part) * p.hidden + column));
#pragma unroll
        for (int i = 0; i < kVector; ++i)
        {
            sum[i] += x[i];
        }
    }
    storePacked(static_cast<T*>(p.output) + static_cast<std::int64_t>(token) * p.hidden + column, fromFloat<T>(sum));
}

} // namespace flextron::elastic_linear
