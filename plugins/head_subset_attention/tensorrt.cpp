/*
 * SPDX-License-Identifier: Apache-2.0
 *
 * TensorRT adapter of HeadSubsetAttention: IPluginV3 with aliased caches, for TensorRT 10.3 and newer. Shapes, types
 * and attributes go in, one call of the C ABI comes out. No method throws; what is refused is logged by name.
 *
 * Inputs: query, key, value, key_cache, value_cache, positions, write, active_groups, with `rotary` cosine, sine.
 * Outputs: output, key_cache, value_cache. The builder needs PreviewFeature::kALIASED_PLUGIN_IO_10_03; without it the
 * outputs are buffers of their own and the caches are copied in every call.
 */
#include "../common/tensorrt.h"
#include "head_subset_attention.h"

#include <algorithm>
#include <array>
#include <cstdio>
#include <new>
#include <optional>
#include <string_view>

namespace flextron::tensorrt
{
namespace
{

using namespace nvinfer1;

constexpr char const* kName = "HeadSubsetAttention";
constexpr char const* kVersion = "1";
constexpr char const* kNamespace = "";

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
    kCosine,
    kSine,
    kInputs
};

enum Output : int32_t
{
    kResult,
    kKeyCacheOut,
    kValueCacheOut,
    kOutputs
};

//! What an engine stores of a node.
struct Attributes
{
    int32_t mWindow{0};
    float mScale{0.0F};
    int32_t mRotary{0};
    //! Of the device that built the engine: the workspace was sized for them, so every device splits as that one did.
    int32_t mMultiprocessors{0};
};

std::size_t bytes(PluginTensorDesc const& tensor)
{
    std::size_t count = tensor.type == DataType::kFLOAT ? 4 : 2;
    for (int32_t i = 0; i < tensor.dims.nbDims; ++i)
    {
        count *= static_cast<std::size_t>(tensor.dims.d[i]);
    }
    return count;
}

//! The sizes of a call, or nothing if the shapes do not belong together; the reason is logged.
std::optional<FlextronHeadSubsetAttention> sizes(
    Attributes const& attributes, DataType type, Dims const* const (&dims)[kActiveGroups + 1])
{
    Dims const& query = *dims[kQuery];
    Dims const& key = *dims[kKey];
    Dims const& cache = *dims[kKeyCache];
    Dims const& active = *dims[kActiveGroups];
    auto const known = dataType(type);
    if (!known)
    {
        logError(kName, "query must be float32, float16 or bfloat16");
        return std::nullopt;
    }
    if (query.nbDims != 4 || key.nbDims != 4 || cache.nbDims != 4)
    {
        logError(kName, "query, key, value and caches must have 4 dimensions");
        return std::nullopt;
    }
    if (key.d[2] < 1 || query.d[2] % key.d[2] != 0 || cache.d[1] != key.d[2] || query.d[3] != key.d[3]
        || cache.d[3] != key.d[3] || cache.d[0] != query.d[0])
    {
        logError(kName, "shapes must be query [B, S, H, D], key [B, S, G, D], cache [B, G, C, D], H a multiple of G");
        return std::nullopt;
    }
    auto const strides = broadcast(active, query.d[0], query.d[1]);
    if (!strides)
    {
        logError(kName, "active_groups must be [B, S], [B] or [1]");
        return std::nullopt;
    }
    FlextronHeadSubsetAttention p{};
    p.size = sizeof(p);
    p.data_type = *known;
    p.batch = static_cast<int32_t>(query.d[0]);
    p.length = static_cast<int32_t>(query.d[1]);
    p.groups = static_cast<int32_t>(key.d[2]);
    p.heads_per_group = static_cast<int32_t>(query.d[2] / key.d[2]);
    p.head_dim = static_cast<int32_t>(query.d[3]);
    p.capacity = static_cast<int32_t>(cache.d[2]);
    p.window = attributes.mWindow;
    p.scale = attributes.mScale;
    p.multiprocessors = attributes.mMultiprocessors;
    p.active_groups_token_stride = strides->mToken;
    p.active_groups_batch_stride = strides->mBatch;
    return p;
}

template <typename Tensors, typename Select>
std::optional<FlextronHeadSubsetAttention> sizes(
    Attributes const& attributes, DataType type, Tensors const* in, Select const& select)
{
    Dims const* dims[kActiveGroups + 1]{};
    for (int32_t i = 0; i <= kActiveGroups; ++i)
    {
        dims[i] = &select(in[i]);
    }
    return sizes(attributes, type, dims);
}

class Plugin final : public IPluginV3, public IPluginV3OneCore, public IPluginV3OneBuildV2, public IPluginV3OneRuntime
{
public:
    explicit Plugin(Attributes const& attributes) noexcept
        : mAttributes{attributes}
    {
    }

