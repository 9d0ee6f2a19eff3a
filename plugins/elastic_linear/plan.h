/*
 * SPDX-License-Identifier: Apache-2.0
 *
 * Decisions of the launcher that need no device: whether the arguments are valid, which kernels run, over how many
 * blocks a sum is spread, how much workspace that takes.
 */
#pragma once

#include "elastic_linear.h"

#include <algorithm>
#include <cstddef>
#include <cstdint>

namespace flextron::elastic_linear
{

constexpr int kTileMinimumTokens = 16; //!< from which on tensor cores are worth their tiles
constexpr int kLargeTileTokens = 65;   //!< from which on a tile of many tokens is not mostly padding
constexpr int kMaximumParts = 64;
constexpr int kMinimumPart = 64; //!< rows for which a further block is worth its start
constexpr int kBlocksPerMultiprocessor = 4;

//! Columns of a block of columnKernel and of tileKernel: how far a sum must be split follows from them.
struct BlockColumns
{
    int mVector;
    int mTile;
};

struct Plan
{
    bool mTiled;              //!< tileKernel instead of rowKernel and columnKernel
    bool mLarge;              //!< of tileKernel: many tokens per block
    int mTokensPerBlock;      //!< of rowKernel and columnKernel: 1, 2, 4 or 8
    int mParts;               //!< blocks that share a sum over rows
    std::size_t mHiddenBytes; //!< of the activations between the two halves, at the start of the workspace
    std::size_t mWorkspaceBytes;
};

inline std::int64_t tokens(FlextronElasticLinear const& p)
{
    return static_cast<std::int64_t>(p.batch) * p.length;
}

inline std::size_t elementBytes(FlextronElasticLinear const& p)
{
    return p.data_type == FLEXTRON_FLOAT32 ? 4 : 2;
}

//! What is wrong with the sizes, or null.
inline char const* checkSizes(FlextronElasticLinear const& p, FlextronStatus& status)
{
    status = FLEXTRON_INVALID_ARGUMENT;
    if (p.size != sizeof(FlextronElasticLinear))
    {
        return "size: not that of this library's parameter struct";
    }
    if (p.batch < 1 || p.length < 1 || p.hidden < 1 || p.rows < 1)
    {
        return "batch, length, hidden and rows must be positive";
    }
    if (p.multiprocessors < 0)
    {
        return "multiprocessors must not be negative";
    }
    if (p.operation < FLEXTRON_ELASTIC_OUTPUTS || p.operation > FLEXTRON_ELASTIC_FEED_FORWARD)
    {
        return "operation: not one of FlextronElasticOperation";
    }
    if (p.addend_token_stride != 0 && p.addend_token_stride != p.hidden)
    {
        return "addend_token_stride must be 0 or hidden";
    }
    bool const quantized = p.weight_type == FLEXTRON_WEIGHT_INT8 || p.weight_type == FLEXTRON_WEIGHT_INT4;
    int const inputs = p.operation == FLEXTRON_ELASTIC_INPUTS ? p.rows : p.hidden;
    bool const both = p.operation == FLEXTRON_ELASTIC_FEED_FORWARD;
    if (quantized ? p.group_size < 1 || inputs % p.group_size != 0 || (both && p.rows % p.group_size != 0)
                  : p.group_size != 0)
    {
        return "group_size must divide the inputs of each matrix, or be 0 for weights of the data type";
    }
    status = FLEXTRON_UNSUPPORTED;
    if (p.data_type != FLEXTRON_FLOAT32 && p.data_type != FLEXTRON_FLOAT16 && p.data_type != FLEXTRON_BFLOAT16)
    {
        return "data_type: float32, float16 and bfloat16 are supported";
    }
    if (!quantized && p.weight_type != FLEXTRON_WEIGHT_AS_DATA)
    {
        return "weight_type: that of the data, int8 and int4 are supported";
    }
    if (p.activation != FLEXTRON_SILU && p.activation != FLEXTRON_GELU_TANH)
    {
        return "activation: silu and gelu_tanh are supported";
    }
    if (p.hidden % 32 != 0 || p.rows % 8 != 0 || p.group_size % 32 != 0)
    {
        return "hidden and group_size: multiples of 32 are supported; rows: multiples of 8";
    }
    // Limits of a grid's dimensions.
    if (p.hidden > (1 << 17) || p.rows > (1 << 17) || tokens(p) > (1 << 20))
    {
        return "hidden and rows: at most 2^17 are supported; batch * length: at most 2^20";
    }
    status = FLEXTRON_SUCCESS;
    return nullptr;
}

//! What is wrong with the pointers, or null.
inline char const* checkPointers(FlextronElasticLinear const& p)
{
    bool const usesUp = p.operation != FLEXTRON_ELASTIC_INPUTS;
    bool const usesDown = p.operation != FLEXTRON_ELASTIC_OUTPUTS;
    bool const usesGate = p.operation == FLEXTRON_ELASTIC_FEED_FORWARD;
    struct Weights
    {
        bool mUsed;
        void const* mValues;
        void const* mScales;
        void const* mBias;
    };
    for (Weights const& weights : {Weights{usesGate, p.gate, p.gate_scales, p.gate_bias},
             Weights{usesUp, p.up, p.up_scales, p.up_bias}, Weights{usesDown, p.down, p.down_scales, nullptr}})
    {
        if (!weights.mUsed)
        {
            continue;
        }
        if (!weights.mValues)
        {
            return "the weights of the operation must not be null";
        }
        if (!weights.mScales == (p.group_size > 0))
        {
            return "scales: give them for int8 and int4 weights only";
        }
        for (void const* pointer : {weights.mValues, weights.mScales, weights.mBias})
        {
            if (reinterpret_cast<std::uintptr_t>(pointer) % 16 != 0)
            {
                return "weights, scales and biases must be aligned to 16 bytes";
            }
        }
    }
    for (void const* pointer : {p.input, const_cast<void const*>(p.output), p.addend})
    {
        if (reinterpret_cast<std::uintptr_t>(pointer) % 16 != 0)
        {
            return "input, addend and output must be aligned to 16 bytes";
        }
    }
    if (!p.input || !p.output || !p.active_rows)
    {
        return "input, output and active_rows must not be null";
    }
    return nullptr;
}

//! Of valid sizes.
inline Plan makePlan(FlextronElasticLinear const& p, int multiprocessors, BlockColumns columns, int largeTile)
{
    Plan plan{};
    auto const ceil = [](std::int64_t a, std::int64_t b) { return (a + b - 1) / b; };
    plan.mTiled = p.data_type != FLEXTRON_FLOAT32 && tokens(p) >= kTileMinimumTokens;
    plan.mLarge = tokens(p) >= kLargeTileTokens;
    // A thread holds twice as many columns of quantised weights, so half as many tokens.
    int const most = p.weight_type == FLEXTRON_WEIGHT_AS_DATA ? 8 : 4;
    plan.mTokensPerBlock = 1;
    while (plan.mTokensPerBlock < most && plan.mTokensPerBlock < tokens(p))
    {
        plan.mTokensPerBlock *= 2;
    }
    plan.mParts = 1;
    if (p.operation == FLEXTRON_ELASTIC_FEED_FORWARD)
    {
        plan.mHiddenBytes = static_cast<std::size_t>(ceil(tokens(p) * p.rows * elementBytes(p), 16) * 16);
    }
    plan.mWorkspaceBytes = plan.mHiddenBytes;
    if (p.operation == FLEXTRON_ELASTIC_OUTPUTS)
    {
        return plan;
    }
    // Enough blocks to fill the device, no part shorter than is worth a block. A large tile fills a multiprocessor
    // alone and writes much per part.
    std::int64_t const tile = plan.mLarge ? largeTile : largeTile / 4;
    std::int64_t const blocks = plan.mTiled ? ceil(tokens(p), tile) * ceil(p.hidden, columns.mTile)
                                            : ceil(tokens(p), plan.mTokensPerBlock) * ceil(p.hidden, columns.mVector);
    std::int64_t const wanted = !plan.mTiled ? ceil(kBlocksPerMultiprocessor * multiprocessors, blocks)
                                             : (plan.mLarge ? 1 : 2) * multiprocessors / blocks;
    std::int64_t const parts = std::min({wanted, ceil(p.rows, kMinimumPart), static_cast<std::int64_t>(kMaximumParts)});
    plan.mParts = static_cast<int>(std::max<std::int64_t>(parts, 1));
    if (plan.mParts > 1)
    {
        plan.mWorkspaceBytes += static_cast<std::size_t>(tokens(p)) * plan.mParts * p.hidden * sizeof(float);
    }
    return plan;
}

} // namespace flextron::elastic_linear
