/*
 * SPDX-License-Identifier: Apache-2.0
 *
 * The nodes ElasticLinear and ElasticFeedForward.
 *
 * Inputs: input, the weights (`weight`, or gate, up, down), active_rows; with `bits` a scales tensor per weight; with
 * `bias` = 1 the bias of `weight`, or of gate and up; with `addend` = 1 the addend.
 */
#pragma once

#include "../common/node.h"
#include "elastic_linear.h"

namespace flextron::elastic_linear
{

//! What both nodes share.
template <bool kFeedForward>
struct Node
{
    int32_t mElastic{0}; //!< of ElasticLinear: 0 outputs, 1 inputs
    int32_t mActivation{FLEXTRON_SILU};
    int32_t mBits{0};
    int32_t mBias{0};
    int32_t mAddend{0};

    using Parameters = FlextronElasticLinear;

    static constexpr char const* kName = kFeedForward ? "ElasticFeedForward" : "ElasticLinear";
    static constexpr bool kAliases = false;
    static constexpr auto* workspace = flextron_elastic_linear_workspace;
    static constexpr auto* run = flextron_elastic_linear_run;

    static constexpr int32_t kWeights = kFeedForward ? 3 : 1;
    static constexpr int32_t kActiveRows = 1 + kWeights;
    static constexpr int32_t kScales = kActiveRows + 1;
    static constexpr int32_t kMostInputs = kScales + kWeights + (kFeedForward ? 3 : 1);
    static constexpr int32_t kMostOutputs = 1;

    static constexpr auto attributes()
    {
        return std::array{kFeedForward ? word("activation", &Node::mActivation, "silu", "gelu_tanh")
                                       : word("elastic", &Node::mElastic, "outputs", "inputs"),
            integer("bits", &Node::mBits), integer("bias", &Node::mBias), integer("addend", &Node::mAddend)};
    }

    bool rowsAreInputs() const
    {
        return !kFeedForward && mElastic == 1;
    }

    int32_t biases() const
    {
        return kScales + (mBits != 0 ? kWeights : 0);
    }

    int32_t addend() const
    {
        return biases() + (mBias != 0 ? (kFeedForward ? 2 : 1) : 0);
    }

    char const* check() const
    {
        if ((mBits != 0 && mBits != 4 && mBits != 8) || mBias < 0 || mBias > 1 || mAddend < 0 || mAddend > 1)
        {
            return "bits must be 0, 4 or 8, bias and addend 0 or 1";
        }
        if (!kFeedForward && (rowsAreInputs() ? mBias : mAddend) != 0)
        {
            return "outputs take a bias and no addend, inputs an addend and no bias";
        }
        return nullptr;
    }

    int32_t inputs() const
    {
        return addend() + mAddend;
    }

    int32_t outputs() const
    {
        return 1;
    }

    static ElementType type(int32_t input, ElementType data)
    {
        if (input == kActiveRows)
        {
            return ElementType::kInt32;
        }
        return input >= 1 && input <= kWeights ? ElementType::kOther : data;
    }

    bool accepts(int32_t input, ElementType given, ElementType data) const
    {
        if (input >= 1 && input <= kWeights)
        {
            return mBits == 0 ? given == data
                              : given == ElementType::kInt8 || (mBits == 4 && given == ElementType::kUint8);
        }
        return given == type(input, data);
    }

    static int32_t aliased(int32_t /* output */)
    {
        return -1;
    }

    Output output(int32_t /* output */) const
    {
        if (kFeedForward)
        {
            return {0};
        }
        return rowsAreInputs() ? Output{0, 1, 1, mBits == 4 ? 2 : 1} : Output{0, 1, 0};
    }

