//! Unicode normalization, by utf8proc.
#pragma once

#include <string>

namespace flextron
{

//! A UTF-8 text in normalization form C. Throws an Error of kind FLEXTRON_INPUT_ERROR for a text beyond ASCII if the
//! library was built without utf8proc.
[[nodiscard]] std::string normalized(std::string const& text);

} // namespace flextron
