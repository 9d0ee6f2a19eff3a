#include "selection.h"

#include "error.h"
#include "number_text.h"

#include <algorithm>
#include <utility>

namespace flextron
{

namespace
{

//! A budget with what it was measured to cost and how far that is from the target.
struct Entry
{
    Budget const* budget{};
    std::optional<Numbers> numbers{};
    double excess{}; //!< the largest ratio of a number to its limit; at most 1 if the target is met
};

//! By quality, best first; equal ones by name, so that the order never depends on the input's.
std::vector<Entry> ranked(std::vector<Budget> const& budgets, LatencyTable const& table)
{
    std::vector<Entry> entries;
    entries.reserve(budgets.size());
    for (auto const& budget : budgets)
    {
        entries.push_back({&budget});
    }
    bool const losses = std::all_of(
        budgets.begin(), budgets.end(), [](Budget const& budget) { return budget.validationLoss.has_value(); });
    auto const key = [&](Entry const& entry)
    {
        auto const cost = table.budgets.find(entry.budget->name);
        auto const parameters = cost == table.budgets.end() ? 0.0 : static_cast<double>(cost->second.parameters);
        return std::pair(losses ? *entry.budget->validationLoss : -parameters, std::string_view(entry.budget->name));
    };
    std::sort(entries.begin(), entries.end(), [&key](Entry const& a, Entry const& b) { return key(a) < key(b); });
    return entries;
}

void measure(Entry& entry, LatencyTable const& table, LatencyTarget const& target, std::int64_t context)
{
    auto const found = table.budgets.find(entry.budget->name);
    if (found == table.budgets.end())
    {
        return;
    }
    auto const& cost = found->second;
    Numbers numbers;
    auto const exceeds = [&entry](double value, double limit) { entry.excess = std::max(entry.excess, value / limit); };
    if (target.msPerToken)
    {
        numbers.msPerToken = interpolate(cost.decode, context);
        exceeds(*numbers.msPerToken, *target.msPerToken);
    }
    if (target.firstTokenMs)
    {
        numbers.firstTokenMs = interpolate(cost.firstToken, *target.promptLength);
        exceeds(*numbers.firstTokenMs, *target.firstTokenMs);
    }
    if (target.memoryBytes)
    {
        numbers.memoryBytes = cost.memoryBytes(context);
        exceeds(*numbers.memoryBytes, *target.memoryBytes);
    }
    entry.numbers = numbers;
}

std::string loss(Budget const& budget)
{
    constexpr int kDecimals = 4;
    return fixed(*budget.validationLoss, kDecimals);
}

Rejection rejection(Entry const& entry, Budget const& picked, LatencyTarget const& target)
{
    auto const& budget = *entry.budget;
    if (!entry.numbers)
    {
        return {budget.name, {}, "not-measured", "it is not in this device's latency table"};
    }
    auto const numbers = entry.numbers->text();
    if (entry.excess > 1)
    {
        return {budget.name, entry.numbers, "over-target", numbers + " is over " + target.text()};
    }
    auto const better = picked.validationLoss && budget.validationLoss
        ? "a validation loss of " + loss(picked) + " instead of " + loss(budget)
        : std::string("more parameters");
    return {budget.name, entry.numbers, "lower-quality",
        "it fits with " + numbers + ", but " + picked.name + " has " + better};
}

Json numbersJson(std::optional<Numbers> const& numbers)
{
    if (!numbers)
    {
        return nullptr;
    }
    Json value = Json::object();
    if (numbers->msPerToken)
    {
        value["ms_per_token"] = *numbers->msPerToken;
    }
    if (numbers->firstTokenMs)
    {
        value["first_token_ms"] = *numbers->firstTokenMs;
    }
    if (numbers->memoryBytes)
    {
        value["memory_bytes"] = static_cast<std::int64_t>(*numbers->memoryBytes);
    }
    return value;
}

} // namespace

std::string Numbers::text() const
{
    std::vector<std::string> parts;
    if (msPerToken)
    {
        parts.push_back(formatMilliseconds(*msPerToken) + " per token (p95)");
    }
    if (firstTokenMs)
    {
        parts.push_back(formatMilliseconds(*firstTokenMs) + " to the first token (p95)");
    }
    if (memoryBytes)
    {
        parts.push_back(formatMegabytes(*memoryBytes));
    }
    return join(parts, ", ");
}

Json Selection::toJson() const
{
    Json rejections = Json::array();
    for (auto const& each : rejected)
    {
        rejections.push_back({{"budget", each.budget}, {"numbers", numbersJson(each.numbers)}, {"why", each.why},
            {"reason", each.reason}});
    }
    return {{"budget", budget}, {"reason", reason}, {"numbers", numbersJson(numbers)}, {"met", met},
        {"rejected", rejections}};
}

std::string Selection::text() const
{
    std::string lines = reason;
    for (auto const& each : rejected)
    {
        lines += "\n  not " + each.budget + ": " + each.reason;
    }
    return lines;
}

Selection select(std::vector<Budget> const& budgets, LatencyTable const& table, LatencyTarget const& target,
    std::optional<std::int64_t> context, bool bestEffort)
{
    auto const at = context.value_or(table.longestContext());
    auto entries = ranked(budgets, table);
    std::vector<Entry const*> measured;
    std::vector<Entry const*> fitting;
    for (auto& entry : entries)
    {
        measure(entry, table, target, at);
        if (entry.numbers)
        {
            measured.push_back(&entry);
        }
        if (entry.numbers && entry.excess <= 1)
        {
            fitting.push_back(&entry);
        }
    }
    if (measured.empty())
    {
        throw inputError("The latency table measured none of these budgets.", "flextron-export calibrate BUNDLE");
    }
    auto const where = "at a context of " + std::to_string(at) + " tokens";
    auto const closest = [](Entry const* a, Entry const* b) { return a->excess < b->excess; };
    auto const& picked
        = fitting.empty() ? **std::min_element(measured.begin(), measured.end(), closest) : *fitting.front();
    auto const& name = picked.budget->name;
    std::string reason;
    if (!fitting.empty())
    {
        reason = name + " is the " + (fitting.size() > 1 ? "best" : "only") + " budget that meets " + target.text()
            + ": " + picked.numbers->text() + " " + where + ".";
    }
    else
    {
        reason = "No budget meets " + target.text() + " on this device " + where + "; the "
            + target.nearest() + ", " + name + ", takes " + picked.numbers->text() + ".";
        if (!bestEffort)
        {
            throw Error(FLEXTRON_NO_BUDGET_FITS, reason, {},
                "raise the target, or pass --best-effort to run that budget all the same");
        }
        reason += " It runs as the best effort.";
    }
    Selection selection{name, reason, picked.numbers, {}, !fitting.empty()};
    for (auto const& entry : entries)
    {
        if (&entry != &picked)
        {
            selection.rejected.push_back(rejection(entry, *picked.budget, target));
        }
    }
    return selection;
}

} // namespace flextron
