/*
 * SPDX-License-Identifier: Apache-2.0
 *
 * A node of a graph as inference engines describe it, without any engine. Each operator says in its node.h how
 * attributes, types and shapes become the parameter struct of its C ABI; tensorrt.h and onnxruntime.h turn that into
 * the plugin of an engine. Nothing here throws.
 *
 * A Node is an aggregate of its attributes, int32_t or float, with
 *   Parameters                    the parameter struct of the C ABI
 *   kName, attributes()           of the operator and its attributes
 *   kAliases                      whether an output is an input that is updated in place
 *   check()                       what is wrong with the attributes, or null
 *   inputs(), outputs()           how many
 *   kMostInputs, kMostOutputs     with any attributes
 *   type(i, data)                 of input i where that of input 0 is `data`; kOther if it depends on the attributes
 *   accepts(i, type, data)        whether input i may have this type where that of input 0 is `data`
 *   output(i)                     type and shape of an output
 *   aliased(i)                    the input that output i is, or -1
 *   sizes(tensors, p)             fills the sizes from the inputs; what is wrong with their shapes, or null
 *   bind(inputs, outputs, p)      fills the pointers; aliased inputs come from `outputs`
 *   workspace, run                the functions of the C ABI
 */
#pragma once

#include "status.h"

#include <array>
#include <cstddef>
#include <cstdint>
#include <initializer_list>

namespace flextron
{

enum class ElementType
{
    kFloat32,
    kFloat16,
    kBFloat16,
    kInt8,
    kUint8,
    kInt32,
    kInt64,
    kOther
};

constexpr std::size_t bytesOf(ElementType type)
{
    switch (type)
    {
    case ElementType::kInt64: return 8;
    case ElementType::kFloat32:
    case ElementType::kInt32: return 4;
    case ElementType::kFloat16:
    case ElementType::kBFloat16: return 2;
    default: return 1;
    }
}

//! The types that kernels compute with.
constexpr bool isFloat(ElementType type)
{
    return type == ElementType::kFloat32 || type == ElementType::kFloat16 || type == ElementType::kBFloat16;
}

constexpr int32_t dataType(ElementType type)
{
    return type == ElementType::kFloat32   ? FLEXTRON_FLOAT32
           : type == ElementType::kFloat16 ? FLEXTRON_FLOAT16
                                           : FLEXTRON_BFLOAT16;
}

struct Tensor
{
    ElementType type;
    int32_t rank;
    std::array<int64_t, 4> size; //!< of tensors of rank 4 or less; more dimensions are not kept

    bool is(std::initializer_list<int64_t> expected) const
    {
        int32_t axis = 0;
        for (int64_t const each : expected)
        {
            if (axis >= rank || size[axis++] != each)
            {
                return false;
            }
        }
        return axis == rank;
    }
};

//! Type of input `like`, and its shape but for the last dimension if `last` is not negative: that is `times` dimension
//! `lastDimension` of input `last`.
struct Output
{
    int32_t like;
    int32_t last{-1};
    int32_t lastDimension{0};
    int32_t times{1};
};

//! A number, or one of two words, whose index is kept.
template <typename Node>
struct Attribute
{
    char const* name;
    int32_t Node::*integer;
    float Node::*number;
    std::array<char const*, 2> words;
};

template <typename Node>
constexpr Attribute<Node> integer(char const* name, int32_t Node::*member)
{
    return {name, member, nullptr, {}};
}

template <typename Node>
constexpr Attribute<Node> number(char const* name, float Node::*member)
{
    return {name, nullptr, member, {}};
}

template <typename Node>
constexpr Attribute<Node> word(char const* name, int32_t Node::*member, char const* first, char const* second)
{
    return {name, member, nullptr, {first, second}};
}

//! Elements between the sequences and between the tokens of a number that each token has.
struct Strides
{
    int32_t batch;
    int32_t token;
};

//! Of a tensor [batch, length], [batch] or [1]; false if it is none of these.
inline bool broadcast(Tensor const& tensor, int64_t batch, int64_t length, Strides& strides)
{
    if (tensor.rank < 1 || tensor.rank > 2)
    {
        return false;
    }
    bool const perSequence = tensor.size[0] != 1;
    bool const perToken = tensor.rank == 2 && tensor.size[1] != 1;
    if ((perSequence && tensor.size[0] != batch) || (perToken && tensor.size[1] != length))
    {
        return false;
    }
    auto const row = static_cast<int32_t>(tensor.rank == 2 ? tensor.size[1] : 1);
    strides = {perSequence ? row : 0, perToken ? 1 : 0};
    return true;
}

} // namespace flextron
