//! Where latency tables lie in a bundle, and which one belongs to this device.
#pragma once

#include "latency_table.h"
#include "manifest.h"

#include <filesystem>
#include <string>

namespace flextron
{

//! How a bundle runs: what a table must have been measured with.
struct Setup
{
    std::string target;
    std::string layout;
    std::string dtype;
};

//! SHA-256 over what latency depends on: weights, graphs, compiled engines, and the budgets' widths.
[[nodiscard]] std::string contentHash(Bundle const& bundle, Setup const& setup);

//! The table of a device for what the bundle holds now. Throws an Error of kind FLEXTRON_INPUT_ERROR if there is none.
[[nodiscard]] LatencyTable loadTable(Bundle const& bundle, Setup const& setup, std::string const& device);

//! A table that the caller names. Throws an Error of kind FLEXTRON_INPUT_ERROR if it is none, or of another bundle.
[[nodiscard]] LatencyTable readTable(
    std::filesystem::path const& file, Bundle const& bundle, Setup const& setup);

} // namespace flextron
