//! One sequence of tokens: prefill in chunks, decode token by token, a cache that grows as it is needed.
#pragma once

#include "session.h"

#include <algorithm>
#include <cstdint>
#include <memory>
#include <span>

namespace flextron
{

//! Tokens per prefill call: enough to keep the cores busy, few enough to bound the memory of activations.
constexpr std::int32_t kChunk = 256;

class Sequence
{
public:
    //! \param maximum most tokens that the sequence may hold.
    //! \param chunk tokens per prefill call.
    Sequence(Session& session, Budget const& budget, std::int64_t maximum, std::int64_t chunk) noexcept;

    //! Appends tokens; returns the logits [vocab] after the last one, valid until the next call.
    std::span<float const> append(std::span<std::int64_t const> ids);

    //! Makes the cache hold at least that many tokens.
    void reserve(std::int64_t tokens);

    //! Forgets what comes after the first tokens; later calls overwrite it.
    void cut(std::int64_t tokens) noexcept
    {
        mLength = std::min(mLength, tokens);
    }

    [[nodiscard]] std::int64_t length() const noexcept
    {
        return mLength;
    }

    [[nodiscard]] bool full() const noexcept
    {
        return mLength >= mMaximum;
    }

private:
    Session& mSession;
    Budget const& mBudget;
    std::int64_t mMaximum;
    std::size_t mChunk;
    std::int64_t mLength{};
    std::unique_ptr<Cache> mCache;
};

} // namespace flextron
