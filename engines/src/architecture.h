//! The shape of a model, as a bundle's manifest describes it.
#pragma once

#include "json.h"

#include <cstdint>
#include <string>

namespace flextron
{

//! Sizes are counts. What only the graphs compute with (frequencies, windows) is checked when read, not kept here.
struct Architecture
{
    std::string family;
    std::int64_t hiddenSize{};
    std::int64_t numLayers{};
    std::int64_t numHeads{};
    std::int64_t numKvHeads{};
    std::int64_t headDim{};
    std::int64_t intermediateSize{};
    std::int64_t vocabSize{};
    std::int64_t maxPositions{};
    bool tied{};
    bool attentionBias{}; //!< q, k, v and, with attentionOutputBias, o
    bool mlpBias{};
    bool attentionOutputBias{true};
    bool gated{true}; //!< the FFN has a gate
    bool qkNorm{}; //!< every head of q and k is normalised
    bool layerNorm{}; //!< norms have a bias
    bool learnedPositions{}; //!< there is no rotary embedding

    //! Query heads of one KV group.
    [[nodiscard]] std::int64_t headsPerGroup() const noexcept
    {
        return numHeads / numKvHeads;
    }

    //! Parameters of a norm over the hidden size.
    [[nodiscard]] std::int64_t normParameters() const noexcept
    {
        return layerNorm ? 2 * hiddenSize : hiddenSize;
    }

    //! Active parameters of one layer at that width, norms and biases included.
    [[nodiscard]] std::int64_t layerParameters(std::int64_t groups, std::int64_t neurons) const noexcept;

    //! Reads the manifest's object; JsonError names everything that is wrong with it.
    [[nodiscard]] static Architecture fromJson(Json const& value);
};

} // namespace flextron
