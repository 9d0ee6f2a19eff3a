//! The runtime library of TensorRT or TensorRT-RTX, loaded at run time. Compiled only where its headers are.
#pragma once

#include "shared_library.h"

#include <NvInferRuntime.h>

#include <memory>
#include <string>

namespace flextron
{

//! Keeps the last error that TensorRT wrote; a library does not write to the program's output.
class TensorRtLog final : public nvinfer1::ILogger
{
public:
    void log(Severity severity, nvinfer1::AsciiChar const* message) noexcept override;

    //! As in ": what TensorRT said"; empty if it said nothing.
    [[nodiscard]] std::string last() const;

private:
    std::string mLast;
};

class TensorRtLibrary
{
public:
    //! \param target `tensorrt` or `tensorrt-rtx`; \param path the library, or empty.
    //! Throws an Error of kind FLEXTRON_MISSING_DEPENDENCY if it cannot be loaded, or its major release is not that of
    //! the headers.
    TensorRtLibrary(std::string const& target, std::string const& path);

    //! Such as 10.16.2.9.
    [[nodiscard]] std::string const& version() const noexcept
    {
        return mVersion;
    }

    //! Call it only where there is a GPU. Null if it fails.
    [[nodiscard]] std::unique_ptr<nvinfer1::IRuntime> makeRuntime(TensorRtLog& log) const;

private:
    SharedLibrary mLibrary;
    std::string mVersion;
};

} // namespace flextron
