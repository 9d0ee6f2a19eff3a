/*
 * SPDX-License-Identifier: Apache-2.0
 *
 * Linear layers and the gated feed-forward network over the first d rows of nested weights, d read on the device. Plain
 * C, free of CUDA headers; README.md beside this file says what is computed. Functions neither allocate nor wait nor
 * throw, keep no state, and may be called from any thread. Launches can be captured into a CUDA graph: they depend on
 * shapes only, never on data.
 */
#pragma once

#include "../common/status.h"

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C"
{
#endif

    typedef enum FlextronElasticOperation
    {
        FLEXTRON_ELASTIC_OUTPUTS = 0, /* rows are outputs: input . up[:d]^T + up_bias[:d], then zeros */
        FLEXTRON_ELASTIC_INPUTS = 1,  /* rows are inputs: input[:d] . down[:d] + addend */
        FLEXTRON_ELASTIC_FEED_FORWARD = 2
    } FlextronElasticOperation;

    typedef enum FlextronWeightType
    {
        FLEXTRON_WEIGHT_AS_DATA = 0, /* the type of the other tensors */
        FLEXTRON_WEIGHT_INT8 = 1,
        FLEXTRON_WEIGHT_INT4 = 2 /* two's complement, two to a byte, the first in the low half */
    } FlextronWeightType;

    typedef enum FlextronActivation
    {
        FLEXTRON_SILU = 0,
        FLEXTRON_GELU_TANH = 1
    } FlextronActivation;

    /*
     * Zero-initialise, set `size`, then the fields. All tensors are dense, row-major, in device memory and 16-byte
     * aligned (`active_rows`: as its elements). Tensors that the operation does not use are not looked at.
     */
    typedef struct FlextronElasticLinear
    {
        uint32_t size; /* sizeof of this struct; later versions append fields and keep accepting older sizes */

        int32_t operation;   /* FlextronElasticOperation */
        int32_t data_type;   /* FlextronDataType of every tensor without a type below */
        int32_t weight_type; /* FlextronWeightType of gate, up and down */
        int32_t group_size;  /* inputs whose weights share a scale; 0 for weights of the data type */
        int32_t batch;
        int32_t length;     /* tokens per sequence in this call */
        int32_t hidden;     /* elements of a weight row, a multiple of 32 */
        int32_t rows;       /* rows of the weights, active or not, a multiple of 8 */
        int32_t activation; /* FlextronActivation of the feed-forward network */

        /* Multiprocessors to fill when the rows of a few tokens are summed; 0: those of the current device. */
        int32_t multiprocessors;

        /* Elements between sequences and between tokens of active_rows: (length, 1), (1, 0) or (0, 0). */
        int32_t active_rows_batch_stride;
        int32_t active_rows_token_stride;
        int32_t addend_token_stride; /* hidden, or 0: one addend for all tokens, that is, a bias */
        int32_t const* active_rows;

        void const* input; /* [batch, length, hidden]; of ELASTIC_INPUTS [batch, length, rows] */

        void const* gate; /* [rows, hidden], of weight_type */
        void const* up;
        void const* down;
        void const* gate_scales; /* [rows, hidden / group_size]; null for weights of the data type */
        void const* up_scales;
        void const* down_scales; /* [rows / group_size, hidden] */
        void const* gate_bias; /* [rows], or null */
        void const* up_bias;

        void const* addend; /* [batch, length, hidden] or [hidden], or null; may be the output itself */
        void* output; /* [batch, length, hidden]; of ELASTIC_OUTPUTS [batch, length, rows]; overlaps no other input */
    } FlextronElasticLinear;

    /* Bytes of workspace for a call with exactly these sizes; pointers are not looked at. `reason`, if not null,
     * receives a static text on failure. */
    FLEXTRON_API FlextronStatus flextron_elastic_linear_workspace(
        FlextronElasticLinear const* parameters, size_t* bytes, char const** reason);

    /*
     * Enqueues the computation on `stream` (a cudaStream_t). `workspace` is 16-byte aligned device memory of at least
     * `workspace_bytes`; its content before and after means nothing. Nothing is enqueued unless the arguments are
     * valid.
     */
    FLEXTRON_API FlextronStatus flextron_elastic_linear_run(FlextronElasticLinear const* parameters, void* workspace,
        size_t workspace_bytes, void* stream, char const** reason);

#ifdef __cplusplus
}
#endif
