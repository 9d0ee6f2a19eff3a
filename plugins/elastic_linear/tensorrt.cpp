/*
 * SPDX-License-Identifier: Apache-2.0
 *
 * TensorRT adapters of ElasticLinear and ElasticFeedForward: IPluginV3 for TensorRT 10.3 and newer. Shapes, types and
 * attributes go in, one call of the C ABI comes out. No method throws; what is refused is logged by name.
 *
 * Inputs: input, the weights (`weight`, or gate, up, down), active_rows; with `bits` a scales tensor per weight; with
 * `bias` = 1 the bias of `weight`, or of gate and up; with `addend` = 1 the addend.
 */
#include "../common/tensorrt.h"
#include "elastic_linear.h"

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

constexpr char const* kVersion = "1";
constexpr char const* kNamespace = "";
constexpr int32_t kMaximumInputs = 11;

//! What an engine stores of a node.
struct Attributes
{
    int32_t mOperation{FLEXTRON_ELASTIC_OUTPUTS};
    int32_t mActivation{FLEXTRON_SILU};
    int32_t mBits{0};
    int32_t mBias{0};
    int32_t mAddend{0};
    //! Of the device that built the engine: the workspace was sized for them, so every device splits as that one did.
    int32_t mMultiprocessors{0};

    bool feedForward() const noexcept
    {
        return mOperation == FLEXTRON_ELASTIC_FEED_FORWARD;
    }

    char const* name() const noexcept
    {
        return feedForward() ? "ElasticFeedForward" : "ElasticLinear";
    }

    int32_t weights() const noexcept
    {
        return feedForward() ? 3 : 1;
    }

    // Positions of the inputs: the input itself, weights from 1 on, then these.
    int32_t activeRows() const noexcept
    {
        return 1 + weights();
    }

    int32_t scales() const noexcept
    {
        return activeRows() + 1;
    }

    int32_t biases() const noexcept
    {
        return scales() + (mBits != 0 ? weights() : 0);
    }

    int32_t addend() const noexcept
    {
        return biases() + (mBias != 0 ? (feedForward() ? 2 : 1) : 0);
    }

    int32_t inputs() const noexcept
    {
        return addend() + (mAddend != 0 ? 1 : 0);
    }
};

//! The sizes of a call, or nothing if the shapes do not belong together; the reason is logged.
std::optional<FlextronElasticLinear> sizes(
    Attributes const& attributes, DataType type, std::array<Dims const*, kMaximumInputs> const& dims)
{
    char const* const name = attributes.name();
    auto const refuse = [name](char const* what)
    {
        logError(name, what);
        return std::nullopt;
    };
    auto const known = dataType(type);
    if (!known)
    {
        return refuse("input must be float32, float16 or bfloat16");
    }
    Dims const& input = *dims[0];
    if (input.nbDims != 3)
    {
        return refuse("input must have 3 dimensions");
    }
    for (int32_t i = 1; i <= attributes.weights(); ++i)
    {
        if (dims[i]->nbDims != 2 || dims[i]->d[0] != dims[1]->d[0] || dims[i]->d[1] != dims[1]->d[1])
        {
            return refuse("weights must have 2 dimensions, the same for all");
        }
    }
    int64_t const rows = dims[1]->d[0];
    int64_t const hidden = dims[1]->d[1] * (attributes.mBits == 4 ? 2 : 1);
    if (input.d[2] != (attributes.mOperation == FLEXTRON_ELASTIC_INPUTS ? rows : hidden))
    {
        return refuse("the last dimension of input must be that of a weight row, or of a column where rows are inputs");
    }
    auto const strides = broadcast(*dims[attributes.activeRows()], input.d[0], input.d[1]);
    if (!strides)
    {
        return refuse("active_rows must be [B, S], [B] or [1]");
    }
    FlextronElasticLinear p{};
    if (attributes.mBits != 0)
    {
        Dims const& scales = *dims[attributes.scales()];
        for (int32_t i = 0; i < attributes.weights(); ++i)
        {
            Dims const& each = *dims[attributes.scales() + i];
            if (each.nbDims != 2 || each.d[0] != rows || each.d[1] < 1 || each.d[1] != scales.d[1]
                || hidden % each.d[1] != 0)
            {
                return refuse("scales must be [rows, hidden / group], the same for all");
            }
        }
        p.group_size = static_cast<int32_t>(hidden / scales.d[1]);
    }
    for (int32_t i = attributes.biases(); i < attributes.addend(); ++i)
    {
        if (dims[i]->nbDims != 1 || dims[i]->d[0] != rows)
        {
            return refuse("biases must be [rows]");
        }
    }
    if (attributes.mAddend != 0)
    {
        Dims const& addend = *dims[attributes.addend()];
        bool const perToken =
            addend.nbDims == 3 && addend.d[0] == input.d[0] && addend.d[1] == input.d[1] && addend.d[2] == hidden;
        if (!perToken && (addend.nbDims != 1 || addend.d[0] != hidden))
        {
            return refuse("addend must be [B, S, hidden] or [hidden]");
        }
        p.addend_token_stride = perToken ? static_cast<int32_t>(hidden) : 0;
    }
    p.size = sizeof(p);
    p.operation = attributes.mOperation;
    p.data_type = *known;
    p.weight_type = attributes.mBits == 0   ? FLEXTRON_WEIGHT_AS_DATA
                    : attributes.mBits == 8 ? FLEXTRON_WEIGHT_INT8
                                            : FLEXTRON_WEIGHT_INT4;
    p.batch = static_cast<int32_t>(input.d[0]);
    p.length = static_cast<int32_t>(input.d[1]);
    p.hidden = static_cast<int32_t>(hidden);
    p.rows = static_cast<int32_t>(rows);
    p.activation = attributes.mActivation;
    p.multiprocessors = attributes.mMultiprocessors;
    p.active_rows_batch_stride = strides->mBatch;
    p.active_rows_token_stride = strides->mToken;
    return p;
}

