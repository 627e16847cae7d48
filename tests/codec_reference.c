/* SPDX-License-Identifier: Apache-2.0 */
/* The formats once more: nothing here is shared with lib/kernel but the numbers of the formats. */
#include "codec_reference.h"
#include "../lib/kernel/format.h"
#include <float.h>
#include <math.h>

double ref_half(uint32_t bits)
{
    int e = (int)(bits >> 10 & 31u), m = (int)(bits & 1023u);
    double x = e == 31 ? (m ? NAN : INFINITY) : e ? ldexp(1024 + m, e - 25) : ldexp(m, -24);
    return bits & 0x8000u ? -x : x;
}
double ref_ue5m3(uint32_t s)
{
    return s < 8u ? ldexp(s, -17) : ldexp(8 + (s & 7u), (int)(s >> 3) - 18);
}

/* Nearest of count ascending values f(0) … f(count - 1), ties to the even number; compares 2x with
 * sums, which are exact. */
static uint32_t nearest(double x, uint32_t count, double (*f)(uint32_t))
{
    uint32_t low = 0, high = count - 1u;
    while (high - low > 1u) {
        uint32_t middle = (low + high) / 2u;
        if (f(middle) <= x)
            low = middle;
        else
            high = middle;
    }
    double both = f(low) + f(high);
    return 2.0 * x < both ? low : 2.0 * x > both ? high : low & 1u ? high : low;
}
uint32_t ref_to_half(double x, int saturate)
{
    double a = fabs(x);
    uint32_t sign = signbit(x) ? 0x8000u : 0u;
    if (a >= 65520.0)
        return sign | (saturate ? 0x7BFFu : 0x7C00u);
    return sign | nearest(a, 0x7C00u, ref_half);
}
uint32_t ref_to_ue5m3(double x)
{
    return nearest(x, 0xF8u, ref_ue5m3);
}

int ref_levels(uint32_t format, const int **codes_out)
{
    static const int n2[] = {-127, -38, 38, 127};
    static const int n3[] = {-127, -79, -45, -14, 14, 45, 79, 127};
    static const int n4[] = {-127, -96, -75, -58, -44, -31, -18, -6,
                             6,    18,  31,  44,  58,  75,  96,  127};
    static const int n5[] = {-127, -105, -90, -79, -70, -61, -54, -47, -41, -35, -29,
                             -24,  -18,  -13, -8,  -3,  3,   8,   13,  18,  24,  29,
                             35,   41,   47,  54,  61,  70,  79,  90,  105, 127};
    static int uniform[255];
    int limit = format == AKV_I8 ? 127 : 31;
    switch (format) {
    case AKV_N2:
        *codes_out = n2;
        return 4;
    case AKV_N3:
        *codes_out = n3;
        return 8;
    case AKV_N4:
        *codes_out = n4;
        return 16;
    case AKV_N5:
        *codes_out = n5;
        return 32;
    default:
        for (int i = 0; i < 255; i++)
            uniform[i] = i - 127;
        *codes_out = uniform + 127 - limit;
        return 2 * limit + 1;
    }
}

/* Position in the list of codes of the one whose value is nearest. */
static int nearest_code(double x, double unit, uint32_t format)
{
    const int *codes;
    int n = ref_levels(format, &codes), best = 0;
    for (int i = 1; i < n; i++) {
        double both = (codes[best] + codes[i]) * unit;
        int even = format >= AKV_N5 ? i % 2 == 0 : codes[i] % 2 == 0;
        if (2.0 * x > both || (2.0 * x == both && even))
            best = i;
    }
    return best;
}

static float product(float a, double constant) /* both exact in a double: rounded once */
{
    return (float)((double)a * constant);
}

static uint32_t search(const float *x, float amax, uint32_t format)
{
    static const double ratio[4][8] = {{1, .97, .94, .91, .88, .85, 1.03, .82},
                                       {1, .96, .92, .88, .84, .80, .76, .72},
                                       {1, .94, .88, .82, .76, .70, .64, .58},
                                       {1, .92, .84, .76, .68, .60, .52, .44}};
    const int *codes;
    int n = ref_levels(format, &codes), e;
    uint32_t best = 0;
    double best_error = DBL_MAX;

    frexp(amax, &e);
    e--; /* amax = 1.m * 2^e */
    for (int m = 0; m < 8; m++) {
        /* the constants are r * 128 / 127 rounded to f32 */
        double constant = (double)(float)(ratio[format - AKV_N5][m] * 128.0 / 127.0);
        uint32_t s = ref_to_ue5m3(product(amax, constant));
        double error = 0;
        for (int i = 0; i < 32; i++) {
            double k = rint(ldexp(fabs(x[i]), 12 - e)), least = DBL_MAX;
            for (int j = n / 2; j < n; j++) {
                double level = floor(ldexp(ref_ue5m3(s) * codes[j], 12 - 7 - e) + 0.5);
                least = fmin(least, fabs(k - level));
            }
            error += least * least;
        }
        if (error < best_error) {
            best_error = error;
            best = s;
        }
    }
    return best;
}

void ref_hadamard(float *x, uint32_t n)
{
    if (n == 1u)
        return;
    ref_hadamard(x, n / 2u);
    ref_hadamard(x + n / 2u, n / 2u);
    for (uint32_t i = 0; i < n / 2u; i++) {
        float a = x[i], b = x[i + n / 2u];
        x[i] = a + b;
        x[i + n / 2u] = a - b;
    }
}
static uint32_t block_of(uint32_t dim, int *log_out)
{
    uint32_t n = 1;
    *log_out = 0;
    for (; dim % (2u * n) == 0 && n < 512u; n *= 2u)
        ++*log_out;
    return n;
}

