/*
 * SPDX-License-Identifier: Apache-2.0
 *
 * The kernels for few tokens, and what they share with those of tiles.cuh. One call runs, in order on one stream:
 *
 *   rowKernel      rows are outputs: one warp per row
 *   columnKernel   rows are inputs: one block per part of the rows and some columns
 *   combineKernel  joins the parts, if there is more than one
 *
 * Grids depend on shapes only. How many rows are active is read here, and blocks without work leave at once, so that a
 * launch can be captured and replayed while it changes. These kernels are bound by memory: weights go straight from
 * global memory to ordinary cores, several loads in flight per thread, each read once for up to 8 tokens. Launch bounds
 * say one block per multiprocessor: without that ptxas spills a few bytes to reach the next level of occupancy.
 */
#pragma once

#include "../common/portable.cuh"
#include "elastic_linear.h"
#include "weights.cuh"

#include <cmath>

namespace flextron::elastic_linear
{

using Parameters = FlextronElasticLinear;

#if defined(__CUDACC__)
constexpr int kRowWarps = 4;
constexpr int kColumnWarps = 8;
#else
constexpr int kRowWarps = 2; // the emulation pays for every thread
constexpr int kColumnWarps = 2;
#endif
constexpr int kCombineThreads = 64;
constexpr int kDepth = 32; //!< elements of a sum that tileKernel takes at once; parts are multiples of it

//! Half-open range of weight rows.
struct Rows
{
    int mBegin;
    int mEnd;
};

__device__ __forceinline__ int tokenCount(Parameters const& p)
{
    return p.batch * p.length;
}

//! How many rows a token uses.
__device__ __forceinline__ int activeRows(Parameters const& p, int token)
{
    // Strides of 0 broadcast; the products fit, as they address real tensors.
    int const active = p.active_rows[static_cast<std::int64_t>(token / p.length) * p.active_rows_batch_stride
                                     + static_cast<std::int64_t>(token % p.length) * p.active_rows_token_stride];
    return larger(0, smaller(active, p.rows));
}

//! How many rows the widest of `count` tokens uses. Every warp finds the same.
__device__ __forceinline__ int mostActiveRows(Parameters const& p, int firstToken, int count)
{
    float most[1] = {0.0F}; // exact below 2^24
    int const end = smaller(firstToken + count, tokenCount(p));
    for (int token = firstToken + static_cast<int>(threadIdx.x) % kWarpSize; token < end; token += kWarpSize)
    {
        most[0] = fmaxf(most[0], static_cast<float>(activeRows(p, token)));
    }
#pragma unroll
    for (int mask = 1; mask < kWarpSize; mask *= 2)
    {
        float other[1] = {most[0]};
        shuffleXor(other, mask);
        most[0] = fmaxf(most[0], other[0]);
    }
    return static_cast<int>(most[0]);
}

//! Rows per part when `active` rows are shared out over at most `parts` blocks.
__device__ __forceinline__ int partSize(int active, int parts)
{
    return larger(2 * kDepth, ceilDivide(ceilDivide(active, parts), kDepth) * kDepth);
}

__device__ __forceinline__ Rows rowsOfPart(int active, int parts, int part)
{
    if (parts == 1)
    {
        return {0, active};
    }
    int const size = partSize(active, parts);
    int const begin = smaller(part * size, active);
    return {begin, smaller(begin + size, active)};
}

__device__ __forceinline__ float activate(float x, int activation)
{
    if (activation == FLEXTRON_SILU)
    {
        return x / (1.0F + expf(-x));
    }
    constexpr float kRootOf2OverPi = 0.7978845608028654F;
    return 0.5F * x * (1.0F + tanhf(kRootOf2OverPi * (x + 0.044715F * x * x * x)));
}

//! What is added to the sums of a token's first column, or null.
template <typename T>
__device__ __forceinline__ T const* addendOf(Parameters const& p, int token)
{
    return p.addend == nullptr
               ? nullptr
               : static_cast<T const*>(p.addend) + static_cast<std::int64_t>(token) * p.addend_token_stride;
}

//! The scale of a weight.
template <typename T>
__device__ __forceinline__ float scaleOf(Parameters const& p, void const* scales, int row, int column)
{
    return toFloat(static_cast<T const*>(
        scales)[static_cast<std::int64_t>(row) * (p.hidden / p.group_size) + column / p.group_size]);
}

//! Weights of a row that a lane of rowKernel loads at once: 16 bytes, or 8 elements.
template <typename W>
constexpr int kRowSpan = kBits<W> < 16 ? 128 / kBits<W> : kVector;

//! Grid: groups of tokens, groups of rows; a warp owns a row. With kGated, the row of `gate` and that of `up`, and
//! output is the activations between the halves of the feed-forward network, of which no row beyond d is written.
template <typename T, typename W, int kTokens, bool kGated>
__global__ void __launch_bounds__(kRowWarps* kWarpSize, 1) rowKernel(Parameters const p, T* const output)
{
    constexpr int kMatrices = kGated ? 2 : 1;
    constexpr int kSpan = kRowSpan<W>;
    constexpr int kStep = kSpan * kWarpSize;
    constexpr int kUnroll = kGated ? 2 : 4;

    int const lane = static_cast<int>(threadIdx.x) % kWarpSize;
    int const row = static_cast<int>(blockIdx.y) * kRowWarps + static_cast<int>(threadIdx.x) / kWarpSize;
    int const firstToken = static_cast<int>(blockIdx.x) * kTokens;
    int const tokens = smaller(kTokens, tokenCount(p) - firstToken);
    if (row >= p.rows)
    {
        return;
    }
    T* const to = output + static_cast<std::int64_t>(firstToken) * p.rows + row;
    if (row >= mostActiveRows(p, firstToken, kTokens))
    {
        if (!kGated && lane < tokens)
        {
            to[static_cast<std::int64_t>(lane) * p.rows] = fromFloat<T>(0.0F);
        }
        return;
    }

    void const* const matrices[2] = {p.up, p.gate};
    void const* const scales[2] = {p.up_scales, p.gate_scales};
    void const* const biases[2] = {p.up_bias, p.gate_bias};
    T const* const input = static_cast<T const*>(p.input) + static_cast<std::int64_t>(firstToken) * p.hidden;
    std::int64_t const start = static_cast<std::int64_t>(row) * p.hidden;
    float sum[kMatrices * kTokens] = {};
    for (int first = lane * kSpan; first < p.hidden; first += kUnroll * kStep)
    {
        Weights<W, kSpan> weights[kUnroll][kMatrices];
        float scale[kUnroll][kMatrices];
#pragma unroll
        for (int u = 0; u < kUnroll; ++u)
        {
            int const k = first + u * kStep;
#pragma unroll
            for (int m = 0; m < kMatrices; ++m)
            {
                weights[u][m] = k < p.hidden ? loadWeights<W, kSpan>(matrices[m], start + k) : Weights<W, kSpan>{};
                if constexpr (isQuantized<W>)
                {
                    scale[u][m] = k < p.hidden ? scaleOf<T>(p, scales[m], row, k) : 0.0F;
                }
            }
        }
#pragma unroll
        for (int u = 0; u < kUnroll; ++u)
        {
            int const k = first + u * kStep;
            if (k >= p.hidden)
            {
                break;
            }
            float dot[kMatrices * kTokens] = {};
#pragma unroll
            for (int part = 0; part < kSpan / kVector; ++part)
            {
                float w[kMatrices][kVector];
#pragma unroll
                for (int m = 0; m < kMatrices; ++m)
                {
                    decode<W>(w[m], weights[u][m].mWords + part * kVector * kBits<W> / 32);
                }
#pragma unroll
                for (int t = 0; t < kTokens; ++t)
                {
                    // Tokens beyond the last are computed as the last and not written.
                    std::int64_t const token = smaller(t, tokens - 1);
                    float x[kVector];
                    toFloat(x, loadPacked(input + token * p.hidden + k + part * kVector));
#pragma unroll
                    for (int m = 0; m < kMatrices; ++m)
                    {
#pragma unroll
                        for (int i = 0; i < kVector; ++i)
                        {
                            dot[m * kTokens + t] += w[m][i] * x[i];
                        }
                    }
                }
            }
#pragma unroll
            for (int m = 0; m < kMatrices; ++m)
            {
#pragma unroll
                for (int t = 0; t < kTokens; ++t)
                {
                    sum[m * kTokens + t] += isQuantized<W> ? dot[m * kTokens + t] * scale[u][m] : dot[m * kTokens + t];
                }
            }
        }
    }
#pragma unroll
    for (int mask = 1; mask < kWarpSize; mask *= 2)
    {
        float other[kMatrices * kTokens];
#pragma unroll
        for (int i = 0; i < kMatrices * kTokens; ++i)
        {
            other[i] = sum[i];
        }
        shuffleXor(other, mask);
#pragma unroll
        for (int i = 0; i < kMatrices * kTokens; ++i)
        {
            sum[i] += other[i];
        }
    }
    float bias[kMatrices] = {};
#pragma unroll
    for (int m = 0; m < kMatrices; ++m)
    {
        if (biases[m] != nullptr)
        {
            bias[m] = toFloat(static_cast<T const*>(biases[m])[row]);
        }
    }
#pragma unroll
    for (int t = 0; t < kTokens; ++t)
    {
        if (lane == t && t < tokens)
        {
            float value = sum[t] + bias[0];
            if constexpr (kGated)
            {
                value *= activate(sum[kTokens + t] + bias[1], p.activation);
            }
            bool const active = row < activeRows(p, firstToken + t);
            to[static_cast<std::int64_t>(t) * p.rows] = fromFloat<T>(active ? value : 0.0F);
        }
    }
}

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
#pragma unroll
        for (int u = 0; u < kUnroll; ++u)
        {
            int const row = first + u;
            bool const loads = holds && row < rows.mEnd;
            std::int64_t const element = static_cast<std::int64_t>(row) * p.hidden + column;
            weights[u] = loads ? loadWeights<W, kSpan>(p.down, element) : Weights<W, kSpan>{};
            float scale = 1.0F;
            if constexpr (isQuantized<W>)
            {
                scale = loads ? scaleOf<T>(p, p.down_scales, row, column) : 0.0F;
            }
#pragma unroll
            for (int t = 0; t < kTokens; ++t)
            {
                // Elements beyond d may hold anything, NaN included.
                std::int64_t const entry = static_cast<std::int64_t>(firstToken + t) * p.rows + row;
                x[u][t] = row < smaller(active[t], rows.mEnd) ? toFloat(input[entry]) * scale : 0.0F;
            }
        }
#pragma unroll
        for (int u = 0; u < kUnroll; ++u)
        {
#pragma unroll
            for (int i = 0; i < kSpan; i += kVector)
            {
                float w[kVector];
                decode<W>(w, weights[u].mWords + i * kBits<W> / 32);
#pragma unroll
                for (int t = 0; t < kTokens; ++t)
                {
#pragma unroll
                    for (int j = 0; j < kVector; ++j)
                    {
                        sum[t][i + j] += x[u][t] * w[j];
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
