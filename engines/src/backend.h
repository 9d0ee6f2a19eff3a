//! What runs engines or graphs on a device: one interface, whatever library is behind it.
#pragma once

#include "latency_store.h"
#include "manifest.h"
#include "session.h"

#include <cstdint>
#include <memory>
#include <string>

namespace flextron
{

struct BackendSettings
{
    std::string library; //!< path; empty for what an environment variable names, then the system's
    std::int32_t threads{1}; //!< of the processor
    bool lowMemory{}; //!< leave constant weights in the mapped file instead of rearranging them for speed
};

constexpr char const* kOnnxRuntimeCpu = "onnxruntime-cpu";

class Backend
{
public:
    Backend() = default;
    virtual ~Backend() = default;
    Backend(Backend const&) = delete;
    Backend& operator=(Backend const&) = delete;
    Backend(Backend&&) = delete;
    Backend& operator=(Backend&&) = delete;

    //! Names of the layout and precision that it takes if the bundle has them.
    [[nodiscard]] virtual Setup preferred() const = 0;

    //! What the device's fingerprint says of libraries and, beside the processor, of the device.
    [[nodiscard]] virtual Json libraries() const = 0;
    [[nodiscard]] virtual Json device() const = 0;

    //! Loads a bundle, which outlives the session. Throws an Error that names what is wrong with bundle, engine or device.
    [[nodiscard]] virtual std::unique_ptr<Session> open(Bundle const& bundle, Setup const& setup) = 0;
};

//! \param target `onnxruntime-cpu`, `tensorrt` or `tensorrt-rtx`. Throws an Error: FLEXTRON_INPUT_ERROR if there is no
//! such target, FLEXTRON_MISSING_DEPENDENCY if its library cannot be loaded.
[[nodiscard]] std::unique_ptr<Backend> makeBackend(std::string const& target, BackendSettings const& settings);

} // namespace flextron
