#include "cuda_driver.h"

#include "error.h"

#include <algorithm>
#include <array>
#include <dlfcn.h>

namespace flextron
{

namespace
{

using Status = int; // CUresult
using Handle = void*; // CUcontext, CUstream, CUgraph, CUgraphExec

constexpr int kMajor = 75; // CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR
constexpr int kMinor = 76;
constexpr int kRelaxed = 2; // CU_STREAM_CAPTURE_MODE_RELAXED: other threads may go on using CUDA

void* openDriver()
{
    static void* const kLibrary = ::dlopen("libcuda.so.1", RTLD_NOW | RTLD_LOCAL);
    return kLibrary;
}

//! A function of the driver; null if there is no driver.
template <typename... Arguments>
auto function(char const* name) -> Status (*)(Arguments...)
{
    auto* const library = openDriver();
    return library == nullptr ? nullptr : reinterpret_cast<Status (*)(Arguments...)>(::dlsym(library, name));
}

} // namespace

std::optional<GpuDevice> findGpu()
{
    constexpr std::size_t kLongestName = 256;
    constexpr int kTens = 10;
    auto const init = function<unsigned>("cuInit");
    auto const get = function<int*, int>("cuDeviceGet");
    auto const nameOf = function<char*, int, int>("cuDeviceGetName");
    auto const attribute = function<int*, int, int>("cuDeviceGetAttribute");
    auto const version = function<int*>("cuDriverGetVersion");
    if (init == nullptr || get == nullptr || nameOf == nullptr || attribute == nullptr || version == nullptr)
    {
        return std::nullopt;
    }
    int device = 0;
    int major = 0;
    int minor = 0;
    int driver = 0;
    std::array<char, kLongestName> name{};
    if (init(0) != 0 || get(&device, 0) != 0 || nameOf(name.data(), static_cast<int>(name.size()), device) != 0
        || attribute(&major, kMajor, device) != 0 || attribute(&minor, kMinor, device) != 0 || version(&driver) != 0)
    {
        return std::nullopt;
    }
    return GpuDevice{name.data(), kTens * major + minor, driver};
}

struct Cuda::Driver
{
    int device{};
    Handle context{};
    Handle stream{};

    Status (*errorString)(Status, char const**) = function<Status, char const**>("cuGetErrorString");
    Status (*retain)(Handle*, int) = function<Handle*, int>("cuDevicePrimaryCtxRetain");
    Status (*release)(int) = function<int>("cuDevicePrimaryCtxRelease_v2");
    Status (*setCurrent)(Handle) = function<Handle>("cuCtxSetCurrent");
    Status (*streamCreate)(Handle*, unsigned) = function<Handle*, unsigned>("cuStreamCreate");
    Status (*streamDestroy)(Handle) = function<Handle>("cuStreamDestroy_v2");
    Status (*streamWait)(Handle) = function<Handle>("cuStreamSynchronize");
    Status (*allocate)(Address*, std::size_t) = function<Address*, std::size_t>("cuMemAlloc_v2");
    Status (*free)(Address) = function<Address>("cuMemFree_v2");
    Status (*zero)(Address, unsigned char, std::size_t, Handle)
        = function<Address, unsigned char, std::size_t, Handle>("cuMemsetD8Async");
    Status (*upload)(Address, void const*, std::size_t, Handle)
        = function<Address, void const*, std::size_t, Handle>("cuMemcpyHtoDAsync_v2");
    Status (*download)(void*, Address, std::size_t, Handle)
        = function<void*, Address, std::size_t, Handle>("cuMemcpyDtoHAsync_v2");
    Status (*copy)(Address, Address, std::size_t, Handle)
        = function<Address, Address, std::size_t, Handle>("cuMemcpyDtoDAsync_v2");
    Status (*beginCapture)(Handle, int) = function<Handle, int>("cuStreamBeginCapture_v2");
    Status (*endCapture)(Handle, Handle*) = function<Handle, Handle*>("cuStreamEndCapture");
    Status (*instantiate)(Handle*, Handle, unsigned long long)
        = function<Handle*, Handle, unsigned long long>("cuGraphInstantiateWithFlags");
    Status (*destroyGraph)(Handle) = function<Handle>("cuGraphDestroy");
    Status (*destroyExec)(Handle) = function<Handle>("cuGraphExecDestroy");
    Status (*launch)(Handle, Handle) = function<Handle, Handle>("cuGraphLaunch");

