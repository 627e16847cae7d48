/* SPDX-License-Identifier: Apache-2.0 */
/* Angles of rotary embedding.
 *
 * Contract (class EXACT).  A frequency is a u64 in 2^-64 turns a position, so that position *
 * frequency wraps exactly.  cos and sin are functions of the leading 32 bits of that phase: the
 * nearest quarter turn is taken off as an integer, the rest r is u = r * 2^-29 in [-1, 1) eighths
 * of a turn, exact but for one rounding to f32, and then with w = u * u
 *
 *     sin(pi/4 * u) = u * S(w),  cos(pi/4 * u) = 1 + w * C(w),  each step one fma
 *
 * (minimax, coefficients below).  Absolute error below 1.2e-7, at all 2^32 phases.
 *
 * A pair (a, b) is turned to (fma(c, a, -(s * b)), fma(c, b, s * a)).  No result or intermediate of
 * a sane pair is subnormal: c and s are 0 or at least 2^-30 in magnitude. */
#ifndef AKV_KERNEL_ROPE_H
#define AKV_KERNEL_ROPE_H
#include "platform.h"

#define AKV_SIN_0 0x1.921fb4p-1f
#define AKV_SIN_1 -0x1.4abba8p-4f
#define AKV_SIN_2 0x1.465a3ep-9f
#define AKV_SIN_3 -0x1.2cf5d4p-15f
#define AKV_COS_0 -0x1.3bd3ccp-2f
#define AKV_COS_1 0x1.03c1dep-6f
#define AKV_COS_2 -0x1.55c664p-12f
#define AKV_COS_3 0x1.d9f7bcp-19f

typedef struct akv_turn {
    float c, s;
} akv_turn;

AKV_FN akv_turn akv_rope_turn(akv_u64 phase)
{
    /* Bits 31:30 of q are the quarter, the rest is r + 2^29. */
    akv_u32 q = (akv_u32)(phase >> 32) + 0x20000000u, rest = q & 0x3FFFFFFFu;
    float u = AKV_FMA((float)((akv_i32)(rest >> 12) - 0x20000), 4096.0f,
                      (float)(akv_i32)(rest & 4095u)) *
              0x1p-29f;
    float w = u * u, s = AKV_FMA(AKV_SIN_3, w, AKV_SIN_2), c = AKV_FMA(AKV_COS_3, w, AKV_COS_2);
    akv_turn turn;
    s = AKV_FMA(s, w, AKV_SIN_1);
    s = AKV_FMA(s, w, AKV_SIN_0) * u;
    c = AKV_FMA(c, w, AKV_COS_1);
    c = AKV_FMA(c, w, AKV_COS_0);
    c = AKV_FMA(c, w, 1.0f);
    /* Quarters 1 and 3 exchange the two; cos is negative in 1 and 2, sin in 2 and 3. */
    turn.c = (q & 0x40000000u) ? s : c;
    turn.s = (q & 0x40000000u) ? c : s;
    turn.c = akv_as_f32(akv_as_u32(turn.c) ^ ((q + 0x40000000u) & 0x80000000u));
    turn.s = akv_as_f32(akv_as_u32(turn.s) ^ (q & 0x80000000u));
    return turn;
}
AKV_FN akv_turn akv_rope_at(akv_u64 turns, akv_u32 position)
{
    return akv_rope_turn((akv_u64)position * turns);
}
/* First and second component of a turned pair. */
AKV_FN float akv_rope_first(akv_turn turn, float a, float b)
{
    return AKV_FMA(turn.c, a, -(turn.s * b));
}
AKV_FN float akv_rope_second(akv_turn turn, float a, float b)
{
    return AKV_FMA(turn.c, b, turn.s * a);
}

#endif
