//! What `engine.json` of a TensorRT target says, and whether the engine fits this bundle, library and device.
#pragma once

#include "latency_store.h"
#include "manifest.h"

#include <cstdint>
#include <filesystem>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace flextron
{

//! The places of the optimisation profiles of one budget.
struct Profiles
{
    std::int64_t decode{};
    std::int64_t prefill{};
};

//! One serialized engine.
struct PlanRecord
{
    std::string file; //!< its name in the engine folder
    FileRecord content;
    std::int64_t capacity{}; //!< cache slots per sequence
    std::map<std::string, Profiles> profiles; //!< by budget
};

//! What runs engines here: a library release (empty if it is not loaded) and a device (none if there is none).
struct EngineHost
{
    std::string version;
    std::optional<std::int64_t> computeCapability; //!< such as 89
};

struct EngineRecord
{
    std::string target;
    std::string library; //!< module that compiled it
    std::string libraryVersion; //!< an engine runs with no other
    std::string layout;
    std::string dtype;
    std::vector<std::int64_t> computeCapabilities;
    std::int64_t maxBatch{};
    std::int64_t maxLength{}; //!< most tokens per sequence in a prefill call
    std::map<std::string, std::string> source; //!< bundle files it was compiled from -> SHA-256
    std::vector<PlanRecord> plans;
    std::map<std::string, FileRecord> plugins; //!< libraries beside the engines, to be loaded before them

    //! Cache capacities there are engines for, ascending.
    [[nodiscard]] std::vector<std::int64_t> capacities() const;

    //! The engine for a budget and capacity. Throws an Error of kind FLEXTRON_TARGET_ERROR if it was not built.
    [[nodiscard]] PlanRecord const& plan(std::string const& budget, std::int64_t capacity) const;

    //! The smallest capacity there are engines for that holds the tokens; an Error of that kind if none does.
    [[nodiscard]] std::int64_t fittingCapacity(std::int64_t tokens) const;

    //! The command that builds it again.
    [[nodiscard]] std::string rebuild() const;

    //! JsonError if it is damaged or of a newer version.
    [[nodiscard]] static EngineRecord fromJson(Json const& value);

    //! Reads the record in an engine folder; an Error of kind FLEXTRON_TARGET_ERROR if there is none or it is damaged.
    [[nodiscard]] static EngineRecord read(std::filesystem::path const& folder, Setup const& setup);
};

//! Where the engines of a setup lie.
[[nodiscard]] std::filesystem::path engineFolder(Bundle const& bundle, Setup const& setup);

//! Throws an Error of kind FLEXTRON_TARGET_ERROR with every reason why an engine must not run here.
void checkEngine(EngineRecord const& record, Bundle const& bundle, Setup const& setup, EngineHost const& host);

} // namespace flextron
