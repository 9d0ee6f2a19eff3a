//! A file descriptor that closes itself.
#pragma once

#include <cerrno>
#include <fcntl.h>
#include <filesystem>
#include <system_error>
#include <unistd.h>
#include <utility>

namespace flextron
{

class FileDescriptor
{
public:
    //! Opens for reading, without waiting should it be a pipe; throws std::system_error.
    [[nodiscard]] static FileDescriptor open(std::filesystem::path const& path)
    {
        int const descriptor = ::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);
        if (descriptor < 0)
        {
            throw std::system_error(errno, std::generic_category());
        }
        return FileDescriptor(descriptor);
    }

    ~FileDescriptor()
    {
        if (mDescriptor >= 0)
        {
            ::close(mDescriptor);
        }
    }

    FileDescriptor(FileDescriptor const&) = delete;
    FileDescriptor& operator=(FileDescriptor const&) = delete;
    FileDescriptor& operator=(FileDescriptor&&) = delete;

    FileDescriptor(FileDescriptor&& other) noexcept
        : mDescriptor(std::exchange(other.mDescriptor, -1))
    {
    }

    [[nodiscard]] int get() const noexcept
    {
        return mDescriptor;
    }

private:
    explicit FileDescriptor(int descriptor) noexcept
        : mDescriptor(descriptor)
    {
    }

    int mDescriptor;
};

} // namespace flextron
