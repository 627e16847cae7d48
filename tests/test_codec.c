/* SPDX-License-Identifier: Apache-2.0 */
/* The arithmetic of the formats against an independent definition of it. */
#include <criterion/criterion.h>
#include "../lib/kernel/pack.h"
#include "../lib/kernel/params.h"
#include "../lib/kernel/quant.h"
#include "../lib/kernel/rotate.h"
#include "codec_reference.h"
#include "conform_inputs.h"
#include <stdlib.h>

static const uint32_t dims[] = {64, 80, 96, 112, 128, 192, 256, 512, 576};
static const char *const names[] = {"", "F32", "F16", "BF16", "I8", "N6", "N5", "N4", "N3", "N2"};

/* ---- conversions ---- */

Test(codec, half_to_float_is_exact_for_all_inputs)
{
    for (uint32_t h = 0; h < 0x10000u; h++) {
        float x = akv_as_f32(akv_f32_from_f16(h));
        double want = ref_half(h);
        if (isnan(want))
            cr_assert(isnan(x) && (akv_as_u32(x) & 0x400000u), "f16 %#x is not a quiet NaN", h);
        else
            cr_assert((double)x == want && !signbit(x) == !(h & 0x8000u), "f16 %#x gives %a", h,
                      (double)x);
        if (!isnan(want))
            cr_assert_eq(akv_f16_from_f32(akv_as_u32(x)), h, "f16 %#x does not come back", h);
    }
}

Test(codec, float_to_half_is_nearest_even)
{
    for (uint32_t i = 0; i < 400000u; i++) {
        /* random bits, and the neighbourhood of every tie */
        uint32_t u = (uint32_t)akv_input_random(11, i);
        if (i & 1u) {
            float tie =
                (float)((ref_half(i >> 1 & 0x7BFFu) + ref_half((i >> 1 & 0x7BFFu) + 1u)) / 2.0);
            u = akv_as_u32(tie) + (uint32_t)(akv_input_random(12, i) % 3u) - 1u;
        }
        float x = akv_as_f32(u);
        uint32_t h = akv_f16_from_f32(u);
        if (isnan(x))
            cr_assert((h & 0x7C00u) == 0x7C00u && (h & 0x200u), "%#x", u);
        else
            cr_assert_eq(h, ref_to_half(x, 0), "f32 %a gives f16 %#x, not %#x", (double)x, h,
                         ref_to_half(x, 0));
    }
}

Test(codec, bf16_is_nearest_even)
{
    for (uint32_t i = 0; i < 0x10000u; i++) {
        cr_assert_eq(akv_f32_from_bf16(i), i << 16);
        float x = akv_as_f32(i << 16);
        if (isnan(x))
            continue;
        cr_assert_eq(akv_bf16_from_f32(i << 16), i);
        if (isinf(x))
            continue;
        cr_assert_eq(akv_bf16_from_f32(i << 16 | 0x7FFFu), i);
        cr_assert_eq(akv_bf16_from_f32(i << 16 | 0x8000u), i + (i & 1u));
        cr_assert_eq(akv_bf16_from_f32(i << 16 | 0x8001u), i + 1u);
    }
    cr_assert_eq(akv_bf16_from_f32(0x7F800001u), 0x7FC0u, "a NaN stays one and becomes quiet");
}

Test(codec, scale_byte_is_nearest_even)
{
    for (uint32_t s = 0; s < 0xF8u; s++) {
        double d = ref_ue5m3(s);
        cr_assert_eq((double)akv_f32_from_ue5m3(s), d);
        cr_assert_eq((double)akv_as_f32(akv_f32_from_f16(s << 7)), d, "bits 14:7 of an f16");
        cr_assert_eq(akv_ue5m3_from_f32(akv_as_u32((float)d)), s);
        double tie = (d + ref_ue5m3(s + 1u)) / 2.0;
        for (int k = -1; k <= 1 && s < 0xF7u; k++) {
            uint32_t u = (uint32_t)((int)akv_as_u32((float)tie) + k);
            cr_assert_eq(akv_ue5m3_from_f32(u), ref_to_ue5m3((double)akv_as_f32(u)), "%#x", u);
        }
    }
    cr_assert_eq(akv_ue5m3_from_f32(akv_as_u32(0x1p100f)), 0xF7u);
    for (uint32_t i = 0; i < 200000u; i++) {
        uint32_t u = (uint32_t)(akv_input_random(5, i) % 0x72000000u);
        cr_assert_eq(akv_ue5m3_from_f32(u), ref_to_ue5m3((double)akv_as_f32(u)), "%#x", u);
    }
}

