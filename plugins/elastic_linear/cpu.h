/*
 * SPDX-License-Identifier: Apache-2.0
 */
#pragma once

#include "../cpu/vectors.h"
#include "elastic_linear.h"

namespace flextron::cpu
{

//! The operator on the CPU: all addresses are in host memory. What is wrong with the arguments, or null. Throws
//! std::bad_alloc, and what `parallel` throws.
char const* run(FlextronElasticLinear const& parameters, Parallel const& parallel);

} // namespace flextron::cpu
