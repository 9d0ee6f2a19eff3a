/*
 * SPDX-License-Identifier: Apache-2.0
 *
 * CUDA's execution model on the CPU, for tests: one thread per CUDA thread, blocks one after another. Slow, but shared
 * memory, barriers and warp exchanges behave as on the device, and address, undefined-behaviour and thread sanitizers
 * see every access. All threads of a block must leave the kernel at the same point, and warps must be full.
 */
#pragma once

#include <array>
#include <barrier>
#include <cstddef>
#include <cstring>
#include <deque>
#include <memory>
#include <thread>
#include <vector>

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __launch_bounds__(...)

struct dim3
{
    unsigned x{1};
    unsigned y{1};
    unsigned z{1};
};

inline thread_local dim3 threadIdx;
inline thread_local dim3 blockIdx;
inline thread_local dim3 gridDim;

namespace flextron
{

using Stream = void*;

namespace emulation
{

constexpr int kLanes = 32;
constexpr std::size_t kSlotBytes = 512; // the largest value that a lane can publish

struct Warp
{
    std::barrier<> mBarrier{kLanes};
    // Two sets, used in turn: a lane that is late to read one set cannot be overtaken by more than one publication.
    alignas(16) std::array<std::array<std::array<std::byte, kSlotBytes>, kLanes>, 2> mSlots{};
};

struct Block
{
    Block(int threads, std::size_t bytes)
        : mBarrier{threads}
        , mWarps(static_cast<std::size_t>(threads / kLanes))
        , mShared{new (std::align_val_t{16}) std::byte[bytes]}
        , mSharedBytes{bytes}
    {
    }

    ~Block()
    {
        ::operator delete[](mShared, std::align_val_t{16});
    }

    Block(Block const&) = delete;
    Block& operator=(Block const&) = delete;

    std::barrier<> mBarrier;
    std::deque<Warp> mWarps;
    std::byte* mShared; // exactly as large as asked for, so that an overrun is seen
    std::size_t mSharedBytes;
};

//! Sixteen bytes on their way to shared memory, `mBytes` of them from `mFrom`.
struct Copy
{
    void* mTo;
    void const* mFrom;
    int mBytes;
};

inline thread_local Block* tBlock = nullptr;
inline thread_local int tSet = 0;
inline thread_local std::deque<std::vector<Copy>> tCopies; // the last group is open

//! Runs `body` for every thread of every block.
template <typename Body>
void run(dim3 grid, int threads, std::size_t sharedBytes, Body const& body)
{
    Block block(threads, sharedBytes);
    auto const thread = [&](int index)
    {
        tBlock = &block;
        threadIdx = {static_cast<unsigned>(index), 0, 0};
        gridDim = grid;
        for (unsigned z = 0; z < grid.z; ++z)
        {
            for (unsigned y = 0; y < grid.y; ++y)
            {
                for (unsigned x = 0; x < grid.x; ++x)
                {
                    if (index == 0)
                    {
                        std::memset(block.mShared, 0xff, block.mSharedBytes); // NaN: never what the last block left
                    }
                    block.mBarrier.arrive_and_wait();
                    blockIdx = {x, y, z};
                    tCopies.assign(1, {});
                    body();
                    block.mBarrier.arrive_and_wait();
                }
            }
        }
    };
    std::vector<std::jthread> pool;
    for (int index = 0; index < threads; ++index)
    {
        pool.emplace_back(thread, index);
    }
}

inline std::byte* sharedMemory()
{
    return tBlock->mShared;
}

//! Shows a value to the other lanes of the warp and waits for theirs.
template <typename T>
void publish(T const& value)
{
    static_assert(sizeof(T) <= kSlotBytes);
    Warp& warp = tBlock->mWarps[threadIdx.x / kLanes];
    tSet ^= 1;
    std::memcpy(warp.mSlots[tSet][threadIdx.x % kLanes].data(), &value, sizeof(T));
    warp.mBarrier.arrive_and_wait();
}

//! Reads what a lane of the warp published last.
template <typename T>
void peek(T& value, int lane)
{
    std::memcpy(&value, tBlock->mWarps[threadIdx.x / kLanes].mSlots[tSet][lane].data(), sizeof(T));
}

//! The device may copy at any time from here until it is waited for: who still reads the old content finds NaN, as does
//! who reads the new too early.
inline void beginCopy(void* to, void const* from, int bytes)
{
    std::memset(to, 0xff, 16);
    tCopies.back().push_back({to, from, bytes});
}

inline void commitCopies()
{
    tCopies.emplace_back();
}

inline void waitForCopies(std::size_t pending)
{
    for (; tCopies.size() - 1 > pending; tCopies.pop_front())
    {
        for (Copy const& copy : tCopies.front())
        {
            std::memset(copy.mTo, 0, 16);
            std::memcpy(copy.mTo, copy.mFrom, static_cast<std::size_t>(copy.mBytes));
        }
    }
}

} // namespace emulation
} // namespace flextron

inline void __syncthreads()
{
    flextron::emulation::tBlock->mBarrier.arrive_and_wait();
}
