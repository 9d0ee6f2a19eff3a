/*
 * SPDX-License-Identifier: Apache-2.0
 *
 * Attention over the first n KV groups of a physical cache, n read on the device. Plain C, free of CUDA headers;
 * README.md beside this file says what is computed. Functions neither allocate nor wait nor throw, keep no state, and
 * may be called from any thread. Launches can be captured into a CUDA graph: they depend on shapes only, never on data.
 */
#pragma once

#include "../common/status.h"

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C"
{
#endif

    /*
     * Zero-initialise, set `size`, then the fields. All tensors are dense, row-major, in device memory and 16-byte
     * aligned (`positions`, `write`, `active_groups`: aligned as their elements). Heads = groups * heads_per_group.
     */
    typedef struct FlextronHeadSubsetAttention
    {
        uint32_t size; /* sizeof of this struct; later versions append fields and keep accepting older sizes */

        int32_t data_type; /* FlextronDataType of every tensor without a type below */
        int32_t batch;
        int32_t length; /* tokens per sequence in this call */
        int32_t groups; /* KV heads, active or not */
        int32_t heads_per_group;
        int32_t head_dim; /* 64, 96, 128 or 256 */
        int32_t capacity; /* cache slots per sequence */
        int32_t window;   /* slots that a token sees, itself included; 0: all up to its position */
        float scale;      /* of the scores; 0: 1 / sqrt(head_dim) */

        /* Multiprocessors to fill when a few tokens attend to a long cache; 0: those of the current device. */
        int32_t multiprocessors;

        /* Elements between sequences and between tokens of active_groups: (length, 1), (1, 0) or (0, 0). */
        int32_t active_groups_batch_stride;
        int32_t active_groups_token_stride;
        int32_t const* active_groups;

        int64_t const* positions; /* [batch, length] */
        int64_t const* write;     /* [batch] */

        void const* query;  /* [batch, length, heads, head_dim] */
        void const* key;    /* [batch, length, groups, head_dim] */
        void const* value;  /* as key */
        void const* cosine; /* [batch, length, head_dim / 2]; null, like sine: query and key are not rotated */
        void const* sine;

        void* key_cache;   /* [batch, groups, capacity, head_dim], updated in place */
        void* value_cache; /* as key_cache */
        void* output;      /* as query; must not overlap an input */
    } FlextronHeadSubsetAttention;

    /*
     * Bytes of workspace for a call with exactly these sizes; pointers are not looked at. `reason`, if not null,
     * receives a static text on failure. A longer call may need less: from 16 tokens per sequence on there are no parts
     * to join.
     */
    FLEXTRON_API FlextronStatus flextron_head_subset_attention_workspace(
        FlextronHeadSubsetAttention const* parameters, size_t* bytes, char const** reason);

    /*
     * Enqueues the computation on `stream` (a cudaStream_t). `workspace` is 16-byte aligned device memory of at least
     * `workspace_bytes`; its content before and after means nothing. Nothing is enqueued unless the arguments are
     * valid.
     */
    FLEXTRON_API FlextronStatus flextron_head_subset_attention_run(FlextronHeadSubsetAttention const* parameters,
        void* workspace, size_t workspace_bytes, void* stream, char const** reason);

#ifdef __cplusplus
}
#endif
