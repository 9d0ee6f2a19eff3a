//! The latency table: what every budget was measured to cost on one device (docs/latency-table.md).
#pragma once

#include "json.h"

#include <cstdint>
#include <map>
#include <string>
#include <vector>

namespace flextron
{

//! 95th percentile in milliseconds, measured at one context or prompt length.
struct Point
{
    std::int64_t tokens{};
    double p95{};
};

//! Value at a length: linear between the measured lengths, the first value below them. Above the longest it goes on
//! along the line through the last two points, but never downwards: noise must not promise that a longer context is
//! faster. The points ascend.
[[nodiscard]] double interpolate(std::vector<Point> const& points, std::int64_t at);

//! What one budget costs.
struct BudgetCost
{
    std::int64_t parameters{};
    std::vector<Point> decode;
    std::vector<Point> firstToken;
    std::int64_t weightBytes{};
    std::int64_t cacheBytes{}; //!< of KV cache per slot

    //! Bytes of weights and of the KV cache that holds so many tokens.
    [[nodiscard]] double memoryBytes(std::int64_t context) const noexcept;
};

struct LatencyTable
{
    std::string target;
    std::string layout;
    std::string dtype;
    std::string bundle; //!< hash of what was measured; a table of other weights, graphs or budgets is not used
    std::map<std::string, BudgetCost> budgets;

    //! The largest context length measured for every budget.
    [[nodiscard]] std::int64_t longestContext() const noexcept;

    //! JsonError if it is no table of this version.
    [[nodiscard]] static LatencyTable fromJson(Json const& value);
};

} // namespace flextron
