#include "backend.h"

#include "error.h"
#include "onnxruntime_session.h"
#include "tensorrt_backend.h"

namespace flextron
{

namespace
{

class OnnxRuntimeBackend final : public Backend
{
public:
    explicit OnnxRuntimeBackend(BackendSettings const& settings)
        : mSettings(settings)
        , mLibrary(std::make_shared<OnnxRuntimeLibrary>(settings.library))
    {
    }

    [[nodiscard]] Setup preferred() const override
    {
        return {kOnnxRuntimeCpu, "panels", "fp32"};
    }

    [[nodiscard]] Json libraries() const override
    {
        return {{"onnxruntime", mLibrary->version()}};
    }

    [[nodiscard]] Json device() const override
    {
        return Json::object();
    }

    [[nodiscard]] std::unique_ptr<Session> open(Bundle const& bundle, Setup const& setup) override
    {
        return std::make_unique<OnnxRuntimeSession>(mLibrary, bundle,
            OnnxRuntimeSettings{setup.layout, setup.dtype, mSettings.threads, mSettings.lowMemory});
    }

private:
    BackendSettings mSettings;
    std::shared_ptr<OnnxRuntimeLibrary> mLibrary;
};

} // namespace

std::unique_ptr<Backend> makeBackend(std::string const& target, BackendSettings const& settings)
{
    if (target == kOnnxRuntimeCpu)
    {
        return std::make_unique<OnnxRuntimeBackend>(settings);
    }
    if (target == "tensorrt" || target == "tensorrt-rtx")
    {
        if (settings.lowMemory)
        {
            throw inputError("Target " + target + " has no low-memory mode.", "leave it out");
        }
        return std::make_unique<TensorRtBackend>(target, settings.library);
    }
    throw inputError(
        "There is no target '" + target + "'.", "use one of: " + std::string(kOnnxRuntimeCpu) + ", tensorrt, tensorrt-rtx");
}

} // namespace flextron
