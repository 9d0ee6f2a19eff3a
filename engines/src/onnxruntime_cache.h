//! The KV cache of one sequence in host memory, bound as input and output of every call.
#pragma once

#include "aligned_buffer.h"
#include "onnxruntime_session.h"

#include <cstdint>
#include <map>
#include <span>
#include <vector>

namespace flextron
{

class OnnxRuntimeCache final : public Cache
{
public:
    OnnxRuntimeCache(OnnxRuntimeSession& session, Budget const& budget, std::int64_t capacity);

    [[nodiscard]] std::int64_t capacity() const noexcept override
    {
        return mCapacity;
    }

    void grow(std::int64_t capacity) override;
    std::span<float const> step(std::span<std::int64_t const> ids, std::int64_t position) override;

private:
    //! A prepared call: everything is bound once, later calls only change what the memory holds.
    struct Call
    {
        std::vector<std::int64_t> ids;
        std::vector<std::int64_t> positions;
        std::vector<std::int64_t> write;
        std::vector<std::int64_t> rows;
        std::vector<float> logits;
        Ort::IoBinding binding{nullptr};
    };

    [[nodiscard]] std::size_t bufferSize(LayerWidth const& width, std::int64_t capacity) const noexcept;
    [[nodiscard]] Call& call(std::size_t length);
    [[nodiscard]] Call prepare(std::size_t length);
    void bindCache(Ort::IoBinding& binding);

    OnnxRuntimeSession& mSession;
    Budget const& mBudget;
    std::int64_t mCapacity;
    std::vector<AlignedBuffer> mBuffers; //!< k and v of every layer, [1, groups, capacity, head_dim]
    std::map<std::size_t, Call> mCalls; //!< by number of tokens
};

} // namespace flextron
