/*
 * SPDX-License-Identifier: Apache-2.0
 *
 * Storage types and their conversion to float, eight elements (one or two 16-byte accesses) or two (one register of a
 * tensor-core fragment) at a time. The host versions are bit-exact and need no CUDA headers.
 */
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

#if defined(__CUDACC__)
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#define FLEXTRON_INLINE __device__ __forceinline__
#else
#define FLEXTRON_INLINE inline
#endif

namespace flextron
{

//! IEEE binary16.
struct Half
{
    std::uint16_t mBits;
};

//! The upper half of a float.
struct BFloat16
{
    std::uint16_t mBits;
};

template <typename T>
constexpr bool isHalf = false;
template <>
constexpr bool isHalf<Half> = true;

constexpr int kVector = 8; //!< elements that a thread loads at once

//! Sixteen bytes, aligned: the widest access of a thread.
struct alignas(16) Bits128
{
    std::uint32_t mWords[4];
};

//! Eight elements as they lie in memory.
template <typename T>
struct Packed
{
    Bits128 mParts[sizeof(T) * kVector / sizeof(Bits128)];
};

struct Pair
{
    float mLow;
    float mHigh;
};

template <typename To, typename From>
FLEXTRON_INLINE To bitCast(From const& from)
{
    static_assert(sizeof(To) == sizeof(From));
    To to;
    memcpy(&to, &from, sizeof(To));
    return to;
}

#if !defined(__CUDACC__)

inline float halfToFloat(std::uint16_t half)
{
    // Exponent and mantissa in place, then rebiased by a multiplication, which also normalises subnormal numbers.
    std::uint32_t const shifted = (half & 0x7fffU) << 13;
    std::uint32_t bits = bitCast<std::uint32_t>(bitCast<float>(shifted) * 0x1p112F);
    if (shifted >= 0x0f800000U)
    {
        bits = shifted | 0x7f800000U; // infinity and NaN
    }
    return bitCast<float>(bits | (half & 0x8000U) << 16);
}

inline std::uint16_t floatToHalf(float value)
{
    std::uint32_t bits = bitCast<std::uint32_t>(value);
    std::uint32_t const sign = bits >> 16 & 0x8000U;
    bits &= 0x7fffffffU;
    if (bits >= 0x47800000U) // 2^16 and beyond
    {
        bits = bits > 0x7f800000U ? 0x7e00U : 0x7c00U;
    }
    else if (bits < 0x38800000U) // subnormal: the addition rounds at the right place
    {
        bits = bitCast<std::uint32_t>(std::fabs(value) + 0.5F) - 0x3f000000U;
    }
    else // rebias the exponent and round to nearest even
    {
        bits = (bits - (112U << 23) + 0xfffU + (bits >> 13 & 1U)) >> 13;
    }
    return static_cast<std::uint16_t>(bits | sign);
}

inline std::uint16_t floatToBFloat16(float value)
{
    std::uint32_t const bits = bitCast<std::uint32_t>(value);
    if (std::isnan(value))
    {
        return static_cast<std::uint16_t>(bits >> 16 | 0x40U);
    }
    return static_cast<std::uint16_t>((bits + 0x7fffU + (bits >> 16 & 1U)) >> 16);
}

#endif

//! Two 16-bit elements of a register.
template <typename T>
FLEXTRON_INLINE Pair unpack(std::uint32_t word)
{
    static_assert(sizeof(T) == 2, "16-bit storage only");
    if constexpr (isHalf<T>)
    {
#if defined(__CUDACC__)
        float2 const pair = __half22float2(bitCast<__half2>(word));
        return {pair.x, pair.y};
#else
        return {halfToFloat(static_cast<std::uint16_t>(word)), halfToFloat(static_cast<std::uint16_t>(word >> 16))};
#endif
    }
    else
    {
        return {bitCast<float>(word << 16), bitCast<float>(word & 0xffff0000U)};
    }
}

//! Two floats rounded to nearest even into a register.
template <typename T>
FLEXTRON_INLINE std::uint32_t pack(float low, float high)
{
    static_assert(sizeof(T) == 2, "16-bit storage only");
#if defined(__CUDACC__)
    if constexpr (isHalf<T>)
    {
        return bitCast<std::uint32_t>(__floats2half2_rn(low, high));
    }
    else
    {
        return bitCast<std::uint32_t>(__floats2bfloat162_rn(low, high));
    }
#else
    auto const round = isHalf<T> ? floatToHalf : floatToBFloat16;
    return round(low) | static_cast<std::uint32_t>(round(high)) << 16;
#endif
}

//! `from` is a multiple of 16 bytes.
template <typename T>
FLEXTRON_INLINE Packed<T> loadPacked(T const* from)
{
    return *reinterpret_cast<Packed<T> const*>(from);
}

template <typename T>
FLEXTRON_INLINE void storePacked(T* to, Packed<T> const& values)
{
    *reinterpret_cast<Packed<T>*>(to) = values;
}

template <typename T>
FLEXTRON_INLINE void toFloat(float (&values)[kVector], Packed<T> const& packed)
{
#pragma unroll
    for (int i = 0; i < kVector; i += 2)
    {
        if constexpr (sizeof(T) == 2)
        {
            Pair const pair = unpack<T>(packed.mParts[0].mWords[i / 2]);
            values[i] = pair.mLow;
            values[i + 1] = pair.mHigh;
        }
        else
        {
            values[i] = bitCast<float>(packed.mParts[i / 4].mWords[i % 4]);
            values[i + 1] = bitCast<float>(packed.mParts[i / 4].mWords[i % 4 + 1]);
        }
    }
}

template <typename T>
FLEXTRON_INLINE Packed<T> fromFloat(float const (&values)[kVector])
{
    Packed<T> packed;
#pragma unroll
    for (int i = 0; i < kVector; i += 2)
    {
        if constexpr (sizeof(T) == 2)
        {
            packed.mParts[0].mWords[i / 2] = pack<T>(values[i], values[i + 1]);
        }
        else
        {
            packed.mParts[i / 4].mWords[i % 4] = bitCast<std::uint32_t>(values[i]);
            packed.mParts[i / 4].mWords[i % 4 + 1] = bitCast<std::uint32_t>(values[i + 1]);
        }
    }
    return packed;
}

//! One element.
template <typename T>
FLEXTRON_INLINE float toFloat(T value)
{
    if constexpr (sizeof(T) == 2)
    {
        return unpack<T>(value.mBits).mLow;
    }
    else
    {
        return value;
    }
}

template <typename T>
FLEXTRON_INLINE T fromFloat(float value)
{
    if constexpr (sizeof(T) == 2)
    {
        return T{static_cast<std::uint16_t>(pack<T>(value, 0.0F))};
    }
    else
    {
        return value;
    }
}

} // namespace flextron
