//! What this device is, as far as latency depends on it: the same fingerprint as the Python runner's, so that both use
//! one latency table.
#pragma once

#include "json.h"

#include <cstdint>
#include <string>

namespace flextron
{

//! Cores that this process may use.
[[nodiscard]] std::int32_t usableCores();

//! Describes the device. `id` changes with anything else in it, and fits a file name.
//! \param libraries name -> version of what decides how fast graphs run.
//! \param accelerator what a backend says of its own device; its `gpu` names the device, else the processor does.
[[nodiscard]] Json fingerprint(
    Json const& libraries, Json const& accelerator, std::int32_t threads, bool lowMemory);

//! JSON text exactly as Python's json.dumps writes it (sorted keys): what is hashed in both languages.
[[nodiscard]] std::string pythonJson(Json const& value);

} // namespace flextron
