/* SPDX-License-Identifier: Apache-2.0 */
/* Adversarial rows for conformance tests. */
#include "conform_inputs.h"
#include "../lib/kernel/quant.h"
#include "../lib/kernel/rotate.h"

struct source {
    uint64_t seed, counter;
};

static const char *const names[AKV_INPUT_KINDS] = {
    "gaussian", "ties",        "denormals", "infinities", "nans",        "equal",       "one-hot",
    "zeros",    "random-bits", "exponents", "outlier",    "scale-small", "scale-large", "integers"};

const char *akv_input_name(uint32_t kind)
{
    return kind < AKV_INPUT_KINDS ? names[kind] : "unknown";
}

uint64_t akv_input_random(uint64_t seed, uint64_t counter)
{
    uint64_t z = seed + (counter + 1u) * UINT64_C(0x9E3779B97F4A7C15);
    z = (z ^ (z >> 30)) * UINT64_C(0xBF58476D1CE4E5B9);
    z = (z ^ (z >> 27)) * UINT64_C(0x94D049BB133111EB);
    return z ^ (z >> 31);
}

static uint32_t bits(struct source *s)
{
    return (uint32_t)(akv_input_random(s->seed, s->counter++) >> 32);
}
static uint32_t below(struct source *s, uint32_t n)
{
    return (uint32_t)(((uint64_t)bits(s) * n) >> 32);
}
/* Sum of twelve uniform numbers: integers only, so that no library's logarithm matters. */
static float gaussian(struct source *s)
{
    int32_t sum = 0;
    for (int i = 0; i < 3; i++) {
        uint64_t r = akv_input_random(s->seed, s->counter++);
        for (int k = 0; k < 64; k += 16)
            sum += (int32_t)((r >> k) & 0xFFFFu);
    }
    return (float)(sum - 6 * 65535) * 0x1p-16f;
}
static float power(int e) /* 2^e, -126 <= e <= 127 */
{
    return akv_as_f32((uint32_t)(e + 127) << 23);
}
static float signed_of(struct source *s, float x)
{
    return (bits(s) & 1u) ? -x : x;
}
/* x or one of its neighbours among f32, mostly x. */
static float near(struct source *s, float x)
{
    uint32_t r = bits(s) & 7u, u = akv_as_u32(x);
    return akv_as_f32(r == 0u ? u + 1u : r == 1u && (u & 0x7FFFFFFFu) ? u - 1u : u);
}

/* A stored scale: from the whole range, or its small or large end. */
static uint32_t pick_scale(struct source *s, uint32_t format, int end)
{
    if (akv_format_codebook(format))
        return end < 0   ? 1u + below(s, 12u)
               : end > 0 ? 0xF7u - below(s, 4u)
                         : 0x40u + below(s, 0x60u);
    if (akv_scale_bytes(format) == 0)
        return 0x3C00u;
    if (end < 0)
        return 1u + below(s, (bits(s) & 1u) ? 16u : 0x500u);
    if (end > 0)
        return 0x7BFFu - below(s, 8u);
    return (0x2000u + below(s, 0x2000u)) & ((bits(s) & 1u) ? 0x7F80u : 0xFFFFu);
}

/* The largest integer of a format that is no codebook's. */
static uint32_t top_of(uint32_t format)
{
    switch (format) {
    case AKV_N6:
    case AKV_Q5_1:
        return 31u;
    case AKV_Q4_1:
        return 15u;
    case AKV_Q5_0:
        return 16u;
    case AKV_Q4_0:
        return 8u;
    case AKV_E4M3:
    case AKV_E4M3G:
        return 448u;
    default:
        return 127u;
    }
}
/* Elements of one scale: its largest fixes the scale, the others are levels and ties under it. */
static void ties(struct source *s, uint32_t format, int end, uint32_t count, float *x)
{
    uint32_t scale = pick_scale(s, format, end), hot = below(s, count);
    float unit = akv_code_unit(format, scale);
    int codebook = akv_format_codebook(format) != 0;
    uint32_t limit = top_of(format), levels = codebook ? akv_levels(format) : 0u;
    const akv_u8 *c = akv_codebook + (codebook ? levels - 2u : 0u);

    for (uint32_t i = 0; i < count; i++) {
        float value;
        if (codebook) {
            uint32_t j = below(s, levels);
            int tie = (bits(s) & 3u) == 0 && j + 1u < levels;
            value = tie ? (float)(c[j] + c[j + 1u]) * (unit * 0.5f) : (float)c[j] * unit;
        } else if (akv_format_e4m3(format)) {
            uint32_t j = below(s, 0x7Eu);
            value = akv_as_f32(akv_f32_from_e4m3(j));
            if (bits(s) & 1u)
                value = (value + akv_as_f32(akv_f32_from_e4m3(j + 1u))) * 0.5f;
            value *= unit;
        } else {
            uint32_t j = below(s, limit);
            value = ((float)j + ((bits(s) & 1u) ? 0.5f : 0.0f)) * unit;
        }
        x[i] = signed_of(s, near(s, value));
    }
    x[hot] = signed_of(s, (codebook ? 127.0f : (float)limit) * unit);
    if (end > 0 && (bits(s) & 1u))
        x[hot] *= 1.0f + (float)below(s, 64u) / 16.0f;
    if (end < 0 && (bits(s) & 1u))
        x[hot] *= (float)below(s, 64u) / 64.0f;
}

