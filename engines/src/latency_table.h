//! The latency table: what every budget was measured to cost on one device (docs/latency-table.md).
#pragma once

#include "json.h"

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <vector>

namespace flextron
{

//! Milliseconds measured at one context or prompt length.
struct Timing
{
    std::int64_t tokens{};
    std::int64_t samples{}; //!< number of measurements
    double mean{};
    double p50{};
    double p95{};
    double p99{};

    [[nodiscard]] static Timing of(std::int64_t tokens, std::vector<double> const& milliseconds);
};

//! p95 at a length: linear between the measured lengths, the first value below them. Above the longest it goes on
//! along the line through the last two points, but never downwards: noise must not promise that a longer context is
//! faster. The timings ascend.
[[nodiscard]] double interpolate(std::vector<Timing> const& timings, std::int64_t at);

//! What one budget costs.
struct BudgetCost
{
    std::int64_t parameters{};
    std::vector<Timing> decode; //!< by context length, ascending
    std::vector<Timing> firstToken; //!< by prompt length, ascending
    std::int64_t weightBytes{};
    std::int64_t cacheBytes{}; //!< of KV cache per slot

    //! Bytes of weights and of the KV cache that holds so many tokens.
    [[nodiscard]] double memoryBytes(std::int64_t context) const noexcept;
};

struct LatencyTable
{
    Json device; //!< fingerprint (device.h); its `id` is part of the file name
    std::string target;
    std::string layout;
    std::string dtype;
    std::string bundle; //!< hash of what was measured; a table of other weights, graphs or budgets is not used
    Json conditions; //!< for people who read the numbers
    std::map<std::string, BudgetCost> budgets;

    //! The largest context length measured for every budget.
    [[nodiscard]] std::int64_t longestContext() const noexcept;

    //! What somebody who relies on the numbers should know: the machine had no cores free for the measuring.
    [[nodiscard]] std::optional<std::string> caution() const;

    [[nodiscard]] Json toJson() const;

    //! JsonError if it is no table of this version.
    [[nodiscard]] static LatencyTable fromJson(Json const& value);
};

} // namespace flextron
