/* SPDX-License-Identifier: Apache-2.0 */
/* f16 numbers on the host's side, where the engine computes in double. */
#ifndef AKV_HALF_H
#define AKV_HALF_H
#include <math.h>
#include <stdint.h>

#define AKV_HALF_MAX 65504.0

static inline double akv_half_value(uint16_t bits)
{
    const int exponent = bits >> 10 & 31;
    const double fraction = (double)(bits & 1023);
    const double value = exponent == 31  ? (fraction == 0.0 ? (double)INFINITY : (double)NAN)
                         : exponent == 0 ? ldexp(fraction, -24)
                                         : ldexp(fraction + 1024.0, exponent - 25);
    return bits & 0x8000 ? -value : value;
}

static inline int akv_half_finite(uint16_t bits)
{
    return (bits & 0x7C00) != 0x7C00;
}

/* Nearest, ties to even; beyond the largest number, infinity.  value is not a NaN. */
static inline uint16_t akv_half_bits(double value)
{
    const uint16_t sign = signbit(value) ? 0x8000 : 0;
    const double size = fabs(value);
    int exponent = 0;
    if (size >= 65520.0)
        return (uint16_t)(sign | 0x7C00);
    if (size < 0x1p-14) /* a multiple of 2^-24, or the least normal number */
        return (uint16_t)(sign | (unsigned)nearbyint(ldexp(size, 24)));
    frexp(size, &exponent); /* size = f * 2^exponent, f in [0.5, 1) */
    const unsigned units = (unsigned)nearbyint(ldexp(size, 11 - exponent)); /* 1024 … 2048 */
    return (uint16_t)(sign | (((unsigned)(exponent + 13) << 10) + units));
}

#endif
