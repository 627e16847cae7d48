/* SPDX-License-Identifier: Apache-2.0 */
/* Low-rank compression: coefficients of rows in a calibration's bases.
 *
 * Contract.  Row x of a head at position p, sane (fp.h).  Keys: pairs of the rotary embedding are turned back
 * by the angle of p (rope.h with -s for s), then x_i = sane(x_i - centre_i).  Coefficient y_j = fma chain of
 * basis(j, i) * x_i over i ascending from +0.  With the step d = step * 2^shift of component j, shift the
 * least of 0 … 160 for which |rint(y_j / d)| <= 127 in all rows, its code is rint(y_j * (1/step) * 2^-shift), two
 * rounded products, nearest even: class EXACT.
 *
 * Back: y_j = code * step * 2^shift, x_i = sum over j of expand(j, i) * y_j in any order, class BOUNDED; then
 * x_i + centre_i and the turn by p, rounded to the rows' dtype. */
#ifndef AKV_KERNEL_LOWRANK_H
#define AKV_KERNEL_LOWRANK_H
#include "fp.h"
#include "rope.h"

#define AKV_LOWRANK_SHIFTS 160u

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

#endif