    char const* sizes(Tensor const* in, Parameters& p) const
    {
        if (in[0].rank != 3)
        {
            return "input must have 3 dimensions";
        }
        int64_t const batch = in[0].size[0];
        int64_t const length = in[0].size[1];
        int64_t const rows = in[1].size[0];
        int64_t const stored = in[1].size[1];
        int64_t const hidden = stored * (mBits == 4 ? 2 : 1);
        for (int32_t i = 1; i <= kWeights; ++i)
        {
            if (!in[i].is({rows, stored}))
            {
                return "weights must have 2 dimensions, the same for all";
            }
        }
        if (in[0].size[2] != (rowsAreInputs() ? rows : hidden))
        {
            return "the last dimension of input must be that of a weight row, or of a column where rows are inputs";
        }
        Strides strides{};
        if (!broadcast(in[kActiveRows], batch, length, strides))
        {
            return "active_rows must be [B, S], [B] or [1]";
        }
        if (mBits != 0)
        {
            // Of the first matrix follows how many inputs share a scale.
            int64_t const inputs = rowsAreInputs() ? rows : hidden;
            int64_t const groups = in[kScales].size[rowsAreInputs() ? 0 : 1];
            int64_t const group = groups > 0 && inputs % groups == 0 ? inputs / groups : 0;
            for (int32_t i = 0; i < kWeights; ++i)
            {
                Tensor const& each = in[kScales + i];
                bool const down = rowsAreInputs() || i == 2;
                if (group == 0 || !(down ? each.is({rows / group, hidden}) : each.is({rows, hidden / group})))
                {
                    return "scales must be [rows, hidden / group], of down [rows / group, hidden], one group for all";
                }
            }
            p.group_size = static_cast<int32_t>(group);
        }
        for (int32_t i = biases(); i < addend(); ++i)
        {
            if (!in[i].is({rows}))
            {
                return "biases must be [rows]";
            }
        }
        if (mAddend != 0)
        {
            bool const perToken = in[addend()].is({batch, length, hidden});
            if (!perToken && !in[addend()].is({hidden}))
            {
                return "addend must be [B, S, hidden] or [hidden]";
            }
            p.addend_token_stride = perToken ? static_cast<int32_t>(hidden) : 0;
        }
        p.operation = kFeedForward      ? FLEXTRON_ELASTIC_FEED_FORWARD
                      : rowsAreInputs() ? FLEXTRON_ELASTIC_INPUTS
                                        : FLEXTRON_ELASTIC_OUTPUTS;
        p.data_type = dataType(in[0].type);
        p.weight_type = mBits == 0   ? FLEXTRON_WEIGHT_AS_DATA
                        : mBits == 8 ? FLEXTRON_WEIGHT_INT8
                                     : FLEXTRON_WEIGHT_INT4;
        p.batch = static_cast<int32_t>(batch);
        p.length = static_cast<int32_t>(length);
        p.hidden = static_cast<int32_t>(hidden);
        p.rows = static_cast<int32_t>(rows);
        p.activation = mActivation;
        p.active_rows_batch_stride = strides.batch;
        p.active_rows_token_stride = strides.token;
        return nullptr;
    }

    void bind(void const* const* inputs, void* const* outputs, Parameters& p) const
    {
        p.input = inputs[0];
        p.active_rows = static_cast<int32_t const*>(inputs[kActiveRows]);
        std::array<void const**, 3> weights{&p.gate, &p.up, &p.down};
        std::array<void const**, 3> scales{&p.gate_scales, &p.up_scales, &p.down_scales};
        int32_t const first = kFeedForward ? 0 : rowsAreInputs() ? 2 : 1; // of them
        for (int32_t i = 0; i < kWeights; ++i)
        {
            *weights[first + i] = inputs[1 + i];
            *scales[first + i] = mBits != 0 ? inputs[kScales + i] : nullptr;
        }
        if (mBias != 0)
        {
            p.gate_bias = kFeedForward ? inputs[biases()] : nullptr;
            p.up_bias = inputs[addend() - 1];
        }
        p.addend = mAddend != 0 ? inputs[addend()] : nullptr;
        p.output = outputs[0];
    }
};

using LinearNode = Node<false>;
using FeedForwardNode = Node<true>;

} // namespace flextron::elastic_linear
