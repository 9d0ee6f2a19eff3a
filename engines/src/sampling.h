//! Choosing the next token from logits.
#pragma once

#include "random.h"

#include <cstdint>
#include <set>
#include <span>

namespace flextron
{

//! The settings act in this order: repetition penalty, temperature, top-k, top-p, min-p.
struct Sampling
{
    double temperature{}; //!< 0 takes the likeliest token; higher is more random
    std::int64_t topK{}; //!< choose among the k likeliest only (and those as likely as the k-th); 0 for all
    double topP{1}; //!< choose among the fewest likeliest that together have this probability; 1 for all
    double minP{}; //!< choose among those at least this many times as likely as the likeliest; 0 for all
    double repetitionPenalty{1}; //!< above 1, tokens that have occurred become less likely; 1 for none

    //! Throws an Error of kind FLEXTRON_INPUT_ERROR that names every setting that makes no sense.
    void validate() const;

    //! \param seen the distinct tokens of prompt and answer so far, for the repetition penalty.
    [[nodiscard]] std::int64_t choose(
        std::span<float const> logits, Random& random, std::set<std::int64_t> const& seen = {}) const;
};

} // namespace flextron
