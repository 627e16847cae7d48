/* SPDX-License-Identifier: Apache-2.0 */
/* Codes of N5 … N2 by a table in shared memory, the same as akv_codebook_codes' for fewer instructions.
 *
 * With y = 256 x / d every threshold is an integer T below STEPS, and the code is a function of floor(y) + ceil(y),
 * which is 2 k for a tie at k and 2 k + 1 between k and k + 1.  Both come from one fused multiply-add each, floor with
 * 1 / d rounded up, ceil with 1 / d rounded down.
 *
 * Why they are exact where it matters: d has four significant bits, so that 1 / d rounded down is off by 2^-24 of itself
 * at most, rounded up by less (the odd divisors up to 15, tried).  t = T d / 256 has thirteen bits.  x = t gives T both
 * ways; the f32 below is smaller by at least 2^-24 of t, and its product stays below T; the one above is larger by at
 * least 2^-24 + 2^-37 of t, and its product stays above. */
#ifndef AKV_CODE_STEPS_CUH
#define AKV_CODE_STEPS_CUH
#include "../lib/kernel/quant.h"

/* |y| is less where d is a normal number made from the group's maximum: 256 * 127 / 128 * 17 / 16 is 269.9. */
#define STEPS 272

AKV_FN constexpr bool by_steps(akv_u32 format)
{
    return format >= AKV_N5 && format <= AKV_N2;
}
template <int F> struct code_steps {
    alignas(16) akv_u8 at[by_steps(F) ? 4 * STEPS + 16 : 16]; /* of floor + ceil + 2 * STEPS */
    constexpr code_steps() : at()
    {
        constexpr int levels = by_steps(F) ? 16 >> (F - AKV_N5) : 0;
        for (int s = -2 * STEPS; levels && s <= 2 * STEPS; s++) {
            int z = s < 0 ? -s : s, p = 0; /* p: thresholds passed; a tie goes to the even code */
            for (; p + 1 < levels; p++) {
                int t = 2 * (akv_codebook[levels - 2 + p] + akv_codebook[levels - 1 + p]);
                if (z < t || (z == t && (p & 1) == (s < 0)))
                    break;
            }
            at[2 * STEPS + s] = (akv_u8)(s < 0 ? levels - 1 - p : levels + p);
        }
    }
};
template <int F> static __device__ const code_steps<F> all_steps{};

/* The table of F to shared memory in two steps, since what a thread has loaded of it is there when other loads are: a
 * piece a thread, then all pieces put and waited for. */
template <int F> AKV_FN uint4 steps_piece()
{
    static_assert(sizeof(code_steps<F>) / 16u <= WARPS * 32, "a piece for each thread");
    if (by_steps(F) && threadIdx.x < sizeof(code_steps<F>) / 16u)
        return ((const uint4 *)all_steps<F>.at)[threadIdx.x];
    return make_uint4(0u, 0u, 0u, 0u);
}
template <int F> AKV_FN void put_steps(akv_u8 *steps, uint4 piece)
{
    if (by_steps(F)) {
        if (threadIdx.x < sizeof(code_steps<F>) / 16u)
            ((uint4 *)steps)[threadIdx.x] = piece;
        __syncthreads();
    }
}

/* Codes of the group of each lane of a warp; beyond the table they are those of its ends. */
AKV_FN void codes_by_steps(float *x, akv_u32 amax, akv_u32 scale, const akv_u8 *steps, akv_u8 *code)
{
    float d = akv_f32_from_ue5m3(scale), limit = d * (STEPS * 0x1p-8f), low = 0.0f, high = 0.0f;
    if (scale != 0u) { /* all codes of scale 0 are that of +0 */
        low = __frcp_rd(d) * 0x1p8f;
        high = __frcp_ru(d) * 0x1p8f;
    }
    if (__any_sync(0xFFFFFFFFu, akv_as_f32(amax) > limit)) {
#pragma unroll
        for (int i = 0; i < 32; i++)
            x[i] = fminf(fmaxf(x[i], -limit), limit);
    }
#pragma unroll
    for (int i = 0; i < 32; i++) { /* 1.5 * 2^23 and an integer, which stands in the lowest bits */
        float both = __fmaf_ru(x[i], low, __fmaf_rd(x[i], high, 0x1.8p23f));
        code[i] = steps[akv_as_u32(both) - akv_as_u32(0x1.8p23f) + 2u * STEPS];
    }
}

#endif
