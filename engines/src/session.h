//! What a backend gives to the runtime: a session that runs any budget of a bundle, and its KV caches.
#pragma once

#include "widths.h"

#include <cstdint>
#include <memory>
#include <span>

namespace flextron
{

//! The KV cache of one sequence at one budget; it lives where the backend computes, and its session outlives it.
class Cache
{
public:
    Cache() = default;
    virtual ~Cache() = default;
    Cache(Cache const&) = delete;
    Cache& operator=(Cache const&) = delete;
    Cache(Cache&&) = delete;
    Cache& operator=(Cache&&) = delete;

    //! The most tokens it can hold now.
    [[nodiscard]] virtual std::int64_t capacity() const noexcept = 0;

    //! Gives it more slots and keeps what it holds.
    virtual void grow(std::int64_t capacity) = 0;

    //! Runs tokens that begin at a position of the sequence, and updates the cache in place.
    //! \return float32 logits [vocab] after the last of them, valid until the next call.
    virtual std::span<float const> step(std::span<std::int64_t const> ids, std::int64_t position) = 0;
};

//! A loaded bundle. One thread at a time.
class Session
{
public:
    Session() = default;
    virtual ~Session() = default;
    Session(Session const&) = delete;
    Session& operator=(Session const&) = delete;
    Session(Session&&) = delete;
    Session& operator=(Session&&) = delete;

    //! Most slots that a cache may have.
    [[nodiscard]] virtual std::int64_t maxCapacity() const noexcept = 0;

    //! Bytes of weights that it keeps for itself; pages of a mapped file do not count.
    [[nodiscard]] virtual std::int64_t memory() const = 0;

    //! An empty cache; the budget is one of the bundle's.
    [[nodiscard]] virtual std::unique_ptr<Cache> newCache(Budget const& budget, std::int64_t capacity) = 0;
};

} // namespace flextron
