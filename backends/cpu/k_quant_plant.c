/* SPDX-License-Identifier: Apache-2.0 */
/* An encoder with faults to plant, for tests that prove the conformance harness: not in the
 * library.
 *
 * Bits 16..19 of params.flags name the fault:
 *   0  none: the bytes of the reference
 *   1  wrong tie rule: ties go away from zero
 *   2  contraction: codes from x * (1/d) with one fused step, 1/d rounded once
 *   3  off-by-one store: one byte behind the end of the tile is overwritten, the tile itself is
 * right 4  ignored stride: rows are read as if they were dense */
#include "../../lib/kernel/ggml.h"
#include "../../lib/kernel/pack.h"
#include "../../lib/kernel/quant.h"
#include "../../lib/kernel/rotate.h"
#include "cpu.h"

enum { PLANT_NONE, PLANT_TIE, PLANT_CONTRACT, PLANT_STORE, PLANT_STRIDE };

static uint8_t faulty_e4m3(float x, float d, uint32_t plant)
{
    uint32_t u;
    if (d == 0.0f || x == 0.0f)
        return 0;
    u = akv_as_u32(plant == PLANT_TIE ? x / d : x * (1.0f / d));
    if (plant == PLANT_TIE) /* one step of f32 outward turns every tie */
        u++;
    return (uint8_t)akv_e4m3_from_f32(u);
}

/* Codes of a block: ties to even, or the sum contracted with the product. */
static void faulty_block(const float *x, uint32_t format, uint32_t plant, uint8_t *code)
{
    float first = 0.0f, least = x[0], most = x[0], d, id, half;
    for (uint32_t i = 0; i < 32u; i++) {
        first = fabsf(x[i]) > fabsf(first) ? x[i] : first;
        least = fminf(least, x[i]);
        most = fmaxf(most, x[i]);
    }
    d = format == AKV_Q8_0                            ? fabsf(first) / 127.0f
        : format == AKV_IQ4_NL                        ? first / -127.0f
        : format == AKV_Q4_0                          ? first / -8.0f
        : format == AKV_Q5_0                          ? first / -16.0f
        : format == AKV_Q4_1                          ? (most - least) / 15.0f
                                                      : (most - least) / 31.0f;
    if (d == 0.0f)
        return;
    id = 1.0f / d;
    half = format == AKV_Q4_0 ? 8.5f : format == AKV_Q5_0 ? 16.5f : 0.5f;
    for (uint32_t i = 0; i < 32u; i++) {
        float from = akv_block_affine(format) ? x[i] - least : x[i];
        int top = format == AKV_Q4_0 || format == AKV_Q4_1 ? 15 : 31, c;
        if (format == AKV_IQ4_NL) {
            float t = plant == PLANT_TIE ? nextafterf(x[i] * id, -INFINITY) : x[i] / d;
            code[i] = (uint8_t)akv_iq4nl_index(t);
        } else if (format == AKV_Q8_0) {
            c = (int)(plant == PLANT_TIE ? rintf(from * id) : roundf(from / d));
            code[i] = (uint8_t)(c & 255);
        } else {
            float sum = akv_block_affine(format) ? fmaf(x[i], id, -least * id) + half
                                                 : fmaf(from, id, half);
            c = (int)(plant == PLANT_TIE ? ceilf(from * id + half - 1.0f) : sum);
            code[i] = (uint8_t)(c > top ? top : c);
        }
    }
}

static uint8_t faulty_uniform(float x, float d, uint32_t format, uint32_t plant)
{
    float limit = format == AKV_I8 ? 127.0f : 31.0f, code;

    if (d == 0.0f)
        code = 0.0f;
    else if (plant == PLANT_TIE)
        code = roundf(x / d);
    else
        code = floorf(fmaf(x, 1.0f / d, 0.5f));
    code = code > limit ? limit : code < -limit ? -limit : code;
    return (uint8_t)((int)code + (format == AKV_I8 ? 0 : 32));
}

static uint8_t faulty_index(float x, float d, uint32_t format, uint32_t plant)
{
    uint32_t levels = akv_levels(format), p = 0;
    float a = fabsf(x);

    if (d == 0.0f)
        return (uint8_t)levels;
    for (uint32_t j = 0; j + 1u < levels; j++) {
        float t = (float)(akv_codebook[levels - 2u + j] + akv_codebook[levels - 1u + j]) / 256.0f;
        p += plant == PLANT_TIE ? a >= t * d : fmaf(a, 1.0f / d, -t) > 0.0f;
    }
    return (uint8_t)(x < 0.0f ? levels - 1u - p : levels + p);
}

