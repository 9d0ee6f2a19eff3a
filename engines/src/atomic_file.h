//! Writing a file in one step.
#pragma once

#include <filesystem>
#include <string_view>

namespace flextron
{

//! Writes a file, and the directories above it, so that readers see the old content or the new one and a failure
//! leaves the old one. Throws std::system_error.
void writeFile(std::filesystem::path const& path, std::string_view content);

} // namespace flextron
