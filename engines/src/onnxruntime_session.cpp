#include "onnxruntime_session.h"

#include "error.h"
#include "memory.h"
#include "onnxruntime_cache.h"
#include "precision.h"
#include "tensors.h"

#include <algorithm>

namespace flextron
{

Ort::Session loadGraph(
    OnnxRuntimeLibrary& library, Bundle const& bundle, std::string const& graph, std::int32_t threads, bool lowMemory)
{
    try
    {
        Ort::SessionOptions options;
        options.SetIntraOpNumThreads(threads);
        options.SetInterOpNumThreads(1);
        options.SetLogSeverityLevel(ORT_LOGGING_LEVEL_FATAL);
        // Graphs lie in graphs/, the weights they refer to beside the manifest.
        auto const folder = std::filesystem::canonical(bundle.path());
        options.AddConfigEntry("session.model_external_initializers_file_folder_path", folder.c_str());
        if (lowMemory)
        {
            options.AddConfigEntry("session.disable_prepacking", "1");
        }
        return {library.environment(), (bundle.path() / graph).c_str(), options};
    }
    catch (Ort::Exception const& error)
    {
        throw Error(FLEXTRON_TARGET_ERROR,
            "ONNX Runtime " + library.version() + " refuses " + graph + ": " + error.what(),
            "the graph or the weights it refers to are damaged, or this release lacks operators",
            "flextron-export verify " + bundle.path().string() + ", or use onnxruntime 1.30 or newer");
    }
}

OnnxRuntimeSession::OnnxRuntimeSession(
    std::shared_ptr<OnnxRuntimeLibrary> library, Bundle const& bundle, OnnxRuntimeSettings settings)
    : mLibrary(std::move(library))
    , mBundle(bundle)
    , mSettings(std::move(settings))
    , mElement(mSettings.dtype == "fp16" ? ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT16 : ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT)
    , mElementSize(static_cast<std::size_t>(elementSize(mSettings.dtype)))
    , mHost(Ort::MemoryInfo::CreateCpu(OrtDeviceAllocator, OrtMemTypeDefault))
{
    if (mSettings.lowMemory && isQuantized(mSettings.dtype))
    {
        throw Error(FLEXTRON_TARGET_ERROR,
            "Precision " + mSettings.dtype + " does not run with its weights left in the mapped file.",
            "ONNX Runtime multiplies them fast only as it rearranges them: else a token takes 100 times as long",
            "run without low memory: " + mSettings.dtype + " is small; or use fp32, which runs in either way");
    }
    if (mSettings.layout == "shared")
    {
        mWeights.emplace(bundle.weights(mSettings.dtype));
    }
    if (mSettings.layout != "per-budget")
    {
        static_cast<void>(session(bundle.manifest().budgets.front())); // all budgets share it
    }
}

std::int64_t OnnxRuntimeSession::memory() const
{
    // What a session takes from memory that the process has free already does not show as growth.
    bool const packed = mSettings.layout == "panels" && !mSettings.lowMemory;
    return std::max(mMemory, packed ? mBundle.manifest().files.at(weightsFile(mSettings.dtype)).bytes : 0);
}

std::unique_ptr<Cache> OnnxRuntimeSession::newCache(Budget const& budget, std::int64_t capacity)
{
    return std::make_unique<OnnxRuntimeCache>(*this, budget, capacity);
}

Ort::Session& OnnxRuntimeSession::session(Budget const& budget)
{
    auto const graph = mBundle.graph(mSettings.layout, mSettings.dtype, budget);
    if (auto const found = mSessions.find(graph); found != mSessions.end())
    {
        return found->second;
    }
    auto const before = privateMemory();
    auto session = loadGraph(*mLibrary, mBundle, graph, mSettings.threads, mSettings.lowMemory);
    if (!mSettings.lowMemory)
    {
        dropMappedPages(mBundle.path() / weightsFile(mSettings.dtype));
    }
    mMemory += std::max<std::int64_t>(privateMemory() - before, 0);
    return mSessions.emplace(graph, std::move(session)).first->second;
}

OnnxRuntimeSession::BudgetInputs const& OnnxRuntimeSession::inputs(Budget const& budget)
{
    auto const found = mInputs.find(budget.name);
    if (found != mInputs.end())
    {
        return found->second;
    }
    BudgetInputs inputs;
    if (mSettings.layout == "panels")
    {
        inputs = widthIndices(budget);
    }
    else if (mWeights)
    {
        inputs = weightPrefixes(budget);
    }
    return mInputs.emplace(budget.name, std::move(inputs)).first->second;
}

OnnxRuntimeSession::BudgetInputs OnnxRuntimeSession::widthIndices(Budget const& budget) const
{
    auto const& candidates = mBundle.manifest().candidates;
    auto const layers = budget.layers.size();
    BudgetInputs inputs;
    inputs.indices.reserve(2 * layers); // values point into it
    for (auto const& width : budget.layers)
    {
        inputs.indices.push_back(indexOf(candidates.groups, width.groups));
    }
    for (auto const& width : budget.layers)
    {
        inputs.indices.push_back(indexOf(candidates.neurons, width.neurons));
    }
    auto const shape = static_cast<std::int64_t>(layers);
    auto const add = [&](char const* name, std::int64_t* data)
    { inputs.values.emplace_back(name, Ort::Value::CreateTensor<std::int64_t>(mHost, data, layers, &shape, 1)); };
    add("groups", inputs.indices.data());
    add("neurons", inputs.indices.data() + layers);
    return inputs;
}

OnnxRuntimeSession::BudgetInputs OnnxRuntimeSession::weightPrefixes(Budget const& budget) const
{
    auto const& architecture = mBundle.manifest().architecture;
    BudgetInputs inputs;
    for (auto const& spec : tensorSpecs(architecture))
    {
        auto const shape = spec.active(architecture, budget);
        auto const all = (*mWeights)[spec.name];
        auto const size = all.size() / static_cast<std::size_t>(spec.shape.front())
            * static_cast<std::size_t>(shape.front());
        // Inputs are only read; the interface takes them without const.
        auto* const data = const_cast<std::byte*>(all.data());
        inputs.values.emplace_back(
            spec.name, Ort::Value::CreateTensor(mHost, data, size, shape.data(), shape.size(), mElement));
    }
    return inputs;
}

} // namespace flextron
