/*
 * SPDX-License-Identifier: Apache-2.0
 *
 * HeadSubsetAttention on the CPU. One task writes a token's keys and values, then one task for each token and group
 * attends; groups that are not active cost nothing but the zeros of their heads.
 */
#include "cpu.h"

#include "plan.h"

#include <algorithm>
#include <cmath>
#include <cstring>

namespace flextron::cpu
{
namespace
{

using Parameters = FlextronHeadSubsetAttention;

constexpr int kLargestHeadDim = 256;
constexpr int kHeads = 8;  //!< query heads that share a pass over keys and values
constexpr int kSlots = 16; //!< cache slots between two corrections of the largest score

//! A query or key, rotated if there are tables.
template <typename T>
void loadRotated(float* x, T const* head, Parameters const& p, std::int64_t token)
{
    load(x, head, p.head_dim);
    if (p.cosine == nullptr)
    {
        return;
    }
    int const half = p.head_dim / 2;
    auto const* const cosine = static_cast<T const*>(p.cosine) + token * half;
    auto const* const sine = static_cast<T const*>(p.sine) + token * half;
    for (int i = 0; i < half; ++i)
    {
        float const c = toFloat(cosine[i]);
        float const s = toFloat(sine[i]);
        float const low = x[i];
        float const high = x[i + half];
        x[i] = low * c - high * s;
        x[i + half] = high * c + low * s;
    }
}

template <typename T>
void write(Parameters const& p, std::int64_t token)
{
    std::int64_t const sequence = token / p.length;
    std::int64_t const slot = p.write[sequence] + token % p.length;
    if (slot < 0 || slot >= p.capacity)
    {
        return;
    }
    for (int group = 0; group < p.groups; ++group)
    {
        std::int64_t const from = (token * p.groups + group) * p.head_dim;
        std::int64_t const to = ((sequence * p.groups + group) * p.capacity + slot) * p.head_dim;
        float key[kLargestHeadDim];
        loadRotated(key, static_cast<T const*>(p.key) + from, p, token);
        store(static_cast<T*>(p.key_cache) + to, key, p.head_dim);
        std::memcpy(static_cast<T*>(p.value_cache) + to, static_cast<T const*>(p.value) + from,
            static_cast<std::size_t>(p.head_dim) * sizeof(T));
    }
}

//! `heads` query heads of a group attend to the slots from `begin` to below `end`.
template <typename T>
void attend(Parameters const& p, std::int64_t token, int group, int firstHead, int heads, int begin, int end)
{
    int const d = p.head_dim;
    std::int64_t const queryHead = (token * p.groups + group) * p.heads_per_group + firstHead;
    std::int64_t const cache = (token / p.length * p.groups + group) * p.capacity * d;
    float query[kHeads][kLargestHeadDim];
    float sum[kHeads][kLargestHeadDim];
    float largest[kHeads];
    float weights[kHeads] = {};
    float const scale = p.scale != 0.0F ? p.scale : 1.0F / std::sqrt(static_cast<float>(d));
    for (int h = 0; h < heads; ++h)
    {
        loadRotated(query[h], static_cast<T const*>(p.query) + (queryHead + h) * d, p, token);
        std::fill_n(sum[h], d, 0.0F);
        largest[h] = -INFINITY;
    }
    for (int first = begin; first < end; first += kSlots)
    {
        int const slots = std::min(kSlots, end - first);
        float scratch[2][kSlots * kLargestHeadDim];
        std::int64_t const from = cache + static_cast<std::int64_t>(first) * d;
        float const* const keys = asFloat(static_cast<T const*>(p.key_cache) + from, scratch[0], slots * d);
        float const* const values = asFloat(static_cast<T const*>(p.value_cache) + from, scratch[1], slots * d);
        for (int h = 0; h < heads; ++h)
        {
            float const* const rows[] = {query[h]};
            float score[kSlots];
            float top = largest[h];
            for (int s = 0; s < slots; ++s)
            {
                dot1(score + s, rows, keys + s * d, d);
                score[s] *= scale;
                top = std::max(top, score[s]);
            }
            float const shrink = std::exp(largest[h] - top);
            largest[h] = top;
            weights[h] *= shrink;
            for (int i = 0; shrink != 1.0F && i < d; ++i)
            {
                sum[h][i] *= shrink;
            }
            for (int s = 0; s < slots; ++s)
            {
                score[s] = std::exp(score[s] - top);
                weights[h] += score[s];
            }
            int s = 0;
            for (; s + 4 <= slots; s += 4)
            {
                float const* const four[] = {
                    values + s * d, values + (s + 1) * d, values + (s + 2) * d, values + (s + 3) * d};
                addScaled4(sum[h], score + s, four, d);
            }
            for (; s < slots; ++s)
            {
                addScaled(sum[h], score[s], values + s * d, d);
            }
        }
    }
    for (int h = 0; h < heads; ++h)
    {
        for (int i = 0; i < d; ++i)
        {
            sum[h][i] = weights[h] > 0.0F ? sum[h][i] / weights[h] : 0.0F; // zero where nothing is seen
        }
        store(static_cast<T*>(p.output) + (queryHead + h) * d, sum[h], d);
    }
}

template <typename T>
void run(Parameters const& p, Parallel const& parallel)
{
    auto const tokens = static_cast<std::size_t>(p.batch) * static_cast<std::size_t>(p.length);
    auto const groups = static_cast<std::size_t>(p.groups);
    parallel(tokens, [&](std::size_t token) { write<T>(p, static_cast<std::int64_t>(token)); });
    parallel(tokens * groups,
        [&](std::size_t task)
        {
            auto const token = static_cast<std::int64_t>(task / groups);
            auto const group = static_cast<int>(task % groups);
            int const active = p.active_groups[token / p.length * p.active_groups_batch_stride
                                               + token % p.length * p.active_groups_token_stride];
            std::int64_t const position = p.positions[token];
            std::int64_t const end =
                group < active ? std::clamp<std::int64_t>(position + 1, 0, p.capacity) : 0;
            std::int64_t const begin =
                p.window > 0 ? std::clamp<std::int64_t>(position - p.window + 1, 0, end) : 0;
            for (int head = 0; head < p.heads_per_group; head += kHeads)
            {
                attend<T>(p, token, group, head, std::min(kHeads, p.heads_per_group - head), static_cast<int>(begin),
                    static_cast<int>(end));
            }
        });
}

} // namespace

char const* run(Parameters const& p, Parallel const& parallel)
{
    FlextronStatus status = FLEXTRON_SUCCESS;
    char const* reason = head_subset_attention::checkSizes(p, status);
    reason = reason == nullptr ? head_subset_attention::checkPointers(p) : reason;
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
