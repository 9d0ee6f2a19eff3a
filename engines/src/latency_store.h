//! Where latency tables lie in a bundle, and which one belongs to this device.
#pragma once

#include "latency_table.h"
#include "manifest.h"

#include <filesystem>
#include <optional>
#include <set>
#include <string>

namespace flextron
{

//! How a bundle runs: what a table must have been measured with.
struct Setup
{
    std::string target;
    std::string layout;
    std::string dtype;

    //! As in "onnxruntime-cpu, panels, fp32".
    [[nodiscard]] std::string text() const;
};

//! The files of a bundle that decide what a setup computes: weights and graphs.
[[nodiscard]] std::set<std::string> sourceFiles(Bundle const& bundle, Setup const& setup);

//! SHA-256 over what latency depends on: weights, graphs, compiled engines, and the budgets' widths.
[[nodiscard]] std::string contentHash(Bundle const& bundle, Setup const& setup);

//! The table of a device for what the bundle holds now; none if it is missing or damaged: measuring is the answer to
//! either.
[[nodiscard]] std::optional<LatencyTable> findTable(
    Bundle const& bundle, Setup const& setup, std::string const& device);

//! Writes a table into the bundle or, if the bundle cannot be written, into the user's cache directory.
//! Throws std::system_error if neither can be written.
//! \return where it is.
std::filesystem::path saveTable(Bundle const& bundle, LatencyTable const& table);

//! A table that the caller names. Throws an Error of kind FLEXTRON_INPUT_ERROR if it is none, or of another bundle.
[[nodiscard]] LatencyTable readTable(
    std::filesystem::path const& file, Bundle const& bundle, Setup const& setup);

} // namespace flextron
