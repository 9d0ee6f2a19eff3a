#include "random.h"

#include <array>
#include <bit>
#include <cstddef>

namespace flextron
{

namespace
{

constexpr std::size_t kPool = 4;
constexpr std::uint32_t kShift = 16;

constexpr Uint128 join(std::uint64_t high, std::uint64_t low) noexcept
{
    return (Uint128{high} << 64U) | low;
}

constexpr Uint128 kMultiplier = join(2549297995355413924U, 4865540595714422341U);

//! Spreads the bits of every word over all words of a pool (numpy/random/bit_generator.pyx).
class SeedSequence
{
public:
    explicit SeedSequence(std::uint64_t seed) noexcept
    {
        std::array<std::uint32_t, kPool> const entropy{
            static_cast<std::uint32_t>(seed), static_cast<std::uint32_t>(seed >> 32U)};
        for (std::size_t i = 0; i < kPool; ++i)
        {
            mPool[i] = hash(entropy[i]);
        }
        for (std::size_t source = 0; source < kPool; ++source)
        {
            for (std::size_t target = 0; target < kPool; ++target)
            {
                if (source != target)
                {
                    mPool[target] = mix(mPool[target], hash(mPool[source]));
                }
            }
        }
    }

    [[nodiscard]] std::array<std::uint64_t, kPool> state() const noexcept
    {
        constexpr std::uint32_t kStart = 0x8b51f9ddU;
        constexpr std::uint32_t kFactor = 0x58f38dedU;
        std::uint32_t constant = kStart;
        std::array<std::uint64_t, kPool> words{};
        for (std::size_t i = 0; i < 2 * kPool; ++i)
        {
            std::uint32_t value = mPool[i % kPool] ^ constant;
            constant *= kFactor;
            value *= constant;
            value ^= value >> kShift;
            words[i / 2] |= std::uint64_t{value} << (i % 2 == 0 ? 0U : 32U);
        }
        return words;
    }

private:
    std::uint32_t hash(std::uint32_t value) noexcept
    {
        constexpr std::uint32_t kFactor = 0x931e8875U;
        value ^= mConstant;
        mConstant *= kFactor;
        value *= mConstant;
        return value ^ (value >> kShift);
    }

    static std::uint32_t mix(std::uint32_t x, std::uint32_t y) noexcept
    {
        constexpr std::uint32_t kLeft = 0xca01f9ddU;
        constexpr std::uint32_t kRight = 0x4973f715U;
        auto const mixed = kLeft * x - kRight * y;
        return mixed ^ (mixed >> kShift);
    }

    std::uint32_t mConstant = 0x43b0d7e5U;
    std::array<std::uint32_t, kPool> mPool{};
};

} // namespace

Random::Random(std::uint64_t seed) noexcept
{
    auto const words = SeedSequence(seed).state();
    mIncrement = (join(words[2], words[3]) << 1U) | 1U;
    static_cast<void>(next());
    mState += join(words[0], words[1]);
    static_cast<void>(next());
}

std::uint64_t Random::next() noexcept
{
    mState = mState * kMultiplier + mIncrement;
    auto const high = static_cast<std::uint64_t>(mState >> 64U);
    auto const low = static_cast<std::uint64_t>(mState);
    return std::rotr(high ^ low, static_cast<int>(high >> 58U));
}

double Random::uniform() noexcept
{
    constexpr double kStep = 1.0 / 9007199254740992.0; // 2^-53
    return static_cast<double>(next() >> 11U) * kStep;
}

} // namespace flextron
