//! The ONNX Runtime library, loaded at run time: a linked program would be bound to one release.
#pragma once

#define ORT_API_MANUAL_INIT
#include <onnxruntime_cxx_api.h>
#undef ORT_API_MANUAL_INIT

#include <memory>
#include <string>

namespace flextron
{

//! The library stays loaded until the process ends, as its threads and static objects must outlive every session.
class OnnxRuntimeLibrary
{
public:
    //! \param path the library; empty for $FLEXTRON_ONNXRUNTIME, then what the system's loader finds.
    //! Throws an Error of kind FLEXTRON_MISSING_DEPENDENCY that names what was tried.
    explicit OnnxRuntimeLibrary(std::string const& path);

    //! Such as 1.32.0.
    [[nodiscard]] std::string const& version() const noexcept
    {
        return mVersion;
    }

    [[nodiscard]] Ort::Env& environment() noexcept
    {
        return mEnvironment;
    }

private:
    std::string mVersion;
    Ort::Env mEnvironment; //!< after the version: none can exist, not even an empty one, before the library is loaded
};

} // namespace flextron
