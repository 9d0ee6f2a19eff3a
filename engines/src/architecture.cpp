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

constexpr std::array<std::string_view, 14> kKeys{"family", "hidden_size", "num_layers", "num_heads", "num_kv_heads",
    "head_dim", "intermediate_size", "vocab_size", "max_positions", "norm_eps", "tied", "attention_bias", "mlp_bias",
    "rope"};

std::vector<std::string> faults(Architecture const& architecture)
{
    std::vector<std::string> found;
    if (architecture.family != "llama")
    {
        found.push_back("family '" + architecture.family + "'");
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
    if (architecture.headDim % 2 != 0)
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
    auto const weights = hiddenSize * (2 * query + 2 * key + 3 * neurons + 2);
    auto const attention = attentionBias ? query + 2 * key + hiddenSize : 0;
    auto const mlp = mlpBias ? 2 * neurons + hiddenSize : 0;
    return weights + attention + mlp;
}

Architecture Architecture::fromJson(Json const& value)
{
    Architecture architecture;
    architecture.family = readString(member(value, "family"), "family");
    for (auto const& [key, ignored] : value.items())
    {
        // A key that this reader does not know changes what the graphs mean.
        if (std::find(kKeys.begin(), kKeys.end(), key) == kKeys.end())
        {
            throw JsonError("the architecture has an unknown '" + key + "'");
        }
    }
    for (auto const& size : kSizes)
    {
        architecture.*size.field = readInteger(member(value, size.name), size.name);
    }
    architecture.tied = readBool(member(value, "tied"), "tied");
    architecture.attentionBias = readBool(member(value, "attention_bias"), "attention_bias");
    architecture.mlpBias = readBool(member(value, "mlp_bias"), "mlp_bias");
    static_cast<void>(readNumber(member(value, "norm_eps"), "norm_eps"));
    static_cast<void>(readString(member(member(value, "rope"), "type"), "rope type"));
    if (auto const found = faults(architecture); !found.empty())
    {
        throw JsonError(join(found, "; "));
    }
    return architecture;
}

} // namespace flextron