static uint64_t planted_items(const struct akv_cpu_args *args, uint32_t phase)
{
    const akv_encode_params *p = args->params;
    (void)phase;
    return (uint64_t)p->tokens * p->rows.heads;
}

static void planted_row(const akv_encode_params *p, const uint8_t *src, uint8_t *tile, uint32_t t,
                        uint32_t plant)
{
    float row[AKV_MAX_HEAD_DIM];
    uint32_t dp = akv_padded_dim(p->dim), width = akv_scale_width(p->format);
    uint32_t rows = p->tokens * p->rows.heads;

    for (uint32_t i = 0; i < dp; i++)
        row[i] = i < p->dim ? akv_as_f32(akv_sane(akv_load_bits(src, i, p->rows.dtype))) : 0.0f;
    if (p->flags & AKV_FLAG_ROTATE)
        akv_rotate_store(row, p->dim);
    for (uint32_t i = 0; akv_format_blocks(p->format) && i < dp; i += 32u) {
        uint8_t code[32];
        uint32_t scales = akv_block_quantise(row + i, p->format, code);
        if (plant == PLANT_TIE || plant == PLANT_CONTRACT)
            faulty_block(row + i, p->format, plant, code);
        akv_block_put(tile, p->format, p->dim, t, i / 32u, code, scales);
    }
    if (akv_format_blocks(p->format))
        return;
    for (uint32_t i = 0; i < dp; i += width) {
        uint32_t n = AKV_MIN(width, dp - i), amax = akv_amax(row + i, n, 0u);
        uint32_t s = akv_scale_of(row + i, amax, p->format, p->flags & AKV_FLAG_SEARCH);
        float d = akv_scale_value(p->format, s);
        akv_scale_put(tile, p->format, AKV_ORDER_ROW, rows, p->dim, t, i / width, s);
        for (uint32_t k = 0; k < n; k += 32u) {
            uint8_t code[32];
            akv_group_codes(row + i + k, s, p->format, code);
            for (uint32_t e = 0; e < 32u && (plant == PLANT_TIE || plant == PLANT_CONTRACT); e++)
                code[e] = akv_format_codebook(p->format)
                              ? faulty_index(row[i + k + e], d, p->format, plant)
                          : akv_format_e4m3(p->format)
                              ? faulty_e4m3(row[i + k + e], d, plant)
                              : faulty_uniform(row[i + k + e], d, p->format, plant);
            akv_row_put(tile, p->format, rows, p->dim, t, (i + k) / 32u, code);
        }
    }
}

/* Raw formats have no arithmetic to get wrong: faults 1 and 2 leave them right. */
static void planted_run(const struct akv_cpu_args *args, uint32_t phase, uint64_t first,
                        uint64_t count)
{
    const akv_encode_params *p = args->params;
    uint32_t heads = p->rows.heads, rows = p->tokens * heads, saw = 0;
    uint32_t plant = (p->flags >> AKV_FLAG_PLANT_SHIFT) & 15u;
    uint8_t *tile = args->arg[1];
    (void)phase;

    for (uint64_t t = first; t < first + count; t++) {
        uint64_t at = t / heads * p->rows.token_stride + t % heads * p->rows.head_stride;
        if (plant == PLANT_STRIDE)
            at = t * p->dim;
        const uint8_t *src = args->arg[0] + at * akv_raw_bytes(p->rows.dtype);
        if (akv_format_raw(p->format)) {
            for (uint32_t i = 0; i < p->dim; i++)
                akv_convert_element(tile, t * p->dim + i, p->format, src, i, p->rows.dtype);
            continue;
        }
        for (uint32_t i = 0; i < p->dim; i++)
            saw |= akv_saw(akv_load_bits(src, i, p->rows.dtype));
        planted_row(p, src, tile, (uint32_t)t, plant);
    }
    if (first + count == rows) {
        akv_tile_padding(tile, p->format, rows, p->dim);
        if (plant == PLANT_STORE)
            tile[akv_tile_bytes(p->format, rows, p->dim)] ^= 0x5Au;
    }
    if (saw != 0 && args->arg[2] != NULL)
        __atomic_fetch_or((uint32_t *)(void *)args->arg[2], saw, __ATOMIC_RELAXED);
}

const struct akv_cpu_kernel akv_cpu_encode_planted = {1, planted_items, planted_run, NULL, NULL};
