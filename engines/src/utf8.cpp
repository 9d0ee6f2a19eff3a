#include "utf8.h"

#include <algorithm>

namespace flextron
{

namespace
{

//! Bytes of the character that a lead byte begins (0: none), and the limits of its second byte.
struct Lead
{
    std::size_t size;
    unsigned char low;
    unsigned char high;
};

Lead leadOf(unsigned char byte) noexcept
{
    constexpr unsigned char kLow = 0x80;
    constexpr unsigned char kHigh = 0xBF;
    // NOLINTBEGIN(*-magic-numbers): the table of the standard
    if (byte < 0x80)
    {
        return {1, kLow, kHigh};
    }
    if (byte >= 0xC2 && byte <= 0xDF)
    {
        return {2, kLow, kHigh};
    }
    if (byte >= 0xE0 && byte <= 0xEF)
    {
        return {3, byte == 0xE0 ? static_cast<unsigned char>(0xA0) : kLow,
            byte == 0xED ? static_cast<unsigned char>(0x9F) : kHigh};
    }
    if (byte >= 0xF0 && byte <= 0xF4)
    {
        return {4, byte == 0xF0 ? static_cast<unsigned char>(0x90) : kLow,
            byte == 0xF4 ? static_cast<unsigned char>(0x8F) : kHigh};
    }
    // NOLINTEND(*-magic-numbers)
    return {0, kLow, kHigh};
}

} // namespace

Utf8Part firstPart(std::string_view bytes) noexcept
{
    auto lead = leadOf(static_cast<unsigned char>(bytes.front()));
    if (lead.size == 0)
    {
        return {Utf8::kBroken, 1};
    }
    auto const there = std::min(lead.size, bytes.size());
    for (std::size_t i = 1; i < there; ++i)
    {
        auto const byte = static_cast<unsigned char>(bytes[i]);
        if (byte < lead.low || byte > lead.high)
        {
            return {Utf8::kBroken, i};
        }
        lead = {lead.size, 0x80, 0xBF}; // NOLINT(*-magic-numbers)
    }
    return {there < lead.size ? Utf8::kIncomplete : Utf8::kWhole, there};
}

bool isUtf8(std::string_view text) noexcept
{
    while (!text.empty())
    {
        auto const part = firstPart(text);
        if (part.kind != Utf8::kWhole)
        {
            return false;
        }
        text.remove_prefix(part.size);
    }
    return true;
}

} // namespace flextron
