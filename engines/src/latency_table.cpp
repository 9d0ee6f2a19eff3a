#include "latency_table.h"

#include "capacity.h"
#include "error.h"
#include "number_text.h"
#include "timings.h"

#include <algorithm>
#include <cmath>
#include <numeric>

namespace flextron
{

namespace
{

constexpr char const* kFormat = "flextron-latency";
constexpr std::int64_t kVersion = 2;

std::int64_t readSize(Json const& object, char const* key)
{
    auto const size = readInteger(member(object, key), key);
    if (size < 0)
    {
        throw JsonError("'" + std::string(key) + "' is negative");
    }
    return size;
}

double readTime(Json const& object, char const* key)
{
    auto const time = readNumber(member(object, key), key);
    if (!(time >= 0))
    {
        throw JsonError("a time is negative");
    }
    return time;
}

std::vector<Timing> readTimings(Json const& value)
{
    std::vector<Timing> timings;
    for (auto const& entry : value)
    {
        timings.push_back({readSize(entry, "tokens"), readSize(entry, "samples"), readTime(entry, "mean"),
            readTime(entry, "p50"), readTime(entry, "p95"), readTime(entry, "p99")});
    }
    std::stable_sort(
        timings.begin(), timings.end(), [](Timing const& a, Timing const& b) { return a.tokens < b.tokens; });
    auto const same = [](Timing const& a, Timing const& b) { return a.tokens == b.tokens; };
    if (std::adjacent_find(timings.begin(), timings.end(), same) != timings.end())
    {
        throw JsonError("a length occurs twice");
    }
    return timings;
}

Json timingsJson(std::vector<Timing> const& timings)
{
    Json value = Json::array();
    for (auto const& timing : timings)
    {
        value.push_back({{"tokens", timing.tokens}, {"samples", timing.samples}, {"mean", timing.mean},
            {"p50", timing.p50}, {"p95", timing.p95}, {"p99", timing.p99}});
    }
    return value;
}

Json const& readObjectAt(Json const& value, char const* key)
{
    auto const& found = member(value, key);
    if (!found.is_object())
    {
        throw JsonError("'" + std::string(key) + "' is no object");
    }
    return found;
}

//! Tenths of a microsecond are more than a clock tells.
double rounded(double milliseconds)
{
    constexpr double kSteps = 1e4;
    return std::round(milliseconds * kSteps) / kSteps;
}

} // namespace

Timing Timing::of(std::int64_t tokens, std::vector<double> const& milliseconds)
{
    auto const count = milliseconds.size();
    auto const mean
        = std::accumulate(milliseconds.begin(), milliseconds.end(), 0.0) / static_cast<double>(count);
    auto const at = [&milliseconds](double percent) { return rounded(percentile(milliseconds, percent)); };
    return {tokens, static_cast<std::int64_t>(count), rounded(mean), at(50), at(95), at(99)}; // NOLINT(*-magic-numbers)
}

double interpolate(std::vector<Timing> const& timings, std::int64_t at)
{
    if (timings.empty())
    {
        throw inputError(
            "The latency table holds no measurement of that kind.", "flextron-export calibrate BUNDLE");
    }
    if (at <= timings.front().tokens || timings.size() == 1)
    {
        return timings.front().p95;
    }
    // The first one at or beyond the length; the last one if there is none.
    auto right = std::find_if(timings.begin() + 1, timings.end(), [at](Timing const& t) { return at <= t.tokens; });
    bool const beyond = right == timings.end();
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

std::optional<std::string> LatencyTable::caution() const
{
    constexpr double kIdle = 0.5;
    try
    {
        auto const& average = member(conditions, "load_average");
        if (!average.is_array() || average.size() != 2)
        {
            return std::nullopt;
        }
        auto const cores = static_cast<double>(readInteger(member(device, "cores"), "cores"));
        auto const threads = static_cast<double>(readInteger(member(device, "threads"), "threads"));
        // The measuring itself is part of the load after it.
        auto const load = std::max(readNumber(average[0], "load"), readNumber(average[1], "load") - threads);
        if (load < cores - threads + kIdle)
        {
            return std::nullopt;
        }
        auto const date = conditions.find("date");
        auto const when = date != conditions.end() && date->is_string() ? date->get<std::string>() : "some time ago";
        return "This device was measured while it was busy (" + when + ", load " + fixed(load, 1) + " on "
            + fixed(cores, 0) + " cores): times may be high.";
    }
    catch (JsonError const&) // the conditions are for people
    {
        return std::nullopt;
    }
}

Json LatencyTable::toJson() const
{
    Json costs = Json::object();
    for (auto const& [name, cost] : budgets)
    {
        costs[name] = {{"parameters", cost.parameters}, {"decode", timingsJson(cost.decode)},
            {"first_token", timingsJson(cost.firstToken)}, {"weight_bytes", cost.weightBytes},
            {"cache_bytes", cost.cacheBytes}};
    }
    return {{"format", kFormat}, {"version", kVersion}, {"device", device}, {"target", target}, {"layout", layout},
        {"dtype", dtype}, {"bundle", bundle}, {"conditions", conditions}, {"budgets", costs}};
}

LatencyTable LatencyTable::fromJson(Json const& value)
{
    if (readString(member(value, "format"), "format") != kFormat
        || readInteger(member(value, "version"), "version") != kVersion)
    {
        throw JsonError("it is no " + std::string(kFormat) + " of version " + std::to_string(kVersion));
    }
    LatencyTable table;
    table.device = readObjectAt(value, "device");
    static_cast<void>(readString(member(table.device, "id"), "the device's id"));
    table.target = readString(member(value, "target"), "target");
    table.layout = readString(member(value, "layout"), "layout");
    table.dtype = readString(member(value, "dtype"), "dtype");
    table.bundle = readString(member(value, "bundle"), "bundle");
    table.conditions = value.contains("conditions") ? readObjectAt(value, "conditions") : Json::object();
    for (auto const& [name, cost] : readObjectAt(value, "budgets").items())
    {
        table.budgets[name] = {readSize(cost, "parameters"), readTimings(member(cost, "decode")),
            readTimings(member(cost, "first_token")), readSize(cost, "weight_bytes"), readSize(cost, "cache_bytes")};
    }
    return table;
}

} // namespace flextron
