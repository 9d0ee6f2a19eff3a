#include "tensors.h"

#include <utility>

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

constexpr Projection kQuery{"q", Rows::kQuery, false};
constexpr Projection kKey{"k", Rows::kKey, false};
constexpr Projection kValue{"v", Rows::kKey, false};
constexpr Projection kOutput{"o", Rows::kQuery, true};
constexpr Projection kGate{"gate", Rows::kNeurons, false};
constexpr Projection kUp{"up", Rows::kNeurons, false};
constexpr Projection kDown{"down", Rows::kNeurons, true};

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

//! The tensors of one decoder layer, in order.
class Layer
{
public:
    Layer(std::vector<TensorSpec>& specs, Architecture const& architecture, std::int64_t index)
        : mSpecs(specs)
        , mArchitecture(architecture)
        , mIndex(index)
    {
    }

    void addLinear(Projection const& projection, bool biased)
    {
        LayerWidth const full{mArchitecture.numKvHeads, mArchitecture.intermediateSize};
        auto const rows = rowCount(mArchitecture, projection.rows, full);
        add(projection.name, {rows, mArchitecture.hiddenSize}, projection.rows);
        if (biased && projection.output)
        {
            add(std::string(projection.name) + "_bias", {mArchitecture.hiddenSize});
        }
        else if (biased)
        {
            add(std::string(projection.name) + "_bias", {rows}, projection.rows);
        }
    }

    void addNorm(std::string const& name)
    {
        add(name, {mArchitecture.hiddenSize});
        if (mArchitecture.layerNorm)
        {
            add(name + "_bias", {mArchitecture.hiddenSize});
        }
    }

    void add(std::string const& name, std::vector<std::int64_t> shape, Rows rows = Rows::kFixed)
    {
        mSpecs.push_back({"layers." + std::to_string(mIndex) + "." + name, std::move(shape), mIndex, rows});
    }

private:
    std::vector<TensorSpec>& mSpecs;
    Architecture const& mArchitecture;
    std::int64_t mIndex;
};

void addLayer(std::vector<TensorSpec>& specs, Architecture const& architecture, std::int64_t index)
{
    Layer layer(specs, architecture, index);
    layer.addNorm("attention_norm");
    for (auto const& projection : {kQuery, kKey, kValue})
    {
        layer.addLinear(projection, architecture.attentionBias);
    }
    if (architecture.qkNorm)
    {
        layer.add("q_norm", {architecture.headDim});
        layer.add("k_norm", {architecture.headDim});
    }
    layer.addLinear(kOutput, architecture.attentionBias && architecture.attentionOutputBias);
    layer.addNorm("ffn_norm");
    if (architecture.gated)
    {
        layer.addLinear(kGate, architecture.mlpBias);
    }
    layer.addLinear(kUp, architecture.mlpBias);
    layer.addLinear(kDown, architecture.mlpBias);
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
    if (architecture.learnedPositions)
    {
        specs.push_back({"position_embedding", {architecture.maxPositions, hidden}});
    }
    for (std::int64_t i = 0; i < architecture.numLayers; ++i)
    {
        addLayer(specs, architecture, i);
    }
    specs.push_back({"norm", {hidden}});
    if (architecture.layerNorm)
    {
        specs.push_back({"norm_bias", {hidden}});
    }
    if (!architecture.tied)
    {
        specs.push_back({"lm_head", {architecture.vocabSize, hidden}});
    }
    return specs;
}

} // namespace flextron
