#include "sha256.h"

#include "file_descriptor.h"

#include <array>
#include <cerrno>
#include <memory>
#include <openssl/evp.h>
#include <stdexcept>
#include <system_error>
#include <unistd.h>
#include <vector>

namespace flextron
{

namespace
{

class Digest
{
public:
    Digest()
    {
        check(mContext != nullptr && EVP_DigestInit_ex(mContext.get(), EVP_sha256(), nullptr) == 1);
    }

    void add(void const* data, std::size_t size)
    {
        check(EVP_DigestUpdate(mContext.get(), data, size) == 1);
    }

    [[nodiscard]] std::string hex()
    {
        std::array<unsigned char, EVP_MAX_MD_SIZE> digest{};
        unsigned int size = 0;
        check(EVP_DigestFinal_ex(mContext.get(), digest.data(), &size) == 1);
        constexpr std::string_view kDigits = "0123456789abcdef";
        std::string text;
        for (unsigned int i = 0; i < size; ++i)
        {
            text += kDigits[digest[i] >> 4U];
            text += kDigits[digest[i] & 15U];
        }
        return text;
    }

private:
    static void check(bool good)
    {
        if (!good)
        {
            throw std::runtime_error("OpenSSL cannot compute SHA-256");
        }
    }

    struct Free
    {
        void operator()(EVP_MD_CTX* context) const noexcept
        {
            EVP_MD_CTX_free(context);
        }
    };

    std::unique_ptr<EVP_MD_CTX, Free> mContext{EVP_MD_CTX_new()};
};

} // namespace

std::string sha256(std::string_view text)
{
    Digest digest;
    digest.add(text.data(), text.size());
    return digest.hex();
}

std::string sha256OfFile(std::filesystem::path const& path)
{
    // Read, not mapped: hashed pages of a mapping would stay in this process's memory.
    constexpr std::size_t kBlock = std::size_t{1} << 20U;
    auto const file = FileDescriptor::open(path);
    std::vector<std::byte> block(kBlock);
    Digest digest;
    while (true)
    {
        ssize_t const count = ::read(file.get(), block.data(), block.size());
        if (count < 0 && errno != EINTR)
        {
            throw std::system_error(errno, std::generic_category());
        }
        if (count == 0)
        {
            return digest.hex();
        }
        if (count > 0)
        {
            digest.add(block.data(), static_cast<std::size_t>(count));
        }
    }
}

} // namespace flextron
