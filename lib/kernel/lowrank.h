/* SPDX-License-Identifier: Apache-2.0 */
/* Low-rank compression: coefficients of rows in a calibration's bases.
 *
 * Contract.  Row x of a head at position p, sane (fp.h).  Keys: pairs of the rotary embedding are turned back
 * by the angle of p (rope.h with -s for s), then x_i = sane(x_i - centre_i).  Coefficient y_j = fma chain of
 * basis(j, i) * x_i over i ascending from +0.  With the step d = step * 2^shift of component j, shift the
 * least of 0 … 160 for which |rint(y_j / d)| <= 127 in all rows, its code is rint(y_j * (1/step) * 2^-shift), two
 * rounded products, nearest even: class EXACT.
 *
 * Back: y_j = code * (step * 2^shift), class EXACT; x_i = sum over j of expand(j, i) * y_j in any order, class
 * BOUNDED; then, EXACT again, |x_i| below 2^-24 becomes 0, x_i + centre_i, the turn by p, rounded to the rows'
 * dtype. */
#ifndef AKV_KERNEL_LOWRANK_H
#define AKV_KERNEL_LOWRANK_H
#include "fp.h"
#include "params.h"
#include "rope.h"

#define AKV_LOWRANK_SHIFTS 160u
#define AKV_LOWRANK_MAX    0x40000000u /* elements of a launch, 2^30 */

/* 2^-shift and 2^shift, in two factors where one would be subnormal or infinite. */
AKV_FN float akv_lowrank_less(float x, akv_u32 shift)
{
    return shift > 100u ? x * 0x1p-100f * akv_as_f32((127u - (shift - 100u)) << 23) : x * akv_as_f32((127u - shift) << 23);
}
AKV_FN float akv_lowrank_more(float x, akv_u32 shift)
{
    return shift > 100u ? x * 0x1p100f * akv_as_f32((127u + (shift - 100u)) << 23) : x * akv_as_f32((127u + shift) << 23);
}
/* The code's value before it is rounded. */
AKV_FN float akv_lowrank_scaled(float y, float inverse, akv_u32 shift)
{
    return akv_lowrank_less(y * inverse, shift);
}
/* The least shift for the largest |y| of a component. */
AKV_FN akv_u32 akv_lowrank_shift(float largest, float inverse)
{
    akv_u32 shift = 0u;
    while (shift < AKV_LOWRANK_SHIFTS && akv_lowrank_scaled(largest, inverse, shift) >= 127.5f)
        shift++;
    return shift;
}

/* ---- rows ---- */

/* Unit u of a row, of dim - pairs: a pair of the rotary embedding, or one element, which *b says too then. */
AKV_FN void akv_lowrank_unit(const akv_lowrank_params *p, akv_u32 u, akv_u32 *a, akv_u32 *b)
{
    *a = u >= p->pairs ? u + p->pairs : p->rope == AKV_ROPE_HALF ? u : 2u * u;
    *b = u >= p->pairs ? *a : p->rope == AKV_ROPE_HALF ? u + p->pairs : 2u * u + 1u;
}
AKV_FN float akv_lowrank_before(float x, float centre)
{
    return akv_as_f32(akv_sane(akv_as_u32(x - centre)));
}
AKV_FN float akv_lowrank_after(float x, float centre)
{
    return ((akv_as_u32(x) & 0x7FFFFFFFu) < AKV_TINY_BITS ? 0.0f : x) + centre;
}

#endif
