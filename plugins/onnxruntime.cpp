/*
 * SPDX-License-Identifier: Apache-2.0
 *
 * The library of custom ops for ONNX Runtime, registered with SessionOptions.register_custom_ops_library: on the CPU,
 * and on CUDA where the kernels were compiled. It needs ONNX Runtime's headers and links none of its libraries.
 */
#include "common/onnxruntime.h"

#include "elastic_linear/cpu.h"
#include "elastic_linear/node.h"
#include "head_subset_attention/cpu.h"
#include "head_subset_attention/node.h"

#if defined(FLEXTRON_WITH_CUDA)
#include "common/onnxruntime_cuda.h"
#endif

namespace
{

using namespace flextron;

struct Cpu
{
    static constexpr char const* kProvider = "CPUExecutionProvider";

    static void copy(Ort::KernelContext const&, void* to, void const* from, std::size_t bytes)
    {
        std::memcpy(to, from, bytes);
    }

    template <typename Node>
    static void run(Ort::KernelContext const& context, typename Node::Parameters const& p)
    {
        using Body = std::function<void(std::size_t)>;
        onnxruntime::require(cpu::run(p,
            [&](std::size_t count, Body const& body)
            {
                context.ParallelFor([](void* data, std::size_t i) { (*static_cast<Body const*>(data))(i); }, count, 0,
                    const_cast<Body*>(&body));
            }));
    }
};

template <typename Node, typename Device>
void add(Ort::CustomOpDomain& domain)
{
    static onnxruntime::CustomOp<Node, Device, ElementType::kFloat32> const float32;
    static onnxruntime::CustomOp<Node, Device, ElementType::kFloat16> const float16;
    static onnxruntime::CustomOp<Node, Device, ElementType::kBFloat16> const bfloat16;
    domain.Add(&float32);
    domain.Add(&float16);
    domain.Add(&bfloat16);
}

template <typename Device>
void addAll(Ort::CustomOpDomain& domain)
{
    add<head_subset_attention::Node, Device>(domain);
    add<elastic_linear::LinearNode, Device>(domain);
    add<elastic_linear::FeedForwardNode, Device>(domain);
}

} // namespace

//! The execution providers that this library has kernels for, separated by commas.
extern "C" FLEXTRON_API char const* flextron_onnxruntime_providers()
{
#if defined(FLEXTRON_WITH_CUDA)
    return "CPUExecutionProvider,CUDAExecutionProvider";
#else
    return "CPUExecutionProvider";
#endif
}

extern "C" FLEXTRON_API OrtStatus* RegisterCustomOps(OrtSessionOptions* options, OrtApiBase const* base)
{
    OrtApi const* const api = base->GetApi(ORT_API_VERSION);
    if (api == nullptr)
    {
        return base->GetApi(1)->CreateStatus(
            ORT_FAIL, "the flextron operators were built for a newer release of ONNX Runtime");
    }
    Ort::InitApi(api);
    return onnxruntime::guarded("flextron",
        [&]
        {
            // Never released: sessions may outlive the static objects of this library.
            static auto const* const domain = []
            {
                auto* const made = new Ort::CustomOpDomain{"flextron"};
                addAll<Cpu>(*made);
#if defined(FLEXTRON_WITH_CUDA)
                addAll<onnxruntime::Cuda>(*made);
#endif
                return made;
            }();
            Ort::UnownedSessionOptions{options}.Add(*domain);
        });
}
