#include "capacity.h"

#include <algorithm>
#include <bit>

namespace flextron
{

std::int64_t capacityFor(std::int64_t tokens, std::int64_t maximum) noexcept
{
    constexpr std::int64_t kStep = 64;
    constexpr std::int64_t kLargestLinear = 256;
    // Beyond that no power of two is representable; nothing has as many slots.
    constexpr std::int64_t kLargest = std::int64_t{1} << 62U;
    auto const needed = std::clamp(tokens, std::int64_t{1}, kLargest);
    auto capacity = (needed + kStep - 1) / kStep * kStep;
    if (capacity > kLargestLinear)
    {
        auto const power = static_cast<std::int64_t>(std::bit_ceil(static_cast<std::uint64_t>(needed)));
        auto const between = power / 4 * 3;
        capacity = needed <= between ? between : power;
    }
    return std::min(capacity, maximum);
}

} // namespace flextron
