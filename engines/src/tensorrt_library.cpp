#include "tensorrt_library.h"

#include "error.h"

#include <vector>

namespace flextron
{

namespace
{

constexpr char const* kCreate = "createInferRuntime_INTERNAL";

std::vector<std::string> usualNames(std::string const& target)
{
    auto const major = std::to_string(NV_TENSORRT_MAJOR);
    return target == "tensorrt" ? std::vector<std::string>{"libnvinfer.so." + major, "libnvinfer.so"}
                                : std::vector<std::string>{"libtensorrt_rtx.so." + major, "libtensorrt_rtx.so"};
}

} // namespace

void TensorRtLog::log(Severity severity, nvinfer1::AsciiChar const* message) noexcept
{
    if (severity <= Severity::kERROR)
    {
        try
        {
            mLast = message;
        }
        catch (...) // without memory, the error goes without its words
        {
            mLast.clear();
        }
    }
}

std::string TensorRtLog::last() const
{
    return mLast.empty() ? "" : ": " + mLast;
}

TensorRtLibrary::TensorRtLibrary(std::string const& target, std::string const& path)
    : mLibrary(target == "tensorrt" ? "TensorRT" : "TensorRT-RTX",
        libraryNames(path, target == "tensorrt" ? "FLEXTRON_TENSORRT" : "FLEXTRON_TENSORRT_RTX", usualNames(target)),
        kCreate, "install it (on a Jetson it is part of JetPack), or pass the path of the library")
{
    int major = 0;
    for (auto const* part : {"getInferLibMajorVersion", "getInferLibMinorVersion", "getInferLibPatchVersion",
             "getInferLibBuildVersion"})
    {
        auto* const ask = mLibrary.find<std::int32_t()>(part);
        auto const number = ask == nullptr ? 0 : ask();
        major = mVersion.empty() ? number : major;
        mVersion += (mVersion.empty() ? "" : ".") + std::to_string(number);
    }
    if (major != NV_TENSORRT_MAJOR)
    {
        throw Error(FLEXTRON_MISSING_DEPENDENCY,
            "Target " + target + ": the library here is release " + mVersion + ", this program was built for "
                + std::to_string(NV_TENSORRT_MAJOR) + ".",
            {}, "build it with the headers of that release");
    }
}

std::unique_ptr<nvinfer1::IRuntime> TensorRtLibrary::makeRuntime(TensorRtLog& log) const
{
    auto* const create = mLibrary.find<void*(void*, std::int32_t)>(kCreate);
    return std::unique_ptr<nvinfer1::IRuntime>(static_cast<nvinfer1::IRuntime*>(create(&log, NV_TENSORRT_VERSION)));
}

} // namespace flextron
