/*
 * SPDX-License-Identifier: Apache-2.0
 *
 * What the TensorRT adapters share. The library is loaded with IPluginRegistry::loadLibrary, which asks it for its
 * creators; so it needs TensorRT's headers and links none of its libraries.
 */
#pragma once

#include <NvInferRuntime.h>

namespace flextron::tensorrt
{

//! Reports through the logger of the engine or builder that called, if there is one.
void logError(char const* plugin, char const* what) noexcept;

nvinfer1::IPluginCreatorInterface* headSubsetAttentionCreator() noexcept;

} // namespace flextron::tensorrt
