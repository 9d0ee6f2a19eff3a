//! Which tokens end a text, from a bundle's tokenizer files.
#pragma once

#include <cstdint>
#include <filesystem>
#include <set>

namespace flextron
{

//! The first of generation_config.json, config.json (ids) and tokenizer_config.json (a token) that names one; none
//! without a tokenizer. Throws an Error of kind FLEXTRON_BUNDLE_ERROR if such a file is damaged.
[[nodiscard]] std::set<std::int64_t> endOfText(std::filesystem::path const& bundle);

} // namespace flextron
