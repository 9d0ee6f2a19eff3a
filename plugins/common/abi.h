/*
 * SPDX-License-Identifier: Apache-2.0
 *
 * The C ABI, the same for all operators: arguments are checked, then kernels are picked and launched.
 */
#pragma once

#include "portable.cuh"
#include "status.h"

#include <cstddef>
#include <cstdint>

namespace flextron
{

/*!
 * The functions of an operator's C ABI. `Operator` has
 *   Parameters, Plan       the parameter struct, what was decided from its sizes (with mWorkspaceBytes)
 *   checkSizes(p, status)  what is wrong with the sizes, or null
 *   checkPointers(p)       what is wrong with the pointers, or null
 *   plan(p, multiprocessors)
 *   launch<T>(p, plan, workspace, stream)  true on success; T is Half, BFloat16 or float
 */
template <typename Operator>
class Abi
{
public:
    using Parameters = typename Operator::Parameters;
    using Plan = typename Operator::Plan;

    static FlextronStatus workspace(Parameters const* parameters, std::size_t* bytes, char const** reason)
    {
        char const* ignored = nullptr;
        char const*& text = reason != nullptr ? *reason : ignored;
        text = nullptr;
        if (bytes == nullptr)
        {
            text = "bytes: null";
            return FLEXTRON_INVALID_ARGUMENT;
        }
        Plan plan{};
        FlextronStatus const status = prepare(parameters, plan, text);
        if (status == FLEXTRON_SUCCESS)
        {
            *bytes = plan.mWorkspaceBytes;
        }
        return status;
    }

    static FlextronStatus run(Parameters const* parameters, void* workspace, std::size_t workspaceBytes, void* stream,
        char const** reason)
    {
        char const* ignored = nullptr;
        char const*& text = reason != nullptr ? *reason : ignored;
        text = nullptr;
        Plan plan{};
        FlextronStatus status = prepare(parameters, plan, text);
        if (status != FLEXTRON_SUCCESS)
        {
            return status;
        }
        text = Operator::checkPointers(*parameters);
        if (text != nullptr)
        {
            return FLEXTRON_INVALID_ARGUMENT;
        }
        status = checkWorkspace(workspace, workspaceBytes, plan.mWorkspaceBytes, text);
        if (status != FLEXTRON_SUCCESS)
        {
            return status;
        }
        if (!launch(*parameters, plan, workspace, static_cast<Stream>(stream)))
        {
            text = "a kernel could not be launched";
            return FLEXTRON_CUDA_ERROR;
        }
        return FLEXTRON_SUCCESS;
    }

private:
    static FlextronStatus prepare(Parameters const* parameters, Plan& plan, char const*& reason)
    {
        if (parameters == nullptr)
        {
            reason = "parameters: null";
            return FLEXTRON_INVALID_ARGUMENT;
        }
        FlextronStatus status = FLEXTRON_SUCCESS;
        reason = Operator::checkSizes(*parameters, status);
        if (reason != nullptr)
        {
            return status;
        }
        int const multiprocessors =
            parameters->multiprocessors > 0 ? parameters->multiprocessors : multiprocessorCount();
        if (multiprocessors == 0)
        {
            reason = "there is no CUDA device";
            return FLEXTRON_CUDA_ERROR;
        }
        plan = Operator::plan(*parameters, multiprocessors);
        return FLEXTRON_SUCCESS;
    }

    static FlextronStatus checkWorkspace(
        void const* workspace, std::size_t bytes, std::size_t needed, char const*& reason)
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

    static bool launch(Parameters const& p, Plan const& plan, void* workspace, Stream stream)
    {
        switch (p.data_type)
        {
        case FLEXTRON_FLOAT16: return Operator::template launch<Half>(p, plan, workspace, stream);
        case FLEXTRON_BFLOAT16: return Operator::template launch<BFloat16>(p, plan, workspace, stream);
        default: return Operator::template launch<float>(p, plan, workspace, stream);
        }
    }
};

} // namespace flextron
