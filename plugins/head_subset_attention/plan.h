/*
 * SPDX-License-Identifier: Apache-2.0
 *
 * Decisions of the launcher that need no device: whether the arguments are valid, which kernel runs, how far decode is
 * split, how much workspace that takes.
 */
#pragma once

#include "head_subset_attention.h"

#include <algorithm>
#include <cstddef>
#include <cstdint>

namespace flextron::head_subset_attention
{

constexpr int kTileMinimumLength = 16; //!< tokens per sequence from which on tileKernel wastes little
constexpr int kMaximumParts = 64;
constexpr int kBlocksPerMultiprocessor = 4;

struct Plan
{
    bool mTiled;           //!< tileKernel instead of tokenKernel
    int mHeadsPerBlock;    //!< of tokenKernel: 1, 2, 4 or 8
    int mParts;            //!< of tokenKernel: blocks that share a sequence
    std::size_t mSumBytes; //!< of Partials::mSums, at the start of the workspace
    std::size_t mWorkspaceBytes;
};

//! What is wrong with the sizes, or null.
inline char const* checkSizes(FlextronHeadSubsetAttention const& p, FlextronStatus& status)
{
    status = FLEXTRON_INVALID_ARGUMENT;
    if (p.size != sizeof(FlextronHeadSubsetAttention))
    {
        return "size: not that of this library's parameter struct";
    }
    if (p.batch < 1 || p.length < 1 || p.groups < 1 || p.heads_per_group < 1 || p.capacity < 1)
    {
        return "batch, length, groups, heads_per_group and capacity must be positive";
    }
    if (p.window < 0 || p.multiprocessors < 0)
    {
        return "window and multiprocessors must not be negative";
    }
    status = FLEXTRON_UNSUPPORTED;
    if (p.data_type != FLEXTRON_FLOAT32 && p.data_type != FLEXTRON_FLOAT16 && p.data_type != FLEXTRON_BFLOAT16)
    {
        return "data_type: float32, float16 and bfloat16 are supported";
    }
    if (p.head_dim != 64 && p.head_dim != 96 && p.head_dim != 128 && p.head_dim != 256)
    {
        return "head_dim: 64, 96, 128 and 256 are supported";
    }
    // Limits of a grid's dimensions and of 32-bit row numbers.
    constexpr std::int64_t kLargestGrid = 65535;
    std::int64_t const tokens = static_cast<std::int64_t>(p.batch) * p.length;
    if (p.batch > kLargestGrid || static_cast<std::int64_t>(p.groups) * p.heads_per_group > kLargestGrid)
    {
        return "batch and heads: at most 65535 are supported";
    }
    if (tokens * p.heads_per_group > (1 << 24) || p.capacity > (1 << 24))
    {
        return "batch * length * heads_per_group and capacity: at most 2^24 are supported";
    }
    status = FLEXTRON_SUCCESS;
    return nullptr;
}

//! What is wrong with the pointers, or null.
inline char const* checkPointers(FlextronHeadSubsetAttention const& p)
{
    for (void const* pointer : {p.query, p.key, p.value, const_cast<void const*>(p.key_cache),
             const_cast<void const*>(p.value_cache), const_cast<void const*>(p.output), p.cosine, p.sine})
    {
        if (reinterpret_cast<std::uintptr_t>(pointer) % 16 != 0)
        {
            return "query, key, value, cosine, sine, caches and output must be aligned to 16 bytes";
        }
    }
    if (!p.query || !p.key || !p.value || !p.key_cache || !p.value_cache || !p.output)
    {
        return "query, key, value, key_cache, value_cache and output must not be null";
    }
    if (!p.positions || !p.write || !p.active_groups)
    {
        return "positions, write and active_groups must not be null";
    }
    if (!p.cosine != !p.sine)
    {
        return "cosine and sine: give both or neither";
    }
    return nullptr;
}

//! Of valid sizes.
inline Plan makePlan(FlextronHeadSubsetAttention const& p, int multiprocessors)
{
    Plan plan{};
    plan.mTiled = p.data_type != FLEXTRON_FLOAT32 && p.length >= kTileMinimumLength;
    plan.mParts = 1;
    if (plan.mTiled)
    {
        return plan;
    }
    plan.mHeadsPerBlock = 1;
    while (plan.mHeadsPerBlock < 8 && plan.mHeadsPerBlock < p.heads_per_group)
    {
        plan.mHeadsPerBlock *= 2;
    }
    // Enough blocks to fill the device even if few groups are active; no part shorter than is worth a block.
    std::int64_t const tokens = static_cast<std::int64_t>(p.batch) * p.length;
    std::int64_t const chunks = (p.heads_per_group + plan.mHeadsPerBlock - 1) / plan.mHeadsPerBlock;
    std::int64_t const blocks = tokens * p.groups * chunks;
    std::int64_t const wanted = static_cast<std::int64_t>(kBlocksPerMultiprocessor) * multiprocessors;
    std::int64_t const longest = p.window > 0 ? std::min(p.window, p.capacity) : p.capacity;
    std::int64_t const parts =
        std::min({(wanted + blocks - 1) / blocks, (longest + 63) / 64, static_cast<std::int64_t>(kMaximumParts)});
    plan.mParts = static_cast<int>(std::max<std::int64_t>(parts, 1));
    if (plan.mParts > 1)
    {
        std::size_t const rows = static_cast<std::size_t>(tokens) * p.groups * p.heads_per_group * plan.mParts;
        plan.mSumBytes = rows * p.head_dim * sizeof(float);
        plan.mWorkspaceBytes = plan.mSumBytes + rows * 2 * sizeof(float);
    }
    return plan;
}

} // namespace flextron::head_subset_attention
