//! A file mapped into memory, read-only.
#pragma once

#include <cstddef>
#include <filesystem>
#include <span>

namespace flextron
{

//! The pages are shared with every process that maps the file, and the system may drop them.
class MappedFile
{
public:
    //! Throws std::system_error, or std::runtime_error if it is no regular file.
    explicit MappedFile(std::filesystem::path const& path);
    ~MappedFile();

    MappedFile(MappedFile const&) = delete;
    MappedFile& operator=(MappedFile const&) = delete;
    MappedFile(MappedFile&& other) noexcept;
    MappedFile& operator=(MappedFile&& other) noexcept;

    [[nodiscard]] std::span<std::byte const> bytes() const noexcept
    {
        return mBytes;
    }

private:
    std::span<std::byte const> mBytes;
};

} // namespace flextron
