#include "tensorrt_session.h"

#include "error.h"
#include "mapped_file.h"

#include <algorithm>
#include <array>
#include <numeric>

namespace flextron
{

namespace
{

constexpr char const* kPluginLibrary = "libflextron_tensorrt_plugins.so";

nvinfer1::Dims dimensions(std::vector<std::int64_t> const& shape)
{
    nvinfer1::Dims dims{};
    dims.nbDims = static_cast<std::int32_t>(shape.size());
    std::copy(shape.begin(), shape.end(), std::begin(dims.d));
    return dims;
}

void* pointer(Cuda::Address address)
{
    return reinterpret_cast<void*>(address); // NOLINT(performance-no-int-to-ptr): a device address
}

Error targetError(std::string const& what, std::string const& fix)
{
    return Error(FLEXTRON_TARGET_ERROR, what, {}, fix);
}

} // namespace

//! The KV cache of one sequence in one device buffer.
class TensorRtCache final : public Cache
{
public:
    TensorRtCache(TensorRtSession& session, Budget const& budget, std::int64_t capacity)
        : mSession(session)
        , mBudget(budget)
        , mCapacity(capacity)
        , mBuffer(session.mCuda, layout(capacity).bytes)
    {
    }

    [[nodiscard]] std::int64_t capacity() const noexcept override
    {
        return mCapacity;
    }

    void grow(std::int64_t capacity) override
    {
        auto const larger = mSession.mRecord.fittingCapacity(capacity);
        if (larger <= mCapacity)
        {
            return;
        }
        auto const& cuda = mSession.mCuda;
        cuda.makeCurrent();
        auto const from = layout(mCapacity);
        auto const to = layout(larger);
        DeviceBuffer buffer(cuda, to.bytes);
        auto const slot = static_cast<std::size_t>(
            mSession.mBundle.manifest().architecture.headDim * mSession.mElementSize);
        auto const oldRow = static_cast<std::size_t>(mCapacity) * slot; // one row per group
        auto const newRow = static_cast<std::size_t>(larger) * slot;
        for (std::size_t layer = 0; layer < mBudget.layers.size(); ++layer)
        {
            for (auto const* name : {"k.", "v."})
            {
                auto const key = name + std::to_string(layer);
                for (std::size_t group = 0; group < static_cast<std::size_t>(mBudget.layers[layer].groups); ++group)
                {
                    cuda.copy(buffer.address() + to.offsets.at(key) + group * newRow,
                        mBuffer.address() + from.offsets.at(key) + group * oldRow, oldRow);
                }
            }
        }
        cuda.wait();
        mBuffer = std::move(buffer);
        mCapacity = larger;
    }

    std::span<float const> step(std::span<std::int64_t const> ids, std::int64_t position) override
    {
        auto const most = static_cast<std::size_t>(mSession.mRecord.maxLength);
        while (!ids.empty())
        {
            auto const part = ids.first(std::min(most, ids.size()));
            mSession.run(mBudget, mBuffer, mCapacity, part, position);
            position += static_cast<std::int64_t>(part.size());
            ids = ids.subspan(part.size());
        }
        return mSession.mLogits;
    }

private:
    [[nodiscard]] BufferLayout layout(std::int64_t capacity) const
    {
        return cacheLayout(mSession.mBundle.manifest().architecture, mSession.mElementSize, mBudget, {1, 1, capacity, 1});
    }

