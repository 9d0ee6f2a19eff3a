/*
 * SPDX-License-Identifier: Apache-2.0
 *
 * Every kernel library source as C++, for the host tests.
 */
#include "elastic_linear/elastic_linear.cu"
#include "head_subset_attention/head_subset_attention.cu"
