#include "latency_store.h"

#include "device.h"
#include "error.h"
#include "json.h"
#include "sha256.h"

#include <algorithm>
#include <cstdlib>
#include <set>

namespace flextron
{

namespace
{

//! Hashes of compiled engines; none where nothing was compiled.
Json plans(std::filesystem::path const& record)
{
    std::vector<std::string> hashes;
    std::error_code ignored;
    if (std::filesystem::exists(record, ignored))
    {
        try
        {
            auto const engine = readObject(record);
            for (auto const& plan : engine.value("plans", Json::array()))
            {
                hashes.push_back(readString(member(plan, "sha256"), "a SHA-256"));
            }
        }
        catch (std::runtime_error const&) // damage is for the backend to tell
        {
            hashes.clear();
        }
    }
    std::sort(hashes.begin(), hashes.end());
    return hashes;
}

//! Where the table of a bundle that cannot be written lies.
std::filesystem::path cacheFile(std::string const& content, std::string const& name)
{
    constexpr std::size_t kPrefix = 16;
    auto const variable = [](char const* key)
    {
        auto const* const value = std::getenv(key); // NOLINT(concurrency-mt-unsafe): nothing here sets variables
        return std::filesystem::path(value == nullptr ? "" : value);
    };
    auto base = variable("XDG_CACHE_HOME");
    if (!base.is_absolute())
    {
        base = variable("HOME") / ".cache";
    }
    return base / "flextron-export" / "latency" / (content.substr(0, kPrefix) + "." + name);
}

std::string describe(Setup const& setup)
{
    return setup.target + ", " + setup.layout + ", " + setup.dtype;
}

} // namespace

std::string contentHash(Bundle const& bundle, Setup const& setup)
{
    auto const& manifest = bundle.manifest();
    std::set<std::string> names{weightsFile(setup.dtype)};
    Json widths = Json::array();
    for (auto const& budget : manifest.budgets)
    {
        names.insert(bundle.graph(setup.layout, setup.dtype, budget));
        Json layers = Json::array();
        for (auto const& width : budget.layers)
        {
            layers.push_back(Json::array({width.groups, width.neurons}));
        }
        widths.push_back(Json::array({budget.name, layers}));
    }
    Json files = Json::array();
    for (auto const& name : names)
    {
        files.push_back(Json::array({name, manifest.files.at(name).sha256}));
    }
    auto const folder = bundle.path() / "engines" / setup.target / (setup.layout + "." + setup.dtype);
    return sha256(pythonJson(Json::array({files, widths, plans(folder / "engine.json")})));
}

LatencyTable loadTable(Bundle const& bundle, Setup const& setup, std::string const& device)
{
    auto const name = device + "." + setup.target + "." + setup.layout + "." + setup.dtype + ".json";
    auto const fix = "flextron-export calibrate " + bundle.path().string();
    auto const content = contentHash(bundle, setup);
    auto const read = [&content](std::filesystem::path const& file)
    {
        auto table = LatencyTable::fromJson(readObject(file));
        if (table.bundle != content)
        {
            throw JsonError("it was measured with other weights, graphs or budgets");
        }
        return table;
    };
    try
    {
        return read(cacheFile(content, name));
    }
    catch (JsonError const&) // usually there is none: the bundle could be written
    {
    }
    try
    {
        return read(bundle.path() / "latency" / name);
    }
    catch (JsonError const& error)
    {
        throw inputError(bundle.path().string() + " has no measurements of " + describe(setup)
                + " on this device: latency/" + name + ": " + error.what() + ".",
            fix);
    }
}

LatencyTable readTable(std::filesystem::path const& file, Bundle const& bundle, Setup const& setup)
{
    try
    {
        auto table = LatencyTable::fromJson(readObject(file));
        if (table.target != setup.target || table.layout != setup.layout || table.dtype != setup.dtype)
        {
            throw JsonError("it was measured with " + describe({table.target, table.layout, table.dtype})
                + ", but the bundle runs with " + describe(setup));
        }
        if (table.bundle != contentHash(bundle, setup))
        {
            throw JsonError("it was measured with other weights, graphs or budgets");
        }
        return table;
    }
    catch (JsonError const& error)
    {
        throw inputError("The latency table " + file.string() + " cannot be used: " + error.what() + ".",
            "flextron-export calibrate " + bundle.path().string());
    }
}

} // namespace flextron
