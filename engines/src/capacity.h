//! Sizes of the KV cache. Attention costs by capacity, not by live length, so the cache grows in steps.
#pragma once

#include <cstdint>
#include <limits>

namespace flextron
{

//! Slots of the smallest cache that holds the tokens: 64, 128, 192, 256, 384, 512, 768, 1024 ... up to the maximum.
[[nodiscard]] std::int64_t capacityFor(
    std::int64_t tokens, std::int64_t maximum = std::numeric_limits<std::int64_t>::max()) noexcept;

} // namespace flextron
