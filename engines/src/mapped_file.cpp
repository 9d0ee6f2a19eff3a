#include "mapped_file.h"

#include "file_descriptor.h"

#include <cerrno>
#include <stdexcept>
#include <sys/mman.h>
#include <sys/stat.h>
#include <system_error>
#include <utility>

namespace flextron
{

MappedFile::MappedFile(std::filesystem::path const& path)
{
    auto const file = FileDescriptor::open(path);
    struct stat status = {};
    if (::fstat(file.get(), &status) != 0)
    {
        throw std::system_error(errno, std::generic_category());
    }
    if (!S_ISREG(status.st_mode))
    {
        throw std::runtime_error("it is no file");
    }
    auto const size = static_cast<std::size_t>(status.st_size);
    if (size == 0)
    {
        return; // an empty range cannot be mapped
    }
    void* const address = ::mmap(nullptr, size, PROT_READ, MAP_SHARED, file.get(), 0);
    if (address == MAP_FAILED)
    {
        throw std::system_error(errno, std::generic_category());
    }
    mBytes = {static_cast<std::byte const*>(address), size};
}

MappedFile::~MappedFile()
{
    if (!mBytes.empty())
    {
        ::munmap(const_cast<std::byte*>(mBytes.data()), mBytes.size());
    }
}

MappedFile::MappedFile(MappedFile&& other) noexcept
    : mBytes(std::exchange(other.mBytes, {}))
{
}

MappedFile& MappedFile::operator=(MappedFile&& other) noexcept
{
    std::swap(mBytes, other.mBytes);
    return *this;
}

} // namespace flextron
