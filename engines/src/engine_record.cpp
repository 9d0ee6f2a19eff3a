#include "engine_record.h"

#include "error.h"
#include "sha256.h"

#include <algorithm>
#include <set>
#include <system_error>

namespace flextron
{

namespace
{

std::int64_t readCount(Json const& object, char const* key)
{
    auto const value = readInteger(member(object, key), key);
    if (value < 0)
    {
        throw JsonError("'" + std::string(key) + "' is negative");
    }
    return value;
}

//! A name in the engine folder.
std::string readName(Json const& value)
{
    auto name = readString(value, "the name of a file");
    if (name.empty() || name == ".." || std::filesystem::path(name).filename() != name)
    {
        throw JsonError("the file '" + name + "' lies elsewhere");
    }
    return name;
}

FileRecord readFile(Json const& value)
{
    return {readCount(value, "bytes"), readString(member(value, "sha256"), "a SHA-256")};
}

PlanRecord readPlan(Json const& value)
{
    PlanRecord plan{readName(member(value, "file")), readFile(value), readCount(value, "capacity"), {}};
    for (auto const& [budget, phases] : member(value, "profiles").items())
    {
        plan.profiles[budget] = {readCount(phases, "decode"), readCount(phases, "prefill")};
    }
    return plan;
}

std::string joined(std::vector<std::int64_t> const& numbers, char const* separator)
{
    std::vector<std::string> texts;
    std::transform(numbers.begin(), numbers.end(), std::back_inserter(texts),
        [](std::int64_t number) { return std::to_string(number); });
    return join(texts, separator);
}

//! What is wrong with a file beside the record; nothing if it is as it was written.
std::optional<std::string> fault(std::filesystem::path const& path, FileRecord const& written)
{
    auto const name = path.filename().string();
    try
    {
        if (!std::filesystem::is_regular_file(path))
        {
            return name + " is missing";
        }
        if (static_cast<std::int64_t>(std::filesystem::file_size(path)) != written.bytes
            || sha256OfFile(path) != written.sha256)
        {
            return name + " was altered (its size or SHA-256 differs)";
        }
        return std::nullopt;
    }
    catch (std::system_error const& error)
    {
        return name + " cannot be read: " + error.code().message();
    }
}

} // namespace

std::vector<std::int64_t> EngineRecord::capacities() const
{
    std::set<std::int64_t> found;
    for (auto const& plan : plans)
    {
        found.insert(plan.capacity);
    }
    return {found.begin(), found.end()};
}

PlanRecord const& EngineRecord::plan(std::string const& budget, std::int64_t capacity) const
{
    auto const found = std::find_if(plans.begin(), plans.end(),
        [&](PlanRecord const& plan) { return plan.capacity == capacity && plan.profiles.contains(budget); });
    if (found == plans.end())
    {
        throw Error(FLEXTRON_TARGET_ERROR,
            "No engine was built for budget '" + budget + "' and capacity " + std::to_string(capacity) + ".", {},
            rebuild());
    }
    return *found;
}

std::int64_t EngineRecord::fittingCapacity(std::int64_t tokens) const
{
    auto const there = capacities();
    auto const found = std::lower_bound(there.begin(), there.end(), tokens);
    if (found == there.end())
    {
        throw Error(FLEXTRON_TARGET_ERROR,
            "The engine was built for up to " + std::to_string(there.back()) + " tokens per sequence, not "
                + std::to_string(tokens) + ".",
            {}, rebuild() + " with a larger --capacity");
    }
    return *found;
}

std::string EngineRecord::rebuild() const
{
    return "flextron-export build BUNDLE --target " + target + " --layout " + layout + " --dtype " + dtype
        + " --capacity " + joined(capacities(), ",") + " --max-batch " + std::to_string(maxBatch) + " --max-length "
        + std::to_string(maxLength);
}

EngineRecord EngineRecord::fromJson(Json const& value)
{
    constexpr std::int64_t kVersion = 1;
    if (readString(member(value, "format"), "format") != "flextron-engine")
    {
        throw JsonError("its format is another");
    }
    if (readInteger(member(value, "version"), "version") > kVersion)
    {
        throw JsonError("it is from a newer version; upgrade the library");
    }
    EngineRecord record;
    record.target = readString(member(value, "target"), "target");
    record.library = readString(member(value, "library"), "library");
    record.libraryVersion = readString(member(value, "library_version"), "library_version");
    record.layout = readString(member(value, "layout"), "layout");
    record.dtype = readString(member(value, "dtype"), "dtype");
    record.computeCapabilities = readIntegers(member(value, "compute_capabilities"), "compute_capabilities");
    record.maxBatch = readCount(value, "max_batch");
    record.maxLength = readCount(value, "max_length");
    for (auto const& [name, hash] : member(value, "source").items())
    {
        record.source[name] = readString(hash, "a SHA-256");
    }
    for (auto const& plan : member(value, "plans"))
    {
        record.plans.push_back(readPlan(plan));
    }
    auto const plugins = value.value("plugins", Json::object());
    for (auto const& [name, file] : plugins.items())
    {
        record.plugins[readName(name)] = readFile(file);
    }
    if (record.plans.empty() || record.maxBatch < 1 || record.maxLength < 1)
    {
        throw JsonError("it has no engines");
    }
    return record;
}

EngineRecord EngineRecord::read(std::filesystem::path const& folder, Setup const& setup)
{
    auto const file = folder / "engine.json";
    auto const build = "flextron-export build BUNDLE --target " + setup.target + " --layout " + setup.layout
        + " --dtype " + setup.dtype;
    std::error_code ignored;
    if (!std::filesystem::exists(file, ignored))
    {
        throw Error(FLEXTRON_TARGET_ERROR,
            "The bundle has no " + setup.layout + "." + setup.dtype + " engine for " + setup.target + ".", {}, build);
    }
    try
    {
        return fromJson(readObject(file));
    }
    catch (JsonError const& error)
    {
        throw Error(FLEXTRON_TARGET_ERROR, file.string() + " is damaged: " + error.what() + ".", {}, build);
    }
}

std::filesystem::path engineFolder(Bundle const& bundle, Setup const& setup)
{
    return bundle.path() / "engines" / setup.target / (setup.layout + "." + setup.dtype);
}

void checkEngine(EngineRecord const& record, Bundle const& bundle, Setup const& setup, EngineHost const& host)
{
    std::vector<std::string> found;
    if (record.target != setup.target || record.layout != setup.layout || record.dtype != setup.dtype)
    {
        found.push_back("it is for " + Setup{record.target, record.layout, record.dtype}.text());
    }
    if (!host.version.empty() && record.libraryVersion != host.version
        && !record.libraryVersion.starts_with(host.version + "."))
    {
        found.push_back("it was built by " + record.library + " " + record.libraryVersion + ", here is " + host.version);
    }
    auto const& built = record.computeCapabilities;
    if (host.computeCapability && std::find(built.begin(), built.end(), *host.computeCapability) == built.end())
    {
        found.push_back("it was built for SM " + joined(built, ", ") + ", this device has SM "
            + std::to_string(*host.computeCapability));
    }
    auto const folder = engineFolder(bundle, setup);
    auto const check = [&](std::string const& name, FileRecord const& written)
    {
        if (auto const wrong = fault(folder / name, written))
        {
            found.push_back(*wrong);
        }
    };
    for (auto const& plan : record.plans)
    {
        check(plan.file, plan.content);
    }
    for (auto const& [name, written] : record.plugins)
    {
        check(name, written);
    }
    for (auto const& name : sourceFiles(bundle, setup))
    {
        auto const there = record.source.find(name);
        if (there == record.source.end() || there->second != bundle.manifest().files.at(name).sha256)
        {
            found.push_back("it was built from another " + name);
        }
    }
    throwIfAny(FLEXTRON_TARGET_ERROR, "the " + setup.target + " engine cannot run here", found, record.rebuild());
}

} // namespace flextron
