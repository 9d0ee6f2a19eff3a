/*
 * SPDX-License-Identifier: Apache-2.0
 */
#include "vectors.h"

#include <algorithm>

// Resolvers of function versions run before a sanitizer is ready.
#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__) && !defined(__SANITIZE_ADDRESS__)                   \
    && !defined(__SANITIZE_THREAD__)
#define FLEXTRON_VERSIONS __attribute__((target_clones("default", "arch=x86-64-v3", "arch=x86-64-v4")))
#else
#define FLEXTRON_VERSIONS
#endif

namespace flextron::cpu
{
namespace
{

constexpr int kLanes = 16; //!< independent sums: what the compiler may turn into vectors without reordering

template <int kRows>
[[gnu::always_inline]] inline void dots(float* sums, float const* const* x, float const* w, int count)
{
    float lanes[kRows][kLanes] = {};
    int i = 0;
    for (; i + kLanes <= count; i += kLanes)
    {
        for (int row = 0; row < kRows; ++row)
        {
            for (int lane = 0; lane < kLanes; ++lane)
            {
                lanes[row][lane] += x[row][i + lane] * w[i + lane];
            }
        }
    }
    for (int row = 0; row < kRows; ++row)
    {
        float sum = 0.0F;
        for (int j = i; j < count; ++j)
        {
            sum += x[row][j] * w[j];
        }
        for (int width = kLanes / 2; width > 0; width /= 2)
        {
            for (int lane = 0; lane < width; ++lane)
            {
                lanes[row][lane] += lanes[row][lane + width];
            }
        }
        sums[row] = sum + lanes[row][0];
    }
}

} // namespace

FLEXTRON_VERSIONS void dot1(float* sums, float const* const* x, float const* w, int count)
{
    dots<1>(sums, x, w, count);
}

FLEXTRON_VERSIONS void dot4(float* sums, float const* const* x, float const* w, int count)
{
    dots<4>(sums, x, w, count);
}

FLEXTRON_VERSIONS void addScaled(float* y, float a, float const* x, int count)
{
    for (int i = 0; i < count; ++i)
    {
        y[i] += a * x[i];
    }
}

FLEXTRON_VERSIONS void addScaled4(float* y, float const* a, float const* const* x, int count)
{
    float const a0 = a[0];
    float const a1 = a[1];
    float const a2 = a[2];
    float const a3 = a[3];
    float const* const x0 = x[0];
    float const* const x1 = x[1];
    float const* const x2 = x[2];
    float const* const x3 = x[3];
    for (int i = 0; i < count; ++i)
    {
        y[i] += a0 * x0[i] + a1 * x1[i] + a2 * x2[i] + a3 * x3[i];
    }
}

void load(float* to, float const* from, std::int64_t count)
{
    std::copy_n(from, count, to);
}

FLEXTRON_VERSIONS void load(float* to, Half const* from, std::int64_t count)
{
    for (std::int64_t i = 0; i < count; ++i)
    {
        to[i] = toFloat(from[i]);
    }
}

FLEXTRON_VERSIONS void load(float* to, BFloat16 const* from, std::int64_t count)
{
    for (std::int64_t i = 0; i < count; ++i)
    {
        to[i] = toFloat(from[i]);
    }
}

void store(float* to, float const* from, std::int64_t count)
{
    std::copy_n(from, count, to);
}

FLEXTRON_VERSIONS void store(Half* to, float const* from, std::int64_t count)
{
    for (std::int64_t i = 0; i < count; ++i)
    {
        to[i] = fromFloat<Half>(from[i]);
    }
}

FLEXTRON_VERSIONS void store(BFloat16* to, float const* from, std::int64_t count)
{
    for (std::int64_t i = 0; i < count; ++i)
    {
        to[i] = fromFloat<BFloat16>(from[i]);
    }
}

} // namespace flextron::cpu
