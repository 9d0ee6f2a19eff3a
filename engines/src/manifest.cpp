#include "manifest.h"

#include "error.h"
#include "json.h"
#include "precision.h"
#include "sha256.h"
#include "tensors.h"

#include <algorithm>
#include <array>
#include <fstream>
#include <iterator>
#include <string_view>

namespace flextron
{

namespace
{

constexpr std::int64_t kVersion = 1;
constexpr std::array<std::string_view, 4> kLayouts{"panels", "shared", "per-budget", "routed"};

template <typename Names>
bool contains(Names const& names, std::string_view name)
{
    return std::find(names.begin(), names.end(), name) != names.end();
}

bool leavesBundle(std::string const& name)
{
    std::filesystem::path const path(name);
    return name.empty() || path.is_absolute() || name.find('\\') != std::string::npos
        || name.find('\0') != std::string::npos || contains(path, "..") || path.lexically_normal() == ".";
}

std::map<std::string, std::vector<std::string>> readLayouts(Json const& value)
{
    std::map<std::string, std::vector<std::string>> layouts;
    for (auto const& [dtype, names] : value.items())
    {
        for (auto const& name : names)
        {
            layouts[dtype].push_back(readString(name, "a layout"));
        }
    }
    return layouts;
}

std::map<std::string, FileRecord> readFiles(Json const& value)
{
    std::map<std::string, FileRecord> files;
    for (auto const& [name, record] : value.items())
    {
        files[name]
            = {readInteger(member(record, "bytes"), "a size"), readString(member(record, "sha256"), "a SHA-256")};
    }
    return files;
}

std::map<std::string, std::int64_t> readGroupSizes(Json const& value)
{
    std::map<std::string, std::int64_t> sizes;
    for (auto const& [dtype, record] : value.items())
    {
        if (auto const size = record.find("group_size"); size != record.end())
        {
            sizes[dtype] = readInteger(*size, "a group size");
        }
    }
    return sizes;
}

//! The prompt router; none if there is no router or one that chooses for every token.
std::optional<PromptRouterRecord> readPromptRouter(Json const& manifest, Candidates const& candidates)
{
    auto const router = manifest.find("router");
    if (router == manifest.end() || router->is_null() || readString(member(*router, "kind"), "kind") != "prompt")
    {
        return std::nullopt;
    }
    constexpr std::int64_t kRouterVersion = 1;
    if (readInteger(member(*router, "version"), "the router's version") > kRouterVersion)
    {
        throw bundleError("The router is of a newer version.", "upgrade the library");
    }
    PromptRouterRecord record;
    for (auto const& target : member(*router, "targets"))
    {
        record.targets.push_back(readNumber(target, "a target of the router"));
    }
    bool const descending = std::is_sorted(record.targets.rbegin(), record.targets.rend());
    if (record.targets.empty() || !descending || !(record.targets.back() > 0) || !(record.targets.front() <= 1))
    {
        throw JsonError("the router's targets are no shares of the latency");
    }
    auto const own = Candidates::fromJson(member(*router, "candidates"));
    if (own.groups != candidates.groups || own.neurons != candidates.neurons)
    {
        throw JsonError("the router has other candidates");
    }
    return record;
}

std::vector<std::string> missingFiles(Manifest const& manifest)
{
    std::vector<std::string> found;
    auto const need = [&](std::string const& name)
    {
        auto const sentence = name + " is not listed";
        if (!manifest.files.contains(name) && !contains(found, sentence))
        {
            found.push_back(sentence);
        }
    };
    if (manifest.promptRouter)
    {
        need(kPromptRouterFile);
    }
    for (auto const& [dtype, layouts] : manifest.layouts)
    {
        need(weightsFile(dtype));
        for (auto const& layout : layouts)
        {
            for (auto const& budget : manifest.budgets)
            {
                need(graphFile(layout, dtype, budget.name));
            }
        }
    }
    return found;
}

std::vector<std::string> faults(Manifest const& manifest)
{
    auto found = widthFaults(manifest.architecture, manifest.candidates, manifest.budgets);
    auto const precisions = precisionFaults(manifest);
    found.insert(found.end(), precisions.begin(), precisions.end());
    bool any = false;
    for (auto const& [dtype, layouts] : manifest.layouts)
    {
        for (auto const& layout : layouts)
        {
            any = true;
            if (!contains(kLayouts, layout))
            {
                found.push_back("unknown layout '" + layout + "'");
            }
        }
    }
    if (!any)
    {
        found.emplace_back("it has no graphs");
    }
    for (auto const& [name, record] : manifest.files)
    {
        if (leavesBundle(name))
        {
            found.push_back("the path '" + name + "' leaves the bundle");
        }
    }
    auto const missing = missingFiles(manifest);
    found.insert(found.end(), missing.begin(), missing.end());
    return found;
}

} // namespace

Manifest Manifest::fromJson(Json const& value)
{
    if (auto const format = readString(member(value, "format"), "format"); format != "flextron-bundle")
    {
        throw JsonError("its format is '" + format + "'");
    }
    if (auto const version = readInteger(member(value, "version"), "version"); version > kVersion)
    {
        throw bundleError("manifest.json has version " + std::to_string(version) + "; this library reads up to "
                + std::to_string(kVersion) + ".",
            "upgrade the library");
    }
    Manifest manifest;
    manifest.architecture = Architecture::fromJson(member(value, "architecture"));
    manifest.candidates = Candidates::fromJson(member(value, "candidates"));
    for (auto const& budget : member(value, "budgets"))
    {
        manifest.budgets.push_back(Budget::fromJson(budget));
    }
    manifest.layouts = readLayouts(member(value, "layouts"));
    manifest.files = readFiles(member(value, "files"));
    if (auto const quantization = value.find("quantization"); quantization != value.end())
    {
        manifest.groupSizes = readGroupSizes(*quantization);
    }
    manifest.promptRouter = readPromptRouter(value, manifest.candidates);
    if (auto const found = faults(manifest); !found.empty())
    {
        throw JsonError("it is not valid: " + join(found, "; "));
    }
    return manifest;
}

Bundle::Bundle(std::filesystem::path path, Manifest manifest)
    : mPath(std::move(path))
    , mManifest(std::move(manifest))
{
}

Bundle Bundle::open(std::filesystem::path const& path, bool hashes)
{
    auto const marker = path / "manifest.json";
    std::error_code ignored;
    if (!std::filesystem::is_regular_file(marker, ignored))
    {
        throw bundleError(path.string() + " is not a bundle: it has no manifest.json.",
            "flextron-export export CKPT --out BUNDLE");
    }
    try
    {
        Bundle bundle(path, Manifest::fromJson(readObject(marker)));
        bundle.checkFiles(hashes);
        return bundle;
    }
    catch (JsonError const& error)
    {
        throw bundleError(
            marker.string() + " is damaged: " + error.what() + ".", "copy the bundle again, or export it again");
    }
}

Budget const& Bundle::budget(std::string const& name) const
{
    std::vector<std::string> names;
    for (auto const& budget : mManifest.budgets)
    {
        if (budget.name == name)
        {
            return budget;
        }
        names.push_back(budget.name);
    }
    throw bundleError("The budget '" + name + "' was not exported.", "use one of: " + join(names, ", "));
}

std::string Bundle::graph(std::string const& layout, std::string const& dtype, Budget const& budget) const
{
    auto const layouts = mManifest.layouts.find(dtype);
    if (layouts != mManifest.layouts.end() && contains(layouts->second, layout))
    {
        return graphFile(layout, dtype, budget.name);
    }
    std::vector<std::string> there;
    for (auto const& [name, names] : mManifest.layouts)
    {
        there.push_back(name + ": " + join(names, ", "));
    }
    throw bundleError("The bundle has no " + layout + " graph in " + dtype + ".",
        "export again with --layout " + layout + " --dtype " + dtype, "it holds " + join(there, "; "));
}

SafetensorsFile Bundle::weights(std::string const& dtype) const
{
    auto const path = mPath / weightsFile(dtype);
    SafetensorsFile weights(path);
    auto const* const name = dtype == "fp16" ? "F16" : "F32";
    std::vector<std::string> found;
    for (auto const& spec : tensorSpecs(mManifest.architecture))
    {
        auto const info = weights.tensors().find(spec.name);
        if (info == weights.tensors().end() || info->second.shape != spec.shape || info->second.dtype != name)
        {
            found.push_back(spec.name + " should be " + name + " " + Json(spec.shape).dump());
        }
    }
    constexpr std::size_t kMost = 5;
    found.resize(std::min(found.size(), kMost));
    throwIfAny(FLEXTRON_BUNDLE_ERROR, path.string() + " does not fit the manifest", found);
    return weights;
}

void Bundle::checkFiles(bool hashes) const
{
    std::vector<std::string> found;
    if (hashes)
    {
        std::ifstream file(mPath / "manifest.sha256", std::ios::binary);
        std::string const sealed{std::istreambuf_iterator<char>(file), {}};
        if (sealed.empty())
        {
            found.emplace_back("manifest.sha256 is missing or cannot be read");
        }
        else if (sealed != sha256OfFile(mPath / "manifest.json") + "  manifest.json\n")
        {
            found.emplace_back("manifest.json was altered (its SHA-256 is not that in manifest.sha256)");
        }
    }
    for (auto const& [name, record] : mManifest.files)
    {
        auto const path = mPath / name;
        try
        {
            if (!std::filesystem::is_regular_file(path))
            {
                found.push_back(name + " is missing");
            }
            else if (auto const size = std::filesystem::file_size(path);
                     size != static_cast<std::uintmax_t>(record.bytes))
            {
                found.push_back(
                    name + " has " + std::to_string(size) + " bytes instead of " + std::to_string(record.bytes));
            }
            else if (hashes && sha256OfFile(path) != record.sha256)
            {
                found.push_back(name + " was altered (its SHA-256 differs)");
            }
        }
        catch (std::system_error const& error)
        {
            found.push_back(name + " cannot be read: " + error.code().message());
        }
    }
    throwIfAny(FLEXTRON_BUNDLE_ERROR, "the bundle " + mPath.string() + " is damaged", found,
        "copy it again, or export it again");
}

std::string weightsFile(std::string const& dtype)
{
    return "weights." + dtype + ".safetensors";
}

std::int64_t elementSize(std::string const& dtype) noexcept
{
    return dtype.ends_with("16") ? 2 : 4;
}

std::string graphFile(std::string const& layout, std::string const& dtype, std::string const& budget)
{
    return "graphs/" + layout + (layout == "per-budget" ? "." + budget : "") + "." + dtype + ".onnx";
}

} // namespace flextron
