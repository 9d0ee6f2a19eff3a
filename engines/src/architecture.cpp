#include "architecture.h"

#include "error.h"

#include <algorithm>
#include <array>
#include <string_view>

namespace flextron
{

namespace
{

struct Size
{
    char const* name;
    std::int64_t Architecture::* field;
    std::int64_t largest;
};

//! The limits are far beyond any model; below them no product of sizes overflows.
constexpr std::int64_t kLargestLayers = std::int64_t{1} << 12U;
constexpr std::int64_t kLargestWidth = std::int64_t{1} << 20U;
constexpr std::int64_t kLargestNeurons = std::int64_t{1} << 26U;
constexpr std::int64_t kLargestCount = std::int64_t{1} << 31U;

constexpr std::array kSizes{
    Size{"hidden_size", &Architecture::hiddenSize, kLargestWidth},
    Size{"num_layers", &Architecture::numLayers, kLargestLayers},
    Size{"num_heads", &Architecture::numHeads, kLargestWidth},
    Size{"num_kv_heads", &Architecture::numKvHeads, kLargestWidth},
    Size{"head_dim", &Architecture::headDim, kLargestWidth},
    Size{"intermediate_size", &Architecture::intermediateSize, kLargestNeurons},
    Size{"vocab_size", &Architecture::vocabSize, kLargestCount},
    Size{"max_positions", &Architecture::maxPositions, kLargestCount},
};

struct Flag
{
    char const* name;
    bool Architecture::* field;
};

constexpr std::array kFlags{Flag{"tied", &Architecture::tied}, Flag{"attention_bias", &Architecture::attentionBias},
    Flag{"mlp_bias", &Architecture::mlpBias}};
//! Features that older bundles do not know; absent means the default.
constexpr std::array kOptionalFlags{Flag{"attention_output_bias", &Architecture::attentionOutputBias},
    Flag{"gated", &Architecture::gated}, Flag{"qk_norm", &Architecture::qkNorm}};

constexpr std::array<std::string_view, 6> kOtherKeys{"family", "norm_eps", "rope", "norm", "activation", "windows"};

//! Which of the tensors that not every model has are in the models of a family.
struct Family
{
    std::string_view name;
    bool gate;
    bool positions;
    bool norms; //!< of q and k
};

constexpr std::array kFamilies{Family{"llama", true, false, false}, Family{"mistral", true, false, false},
    Family{"qwen2", true, false, false}, Family{"qwen3", true, false, true}, Family{"gpt2", false, true, false}};
constexpr std::array<std::string_view, 4> kActivations{"silu", "gelu", "gelu_tanh", "relu"};

bool isKey(std::string_view key)
{
    auto const named = [key](auto const& entry) { return key == entry.name; };
    return std::any_of(kSizes.begin(), kSizes.end(), named) || std::any_of(kFlags.begin(), kFlags.end(), named)
        || std::any_of(kOptionalFlags.begin(), kOptionalFlags.end(), named)
        || std::find(kOtherKeys.begin(), kOtherKeys.end(), key) != kOtherKeys.end();
}

//! Refuses a window list that is not one count per layer; 0 means the whole context.
void checkWindows(Json const& value, std::int64_t layers)
{
    auto const windows = readIntegers(value, "windows");
    auto const negative = [](std::int64_t window) { return window < 0; };
    if (!windows.empty()
        && (static_cast<std::int64_t>(windows.size()) != layers
            || std::any_of(windows.begin(), windows.end(), negative)))
    {
        throw JsonError("the attention windows are not one for each of " + std::to_string(layers) + " layers");
    }
}

std::vector<std::string> faults(Architecture const& architecture)
{
    std::vector<std::string> found;
    auto const family = std::find_if(kFamilies.begin(), kFamilies.end(),
        [&architecture](Family const& known) { return known.name == architecture.family; });
    if (family == kFamilies.end())
    {
        found.push_back("family '" + architecture.family + "'");
    }
    else
    {
        auto const need = [&](bool used, bool there, char const* tensor)
        {
            if (used && !there)
            {
                found.push_back("the family '" + architecture.family + "' has no " + tensor);
            }
        };
        need(architecture.gated, family->gate, "gate");
        need(architecture.learnedPositions, family->positions, "position_embedding");
        need(architecture.qkNorm, family->norms, "q_norm");
    }
    for (auto const& size : kSizes)
    {
        auto const value = architecture.*size.field;
        if (value < 1 || value > size.largest)
        {
            found.push_back(std::string(size.name) + " is " + std::to_string(value));
        }
    }
    if (!found.empty())
    {
        return found; // the rest divides and multiplies
    }
    if (architecture.numHeads % architecture.numKvHeads != 0)
    {
        found.push_back(std::to_string(architecture.numHeads) + " query heads are not a multiple of "
            + std::to_string(architecture.numKvHeads) + " KV heads");
    }
    if (!architecture.learnedPositions && architecture.headDim % 2 != 0)
    {
        found.push_back("head_dim " + std::to_string(architecture.headDim) + " is not even");
    }
    if (architecture.numHeads * architecture.headDim > kLargestNeurons)
    {
        found.emplace_back("the heads together are too wide");
    }
    return found;
}

} // namespace

std::int64_t Architecture::layerParameters(std::int64_t groups, std::int64_t neurons) const noexcept
{
    auto const query = groups * headsPerGroup() * headDim;
    auto const key = groups * headDim;
    auto const projections = gated ? 2 : 1; // into the neurons
    auto const weights = hiddenSize * (2 * query + 2 * key + (projections + 1) * neurons);
    auto const norms = 2 * normParameters() + (qkNorm ? 2 * headDim : 0);
    auto const attention = attentionBias ? query + 2 * key + (attentionOutputBias ? hiddenSize : 0) : 0;
    auto const mlp = mlpBias ? projections * neurons + hiddenSize : 0;
    return weights + norms + attention + mlp;
}

Architecture Architecture::fromJson(Json const& value)
{
    Architecture architecture;
    architecture.family = readString(member(value, "family"), "family");
    for (auto const& [key, ignored] : value.items())
    {
        // A key that this reader does not know changes what the graphs mean.
        if (!isKey(key))
        {
            throw JsonError("the architecture has an unknown '" + key + "'");
        }
    }
    for (auto const& size : kSizes)
    {
        architecture.*size.field = readInteger(member(value, size.name), size.name);
    }
    for (auto const& flag : kFlags)
    {
        architecture.*flag.field = readBool(member(value, flag.name), flag.name);
    }
    for (auto const& flag : kOptionalFlags)
    {
        if (auto const found = value.find(flag.name); found != value.end())
        {
            architecture.*flag.field = readBool(*found, flag.name);
        }
    }
    static_cast<void>(readNumber(member(value, "norm_eps"), "norm_eps"));
    auto const& rope = member(value, "rope");
    architecture.learnedPositions = rope.is_null();
    if (!architecture.learnedPositions)
    {
        static_cast<void>(readString(member(rope, "type"), "rope type"));
    }
    if (auto const norm = value.contains("norm") ? readString(value["norm"], "norm") : "rms"; norm == "layer")
    {
        architecture.layerNorm = true;
    }
    else if (norm != "rms")
    {
        throw JsonError("norm '" + norm + "'");
    }
    if (auto const found = value.find("activation"); found != value.end())
    {
        auto const activation = readString(*found, "activation");
        if (std::find(kActivations.begin(), kActivations.end(), activation) == kActivations.end())
        {
            throw JsonError("activation '" + activation + "'");
        }
    }
    if (auto const windows = value.find("windows"); windows != value.end())
    {
        checkWindows(*windows, architecture.numLayers);
    }
    if (auto const found = faults(architecture); !found.empty())
    {
        throw JsonError(join(found, "; "));
    }
    return architecture;
}

} // namespace flextron
