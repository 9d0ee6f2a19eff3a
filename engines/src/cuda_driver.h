//! The CUDA driver, loaded at run time: no toolkit is needed to build or run this.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <utility>

namespace flextron
{

//! A GPU.
struct GpuDevice
{
    std::string name;
    std::int64_t computeCapability{}; //!< 89 means 8.9
    std::int64_t driver{}; //!< the driver's CUDA version; 13000 means 13.0
};

//! The first CUDA device; none if there is no driver or no device. Nothing of TensorRT may be used without one: without
//! a driver it returned pointers to nothing.
[[nodiscard]] std::optional<GpuDevice> findGpu();

//! The first device's primary context and one stream. Every failing call throws an Error of kind FLEXTRON_TARGET_ERROR
//! with CUDA's own words.
class Cuda
{
public:
    using Address = unsigned long long;

    Cuda();
    ~Cuda();

    Cuda(Cuda const&) = delete;
    Cuda& operator=(Cuda const&) = delete;
    Cuda(Cuda&&) = delete;
    Cuda& operator=(Cuda&&) = delete;

    //! Makes the device this thread's; a runner may be used by one thread after another.
    void makeCurrent() const;

    //! The stream, a CUstream.
    [[nodiscard]] void* stream() const noexcept;

    //! Device memory set to zero.
    [[nodiscard]] Address allocate(std::size_t size) const;
    void free(Address address) const noexcept;

    //! The data may change once `wait` has returned.
    void upload(Address to, void const* data, std::size_t size) const;
    void download(void* data, Address from, std::size_t size) const;
    void copy(Address to, Address from, std::size_t size) const;
    void wait() const;

    //! A captured sequence of work, to be launched again and again.
    using Graph = std::unique_ptr<void, std::function<void(void*)>>;

    //! Records what `work` queues on the stream instead of running it; null if it cannot be recorded.
    [[nodiscard]] Graph capture(std::function<bool()> const& work) const;
    void launch(Graph const& graph) const;

private:
    struct Driver;

    std::unique_ptr<Driver> mDriver;
};

//! A piece of device memory; freed with this object, and the Cuda it came from outlives it.
class DeviceBuffer
{
public:
    DeviceBuffer(Cuda const& cuda, std::size_t size)
        : mCuda(&cuda)
        , mAddress(cuda.allocate(size))
    {
    }

    ~DeviceBuffer()
    {
        if (mCuda != nullptr)
        {
            mCuda->free(mAddress);
        }
    }

    DeviceBuffer(DeviceBuffer const&) = delete;
    DeviceBuffer& operator=(DeviceBuffer const&) = delete;

    DeviceBuffer(DeviceBuffer&& other) noexcept
        : mCuda(std::exchange(other.mCuda, nullptr))
        , mAddress(other.mAddress)
    {
    }

    DeviceBuffer& operator=(DeviceBuffer&& other) noexcept
    {
        std::swap(mCuda, other.mCuda);
        std::swap(mAddress, other.mAddress);
        return *this;
    }

    [[nodiscard]] Cuda::Address address() const noexcept
    {
        return mAddress;
    }

private:
    Cuda const* mCuda;
    Cuda::Address mAddress;
};

} // namespace flextron
