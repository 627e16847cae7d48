/* SPDX-License-Identifier: Apache-2.0 */
/* Sums over a thread block of whole warps, by shuffles. */
#ifndef AKV_SUMS_CUH
#define AKV_SUMS_CUH
#include "common.cuh"

#define SUMS_ALL 0xFFFFFFFFu

AKV_FN akv_u32 warp_sum(akv_u32 x)
{
    akv_u32 i;
#pragma unroll
    for (i = 16u; i; i >>= 1)
        x += __shfl_xor_sync(SUMS_ALL, x, i);
    return x;
}

/* Sum of x over the block's warps, in thread 0; warps: u32 for each warp, in shared memory. */
AKV_FN akv_u32 block_sum(akv_u32 x, akv_u32 *warps, akv_u32 threads)
{
    akv_u32 i;
    x = warp_sum(x);
    if (threadIdx.x % 32u == 0u)
        warps[threadIdx.x / 32u] = x;
    __syncthreads();
    if (threadIdx.x == 0u)
        for (i = 1u; i < threads / 32u; i++)
            x += warps[i];
    return x;
}

/* Lanes before and own. */
AKV_FN akv_u32 warp_scan(akv_u32 x, akv_u32 lane)
{
    akv_u32 i;
#pragma unroll
    for (i = 1u; i < 32u; i <<= 1) {
        akv_u32 other = __shfl_sync(SUMS_ALL, x, (lane - i) & 31u);
        x += lane >= i ? other : 0u;
    }
    return x;
}

/* Sum of x of the threads before this one, of 1024, and of all; warps: 32 u32 in shared memory,
 * that nobody reads when it returns to the slowest thread: a barrier must stand before the next
 * one. */
AKV_FN akv_u32 block_scan(akv_u32 x, akv_u32 *warps, akv_u32 *all)
{
    akv_u32 lane = threadIdx.x % 32u, warp = threadIdx.x / 32u, sum = warp_scan(x, lane), each;
    if (lane == 31u)
        warps[warp] = sum;
    __syncthreads();
    if (warp == 0u) {
        each = warp_scan(warps[lane], lane);
        warps[lane] = each;
    }
    __syncthreads();
    *all = warps[31];
    return sum - x + (warp ? warps[warp - 1u] : 0u);
}

#endif
