#include "number_text.h"

#include <array>
#include <charconv>

namespace flextron
{

namespace
{

std::string format(double value, std::chars_format style, int precision)
{
    constexpr std::size_t kLongest = 400; // the largest double in fixed notation has 309 digits
    std::array<char, kLongest> text{};
    auto* const end = std::to_chars(text.data(), text.data() + text.size(), value, style, precision).ptr;
    return {text.data(), end};
}

} // namespace

std::string fourDigits(double value)
{
    constexpr int kDigits = 4;
    return format(value, std::chars_format::general, kDigits);
}

std::string fixed(double value, int decimals)
{
    return format(value, std::chars_format::fixed, decimals);
}

} // namespace flextron
