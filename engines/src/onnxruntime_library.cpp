#include "onnxruntime_library.h"

#include "error.h"

#include <cstdlib>
#include <dlfcn.h>
#include <string_view>
#include <vector>

namespace flextron
{

namespace
{

constexpr std::string_view kFix = "pip install onnxruntime, or pass the path of libonnxruntime.so.1 (--onnxruntime, "
                                  "or the environment variable FLEXTRON_ONNXRUNTIME)";

std::vector<std::string> candidates(std::string const& path)
{
    if (!path.empty())
    {
        return {path};
    }
    if (char const* const given = std::getenv("FLEXTRON_ONNXRUNTIME"); given != nullptr && *given != '\0')
    {
        return {given};
    }
    return {"libonnxruntime.so.1", "libonnxruntime.so"};
}

OrtApiBase const& apiBase(std::string const& path)
{
    std::vector<std::string> tried;
    for (auto const& candidate : candidates(path))
    {
        if (void* const library = ::dlopen(candidate.c_str(), RTLD_NOW | RTLD_LOCAL))
        {
            using GetApiBase = OrtApiBase const* (*)();
            auto const get = reinterpret_cast<GetApiBase>(::dlsym(library, "OrtGetApiBase"));
            if (get != nullptr)
            {
                return *get();
            }
            tried.push_back(candidate + " is no ONNX Runtime");
            continue;
        }
        char const* const reason = ::dlerror();
        tried.emplace_back(reason != nullptr ? reason : candidate.c_str());
    }
    throw Error(FLEXTRON_MISSING_DEPENDENCY, "ONNX Runtime cannot be loaded: " + join(tried, "; ") + ".", {}, kFix);
}

//! Loads the library for this process and returns its version.
std::string load(std::string const& path)
{
    auto const& base = apiBase(path);
    std::string version = base.GetVersionString();
    auto const* const api = base.GetApi(ORT_API_VERSION);
    if (api == nullptr)
    {
        throw Error(FLEXTRON_MISSING_DEPENDENCY,
            "ONNX Runtime " + version + " is too old: version 1." + std::to_string(ORT_API_VERSION)
                + " or newer is needed.",
            {}, kFix);
    }
    Ort::InitApi(api);
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
