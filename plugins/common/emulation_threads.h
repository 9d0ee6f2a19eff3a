/*
 * SPDX-License-Identifier: Apache-2.0
 *
 * The threads of a block, for emulation.h. Under sanitizers they are threads of the system, so that a missing barrier
 * is a data race that is reported. Otherwise they take turns in one thread of the system, forwards and backwards, which
 * is many times faster.
 */
#pragma once

#include <cstddef>
#include <functional>
#include <memory>
#include <vector>

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#include <barrier>
#include <thread>
#else
#include <ucontext.h>
#endif

struct dim3
{
    unsigned x{1};
    unsigned y{1};
    unsigned z{1};
};

namespace flextron::emulation
{

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)

class Barrier
{
public:
    explicit Barrier(int threads)
        : mBarrier{threads}
    {
    }

    void wait()
    {
        mBarrier.arrive_and_wait();
    }

private:
    std::barrier<> mBarrier;
};

inline thread_local void* tCurrent = nullptr;

//! What runThreads was told to keep of the thread that asks.
inline void* current()
{
    return tCurrent;
}

//! Runs `body(i)` as thread i of `count`, which finds `state(i)` in current().
inline void runThreads(
    int count, std::function<void*(int)> const& state, std::function<void(int)> const& body)
{
    std::vector<std::jthread> threads;
    for (int i = 0; i < count; ++i)
    {
        threads.emplace_back(
            [&, i]
            {
                tCurrent = state(i);
                body(i);
            });
    }
}

#else

//! The threads of one block.
struct Turns
{
    struct Fiber
    {
        ucontext_t mContext;
        std::unique_ptr<std::byte[]> mStack;
        void* mState;
        bool mDone;
    };

    std::vector<Fiber> mFibers;
    ucontext_t mScheduler;
    std::size_t mCurrent{0};
    std::function<void(int)> const* mBody{nullptr};
};

inline thread_local Turns* tTurns = nullptr;

inline void* current()
{
    return tTurns->mFibers[tTurns->mCurrent].mState;
}

class Barrier
{
public:
    explicit Barrier(int threads)
        : mThreads{threads}
    {
    }

    void wait()
    {
        if (++mArrived == mThreads)
        {
            mArrived = 0;
            ++mRound;
            return;
        }
        for (long const round = mRound; mRound == round;)
        {
            swapcontext(&tTurns->mFibers[tTurns->mCurrent].mContext, &tTurns->mScheduler);
        }
    }

private:
    int mThreads;
    int mArrived{0};
    long mRound{0};
};

inline void enterFiber()
{
    (*tTurns->mBody)(static_cast<int>(tTurns->mCurrent));
    tTurns->mFibers[tTurns->mCurrent].mDone = true;
}

inline void runThreads(
    int count, std::function<void*(int)> const& state, std::function<void(int)> const& body)
{
    constexpr std::size_t kStackBytes = 256 * 1024;
    Turns turns;
    turns.mBody = &body;
    turns.mFibers.resize(static_cast<std::size_t>(count));
    tTurns = &turns;
    for (int i = 0; i < count; ++i)
    {
        Turns::Fiber& fiber = turns.mFibers[static_cast<std::size_t>(i)];
        fiber.mStack.reset(new std::byte[kStackBytes]);
        fiber.mState = state(i);
        fiber.mDone = false;
        getcontext(&fiber.mContext);
        fiber.mContext.uc_stack.ss_sp = fiber.mStack.get();
        fiber.mContext.uc_stack.ss_size = kStackBytes;
        fiber.mContext.uc_link = &turns.mScheduler;
        makecontext(&fiber.mContext, enterFiber, 0);
    }
    std::size_t const all = turns.mFibers.size();
    for (bool running = true, backwards = false; running; backwards = !backwards)
    {
        running = false;
        for (std::size_t i = 0; i < all; ++i)
        {
            turns.mCurrent = backwards ? all - 1 - i : i;
            if (!turns.mFibers[turns.mCurrent].mDone)
            {
                running = true;
                swapcontext(&turns.mScheduler, &turns.mFibers[turns.mCurrent].mContext);
            }
        }
    }
    tTurns = nullptr;
}

#endif

} // namespace flextron::emulation
