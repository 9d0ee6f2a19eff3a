//! Choosing the next token from logits.
#pragma once

#include "random.h"

#include <cstdint>
#include <span>

namespace flextron
{

struct Sampling
{
    double temperature{}; //!< 0 takes the likeliest token; higher is more random
    std::int64_t topK{}; //!< choose among the k likeliest only; 0 for all
    double topP{1}; //!< choose among the likeliest that together have this probability; 1 for all

    //! Throws an Error of kind FLEXTRON_INPUT_ERROR that names every setting that makes no sense.
    void validate() const;

    [[nodiscard]] std::int64_t choose(std::span<float const> logits, Random& random) const;
};

} // namespace flextron