    // IPluginV3
    IPluginCapability* getCapabilityInterface(PluginCapabilityType type) noexcept override
    {
        switch (type)
        {
        case PluginCapabilityType::kCORE: return static_cast<IPluginV3OneCore*>(this);
        case PluginCapabilityType::kBUILD: return static_cast<IPluginV3OneBuildV2*>(this);
        case PluginCapabilityType::kRUNTIME: return static_cast<IPluginV3OneRuntime*>(this);
        }
        return nullptr;
    }

    IPluginV3* clone() noexcept override
    {
        return new (std::nothrow) Plugin(mAttributes);
    }

    // IPluginV3OneCore
    char const* getPluginName() const noexcept override
    {
        return kName;
    }

    char const* getPluginVersion() const noexcept override
    {
        return kVersion;
    }

    char const* getPluginNamespace() const noexcept override
    {
        return kNamespace;
    }

    // IPluginV3OneBuildV2
    int32_t getNbOutputs() const noexcept override
    {
        return kOutputs;
    }

    int32_t getAliasedInput(int32_t output) noexcept override
    {
        switch (output)
        {
        case kKeyCacheOut: return kKeyCache;
        case kValueCacheOut: return kValueCache;
        default: return -1;
        }
    }

    int32_t getOutputDataTypes(
        DataType* outputs, int32_t outputCount, DataType const* inputs, int32_t inputCount) const noexcept override
    {
        if (!countsFit(inputCount, outputCount))
        {
            return -1;
        }
        outputs[kResult] = inputs[kQuery];
        outputs[kKeyCacheOut] = inputs[kKeyCache];
        outputs[kValueCacheOut] = inputs[kValueCache];
        return 0;
    }

    int32_t getOutputShapes(DimsExprs const* inputs, int32_t inputCount, DimsExprs const* /* shapeInputs */,
        int32_t /* shapeInputCount */, DimsExprs* outputs, int32_t outputCount,
        IExprBuilder& /* expressions */) noexcept override
    {
        if (!countsFit(inputCount, outputCount))
        {
            return -1;
        }
        outputs[kResult] = inputs[kQuery];
        outputs[kKeyCacheOut] = inputs[kKeyCache];
        outputs[kValueCacheOut] = inputs[kValueCache];
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
        switch (position)
        {
        case kQuery: return dataType(type).has_value();
        case kPositions:
        case kWrite: return type == DataType::kINT64;
        case kActiveGroups: return type == DataType::kINT32;
        default: return type == tensors[kQuery].desc.type;
        }
    }

    //! Refuses while the engine is built what enqueue would have to refuse later.
    int32_t configurePlugin(DynamicPluginTensorDesc const* in, int32_t inputCount, DynamicPluginTensorDesc const*,
        int32_t outputCount) noexcept override
    {
        if (!countsFit(inputCount, outputCount))
        {
            return -1;
        }
        auto const largest = sizes(mAttributes, in[kQuery].desc.type, in,
            [](DynamicPluginTensorDesc const& x) -> Dims const& { return x.max; });
        return largest && workspaceBytes(*largest) ? 0 : -1;
    }

