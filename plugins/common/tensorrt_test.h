/*
 * SPDX-License-Identifier: Apache-2.0
 *
 * For tests that drive the TensorRT adapters as TensorRT does, without TensorRT.
 */
#pragma once

#include "tensorrt.h"

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <string_view>
#include <vector>

extern "C" nvinfer1::IPluginCreatorInterface* const* getCreators(int32_t& count);

namespace flextron::tensorrt
{

inline void check(bool holds, char const* what)
{
    if (!holds)
    {
        std::fprintf(stderr, "FAILED: %s\n", what);
        std::exit(1);
    }
}

//! The creator that the library offers under a name.
inline nvinfer1::IPluginCreatorV3One& creatorNamed(std::string_view name)
{
    int32_t count = 0;
    auto* const* const creators = getCreators(count);
    for (int32_t i = 0; i < count; ++i)
    {
        auto* const creator = static_cast<nvinfer1::IPluginCreatorV3One*>(creators[i]);
        if (creator->getPluginName() == name)
        {
            return *creator;
        }
    }
    std::fprintf(stderr, "FAILED: a creator named %.*s\n", static_cast<int>(name.size()), name.data());
    std::exit(1);
}

inline nvinfer1::IPluginV3* create(
    nvinfer1::IPluginCreatorV3One& creator, std::vector<nvinfer1::PluginField> const& fields)
{
    nvinfer1::PluginFieldCollection const collection{static_cast<int32_t>(fields.size()), fields.data()};
    return creator.createPlugin("node", &collection, nvinfer1::TensorRTPhase::kBUILD);
}

} // namespace flextron::tensorrt