Test(codec, sanitising)
{
    const float in[] = {0.0f,        -0.0f,     0x1p-24f, -0x1p-24f,       0x1.fffffep-25f,
                        -0x1.8p-25f, 0x1p-149f, 0x1p100f, 0x1.000002p100f, -INFINITY,
                        INFINITY,    1.5f};
    const float out[] = {0.0f, 0.0f,     0x1p-24f, -0x1p-24f, 0.0f,     0.0f,
                         0.0f, 0x1p100f, 0x1p100f, -0x1p100f, 0x1p100f, 1.5f};
    const uint32_t saw[] = {0, 0, 0, 0, 0, 0, 0, 0, 2, 2, 2, 0};
    for (size_t i = 0; i < sizeof in / sizeof *in; i++) {
        cr_assert_eq(akv_sane(akv_as_u32(in[i])), akv_as_u32(out[i]), "%a", (double)in[i]);
        cr_assert_eq(akv_saw(akv_as_u32(in[i])), saw[i], "%a", (double)in[i]);
    }
    cr_assert_eq(akv_sane(0x7F800001u), 0u);
    cr_assert_eq(akv_sane(0xFFFFFFFFu), 0u);
    cr_assert_eq(akv_saw(0xFFC00000u), 1u);
}

/* ---- codes ---- */

Test(codec, products_of_scale_and_codebook_are_exact_in_half)
{
    uint32_t products = 0;
    for (uint32_t format = AKV_N5; format <= AKV_N2; format++) {
        const int *codes;
        int n = ref_levels(format, &codes);
        for (uint32_t s = 0; s < 0xF8u; s++)
            for (int c = 0; c < n; c++) {
                float x = akv_code_value(format, (uint32_t)c, akv_code_unit(format, s));
                double want = ref_ue5m3(s) * codes[c] / 128.0;
                cr_assert_eq((double)x, want);
                cr_assert(!(x == 0.0f && signbit(x)), "%s scale 0 code %d reads as -0",
                          names[format], c);
                cr_assert_eq((double)akv_as_f32(akv_f32_from_f16(akv_f16_from_f32(akv_as_u32(x)))),
                             want, "%s scale %#x code %d", names[format], s, codes[c]);
                products++;
            }
    }
    cr_assert_eq(products, 248u * 60u);
}

/* Every f16 as an input, under scales of every mantissa and of every class of exponents. */
Test(codec, all_half_inputs_for_each_class_of_scales)
{
    for (uint32_t format = AKV_I8; format <= AKV_N2; format++) {
        int codebook = format >= AKV_N5;
        for (uint32_t k = 0; k < (codebook ? 40u : 24u); k++) {
            uint32_t scale = codebook ? (k < 8u    ? k
                                         : k < 16u ? k
                                         : k < 32u ? 0x70u + k - 16u
                                                   : 0xF0u + k - 32u)
                                      : (k < 8u    ? k
                                         : k < 16u ? 0x3BFCu + k
                                                   : (uint32_t)(akv_input_random(3, k) % 0x7BFFu));
            double unit = codebook ? ref_ue5m3(scale) / 128.0 : ref_half(scale);
            const int *codes;
            int n = ref_levels(format, &codes);
            for (uint32_t h = 0; h < 0x10000u; h += 32u) {
                float x[32];
                uint8_t code[32];
                for (uint32_t i = 0; i < 32u; i++)
                    x[i] = akv_as_f32(akv_sane(akv_f32_from_f16(h + i)));
                akv_group_codes(x, scale, format, code);
                for (uint32_t i = 0; i < 32u; i++) {
                    int stored = format == AKV_I8   ? (int8_t)code[i] + 127
                                 : format == AKV_N6 ? code[i] - 1
                                                    : code[i];
                    double twice = 2.0 * (double)x[i], v = codes[stored] * unit;
                    int even = codebook ? stored % 2 == 0 : codes[stored] % 2 == 0;
                    if (unit == 0.0) {
                        cr_assert_eq(stored, codebook ? n / 2 : (n - 1) / 2);
                        continue;
                    }
                    /* nearest: the midpoints to both neighbours lie on the right sides */
                    double up = stored + 1 < n ? v + codes[stored + 1] * unit : INFINITY;
                    double down = stored > 0 ? v + codes[stored - 1] * unit : -INFINITY;
                    cr_assert((even ? twice <= up && twice >= down : twice < up && twice > down),
                              "%s scale %#x input %#x (%a) gives code %d", names[format], scale,
                              h + i, (double)x[i], codes[stored]);
                }
            }
        }
    }
}