    TensorRtSession& mSession;
    Budget const& mBudget;
    std::int64_t mCapacity;
    DeviceBuffer mBuffer;
};

TensorRtSession::TensorRtSession(
    TensorRtLibrary library, Bundle const& bundle, Setup const& setup, EngineRecord record)
    : mLibrary(std::move(library))
    , mBundle(bundle)
    , mRecord(std::move(record))
    , mFolder(engineFolder(bundle, setup))
    , mMaxCapacity(mRecord.capacities().back())
    , mElementSize(elementSize(setup.dtype))
    , mRuntime(mLibrary.makeRuntime(mLog))
    , mLogits(static_cast<std::size_t>(bundle.manifest().architecture.vocabSize))
{
    if (!mRuntime)
    {
        throw targetError("TensorRT's runtime cannot be created" + mLog.last() + ".", "see whether its release fits the driver");
    }
    loadPlugins(mRecord.plugins);
    constexpr std::size_t kInteger = sizeof(std::int64_t);
    auto const tokens = static_cast<std::size_t>(mRecord.maxLength) * kInteger;
    std::pair<char const*, std::size_t> const sizes[] = {{"ids", tokens}, {"positions", tokens}, {"write", kInteger},
        {"rows", kInteger}, {"logits", mLogits.size() * sizeof(float)}};
    for (auto const& [name, size] : sizes)
    {
        mTokens.emplace(name, DeviceBuffer(mCuda, size));
    }
    if (mRecord.layout == "shared")
    {
        uploadWeights();
    }
    mCuda.wait();
}

std::unique_ptr<Cache> TensorRtSession::newCache(Budget const& budget, std::int64_t capacity)
{
    mCuda.makeCurrent();
    return std::make_unique<TensorRtCache>(*this, budget, mRecord.fittingCapacity(capacity));
}

void TensorRtSession::run(Budget const& budget, DeviceBuffer const& cache, std::int64_t capacity,
    std::span<std::int64_t const> ids, std::int64_t position)
{
    mCuda.makeCurrent();
    auto const length = static_cast<std::int64_t>(ids.size());
    auto const binding = bind(mBundle.manifest(), mRecord, budget, {1, length, capacity, 1});
    auto& prepared = context(binding);
    // A decode step differs from the last one only in what the token buffers hold.
    if (prepared.cache != cache.address() || prepared.length != length)
    {
        prepare(prepared, binding, budget, cache.address(), capacity);
        prepared.cache = cache.address();
        prepared.length = length;
    }
    std::vector<std::int64_t> positions(ids.size());
    std::iota(positions.begin(), positions.end(), position);
    auto const last = length - 1;
    auto const upload = [this](char const* name, std::span<std::int64_t const> values)
    { mCuda.upload(mTokens.at(name).address(), values.data(), values.size_bytes()); };
    upload("ids", ids);
    upload("positions", positions);
    upload("write", {&position, 1});
    upload("rows", {&last, 1});
    enqueue(prepared, binding.plan);
    mCuda.download(mLogits.data(), mTokens.at("logits").address(), mLogits.size() * sizeof(float));
    mCuda.wait();
}

void TensorRtSession::enqueue(Context& context, std::string const& plan)
{
    // A NULL stream cannot be captured; this one is our own.
    auto* const stream = static_cast<cudaStream_t>(mCuda.stream());
    if (context.ran && context.length == 1 && context.capturable && !context.graph)
    {
        context.graph = mCuda.capture([&] { return context.context->enqueueV3(stream); });
        context.capturable = context.graph != nullptr;
    }
    if (context.graph)
    {
        mCuda.launch(context.graph);
        return;
    }
    if (!context.context->enqueueV3(stream))
    {
        throw targetError("TensorRT could not run " + plan + mLog.last() + ".", mRecord.rebuild());
    }
    context.ran = true;
}

nvinfer1::ICudaEngine& TensorRtSession::engine(std::string const& plan)
{
    auto& found = mEngines[plan];
    if (!found)
    {
        MappedFile const file(mFolder / plan);
        found.reset(mRuntime->deserializeCudaEngine(file.bytes().data(), file.bytes().size()));
        if (!found)
        {
            throw targetError("The engine " + plan + " could not be loaded" + mLog.last() + ".", mRecord.rebuild());
        }
        mMemory += static_cast<std::int64_t>(file.bytes().size());
    }
    return *found;
}

TensorRtSession::Context& TensorRtSession::context(EngineBinding const& binding)
{
    // One for each profile, so that a captured graph outlives what other budgets do.
    auto& found = mContexts[{binding.plan, binding.profile}];
    if (!found.context)
    {
        auto* const stream = static_cast<cudaStream_t>(mCuda.stream());
        found.context.reset(engine(binding.plan)
                                .createExecutionContext(nvinfer1::ExecutionContextAllocationStrategy::kON_PROFILE_CHANGE));
        if (!found.context
            || !found.context->setOptimizationProfileAsync(static_cast<std::int32_t>(binding.profile), stream))
        {
            found.context.reset();
            throw targetError("TensorRT cannot set up " + binding.plan + mLog.last() + ".",
                "use a narrower budget or a shorter context, or " + mRecord.rebuild());
        }
        mCuda.wait();
    }
    return found;
}

void TensorRtSession::prepare(Context& context, EngineBinding const& binding, Budget const& budget,
    Cuda::Address cache, std::int64_t capacity)
{
    context.graph = nullptr;
    context.ran = false;
    for (auto const& [name, shape] : binding.shapes)
    {
        if (!context.context->setInputShape(name.c_str(), dimensions(shape)))
        {
            throw targetError("The engine " + binding.plan + " refuses a shape of " + name + mLog.last() + ".", mRecord.rebuild());
        }
    }
    auto const set = [&](std::string const& name, void* address)
    {
        if (!context.context->setTensorAddress(name.c_str(), address))
        {
            throw targetError("The engine " + binding.plan + " has no tensor " + name + ".", mRecord.rebuild());
        }
    };
    for (auto const& [name, buffer] : mTokens)
    {
        set(name, pointer(buffer.address()));
    }
    for (auto const& name : binding.weights)
    {
        set(name, pointer(mWeights->address() + mWeightLayout.offsets.at(name)));
    }
    for (auto const& [name, values] : binding.choices)
    {
        set(name, choice(binding.plan, name, values));
    }
    auto const places
        = cacheLayout(mBundle.manifest().architecture, mElementSize, budget, {1, 1, capacity, 1});
    for (auto const& name : binding.caches)
    {
        auto* const address = pointer(cache + places.offsets.at(name));
        set(name, address);
        set(name + ".out", address);
    }
}

void* TensorRtSession::choice(
    std::string const& plan, std::string const& name, std::vector<std::int64_t> const& values)
{
    std::pair const key(name, values);
    if (engine(plan).getTensorLocation(name.c_str()) == nvinfer1::TensorLocation::kHOST)
    {
        return mHostChoices.try_emplace(key, values).first->second.data();
    }
    auto found = mChoices.find(key);
    if (found == mChoices.end())
    {
        auto const size = values.size() * sizeof(std::int64_t);
        found = mChoices.emplace(key, DeviceBuffer(mCuda, size)).first;
        mCuda.upload(found->second.address(), values.data(), size);
        mCuda.wait();
    }
    return pointer(found->second.address());
}

void TensorRtSession::loadPlugins(std::map<std::string, FileRecord> const& plugins)
{
    if (!plugins.contains(kPluginLibrary))
    {
        return;
    }
    auto const path = (mFolder / kPluginLibrary).string();
    if (mRuntime->getPluginRegistry().loadLibrary(path.c_str()) == nullptr)
    {
        throw targetError(
            "The plugin library " + path + ", which has HeadSubsetAttention, cannot be loaded" + mLog.last() + ".",
            "build it for this device and release of TensorRT (plugins/), then " + mRecord.rebuild());
    }
}

void TensorRtSession::uploadWeights()
{
    auto const weights = mBundle.weights(mRecord.dtype);
    std::vector<std::pair<std::string, std::size_t>> sizes;
    for (auto const& [name, info] : weights.tensors())
    {
        sizes.emplace_back(name, weights[name].size());
    }
    mWeightLayout = BufferLayout::of(sizes);
    mWeights.emplace(mCuda, mWeightLayout.bytes);
    for (auto const& [name, offset] : mWeightLayout.offsets)
    {
        auto const bytes = weights[name];
        mCuda.upload(mWeights->address() + offset, bytes.data(), bytes.size());
    }
    mCuda.wait();
    mMemory += static_cast<std::int64_t>(mWeightLayout.bytes);
}

} // namespace flextron
