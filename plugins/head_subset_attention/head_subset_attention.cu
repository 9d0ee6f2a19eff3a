/*
 * SPDX-License-Identifier: Apache-2.0
 *
 * The C ABI: picks the kernels and launches them. Compiled by nvcc for the GPU and, as C++, for the host tests.
 */
#include "../common/abi.h"
#include "plan.h"
#include "tile.cuh"
#include "token.cuh"
#include "write.cuh"

#include <cmath>

namespace flextron::head_subset_attention
{
namespace
{

template <typename T, int kHeadDim, int kHeads>
bool launchToken(Parameters const& p, Plan const& plan, Partials const& partials, Stream stream)
{
    auto const tokens = static_cast<unsigned>(p.batch * p.length);
    auto const parts = static_cast<unsigned>(plan.mParts);
    auto const chunks = static_cast<unsigned>(ceilDivide(p.heads_per_group, kHeads));
    return launch(tokenKernel<T, kHeadDim, kHeads>, dim3{tokens * parts, static_cast<unsigned>(p.groups) * chunks},
               kTokenWarps * kWarpSize, tokenSharedFloats(kHeadDim, kHeads) * sizeof(float), stream, p, partials,
               plan.mParts)
           && (plan.mParts == 1
               || launch(combineKernel<T, kHeadDim>,
                   dim3{tokens, static_cast<unsigned>(p.groups) * static_cast<unsigned>(p.heads_per_group)},
                   kCombineThreads, 0, stream, p, partials, plan.mParts));
}

template <typename T, int kHeadDim>
bool launchAll(Parameters const& p, Plan const& plan, Partials const& partials, Stream stream)
{
    if (!launch(writeKernel<T, kHeadDim>, dim3{static_cast<unsigned>(p.batch * p.length)}, kWriteThreads, 0, stream, p))
    {
        return false;
    }
    if constexpr (sizeof(T) == 2)
    {
        if (plan.mTiled)
        {
            auto const tiles = static_cast<unsigned>(ceilDivide(p.length * p.heads_per_group, kTileWarps * 16));
            return launch(tileKernel<T, kHeadDim>,
                dim3{tiles, static_cast<unsigned>(p.groups), static_cast<unsigned>(p.batch)}, kTileWarps * kWarpSize,
                tileSharedElements(kHeadDim) * sizeof(T), stream, p);
        }
    }
    switch (plan.mHeadsPerBlock)
    {
    case 1: return launchToken<T, kHeadDim, 1>(p, plan, partials, stream);
    case 2: return launchToken<T, kHeadDim, 2>(p, plan, partials, stream);
    case 4: return launchToken<T, kHeadDim, 4>(p, plan, partials, stream);
    default: return launchToken<T, kHeadDim, 8>(p, plan, partials, stream);
    }
}

struct Operator
{
    using Parameters = head_subset_attention::Parameters;
    using Plan = head_subset_attention::Plan;

    static constexpr auto* checkSizes = head_subset_attention::checkSizes;
    static constexpr auto* checkPointers = head_subset_attention::checkPointers;
    static constexpr auto* plan = makePlan;

    template <typename T>
    static bool launch(Parameters p, Plan const& plan, void* workspace, Stream stream)
    {
        if (p.scale == 0.0F)
        {
            p.scale = 1.0F / std::sqrt(static_cast<float>(p.head_dim));
        }
        auto* const sums = static_cast<float*>(workspace);
        Partials const partials{sums, sums + plan.mSumBytes / sizeof(float)};
        switch (p.head_dim)
        {
        case 64: return launchAll<T, 64>(p, plan, partials, stream);
        case 96: return launchAll<T, 96>(p, plan, partials, stream);
        case 128: return launchAll<T, 128>(p, plan, partials, stream);
        default: return launchAll<T, 256>(p, plan, partials, stream);
        }
    }
};

} // namespace
} // namespace flextron::head_subset_attention

extern "C" FlextronStatus flextron_head_subset_attention_workspace(
    FlextronHeadSubsetAttention const* parameters, std::size_t* bytes, char const** reason)
{
    return flextron::Abi<flextron::head_subset_attention::Operator>::workspace(parameters, bytes, reason);
}

extern "C" FlextronStatus flextron_head_subset_attention_run(FlextronHeadSubsetAttention const* parameters,
    void* workspace, std::size_t workspaceBytes, void* stream, char const** reason)
{
    using Abi = flextron::Abi<flextron::head_subset_attention::Operator>;
    return Abi::run(parameters, workspace, workspaceBytes, stream, reason);
}