/* A code is a step function of x: the floats at and beside each of its steps, under every scale. */
Test(codec, codebook_codes_step_at_the_midpoints)
{
    for (uint32_t format = AKV_N5; format <= AKV_N2; format++) {
        const int *codes;
        const int n = ref_levels(format, &codes);
        for (uint32_t s = 0; s < 0xF8u; s++)
            for (int c = 0; c + 1 < n; c++) {
                const double middle = (codes[c] + codes[c + 1]) * ref_ue5m3(s) / 256.0;
                float x[32] = {0};
                uint8_t code[32];
                cr_assert_eq((double)(float)middle, middle);
                x[2] = (float)middle;
                x[1] = nextafterf(x[2], -INFINITY), x[0] = nextafterf(x[1], -INFINITY);
                x[3] = nextafterf(x[2], INFINITY), x[4] = nextafterf(x[3], INFINITY);
                for (int i = 0; i < 5; i++) /* beside 0 stand the smallest sane numbers */
                    x[i] = i < 2 && x[i] > -0x1p-24f && x[i] <= 0.0f  ? -0x1p-24f
                           : i > 2 && x[i] < 0x1p-24f && x[i] >= 0.0f ? 0x1p-24f
                                                                      : x[i];
                akv_codebook_codes(x, s, format, code);
                for (int i = 0; i < 5; i++) {
                    int want = (double)x[i] > middle || ((double)x[i] == middle && c % 2) ? c + 1 : c;
                    cr_assert_eq(code[i], s ? want : n / 2, "%s scale %#x input %a gives code %d",
                                 names[format], s, (double)x[i], code[i]);
                }
            }
    }
}

Test(codec, rows_match_the_definition)
{
    for (size_t d = 0; d < sizeof dims / sizeof *dims; d++)
        for (uint32_t format = AKV_I8; format <= AKV_N2; format++)
            for (uint32_t flags = 0; flags < 4u; flags++)
                for (uint32_t r = 0; r < 2u * AKV_INPUT_KINDS; r++) {
                    uint32_t dim = dims[d], dp = akv_padded_dim(dim),
                             width = akv_scale_width(format);
                    float x[576], y[576], z[576];
                    struct ref_row want;
                    if (!akv_format_codebook(format) && (flags & AKV_FLAG_SEARCH))
                        continue;
                    akv_input_rows(100u + flags, format, flags & 1u, AKV_F32, r, 1, dim, x);
                    ref_encode_row(x, dim, format, flags & AKV_FLAG_ROTATE, flags & AKV_FLAG_SEARCH,
                                   &want);
                    for (uint32_t i = 0; i < dp; i++)
                        y[i] = i < dim ? akv_as_f32(akv_sane(akv_as_u32(x[i]))) : 0.0f;
                    if (flags & AKV_FLAG_ROTATE)
                        akv_rotate_store(y, dim);
                    for (uint32_t i = 0; i < dp; i += width) {
                        uint32_t n = AKV_MIN(width, dp - i);
                        uint32_t s = akv_scale_of(y + i, akv_amax(y + i, n, 0), format,
                                                  flags & AKV_FLAG_SEARCH);
                        cr_assert_eq(s, want.scale[i / width],
                                     "%s dim %u flags %u %s row %u scale %u: %#x, not %#x",
                                     names[format], dim, flags, akv_input_name(r % AKV_INPUT_KINDS),
                                     r, i / width, s, want.scale[i / width]);
                        for (uint32_t g = i; g < i + n; g += 32u) {
                            uint8_t code[32];
                            akv_group_codes(y + g, s, format, code);
                            for (uint32_t k = 0; k < 32u; k++) {
                                cr_assert_eq(
                                    code[k], want.code[g + k],
                                    "%s dim %u flags %u %s row %u element %u (%a): %d, not %d",
                                    names[format], dim, flags, akv_input_name(r % AKV_INPUT_KINDS),
                                    r, g + k, (double)y[g + k], code[k], want.code[g + k]);
                                z[g + k] =
                                    akv_code_value(format, code[k], akv_code_unit(format, s));
                            }
                        }
                    }
                    if (flags & AKV_FLAG_ROTATE)
                        akv_rotate_read(z, dim);
                    ref_decode_row(&want, dim, format, flags & AKV_FLAG_ROTATE, y);
                    cr_assert_arr_eq(z, y, dim * sizeof *y,
                                     "%s dim %u flags %u row %u decodes wrong", names[format], dim,
                                     flags, r);
                }
}

