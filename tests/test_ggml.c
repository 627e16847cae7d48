/* SPDX-License-Identifier: Apache-2.0 */
/* ggml's blocks against vectors that tests/golden/make-ggml.py made from their public definition, the
 * correctly rounded division that they need, and E4M3 against its definition. */
#include <criterion/criterion.h>
#include "../backends/backend.h"
#include "../lib/kernel/ggml.h"
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

enum { BLOCKS = 8192 };

static const struct vector {
    uint32_t format;
    const char *encoded, *decoded, *block;
} vectors[] = {
#include "golden/ggml.inc"
};
#define VECTORS (sizeof vectors / sizeof vectors[0])

static uint64_t mix(uint64_t n)
{
    uint64_t z = n * UINT64_C(0x9E3779B97F4A7C15) + UINT64_C(0x9E3779B97F4A7C15);
    z = (z ^ (z >> 30)) * UINT64_C(0xBF58476D1CE4E5B9);
    z = (z ^ (z >> 27)) * UINT64_C(0x94D049BB133111EB);
    return z ^ (z >> 31);
}

/* The inputs that make-ggml.py describes. */
static float input(uint32_t b, uint32_t j)
{
    uint64_t r = mix((uint64_t)b * 32u + j);
    uint32_t half = (uint32_t)(r & 0xFFFFu);
    int64_t sum = 0;
    switch (b % 4u) {
    case 0:
        half ^= (half & 0x7C00u) == 0x7C00u ? 0x4000u : 0u;
        return akv_as_f32(akv_f32_from_f16(half == 0x8000u ? 0u : half));
    case 1:
        return (float)((int)((r >> 8) % 8191u) - 4095) * ldexpf(1.0f, (int)(b % 16u) - 12);
    case 2:
        return (float)((int)((r >> 8) % 33u) - 16) * ldexpf(1.0f, (int)(b % 8u) - 5);
    default:
        for (int k = 0; k < 64; k += 16)
            sum += (int64_t)((r >> k) & 0xFFFFu);
        return (float)(sum - 131070) * 0x1p-16f;
    }
}

static void hex(const uint8_t *bytes, size_t count, char *text)
{
    for (size_t i = 0; i < count; i++)
        snprintf(text + 2 * i, 3, "%02x", bytes[i]);
}
static void sha(const void *bytes, size_t count, char text[65])
{
    akv_sha256 state;
    akv_sha256_init(&state);
    akv_sha256_update(&state, bytes, count);
    akv_digest digest = akv_sha256_final(&state);
    hex(digest.byte, 32, text);
}

Test(ggml, blocks_are_the_public_definitions)
{
    for (size_t n = 0; n < VECTORS; n++) {
        uint32_t format = vectors[n].format, bytes = akv_block_bytes(format);
        uint8_t *tile = calloc(BLOCKS, bytes);
        char text[80];
        for (uint32_t b = 0; b < BLOCKS; b++) {
            float x[32];
            uint8_t code[32];
            for (uint32_t j = 0; j < 32u; j++) {
                x[j] = input(b, j);
                cr_assert_eq(akv_sane(akv_as_u32(x[j])), akv_as_u32(x[j]));
            }
            uint32_t scales = akv_block_quantise(x, format, code);
            akv_block_put(tile, format, 32, b, 0, code, scales);
        }
        hex(tile + bytes, bytes, text);
        cr_assert_str_eq(text, vectors[n].block, "format %u, block 1: %s", format, text);
        sha(tile, (size_t)BLOCKS * bytes, text);
        cr_assert_str_eq(text, vectors[n].encoded, "format %u: %s", format, text);
        free(tile);
    }
}

Test(ggml, every_scale_decodes_as_defined)
{
    float *values = malloc(65536u * 32u * sizeof *values);
    for (size_t n = 0; n < VECTORS; n++) {
        uint32_t format = vectors[n].format, codes = akv_block_codes_at(format);
        char text[65];
        for (uint32_t s = 0; s < 65536u; s++) {
            uint8_t block[40], random[40];
            for (uint32_t k = 0; k < 5u; k++) {
                uint64_t r = mix((UINT64_C(1) << 40) + 8u * s + k);
                memcpy(random + 8u * k, &r, 8);
            }
            akv_store_u16(block, s);
            akv_store_u16(block + 2, s * 40503u & 0xFFFFu);
            if (format == AKV_Q5_0 || format == AKV_Q5_1)
                codes = akv_block_codes_at(format) - 4u;
            memcpy(block + codes, random, akv_block_bytes(format) - codes);
            akv_block_load(block, format, 32, 0, 0, values + 32u * s);
        }
        sha(values, 65536u * 32u * sizeof *values, text);
        cr_assert_str_eq(text, vectors[n].decoded, "format %u: %s", format, text);
    }
    free(values);
}

