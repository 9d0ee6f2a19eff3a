//! What a generation took.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace flextron
{

//! Milliseconds; what the caller does between tokens is not counted.
struct Timings
{
    std::int64_t promptTokens{};
    std::int64_t tokens{}; //!< generated, an end-of-text token included
    double firstTokenMs{}; //!< from the call to the first token, prefill included
    std::vector<double> tokenMs; //!< of each further token
    char const* stoppedBy{""}; //!< `length`, `eos`, `context` (the cache is full) or `caller`
};

//! Percentile with linear interpolation, as numpy's; NaN of nothing.
[[nodiscard]] double percentile(std::vector<double> values, double percent);

} // namespace flextron
