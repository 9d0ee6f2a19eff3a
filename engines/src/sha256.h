//! SHA-256, by OpenSSL: it uses the processor's SHA instructions, and hashing gigabytes is most of opening a bundle.
#pragma once

#include <filesystem>
#include <string>
#include <string_view>

namespace flextron
{

//! Lowercase hexadecimal digest of a text.
[[nodiscard]] std::string sha256(std::string_view text);

//! Lowercase hexadecimal digest of a file; throws std::system_error if it cannot be read.
[[nodiscard]] std::string sha256OfFile(std::filesystem::path const& path);

} // namespace flextron