    //! Enough for every shape up to the largest. A larger batch or length may need less, so all are asked.
    std::size_t getWorkspaceSize(DynamicPluginTensorDesc const* in, int32_t inputCount, DynamicPluginTensorDesc const*,
        int32_t outputCount) const noexcept override
    {
        if (!countsFit(inputCount, outputCount))
        {
            return 0;
        }
        auto p = sizes(mAttributes, in[kQuery].desc.type, in,
            [](DynamicPluginTensorDesc const& x) -> Dims const& { return x.max; });
        if (!p)
        {
            return 0;
        }
        std::size_t most = 0;
        auto const [largestBatch, largestLength] = std::array<int32_t, 2>{p->batch, p->length};
        for (p->batch = 1; p->batch <= largestBatch; ++p->batch)
        {
            for (p->length = 1; p->length <= largestLength; ++p->length)
            {
                std::size_t const needed = workspaceBytes(*p).value_or(0);
                if (needed == 0)
                {
                    break; // so many tokens fill the device without parts, and more tokens do
                }
                most = std::max(most, needed);
            }
        }
        return most;
    }

    char const* getTimingCacheID() noexcept override
    {
        // Shapes and types are in the key already.
        std::snprintf(mTimingCacheId.data(), mTimingCacheId.size(), "window=%d rotary=%d",
            static_cast<int>(mAttributes.mWindow), static_cast<int>(mAttributes.mRotary));
        return mTimingCacheId.data();
    }

    // IPluginV3OneRuntime
    int32_t onShapeChange(
        PluginTensorDesc const* in, int32_t inputCount, PluginTensorDesc const*, int32_t outputCount) noexcept override
    {
        if (!countsFit(inputCount, outputCount))
        {
            return -1;
        }
        auto const p =
            sizes(mAttributes, in[kQuery].type, in, [](PluginTensorDesc const& x) -> Dims const& { return x.dims; });
        return p && workspaceBytes(*p) ? 0 : -1;
    }

