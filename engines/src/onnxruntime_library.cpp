#include "onnxruntime_library.h"

#include "error.h"
#include "shared_library.h"

#include <mutex>

namespace flextron
{

namespace
{

constexpr char const* kFix = "pip install onnxruntime, or pass the path of libonnxruntime.so.1 (--onnxruntime, "
                                  "or the environment variable FLEXTRON_ONNXRUNTIME)";

//! The C++ interface has one library per process, and threads may be using it.
void initialise(OrtApi const& api)
{
    static std::mutex mutex;
    static OrtApi const* first = nullptr;
    std::scoped_lock const lock(mutex);
    if (first == nullptr)
    {
        first = &api;
        Ort::InitApi(first);
    }
    else if (first != &api)
    {
        throw Error(FLEXTRON_MISSING_DEPENDENCY, "This process has loaded another ONNX Runtime already.", {},
            "give all runners the same library");
    }
}

//! Loads the library for this process and returns its version.
std::string load(std::string const& path)
{
    using GetApiBase = OrtApiBase const*();
    constexpr char const* kSymbol = "OrtGetApiBase";
    SharedLibrary const library("ONNX Runtime",
        libraryNames(path, "FLEXTRON_ONNXRUNTIME", {"libonnxruntime.so.1", "libonnxruntime.so"}), kSymbol, kFix);
    auto const& base = *library.find<GetApiBase>(kSymbol)();
    std::string version = base.GetVersionString();
    auto const* const api = base.GetApi(ORT_API_VERSION);
    if (api == nullptr)
    {
        throw Error(FLEXTRON_MISSING_DEPENDENCY,
            "ONNX Runtime " + version + " is too old: version 1." + std::to_string(ORT_API_VERSION)
                + " or newer is needed.",
            {}, kFix);
    }
    initialise(*api);
    return version;
}

} // namespace

// What goes wrong arrives as an exception; a library does not write to the program's output.
OnnxRuntimeLibrary::OnnxRuntimeLibrary(std::string const& path)
    : mVersion(load(path))
    , mEnvironment(ORT_LOGGING_LEVEL_FATAL, "flextron")
{
}

} // namespace flextron