class Plugin final : public IPluginV3, public IPluginV3OneCore, public IPluginV3OneBuild, public IPluginV3OneRuntime
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
        case PluginCapabilityType::kBUILD: return static_cast<IPluginV3OneBuild*>(this);
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
        return mAttributes.name();
    }

    char const* getPluginVersion() const noexcept override
    {
        return kVersion;
    }

    char const* getPluginNamespace() const noexcept override
    {
        return kNamespace;
    }

    // IPluginV3OneBuild
    int32_t getNbOutputs() const noexcept override
    {
        return 1;
    }

    int32_t getOutputDataTypes(
        DataType* outputs, int32_t outputCount, DataType const* inputs, int32_t inputCount) const noexcept override
    {
        if (!countsFit(inputCount, outputCount))
        {
            return -1;
        }
        outputs[0] = inputs[0];
        return 0;
    }

    int32_t getOutputShapes(DimsExprs const* inputs, int32_t inputCount, DimsExprs const* /* shapeInputs */,
        int32_t /* shapeInputCount */, DimsExprs* outputs, int32_t outputCount,
        IExprBuilder& expressions) noexcept override
    {
        if (!countsFit(inputCount, outputCount) || inputs[0].nbDims != 3 || inputs[1].nbDims != 2)
        {
            return -1;
        }
        outputs[0] = inputs[0];
        if (mAttributes.mOperation == FLEXTRON_ELASTIC_OUTPUTS)
        {
            outputs[0].d[2] = inputs[1].d[0];
        }
        else if (mAttributes.mOperation == FLEXTRON_ELASTIC_INPUTS)
        {
            IDimensionExpr const* const stored = inputs[1].d[1];
            outputs[0].d[2] = mAttributes.mBits != 4
                                  ? stored
                                  : expressions.operation(DimensionOperation::kPROD, *stored, *expressions.constant(2));
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
        if (position == 0)
        {
            return dataType(type).has_value();
        }
        if (position == mAttributes.activeRows())
        {
            return type == DataType::kINT32;
        }
        if (position <= mAttributes.weights() && mAttributes.mBits != 0)
        {
            return type == DataType::kINT8 || (mAttributes.mBits == 4 && type == DataType::kUINT8);
        }
        return type == tensors[0].desc.type;
    }

    //! Refuses while the engine is built what enqueue would have to refuse later.
    int32_t configurePlugin(DynamicPluginTensorDesc const* in, int32_t inputCount, DynamicPluginTensorDesc const*,
        int32_t outputCount) noexcept override
    {
        if (!countsFit(inputCount, outputCount))
        {
            return -1;
        }
        auto const largest = sizesOf(in[0].desc.type, in, [](auto const& x) -> Dims const& { return x.max; });
        return largest && workspaceBytes(*largest) ? 0 : -1;
    }

    //! Enough for every shape up to the largest. More tokens may need less: their sums are not shared out.
    std::size_t getWorkspaceSize(DynamicPluginTensorDesc const* in, int32_t inputCount, DynamicPluginTensorDesc const*,
        int32_t outputCount) const noexcept override
    {
        if (!countsFit(inputCount, outputCount))
        {
            return 0;
        }
        auto p = sizesOf(in[0].desc.type, in, [](auto const& x) -> Dims const& { return x.max; });
        if (!p)
        {
            return 0;
        }
        std::size_t most = workspaceBytes(*p).value_or(0);
        constexpr int64_t kFillsEveryDevice = 1 << 17; // tokens
        int64_t const tokens = std::min(static_cast<int64_t>(p->batch) * p->length, kFillsEveryDevice);
        p->batch = 1;
        for (p->length = 1; p->length <= tokens; ++p->length)
        {
            most = std::max(most, workspaceBytes(*p).value_or(0));
        }
        return most;
    }

    char const* getTimingCacheID() noexcept override
    {
        // Shapes and types are in the key already.
        std::snprintf(mTimingCacheId.data(), mTimingCacheId.size(), "operation=%d activation=%d bits=%d",
            static_cast<int>(mAttributes.mOperation), static_cast<int>(mAttributes.mActivation),
            static_cast<int>(mAttributes.mBits));
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
        auto const p = sizesOf(in[0].type, in, [](auto const& x) -> Dims const& { return x.dims; });
        return p && workspaceBytes(*p) ? 0 : -1;
    }

    int32_t enqueue(PluginTensorDesc const* in, PluginTensorDesc const*, void const* const* inputs,
        void* const* outputs, void* workspace, cudaStream_t stream) noexcept override
    {
        auto p = sizesOf(in[0].type, in, [](auto const& x) -> Dims const& { return x.dims; });
        auto const needed = p ? workspaceBytes(*p) : std::nullopt;
        if (!needed)
        {
            return -1;
        }
        p->input = inputs[0];
        p->active_rows = static_cast<int32_t const*>(inputs[mAttributes.activeRows()]);
        bool const feedForward = mAttributes.feedForward();
        auto& single = mAttributes.mOperation == FLEXTRON_ELASTIC_INPUTS ? p->down : p->up;
        auto& singleScales = mAttributes.mOperation == FLEXTRON_ELASTIC_INPUTS ? p->down_scales : p->up_scales;
        std::array<void const**, 3> const weights =
            feedForward ? std::array{&p->gate, &p->up, &p->down} : std::array{&single, &single, &single};
        std::array<void const**, 3> const scales = feedForward
                                                       ? std::array{&p->gate_scales, &p->up_scales, &p->down_scales}
                                                       : std::array{&singleScales, &singleScales, &singleScales};
        for (int32_t i = 0; i < mAttributes.weights(); ++i)
        {
            *weights[i] = inputs[1 + i];
            if (mAttributes.mBits != 0)
            {
                *scales[i] = inputs[mAttributes.scales() + i];
            }
        }
        if (mAttributes.mBias != 0)
        {
            p->gate_bias = feedForward ? inputs[mAttributes.biases()] : nullptr;
            p->up_bias = inputs[mAttributes.addend() - 1];
        }
        if (mAttributes.mAddend != 0)
        {
            p->addend = inputs[mAttributes.addend()];
        }
        p->output = outputs[0];
        char const* reason = nullptr;
        if (flextron_elastic_linear_run(&*p, workspace, *needed, stream, &reason) != FLEXTRON_SUCCESS)
        {
            logError(mAttributes.name(), reason);
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
        mFields = {PluginField{"operation", &mAttributes.mOperation, PluginFieldType::kINT32, 1},
            PluginField{"activation_code", &mAttributes.mActivation, PluginFieldType::kINT32, 1},
            PluginField{"bits", &mAttributes.mBits, PluginFieldType::kINT32, 1},
            PluginField{"bias", &mAttributes.mBias, PluginFieldType::kINT32, 1},
            PluginField{"addend", &mAttributes.mAddend, PluginFieldType::kINT32, 1},
            PluginField{"multiprocessors", &mAttributes.mMultiprocessors, PluginFieldType::kINT32, 1}};
        mCollection = {static_cast<int32_t>(mFields.size()), mFields.data()};
        return &mCollection;
    }

private:
    bool countsFit(int32_t inputs, int32_t outputs) const noexcept
    {
        bool const fit = inputs == mAttributes.inputs() && outputs == 1;
        if (!fit)
        {
            logError(mAttributes.name(), "the number of inputs must be what the attributes say, and of outputs 1");
        }
        return fit;
    }

    template <typename Tensors, typename Select>
    std::optional<FlextronElasticLinear> sizesOf(DataType type, Tensors const* in, Select const& select) const noexcept
    {
        std::array<Dims const*, kMaximumInputs> dims{};
        for (int32_t i = 0; i < mAttributes.inputs(); ++i)
        {
            dims[i] = &select(in[i]);
        }
        return sizes(mAttributes, type, dims);
    }

    //! Nothing if the sizes are refused; the reason is logged.
    std::optional<std::size_t> workspaceBytes(FlextronElasticLinear const& p) const noexcept
    {
        std::size_t bytes = 0;
        char const* reason = nullptr;
        if (flextron_elastic_linear_workspace(&p, &bytes, &reason) != FLEXTRON_SUCCESS)
        {
            logError(mAttributes.name(), reason);
            return std::nullopt;
        }
        return bytes;
    }

    Attributes mAttributes;
    std::array<PluginField, 6> mFields{};
    PluginFieldCollection mCollection{};
    std::array<char, 48> mTimingCacheId{};
};

//! Reads one of two words.
bool readWord(PluginField const& field, std::array<std::string_view, 2> const& words, int32_t& index) noexcept
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
    auto const* const found = std::find(words.begin(), words.end(), text);
    index = static_cast<int32_t>(found - words.begin());
    return found != words.end();
}

