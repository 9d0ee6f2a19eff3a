/*
 * SPDX-License-Identifier: Apache-2.0
 *
 * Rows are outputs, few tokens. Launch bounds say one block per multiprocessor: without that ptxas spills a few bytes to
 * reach the next level of occupancy.
 */
#pragma once

#include "active_rows.cuh"

namespace flextron::elastic_linear
{

#if defined(__CUDACC__)
constexpr int kRowWarps = 4;
#else
constexpr int kRowWarps = 2; // the emulation pays for every thread
#endif

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
    sumOverLanes<1, kWarpSize>(sum);
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

} // namespace flextron::elastic_linear