    [[nodiscard]] bool complete() const noexcept
    {
        return errorString != nullptr && retain != nullptr && release != nullptr && setCurrent != nullptr
            && streamCreate != nullptr && streamDestroy != nullptr && streamWait != nullptr && allocate != nullptr
            && free != nullptr && zero != nullptr && upload != nullptr && download != nullptr && copy != nullptr;
    }

    void check(Status status, char const* what) const
    {
        if (status != 0)
        {
            char const* text = nullptr;
            errorString(status, &text);
            throw Error(FLEXTRON_TARGET_ERROR,
                std::string("CUDA could not ") + what + ": " + (text != nullptr ? text : "unknown error") + ".", {},
                "use a narrower budget or a shorter context, and see whether other programs use the GPU");
        }
    }
};

Cuda::Cuda()
    : mDriver(std::make_unique<Driver>())
{
    if (!findGpu() || !mDriver->complete())
    {
        throw Error(FLEXTRON_TARGET_ERROR, "There is no NVIDIA GPU with its driver here.",
            "no GPU, no driver, or a container started without access to it", "use the target onnxruntime-cpu");
    }
    mDriver->check(mDriver->retain(&mDriver->context, mDriver->device), "open the device");
    try
    {
        makeCurrent();
        mDriver->check(mDriver->streamCreate(&mDriver->stream, 0), "make a stream");
    }
    catch (...)
    {
        mDriver->release(mDriver->device);
        throw;
    }
}

Cuda::~Cuda()
{
    mDriver->setCurrent(mDriver->context);
    mDriver->streamDestroy(mDriver->stream);
    mDriver->release(mDriver->device);
}

void Cuda::makeCurrent() const
{
    mDriver->check(mDriver->setCurrent(mDriver->context), "use the device");
}

void* Cuda::stream() const noexcept
{
    return mDriver->stream;
}

Cuda::Address Cuda::allocate(std::size_t size) const
{
    Address address = 0;
    auto const bytes = std::max<std::size_t>(size, 1);
    mDriver->check(mDriver->allocate(&address, bytes), ("allocate " + std::to_string(bytes) + " bytes").c_str());
    try
    {
        mDriver->check(mDriver->zero(address, 0, bytes, mDriver->stream), "clear memory");
    }
    catch (...)
    {
        free(address);
        throw;
    }
    return address;
}

void Cuda::free(Address address) const noexcept
{
    mDriver->free(address); // an error here would hide the one that led to freeing
}

void Cuda::upload(Address to, void const* data, std::size_t size) const
{
    mDriver->check(mDriver->upload(to, data, size, mDriver->stream), "copy to the device");
}

void Cuda::download(void* data, Address from, std::size_t size) const
{
    mDriver->check(mDriver->download(data, from, size, mDriver->stream), "copy from the device");
}

void Cuda::copy(Address to, Address from, std::size_t size) const
{
    mDriver->check(mDriver->copy(to, from, size, mDriver->stream), "copy on the device");
}

void Cuda::wait() const
{
    mDriver->check(mDriver->streamWait(mDriver->stream), "finish its work");
}

Cuda::Graph Cuda::capture(std::function<bool()> const& work) const
{
    auto const& driver = *mDriver;
    if (driver.beginCapture == nullptr || driver.endCapture == nullptr || driver.instantiate == nullptr
        || driver.destroyGraph == nullptr || driver.destroyExec == nullptr || driver.launch == nullptr
        || driver.beginCapture(driver.stream, kRelaxed) != 0)
    {
        return nullptr;
    }
    bool const queued = work();
    Handle graph = nullptr;
    Handle executable = nullptr;
    if (driver.endCapture(driver.stream, &graph) == 0 && graph != nullptr)
    {
        if (queued && driver.instantiate(&executable, graph, 0) != 0)
        {
            executable = nullptr;
        }
        driver.destroyGraph(graph);
    }
    return {executable, [destroy = driver.destroyExec](void* exec) { destroy(exec); }};
}

void Cuda::launch(Graph const& graph) const
{
    mDriver->check(mDriver->launch(graph.get(), mDriver->stream), "launch a graph");
}

} // namespace flextron
