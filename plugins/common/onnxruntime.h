/*
 * SPDX-License-Identifier: Apache-2.0
 *
 * The ONNX Runtime adapter of every operator: a custom op over a node.h. Attributes and types are checked when the
 * session is created, shapes in every call; what is refused is an error of ONNX Runtime that names the operator.
 *
 * A Device runs operators: `kProvider` is the execution provider that a node must be assigned to, `copy` copies an
 * input that is updated in place to an output that is a buffer of its own, `run` computes.
 */
#pragma once

#include "node.h"

#define ORT_API_MANUAL_INIT
#include <onnxruntime_cxx_api.h>
#undef ORT_API_MANUAL_INIT

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <stdexcept>
#include <string>
#include <vector>

namespace flextron::onnxruntime
{

constexpr ONNXTensorElementDataType tensorType(ElementType type)
{
    switch (type)
    {
    case ElementType::kFloat32: return ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT;
    case ElementType::kFloat16: return ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT16;
    case ElementType::kBFloat16: return ONNX_TENSOR_ELEMENT_DATA_TYPE_BFLOAT16;
    case ElementType::kInt8: return ONNX_TENSOR_ELEMENT_DATA_TYPE_INT8;
    case ElementType::kUint8: return ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT8;
    case ElementType::kInt32: return ONNX_TENSOR_ELEMENT_DATA_TYPE_INT32;
    case ElementType::kInt64: return ONNX_TENSOR_ELEMENT_DATA_TYPE_INT64;
    case ElementType::kOther: break;
    }
    return ONNX_TENSOR_ELEMENT_DATA_TYPE_UNDEFINED;
}

inline ElementType elementType(ONNXTensorElementDataType type)
{
    for (auto const each : {ElementType::kFloat32, ElementType::kFloat16, ElementType::kBFloat16, ElementType::kInt8,
             ElementType::kUint8, ElementType::kInt32, ElementType::kInt64})
    {
        if (tensorType(each) == type)
        {
            return each;
        }
    }
    return ElementType::kOther;
}

//! Calls a function and turns what it throws into an error of ONNX Runtime.
template <typename Call>
OrtStatusPtr guarded(char const* name, Call const& call) noexcept
{
    std::array<char, 512> text{};
    try
    {
        call();
        return nullptr;
    }
    catch (std::exception const& error)
    {
        std::snprintf(text.data(), text.size(), "%s: %s", name, error.what());
    }
    catch (...)
    {
        std::snprintf(text.data(), text.size(), "%s: unknown error", name);
    }
    return Ort::GetApi().CreateStatus(ORT_FAIL, text.data());
}

//! The attributes of a node; those that are absent keep their default.
template <typename Node>
Node readNode(Ort::ConstKernelInfo const& info)
{
    Node node;
    auto const found = [](Ort::Status const& status, char const* name)
    {
        if (status.IsOK())
        {
            return true;
        }
        if (status.GetErrorMessage().find("No attribute") != std::string::npos)
        {
            return false;
        }
        throw std::invalid_argument{std::string{"attribute "} + name + " has an unsupported type"};
    };
    OrtApi const& api = Ort::GetApi();
    for (auto const& attribute : Node::attributes())
    {
        if (attribute.number != nullptr)
        {
            float value = 0.0F;
            if (found(Ort::Status{api.KernelInfoGetAttribute_float(info, attribute.name, &value)}, attribute.name))
            {
                node.*attribute.number = value;
            }
        }
        else if (attribute.words[0] == nullptr)
        {
            int64_t value = 0;
            if (found(Ort::Status{api.KernelInfoGetAttribute_int64(info, attribute.name, &value)}, attribute.name))
            {
                node.*attribute.integer = static_cast<int32_t>(std::clamp<int64_t>(value, INT32_MIN, INT32_MAX));
            }
        }
        else
        {
            std::array<char, 32> text{};
            std::size_t size = text.size();
            if (found(
                    Ort::Status{api.KernelInfoGetAttribute_string(info, attribute.name, text.data(), &size)},
                    attribute.name))
            {
                bool const second = std::strcmp(text.data(), attribute.words[1]) == 0;
                if (!second && std::strcmp(text.data(), attribute.words[0]) != 0)
                {
                    throw std::invalid_argument{std::string{"attribute "} + attribute.name + " must be "
                                                + attribute.words[0] + " or " + attribute.words[1]};
                }
                node.*attribute.integer = second ? 1 : 0;
            }
        }
    }
    return node;
}

inline void require(char const* reason)
{
    if (reason != nullptr)
    {
        throw std::invalid_argument{reason};
    }
}

template <typename Node, typename Device>
class Kernel
{
public:
    explicit Kernel(Ort::ConstKernelInfo const& info)
        : mNode{readNode<Node>(info)}
    {
        require(mNode.check());
        auto const inputs = static_cast<int32_t>(info.GetInputCount());
        if (inputs != mNode.inputs() || static_cast<int32_t>(info.GetOutputCount()) != mNode.outputs())
        {
            throw std::invalid_argument{"the number of inputs and outputs must be what the attributes say"};
        }
        ElementType data{};
        for (int32_t i = 0; i < inputs; ++i)
        {
            ElementType const type = elementType(info.GetInputTypeInfo(i).GetTensorTypeAndShapeInfo().GetElementType());
            data = i == 0 ? type : data;
            if (i == 0 ? !isFloat(type) : !mNode.accepts(i, type, data))
            {
                throw std::invalid_argument{"input " + std::to_string(i) + " has a type that is not supported"};
            }
        }
    }