/* Holds where the scale is normal and neither searched nor rotated: the largest code then
 * reproduces it. */
Test(codec, decoding_and_encoding_again_changes_nothing)
{
    uint32_t rows = 0;
    for (uint32_t format = AKV_I8; format <= AKV_N2; format++)
        for (uint32_t r = 0; r < 2000u; r++) {
            float x[128], y[128];
            struct ref_row once, twice;
            akv_input_row(8, AKV_INPUT_GAUSSIAN, r, format, 0, 128, x);
            ref_encode_row(x, 128, format, 0, 0, &once);
            uint32_t least = 0xFFFFu;
            for (uint32_t s = 0; s < once.scales; s++)
                least = AKV_MIN(least, once.scale[s]);
            if (least < (akv_format_codebook(format) ? 8u : 0x400u))
                continue;
            rows++;
            ref_decode_row(&once, 128, format, 0, y);
            ref_encode_row(y, 128, format, 0, 0, &twice);
            for (uint32_t s = 0; s < once.scales; s++)
                cr_assert_eq(once.scale[s], twice.scale[s], "%s row %u", names[format], r);
            cr_assert_arr_eq(once.code, twice.code, 128, "%s row %u", names[format], r);
        }
    cr_assert_gt(rows, 6000u);
}

/* ---- positions ---- */

Test(codec, positions_are_bijections)
{
    static const uint32_t tokens[] = {4, 16, 64};
    for (size_t d = 0; d < sizeof dims / sizeof *dims; d++)
        for (size_t n = 0; n < 3; n++)
            for (uint32_t bits = 1; bits <= 8u; bits *= 2u)
                for (uint32_t order = 0; order < 2u; order++) {
                    uint32_t dp = akv_padded_dim(dims[d]), all = tokens[n] * dp;
                    uint8_t *taken = calloc(all, 1);
                    for (uint32_t t = 0; t < tokens[n]; t++)
                        for (uint32_t i = 0; i < dp; i++) {
                            uint32_t w = akv_code_word(order, bits, tokens[n], dims[d], t, i);
                            uint32_t b = akv_code_bit(order, bits, t, i);
                            uint32_t slot = (w * 32u + b) / bits;
                            cr_assert(b % bits == 0 && slot < all && !taken[slot]++,
                                      "order %u bits %u dim %u tokens %u: (%u, %u)", order, bits,
                                      dims[d], tokens[n], t, i);
                        }
                    free(taken);
                    for (uint32_t scales = 1; scales <= dp / 32u; scales++) {
                        uint64_t sum = 0, count = tokens[n] * scales;
                        for (uint32_t t = 0; t < tokens[n]; t++)
                            for (uint32_t s = 0; s < scales; s++) {
                                uint32_t index = akv_scale_index(order, scales, t, s);
                                cr_assert_lt(index, count);
                                sum += (uint64_t)index * index;
                            }
                        cr_assert_eq(sum, (count - 1) * count * (2 * count - 1) / 6);
                    }
                }
}

