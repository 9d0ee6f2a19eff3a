/*
 * SPDX-License-Identifier: Apache-2.0
 *
 * Drives the TensorRT adapter as TensorRT does, without TensorRT: creation from fields, formats, sizes, serialisation,
 * and one decode step over the emulated kernels.
 */
#include "../common/tensorrt_test.h"

#include <array>
#include <cstdint>
#include <cstdio>
#include <memory>
#include <vector>

using namespace nvinfer1;
using flextron::tensorrt::check;
using flextron::tensorrt::create;

namespace
{

constexpr int kBatch = 2;
constexpr int kGroups = 2;
constexpr int kHeads = 4;
constexpr int kHeadDim = 64;
constexpr int kCapacity = 130; // long enough to be split over two blocks
constexpr int kInputs = 8;
constexpr int kOutputs = 3;

using Tensors = std::array<DynamicPluginTensorDesc, kInputs + kOutputs>;

Tensors tensors(int64_t length, int64_t headDim = kHeadDim)
{
    Dims const query{4, {kBatch, length, kHeads, headDim}};
    Dims const key{4, {kBatch, length, kGroups, headDim}};
    Dims const cache{4, {kBatch, kGroups, kCapacity, headDim}};
    Dims const positions{2, {kBatch, length}};
    Dims const perSequence{1, {kBatch}};
    std::array<Dims, kInputs + kOutputs> const dims{
        query, key, key, cache, cache, positions, perSequence, perSequence, query, cache, cache};
    Tensors found{};
    for (std::size_t i = 0; i < dims.size(); ++i)
    {
        auto const type = i == 5 || i == 6 ? DataType::kINT64 : i == 7 ? DataType::kINT32 : DataType::kFLOAT;
        found[i].desc = PluginTensorDesc{dims[i], type, TensorFormat::kLINEAR, 1.0F};
        found[i].min = found[i].max = found[i].opt = dims[i];
    }
    return found;
}

} // namespace

int main()
{
    auto& creator = flextron::tensorrt::creatorNamed("HeadSubsetAttention");
    int32_t const zero = 0;
    int32_t const negative = -1;
    int32_t const multiprocessors = 2; // given, so that no device is asked
    float const scale = 0.0F;
    PluginField const processors{"multiprocessors", &multiprocessors, PluginFieldType::kINT32, 1};
    check(create(creator, {processors, {"window", &scale, PluginFieldType::kFLOAT32, 1}}) == nullptr, "type of window");
    check(create(creator, {processors, {"window", &negative, PluginFieldType::kINT32, 1}}) == nullptr, "window < 0");
    check(create(creator, {processors, {"other", &zero, PluginFieldType::kINT32, 1}}) == nullptr, "unknown field");

    std::unique_ptr<IPluginV3> const first{
        create(creator, {processors, {"scale", &scale, PluginFieldType::kFLOAT32, 1}})};
    check(first != nullptr, "creation");
    auto* const firstRuntime =
        static_cast<IPluginV3OneRuntime*>(first->getCapabilityInterface(PluginCapabilityType::kRUNTIME));
    PluginFieldCollection const* const stored = firstRuntime->getFieldsToSerialize();
    std::unique_ptr<IPluginV3> const second{creator.createPlugin("node", stored, TensorRTPhase::kRUNTIME)};
    check(second != nullptr, "creation from serialised fields");
    std::unique_ptr<IPluginV3> const plugin{second->clone()};
    auto* const build = static_cast<IPluginV3OneBuildV2*>(plugin->getCapabilityInterface(PluginCapabilityType::kBUILD));
    auto* const runtime =
        static_cast<IPluginV3OneRuntime*>(plugin->getCapabilityInterface(PluginCapabilityType::kRUNTIME));

    check(
        build->getAliasedInput(0) == -1 && build->getAliasedInput(1) == 3 && build->getAliasedInput(2) == 4, "aliases");
    Tensors all = tensors(1);
    for (int32_t i = 0; i < kInputs + kOutputs; ++i)
    {
        check(build->supportsFormatCombination(i, all.data(), kInputs, kOutputs), "format");
    }
    all[1].desc.type = DataType::kHALF;
    check(!build->supportsFormatCombination(1, all.data(), kInputs, kOutputs), "key of another type");
    check(!build->supportsFormatCombination(0, all.data(), kInputs + 2, kOutputs), "tables without rotary");
    all = tensors(1, 80);
    check(build->configurePlugin(all.data(), kInputs, all.data() + kInputs, kOutputs) != 0, "head_dim 80");
    Tensors const longest = tensors(40);
    all = tensors(1);
    check(build->configurePlugin(all.data(), kInputs, all.data() + kInputs, kOutputs) == 0, "configuration");
    std::size_t const bytes = build->getWorkspaceSize(all.data(), kInputs, all.data() + kInputs, kOutputs);
    check(bytes > 0, "decode is split");
    check(build->getWorkspaceSize(longest.data(), kInputs, longest.data() + kInputs, kOutputs) >= bytes,
        "the workspace of a long profile serves its short calls");

    // One token behind 129 others. All values are 1, so every head that is switched on gives 1.
    std::vector<float> const query(kBatch * kHeads * kHeadDim, 0.5F);
    std::vector<float> const key(kBatch * kGroups * kHeadDim, 0.25F);
    std::vector<float> const value(kBatch * kGroups * kHeadDim, 1.0F);
    std::vector<float> keyCache(kBatch * kGroups * kCapacity * kHeadDim, 0.125F);
    std::vector<float> valueCache(keyCache.size(), 1.0F);
    std::vector<float> output(query.size(), -1.0F);
    std::vector<int64_t> const positions(kBatch, kCapacity - 1);
    std::vector<int32_t> const active{1, 2};
    std::vector<float> workspace(bytes / sizeof(float));
    std::array<PluginTensorDesc, kInputs + kOutputs> descriptions;
    for (std::size_t i = 0; i < descriptions.size(); ++i)
    {
        descriptions[i] = all[i].desc;
    }
    void const* const inputs[kInputs] = {query.data(), key.data(), value.data(), keyCache.data(), valueCache.data(),
        positions.data(), positions.data(), active.data()};
    void* const outputs[kOutputs] = {output.data(), keyCache.data(), valueCache.data()};
    check(runtime->onShapeChange(descriptions.data(), kInputs, descriptions.data() + kInputs, kOutputs) == 0, "shapes");
    check(
        runtime->enqueue(descriptions.data(), descriptions.data() + kInputs, inputs, outputs, workspace.data(), nullptr)
            == 0,
        "enqueue");
    for (int head = 0; head < kBatch * kHeads; ++head)
    {
        float const expected = head == 2 || head == 3 ? 0.0F : 1.0F; // the second group of the first sequence
        float const got = output[static_cast<std::size_t>(head) * kHeadDim];
        check(got > expected - 1e-5F && got < expected + 1e-5F, "output");
    }
    check(keyCache[(kCapacity - 1) * kHeadDim] == 0.25F && keyCache[(kCapacity - 2) * kHeadDim] == 0.125F, "cache");
    std::puts("passed");
    return 0;
}
