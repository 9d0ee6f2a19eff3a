#include "atomic_file.h"

#include <cerrno>
#include <cstdlib>
#include <string>
#include <sys/stat.h>
#include <system_error>
#include <unistd.h>

namespace flextron
{

namespace
{

[[noreturn]] void fail(std::filesystem::path const& path)
{
    throw std::system_error(errno, std::generic_category(), path.string());
}

//! A file under a temporary name, which vanishes unless it is renamed.
class Temporary
{
public:
    explicit Temporary(std::filesystem::path const& path)
        : mName((path.parent_path() / ("." + path.filename().string() + ".part-XXXXXX")).string())
        , mDescriptor(::mkstemp(mName.data()))
    {
        if (mDescriptor < 0)
        {
            fail(path);
        }
    }

    ~Temporary()
    {
        ::close(mDescriptor);
        if (!mName.empty())
        {
            ::unlink(mName.c_str());
        }
    }

    Temporary(Temporary const&) = delete;
    Temporary& operator=(Temporary const&) = delete;
    Temporary(Temporary&&) = delete;
    Temporary& operator=(Temporary&&) = delete;

    void write(std::string_view content) const
    {
        while (!content.empty())
        {
            auto const written = ::write(mDescriptor, content.data(), content.size());
            if (written < 0 && errno != EINTR)
            {
                fail(mName);
            }
            content.remove_prefix(written < 0 ? 0 : static_cast<std::size_t>(written));
        }
        constexpr ::mode_t kReadable = 0644;
        if (::fchmod(mDescriptor, kReadable) != 0 || ::fsync(mDescriptor) != 0)
        {
            fail(mName);
        }
    }

    void renameTo(std::filesystem::path const& path)
    {
        if (::rename(mName.c_str(), path.c_str()) != 0)
        {
            fail(path);
        }
        mName.clear();
    }

private:
    std::string mName;
    int mDescriptor;
};

} // namespace

void writeFile(std::filesystem::path const& path, std::string_view content)
{
    std::filesystem::create_directories(path.parent_path());
    Temporary temporary(path);
    temporary.write(content);
    temporary.renameTo(path);
}

} // namespace flextron
