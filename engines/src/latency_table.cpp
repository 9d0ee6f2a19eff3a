#include "latency_table.h"

#include "capacity.h"
#include "error.h"

#include <algorithm>

namespace flextron
{

namespace
{

std::int64_t readSize(Json const& object, char const* key)
{
    auto const size = readInteger(member(object, key), key);
    if (size < 0)
    {
        throw JsonError("'" + std::string(key) + "' is negative");
    }
    return size;
}

std::vector<Point> readPoints(Json const& value)
{
    std::vector<Point> points;
    for (auto const& entry : value)
    {
        points.push_back({readSize(entry, "tokens"), readNumber(member(entry, "p95"), "p95")});
        if (!(points.back().p95 >= 0))
        {
            throw JsonError("a time is negative");
        }
    }
    std::stable_sort(
        points.begin(), points.end(), [](Point const& a, Point const& b) { return a.tokens < b.tokens; });
    auto const same = [](Point const& a, Point const& b) { return a.tokens == b.tokens; };
    if (std::adjacent_find(points.begin(), points.end(), same) != points.end())
    {
        throw JsonError("a length occurs twice");
    }
    return points;
}

} // namespace

double interpolate(std::vector<Point> const& points, std::int64_t at)
{
    if (points.empty())
    {
        throw inputError(
            "The latency table holds no measurement of that kind.", "flextron-export calibrate BUNDLE");
    }
    if (at <= points.front().tokens || points.size() == 1)
    {
        return points.front().p95;
    }
    // The first point at or beyond the length; the last one if there is none.
    auto right = std::find_if(points.begin() + 1, points.end(), [at](Point const& p) { return at <= p.tokens; });
    bool const beyond = right == points.end();
    right -= beyond ? 1 : 0;
    auto const left = right - 1;
    auto const width = static_cast<double>(right->tokens - left->tokens);
    auto const rise = right->p95 - left->p95;
    if (beyond)
    {
        return right->p95 + std::max(rise, 0.0) / width * static_cast<double>(at - right->tokens);
    }
    return left->p95 + rise * static_cast<double>(at - left->tokens) / width;
}

double BudgetCost::memoryBytes(std::int64_t context) const noexcept
{
    return static_cast<double>(weightBytes)
        + static_cast<double>(cacheBytes) * static_cast<double>(capacityFor(context));
}

std::int64_t LatencyTable::longestContext() const noexcept
{
    std::int64_t longest = 0;
    bool any = false;
    for (auto const& [name, cost] : budgets)
    {
        if (!cost.decode.empty())
        {
            longest = any ? std::min(longest, cost.decode.back().tokens) : cost.decode.back().tokens;
            any = true;
        }
    }
    return longest;
}

LatencyTable LatencyTable::fromJson(Json const& value)
{
    constexpr std::int64_t kVersion = 2;
    if (readString(member(value, "format"), "format") != "flextron-latency"
        || readInteger(member(value, "version"), "version") != kVersion)
    {
        throw JsonError("it is no flextron-latency of version " + std::to_string(kVersion));
    }
    LatencyTable table;
    table.target = readString(member(value, "target"), "target");
    table.layout = readString(member(value, "layout"), "layout");
    table.dtype = readString(member(value, "dtype"), "dtype");
    table.bundle = readString(member(value, "bundle"), "bundle");
    for (auto const& [name, cost] : member(value, "budgets").items())
    {
        table.budgets[name] = {readSize(cost, "parameters"), readPoints(member(cost, "decode")),
            readPoints(member(cost, "first_token")), readSize(cost, "weight_bytes"), readSize(cost, "cache_bytes")};
    }
    return table;
}

} // namespace flextron
