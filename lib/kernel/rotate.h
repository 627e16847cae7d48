/* SPDX-License-Identifier: Apache-2.0 */
/* The rotation: a block-diagonal Hadamard transform of a row.
 *
 * Contract (class EXACT).  Block n = 2^k = akv_rotate_block(dim), which divides dim.
 *
 * Stages s = 1, 2, 4 … n/2, in this order, for every j with bit s clear:
 *     (x[j], x[j+s]) becomes (x[j] + x[j+s], x[j] - x[j+s]), each sum correctly rounded to f32.
 *
 * Storing: y = sane(x * 2^-floor(k/2)).  Reading back: x = y * 2^(floor(k/2) - k).
 *
 * The factors are powers of two and magnitudes are 0 or within 2^-24 … 2^109: they round nothing.
 */
#ifndef AKV_KERNEL_ROTATE_H
#define AKV_KERNEL_ROTATE_H
#include "fp.h"

/* k of a block of 2^k elements. */
AKV_FN akv_u32 akv_rotate_log2(akv_u32 dim)
{
    return 31u - AKV_CLZ(akv_rotate_block(dim));
}
AKV_FN float akv_rotate_store_factor(akv_u32 dim)
{
    return akv_as_f32((127u - akv_rotate_log2(dim) / 2u) << 23);
}
AKV_FN float akv_rotate_read_factor(akv_u32 dim)
{
    akv_u32 k = akv_rotate_log2(dim);
    return akv_as_f32((127u + k / 2u - k) << 23);
}
/* One stage over count elements of a private array; count is a multiple of 2 * stride. */
AKV_FN void akv_rotate_stage(float *x, akv_u32 count, akv_u32 stride)
{
    akv_u32 i, j;
    AKV_UNROLL
    for (i = 0u; i < count; i += 2u * stride)
        AKV_UNROLL
    for (j = i; j < i + stride; j++) {
        float a = x[j], b = x[j + stride];
        x[j] = a + b;
        x[j + stride] = a - b;
    }
}
/* For threads that own one element each (or one part of a row each) and exchange them: my value
 * after a stage, from mine and my partner's (position ^ stride). */
AKV_FN float akv_rotate_pair(float mine, float other, akv_u32 position, akv_u32 stride)
{
    return (position & stride) ? other - mine : mine + other;
}
/* All stages of a private row, without the factor. */
AKV_FN void akv_rotate_stages(float *x, akv_u32 dim)
{
    akv_u32 n = akv_rotate_block(dim), stride;
    for (stride = 1u; stride < n; stride *= 2u)
        akv_rotate_stage(x, dim, stride);
}
/* A private row as it is stored, from sane values; and a decoded row back. */
AKV_FN void akv_rotate_store(float *x, akv_u32 dim)
{
    float factor = akv_rotate_store_factor(dim);
    akv_u32 i;
    akv_rotate_stages(x, dim);
    for (i = 0u; i < dim; i++)
        x[i] = akv_as_f32(akv_sane(akv_as_u32(x[i] * factor)));
}
AKV_FN void akv_rotate_read(float *x, akv_u32 dim)
{
    float factor = akv_rotate_read_factor(dim);
    akv_u32 i;
    akv_rotate_stages(x, dim);
    for (i = 0u; i < dim; i++)
        x[i] = x[i] * factor;
}

#endif
