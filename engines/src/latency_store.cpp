#include "latency_store.h"

#include "atomic_file.h"
#include "device.h"
#include "error.h"
#include "json.h"
#include "sha256.h"

#include <algorithm>
#include <cstdlib>
#include <set>
#include <system_error>

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

std::string fileName(Setup const& setup, std::string const& device)
{
    return device + "." + setup.target + "." + setup.layout + "." + setup.dtype + ".json";
}

std::filesystem::path bundleFile(Bundle const& bundle, std::string const& name)
{
    return bundle.path() / "latency" / name;
}

} // namespace

std::string Setup::text() const
{
    return target + ", " + layout + ", " + dtype;
}

std::set<std::string> sourceFiles(Bundle const& bundle, Setup const& setup)
{
    std::set<std::string> names{weightsFile(setup.dtype)};
    for (auto const& budget : bundle.manifest().budgets)
    {
        names.insert(bundle.graph(setup.layout, setup.dtype, budget));
    }
    return names;
}

std::string contentHash(Bundle const& bundle, Setup const& setup)
{
    auto const& manifest = bundle.manifest();
    Json widths = Json::array();
    for (auto const& budget : manifest.budgets)
    {
        Json layers = Json::array();
        for (auto const& width : budget.layers)
        {
            layers.push_back(Json::array({width.groups, width.neurons}));
        }
        widths.push_back(Json::array({budget.name, layers}));
    }
    Json files = Json::array();
    for (auto const& name : sourceFiles(bundle, setup))
    {
        files.push_back(Json::array({name, manifest.files.at(name).sha256}));
    }
    auto const folder = bundle.path() / "engines" / setup.target / (setup.layout + "." + setup.dtype);
    return sha256(pythonJson(Json::array({files, widths, plans(folder / "engine.json")})));
}

std::optional<LatencyTable> findTable(Bundle const& bundle, Setup const& setup, std::string const& device)
{
    auto const name = fileName(setup, device);
    auto const content = contentHash(bundle, setup);
    for (auto const& file : {cacheFile(content, name), bundleFile(bundle, name)})
    {
        try
        {
            if (auto table = LatencyTable::fromJson(readObject(file)); table.bundle == content)
            {
                return table;
            }
        }
        catch (JsonError const&) // usually there is none
        {
        }
    }
    return std::nullopt;
}

std::filesystem::path saveTable(Bundle const& bundle, LatencyTable const& table)
{
    auto const name = fileName({table.target, table.layout, table.dtype}, table.device["id"].get<std::string>());
    auto const text = table.toJson().dump(1) + "\n";
    auto const cached = cacheFile(table.bundle, name);
    auto const inBundle = bundleFile(bundle, name);
    try
    {
        writeFile(inBundle, text);
    }
    catch (std::system_error const&)
    {
        writeFile(cached, text);
        return cached;
    }
    std::error_code ignored;
    std::filesystem::remove(cached, ignored); // it would be read first
    return inBundle;
}

LatencyTable readTable(std::filesystem::path const& file, Bundle const& bundle, Setup const& setup)
{
    try
    {
        auto table = LatencyTable::fromJson(readObject(file));
        if (table.target != setup.target || table.layout != setup.layout || table.dtype != setup.dtype)
        {
            throw JsonError("it was measured with " + Setup{table.target, table.layout, table.dtype}.text()
                + ", but the bundle runs with " + setup.text());
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
