//! Measures what every budget costs on this device (docs/latency-table.md).
#pragma once

#include "latency_store.h"
#include "latency_table.h"
#include "manifest.h"
#include "session.h"

#include <cstddef>
#include <cstdint>
#include <functional>
#include <vector>

namespace flextron
{

constexpr std::int64_t kRepeats = 96;
constexpr double kMaxSeconds = 60;

struct CalibrationOptions
{
    std::vector<std::int64_t> contexts{64, 256, 1024}; //!< lengths at which decode steps are measured
    std::vector<std::int64_t> promptLengths{16, 128, 512}; //!< lengths at which first tokens are measured
    std::int64_t repeats{kRepeats}; //!< decode steps per budget and context; a twelfth, but at least 6, first tokens
    double maxSeconds{kMaxSeconds}; //!< with at least 6 measurements each, stop early to stay near this
    std::function<void(std::size_t done, std::size_t total)> progress{}; //!< called after every length
};

//! Measures every budget of a bundle in a session; budgets take turns, so that noise on the machine hits all alike.
//! Lengths are cut to what the model holds.
//! \param setup how the session runs the bundle.
//! \param device fingerprint of this device, with `id`.
//! Throws an Error of kind FLEXTRON_INPUT_ERROR if an option cannot be used.
[[nodiscard]] LatencyTable calibrate(Session& session, Bundle const& bundle, Setup const& setup, Json const& device,
    CalibrationOptions const& options);

} // namespace flextron
