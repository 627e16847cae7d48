/* SPDX-License-Identifier: Apache-2.0 */
/* CUDA C++ on the host, for tests: kernels-cu is compiled by the host's compiler and its threads run one after
 * the other.  A thread gives way at every barrier and at every operation of a warp; order changes from one
 * turn to the next, so that a missing barrier shows.  Copies into shared memory are done when somebody
 * waits for them, and what they will overwrite is spoilt before.
 *
 * tests/cuda_host/build makes kernels-cu fit: shared variables become static ones, parameters references. */
#ifndef CUDA_HOST_H
#define CUDA_HOST_H
#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define __CUDACC__ 1
#define __device__
#define __host__
#define __global__
#define __constant__
#define __noinline__   __attribute__((noinline))
#define __forceinline__ inline
#define __launch_bounds__(...)
#define __align__(n)
#define __restrict__

struct cu_index {
    unsigned x, y, z;
};
extern const struct cu_index *cu_thread; /* that runs now */
extern struct cu_index blockIdx, blockDim, gridDim;
#define threadIdx (*cu_thread)

struct uint2 {
    unsigned x, y;
};
struct alignas(16) uint4 {
    unsigned x, y, z, w;
};
struct float2 {
    float x, y;
};
struct alignas(16) float4 {
    float x, y, z, w;
};
static inline uint2 make_uint2(unsigned x, unsigned y)
{
    return {x, y};
}
static inline uint4 make_uint4(unsigned x, unsigned y, unsigned z, unsigned w)
{
    return {x, y, z, w};
}
static inline float2 make_float2(float x, float y)
{
    return {x, y};
}
static inline float4 make_float4(float x, float y, float z, float w)
{
    return {x, y, z, w};
}
static inline int max(int a, int b)
{
    return a > b ? a : b;
}
static inline unsigned max(unsigned a, unsigned b)
{
    return a > b ? a : b;
}
static inline int min(int a, int b)
{
    return a < b ? a : b;
}
static inline unsigned min(unsigned a, unsigned b)
{
    return a < b ? a : b;
}
static inline unsigned __float_as_uint(float f)
{
    unsigned u;
    memcpy(&u, &f, 4);
    return u;
}
static inline float __uint_as_float(unsigned u)
{
    float f;
    memcpy(&f, &u, 4);
    return f;
}
static inline float __fmaf_rn(float a, float b, float c)
{
    return fmaf(a, b, c);
}
/* Rounded down and up: the exact result is sum + rest. */
static inline float __fmaf_rd(float a, float b, float c)
{
    double product = (double)a * b, sum = product + c, part = sum - product;
    double rest = (product - (sum - part)) + (c - part);
    float near = (float)sum;
    return near > sum || (near == sum && rest < 0.0) ? nextafterf(near, -INFINITY) : near;
}
static inline float __fmaf_ru(float a, float b, float c)
{
    return -__fmaf_rd(-a, b, -c);
}
static inline float __frcp_rd(float x)
{
    float near = 1.0f / x;
    return (double)near * x > 1.0 ? nextafterf(near, -INFINITY) : near;
}
static inline float __frcp_ru(float x)
{
    float near = 1.0f / x;
    return (double)near * x < 1.0 ? nextafterf(near, INFINITY) : near;
}
static inline int __float2int_rn(float x)
{
    return (int)lrintf(x);
}
static inline int __clz(int x)
{
    return x ? __builtin_clz((unsigned)x) : 32;
}
static inline int __ffs(int x)
{
    return __builtin_ffs(x);
}
static inline int __popc(unsigned x)
{
    return __builtin_popcount(x);
}
template <class T> T __ldcg(const T *p)
{
    return *p;
}
template <class T> void __stcg(T *p, T v)
{
    *p = v;
}
template <class T, class U> T atomicAdd(T *p, U v)
{
    T old = *p;
    *p = old + (T)v;
    return old;
}
template <class T, class U> T atomicOr(T *p, U v)
{
    T old = *p;
    *p = old | (T)v;
    return old;
}
template <class T, class U> T atomicMax(T *p, U v)
{
    T old = *p;
    *p = old > (T)v ? old : (T)v;
    return old;
}
static inline void __threadfence()
{
}
/* Bit 3 of a selector does nothing here: that is the instruction's alone (akv_prmt). */
static inline unsigned __byte_perm(unsigned a, unsigned b, unsigned s)
{
    uint64_t both = (uint64_t)b << 32 | a;
    unsigned r = 0;
    for (int i = 0; i < 4; i++, s >>= 4) {
        r |= ((unsigned)(both >> (8 * (s & 7))) & 255u) << (8 * i);
    }
    return r;
}

/* ---- barriers, and what warps do together (threads.cc) ---- */
enum cu_wait { CU_READY, CU_WARP, CU_BLOCK, CU_POLL, CU_DONE };
void cu_give_way(enum cu_wait wait, const char *what);
/* This lane's slot for the operation `what` of its warp; read the others' after cu_meet. */
struct cu_slot {
    uint64_t word[8];
};
struct cu_slot *cu_mine(void);
const struct cu_slot *cu_meet(const char *what); /* [32] */
int cu_block_or(int x);
void *cu_dynamic(void);         /* dynamic shared memory */
void *cu_shared_at(unsigned at, unsigned bytes);
unsigned cu_shared_address(const void *p);

#define __syncthreads()      cu_give_way(CU_BLOCK, "__syncthreads")
#define __syncthreads_or(x)  cu_block_or(x)
#define __syncwarp()         cu_give_way(CU_WARP, "__syncwarp")
static inline unsigned cu_lane()
{
    return threadIdx.x & 31u;
}
template <class T> T cu_shuffle(T x, unsigned from, const char *what)
{
    static_assert(sizeof x <= 8, "");
    memcpy(cu_mine(), &x, sizeof x);
    const struct cu_slot *all = cu_meet(what);
    T y;
    memcpy(&y, &all[from & 31u], sizeof y);
    return y;
}
template <class T> T __shfl_sync(unsigned, T x, int from)
{
    return cu_shuffle(x, (unsigned)from, "__shfl_sync");
}
template <class T> T __shfl_xor_sync(unsigned, T x, int mask)
{
    return cu_shuffle(x, cu_lane() ^ (unsigned)mask, "__shfl_xor_sync");
}
unsigned cu_ballot(int x);
static inline unsigned __ballot_sync(unsigned, int x)
{
    return cu_ballot(x);
}
static inline int __all_sync(unsigned, int x)
{
    return cu_ballot(!x) == 0;
}
static inline int __any_sync(unsigned, int x)
{
    return cu_ballot(x) != 0;
}

/* ---- halves ---- */
#include "../../lib/kernel/fp.h"
struct half {
    unsigned short bits;
};
static inline half __float2half_rn(float x)
{
    return {(unsigned short)akv_f16_from_f32(__float_as_uint(x))};
}
static inline half __float2half(float x)
{
    return __float2half_rn(x);
}
static inline float __half2float(half h)
{
    return __uint_as_float(akv_f32_from_f16(h.bits));
}
static inline half __ushort_as_half(unsigned short u)
{
    return {u};
}
static inline unsigned short __half_as_ushort(half h)
{
    return h.bits;
}
static inline half __ushort2half_rn(unsigned short u)
{
    return __float2half_rn((float)u);
}
static inline half __hmul(half a, half b)
{
    return __float2half_rn(__half2float(a) * __half2float(b));
}

#endif
