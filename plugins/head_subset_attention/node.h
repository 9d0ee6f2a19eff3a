/*
 * SPDX-License-Identifier: Apache-2.0
 *
 * The node HeadSubsetAttention.
 *
 * Inputs: query, key, value, key_cache, value_cache, positions, write, active_groups, with `rotary` cosine, sine.
 * Outputs: output, key_cache, value_cache.
 */
#pragma once

#include "../common/node.h"
#include "head_subset_attention.h"

namespace flextron::head_subset_attention
{

struct Node
{
    int32_t mWindow{0};
    float mScale{0.0F};
    int32_t mRotary{0};

    using Parameters = FlextronHeadSubsetAttention;

    enum Input : int32_t
    {
        kQuery,
        kKey,
        kValue,
        kKeyCache,
        kValueCache,
        kPositions,
        kWrite,
        kActiveGroups,
        kTables
    };

    static constexpr char const* kName = "HeadSubsetAttention";
    static constexpr bool kAliases = true;
    static constexpr int32_t kMostInputs = kTables + 2;
    static constexpr int32_t kMostOutputs = 3;
    static constexpr auto* workspace = flextron_head_subset_attention_workspace;
    static constexpr auto* run = flextron_head_subset_attention_run;

    static constexpr auto attributes()
    {
        return std::array{
            integer("window", &Node::mWindow), number("scale", &Node::mScale), integer("rotary", &Node::mRotary)};
    }

    char const* check() const
    {
        return mWindow < 0 || mRotary < 0 || mRotary > 1 ? "window must not be negative and rotary must be 0 or 1"
                                                         : nullptr;
    }

    int32_t inputs() const
    {
        return kTables + 2 * mRotary;
    }

    int32_t outputs() const
    {
        return 3;
    }

    static ElementType type(int32_t input, ElementType data)
    {
        switch (input)
        {
        case kPositions:
        case kWrite: return ElementType::kInt64;
        case kActiveGroups: return ElementType::kInt32;
        default: return data;
        }
    }

    bool accepts(int32_t input, ElementType given, ElementType data) const
    {
        return given == type(input, data);
    }

    static int32_t aliased(int32_t output)
    {
        return output == 0 ? -1 : kKeyCache + output - 1;
    }

    Output output(int32_t output) const
    {
        return {output == 0 ? kQuery : aliased(output)};
    }

    char const* sizes(Tensor const* in, Parameters& p) const
    {
        Tensor const& query = in[kQuery];
        int64_t const batch = query.size[0];
        int64_t const length = query.size[1];
        int64_t const heads = query.size[2];
        int64_t const headDim = query.size[3];
        int64_t const groups = in[kKey].size[2];
        int64_t const capacity = in[kKeyCache].size[2];
        if (query.rank != 4 || in[kKey].rank != 4 || in[kKeyCache].rank != 4 || groups < 1 || heads % groups != 0
            || !in[kKey].is({batch, length, groups, headDim}) || !in[kValue].is({batch, length, groups, headDim})
            || !in[kKeyCache].is({batch, groups, capacity, headDim})
            || !in[kValueCache].is({batch, groups, capacity, headDim}))
        {
            return "shapes must be query [B, S, H, D], key and value [B, S, G, D], caches [B, G, C, D], H a multiple of G";
        }
        if (!in[kPositions].is({batch, length}) || !in[kWrite].is({batch}))
        {
            return "positions must be [B, S] and write [B]";
        }
        if (mRotary != 0
            && (!in[kTables].is({batch, length, headDim / 2}) || !in[kTables + 1].is({batch, length, headDim / 2})))
        {
            return "cosine and sine must be [B, S, D / 2]";
        }
        Strides strides{};
        if (!broadcast(in[kActiveGroups], batch, length, strides))
        {
            return "active_groups must be [B, S], [B] or [1]";
        }
        p.data_type = dataType(query.type);
        p.batch = static_cast<int32_t>(batch);
        p.length = static_cast<int32_t>(length);
        p.groups = static_cast<int32_t>(groups);
        p.heads_per_group = static_cast<int32_t>(heads / groups);
        p.head_dim = static_cast<int32_t>(headDim);
        p.capacity = static_cast<int32_t>(capacity);
        p.window = mWindow;
        p.scale = mScale;
        p.active_groups_batch_stride = strides.batch;
        p.active_groups_token_stride = strides.token;
        return nullptr;
    }

    void bind(void const* const* inputs, void* const* outputs, Parameters& p) const
    {
        p.query = inputs[kQuery];
        p.key = inputs[kKey];
        p.value = inputs[kValue];
        p.positions = static_cast<int64_t const*>(inputs[kPositions]);
        p.write = static_cast<int64_t const*>(inputs[kWrite]);
        p.active_groups = static_cast<int32_t const*>(inputs[kActiveGroups]);
        p.cosine = mRotary != 0 ? inputs[kTables] : nullptr;
        p.sine = mRotary != 0 ? inputs[kTables + 1] : nullptr;
        p.output = outputs[0];
        p.key_cache = outputs[1];
        p.value_cache = outputs[2];
    }
};

} // namespace flextron::head_subset_attention
