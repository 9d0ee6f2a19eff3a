/*
 * SPDX-License-Identifier: Apache-2.0
 *
 * The TensorRT adapter of every operator: IPluginV3 for TensorRT 10.3 and newer over a node.h. Shapes, types and
 * attributes go in, one call of the C ABI comes out. No method throws; what is refused is logged by name.
 *
 * Outputs that alias inputs need PreviewFeature::kALIASED_PLUGIN_IO_10_03; without it they are buffers of their own, and
 * the inputs are copied in every call.
 */
#pragma once

#include "node.h"

#include <NvInferRuntime.h>
#include <cuda_runtime_api.h>

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <new>
#include <optional>
#include <string_view>
#include <type_traits>

namespace flextron::tensorrt
{

using namespace nvinfer1;

//! Reports through the logger of the engine or builder that called, if there is one.
void logError(char const* plugin, char const* what) noexcept;

inline ElementType elementType(DataType type) noexcept
{
    switch (type)
    {
    case DataType::kFLOAT: return ElementType::kFloat32;
    case DataType::kHALF: return ElementType::kFloat16;
    case DataType::kBF16: return ElementType::kBFloat16;
    case DataType::kINT8: return ElementType::kInt8;
    case DataType::kUINT8: return ElementType::kUint8;
    case DataType::kINT32: return ElementType::kInt32;
    case DataType::kINT64: return ElementType::kInt64;
    default: return ElementType::kOther;
    }
}

inline Tensor tensor(DataType type, Dims const& dims) noexcept
{
    Tensor found{elementType(type), dims.nbDims, {}};
    std::copy_n(dims.d, std::clamp(dims.nbDims, 0, 4), found.size.begin());
    return found;
}

//! Largest shapes of an optimisation profile.
inline Tensor tensor(DynamicPluginTensorDesc const& description) noexcept
{
    return tensor(description.desc.type, description.max);
}

inline Tensor tensor(PluginTensorDesc const& description) noexcept
{
    return tensor(description.type, description.dims);
}

inline std::size_t bytes(Tensor const& x) noexcept
{
    std::size_t count = bytesOf(x.type);
    for (int32_t i = 0; i < std::min(x.rank, 4); ++i)
    {
        count *= static_cast<std::size_t>(x.size[i]);
    }
    return count;
}

//! What a plugin tells the builder; of the newer interface if outputs alias inputs.
template <typename Node, bool = Node::kAliases>
class Build : public IPluginV3OneBuild
{
};

template <typename Node>
class Build<Node, true> : public IPluginV3OneBuildV2
{
public:
    int32_t getAliasedInput(int32_t output) noexcept override
    {
        return Node::aliased(output);
    }
};

template <typename Node>
class Plugin final : public IPluginV3, public IPluginV3OneCore, public Build<Node>, public IPluginV3OneRuntime
{
public:
    //! `multiprocessors`: of the device that built the engine. The workspace was sized for them, so every device splits
    //! as that one did.
    Plugin(Node const& node, int32_t multiprocessors) noexcept
        : mNode{node}
        , mMultiprocessors{multiprocessors}
    {
    }

    // IPluginV3
    IPluginCapability* getCapabilityInterface(PluginCapabilityType type) noexcept override
    {
        using BuildInterface = std::conditional_t<Node::kAliases, IPluginV3OneBuildV2, IPluginV3OneBuild>;
        switch (type)
        {
        case PluginCapabilityType::kCORE: return static_cast<IPluginV3OneCore*>(this);
        case PluginCapabilityType::kBUILD: return static_cast<BuildInterface*>(this);
        case PluginCapabilityType::kRUNTIME: return static_cast<IPluginV3OneRuntime*>(this);
        }
        return nullptr;
    }

    IPluginV3* clone() noexcept override
    {
        return new (std::nothrow) Plugin(mNode, mMultiprocessors);
    }

    // IPluginV3OneCore
    char const* getPluginName() const noexcept override
    {
        return Node::kName;
    }

    char const* getPluginVersion() const noexcept override
    {
        return "1";
    }

    char const* getPluginNamespace() const noexcept override
    {
        return "";
    }

    // IPluginV3OneBuild
    int32_t getNbOutputs() const noexcept override
    {
        return mNode.outputs();
    }

