/*
 * SPDX-License-Identifier: Apache-2.0
 *
 * What a kernel needs beyond plain C++, once for the GPU and once for the CPU: launching, shared memory, warp
 * collectives, tensor-core products. Kernels use only these, so one source is both compiled by nvcc and run by the host
 * tests under sanitizers. All functions are collective: every thread of the warp (or block) calls them.
 */
#pragma once

#include "numeric.cuh"

#include <cstddef>
#include <cstdint>

#if defined(__CUDACC__)
#include <cuda_runtime.h>
#else
#include "emulation.h"
#endif

namespace flextron
{

constexpr int kWarpSize = 32;
constexpr float kLowest = -1e30F; //!< of a maximum over nothing: finite, so that differences are never NaN

__host__ __device__ constexpr int smaller(int a, int b)
{
    return a < b ? a : b;
}

__host__ __device__ constexpr int larger(int a, int b)
{
    return a > b ? a : b;
}

__host__ __device__ constexpr int ceilDivide(int a, int b)
{
    return (a + b - 1) / b;
}

#if defined(__CUDACC__)

using Stream = cudaStream_t;

//! Starts a kernel; true on success.
template <typename... Parameters, typename... Arguments>
bool launch(void (*kernel)(Parameters...), dim3 grid, int threads, std::size_t sharedBytes, Stream stream,
    Arguments... arguments)
{
    constexpr std::size_t kDefaultLimit = 48 * 1024; // more shared memory than this must be asked for
    if (sharedBytes > kDefaultLimit
        && cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(sharedBytes))
               != cudaSuccess)
    {
        return false;
    }
    cudaLaunchConfig_t config{};
    config.gridDim = grid;
    config.blockDim = dim3(threads);
    config.dynamicSmemBytes = sharedBytes;
    config.stream = stream;
    return cudaLaunchKernelEx(&config, kernel, arguments...) == cudaSuccess;
}

//! Streaming multiprocessors of the current device; 0 if there is none.
inline int multiprocessorCount()
{
    int device = 0;
    int count = 0;
    bool const known = cudaGetDevice(&device) == cudaSuccess
                       && cudaDeviceGetAttribute(&count, cudaDevAttrMultiProcessorCount, device) == cudaSuccess;
    return known ? count : 0;
}

//! The block's dynamic shared memory.
template <typename T>
__device__ __forceinline__ T* sharedMemory()
{
    extern __shared__ __align__(16) unsigned char memory[];
    return reinterpret_cast<T*>(memory);
}

//! Replaces every value by that of the lane whose number differs by `mask`.
template <int kCount>
__device__ __forceinline__ void shuffleXor(float (&values)[kCount], int mask)
{
#pragma unroll
    for (float& value : values)
    {
        value = __shfl_xor_sync(0xffffffffU, value, mask);
    }
}

//! c += a b for a 16x16 (row-major) and b 16x8 (column-major), in the fragment layout of mma.m16n8k16.
template <typename T>
__device__ __forceinline__ void multiplyAdd(float (&c)[4], std::uint32_t const (&a)[4], std::uint32_t const (&b)[2])
{
    static_assert(sizeof(T) == 2, "16-bit storage only");
    if constexpr (isHalf<T>)
    {
        asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
            : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
            : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
    }
    else
    {
        asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
            : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
            : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
    }
}

//! Operand b of multiplyAdd from a row-major [16, 8] tile in shared memory, rows `stride` elements apart.
template <typename T>
__device__ __forceinline__ void loadTransposed(std::uint32_t (&b)[2], T const* tile, int stride)
{
    static_assert(sizeof(T) == 2, "16-bit storage only");
    T const* row = tile + (threadIdx.x % 16) * stride; // lanes 0-15 name the rows, the others are ignored
    auto const address = static_cast<std::uint32_t>(__cvta_generic_to_shared(row));
    asm volatile("ldmatrix.sync.aligned.m8n8.x2.trans.shared.b16 {%0,%1}, [%2];"
        : "=r"(b[0]), "=r"(b[1])
        : "r"(address)
        : "memory");
}

//! Four 8x8 operands of multiplyAdd from a row-major 16x16 tile in shared memory, rows `stride` elements apart: rows
//! 0-7 and 8-15 of the columns 0-7, then of the columns 8-15. That is operand a; of b in [column, depth] order it is
//! the first halves of two b, then the second halves.
template <typename T>
__device__ __forceinline__ void loadTiles(std::uint32_t (&r)[4], T const* tile, int stride)
{
    static_assert(sizeof(T) == 2, "16-bit storage only");
    T const* row = tile + (threadIdx.x % 16) * stride + (threadIdx.x % kWarpSize) / 16 * 8;
    auto const address = static_cast<std::uint32_t>(__cvta_generic_to_shared(row));
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
        : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
        : "r"(address)
        : "memory");
}

//! The same, each 8x8 transposed: of b in [depth, column] order it is one b, then the next.
template <typename T>
__device__ __forceinline__ void loadTilesTransposed(std::uint32_t (&r)[4], T const* tile, int stride)
{
    static_assert(sizeof(T) == 2, "16-bit storage only");
    T const* row = tile + (threadIdx.x % 16) * stride + (threadIdx.x % kWarpSize) / 16 * 8;
    auto const address = static_cast<std::uint32_t>(__cvta_generic_to_shared(row));
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
        : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
        : "r"(address)
        : "memory");
}

