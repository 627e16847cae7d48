/* SPDX-License-Identifier: Apache-2.0 */
/* The CUDA driver interface, opened at run time: our own minimal declarations and the loaded table. */
#ifndef AKV_CUDA_DRIVER_H
#define AKV_CUDA_DRIVER_H
#include <stddef.h>
#include <stdint.h>

typedef int CUresult;
typedef int CUdevice;
typedef unsigned long long CUdeviceptr;
typedef struct CUctx_st *CUcontext;
typedef struct CUstream_st *CUstream;
typedef struct CUevent_st *CUevent;
typedef struct CUmod_st *CUmodule;
typedef struct CUfunc_st *CUfunction;
struct akv_cu_uuid {
    unsigned char bytes[16];
};

/* Result codes that the backend tells apart. */
#define AKV_CU_OK            0
#define AKV_CU_OUT_OF_MEMORY 2
#define AKV_CU_NO_DEVICE     100
#define AKV_CU_INVALID_IMAGE 200
#define AKV_CU_NO_BINARY     209
#define AKV_CU_INVALID_PTX   218
#define AKV_CU_NO_JIT        221 /* no compiler for PTX */
#define AKV_CU_NEWER_PTX     222 /* than the driver knows */
#define AKV_CU_JIT_OFF       223
#define AKV_CU_NOT_FOUND     500
#define AKV_CU_NOT_READY     600

/* Device attributes and flags by number (cuda.h, CUdevice_attribute). */
#define AKV_CU_ATTR_SM_COUNT     16
#define AKV_CU_ATTR_MAJOR        75
#define AKV_CU_ATTR_MINOR        76
#define AKV_CU_ATTR_SHARED_OPTIN 97
#define AKV_CU_STREAM_NON_BLOCKING 1u
#define AKV_CU_EVENT_DEFAULT       0u
#define AKV_CU_HOST_PORTABLE       1u
#define AKV_CU_FUNC_STATIC_SHARED  1
#define AKV_CU_FUNC_DYNAMIC_SHARED 8

struct akv_cu {
#define AKV_CU(field, name, result, params) result(*field) params;
#include "driver.def"
#undef AKV_CU
    int version; /* of the driver, 1000*major + 10*minor */
};

/* The loaded table, or NULL with the reason.  Loaded once; ANYKV_CUDA_LIBRARY overrides libcuda.so.1. */
const struct akv_cu *akv_cu_load(char *reason, size_t reason_bytes);

#endif
