#include "precision.h"

#include "manifest.h"
#include "tensors.h"

#include <algorithm>
#include <array>
#include <functional>
#include <numeric>

namespace flextron
{

namespace
{

constexpr std::array<std::string_view, 2> kFloats{"fp32", "fp16"};
//! For ONNX Runtime on the CPU.
constexpr std::array<std::string_view, 2> kQuantized{"int8", "int4"};
//! For TensorRT; only the one of 4 bits has groups.
constexpr std::array<std::string_view, 4> kTensorRT{"bf16", "int8-fp16", "int4-fp16", "fp8-fp16"};
constexpr std::string_view kSignedGroups = "int4-fp16";
constexpr std::array<std::string_view, 2> kQuantizedLayouts{"panels", "per-budget"};
constexpr std::array<std::int64_t, 5> kGroupSizes{16, 32, 64, 128, 256};

template <typename Values, typename Value>
bool contains(Values const& values, Value const& value)
{
    return std::find(values.begin(), values.end(), value) != values.end();
}

//! Every width must be whole groups, so that a narrower network is a prefix.
std::vector<std::string> groupFaults(Manifest const& manifest, std::string const& dtype)
{
    auto const found = manifest.groupSizes.find(dtype);
    if (found == manifest.groupSizes.end())
    {
        return {"the group size of " + dtype + " is missing"};
    }
    auto const size = found->second;
    auto const groups = dtype + " has groups of " + std::to_string(size) + ": ";
    if (!contains(kGroupSizes, size))
    {
        return {groups + "it is none of 16, 32, 64, 128, 256"};
    }
    auto const& architecture = manifest.architecture;
    std::vector<std::string> faults;
    auto const need = [&](std::string const& what, std::int64_t remainder)
    {
        if (remainder != 0)
        {
            faults.push_back(groups + what + " is no multiple of it");
        }
    };
    need("hidden size " + std::to_string(architecture.hiddenSize), architecture.hiddenSize % size);
    // Remainders, as the product of hostile sizes would overflow.
    auto const perGroup = (architecture.headsPerGroup() % size) * (architecture.headDim % size);
    for (auto const n : manifest.candidates.groups)
    {
        need("candidate of " + std::to_string(n) + " groups", (n % size) * perGroup % size);
    }
    for (auto const n : manifest.candidates.neurons)
    {
        need("candidate of " + std::to_string(n) + " neurons", n % size);
    }
    return faults;
}

} // namespace

bool isPrecision(std::string_view dtype) noexcept
{
    return contains(kFloats, dtype) || isQuantized(dtype) || isForTensorRT(dtype);
}

bool isForTensorRT(std::string_view dtype) noexcept
{
    return contains(kTensorRT, dtype);
}

bool isQuantized(std::string_view dtype) noexcept
{
    return contains(kQuantized, dtype);
}

std::vector<std::string> precisionFaults(Manifest const& manifest)
{
    std::vector<std::string> faults;
    for (auto const& [dtype, layouts] : manifest.layouts)
    {
        if (!isPrecision(dtype))
        {
            faults.push_back("unknown dtype '" + dtype + "'");
        }
        for (auto const& layout : layouts)
        {
            bool const constant = isQuantized(dtype) && !contains(kQuantizedLayouts, layout);
            if (constant || (dtype == kSignedGroups && layout == "shared"))
            {
                faults.push_back("layout " + layout + " is in " + dtype);
            }
        }
        if (isQuantized(dtype) || dtype == kSignedGroups)
        {
            auto const wrong = groupFaults(manifest, dtype);
            faults.insert(faults.end(), wrong.begin(), wrong.end());
        }
    }
    return faults;
}

std::int64_t weightBytes(Manifest const& manifest, std::string const& dtype, Budget const& budget)
{
    auto const group = manifest.groupSizes.find(dtype);
    std::int64_t bytes = 0;
    for (auto const& spec : tensorSpecs(manifest.architecture))
    {
        auto const shape = spec.active(manifest.architecture, budget);
        auto const elements = std::accumulate(shape.begin(), shape.end(), std::int64_t{1}, std::multiplies<>());
        bool const matrix = shape.size() == 2 && spec.name != "position_embedding";
        if (group != manifest.groupSizes.end() && matrix)
        {
            bytes += elements / (dtype == "int4" ? 2 : 1) + elements / group->second * elementSize(dtype);
        }
        else
        {
            bytes += elements * elementSize(dtype);
        }
    }
    return bytes;
}

} // namespace flextron
