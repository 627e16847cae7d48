/* SPDX-License-Identifier: Apache-2.0 */
/* What kernels-cu needs of the CUDA toolkit, for clang without a toolkit (m4/anykv.m4): included before every
 * source, and found in place of the toolkit's header of this name.  PTX for compute_75; the kernels that need
 * newer instructions are left out, and the backend takes the general ones. */
#ifndef AKV_CLANG_CUDA_H
#define AKV_CLANG_CUDA_H
#include <stddef.h>
#if defined(__CUDA__) && !defined(__CUDACC__)
#define __CUDACC__ 1
#endif
#define __device__          __attribute__((device))
#define __host__            __attribute__((host))
#define __global__          __attribute__((global))
#define __shared__          __attribute__((shared))
#define __constant__        __attribute__((constant))
#define __launch_bounds__(...) __attribute__((launch_bounds(__VA_ARGS__)))
#define __align__(n)        __attribute__((aligned(n)))
#define __forceinline__     inline __attribute__((always_inline))
#define __noinline__        __attribute__((noinline))
#define __grid_constant__
#define alignas(n) __align__(n) /* also between __shared__ and a type */
#define CUDA_FN static __device__ __forceinline__

struct uint2 {
    unsigned x, y;
};
struct __align__(16) uint4 {
    unsigned x, y, z, w;
};
struct float2 {
    float x, y;
};
struct __align__(16) float4 {
    float x, y, z, w;
};
struct uint3 {
    unsigned x, y, z;
};
struct dim3 {
    unsigned x, y, z;
};
#include <__clang_cuda_builtin_vars.h>

CUDA_FN uint2 make_uint2(unsigned x, unsigned y) { return {x, y}; }
CUDA_FN uint4 make_uint4(unsigned x, unsigned y, unsigned z, unsigned w) { return {x, y, z, w}; }
CUDA_FN float2 make_float2(float x, float y) { return {x, y}; }
CUDA_FN float4 make_float4(float x, float y, float z, float w) { return {x, y, z, w}; }

CUDA_FN unsigned __float_as_uint(float f) { return __builtin_bit_cast(unsigned, f); }
CUDA_FN float __uint_as_float(unsigned u) { return __builtin_bit_cast(float, u); }
CUDA_FN float __fmaf_rn(float a, float b, float c) { return __nvvm_fma_rn_f(a, b, c); }
CUDA_FN float __fmaf_rd(float a, float b, float c) { return __nvvm_fma_rm_f(a, b, c); }
CUDA_FN float __fmaf_ru(float a, float b, float c) { return __nvvm_fma_rp_f(a, b, c); }
CUDA_FN float __frcp_rd(float x) { return __nvvm_rcp_rm_f(x); }
CUDA_FN float __frcp_ru(float x) { return __nvvm_rcp_rp_f(x); }
CUDA_FN int __float2int_rn(float x) { return __nvvm_f2i_rn(x); }
CUDA_FN int __clz(int x) { return x ? __builtin_clz((unsigned)x) : 32; }
CUDA_FN int __ffs(int x) { return __builtin_ffs(x); }
CUDA_FN unsigned __byte_perm(unsigned a, unsigned b, unsigned s) { return __nvvm_prmt(a, b, s); }
CUDA_FN int __popc(unsigned x) { return __builtin_popcount(x); }
CUDA_FN float fmaxf(float a, float b) { return __nvvm_fmax_f(a, b); }
CUDA_FN float fminf(float a, float b) { return __nvvm_fmin_f(a, b); }
CUDA_FN float fabsf(float a) { return __builtin_fabsf(a); }
CUDA_FN float exp2f(float x) { return __nvvm_ex2_approx_f(x); }
CUDA_FN float log2f(float x) { return __nvvm_lg2_approx_f(x); }
CUDA_FN float logf(float x) { return 0.69314718f * log2f(x); }
/* By the exponential; near 0 by the series, where that cancels. */
CUDA_FN float tanhf(float x)
{
    float a = x < 0.0f ? -x : x, w = x * x;
    float e = exp2f(a * 2.8853900817779268f), y = 1.0f - 2.0f / (e + 1.0f);
    float near = x + x * w * (-0.33333333f + w * (0.13333333f + w * (-0.053968254f + w * 0.021869488f)));
    return a < 0.25f ? near : x < 0.0f ? -y : y;
}
CUDA_FN int max(int a, int b) { return a > b ? a : b; }
CUDA_FN unsigned max(unsigned a, unsigned b) { return a > b ? a : b; }
CUDA_FN int min(int a, int b) { return a < b ? a : b; }
CUDA_FN unsigned min(unsigned a, unsigned b) { return a < b ? a : b; }

CUDA_FN void __syncwarp(unsigned mask = 0xFFFFFFFFu) { __nvvm_bar_warp_sync(mask); }
CUDA_FN void __threadfence() { __nvvm_membar_gl(); }
CUDA_FN unsigned __shfl_sync(unsigned mask, unsigned x, int lane) { return __nvvm_shfl_sync_idx_i32(mask, x, lane, 31); }
CUDA_FN int __shfl_sync(unsigned mask, int x, int lane) { return __nvvm_shfl_sync_idx_i32(mask, x, lane, 31); }
CUDA_FN float __shfl_sync(unsigned mask, float x, int lane) { return __nvvm_shfl_sync_idx_f32(mask, x, lane, 31); }
CUDA_FN unsigned long long __shfl_sync(unsigned mask, unsigned long long x, int lane)
{
    unsigned low = __shfl_sync(mask, (unsigned)x, lane), high = __shfl_sync(mask, (unsigned)(x >> 32), lane);
    return (unsigned long long)high << 32 | low;
}
CUDA_FN unsigned __shfl_xor_sync(unsigned mask, unsigned x, int lanes) { return __nvvm_shfl_sync_bfly_i32(mask, x, lanes, 31); }
CUDA_FN int __shfl_xor_sync(unsigned mask, int x, int lanes) { return __nvvm_shfl_sync_bfly_i32(mask, x, lanes, 31); }
CUDA_FN float __shfl_xor_sync(unsigned mask, float x, int lanes) { return __nvvm_shfl_sync_bfly_f32(mask, x, lanes, 31); }
CUDA_FN unsigned __ballot_sync(unsigned mask, int x) { return __nvvm_vote_ballot_sync(mask, x); }
CUDA_FN int __all_sync(unsigned mask, int x) { return __nvvm_vote_all_sync(mask, x); }
CUDA_FN int __any_sync(unsigned mask, int x) { return __nvvm_vote_any_sync(mask, x); }

CUDA_FN unsigned atomicAdd(unsigned *p, unsigned x) { return (unsigned)__nvvm_atom_add_gen_i((int *)p, (int)x); }
CUDA_FN unsigned atomicOr(unsigned *p, unsigned x) { return (unsigned)__nvvm_atom_or_gen_i((int *)p, (int)x); }
/* Past the first-level cache, which other multiprocessors do not share. */
CUDA_FN float __ldcg(const float *p)
{
    float x;
    asm volatile("ld.cg.f32 %0, [%1];" : "=f"(x) : "l"(p) : "memory");
    return x;
}
CUDA_FN void __stcg(float *p, float x)
{
    asm volatile("st.cg.f32 [%0], %1;" ::"l"(p), "f"(x) : "memory");
}

struct half {
    unsigned short bits;
};
CUDA_FN half __ushort_as_half(unsigned short u) { return {u}; }
CUDA_FN float __half2float(half h)
{
    float x;
    asm("cvt.f32.f16 %0, %1;" : "=f"(x) : "h"(h.bits));
    return x;
}
#undef CUDA_FN
#endif
