/*
 * SPDX-License-Identifier: Apache-2.0
 *
 * The TensorRT plugin library: the two entry points that TensorRT looks for. It is loaded with
 * IPluginRegistry::loadLibrary, so it needs TensorRT's headers and links none of its libraries.
 */
#include "common/tensorrt.h"
#include "elastic_linear/node.h"
#include "head_subset_attention/node.h"

#include <array>
#include <atomic>
#include <cstdint>
#include <cstdio>

namespace
{

std::atomic<nvinfer1::ILoggerFinder*> gLoggerFinder{nullptr};

} // namespace

void flextron::tensorrt::logError(char const* plugin, char const* what) noexcept
{
    std::array<char, 256> line{};
    std::snprintf(line.data(), line.size(), "%s: %s", plugin, what != nullptr ? what : "unknown reason");
    nvinfer1::ILoggerFinder* const finder = gLoggerFinder.load();
    nvinfer1::ILogger* logger = nullptr;
    try
    {
        logger = finder != nullptr ? finder->findLogger() : nullptr; // not declared noexcept
    }
    catch (...)
    {
        logger = nullptr;
    }
    if (logger != nullptr)
    {
        logger->log(nvinfer1::ILogger::Severity::kERROR, line.data());
    }
    else
    {
        std::fprintf(stderr, "%s\n", line.data());
    }
}

extern "C" __attribute__((visibility("default"))) void setLoggerFinder(nvinfer1::ILoggerFinder* finder)
{
    gLoggerFinder = finder;
}

extern "C" __attribute__((visibility("default"))) nvinfer1::IPluginCreatorInterface* const* getCreators(int32_t& count)
{
    using namespace flextron;
    static tensorrt::Creator<head_subset_attention::Node> attention;
    static tensorrt::Creator<elastic_linear::LinearNode> linear;
    static tensorrt::Creator<elastic_linear::FeedForwardNode> feedForward;
    static std::array<nvinfer1::IPluginCreatorInterface*, 3> const creators{&attention, &linear, &feedForward};
    count = static_cast<int32_t>(creators.size());
    return creators.data();
}
