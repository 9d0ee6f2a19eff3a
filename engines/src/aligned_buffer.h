//! Memory for tensors: zeroed, and aligned for vector instructions.
#pragma once

#include <cstddef>
#include <cstring>
#include <memory>
#include <new>

namespace flextron
{

class AlignedBuffer
{
public:
    explicit AlignedBuffer(std::size_t size)
        : mData(static_cast<std::byte*>(::operator new(size, kAlignment)))
        , mSize(size)
    {
        std::memset(mData.get(), 0, size);
    }

    [[nodiscard]] std::byte* data() const noexcept
    {
        return mData.get();
    }

    [[nodiscard]] std::size_t size() const noexcept
    {
        return mSize;
    }

private:
    static constexpr std::align_val_t kAlignment{64};

    struct Free
    {
        void operator()(std::byte* data) const noexcept
        {
            ::operator delete(data, kAlignment);
        }
    };

    std::unique_ptr<std::byte, Free> mData;
    std::size_t mSize;
};

} // namespace flextron
