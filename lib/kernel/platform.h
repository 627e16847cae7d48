/* SPDX-License-Identifier: Apache-2.0 */
/* One vocabulary for the three languages in which the kernel arithmetic is compiled:
 * C11 (host), OpenCL C 1.2 and CUDA C++.  Everything in lib/kernel is written with these names. */
#ifndef AKV_KERNEL_PLATFORM_H
#define AKV_KERNEL_PLATFORM_H

#if defined(__FAST_MATH__)
#error "anykv must not be built with -ffast-math: stored bytes would differ between machines"
#endif

#if defined(__OPENCL_VERSION__) || defined(__OPENCL_C_VERSION__)
/* ---- OpenCL C 1.2 ---- */
#pragma OPENCL FP_CONTRACT OFF
#define AKV_OPENCL 1
#define AKV_FN     static inline
#define AKV_GLOBAL __global
#define AKV_LOCAL  __local
#define AKV_TABLE  __constant
typedef uchar akv_u8;
typedef ushort akv_u16;
typedef uint akv_u32;
typedef ulong akv_u64;
typedef char akv_i8;
typedef short akv_i16;
typedef int akv_i32;
typedef long akv_i64;
#define akv_as_u32(f)    as_uint(f)
#define akv_as_f32(u)    as_float(u)
#define akv_rotl1(u)     rotate((u), 1u) /* left by one bit; shifts would become an intrinsic that Oclgrind lacks */
#define AKV_FMA(a, b, c) fma((a), (b), (c))
#define AKV_RINT(x)      convert_int_rte(x) /* to int, nearest even; |x| < 2^31 */
#define AKV_CLZ(u)       clz((akv_u32)(u))  /* u != 0 */
#if !defined(AKV_CPU_SHAPE) && !defined(AKV_UNROLL)
#define AKV_UNROLL _Pragma("unroll")
#endif

#elif defined(__CUDACC__)
/* ---- CUDA C++ (device code only) ---- */
#define AKV_CUDA   1
#define AKV_FN     static __device__ __forceinline__
#define AKV_GLOBAL
#define AKV_LOCAL
#define AKV_TABLE  static __device__ __constant__ constexpr
typedef unsigned char akv_u8;
typedef unsigned short akv_u16;
typedef unsigned int akv_u32;
typedef unsigned long long akv_u64;
typedef signed char akv_i8;
typedef short akv_i16;
typedef int akv_i32;
typedef long long akv_i64;
#define akv_as_u32(f)    __float_as_uint(f)
#define akv_as_f32(u)    __uint_as_float(u)
#define akv_rotl1(u)     ((u) << 1 | (u) >> 31)
#define AKV_FMA(a, b, c) __fmaf_rn((a), (b), (c))
#define AKV_RINT(x)      __float2int_rn(x)
#define AKV_CLZ(u)       __clz((int)(u))

#else
/* ---- C11 host ---- */
#include <math.h>
#include <stdint.h>
#include <string.h>
#if defined(__BYTE_ORDER__) && __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "anykv stores little-endian data and does not build for big-endian machines"
#endif
#if defined(__FLT_EVAL_METHOD__) && __FLT_EVAL_METHOD__ != 0
#error "anykv needs float arithmetic rounded to float (no x87): build with SSE2 or for x86-64"
#endif
#if defined(__clang__)
#pragma STDC FP_CONTRACT OFF
#endif
#define AKV_HOST   1
#define AKV_FN     static inline
#define AKV_GLOBAL
#define AKV_LOCAL
#define AKV_TABLE  static const
typedef uint8_t akv_u8;
typedef uint16_t akv_u16;
typedef uint32_t akv_u32;
typedef uint64_t akv_u64;
typedef int8_t akv_i8;
typedef int16_t akv_i16;
typedef int32_t akv_i32;
typedef int64_t akv_i64;
#define akv_rotl1(u) ((u) << 1 | (u) >> 31)
static inline akv_u32 akv_as_u32(float f)
{
    akv_u32 u;
    memcpy(&u, &f, 4);
    return u;
}
static inline float akv_as_f32(akv_u32 u)
{
    float f;
    memcpy(&f, &u, 4);
    return f;
}
#define AKV_FMA(a, b, c) fmaf((a), (b), (c))
#define AKV_RINT(x)      ((akv_i32)rintf(x))
#define AKV_CLZ(u)       ((akv_u32)__builtin_clz((akv_u32)(u)))
#endif

/* Stands before a loop over a small private array, which a GPU keeps in registers only where every index
 * is a constant. */
#ifndef AKV_UNROLL
#define AKV_UNROLL
#endif

#define AKV_MIN(a, b) ((a) < (b) ? (a) : (b))
#define AKV_MAX(a, b) ((a) > (b) ? (a) : (b))

#endif
