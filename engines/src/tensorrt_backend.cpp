#include "tensorrt_backend.h"

#include "cuda_driver.h"
#include "engine_record.h"
#include "error.h"

#ifdef FLEXTRON_TENSORRT
#include "tensorrt_library.h"
#include "tensorrt_session.h"
#endif

namespace flextron
{

namespace
{

GpuDevice requireGpu(std::string const& target)
{
    auto found = findGpu();
    if (!found)
    {
        throw Error(FLEXTRON_TARGET_ERROR,
            "Target " + target + " needs an NVIDIA GPU with its driver, and none answers here.",
            "no GPU, no driver, or a container started without access to it",
            "run on the device, or use the target onnxruntime-cpu");
    }
    return *found;
}

#ifndef FLEXTRON_TENSORRT
[[noreturn]] void refuse(std::string const& target)
{
    throw Error(FLEXTRON_MISSING_DEPENDENCY, "This library was built without " + target + ".",
        "its headers were not found when it was built",
        "build it with -DFLEXTRON_TENSORRT_INCLUDE_DIR=DIRECTORY (engines/README.md), or use the target onnxruntime-cpu");
}
#endif

} // namespace

TensorRtBackend::TensorRtBackend(std::string target, std::string library)
    : mTarget(std::move(target))
    , mLibrary(std::move(library))
{
}

Setup TensorRtBackend::preferred() const
{
    return {mTarget, "shared", "fp16"};
}

Json TensorRtBackend::libraries() const
{
#ifdef FLEXTRON_TENSORRT
    return {{mTarget == "tensorrt" ? "tensorrt" : "tensorrt_rtx", TensorRtLibrary(mTarget, mLibrary).version()}};
#else
    refuse(mTarget);
#endif
}

Json TensorRtBackend::device() const
{
    auto const gpu = requireGpu(mTarget);
    return {{"gpu", gpu.name}, {"compute_capability", gpu.computeCapability}, {"driver", gpu.driver}};
}

std::unique_ptr<Session> TensorRtBackend::open(Bundle const& bundle, Setup const& setup)
{
    auto const record = EngineRecord::read(engineFolder(bundle, setup), setup);
    EngineHost host;
    if (auto const gpu = findGpu())
    {
        host.computeCapability = gpu->computeCapability;
    }
#ifdef FLEXTRON_TENSORRT
    TensorRtLibrary library(mTarget, mLibrary);
    host.version = library.version();
#endif
    checkEngine(record, bundle, setup, host);
    static_cast<void>(requireGpu(mTarget));
#ifdef FLEXTRON_TENSORRT
    return std::make_unique<TensorRtSession>(std::move(library), bundle, setup, record);
#else
    refuse(mTarget);
#endif
}

} // namespace flextron