/* What the definition leaves open, or makes infinite. */
Test(ggml, blocks_stay_finite)
{
    float x[32], y[32];
    uint8_t code[32], block[34];
    for (uint32_t format = AKV_Q8_0; format <= AKV_IQ4_NL; format++)
        for (int k = 0; k < 4; k++) {
            for (int i = 0; i < 32; i++)
                x[i] = k == 0 ? 0.0f : k == 1 ? 0x1p100f : (i % 3 - 1) * (k == 2 ? 0x1p100f : 0x1p-24f);
            uint32_t scales = akv_block_quantise(x, format, code);
            akv_block_put(block, format, 32, 0, 0, code, scales);
            akv_block_load(block, format, 32, 0, 0, y);
            for (int i = 0; i < 32; i++)
                cr_assert(isfinite(y[i]) && (k != 0 || y[i] == 0.0f) &&
                              (k == 3 || y[i] * x[i] >= 0.0f),
                          "format %u, rows %d: %a for %a", format, k, (double)y[i], (double)x[i]);
        }
}

/* ---- division ---- */

Test(ggml, reciprocals_are_correctly_rounded_whatever_the_guess)
{
    static const int exponents[] = {127, 128, 40, 220};
    for (uint32_t m = 0; m < 1u << 23; m++) {
        float b = akv_as_f32((uint32_t)exponents[m & 3u] << 23 | m), want = 1.0f / b;
        for (int off = -3; off <= 3; off += 3) {
            float got = akv_reciprocal_by_fma(b, akv_as_f32((uint32_t)((int)akv_as_u32(want) + off)));
            cr_assert(got == want, "1 / %a from %d: %a, not %a", (double)b, off, (double)got,
                      (double)want);
        }
    }
}

Test(ggml, quotients_are_correctly_rounded_whatever_the_guess)
{
    static const float divisors[] = {127.0f, 31.0f, 15.0f, -127.0f};
    for (uint32_t m = 0; m < 1u << 23; m++) {
        float a = akv_as_f32((100u + m % 64u) << 23 | m), b = divisors[m & 3u];
        cr_assert(akv_divide_by_fma(a, divisors[0], 1.0f / 127.0f) == a / 127.0f, "%a", (double)a);
        cr_assert(akv_divide_by_fma(a, divisors[1], 1.0f / 31.0f) == a / 31.0f, "%a", (double)a);
        cr_assert(akv_divide_by_fma(-a, divisors[2], 1.0f / 15.0f) == -a / 15.0f, "%a", (double)a);
        cr_assert(akv_divide_by_fma(a, divisors[3], -1.0f / 127.0f) == a / -127.0f, "%a", (double)a);
        uint64_t r = mix(m);
        a = akv_as_f32(((uint32_t)r & 0x807FFFFFu) | (90u + (uint32_t)(r >> 60)) << 23);
        b = akv_as_f32(((uint32_t)(r >> 32) & 0x7FFFFFu) | (90u + (uint32_t)(r >> 56) % 64u) << 23);
        float guess = akv_as_f32(akv_as_u32(1.0f / b) + (uint32_t)(m % 5u) - 2u);
        cr_assert(akv_divide_by_fma(a, b, guess) == a / b, "%a / %a", (double)a, (double)b);
    }
    cr_assert_eq(akv_as_u32(akv_divide_by_fma(0.0f, 3.0f, 0.3f)), 0u);
}

/* ---- E4M3 ---- */

static double e4m3(uint32_t c)
{
    double m = c & 7u, e = c >> 3 & 15u;
    double v = e == 0.0 ? ldexp(m, -9) : ldexp(8.0 + m, (int)e - 10);
    return c & 0x80u ? -v : v;
}

Test(ggml, e4m3_is_nearest_even_and_saturates)
{
    for (uint32_t c = 0; c < 256u; c++) {
        float x = akv_as_f32(akv_f32_from_e4m3(c));
        if ((c & 0x7Fu) == 0x7Fu) {
            cr_assert_eq(akv_as_u32(x), 0x7FC00000u);
            continue;
        }
        cr_assert((double)x == e4m3(c) && !signbit(x) == !(c & 0x80u), "%#x reads as %a", c,
                  (double)x);
        cr_assert_eq(akv_e4m3_from_f32(akv_as_u32(x)), c);
        if ((c & 0x7Fu) == 0x7Eu)
            continue;
        uint32_t tie = akv_as_u32((float)((e4m3(c) + e4m3(c + 1u)) / 2.0));
        cr_assert_eq(akv_e4m3_from_f32(tie), c + (c & 1u), "tie above %#x", c);
        cr_assert_eq(akv_e4m3_from_f32(tie - 1u), c);
        cr_assert_eq(akv_e4m3_from_f32(tie + 1u), c + 1u);
    }
    cr_assert_eq(akv_e4m3_from_f32(akv_as_u32(1e9f)), 0x7Eu);
    cr_assert_eq(akv_e4m3_from_f32(akv_as_u32(-449.0f)), 0xFEu);
    cr_assert_eq(akv_e4m3_from_f32(0x7F800000u), 0x7Eu);
    cr_assert_eq(akv_e4m3_from_f32(0x7F800001u), 0x7Fu);
    cr_assert_eq(akv_e4m3_from_f32(0x80000000u), 0x80u);
}

