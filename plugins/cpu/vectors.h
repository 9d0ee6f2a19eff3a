/*
 * SPDX-License-Identifier: Apache-2.0
 *
 * Arithmetic on arrays for kernels that run on the CPU. Compiled for several instruction sets, of which the best is
 * picked when the library is loaded.
 */
#pragma once

#include "../common/numeric.cuh"

#include <cstddef>
#include <cstdint>
#include <functional>

namespace flextron::cpu
{

//! Calls a function with 0 … count - 1, on any threads, and returns when all calls have.
using Parallel = std::function<void(std::size_t count, std::function<void(std::size_t)> const& body)>;

//! The dot products of kRows arrays with one.
void dot1(float* sums, float const* const* x, float const* w, int count);
void dot4(float* sums, float const* const* x, float const* w, int count);

//! y += a x
void addScaled(float* y, float a, float const* x, int count);

//! y += a[0] x[0] + … + a[3] x[3]
void addScaled4(float* y, float const* a, float const* const* x, int count);

void load(float* to, float const* from, std::int64_t count);
void load(float* to, Half const* from, std::int64_t count);
void load(float* to, BFloat16 const* from, std::int64_t count);
void store(float* to, float const* from, std::int64_t count);
void store(Half* to, float const* from, std::int64_t count);
void store(BFloat16* to, float const* from, std::int64_t count);

//! The array itself if it holds floats, else `scratch` with its elements.
template <typename T>
float const* asFloat(T const* from, float* scratch, std::int64_t count)
{
    if constexpr (sizeof(T) == sizeof(float))
    {
        return from;
    }
    else
    {
        load(scratch, from, count);
        return scratch;
    }
}

} // namespace flextron::cpu
