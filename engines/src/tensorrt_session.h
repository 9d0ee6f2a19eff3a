//! Engines on the GPU: weights uploaded once, KV caches updated in place, decode steps replayed as a CUDA graph where the
//! engine allows capture. Compiled only where TensorRT's headers are.
//!
//! NEVER RUN ON A GPU YET: written from the documentation of TensorRT and CUDA. The binding plan is tested.
#pragma once

#include "cuda_driver.h"
#include "engine_binding.h"
#include "safetensors.h"
#include "session.h"
#include "tensorrt_library.h"

#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

namespace flextron
{

class TensorRtSession final : public Session
{
public:
    //! The bundle outlives the session, and the engine was checked against it.
    TensorRtSession(TensorRtLibrary library, Bundle const& bundle, Setup const& setup, EngineRecord record);

    [[nodiscard]] std::int64_t maxCapacity() const noexcept override
    {
        return mMaxCapacity;
    }

    [[nodiscard]] std::int64_t memory() const override
    {
        return mMemory;
    }

    [[nodiscard]] std::unique_ptr<Cache> newCache(Budget const& budget, std::int64_t capacity) override;

private:
    friend class TensorRtCache;

    //! An execution context for one plan and profile, and what it was prepared for.
    struct Context
    {
        std::unique_ptr<nvinfer1::IExecutionContext> context;
        Cuda::Address cache{};
        std::int64_t length{};
        bool ran{}; //!< once since it was prepared, which capturing needs
        bool capturable{true};
        Cuda::Graph graph;
    };

    //! Runs one call of a sequence; the logits of its last token are in `mLogits` afterwards.
    void run(Budget const& budget, DeviceBuffer const& cache, std::int64_t capacity, std::span<std::int64_t const> ids,
        std::int64_t position);

    [[nodiscard]] nvinfer1::ICudaEngine& engine(std::string const& plan);
    [[nodiscard]] Context& context(EngineBinding const& binding);
    void prepare(Context& context, EngineBinding const& binding, Budget const& budget, Cuda::Address cache,
        std::int64_t capacity);
    void enqueue(Context& context, std::string const& plan);
    void loadPlugins(std::map<std::string, FileRecord> const& plugins);
    void uploadWeights();

    //! Address of an input that chooses the budget: on the device, or on the host where the engine reads it.
    [[nodiscard]] void* choice(std::string const& plan, std::string const& name, std::vector<std::int64_t> const& values);

    TensorRtLibrary mLibrary;
    Bundle const& mBundle;
    EngineRecord mRecord;
    std::filesystem::path mFolder;
    std::int64_t mMaxCapacity;
    std::int64_t mElementSize;
    std::int64_t mMemory{};
    TensorRtLog mLog;
    // In this order, so that what uses the device goes before it.
    Cuda mCuda;
    std::unique_ptr<nvinfer1::IRuntime> mRuntime;
    std::map<std::string, DeviceBuffer> mTokens; //!< token inputs and logits, for the largest call
    std::optional<DeviceBuffer> mWeights;
    BufferLayout mWeightLayout;
    std::map<std::pair<std::string, std::vector<std::int64_t>>, DeviceBuffer> mChoices;
    std::map<std::pair<std::string, std::vector<std::int64_t>>, std::vector<std::int64_t>> mHostChoices;
    std::map<std::string, std::unique_ptr<nvinfer1::ICudaEngine>> mEngines;
    std::map<std::pair<std::string, std::int64_t>, Context> mContexts; //!< by plan and profile
    std::vector<float> mLogits;
};

} // namespace flextron
