/*
 * SPDX-License-Identifier: Apache-2.0
 *
 * What all kernels of ElasticLinear share: how many rows a token uses and how they are shared out. One call runs, in
 * order on one stream:
 *
 *   rowKernel      (rows.cuh) few tokens, rows are outputs: one warp per row
 *   columnKernel   (columns.cuh) few tokens, rows are inputs: one block per part of the rows and some columns
 *   tileKernel     (tiles.cuh) many tokens: one block per tile of tokens and columns, on tensor cores
 *   combineKernel  joins the parts of a sum over rows, if there is more than one
 *
 * Grids depend on shapes only. How many rows are active is read here, and blocks without work leave at once, so that a
 * launch can be captured and replayed while it changes. The kernels for few tokens are bound by memory: weights go
 * straight from global memory to ordinary cores, several loads in flight per thread, each read once for up to 8 tokens.
 */
#pragma once

#include "../common/portable.cuh"
#include "elastic_linear.h"
#include "weights.cuh"

#include <cmath>

namespace flextron::elastic_linear
{

using Parameters = FlextronElasticLinear;

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
    maxOverLanes<1, kWarpSize>(most);
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

//! The scale of a weight of `gate` or `up`.
template <typename T>
__device__ __forceinline__ float scaleOf(Parameters const& p, void const* scales, int row, int column)
{
    return toFloat(static_cast<T const*>(
        scales)[static_cast<std::int64_t>(row) * (p.hidden / p.group_size) + column / p.group_size]);
}

} // namespace flextron::elastic_linear
