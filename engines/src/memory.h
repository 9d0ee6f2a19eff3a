//! What this process holds in memory, and giving back what it no longer needs. Linux; elsewhere these do nothing.
#pragma once

#include <cstdint>
#include <filesystem>

namespace flextron
{

//! Bytes of this process's memory that belong to no file; 0 where the system does not tell.
[[nodiscard]] std::int64_t privateMemory();

//! Gives back the resident pages of this process's mappings of a file; touched again, they are read again. ONNX Runtime
//! keeps weights mapped after it has rearranged them in private memory, and they would count twice.
void dropMappedPages(std::filesystem::path const& file);

} // namespace flextron
