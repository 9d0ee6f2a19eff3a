/*
 * SPDX-License-Identifier: Apache-2.0
 *
 * Status codes and element types of every kernel library of this project. Plain C.
 */
#pragma once

#define FLEXTRON_API __attribute__((visibility("default"))) /* the libraries export nothing else */

#ifdef __cplusplus
extern "C"
{
#endif

    typedef enum FlextronStatus
    {
        FLEXTRON_SUCCESS = 0,
        FLEXTRON_INVALID_ARGUMENT = 1, /* a field is out of range, null or misaligned; `reason` names it */
        FLEXTRON_UNSUPPORTED = 2,      /* a valid combination that this library has no kernel for */
        FLEXTRON_WORKSPACE_TOO_SMALL = 3,
        FLEXTRON_CUDA_ERROR = 4 /* a launch failed, or there is no device; cudaGetLastError() says more */
    } FlextronStatus;

    typedef enum FlextronDataType
    {
        FLEXTRON_FLOAT32 = 0,
        FLEXTRON_FLOAT16 = 1,
        FLEXTRON_BFLOAT16 = 2
    } FlextronDataType;

#ifdef __cplusplus
}
#endif
