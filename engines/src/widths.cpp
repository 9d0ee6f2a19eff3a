#include "widths.h"

#include "error.h"

#include <algorithm>
#include <numeric>
#include <set>

namespace flextron
{

namespace
{

std::vector<std::string> candidateFaults(
    std::string const& name, std::vector<std::int64_t> const& values, std::int64_t full)
{
    auto const descends = [](std::int64_t a, std::int64_t b) { return a >= b; };
    if (values.empty() || values.front() < 1
        || std::adjacent_find(values.begin(), values.end(), descends) != values.end())
    {
        return {"candidate " + name + " are not positive and ascending"};
    }
    if (values.back() != full)
    {
        return {"the last candidate of " + name + " is " + std::to_string(values.back()) + ", but the full width is "
            + std::to_string(full)};
    }
    return {};
}

bool isNameCharacter(unsigned char c) noexcept
{
    // Letters beyond ASCII come as UTF-8, whose bytes are all above 127.
    return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '.' || c == '_'
        || c == '-' || c > 127;
}

std::vector<std::string> budgetFaults(
    Architecture const& architecture, Candidates const& candidates, Budget const& budget)
{
    std::vector<std::string> found;
    if (budget.name.empty() || !std::all_of(budget.name.begin(), budget.name.end(), isNameCharacter))
    {
        found.push_back("the name '" + budget.name
            + "' is empty or has characters other than letters, digits, '.', '_' and '-'");
    }
    if (budget.layers.size() != static_cast<std::size_t>(architecture.numLayers))
    {
        found.push_back("budget '" + budget.name + "' has " + std::to_string(budget.layers.size())
            + " layers, the model has " + std::to_string(architecture.numLayers));
    }
    for (std::size_t i = 0; i < budget.layers.size(); ++i)
    {
        auto const& width = budget.layers[i];
        if (indexOf(candidates.groups, width.groups) < 0 || indexOf(candidates.neurons, width.neurons) < 0)
        {
            found.push_back("budget '" + budget.name + "', layer " + std::to_string(i) + ": "
                + std::to_string(width.groups) + " groups, " + std::to_string(width.neurons)
                + " neurons are not among the candidates");
            break;
        }
    }
    return found;
}

} // namespace

std::int64_t Budget::parameters(Architecture const& architecture) const noexcept
{
    auto const add = [&architecture](std::int64_t sum, LayerWidth const& width)
    { return sum + architecture.layerParameters(width.groups, width.neurons); };
    return std::accumulate(layers.begin(), layers.end(), architecture.normParameters(), add);
}

Budget Budget::fromJson(Json const& value)
{
    Budget budget;
    budget.name = readString(member(value, "name"), "the name of a budget");
    auto const& layers = member(value, "layers");
    if (!layers.is_array())
    {
        throw JsonError("the layers of budget '" + budget.name + "' are no list");
    }
    for (auto const& layer : layers)
    {
        auto const pair = readIntegers(layer, "a layer of budget '" + budget.name + "'");
        if (pair.size() != 2)
        {
            throw JsonError("a layer of budget '" + budget.name + "' is no pair of groups and neurons");
        }
        budget.layers.push_back({pair[0], pair[1]});
    }
    if (auto const loss = value.find("validation_loss"); loss != value.end() && !loss->is_null())
    {
        budget.validationLoss = readNumber(*loss, "a validation loss");
        if (!(*budget.validationLoss >= 0))
        {
            throw JsonError("budget '" + budget.name + "' has a negative validation loss");
        }
    }
    return budget;
}

Candidates Candidates::fromJson(Json const& value)
{
    return {readIntegers(member(value, "groups"), "candidates.groups"),
        readIntegers(member(value, "neurons"), "candidates.neurons")};
}

std::int64_t indexOf(std::vector<std::int64_t> const& candidates, std::int64_t width) noexcept
{
    auto const found = std::find(candidates.begin(), candidates.end(), width);
    return found == candidates.end() ? -1 : found - candidates.begin();
}

std::vector<std::string> widthFaults(
    Architecture const& architecture, Candidates const& candidates, std::vector<Budget> const& budgets)
{
    auto found = candidateFaults("groups", candidates.groups, architecture.numKvHeads);
    auto const neurons = candidateFaults("neurons", candidates.neurons, architecture.intermediateSize);
    found.insert(found.end(), neurons.begin(), neurons.end());
    if (budgets.empty())
    {
        found.emplace_back("there is no budget");
    }
    std::set<std::string> names;
    for (auto const& budget : budgets)
    {
        if (!names.insert(budget.name).second)
        {
            found.push_back("the name '" + budget.name + "' is used twice");
        }
        auto const faults = budgetFaults(architecture, candidates, budget);
        found.insert(found.end(), faults.begin(), faults.end());
    }
    return found;
}

} // namespace flextron
