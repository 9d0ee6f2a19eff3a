//! The random numbers of numpy.random.default_rng, so that a seed gives the same tokens as in Python.
#pragma once

#include <cstdint>

namespace flextron
{

__extension__ using Uint128 = unsigned __int128;

//! PCG64 (XSL-RR 128/64, O'Neill), seeded as NumPy's SeedSequence does.
class Random
{
public:
    explicit Random(std::uint64_t seed) noexcept;

    //! Uniform in [0, 1).
    [[nodiscard]] double uniform() noexcept;

private:
    std::uint64_t next() noexcept;

    Uint128 mState{};
    Uint128 mIncrement{};
};

} // namespace flextron