    int32_t getOutputDataTypes(
        DataType* outputs, int32_t outputCount, DataType const* inputs, int32_t inputCount) const noexcept override
    {
        if (!countsFit(inputCount, outputCount))
        {
            return -1;
        }
        for (int32_t i = 0; i < outputCount; ++i)
        {
            outputs[i] = inputs[mNode.output(i).like];
        }
        return 0;
    }

    int32_t getOutputShapes(DimsExprs const* inputs, int32_t inputCount, DimsExprs const* /* shapeInputs */,
        int32_t /* shapeInputCount */, DimsExprs* outputs, int32_t outputCount,
        IExprBuilder& expressions) noexcept override
    {
        if (!countsFit(inputCount, outputCount))
        {
            return -1;
        }
        for (int32_t i = 0; i < outputCount; ++i)
        {
            Output const output = mNode.output(i);
            outputs[i] = inputs[output.like];
            if (output.last < 0)
            {
                continue;
            }
            if (outputs[i].nbDims < 1 || inputs[output.last].nbDims <= output.lastDimension)
            {
                logError(Node::kName, "inputs have too few dimensions");
                return -1;
            }
            IDimensionExpr const* const last = inputs[output.last].d[output.lastDimension];
            outputs[i].d[outputs[i].nbDims - 1] =
                output.times == 1
                    ? last
                    : expressions.operation(DimensionOperation::kPROD, *last, *expressions.constant(output.times));
        }
        return 0;
    }

    bool supportsFormatCombination(int32_t position, DynamicPluginTensorDesc const* tensors, int32_t inputCount,
        int32_t outputCount) noexcept override
    {
        if (!countsFit(inputCount, outputCount) || tensors[position].desc.format != TensorFormat::kLINEAR)
        {
            return false;
        }
        DataType const type = tensors[position].desc.type;
        if (position >= inputCount)
        {
            return type == tensors[mNode.output(position - inputCount).like].desc.type;
        }
        ElementType const data = elementType(tensors[0].desc.type);
        return position == 0 ? isFloat(data) : mNode.accepts(position, elementType(type), data);
    }

    //! Refuses while the engine is built what enqueue would have to refuse later.
    int32_t configurePlugin(DynamicPluginTensorDesc const* in, int32_t inputCount, DynamicPluginTensorDesc const*,
        int32_t outputCount) noexcept override
    {
        auto const largest = sizes(in, inputCount, outputCount);
        return largest && workspaceBytes(*largest) ? 0 : -1;
    }

    //! Enough for every shape up to the largest. A larger batch or length may need less, so all are asked.
    std::size_t getWorkspaceSize(DynamicPluginTensorDesc const* in, int32_t inputCount, DynamicPluginTensorDesc const*,
        int32_t outputCount) const noexcept override
    {
        auto p = sizes(in, inputCount, outputCount);
        if (!p)
        {
            return 0;
        }
        std::size_t most = workspaceBytes(*p).value_or(0);
        constexpr int64_t kFillsEveryDevice = 1 << 17; // tokens: sums of more are never shared out
        auto const [largestBatch, largestLength] = std::array<int32_t, 2>{p->batch, p->length};
        for (p->batch = 1; p->batch <= largestBatch; ++p->batch)
        {
            auto const longest =
                static_cast<int32_t>(std::min<int64_t>(largestLength, kFillsEveryDevice / p->batch + 1));
            for (p->length = 1; p->length <= longest; ++p->length)
            {
                most = std::max(most, workspaceBytes(*p).value_or(0));
            }
        }
        return most;
    }

    char const* getTimingCacheID() noexcept override
    {
        // Shapes and types are in the key already.
        char* at = mTimingCacheId.data();
        char* const end = at + mTimingCacheId.size();
        for (auto const& attribute : Node::attributes())
        {
            if (attribute.integer != nullptr && at < end)
            {
                at += std::snprintf(at, static_cast<std::size_t>(end - at), "%s=%d ", attribute.name,
                    static_cast<int>(mNode.*attribute.integer));
            }
        }
        return mTimingCacheId.data();
    }

    // IPluginV3OneRuntime
    int32_t onShapeChange(
        PluginTensorDesc const* in, int32_t inputCount, PluginTensorDesc const*, int32_t outputCount) noexcept override
    {
        auto const p = sizes(in, inputCount, outputCount);
        return p && workspaceBytes(*p) ? 0 : -1;
    }