/* Every f16 under scales of every class: the code's neighbours are no nearer. */
Test(ggml, e4m3_codes_are_the_nearest)
{
    for (uint32_t k = 0; k < 64u; k++) {
        uint32_t scale = k < 16u ? 1u + k : k < 24u ? 0x7BFFu - k : (uint32_t)(mix(k) % 0x7BFFu) + 1u;
        double d = (double)akv_as_f32(akv_f32_from_f16(scale));
        for (uint32_t h = 0; h < 0x10000u; h += 32u) {
            float x[32];
            uint8_t code[32];
            for (uint32_t i = 0; i < 32u; i++)
                x[i] = akv_as_f32(akv_sane(akv_f32_from_f16(h + i)));
            akv_group_codes(x, scale, AKV_E4M3, code);
            for (uint32_t i = 0; i < 32u; i++) {
                double a = fabs((double)x[i]);
                uint32_t c = code[i] & 0x7Fu;
                cr_assert(c < 0x7Fu && (x[i] == 0.0f ? code[i] == 0 : !(code[i] & 0x80u) == (x[i] > 0)));
                double up = c < 0x7Eu ? (e4m3(c) + e4m3(c + 1u)) * d : INFINITY;
                double down = c > 0 ? (e4m3(c) + e4m3(c - 1u)) * d : -1.0;
                cr_assert(c & 1u ? 2.0 * a < up && 2.0 * a > down : 2.0 * a <= up && 2.0 * a >= down,
                          "scale %#x, input %#x: %#x", scale, h + i, code[i]);
                float value = akv_code_value(AKV_E4M3, code[i], akv_code_unit(AKV_E4M3, scale));
                cr_assert_eq((double)value, e4m3(code[i]) * d);
            }
        }
    }
}

/* ---- error ---- */

static double normal(uint64_t *counter)
{
    double u = (double)((mix((*counter)++) >> 11) + 1u) * 0x1p-53;
    double v = (double)(mix((*counter)++) >> 11) * 0x1p-53;
    return sqrt(-2.0 * log(u)) * cos(6.283185307179586 * v);
}

Test(ggml, gaussian_error_is_what_the_format_promises)
{
    static const struct {
        uint32_t format;
        double want;
    } table[] = {{AKV_Q8_0, 45.4}, {AKV_Q4_0, 21.3}, {AKV_E4M3, 31.8}};
    for (size_t n = 0; n < sizeof table / sizeof table[0]; n++) {
        uint32_t format = table[n].format;
        double signal = 0, noise = 0;
        uint64_t counter = 0;
        for (uint32_t r = 0; r < 8000u; r++) {
            float x[128], y[128];
            uint8_t code[32], block[34];
            for (uint32_t i = 0; i < 128u; i++)
                x[i] = (float)normal(&counter);
            uint32_t s = akv_uniform_scale(akv_amax(x, 128u, 0u), AKV_E4M3);
            for (uint32_t g = 0; g < 128u; g += 32u) {
                if (format == AKV_E4M3) {
                    akv_group_codes(x + g, s, format, code);
                    for (uint32_t i = 0; i < 32u; i++)
                        y[g + i] = akv_code_value(format, code[i], akv_code_unit(format, s));
                } else {
                    uint32_t scales = akv_block_quantise(x + g, format, code);
                    akv_block_put(block, format, 32, 0, 0, code, scales);
                    akv_block_load(block, format, 32, 0, 0, y + g);
                }
            }
            for (uint32_t i = 0; i < 128u; i++) {
                signal += (double)x[i] * (double)x[i];
                noise += ((double)x[i] - (double)y[i]) * ((double)x[i] - (double)y[i]);
            }
        }
        double ratio = 10.0 * log10(signal / noise);
        cr_assert(fabs(ratio - table[n].want) < 0.1, "format %u: %.3f dB, not %.1f", format, ratio,
                  table[n].want);
    }
}
