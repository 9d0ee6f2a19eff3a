/*
 * SPDX-License-Identifier: Apache-2.0
 *
 * What the C ABIs of all operators do alike.
 */
#pragma once

#include "portable.cuh"
#include "status.h"

#include <cstddef>
#include <cstdint>

namespace flextron
{

//! Checks the sizes and plans for the multiprocessors to fill; `reason` is set unless it succeeds.
template <typename Parameters, typename Plan, typename MakePlan>
FlextronStatus prepare(Parameters const* parameters, char const* (*checkSizes)(Parameters const&, FlextronStatus&),
    MakePlan const& makePlan, Plan& plan, char const*& reason)
{
    if (parameters == nullptr)
    {
        reason = "parameters: null";
        return FLEXTRON_INVALID_ARGUMENT;
    }
    FlextronStatus status = FLEXTRON_SUCCESS;
    reason = checkSizes(*parameters, status);
    if (reason != nullptr)
    {
        return status;
    }
    int const multiprocessors = parameters->multiprocessors > 0 ? parameters->multiprocessors : multiprocessorCount();
    if (multiprocessors == 0)
    {
        reason = "there is no CUDA device";
        return FLEXTRON_CUDA_ERROR;
    }
    plan = makePlan(*parameters, multiprocessors);
    return FLEXTRON_SUCCESS;
}

inline FlextronStatus checkWorkspace(void const* workspace, std::size_t bytes, std::size_t needed, char const*& reason)
{
    if (bytes < needed)
    {
        reason = "workspace: smaller than the operator's workspace function says";
        return FLEXTRON_WORKSPACE_TOO_SMALL;
    }
    if (needed > 0 && (workspace == nullptr || reinterpret_cast<std::uintptr_t>(workspace) % 16 != 0))
    {
        reason = "workspace: null or not aligned to 16 bytes";
        return FLEXTRON_INVALID_ARGUMENT;
    }
    return FLEXTRON_SUCCESS;
}

//! Calls with a place for the reason and hands it on if it is wanted.
template <typename Call>
FlextronStatus reporting(char const** reason, Call const& call)
{
    char const* text = nullptr;
    FlextronStatus const status = call(text);
    if (reason != nullptr)
    {
        *reason = text;
    }
    return status;
}

} // namespace flextron
