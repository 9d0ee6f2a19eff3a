/*
 * SPDX-License-Identifier: Apache-2.0
 *
 * Weights as they lie in memory and their conversion to float: of the data type, or integers that the caller multiplies
 * by the scale of their group. Integers become floats by setting their bits into the mantissa of 2^23 and subtracting
 * it: conversion instructions run at a fraction of the rate of additions.
 */
#pragma once

#include "../common/numeric.cuh"

#include <cstdint>

namespace flextron::elastic_linear
{

struct Int8
{
    std::int8_t mValue;
};

struct Int4
{
    std::uint8_t mPair;
};

template <typename W>
constexpr int kBits = 8 * sizeof(W);
template <>
constexpr int kBits<Int4> = 4;

template <typename W>
constexpr bool isQuantized = kBits<W> <= 8;

//! kCount neighbouring weights.
template <typename W, int kCount>
struct alignas(kCount* kBits<W> < 128 ? kCount * kBits<W> / 8 : 16) Weights
{
    std::uint32_t mWords[kCount * kBits<W> / 32];
};

//! `element` is a multiple of kCount.
template <typename W, int kCount>
FLEXTRON_INLINE Weights<W, kCount> loadWeights(void const* matrix, std::int64_t element)
{
    auto const* const bytes = static_cast<unsigned char const*>(matrix) + element * kBits<W> / 8;
    return *reinterpret_cast<Weights<W, kCount> const*>(bytes);
}

constexpr float kTwo23 = 8388608.0F;
constexpr std::uint32_t kTwo23Bits = 0x4b000000U;

//! Eight weights, without their scale.
template <typename W>
FLEXTRON_INLINE void decode(float (&values)[kVector], std::uint32_t const* words)
{
    if constexpr (kBits<W> == 32)
    {
#pragma unroll
        for (int i = 0; i < kVector; ++i)
        {
            values[i] = bitCast<float>(words[i]);
        }
    }
    else if constexpr (kBits<W> == 16)
    {
#pragma unroll
        for (int i = 0; i < kVector; i += 2)
        {
            Pair const pair = unpack<W>(words[i / 2]);
            values[i] = pair.mLow;
            values[i + 1] = pair.mHigh;
        }
    }
    else if constexpr (kBits<W> == 8)
    {
#pragma unroll
        for (int i = 0; i < kVector; ++i)
        {
            std::uint32_t const shifted =
                (words[i / 4] ^ 0x80808080U) >> (i % 4 * 8) & 0xffU; // 128 more than the value
            values[i] = bitCast<float>(kTwo23Bits | shifted) - (kTwo23 + 128.0F);
        }
    }
    else
    {
        std::uint32_t const all = words[0] ^ 0x88888888U; // each 8 more than its value
        constexpr int kAtOnce = 5;                        // fit into the mantissa where they are
#pragma unroll
        for (int i = 0; i < kVector; ++i)
        {
            int const place = i % kAtOnce * 4;
            float const unit = 1.0F / static_cast<float>(1 << place);
            std::uint32_t const bits = (i < kAtOnce ? all : all >> (kAtOnce * 4)) & 0xfU << place;
            values[i] = bitCast<float>(kTwo23Bits | bits) * unit - (kTwo23 * unit + 8.0F); // exact
        }
    }
}

} // namespace flextron::elastic_linear