    int32_t enqueue(PluginTensorDesc const* in, PluginTensorDesc const*, void const* const* inputs,
        void* const* outputs, void* workspace, cudaStream_t stream) noexcept override
    {
        auto p =
            sizes(mAttributes, in[kQuery].type, in, [](PluginTensorDesc const& x) -> Dims const& { return x.dims; });
        auto const needed = p ? workspaceBytes(*p) : std::nullopt;
        if (!needed)
        {
            return -1;
        }
        for (auto const& [from, to] : {std::array<int32_t, 2>{kKeyCache, kKeyCacheOut}, {kValueCache, kValueCacheOut}})
        {
            // Not aliased: the output starts as a copy.
            if (inputs[from] != outputs[to]
                && cudaMemcpyAsync(outputs[to], inputs[from], bytes(in[from]), cudaMemcpyDeviceToDevice, stream)
                       != cudaSuccess)
            {
                logError(kName, "the cache could not be copied");
                return -1;
            }
        }
        p->query = inputs[kQuery];
        p->key = inputs[kKey];
        p->value = inputs[kValue];
        p->positions = static_cast<int64_t const*>(inputs[kPositions]);
        p->write = static_cast<int64_t const*>(inputs[kWrite]);
        p->active_groups = static_cast<int32_t const*>(inputs[kActiveGroups]);
        if (mAttributes.mRotary != 0)
        {
            p->cosine = inputs[kCosine];
            p->sine = inputs[kSine];
        }
        p->key_cache = outputs[kKeyCacheOut];
        p->value_cache = outputs[kValueCacheOut];
        p->output = outputs[kResult];
        char const* reason = nullptr;
        if (flextron_head_subset_attention_run(&*p, workspace, *needed, stream, &reason) != FLEXTRON_SUCCESS)
        {
            logError(kName, reason);
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
        mFields = {PluginField{"window", &mAttributes.mWindow, PluginFieldType::kINT32, 1},
            PluginField{"scale", &mAttributes.mScale, PluginFieldType::kFLOAT32, 1},
            PluginField{"rotary", &mAttributes.mRotary, PluginFieldType::kINT32, 1},
            PluginField{"multiprocessors", &mAttributes.mMultiprocessors, PluginFieldType::kINT32, 1}};
        mCollection = {static_cast<int32_t>(mFields.size()), mFields.data()};
        return &mCollection;
    }

private:
    bool countsFit(int32_t inputs, int32_t outputs) const noexcept
    {
        bool const fit = inputs == (mAttributes.mRotary != 0 ? kInputs : kCosine) && outputs == kOutputs;
        if (!fit)
        {
            logError(kName, "there must be 8 inputs, or 10 with rotary = 1, and 3 outputs");
        }
        return fit;
    }

    //! Nothing if the sizes are refused; the reason is logged.
    static std::optional<std::size_t> workspaceBytes(FlextronHeadSubsetAttention const& p) noexcept
    {
        std::size_t bytes = 0;
        char const* reason = nullptr;
        if (flextron_head_subset_attention_workspace(&p, &bytes, &reason) != FLEXTRON_SUCCESS)
        {
            logError(kName, reason);
            return std::nullopt;
        }
        return bytes;
    }

    Attributes mAttributes;
    std::array<PluginField, 4> mFields{};
    PluginFieldCollection mCollection{};
    std::array<char, 48> mTimingCacheId{};
};

class Creator final : public IPluginCreatorV3One
{
public:
    IPluginV3* createPlugin(
        char const* /* name */, PluginFieldCollection const* fields, TensorRTPhase /* phase */) noexcept override
    {
        Attributes attributes;
        for (int32_t i = 0; fields != nullptr && i < fields->nbFields; ++i)
        {
            PluginField const& field = fields->fields[i];
            std::string_view const name{field.name};
            bool const known = (name == "window" && readField(field, PluginFieldType::kINT32, attributes.mWindow))
                               || (name == "scale" && readField(field, PluginFieldType::kFLOAT32, attributes.mScale))
                               || (name == "rotary" && readField(field, PluginFieldType::kINT32, attributes.mRotary))
                               || (name == "multiprocessors"
                                   && readField(field, PluginFieldType::kINT32, attributes.mMultiprocessors));
            if (!known)
            {
                logError(kName, "attributes are window (int), scale (float) and rotary (int), one value each");
                return nullptr;
            }
        }
        if (attributes.mWindow < 0 || attributes.mRotary < 0 || attributes.mRotary > 1)
        {
            logError(kName, "window must not be negative and rotary must be 0 or 1");
            return nullptr;
        }
        if (attributes.mMultiprocessors == 0) // a new node, not one from an engine
        {
            auto const count = deviceMultiprocessors(kName);
            if (!count)
            {
                return nullptr;
            }
            attributes.mMultiprocessors = *count;
        }
        return new (std::nothrow) Plugin(attributes);
    }

    PluginFieldCollection const* getFieldNames() noexcept override
    {
        return &mCollection;
    }

    char const* getPluginName() const noexcept override
    {
        return kName;
    }

    char const* getPluginVersion() const noexcept override
    {
        return kVersion;
    }

    char const* getPluginNamespace() const noexcept override
    {
        return kNamespace;
    }

private:
    // What the ONNX parser reads from a node; `multiprocessors` is not an attribute of the graph.
    std::array<PluginField, 3> mFields{PluginField{"window", nullptr, PluginFieldType::kINT32, 1},
        PluginField{"scale", nullptr, PluginFieldType::kFLOAT32, 1},
        PluginField{"rotary", nullptr, PluginFieldType::kINT32, 1}};
    PluginFieldCollection mCollection{static_cast<int32_t>(mFields.size()), mFields.data()};
};

} // namespace

nvinfer1::IPluginCreatorInterface* headSubsetAttentionCreator() noexcept
{
    static Creator creator;
    return &creator;
}

} // namespace flextron::tensorrt
