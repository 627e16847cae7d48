/* SPDX-License-Identifier: Apache-2.0 */
/* Decode attention (attend_decode.cuh) of rows that were stored less their mean or times a matrix.  The mean
 * takes shared memory, so that rings are shorter than those of attend_decode.cu. */
#include "attend_decode.cuh"

#define DECODE(name, KEY, VALUE, G, NW, STAGES)                                                        \
    extern "C" __global__ void __launch_bounds__(NW * 32, 1) akv_k_attend_map_##name(                  \
        const __grid_constant__ akv_attend_params p, const __grid_constant__ akv_cu_args a,            \
        const __grid_constant__ akv_cu_plan plan, akv_u32 *counters)                                   \
    {                                                                                                  \
        decode<KEY, VALUE, G, NW, STAGES, true>(p, a, plan, counters);                                 \
    }

#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 900
DECODE(i8_i8_64, KeyI8<2>, ValueI8<2>, 2, 16, 5)
DECODE(i8_i8_128, KeyI8<4>, ValueI8<4>, 4, 14, 3)
DECODE(i8_i8_256, KeyI8<8>, ValueI8<8>, 8, 6, 3)
DECODE(i8_n4_64, KeyI8<2>, ValueN4<2>, 2, 16, 4)
DECODE(i8_n4_128, KeyI8<4>, ValueN4<4>, 4, 11, 3)
DECODE(i8_n4_256, KeyI8<8>, ValueN4<8>, 8, 5, 3)
DECODE(n5_n4_64, KeyN5<2>, ValueN4<2>, 2, 16, 5)
DECODE(n5_n4_128, KeyN5<4>, ValueN4<4>, 4, 14, 3)
DECODE(n5_n4_256, KeyN5<8>, ValueN4<8>, 8, 6, 3)
DECODE(n4_n4_64, KeyN4<2>, ValueN4<2>, 2, 16, 6)
DECODE(n4_n4_128, KeyN4<4>, ValueN4<4>, 4, 16, 3)
DECODE(n4_n4_256, KeyN4<8>, ValueN4<8>, 8, 7, 3)
DECODE(n3_n3_64, KeyN3<2>, ValueN3<2>, 2, 16, 8)
DECODE(n3_n3_128, KeyN3<4>, ValueN3<4>, 4, 16, 4)
DECODE(n3_n3_256, KeyN3<8>, ValueN3<8>, 8, 8, 3)
DECODE(n3_n2_64, KeyN3<2>, ValueN2<2>, 2, 16, 8)
DECODE(n3_n2_128, KeyN3<4>, ValueN2<4>, 4, 16, 4)
DECODE(n3_n2_256, KeyN3<8>, ValueN2<8>, 8, 8, 4)
DECODE(n5_n5_64, KeyN5<2>, ValueN5<2>, 2, 16, 5)
DECODE(n5_n5_128, KeyN5<4>, ValueN5<4>, 4, 13, 3)
DECODE(n5_n5_256, KeyN5<8>, ValueN5<8>, 8, 5, 3)
DECODE(n2_n2_64, KeyN2<2>, ValueN2<2>, 2, 16, 8)
DECODE(n2_n2_128, KeyN2<4>, ValueN2<4>, 4, 16, 5)
DECODE(n2_n2_256, KeyN2<8>, ValueN2<8>, 8, 7, 5)
#endif
