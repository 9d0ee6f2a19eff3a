/*
 * SPDX-License-Identifier: Apache-2.0
 *
 * What all kernels of HeadSubsetAttention share: which slots a token sees, rotated queries and keys. One call runs, in
 * order on one stream:
 *
 *   writeKernel    (write.cuh) rotates the new keys, writes keys and values of all groups into the cache
 *   tokenKernel    (token.cuh) few tokens per sequence: one block per token, group and part of the sequence
 *   combineKernel  joins the parts, if there is more than one
 * or
 *   tileKernel     (tile.cuh) many tokens per sequence: one block per 64 (token, query head) rows of a group
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

} // namespace flextron::head_subset_attention
