/*
 * SPDX-License-Identifier: Apache-2.0
 *
 * The C ABI: picks the kernels and launches them. Compiled by nvcc for the GPU and, as C++, for the host tests.
 */
#include "../common/abi.h"
#include "columns.cuh"
#include "plan.h"
#include "rows.cuh"
#include "tiles.cuh"

namespace flextron::elastic_linear
{
namespace
{

constexpr int kLargeM = 4; //!< sixteens of tokens of a warp in a large tile

//! Where the halves meet.
template <typename T>
struct Workspace
{
    T* mHidden;       //!< [tokens, rows] of the feed-forward network
    float* mPartials; //!< [tokens, parts, hidden]
};

unsigned blocks(int items, int perBlock)
{
    return static_cast<unsigned>(ceilDivide(items, perBlock));
}

template <typename T, typename W, Kind kKind, int kM>
bool launchTiles(Parameters const& p, Plan const& plan, T const* input, T* result, float* partials, Stream stream)
{
    using Sizes = Tile<kKind, kM>;
    int const parts = kKind == Kind::kInputs ? plan.mParts : 1;
    dim3 const grid{blocks(p.batch * p.length, Sizes::kTokens) * static_cast<unsigned>(parts),
        blocks(kKind == Kind::kInputs ? p.hidden : p.rows, Sizes::kResults)};
    return launch(tileKernel<T, W, kKind, kM>, grid, kTileThreads, Sizes::kSharedBytes, stream, p, input, result,
        partials, parts);
}

template <typename T, typename W, bool kGated, int kTokens>
bool launchRows(Parameters const& p, T* output, Stream stream)
{
    return launch(rowKernel<T, W, kTokens, kGated>,
        dim3{blocks(p.batch * p.length, kTokens), blocks(p.rows, kRowWarps)}, kRowWarps * kWarpSize, 0, stream, p,
        output);
}

//! Rows are outputs.
template <typename T, typename W, bool kGated>
bool launchOutputs(Parameters const& p, Plan const& plan, T* output, Stream stream)
{
    if constexpr (sizeof(T) == 2)
    {
        constexpr Kind kKind = kGated ? Kind::kGated : Kind::kOutputs;
        auto const* const input = static_cast<T const*>(p.input);
        if (plan.mTiled)
        {
            return plan.mLarge ? launchTiles<T, W, kKind, kLargeM>(p, plan, input, output, nullptr, stream)
                               : launchTiles<T, W, kKind, 1>(p, plan, input, output, nullptr, stream);
        }
    }
    switch (plan.mTokensPerBlock)
    {
    case 1: return launchRows<T, W, kGated, 1>(p, output, stream);
    case 2: return launchRows<T, W, kGated, 2>(p, output, stream);
    case 4: return launchRows<T, W, kGated, 4>(p, output, stream);
    default: break;
    }
    if constexpr (isQuantized<W>)
    {
        return false; // makePlan never says 8
    }
    else
    {
        return launchRows<T, W, kGated, 8>(p, output, stream);
    }
}

template <typename T, typename W, int kTokens>
bool launchColumns(Parameters const& p, Plan const& plan, T const* input, float* partials, Stream stream)
{
    return launch(columnKernel<T, W, kTokens>,
        dim3{blocks(p.batch * p.length, kTokens) * static_cast<unsigned>(plan.mParts),
            blocks(p.hidden, kBlockColumns<W>)},
        kColumnWarps * kWarpSize, kColumnSharedFloats<W> * sizeof(float), stream, p, input, partials, plan.mParts);
}

//! Rows are inputs: the sums, or their parts.
template <typename T, typename W>
bool launchSums(Parameters const& p, Plan const& plan, T const* input, float* partials, Stream stream)
{
    if constexpr (sizeof(T) == 2)
    {
        auto* const output = static_cast<T*>(p.output);
        if (plan.mTiled)
        {
            return plan.mLarge ? launchTiles<T, W, Kind::kInputs, kLargeM>(p, plan, input, output, partials, stream)
                               : launchTiles<T, W, Kind::kInputs, 1>(p, plan, input, output, partials, stream);
        }
    }
    switch (plan.mTokensPerBlock)
    {
    case 1: return launchColumns<T, W, 1>(p, plan, input, partials, stream);
    case 2: return launchColumns<T, W, 2>(p, plan, input, partials, stream);
    case 4: return launchColumns<T, W, 4>(p, plan, input, partials, stream);
    default: break;
    }
    if constexpr (isQuantized<W>)
    {
        return false;
    }
    else
    {
        return launchColumns<T, W, 8>(p, plan, input, partials, stream);
    }
}

int tokensPerBlock(Plan const& plan)
{
    if (!plan.mTiled)
    {
        return plan.mTokensPerBlock;
    }
    return plan.mLarge ? Tile<Kind::kInputs, kLargeM>::kTokens : Tile<Kind::kInputs, 1>::kTokens;
}

//! Rows are inputs.
template <typename T, typename W>
bool launchInputs(Parameters const& p, Plan const& plan, T const* input, float* partials, Stream stream)
{
    return launchSums<T, W>(p, plan, input, partials, stream)
           && (plan.mParts == 1
               || launch(combineKernel<T>,
                   dim3{static_cast<unsigned>(p.batch * p.length), blocks(p.hidden, kCombineThreads * kVector)},
                   kCombineThreads, 0, stream, p, static_cast<float const*>(partials), plan.mParts,
                   tokensPerBlock(plan)));
}

template <typename T, typename W>
bool launchAll(Parameters const& p, Plan const& plan, void* workspace, Stream stream)
{
    auto* const hidden = static_cast<T*>(workspace);
    auto* const partials = reinterpret_cast<float*>(static_cast<unsigned char*>(workspace) + plan.mHiddenBytes);
    switch (p.operation)
    {
    case FLEXTRON_ELASTIC_OUTPUTS: return launchOutputs<T, W, false>(p, plan, static_cast<T*>(p.output), stream);
    case FLEXTRON_ELASTIC_INPUTS: return launchInputs<T, W>(p, plan, static_cast<T const*>(p.input), partials, stream);
    default:
        return launchOutputs<T, W, true>(p, plan, hidden, stream)
               && launchInputs<T, W>(p, plan, static_cast<T const*>(hidden), partials, stream);
    }
}

struct Operator
{
    using Parameters = elastic_linear::Parameters;
    using Plan = elastic_linear::Plan;

