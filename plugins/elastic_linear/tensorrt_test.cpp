/*
 * SPDX-License-Identifier: Apache-2.0
 *
 * Drives the TensorRT adapters as TensorRT does, without TensorRT: creation from fields, formats, sizes, serialisation,
 * and calls over the emulated kernels.
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
constexpr int kHidden = 64;
constexpr int kRows = 192; // enough for two blocks to share a sum
constexpr int kGroup = 32;

int32_t const kOne = 1;
int32_t const kFour = 4;
int32_t const kThree = 3;
int32_t const kMultiprocessors = 2; // given, so that no device is asked
PluginField const kProcessors{"multiprocessors", &kMultiprocessors, PluginFieldType::kINT32, 1};

PluginField number(char const* name, int32_t const& value)
{
    return {name, &value, PluginFieldType::kINT32, 1};
}

template <std::size_t kSize>
PluginField word(char const* name, char const (&text)[kSize])
{
    return {name, text, PluginFieldType::kCHAR, static_cast<int32_t>(kSize - 1)};
}

DynamicPluginTensorDesc tensor(Dims const& dims, DataType type = DataType::kFLOAT)
{
    DynamicPluginTensorDesc found{};
    found.desc = PluginTensorDesc{dims, type, TensorFormat::kLINEAR, 1.0F};
    found.min = found.max = found.opt = dims;
    return found;
}

//! Goes through a plugin's life with these tensors and returns the first element of every token.
std::vector<float> run(IPluginV3& made, IPluginCreatorV3One& creator, std::vector<DynamicPluginTensorDesc> const& in,
    std::vector<void const*> const& data, int64_t width)
{
    auto* const madeRuntime =
        static_cast<IPluginV3OneRuntime*>(made.getCapabilityInterface(PluginCapabilityType::kRUNTIME));
    std::unique_ptr<IPluginV3> const stored{
        creator.createPlugin("node", madeRuntime->getFieldsToSerialize(), TensorRTPhase::kRUNTIME)};
    check(stored != nullptr, "creation from serialised fields");
    std::unique_ptr<IPluginV3> const plugin{stored->clone()};
    auto* const build = static_cast<IPluginV3OneBuild*>(plugin->getCapabilityInterface(PluginCapabilityType::kBUILD));
    auto* const runtime =
        static_cast<IPluginV3OneRuntime*>(plugin->getCapabilityInterface(PluginCapabilityType::kRUNTIME));

    auto const inputs = static_cast<int32_t>(in.size());
    std::vector<DynamicPluginTensorDesc> all = in;
    all.push_back(tensor({3, {kBatch, 1, width}}));
    for (int32_t i = 0; i <= inputs; ++i)
    {
        check(build->supportsFormatCombination(i, all.data(), inputs, 1), "format");
    }
    check(!build->supportsFormatCombination(0, all.data(), inputs + 1, 1), "one input too many");
    check(build->configurePlugin(all.data(), inputs, &all.back(), 1) == 0, "configuration");
    std::size_t const bytes = build->getWorkspaceSize(all.data(), inputs, &all.back(), 1);
    std::vector<DynamicPluginTensorDesc> longest = all;
    for (std::size_t i : {std::size_t{0}, longest.size() - 1})
    {
        longest[i].max.d[1] = 500;
    }
    check(build->getWorkspaceSize(longest.data(), inputs, &longest.back(), 1) >= bytes,
        "the workspace of a long profile serves its short calls");

    std::vector<float> workspace(bytes / sizeof(float) + 1);
    std::vector<float> output(static_cast<std::size_t>(kBatch * width), -1.0F);
    std::vector<PluginTensorDesc> descriptions;
    for (DynamicPluginTensorDesc const& each : all)
    {
        descriptions.push_back(each.desc);
    }
    void* const outputs[] = {output.data()};
    check(runtime->onShapeChange(descriptions.data(), inputs, &descriptions.back(), 1) == 0, "shapes");
    check(runtime->enqueue(descriptions.data(), &descriptions.back(), data.data(), outputs, workspace.data(), nullptr)
              == 0,
        "enqueue");
    return {output[0], output[static_cast<std::size_t>(width)]};
}

bool near(float got, float expected)
{
    return got > expected - 1e-3F && got < expected + 1e-3F;
}

} // namespace

int main()
{
    auto& linear = flextron::tensorrt::creatorNamed("ElasticLinear");
    auto& feedForward = flextron::tensorrt::creatorNamed("ElasticFeedForward");
    check(create(linear, {kProcessors, word("elastic", "sideways")}) == nullptr, "an unknown word");
    check(create(linear, {kProcessors, word("activation", "silu")}) == nullptr, "an attribute of the other operator");
    check(create(linear, {kProcessors, number("bits", kThree)}) == nullptr, "3 bits");
    check(create(linear, {kProcessors, number("addend", kOne)}) == nullptr, "outputs with an addend");
    check(create(feedForward, {kProcessors, word("bits", "4")}) == nullptr, "the type of bits");

    std::vector<int32_t> const active{3, kRows};
    auto const activeTensor = tensor({1, {kBatch}}, DataType::kINT32);
    std::vector<float> const ones(kBatch * kRows, 1.0F); // input, biases, addend
    auto const input = tensor({3, {kBatch, 1, kHidden}});
    auto const weight = tensor({2, {kRows, kHidden}});
    std::vector<float> const weights(kRows * kHidden, 0.0625F);

    // Outputs: 64 / 16 + 1.
    std::unique_ptr<IPluginV3> plugin{create(linear, {kProcessors, word("elastic", "outputs"), number("bias", kOne)})};
    check(plugin != nullptr, "creation");
    std::vector<float> got = run(*plugin, linear, {input, weight, activeTensor, tensor({1, {kRows}})},
        {ones.data(), weights.data(), active.data(), ones.data()}, kRows);
    check(near(got[0], 5.0F) && near(got[1], 5.0F), "outputs");

    // Inputs: one sixteenth per active row, and 1.
    plugin.reset(create(linear, {kProcessors, word("elastic", "inputs"), number("addend", kOne)}));
    check(plugin != nullptr, "creation of inputs");
    got = run(*plugin, linear, {tensor({3, {kBatch, 1, kRows}}), weight, activeTensor, tensor({1, {kHidden}})},
        {ones.data(), weights.data(), active.data(), ones.data()}, kHidden);
    check(near(got[0], 3.0F / 16.0F + 1.0F) && near(got[1], kRows / 16.0F + 1.0F), "inputs");

    // Every int4 is 1, every scale 1/16, so the weights are those of above: silu(4) * 4 / 16 per row.
    plugin.reset(create(feedForward, {kProcessors, word("activation", "silu"), number("bits", kFour)}));
    check(plugin != nullptr, "creation of a feed-forward network");
    std::vector<uint8_t> const packed(kRows * kHidden / 2, 0x11);
    auto const four = tensor({2, {kRows, kHidden / 2}}, DataType::kINT8);
    auto const scales = tensor({2, {kRows, kHidden / kGroup}});
    auto const downScales = tensor({2, {kRows / kGroup, kHidden}});
    got = run(*plugin, feedForward, {input, four, four, four, activeTensor, scales, scales, downScales},
        {ones.data(), packed.data(), packed.data(), packed.data(), active.data(), weights.data(), weights.data(),
            weights.data()},
        kHidden);
    float const each = 4.0F / (1.0F + 0.0183156389F) * 4.0F / 16.0F;
    check(near(got[0], 3.0F * each) && near(got[1] / kRows, each), "feed-forward network");

    // Refused while the engine is built.
    auto* const build = static_cast<IPluginV3OneBuild*>(plugin->getCapabilityInterface(PluginCapabilityType::kBUILD));
    auto narrow = scales;
    narrow.max.d[1] = 3;
    std::vector<DynamicPluginTensorDesc> const wrong{input, four, four, four, activeTensor, scales, narrow, downScales};
    check(build->configurePlugin(wrong.data(), 8, &input, 1) != 0, "scales of another group");
    std::puts("passed");
    return 0;
}