    int32_t enqueue(PluginTensorDesc const* in, PluginTensorDesc const*, void const* const* inputs,
        void* const* outputs, void* workspace, cudaStream_t stream) noexcept override
    {
        auto p = sizes(in, mNode.inputs(), mNode.outputs());
        auto const needed = p ? workspaceBytes(*p) : std::nullopt;
        if (!needed)
        {
            return -1;
        }
        for (int32_t i = 0; i < mNode.outputs(); ++i)
        {
            int32_t const aliased = Node::aliased(i);
            if (aliased >= 0 && inputs[aliased] != outputs[i] // not aliased after all: the output starts as a copy
                && cudaMemcpyAsync(
                       outputs[i], inputs[aliased], bytes(tensor(in[aliased])), cudaMemcpyDeviceToDevice, stream)
                       != cudaSuccess)
            {
                logError(Node::kName, "an input that is updated in place could not be copied");
                return -1;
            }
        }
        mNode.bind(inputs, outputs, *p);
        char const* reason = nullptr;
        if (Node::run(&*p, workspace, *needed, stream, &reason) != FLEXTRON_SUCCESS)
        {
            logError(Node::kName, reason);
            return -1;
        }
        return 0;
    }

    IPluginV3* attachToContext(IPluginResourceContext* /* context */) noexcept override
    {
        return clone();
    }

    PluginFieldCollection const* getFieldsToSerialize() noexcept override
    {
        int32_t count = 0;
        for (auto const& attribute : Node::attributes())
        {
            PluginField& field = mFields[count++];
            if (attribute.number != nullptr)
            {
                field = {attribute.name, &(mNode.*attribute.number), PluginFieldType::kFLOAT32, 1};
            }
            else if (attribute.words[0] == nullptr)
            {
                field = {attribute.name, &(mNode.*attribute.integer), PluginFieldType::kINT32, 1};
            }
            else
            {
                std::string_view const text{attribute.words[mNode.*attribute.integer]};
                field = {attribute.name, text.data(), PluginFieldType::kCHAR, static_cast<int32_t>(text.size())};
            }
        }
        mFields[count++] = {"multiprocessors", &mMultiprocessors, PluginFieldType::kINT32, 1};
        mCollection = {count, mFields.data()};
        return &mCollection;
    }

private:
    bool countsFit(int32_t inputs, int32_t outputs) const noexcept
    {
        bool const fit = inputs == mNode.inputs() && outputs == mNode.outputs();
        if (!fit)
        {
            logError(Node::kName, "the number of inputs and outputs must be what the attributes say");
        }
        return fit;
    }

    //! The sizes of a call, or nothing if the shapes do not belong together; the reason is logged.
    template <typename Description>
    std::optional<typename Node::Parameters> sizes(
        Description const* in, int32_t inputs, int32_t outputs) const noexcept
    {
        if (!countsFit(inputs, outputs))
        {
            return std::nullopt;
        }
        std::array<Tensor, Node::kMostInputs> tensors{};
        for (int32_t i = 0; i < inputs; ++i)
        {
            tensors[i] = tensor(in[i]);
        }
        typename Node::Parameters p{};
        p.size = sizeof(p);
        p.multiprocessors = mMultiprocessors;
        char const* const reason = mNode.sizes(tensors.data(), p);
        if (reason != nullptr)
        {
            logError(Node::kName, reason);
            return std::nullopt;
        }
        return p;
    }

    //! Nothing if the sizes are refused; the reason is logged.
    static std::optional<std::size_t> workspaceBytes(typename Node::Parameters const& p) noexcept
    {
        std::size_t needed = 0;
        char const* reason = nullptr;
        if (Node::workspace(&p, &needed, &reason) != FLEXTRON_SUCCESS)
        {
            logError(Node::kName, reason);
            return std::nullopt;
        }
        return needed;
    }