static void group(struct source *s, uint32_t kind, uint32_t format, uint32_t count, float *x)
{
    float factor = power((int)below(s, 24u) - 12);
    uint32_t hot = below(s, count), often = 1u + below(s, 8u);

    if (kind == AKV_INPUT_TIES || kind == AKV_INPUT_SCALE_SMALL || kind == AKV_INPUT_SCALE_LARGE) {
        ties(s, format,
             kind == AKV_INPUT_TIES          ? 0
             : kind == AKV_INPUT_SCALE_SMALL ? -1
                                             : 1,
             count, x);
        return;
    }
    for (uint32_t i = 0; i < count; i++) {
        uint32_t r = bits(s), sign = r & 0x80000000u;
        float g = gaussian(s) * factor;
        switch (kind) {
        case AKV_INPUT_DENORMALS: {
            uint32_t e = (r & 3u) ? 100u + (r >> 2) % 8u : (r >> 2) % 3u;
            g = akv_as_f32(sign | (e << 23) | ((r & 64u) ? bits(s) & 0x7FFFFFu : 0u));
            break;
        }
        case AKV_INPUT_INFINITIES:
            if ((r & 7u) < often)
                g = akv_as_f32(sign | 0x7F800000u);
            break;
        case AKV_INPUT_NANS:
            if ((r & 7u) < often)
                g = akv_as_f32(sign | 0x7F800001u | (bits(s) & 0x7FFFFFu));
            break;
        case AKV_INPUT_EQUAL:
            g = akv_as_f32((i ? akv_as_u32(x[0]) & 0x7FFFFFFFu : akv_as_u32(g) & 0x7FFFFFFFu) |
                           (often > 4u ? sign : 0u));
            break;
        case AKV_INPUT_ONE_HOT:
            g = i == hot ? g : 0.0f;
            break;
        case AKV_INPUT_ZEROS:
            g = akv_as_f32(sign);
            break;
        case AKV_INPUT_BITS:
            g = akv_as_f32(r);
            break;
        case AKV_INPUT_EXPONENTS:
            g = akv_as_f32(sign | ((97u + below(s, 71u)) << 23) | (bits(s) & 0x7FFFFFu));
            break;
        case AKV_INPUT_OUTLIER:
            if (i == hot)
                g = akv_as_f32(sign | akv_as_u32((bits(s) & 1u) ? 1e30f : 50.0f * factor));
            break;
        case AKV_INPUT_INTEGERS:
            g = (float)((int)(r % 255u) - 127) * 0.5f;
            break;
        default:
            break;
        }
        x[i] = g;
    }
}

void akv_input_row(uint64_t seed, uint32_t kind, uint64_t row, uint32_t format, int rotated,
                   uint32_t dim, float *out)
{
    struct source s = {akv_input_random(seed, row * AKV_INPUT_KINDS + kind), 0};
    uint32_t width = akv_scale_width(format);

    for (uint32_t i = 0; i < dim; i += width)
        group(&s, kind, format, AKV_MIN(width, dim - i), out + i);
    if (rotated &&
        (kind == AKV_INPUT_TIES || kind == AKV_INPUT_SCALE_SMALL || kind == AKV_INPUT_SCALE_LARGE))
        akv_rotate_read(out, dim);
}

void akv_input_rows(uint64_t seed, uint32_t format, int rotated, uint32_t dtype, uint64_t first,
                    uint64_t rows, uint32_t dim, void *out)
{
    float row[AKV_MAX_HEAD_DIM];

    for (uint64_t r = 0; r < rows; r++) {
        akv_input_row(seed, (uint32_t)((first + r) % AKV_INPUT_KINDS), first + r, format, rotated,
                      dim, row);
        for (uint32_t i = 0; i < dim; i++)
            akv_store_bits(out, r * dim + i, dtype, akv_as_u32(row[i]));
    }
}
