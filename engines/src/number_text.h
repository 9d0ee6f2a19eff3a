//! Numbers as text, whatever locale the program has set.
#pragma once

#include <string>

namespace flextron
{

//! As printf's %.4g.
[[nodiscard]] std::string fourDigits(double value);

//! With so many decimals.
[[nodiscard]] std::string fixed(double value, int decimals);

} // namespace flextron