    Node mNode;
    int32_t mMultiprocessors;
    std::array<PluginField, Node::attributes().size() + 1> mFields{};
    PluginFieldCollection mCollection{};
    std::array<char, 96> mTimingCacheId{};
};

//! Reads an attribute of one value; false if it has another type.
template <typename T>
bool readField(PluginField const& field, PluginFieldType type, T& value) noexcept
{
    if (field.type != type || field.length != 1 || field.data == nullptr)
    {
        return false;
    }
    value = *static_cast<T const*>(field.data);
    return true;
}

//! Reads one of two words.
inline bool readWord(PluginField const& field, std::array<char const*, 2> const& words, int32_t& index) noexcept
{
    if (field.type != PluginFieldType::kCHAR || field.data == nullptr || field.length < 0)
    {
        return false;
    }
    std::string_view text{static_cast<char const*>(field.data), static_cast<std::size_t>(field.length)};
    while (!text.empty() && text.back() == '\0')
    {
        text.remove_suffix(1);
    }
    index = text == words[0] ? 0 : 1;
    return text == words[index];
}

//! Multiprocessors of the current device; nothing, and a log entry, if there is none.
inline std::optional<int32_t> deviceMultiprocessors(char const* plugin) noexcept
{
    int device = 0;
    int count = 0;
    if (cudaGetDevice(&device) != cudaSuccess
        || cudaDeviceGetAttribute(&count, cudaDevAttrMultiProcessorCount, device) != cudaSuccess)
    {
        logError(plugin, "there is no CUDA device");
        return std::nullopt;
    }
    return count;
}

template <typename Node>
class Creator final : public IPluginCreatorV3One
{
public:
    Creator() noexcept
    {
        int32_t count = 0;
        for (auto const& attribute : Node::attributes())
        {
            PluginFieldType const type = attribute.number != nullptr     ? PluginFieldType::kFLOAT32
                                         : attribute.words[0] == nullptr ? PluginFieldType::kINT32
                                                                         : PluginFieldType::kCHAR;
            mFields[count++] = {attribute.name, nullptr, type, 1};
        }
    }

    IPluginV3* createPlugin(
        char const* /* name */, PluginFieldCollection const* fields, TensorRTPhase /* phase */) noexcept override
    {
        Node node;
        int32_t multiprocessors = 0;
        for (int32_t i = 0; fields != nullptr && i < fields->nbFields; ++i)
        {
            if (!read(fields->fields[i], node, multiprocessors))
            {
                std::array<char, 128> what{};
                std::snprintf(what.data(), what.size(), "attribute %s is unknown or has an unsupported type or value",
                    fields->fields[i].name);
                logError(Node::kName, what.data());
                return nullptr;
            }
        }
        char const* const reason = node.check();
        if (reason != nullptr)
        {
            logError(Node::kName, reason);
            return nullptr;
        }
        if (multiprocessors == 0) // a new node, not one from an engine
        {
            auto const count = deviceMultiprocessors(Node::kName);
            if (!count)
            {
                return nullptr;
            }
            multiprocessors = *count;
        }
        return new (std::nothrow) Plugin<Node>(node, multiprocessors);
    }

    PluginFieldCollection const* getFieldNames() noexcept override
    {
        return &mCollection;
    }

    char const* getPluginName() const noexcept override
    {
        return Node::kName;
    }

    char const* getPluginVersion() const noexcept override
    {
        return "1";
    }

    char const* getPluginNamespace() const noexcept override
    {
        return "";
    }

private:
    static bool read(PluginField const& field, Node& node, int32_t& multiprocessors) noexcept
    {
        std::string_view const name{field.name};
        if (name == "multiprocessors")
        {
            return readField(field, PluginFieldType::kINT32, multiprocessors);
        }
        for (auto const& attribute : Node::attributes())
        {
            if (name != attribute.name)
            {
                continue;
            }
            if (attribute.number != nullptr)
            {
                return readField(field, PluginFieldType::kFLOAT32, node.*attribute.number);
            }
            int32_t& value = node.*attribute.integer;
            return attribute.words[0] != nullptr ? readWord(field, attribute.words, value)
                                                 : readField(field, PluginFieldType::kINT32, value);
        }
        return false;
    }

    // What the ONNX parser reads from a node; `multiprocessors` is not an attribute of the graph.
    std::array<PluginField, Node::attributes().size()> mFields{};
    PluginFieldCollection mCollection{static_cast<int32_t>(mFields.size()), mFields.data()};
};

} // namespace flextron::tensorrt