static float sane(float x, uint32_t *saw)
{
    if (isnan(x)) {
        *saw |= 1u;
        return 0.0f;
    }
    if (fabsf(x) > 0x1p100f) {
        *saw |= 2u;
        return copysignf(0x1p100f, x);
    }
    return fabsf(x) < 0x1p-24f ? 0.0f : x;
}

uint32_t ref_encode_row(const float *x, uint32_t dim, uint32_t format, int rotate, int searched,
                        struct ref_row *out)
{
    float row[576] = {0};
    uint32_t width = format == AKV_I8 ? 128u : format == AKV_N6 ? 64u : 32u, saw = 0, ignored = 0;
    int k;

    for (uint32_t i = 0; i < dim; i++)
        row[i] = sane(x[i], &saw);
    uint32_t n = block_of(dim, &k);
    for (uint32_t i = 0; rotate && i < dim; i += n)
        ref_hadamard(row + i, n);
    for (uint32_t i = 0; rotate && i < dim; i++)
        row[i] = sane((float)ldexp(row[i], -(k / 2)), &ignored);
    out->padded = (dim + 31u) / 32u * 32u;
    out->scales = (out->padded + width - 1u) / width;
    for (uint32_t i = 0; i < out->padded; i += width) {
        uint32_t end = i + width < out->padded ? i + width : out->padded, s;
        const int *codes;
        float amax = 0.0f;
        double unit;
        for (uint32_t j = i; j < end; j++)
            amax = fmaxf(amax, fabsf(row[j]));
        if (format == AKV_I8 || format == AKV_N6) {
            float constant = (float)(1.0 / (format == AKV_I8 ? 127.0 : 31.0));
            s = ref_to_half(product(amax, constant), 1);
            unit = ref_half(s);
        } else {
            double constant = (double)(float)(128.0 / 127.0);
            s = searched && amax > 0.0f ? search(row + i, amax, format)
                                        : ref_to_ue5m3(product(amax, constant));
            unit = ref_ue5m3(s) / 128.0;
        }
        out->scale[i / width] = s;
        int count = ref_levels(format, &codes);
        for (uint32_t j = i; j < end; j++) {
            int c =
                unit == 0.0 ? (count + 1) / 2 - (count & 1) : nearest_code(row[j], unit, format);
            out->code[j] = (uint8_t)(format == AKV_I8   ? codes[c]
                                     : format == AKV_N6 ? codes[c] + 32
                                                        : c);
        }
    }
    return saw;
}

void ref_decode_row(const struct ref_row *row, uint32_t dim, uint32_t format, int rotate,
                    float *out)
{
    uint32_t width = format == AKV_I8 ? 128u : format == AKV_N6 ? 64u : 32u;
    const int *codes;
    int k;

    ref_levels(format, &codes);
    for (uint32_t i = 0; i < dim; i++) {
        uint32_t s = row->scale[i / width];
        double c = format == AKV_I8   ? (int8_t)row->code[i]
                   : format == AKV_N6 ? row->code[i] - 32
                                      : codes[row->code[i]];
        double d = format == AKV_I8 || format == AKV_N6 ? ref_half(s) : ref_ue5m3(s) / 128.0;
        out[i] = (float)(c * d) + 0.0f; /* + 0: never -0 */
    }
    uint32_t n = block_of(dim, &k);
    for (uint32_t i = 0; rotate && i < dim; i += n)
        ref_hadamard(out + i, n);
    for (uint32_t i = 0; rotate && i < dim; i++)
        out[i] = (float)ldexp(out[i], k / 2 - k);
}

static void put_bits(uint8_t *plane, uint32_t word, uint32_t bit, uint32_t bits, uint32_t value)
{
    for (uint32_t b = 0; b < bits; b++)
        if (value >> b & 1u)
            plane[word * 4u + (bit + b) / 8u] |= (uint8_t)(1u << (bit + b) % 8u);
}

/* The tile is zero at first.  Positions as docs/format.md words them. */
void ref_place_row(uint8_t *tile, const struct ref_row *row, uint32_t format, int quad,
                   uint32_t tokens, uint32_t dim, uint32_t t)
{
    uint32_t width[2] = {format == AKV_I8                       ? 8u
                         : format == AKV_N3 || format == AKV_N2 ? 2u
                                                                : 4u,
                         format == AKV_N6                       ? 2u
                         : format == AKV_N5 || format == AKV_N3 ? 1u
                                                                : 0u};
    uint32_t groups = row->padded / 32u, shift = 0;
    uint8_t *plane = tile;
    (void)dim;

    for (int p = 0; p < 2; p++) {
        uint32_t b = width[p];
        for (uint32_t i = 0; b && i < row->padded; i++) {
            uint32_t value = (uint32_t)row->code[i] >> shift & ((1u << b) - 1u);
            uint32_t g = i / 32u, e = i % 32u, word;
            if (quad) {
                e = i % 8u * 4u + t % 4u;
                word = (i / 8u * (tokens / 4u) + t / 4u) * b + e * b / 32u;
            } else if (b == 8u) {
                word = (t * row->padded + i) / 4u;
            } else {
                word = t * groups * b + e * b / 32u * groups + g;
            }
            put_bits(plane, word, e * b % 32u, b, value);
        }
        plane += (tokens * row->padded * b / 8u + 15u) / 16u * 16u;
        shift += b;
    }
    for (uint32_t s = 0; s < row->scales; s++) {
        uint32_t index = quad ? (t / 4u * row->scales + s) * 4u + t % 4u : t * row->scales + s;
        if (format == AKV_I8 || format == AKV_N6) {
            plane[2u * index] = (uint8_t)row->scale[s];
            plane[2u * index + 1u] = (uint8_t)(row->scale[s] >> 8);
        } else {
            plane[index] = (uint8_t)row->scale[s];
        }
    }
}
