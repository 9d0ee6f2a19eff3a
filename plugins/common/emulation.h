/*
 * SPDX-License-Identifier: Apache-2.0
 *
 * CUDA's execution model on the CPU, for tests: blocks one after another, the threads of a block as
 * emulation_threads.h says. Shared memory, barriers and warp exchanges behave as on the device, and sanitizers see every
 * access. All threads of a block must leave the kernel at the same point, and warps must be full.
 */
#pragma once

#include "emulation_threads.h"

#include <array>
#include <cstddef>
#include <cstring>
#include <deque>
#include <memory>
#include <new>
#include <vector>

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __launch_bounds__(...)

namespace flextron
{

using Stream = void*;

namespace emulation
{

constexpr int kLanes = 32;
constexpr std::size_t kSlotBytes = 512; // the largest value that a lane can publish

struct Warp
{
    Barrier mBarrier{kLanes};
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

    Barrier mBarrier;
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

//! What every thread has of its own.
struct Thread
{
    dim3 mThreadIdx;
    dim3 mBlockIdx;
    dim3 mGridDim;
    Block* mBlock{nullptr};
    int mSet{0};
    std::deque<std::vector<Copy>> mCopies; // the last group is open
};

inline Thread& self()
{
    return *static_cast<Thread*>(current());
}

//! Runs `body` for every thread of every block.
template <typename Body>
void run(dim3 grid, int threads, std::size_t sharedBytes, Body const& body)
{
    Block block(threads, sharedBytes);
    std::vector<Thread> all(static_cast<std::size_t>(threads));
    runThreads(threads, [&](int index) -> void* { return &all[static_cast<std::size_t>(index)]; },
        [&](int index)
        {
            Thread& me = self();
            me.mThreadIdx = {static_cast<unsigned>(index), 0, 0};
            me.mGridDim = grid;
            me.mBlock = &block;
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
                        block.mBarrier.wait();
                        me.mBlockIdx = {x, y, z};
                        me.mCopies.assign(1, {});
                        body();
                        block.mBarrier.wait();
                    }
                }
            }
        });
}

inline std::byte* sharedMemory()
{
    return self().mBlock->mShared;
}

//! Shows a value to the other lanes of the warp and waits for theirs.
template <typename T>
void publish(T const& value)
{
    static_assert(sizeof(T) <= kSlotBytes);
    Warp& warp = self().mBlock->mWarps[self().mThreadIdx.x / kLanes];
    self().mSet ^= 1;
    std::memcpy(warp.mSlots[self().mSet][self().mThreadIdx.x % kLanes].data(), &value, sizeof(T));
    warp.mBarrier.wait();
}

//! Reads what a lane of the warp published last.
template <typename T>
void peek(T& value, int lane)
{
    Warp const& warp = self().mBlock->mWarps[self().mThreadIdx.x / kLanes];
    std::memcpy(&value, warp.mSlots[self().mSet][lane].data(), sizeof(T));
}

//! The device may copy at any time from here until it is waited for: who still reads the old content finds NaN, as does
//! who reads the new too early.
inline void beginCopy(void* to, void const* from, int bytes)
{
    std::memset(to, 0xff, 16);
    self().mCopies.back().push_back({to, from, bytes});
}

inline void commitCopies()
{
    self().mCopies.emplace_back();
}

inline void waitForCopies(std::size_t pending)
{
    for (; self().mCopies.size() - 1 > pending; self().mCopies.pop_front())
    {
        for (Copy const& copy : self().mCopies.front())
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
    flextron::emulation::self().mBlock->mBarrier.wait();
}

#define threadIdx (flextron::emulation::self().mThreadIdx)
#define blockIdx (flextron::emulation::self().mBlockIdx)
#define gridDim (flextron::emulation::self().mGridDim)
