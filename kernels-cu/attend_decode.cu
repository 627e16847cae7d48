/* SPDX-License-Identifier: Apache-2.0 */
/* Decode attention for the formats and sizes that matter for speed (attend_decode.cuh), rows rotated or as they
 * are.  Warps are listed again in backends/cuda/k_attend.c. */
#include "attend_decode.cuh"

#define DECODE(name, KEY, VALUE, G, NW, STAGES)                                                        \
    extern "C" __global__ void __launch_bounds__(NW * 32, 1) akv_k_attend_##name(                      \
        const __grid_constant__ akv_attend_params p, const __grid_constant__ akv_cu_args a,            \
        const __grid_constant__ akv_cu_plan plan, akv_u32 *counters)                                   \
    {                                                                                                  \
        decode<KEY, VALUE, G, NW, STAGES, false>(p, a, plan, counters);                                       \
    }

/* Bulk copies exist from sm_90 on; for older architectures this image is empty and the backend takes the
 * general kernel. */
#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 900
DECODE(f16_64, NoKey, NoValue, 2, 16, 3)
DECODE(f16_128, NoKey, NoValue, 4, 8, 3)
DECODE(f16_256, NoKey, NoValue, 8, 4, 3)
DECODE(i8_i8_64, KeyI8<2>, ValueI8<2>, 2, 16, 6)
DECODE(i8_i8_128, KeyI8<4>, ValueI8<4>, 4, 16, 3)
DECODE(i8_i8_256, KeyI8<8>, ValueI8<8>, 8, 8, 3)
DECODE(i8_n4_64, KeyI8<2>, ValueN4<2>, 2, 16, 5)
DECODE(i8_n4_128, KeyI8<4>, ValueN4<4>, 4, 15, 3)
DECODE(i8_n4_256, KeyI8<8>, ValueN4<8>, 8, 6, 3)
DECODE(n5_n4_64, KeyN5<2>, ValueN4<2>, 2, 16, 7)
DECODE(n5_n4_128, KeyN5<4>, ValueN4<4>, 4, 15, 4)
DECODE(n5_n4_256, KeyN5<8>, ValueN4<8>, 8, 6, 4)
DECODE(n4_n4_64, KeyN4<2>, ValueN4<2>, 2, 16, 8)
DECODE(n4_n4_128, KeyN4<4>, ValueN4<4>, 4, 16, 4)
DECODE(n4_n4_256, KeyN4<8>, ValueN4<8>, 8, 7, 4)
DECODE(n3_n3_64, KeyN3<2>, ValueN3<2>, 2, 16, 8)
DECODE(n3_n3_128, KeyN3<4>, ValueN3<4>, 4, 16, 5)
DECODE(n3_n3_256, KeyN3<8>, ValueN3<8>, 8, 8, 5)
DECODE(n3_n2_64, KeyN3<2>, ValueN2<2>, 2, 16, 8)
DECODE(n3_n2_128, KeyN3<4>, ValueN2<4>, 4, 16, 6)
DECODE(n3_n2_256, KeyN3<8>, ValueN2<8>, 8, 8, 6)
DECODE(n5_n5_64, KeyN5<2>, ValueN5<2>, 2, 16, 6)
DECODE(n5_n5_128, KeyN5<4>, ValueN5<4>, 4, 13, 4)
DECODE(n5_n5_256, KeyN5<8>, ValueN5<8>, 8, 5, 4)
DECODE(n2_n2_64, KeyN2<2>, ValueN2<2>, 2, 16, 8)
DECODE(n2_n2_128, KeyN2<4>, ValueN2<4>, 4, 16, 8)
DECODE(n2_n2_256, KeyN2<8>, ValueN2<8>, 8, 7, 8)
#endif