    OrtStatusPtr ComputeV2(OrtKernelContext* context) noexcept
    {
        return guarded(Node::kName, [&] { compute(Ort::KernelContext{context}); });
    }

private:
    void compute(Ort::KernelContext const& context) const
    {
        std::array<Tensor, Node::kMostInputs> tensors{};
        std::array<std::size_t, Node::kMostInputs> elements{};
        std::array<void const*, Node::kMostInputs> inputs{};
        std::vector<std::vector<int64_t>> shapes;
        for (int32_t i = 0; i < mNode.inputs(); ++i)
        {
            Ort::ConstValue const value = context.GetInput(static_cast<std::size_t>(i));
            auto const info = value.GetTensorTypeAndShapeInfo();
            shapes.push_back(info.GetShape());
            tensors[i] = {elementType(info.GetElementType()), static_cast<int32_t>(shapes[i].size()), {}};
            std::copy_n(shapes[i].begin(), std::min<std::size_t>(shapes[i].size(), 4), tensors[i].size.begin());
            elements[i] = info.GetElementCount();
            inputs[i] = value.GetTensorRawData();
        }
        typename Node::Parameters p{};
        p.size = sizeof(p);
        require(mNode.sizes(tensors.data(), p));

        std::array<void*, Node::kMostOutputs> outputs{};
        for (int32_t i = 0; i < mNode.outputs(); ++i)
        {
            Output const output = mNode.output(i);
            std::vector<int64_t> shape = shapes[output.like];
            if (output.last >= 0)
            {
                shape.back() = shapes[output.last][output.lastDimension] * output.times;
            }
            outputs[i] = context.GetOutput(static_cast<std::size_t>(i), shape).GetTensorMutableRawData();
            int32_t const aliased = Node::aliased(i);
            if (aliased >= 0 && inputs[aliased] != outputs[i])
            {
                Device::copy(context, outputs[i], inputs[aliased], elements[aliased] * bytesOf(tensors[aliased].type));
            }
        }
        if (elements[0] == 0)
        {
            return;
        }
        mNode.bind(inputs.data(), outputs.data(), p);
        Device::template run<Node>(context, p);
    }

    Node mNode;
};

//! For one type of data: ONNX Runtime joins those of one name.
template <typename Node, typename Device, ElementType kData>
struct CustomOp : Ort::CustomOpBase<CustomOp<Node, Device, kData>, Kernel<Node, Device>, true>
{
    CustomOp()
    {
        if constexpr (Node::kAliases)
        {
            // An input that is updated in place may lend its buffer to the output.
            this->GetMayInplace = [](int** inputs, int** outputs) -> std::size_t
            {
                static std::array<std::array<int, Node::kMostOutputs>, 2> pairs{};
                std::size_t count = 0;
                for (int i = 0; i < Node::kMostOutputs; ++i)
                {
                    if (Node::aliased(i) >= 0)
                    {
                        pairs[0][count] = Node::aliased(i);
                        pairs[1][count++] = i;
                    }
                }
                *inputs = pairs[0].data();
                *outputs = pairs[1].data();
                return count;
            };
            this->ReleaseMayInplace = [](int*, int*) {};
        }
    }

    OrtStatusPtr CreateKernelV2(OrtApi const&, OrtKernelInfo const* info, void** kernel) const
    {
        return guarded(Node::kName, [&] { *kernel = new Kernel<Node, Device>{Ort::ConstKernelInfo{info}}; });
    }

    char const* GetName() const
    {
        return Node::kName;
    }

    char const* GetExecutionProviderType() const
    {
        return Device::kProvider;
    }

    // How many inputs there are follows from the attributes: the kernel checks it, and types that are not fixed.
    std::size_t GetInputTypeCount() const
    {
        return Node::kMostInputs;
    }

    ONNXTensorElementDataType GetInputType(std::size_t i) const
    {
        return tensorType(Node::type(static_cast<int32_t>(i), kData));
    }

    OrtCustomOpInputOutputCharacteristic GetInputCharacteristic(std::size_t i) const
    {
        return static_cast<int32_t>(i) < Node{}.inputs() ? INPUT_OUTPUT_REQUIRED : INPUT_OUTPUT_OPTIONAL;
    }

    std::size_t GetOutputTypeCount() const
    {
        return Node::kMostOutputs;
    }

    ONNXTensorElementDataType GetOutputType(std::size_t i) const
    {
        return GetInputType(Node{}.output(static_cast<int32_t>(i)).like);
    }

    OrtCustomOpInputOutputCharacteristic GetOutputCharacteristic(std::size_t i) const
    {
        return static_cast<int32_t>(i) < Node{}.outputs() ? INPUT_OUTPUT_REQUIRED : INPUT_OUTPUT_OPTIONAL;
    }
};

} // namespace flextron::onnxruntime
