#include "onnxruntime_cache.h"

#include "error.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <numeric>

namespace flextron
{

namespace
{

constexpr std::array<char const*, 2> kNames{"k", "v"};

Ort::Value tensor(Ort::MemoryInfo const& memory, std::vector<std::int64_t>& data, std::span<std::int64_t const> shape)
{
    return Ort::Value::CreateTensor<std::int64_t>(memory, data.data(), data.size(), shape.data(), shape.size());
}

} // namespace

OnnxRuntimeCache::OnnxRuntimeCache(OnnxRuntimeSession& session, Budget const& budget, std::int64_t capacity)
    : mSession(session)
    , mBudget(budget)
    , mCapacity(capacity)
{
    mBuffers.reserve(kNames.size() * budget.layers.size());
    for (auto const& width : budget.layers)
    {
        for ([[maybe_unused]] auto const* name : kNames)
        {
            mBuffers.emplace_back(bufferSize(width, capacity));
        }
    }
}

void OnnxRuntimeCache::grow(std::int64_t capacity)
{
    mCalls.clear(); // they point into the old buffers
    for (std::size_t i = 0; i < mBuffers.size(); ++i)
    {
        auto const& width = mBudget.layers[i / kNames.size()];
        AlignedBuffer larger(bufferSize(width, capacity));
        auto const groups = static_cast<std::size_t>(width.groups);
        auto const oldSize = mBuffers[i].size() / groups;
        auto const newSize = larger.size() / groups;
        for (std::size_t group = 0; group < groups; ++group)
        {
            std::memcpy(larger.data() + group * newSize, mBuffers[i].data() + group * oldSize, oldSize);
        }
        mBuffers[i] = std::move(larger);
    }
    mCapacity = capacity;
}

std::span<float const> OnnxRuntimeCache::step(std::span<std::int64_t const> ids, std::int64_t position)
{
    auto& prepared = call(ids.size());
    std::copy(ids.begin(), ids.end(), prepared.ids.begin());
    std::iota(prepared.positions.begin(), prepared.positions.end(), position);
    prepared.write.front() = position;
    prepared.rows.front() = static_cast<std::int64_t>(ids.size()) - 1;
    try
    {
        mSession.session(mBudget).Run(Ort::RunOptions{nullptr}, prepared.binding);
    }
    catch (Ort::Exception const& error)
    {
        throw Error(FLEXTRON_TARGET_ERROR,
            "ONNX Runtime " + mSession.mLibrary->version() + " cannot run budget '" + mBudget.name
                + "': " + error.what(),
            "a damaged graph, or too little memory", "flextron-export verify " + mSession.mBundle.path().string());
    }
    return prepared.logits;
}

std::size_t OnnxRuntimeCache::bufferSize(LayerWidth const& width, std::int64_t capacity) const noexcept
{
    return static_cast<std::size_t>(width.groups * capacity * mSession.mBundle.manifest().architecture.headDim)
        * mSession.mElementSize;
}

OnnxRuntimeCache::Call& OnnxRuntimeCache::call(std::size_t length)
{
    if (auto const found = mCalls.find(length); found != mCalls.end())
    {
        return found->second;
    }
    if (length > 1) // only the decode step, which comes again and again, is worth keeping
    {
        mCalls.clear();
    }
    return mCalls.emplace(length, prepare(length)).first->second;
}

OnnxRuntimeCache::Call OnnxRuntimeCache::prepare(std::size_t length)
{
    auto const& memory = mSession.mHost;
    auto const vocabulary = mSession.mBundle.manifest().architecture.vocabSize;
    Call call;
    call.ids.resize(length);
    call.positions.resize(length);
    call.write.resize(1);
    call.rows.resize(1);
    call.logits.resize(static_cast<std::size_t>(vocabulary));
    try
    {
        call.binding = Ort::IoBinding(mSession.session(mBudget));
        std::array<std::int64_t, 2> const tokens{1, static_cast<std::int64_t>(length)};
        std::array<std::int64_t, 1> const one{1};
        std::array<std::int64_t, 2> const logits{1, vocabulary};
        call.binding.BindInput("ids", tensor(memory, call.ids, tokens));
        call.binding.BindInput("positions", tensor(memory, call.positions, tokens));
        call.binding.BindInput("write", tensor(memory, call.write, one));
        call.binding.BindInput("rows", tensor(memory, call.rows, one));
        call.binding.BindOutput("logits",
            Ort::Value::CreateTensor<float>(
                memory, call.logits.data(), call.logits.size(), logits.data(), logits.size()));
        for (auto const& [name, value] : mSession.inputs(mBudget).values)
        {
            call.binding.BindInput(name.c_str(), value);
        }
        bindCache(call.binding);
    }
    catch (Ort::Exception const& error)
    {
        throw Error(FLEXTRON_TARGET_ERROR,
            "The graph of budget '" + mBudget.name + "' does not fit the manifest: " + error.what(), {},
            "copy the bundle again, or export it again");
    }
    return call;
}

void OnnxRuntimeCache::bindCache(Ort::IoBinding& binding)
{
    auto const headDim = mSession.mBundle.manifest().architecture.headDim;
    for (std::size_t i = 0; i < mBuffers.size(); ++i)
    {
        auto const layer = i / kNames.size();
        auto const name = std::string(kNames[i % kNames.size()]) + "." + std::to_string(layer);
        std::array<std::int64_t, 4> const shape{1, mBudget.layers[layer].groups, mCapacity, headDim};
        auto const value = Ort::Value::CreateTensor(mSession.mHost, mBuffers[i].data(), mBuffers[i].size(),
            shape.data(), shape.size(), mSession.mElement);
        // The same memory on both sides, so that nothing is copied per token.
        binding.BindInput(name.c_str(), value);
        binding.BindOutput((name + ".out").c_str(), value);
    }
}

} // namespace flextron
