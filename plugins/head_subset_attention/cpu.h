/*
 * SPDX-License-Identifier: Apache-2.0
 */
#pragma once

#include "../cpu/vectors.h"
#include "head_subset_attention.h"

namespace flextron::cpu
{

//! The operator on the CPU: all addresses are in host memory. What is wrong with the arguments, or null. Does not throw
//! unless `parallel` does.
char const* run(FlextronHeadSubsetAttention const& parameters, Parallel const& parallel);

} // namespace flextron::cpu
