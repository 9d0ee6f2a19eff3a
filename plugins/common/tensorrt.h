/*
 * SPDX-License-Identifier: Apache-2.0
 *
 * What the TensorRT adapters share. The library is loaded with IPluginRegistry::loadLibrary, which asks it for its
 * creators; so it needs TensorRT's headers and links none of its libraries.
 */
#pragma once

#include "status.h"

#include <NvInferRuntime.h>
#include <cuda_runtime_api.h>

#include <optional>

namespace flextron::tensorrt
{

//! Reports through the logger of the engine or builder that called, if there is one.
void logError(char const* plugin, char const* what) noexcept;

inline std::optional<FlextronDataType> dataType(nvinfer1::DataType type) noexcept
{
    switch (type)
    {
    case nvinfer1::DataType::kFLOAT: return FLEXTRON_FLOAT32;
    case nvinfer1::DataType::kHALF: return FLEXTRON_FLOAT16;
    case nvinfer1::DataType::kBF16: return FLEXTRON_BFLOAT16;
    default: return std::nullopt;
    }
}

//! Elements between the sequences and between the tokens of a number that each token has.
struct Strides
{
    int32_t mBatch;
    int32_t mToken;
};

//! Of a tensor [batch, length], [batch] or [1]; nothing if it is none of these.
inline std::optional<Strides> broadcast(nvinfer1::Dims const& dims, int64_t batch, int64_t length) noexcept
{
    if (dims.nbDims < 1 || dims.nbDims > 2)
    {
        return std::nullopt;
    }
    bool const perSequence = dims.d[0] != 1;
    bool const perToken = dims.nbDims == 2 && dims.d[1] != 1;
    if ((perSequence && dims.d[0] != batch) || (perToken && dims.d[1] != length))
    {
        return std::nullopt;
    }
    auto const row = static_cast<int32_t>(dims.nbDims == 2 ? dims.d[1] : 1);
    return Strides{perSequence ? row : 0, perToken ? 1 : 0};
}

//! Reads an attribute of one value; false if it has another type.
template <typename T>
bool readField(nvinfer1::PluginField const& field, nvinfer1::PluginFieldType type, T& value) noexcept
{
    if (field.type != type || field.length != 1 || field.data == nullptr)
    {
        return false;
    }
    value = *static_cast<T const*>(field.data);
    return true;
}

//! Multiprocessors of the current device; nothing, and a log entry, if there is none.
inline std::optional<int32_t> deviceMultiprocessors(char const* plugin) noexcept
{
    int device = 0;
    int count = 0;
    if (cudaGetDevice(&device) != cudaSuccess
        || cudaDeviceGetAttribute(&count, cudaDevAttrMultiProcessorCount, device) != cudaSuccess)
    {
        logError(plugin, "there is no CUDA device");
        return std::nullopt;
    }
    return count;
}

nvinfer1::IPluginCreatorInterface* elasticFeedForwardCreator() noexcept;
nvinfer1::IPluginCreatorInterface* elasticLinearCreator() noexcept;
nvinfer1::IPluginCreatorInterface* headSubsetAttentionCreator() noexcept;

} // namespace flextron::tensorrt