Test(codec, tiles_hold_codes_where_the_definition_says)
{
    for (size_t d = 0; d < sizeof dims / sizeof *dims; d++)
        for (uint32_t format = AKV_I8; format <= AKV_N2; format++)
            for (uint32_t order = 0; order < 2u; order++) {
                uint32_t dim = dims[d], tokens = 8, bytes = akv_tile_bytes(format, tokens, dim);
                uint8_t *want = calloc(bytes, 1), *got = malloc(bytes);
                static struct ref_row row[8];
                memset(got, 0xA5, bytes);
                for (uint32_t t = 0; t < tokens; t++) {
                    float x[576];
                    akv_input_row(4, AKV_INPUT_GAUSSIAN, t, format, 0, dim, x);
                    ref_encode_row(x, dim, format, 0, 0, &row[t]);
                    ref_place_row(want, &row[t], format, (int)order, tokens, dim, t);
                    for (uint32_t s = 0; s < row[t].scales; s++)
                        akv_scale_put(got, format, order, tokens, dim, t, s, row[t].scale[s]);
                    for (uint32_t g = 0; order == 0 && g < row[t].padded / 32u; g++)
                        akv_row_put(got, format, tokens, dim, t, g, row[t].code + 32u * g);
                }
                for (uint32_t u = 0; order == 1 && u < akv_padded_dim(dim) / 8u * 2u; u++) {
                    uint8_t unit[32], back[32];
                    for (uint32_t e = 0; e < 32u; e++)
                        unit[e] = row[u % 2u * 4u + e % 4u].code[u / 2u * 8u + e / 4u];
                    akv_quad_put(got, format, tokens, dim, u % 2u, u / 2u, unit);
                    akv_quad_get(got, format, tokens, dim, u % 2u, u / 2u, back);
                    cr_assert_arr_eq(unit, back, 32);
                }
                akv_tile_padding(got, format, tokens, dim);
                cr_assert_arr_eq(got, want, bytes, "%s order %u dim %u", names[format], order, dim);
                for (uint32_t t = 0; t < tokens; t++)
                    for (uint32_t i = 0; i < row[t].padded; i++)
                        cr_assert_eq(akv_code_get(got, format, order, tokens, dim, t, i),
                                     row[t].code[i]);
                free(want);
                free(got);
            }
}

/* ---- quality ---- */

static double normal(uint64_t *counter)
{
    double u = (double)((akv_input_random(77, (*counter)++) >> 11) + 1u) * 0x1p-53;
    double v = (double)(akv_input_random(77, (*counter)++) >> 11) * 0x1p-53;
    return sqrt(-2.0 * log(u)) * cos(6.283185307179586 * v);
}
Test(codec, gaussian_error_is_what_the_format_promises)
{
    static const double want[] = {43.8, 32.3, 27.35, 21.98, 15.8, 9.74};
    for (uint32_t format = AKV_I8; format <= AKV_N2; format++) {
        double signal = 0, noise = 0;
        uint64_t counter = 0;
        uint32_t width = akv_scale_width(format);
        for (uint32_t r = 0; r < 8000u; r++) {
            float x[128];
            for (uint32_t i = 0; i < 128u; i++)
                x[i] = (float)normal(&counter);
            for (uint32_t i = 0; i < 128u; i += width) {
                uint32_t s = akv_scale_of(x + i, akv_amax(x + i, width, 0), format, 1);
                for (uint32_t g = i; g < i + width; g += 32u) {
                    uint8_t code[32];
                    akv_group_codes(x + g, s, format, code);
                    for (uint32_t k = 0; k < 32u; k++) {
                        double v =
                            (double)akv_code_value(format, code[k], akv_code_unit(format, s));
                        signal += (double)x[g + k] * (double)x[g + k];
                        noise += (x[g + k] - v) * (x[g + k] - v);
                    }
                }
            }
        }
        double ratio = 10.0 * log10(signal / noise);
        cr_assert(fabs(ratio - want[format - AKV_I8]) < 0.1, "%s: %.3f dB, not %.2f", names[format],
                  ratio, want[format - AKV_I8]);
    }
}
