/* SPDX-License-Identifier: Apache-2.0 */
/* What the CUDA shells share: how a launch hands over its spans. */
#ifndef AKV_COMMON_CUH
#define AKV_COMMON_CUH
#include "../lib/kernel/params.h"

/* A function inside a struct. */
#define AKV_MEMBER __device__ __forceinline__

/* Spans of a launch as device addresses, 0 where absent; passed by value after the parameters.
 * backends/cuda/kernel.c holds the same struct. */
struct akv_cu_args {
    unsigned char *arg[8];
    unsigned char *slab[AKV_MAX_SLABS];
};

AKV_FN unsigned char *akv_cu_at(const akv_cu_args &a, akv_u64 address)
{
    return a.slab[AKV_ADDR_SLAB(address)] + AKV_ADDR_OFFSET(address);
}

#endif
