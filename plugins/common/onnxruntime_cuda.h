/*
 * SPDX-License-Identifier: Apache-2.0
 *
 * Custom ops on ONNX Runtime's CUDA provider: the C ABI of the CUDA kernels on its stream, with its workspace.
 */
#pragma once

#include "onnxruntime.h"

#include <cuda_runtime_api.h>

#include <memory>

namespace flextron::onnxruntime
{

struct Cuda
{
    static constexpr char const* kProvider = "CUDAExecutionProvider";

    static void copy(Ort::KernelContext const& context, void* to, void const* from, std::size_t bytes)
    {
        auto* const stream = static_cast<cudaStream_t>(context.GetGPUComputeStream());
        if (cudaMemcpyAsync(to, from, bytes, cudaMemcpyDeviceToDevice, stream) != cudaSuccess)
        {
            throw std::runtime_error{"an input that is updated in place could not be copied"};
        }
    }

    template <typename Node>
    static void run(Ort::KernelContext const& context, typename Node::Parameters const& p)
    {
        std::size_t bytes = 0;
        char const* reason = nullptr;
        check(Node::workspace(&p, &bytes, &reason), reason);
        // From the arena of the stream: what is enqueued later may have it as soon as it is given back here.
        std::shared_ptr<void> workspace;
        if (bytes > 0)
        {
            int device = 0;
            cudaGetDevice(&device);
            Ort::MemoryInfo const info{"Cuda", OrtArenaAllocator, device, OrtMemTypeDefault};
            OrtMemoryInfo const* const on = info;
            std::shared_ptr<OrtAllocator> const allocator{context.GetAllocator(*on), Ort::GetApi().ReleaseAllocator};
            workspace = {allocator->Alloc(allocator.get(), bytes),
                [allocator](void* memory) { allocator->Free(allocator.get(), memory); }};
            if (workspace == nullptr)
            {
                throw std::bad_alloc{};
            }
        }
        check(Node::run(&p, workspace.get(), bytes, context.GetGPUComputeStream(), &reason), reason);
    }

private:
    static void check(FlextronStatus status, char const* reason)
    {
        if (status != FLEXTRON_SUCCESS)
        {
            throw std::runtime_error{reason != nullptr ? reason : "unknown reason"};
        }
    }
};

} // namespace flextron::onnxruntime