//! Begins to copy 16 bytes into shared memory, of which the first `bytes` are read and the others are zero.
__device__ __forceinline__ void copyAsync(void* to, void const* from, int bytes)
{
    auto const address = static_cast<std::uint32_t>(__cvta_generic_to_shared(to));
    asm volatile(
        "cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(address), "l"(__cvta_generic_to_global(from)), "r"(bytes)
        : "memory");
}

//! Closes the group of copies begun since the last one.
__device__ __forceinline__ void commitCopies()
{
    asm volatile("cp.async.commit_group;" ::: "memory");
}

//! Waits for all groups of this thread but the newest kPending.
template <int kPending>
__device__ __forceinline__ void waitForCopies()
{
    asm volatile("cp.async.wait_group %0;" ::"n"(kPending) : "memory");
}

#else

//! Starts a kernel; true on success.
template <typename... Parameters, typename... Arguments>
bool launch(void (*kernel)(Parameters...), dim3 grid, int threads, std::size_t sharedBytes, Stream /* stream */,
    Arguments... arguments)
{
    emulation::run(grid, threads, sharedBytes, [=] { kernel(arguments...); });
    return true;
}

//! Pretended: small, so that tiny tests are split too.
inline int multiprocessorCount()
{
    return 2;
}

template <typename T>
T* sharedMemory()
{
    return reinterpret_cast<T*>(emulation::sharedMemory());
}

template <int kCount>
void shuffleXor(float (&values)[kCount], int mask)
{
    emulation::publish(values);
    emulation::peek(values, static_cast<int>(threadIdx.x % kWarpSize) ^ mask);
}

template <typename T>
void multiplyAdd(float (&c)[4], std::uint32_t const (&a)[4], std::uint32_t const (&b)[2])
{
    struct Fragments
    {
        std::uint32_t mA[4];
        std::uint32_t mB[2];
    };
    Fragments const mine{{a[0], a[1], a[2], a[3]}, {b[0], b[1]}};
    emulation::publish(mine);
    int const lane = static_cast<int>(threadIdx.x % kWarpSize);
    for (int quad = 0; quad < 4; ++quad) // the four lanes that hold a row of a, and those that hold a column of b
    {
        Fragments left;
        emulation::peek(left, lane / 4 * 4 + quad);
        for (int column = 0; column < 2; ++column)
        {
            Fragments right;
            emulation::peek(right, (lane % 4 * 2 + column) * 4 + quad);
            for (int part = 0; part < 2; ++part) // elements 0-7 and 8-15 of the dot product
            {
                Pair const y = unpack<T>(right.mB[part]);
                for (int row = 0; row < 2; ++row)
                {
                    Pair const x = unpack<T>(left.mA[part * 2 + row]);
                    c[row * 2 + column] += x.mLow * y.mLow + x.mHigh * y.mHigh;
                }
            }
        }
    }
}

template <typename T>
void loadTransposed(std::uint32_t (&b)[2], T const* tile, int stride)
{
    int const lane = static_cast<int>(threadIdx.x % kWarpSize);
    for (int part = 0; part < 2; ++part)
    {
        T const* row = tile + (lane % 4 * 2 + part * 8) * stride + lane / 4;
        b[part] = row[0].mBits | static_cast<std::uint32_t>(row[stride].mBits) << 16;
    }
}

template <typename T>
void loadTiles(std::uint32_t (&r)[4], T const* tile, int stride)
{
    int const lane = static_cast<int>(threadIdx.x % kWarpSize);
    for (int i = 0; i < 4; ++i)
    {
        T const* at = tile + (lane / 4 + i % 2 * 8) * stride + lane % 4 * 2 + i / 2 * 8;
        r[i] = at[0].mBits | static_cast<std::uint32_t>(at[1].mBits) << 16;
    }
}

template <typename T>
void loadTilesTransposed(std::uint32_t (&r)[4], T const* tile, int stride)
{
    int const lane = static_cast<int>(threadIdx.x % kWarpSize);
    for (int i = 0; i < 4; ++i)
    {
        T const* at = tile + (lane % 4 * 2 + i % 2 * 8) * stride + lane / 4 + i / 2 * 8;
        r[i] = at[0].mBits | static_cast<std::uint32_t>(at[stride].mBits) << 16;
    }
}

inline void copyAsync(void* to, void const* from, int bytes)
{
    emulation::beginCopy(to, from, bytes);
}

inline void commitCopies()
{
    emulation::commitCopies();
}

template <int kPending>
void waitForCopies()
{
    emulation::waitForCopies(kPending);
}

#endif

//! Replaces every value by its sum over the lanes whose numbers differ in the bits from kFrom to below kTo.
template <int kFrom, int kTo, int kCount>
__device__ __forceinline__ void sumOverLanes(float (&values)[kCount])
{
#pragma unroll
    for (int mask = kFrom; mask < kTo; mask *= 2)
    {
        float other[kCount];
#pragma unroll
        for (int i = 0; i < kCount; ++i)
        {
            other[i] = values[i];
        }
        shuffleXor(other, mask);
#pragma unroll
        for (int i = 0; i < kCount; ++i)
        {
            values[i] += other[i];
        }
    }
}

//! The same with the largest instead of the sum.
template <int kFrom, int kTo, int kCount>
__device__ __forceinline__ void maxOverLanes(float (&values)[kCount])
{
#pragma unroll
    for (int mask = kFrom; mask < kTo; mask *= 2)
    {
        float other[kCount];
#pragma unroll
        for (int i = 0; i < kCount; ++i)
        {
            other[i] = values[i];
        }
        shuffleXor(other, mask);
#pragma unroll
        for (int i = 0; i < kCount; ++i)
        {
            values[i] = fmaxf(values[i], other[i]);
        }
    }
}

} // namespace flextron
