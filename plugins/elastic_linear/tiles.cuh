/*
 * SPDX-License-Identifier: Apache-2.0
 *
 * The kernel for many tokens, on tensor cores: a tile of tokens times a tile of output columns, the sum in steps of
 * kDepth that are copied into shared memory while the last ones are multiplied. Integer weights become the data type on
 * that way. A tile does the work of its widest token; what lies beyond a token's own d counts as zero.
 */
#pragma once

#include "active_rows.cuh"

namespace flextron::elastic_linear
{

#if defined(__CUDACC__)
constexpr int kTokenWarps = 2;
constexpr int kColumnTileWarps = 4;
#else
constexpr int kTokenWarps = 1;
constexpr int kColumnTileWarps = 2;
#endif
constexpr int kTileThreads = kTokenWarps * kColumnTileWarps * kWarpSize;
constexpr int kStages = 3; //!< steps in shared memory at once

//! What the columns of the tile are.
enum class Kind
{
    kOutputs, //!< rows of `up`
    kGated,   //!< rows of `gate` and of `up`, sixteen of each in turn
    kInputs   //!< columns of `down`
};

//! Sizes of a tile whose warps own kM * 16 tokens and 32 columns.
template <Kind kKind, int kM>
struct Tile
{
    static constexpr int kTokens = kTokenWarps * 16 * kM;
    static constexpr int kColumns = kColumnTileWarps * 32;
    static constexpr int kResults = kKind == Kind::kGated ? kColumns / 2 : kColumns; //!< columns of the output
    // The padding spreads the rows of an 8x8 operand over all banks.
    static constexpr int kLeftStride = kDepth + kVector;
    static constexpr int kRightStride = (kKind == Kind::kInputs ? kColumns : kDepth) + kVector;
    static constexpr int kLeft = kTokens * kLeftStride;
    static constexpr int kRight = (kKind == Kind::kInputs ? kDepth : kColumns) * kRightStride;
    static constexpr int kSharedBytes = kStages * (kLeft + kRight) * 2 + kTokens * static_cast<int>(sizeof(int));
};

//! Eight weights into shared memory, zeros unless `valid`. They arrive with the group of copies at the latest. With
//! kDown, rows share the scales of a column.
template <typename T, typename W, bool kDown>
__device__ __forceinline__ void copyWeights(
    Parameters const& p, T* to, void const* matrix, void const* scales, int row, int column, bool valid)
{
    std::int64_t const element = valid ? static_cast<std::int64_t>(row) * p.hidden + column : 0;
    if constexpr (isQuantized<W>)
    {
        float values[kVector] = {};
        if (valid)
        {
            auto const weights = loadWeights<W, kVector>(matrix, element);
            decode<W>(values, weights.mWords);
            float scale[kVector];
            if constexpr (kDown)
            {
                std::int64_t const from = static_cast<std::int64_t>(row / p.group_size) * p.hidden + column;
                toFloat(scale, loadPacked(static_cast<T const*>(scales) + from));
            }
            else
            {
                scale[0] = scaleOf<T>(p, scales, row, column);
            }
#pragma unroll
            for (int i = 0; i < kVector; ++i)
            {
                values[i] *= scale[kDown ? i : 0];
            }
        }
        storePacked(to, fromFloat<T>(values));
    }
    else
    {
        copyAsync(to, static_cast<T const*>(matrix) + element, valid ? 16 : 0);
    }
}

//! Grid: parts x tiles of tokens, tiles of columns. `input` is [tokens, hidden], of kInputs [tokens, rows]; `result` is
//! [tokens, rows], of kInputs [tokens, hidden]. Of every 8 columns of a product, lane l holds l % 4 * 2 and the next,
//! in the tokens l / 4 and l / 4 + 8.
template <typename T, typename W, Kind kKind, int kM>
__global__ void __launch_bounds__(kTileThreads)
    tileKernel(Parameters const p, T const* const input, T* const result, float* const partials, int const parts)
{
    using Sizes = Tile<kKind, kM>;
    constexpr bool kSumsRows = kKind == Kind::kInputs;
    constexpr int kN = 4; // groups of 8 columns of a warp
    T* const left = sharedMemory<T>();
    T* const right = left + kStages * Sizes::kLeft;
    int* const active = reinterpret_cast<int*>(right + kStages * Sizes::kRight);

    int const thread = static_cast<int>(threadIdx.x);
    int const lane = thread % kWarpSize;
    int const tokenWarp = thread / kWarpSize / kColumnTileWarps;
    int const columnWarp = thread / kWarpSize % kColumnTileWarps;
    int const tiles = ceilDivide(tokenCount(p), Sizes::kTokens);
    int const part = static_cast<int>(blockIdx.x) / tiles;
    int const firstToken = static_cast<int>(blockIdx.x) % tiles * Sizes::kTokens;
    int const firstColumn = static_cast<int>(blockIdx.y) * Sizes::kResults;

    int const most = mostActiveRows(p, firstToken, Sizes::kTokens);
    Rows const depth = kSumsRows ? rowsOfPart(most, parts, part) : Rows{0, firstColumn < most ? p.hidden : 0};
    if (depth.mBegin >= depth.mEnd && (kKind == Kind::kGated || parts > 1))
    {
        return; // nobody looks at these results
    }
    for (int i = thread; i < Sizes::kTokens; i += kTileThreads)
    {
        active[i] = firstToken + i < tokenCount(p) ? activeRows(p, firstToken + i) : 0;
    }
    __syncthreads();

    auto const load = [&](int stage, int first)
    {
        constexpr int kVectors = kDepth / kVector;
        std::int64_t const inputStride = kSumsRows ? p.rows : p.hidden;
        for (int i = thread; i < Sizes::kTokens * kVectors; i += kTileThreads)
        {
            int const token = i / kVectors;
            int const k = i % kVectors * kVector;
            // Of a sum over rows, those beyond a token's d may hold anything, NaN included.
            int const end =
                kSumsRows ? smaller(active[token], depth.mEnd) : (firstToken + token < tokenCount(p) ? p.hidden : 0);
            int const valid = larger(0, smaller(end - first - k, kVector));
            T const* const from = input + (valid > 0 ? (firstToken + token) * inputStride + first + k : 0);
            copyAsync(left + stage * Sizes::kLeft + token * Sizes::kLeftStride + k, from,
                valid * static_cast<int>(sizeof(T)));
        }
        T* const to = right + stage * Sizes::kRight;
        if constexpr (kSumsRows)
        {
            constexpr int kAcross = Sizes::kColumns / kVector;
            for (int i = thread; i < kDepth * kAcross; i += kTileThreads)
            {
                int const row = i / kAcross;
                int const column = i % kAcross * kVector;
                copyWeights<T, W, true>(p, to + row * Sizes::kRightStride + column, p.down, p.down_scales, first + row,
                    firstColumn + column, first + row < depth.mEnd && firstColumn + column < p.hidden);
            }
        }
        else
        {
            for (int i = thread; i < Sizes::kColumns * kVectors; i += kTileThreads)
            {
                int const column = i / kVectors;
                int const k = i % kVectors * kVector;
                bool const gate = kKind == Kind::kGated && column % 32 < 16;
                int const row = firstColumn + (kKind == Kind::kGated ? column / 32 * 16 + column % 16 : column);
                copyWeights<T, W, false>(p, to + column * Sizes::kRightStride + k, gate ? p.gate : p.up,
                    gate ? p.gate_scales : p.up_scales, row, first + k, row < p.rows);
            }
        }
    };

    float sum[kM][kN][4] = {};
    int const steps = ceilDivide(depth.mEnd - depth.mBegin, kDepth);
    for (int step = 0; step < kStages - 1; ++step)
    {
        if (step < steps)
        {
            load(step, depth.mBegin + step * kDepth);
        }
        commitCopies();
    }
    for (int step = 0; step < steps; ++step)
    {
        waitForCopies<kStages - 2>();
        __syncthreads(); // this step has arrived, and the one before it is used up by all warps
        if (int const next = step + kStages - 1; next < steps)
        {
            load(next % kStages, depth.mBegin + next * kDepth);
        }
        commitCopies();
        T const* const a = left + step % kStages * Sizes::kLeft + tokenWarp * 16 * kM * Sizes::kLeftStride;
        T const* const b = right + step % kStages * Sizes::kRight;
#pragma unroll
        for (int k = 0; k < kDepth; k += 16)
        {
            std::uint32_t x[kM][4];
#pragma unroll
            for (int m = 0; m < kM; ++m)
            {
                loadTiles(x[m], a + m * 16 * Sizes::kLeftStride + k, Sizes::kLeftStride);
            }
#pragma unroll
            for (int n = 0; n < kN; n += 2)
            {
                std::uint32_t w[4];
                int const column = columnWarp * 32 + n * 8;
                if constexpr (kSumsRows)
                {
                    loadTilesTransposed(w, b + k * Sizes::kRightStride + column, Sizes::kRightStride);
                }
                else
                {
                    loadTiles(w, b + column * Sizes::kRightStride + k, Sizes::kRightStride);
                }
                std::uint32_t const first[2] = {w[0], kSumsRows ? w[1] : w[2]};
                std::uint32_t const second[2] = {kSumsRows ? w[2] : w[1], w[3]};
#pragma unroll
                for (int m = 0; m < kM; ++m)
                {
                    multiplyAdd<T>(sum[m][n], x[m], first);
                    multiplyAdd<T>(sum[m][n + 1], x[m], second);
                }
            }
        }
    }

    auto const biasOf = [](void const* bias, int row)
    { return bias != nullptr ? toFloat(static_cast<T const*>(bias)[row]) : 0.0F; };
    constexpr int kResultsN = kKind == Kind::kGated ? kN / 2 : kN;
    int const width = kSumsRows ? p.hidden : p.rows;
#pragma unroll
    for (int m = 0; m < kM; ++m)
    {
#pragma unroll
        for (int half = 0; half < 2; ++half)
        {
            int const inTile = (tokenWarp * kM + m) * 16 + lane / 4 + half * 8;
            int const token = firstToken + inTile;
            if (token >= tokenCount(p))
            {
                continue;
            }
#pragma unroll
            for (int n = 0; n < kResultsN; ++n)
            {
                int const column = firstColumn + columnWarp * kResultsN * 8 + n * 8 + lane % 4 * 2;
                if (column >= width)
                {
                    continue;
                }
                float value[2];
#pragma unroll
                for (int i = 0; i < 2; ++i)
                {
                    value[i] = sum[m][n][half * 2 + i];
                    if constexpr (kKind == Kind::kGated)
                    {
                        value[i] = activate(value[i] + biasOf(p.gate_bias, column + i), p.activation)
                                   * (sum[m][n + kResultsN][half * 2 + i] + biasOf(p.up_bias, column + i));
                    }
                    else if constexpr (kKind == Kind::kOutputs)
                    {
                        value[i] = column + i < active[inTile] ? value[i] + biasOf(p.up_bias, column + i) : 0.0F;
                    }
                }
                if (kSumsRows && parts > 1)
                {
                    float* const to = partials + (static_cast<std::int64_t>(token) * parts + part) * p.hidden + column;
                    to[0] = value[0];
                    to[1] = value[1];
                    continue;
                }
                if constexpr (kSumsRows)
                {
                    if (T const* const addend = addendOf<T>(p, token))
                    {
                        value[0] += toFloat(addend[column]);
                        value[1] += toFloat(addend[column + 1]);
                    }
                }
                *reinterpret_cast<std::uint32_t*>(result + static_cast<std::int64_t>(token) * width + column) =
                    pack<T>(value[0], value[1]);
            }
        }
    }
}

} // namespace flextron::elastic_linear