class Creator final : public IPluginCreatorV3One
{
public:
    explicit Creator(bool feedForward) noexcept
    {
        mDefaults.mOperation = feedForward ? FLEXTRON_ELASTIC_FEED_FORWARD : FLEXTRON_ELASTIC_OUTPUTS;
        mFields[0].name = feedForward ? "activation" : "elastic";
    }

    IPluginV3* createPlugin(
        char const* /* name */, PluginFieldCollection const* fields, TensorRTPhase /* phase */) noexcept override
    {
        Attributes attributes = mDefaults;
        char const* const name = attributes.name();
        constexpr auto kInt = PluginFieldType::kINT32;
        for (int32_t i = 0; fields != nullptr && i < fields->nbFields; ++i)
        {
            PluginField const& field = fields->fields[i];
            std::string_view const key{field.name};
            bool const known = (key == "elastic" && !mDefaults.feedForward()
                                   && readWord(field, {"outputs", "inputs"}, attributes.mOperation))
                               || (key == "activation" && mDefaults.feedForward()
                                   && readWord(field, {"silu", "gelu_tanh"}, attributes.mActivation))
                               || (key == "operation" && readField(field, kInt, attributes.mOperation))
                               || (key == "activation_code" && readField(field, kInt, attributes.mActivation))
                               || (key == "bits" && readField(field, kInt, attributes.mBits))
                               || (key == "bias" && readField(field, kInt, attributes.mBias))
                               || (key == "addend" && readField(field, kInt, attributes.mAddend))
                               || (key == "multiprocessors" && readField(field, kInt, attributes.mMultiprocessors));
            if (!known)
            {
                logError(name, mDefaults.feedForward()
                                   ? "attributes are activation (silu, gelu_tanh), bits, bias and addend (int)"
                                   : "attributes are elastic (outputs, inputs), bits, bias and addend (int)");
                return nullptr;
            }
        }
        bool const valid = (attributes.mBits == 0 || attributes.mBits == 4 || attributes.mBits == 8)
                           && attributes.mBias >= 0 && attributes.mBias <= 1 && attributes.mAddend >= 0
                           && attributes.mAddend <= 1 && attributes.feedForward() == mDefaults.feedForward();
        if (!valid)
        {
            logError(name, "bits must be 0, 4 or 8, bias and addend 0 or 1");
            return nullptr;
        }
        if ((attributes.mOperation == FLEXTRON_ELASTIC_OUTPUTS && attributes.mAddend != 0)
            || (attributes.mOperation == FLEXTRON_ELASTIC_INPUTS && attributes.mBias != 0))
        {
            logError(name, "outputs take a bias and no addend, inputs an addend and no bias");
            return nullptr;
        }
        if (attributes.mMultiprocessors == 0) // a new node, not one from an engine
        {
            auto const count = deviceMultiprocessors(name);
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
        return mDefaults.name();
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
    Attributes mDefaults;
    // What the ONNX parser reads from a node; what else an engine stores is not an attribute of the graph.
    std::array<PluginField, 4> mFields{PluginField{"", nullptr, PluginFieldType::kCHAR, 1},
        PluginField{"bits", nullptr, PluginFieldType::kINT32, 1},
        PluginField{"bias", nullptr, PluginFieldType::kINT32, 1},
        PluginField{"addend", nullptr, PluginFieldType::kINT32, 1}};
    PluginFieldCollection mCollection{static_cast<int32_t>(mFields.size()), mFields.data()};
};

} // namespace

nvinfer1::IPluginCreatorInterface* elasticLinearCreator() noexcept
{
    static Creator creator{false};
    return &creator;
}

nvinfer1::IPluginCreatorInterface* elasticFeedForwardCreator() noexcept
{
    static Creator creator{true};
    return &creator;
}

} // namespace flextron::tensorrt