    static constexpr auto* checkSizes = elastic_linear::checkSizes;
    static constexpr auto* checkPointers = elastic_linear::checkPointers;

    static Plan plan(Parameters const& p, int multiprocessors)
    {
        bool const quantized = p.weight_type != FLEXTRON_WEIGHT_AS_DATA;
        using Large = Tile<Kind::kInputs, kLargeM>;
        BlockColumns const columns{quantized ? kBlockColumns<Int8> : kBlockColumns<Half>, Large::kColumns};
        return makePlan(p, multiprocessors, columns, Large::kTokens);
    }

    template <typename T>
    static bool launch(Parameters const& p, Plan const& plan, void* workspace, Stream stream)
    {
        switch (p.weight_type)
        {
        case FLEXTRON_WEIGHT_INT8: return launchAll<T, Int8>(p, plan, workspace, stream);
        case FLEXTRON_WEIGHT_INT4: return launchAll<T, Int4>(p, plan, workspace, stream);
        default: return launchAll<T, T>(p, plan, workspace, stream);
        }
    }
};

} // namespace
} // namespace flextron::elastic_linear

extern "C" FlextronStatus flextron_elastic_linear_workspace(
    FlextronElasticLinear const* parameters, std::size_t* bytes, char const** reason)
{
    return flextron::Abi<flextron::elastic_linear::Operator>::workspace(parameters, bytes, reason);
}

extern "C" FlextronStatus flextron_elastic_linear_run(FlextronElasticLinear const* parameters, void* workspace,
    std::size_t workspaceBytes, void* stream, char const** reason)
{
    using Abi = flextron::Abi<flextron::elastic_linear::Operator>;
    return Abi::run(parameters, workspace, workspaceBytes, stream, reason);
}
