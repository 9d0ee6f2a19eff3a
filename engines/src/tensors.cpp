#include "tensors.h"

#include <array>

namespace flextron
{

namespace
{

struct Projection
{
    char const* name;
    Rows rows;
    bool output; //!< stored transposed, so that its bias is as wide as the model
};

constexpr std::array kAttention{Projection{"q", Rows::kQuery, false}, Projection{"k", Rows::kKey, false},
    Projection{"v", Rows::kKey, false}, Projection{"o", Rows::kQuery, true}};
constexpr std::array kFeedForward{Projection{"gate", Rows::kNeurons, false}, Projection{"up", Rows::kNeurons, false},
    Projection{"down", Rows::kNeurons, true}};

std::int64_t rowCount(Architecture const& architecture, Rows rows, LayerWidth const& width) noexcept
{
    switch (rows)
    {
    case Rows::kQuery: return width.groups * architecture.headsPerGroup() * architecture.headDim;
    case Rows::kKey: return width.groups * architecture.headDim;
    case Rows::kNeurons: return width.neurons;
    case Rows::kFixed: break;
    }
    return 0;
}

template <typename Projections>
void add(std::vector<TensorSpec>& specs, Architecture const& architecture, std::int64_t layer,
    Projections const& projections, bool biased)
{
    LayerWidth const full{architecture.numKvHeads, architecture.intermediateSize};
    for (auto const& projection : projections)
    {
        auto const name = "layers." + std::to_string(layer) + "." + projection.name;
        auto const rows = rowCount(architecture, projection.rows, full);
        specs.push_back({name, {rows, architecture.hiddenSize}, layer, projection.rows});
        if (!biased)
        {
            continue;
        }
        if (projection.output)
        {
            specs.push_back({name + "_bias", {architecture.hiddenSize}, layer, Rows::kFixed});
        }
        else
        {
            specs.push_back({name + "_bias", {rows}, layer, projection.rows});
        }
    }
}

} // namespace

std::vector<std::int64_t> TensorSpec::active(Architecture const& architecture, Budget const& budget) const
{
    auto active = shape;
    if (rows != Rows::kFixed)
    {
        active.front() = rowCount(architecture, rows, budget.layers.at(static_cast<std::size_t>(layer)));
    }
    return active;
}

std::vector<TensorSpec> tensorSpecs(Architecture const& architecture)
{
    auto const hidden = architecture.hiddenSize;
    std::vector<TensorSpec> specs;
    specs.push_back({"embedding", {architecture.vocabSize, hidden}});
    for (std::int64_t i = 0; i < architecture.numLayers; ++i)
    {
        auto const layer = "layers." + std::to_string(i);
        specs.push_back({layer + ".attention_norm", {hidden}, i});
        add(specs, architecture, i, kAttention, architecture.attentionBias);
        specs.push_back({layer + ".ffn_norm", {hidden}, i});
        add(specs, architecture, i, kFeedForward, architecture.mlpBias);
    }
    specs.push_back({"norm", {hidden}});
    if (!architecture.tied)
    {
        specs.push_back({"lm_head", {architecture.vocabSize, hidden}});
    }
    return specs;
}

} // namespace flextron
