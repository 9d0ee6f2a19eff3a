//! Bytes that are to become text: whole characters now, what may still become one later.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>

namespace flextron
{

//! What a text holds where bytes are no character (U+FFFD).
constexpr std::string_view kReplacement = "\xef\xbf\xbd";

enum class Utf8
{
    kWhole, //!< a character
    kBroken, //!< the longest part that could have become one, but does not
    kIncomplete, //!< more bytes may make it one
};

struct Utf8Part
{
    Utf8 kind;
    std::size_t size; //!< bytes
};

//! The first part of bytes that are not empty, as the Unicode Standard divides them (3.9, table 3-7, D93b).
[[nodiscard]] Utf8Part firstPart(std::string_view bytes) noexcept;

[[nodiscard]] bool isUtf8(std::string_view text) noexcept;

} // namespace flextron
