/*
 * SPDX-License-Identifier: Apache-2.0
 *
 * ElasticLinear on the CPU. A task takes up to four tokens and some rows, or some columns of all active rows; rows
 * beyond the widest of its tokens are not read.
 */
#include "cpu.h"

#include "plan.h"
#include "weights.cuh"

#include <algorithm>
#include <cmath>
#include <vector>

namespace flextron::cpu
{
namespace
{

using Parameters = FlextronElasticLinear;

constexpr int kTokens = 4;
constexpr int kColumns = 512;          //!< of a weight row that are taken at once
constexpr int kTaskProducts = 1 << 15; //!< for which a task is worth its start

struct Matrix
{
    void const* mValues;
    void const* mScales;
    void const* mBias;
    bool mDown; //!< rows share the scales of a column
};

//! Up to four tokens.
struct Tile
{
    int mFirst;
    int mCount;
    int mActive[kTokens]; //!< rows of each
    int mMost;            //!< of them
};

Tile tileOf(Parameters const& p, std::size_t index)
{
    int const all = p.batch * p.length;
    Tile tile{static_cast<int>(index) * kTokens, 0, {}, 0};
    tile.mCount = std::min(kTokens, all - tile.mFirst);
    for (int t = 0; t < tile.mCount; ++t)
    {
        int const token = tile.mFirst + t;
        int const active = p.active_rows[token / p.length * p.active_rows_batch_stride
                                         + token % p.length * p.active_rows_token_stride];
        tile.mActive[t] = std::clamp(active, 0, p.rows);
        tile.mMost = std::max(tile.mMost, tile.mActive[t]);
    }
    return tile;
}

std::size_t tiles(Parameters const& p)
{
    return static_cast<std::size_t>((p.batch * p.length + kTokens - 1) / kTokens);
}

//! Some weights of a row as floats, in `scratch` unless they already are; `column` and `count` are multiples of 32.
template <typename T>
float const* weights(Parameters const& p, Matrix const& matrix, int row, int column, int count, float* scratch)
{
    std::int64_t const element = static_cast<std::int64_t>(row) * p.hidden + column;
    if (p.weight_type == FLEXTRON_WEIGHT_AS_DATA)
    {
        return asFloat(static_cast<T const*>(matrix.mValues) + element, scratch, count);
    }
    auto const* const bytes = static_cast<std::uint8_t const*>(matrix.mValues);
    auto const* const scales = static_cast<T const*>(matrix.mScales)
                               + (matrix.mDown ? static_cast<std::int64_t>(row / p.group_size) * p.hidden + column
                                               : element / p.group_size);
    int const offset = column % p.group_size;
    for (int i = 0; i < count; i += kVector)
    {
        float values[kVector];
        if (p.weight_type == FLEXTRON_WEIGHT_INT8)
        {
            elastic_linear::decode<elastic_linear::Int8>(
                values, reinterpret_cast<std::uint32_t const*>(bytes + element + i));
        }
        else
        {
            elastic_linear::decode<elastic_linear::Int4>(
                values, reinterpret_cast<std::uint32_t const*>(bytes + (element + i) / 2));
        }
        float const shared = matrix.mDown ? 0.0F : toFloat(scales[(offset + i) / p.group_size]);
        for (int j = 0; j < kVector; ++j)
        {
            scratch[i + j] = values[j] * (matrix.mDown ? toFloat(scales[i + j]) : shared);
        }
    }
    return scratch;
}

//! One row times the tokens of a tile.
template <typename T>
void products(float* sums, Parameters const& p, Matrix const& matrix, int row, float const* const* x, int tokens)
{
    float scratch[kColumns];
    std::fill_n(sums, kTokens, 0.0F);
    for (int column = 0; column < p.hidden; column += kColumns)
    {
        int const count = std::min(kColumns, p.hidden - column);
        float const* const w = weights<T>(p, matrix, row, column, count, scratch);
        float const* at[kTokens];
        for (int t = 0; t < kTokens; ++t)
        {
            at[t] = x[t] + column;
        }
        float part[kTokens] = {};
        tokens == 1 ? dot1(part, at, w, count) : dot4(part, at, w, count);
        for (int t = 0; t < kTokens; ++t)
        {
            sums[t] += part[t];
        }
    }
    float const bias = matrix.mBias != nullptr ? toFloat(static_cast<T const*>(matrix.mBias)[row]) : 0.0F;
    for (int t = 0; t < kTokens; ++t)
    {
        sums[t] += bias;
    }
}

float activate(float x, int activation)
{
    if (activation == FLEXTRON_SILU)
    {
        return x / (1.0F + std::exp(-x));
    }
    constexpr float kRootOf2OverPi = 0.7978845608028654F;
    return 0.5F * x * (1.0F + std::tanh(kRootOf2OverPi * (x + 0.044715F * x * x * x)));
}

//! Rows are outputs: `result` is [tokens, rows], with zeros where a row is not active.
template <typename T>
void outputs(Parameters const& p, float const* input, T* result, Parallel const& parallel)
{
    bool const gated = p.operation == FLEXTRON_ELASTIC_FEED_FORWARD;
    Matrix const up{p.up, p.up_scales, p.up_bias, false};
    Matrix const gate{p.gate, p.gate_scales, p.gate_bias, false};
    int const step = std::max(1, kTaskProducts / p.hidden);
    auto const chunks = static_cast<std::size_t>((p.rows + step - 1) / step);
    parallel(tiles(p) * chunks,
        [&](std::size_t task)
        {
            Tile const tile = tileOf(p, task / chunks);
            int const first = static_cast<int>(task % chunks) * step;
            float const* x[kTokens];
            for (int t = 0; t < kTokens; ++t) // those beyond the last are computed as the last and not written
            {
                x[t] = input + static_cast<std::int64_t>(tile.mFirst + std::min(t, tile.mCount - 1)) * p.hidden;
            }
            for (int row = first; row < std::min(first + step, p.rows); ++row)
            {
                float sums[kTokens] = {};
                float gates[kTokens] = {};
                if (row < tile.mMost)
                {
                    products<T>(sums, p, up, row, x, tile.mCount);
                    if (gated)
                    {
                        products<T>(gates, p, gate, row, x, tile.mCount);
                    }
                }
                for (int t = 0; t < tile.mCount; ++t)
                {
                    float const value = gated ? sums[t] * activate(gates[t], p.activation) : sums[t];
                    result[static_cast<std::int64_t>(tile.mFirst + t) * p.rows + row] =
                        fromFloat<T>(row < tile.mActive[t] ? value : 0.0F);
                }
            }
        });
}

//! Rows are inputs: `input` is [tokens, rows], of which no row beyond a token's d is looked at.
template <typename T>
void inputs(Parameters const& p, T const* input, Parallel const& parallel)
{
    Matrix const down{p.down, p.down_scales, nullptr, true};
    auto const chunks = static_cast<std::size_t>((p.hidden + kColumns - 1) / kColumns);
    parallel(tiles(p) * chunks,
        [&](std::size_t task)
        {
            Tile const tile = tileOf(p, task / chunks);
            int const column = static_cast<int>(task % chunks) * kColumns;
            int const count = std::min(kColumns, p.hidden - column);
            float sums[kTokens][kColumns];
            for (int t = 0; t < tile.mCount; ++t)
            {
                if (p.addend == nullptr)
                {
                    std::fill_n(sums[t], count, 0.0F);
                    continue;
                }
                std::int64_t const from = static_cast<std::int64_t>(tile.mFirst + t) * p.addend_token_stride;
                load(sums[t], static_cast<T const*>(p.addend) + from + column, count);
            }
            constexpr int kRows = 4; // rows is a multiple of it
            for (int row = 0; row < tile.mMost; row += kRows)
            {
                float scratch[kRows][kColumns];
                float const* w[kRows];
                for (int i = 0; i < kRows; ++i)
                {
                    w[i] = weights<T>(p, down, std::min(row + i, tile.mMost - 1), column, count, scratch[i]);
                }
                for (int t = 0; t < tile.mCount; ++t)
                {
                    T const* const x = input + static_cast<std::int64_t>(tile.mFirst + t) * p.rows + row;
                    float factors[kRows];
                    for (int i = 0; i < kRows; ++i)
                    {
                        factors[i] = row + i < tile.mActive[t] ? toFloat(x[i]) : 0.0F;
                    }
                    if (row < tile.mActive[t])
                    {
                        addScaled4(sums[t], factors, w, count);
                    }
                }
            }
            for (int t = 0; t < tile.mCount; ++t)
            {
                std::int64_t const to = static_cast<std::int64_t>(tile.mFirst + t) * p.hidden + column;
                store(static_cast<T*>(p.output) + to, sums[t], count);
            }
        });
}

template <typename T>
void run(Parameters const& p, Parallel const& parallel)
{
    auto const tokens = static_cast<std::size_t>(p.batch) * static_cast<std::size_t>(p.length);
    auto const* const input = static_cast<T const*>(p.input);
    if (p.operation == FLEXTRON_ELASTIC_INPUTS)
    {
        inputs(p, input, parallel);
        return;
    }
    std::size_t const elements = tokens * static_cast<std::size_t>(p.hidden);
    std::vector<float> scratch(sizeof(T) == sizeof(float) ? 0 : elements);
    float const* const x = asFloat(input, scratch.data(), static_cast<std::int64_t>(elements));
    if (p.operation == FLEXTRON_ELASTIC_OUTPUTS)
    {
        outputs(p, x, static_cast<T*>(p.output), parallel);
        return;
    }
    std::vector<T> hidden(tokens * static_cast<std::size_t>(p.rows));
    outputs(p, x, hidden.data(), parallel);
    inputs(p, static_cast<T const*>(hidden.data()), parallel);
}

} // namespace

char const* run(Parameters const& p, Parallel const& parallel)
{
    FlextronStatus status = FLEXTRON_SUCCESS;
    char const* reason = elastic_linear::checkSizes(p, status);
    reason = reason == nullptr ? elastic_linear::checkPointers(p) : reason;
    if (reason != nullptr)
    {
        return reason;
    }
    switch (p.data_type)
    {
    case FLEXTRON_FLOAT16: run<Half>(p, parallel); break;
    case FLEXTRON_BFLOAT16: run<BFloat16>(p, parallel); break;
    default: run<float>(p, parallel); break;
    }
    return nullptr;
}

} // namespace flextron::cpu
