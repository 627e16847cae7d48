/* SPDX-License-Identifier: Apache-2.0 */
/* What the scalar quantise kernels do to one row or quad; instruction-set overrides fall back to
 * it. */
#ifndef AKV_K_QUANT_SCALAR_H
#define AKV_K_QUANT_SCALAR_H
#include "../../lib/kernel/ggml.h"
#include "../../lib/kernel/pack.h"
#include "../../lib/kernel/quant.h"
#include "../../lib/kernel/rotate.h"
#include "cpu.h"

#define AKV_CODE_STRIDE  AKV_MAX_HEAD_DIM
#define AKV_SCALE_STRIDE (AKV_MAX_HEAD_DIM / 32u)

/* Rows that are quantised together, so that the latency of their scales hides. */
#define Q_ROWS 8u
/* Working memory of one thread while it runs a range of items. */
struct q_work {
    _Alignas(64) float value[Q_ROWS * AKV_CODE_STRIDE];
    _Alignas(64) uint8_t code[Q_ROWS * AKV_CODE_STRIDE];
    uint16_t scale[Q_ROWS * AKV_SCALE_STRIDE];
    uint16_t offset[Q_ROWS * AKV_SCALE_STRIDE]; /* block formats: the minimum */
};

/* A row of the caller as sane values, rotated if asked, padded with zeros. */
static inline uint32_t s_load(const uint8_t *src, uint32_t dtype, uint32_t dim, int rotate,
                              float *row)
{
    uint32_t saw = 0;

    for (uint32_t i = 0; i < dim; i++) {
        uint32_t bits = akv_load_bits(src, i, dtype);
        saw |= akv_saw(bits);
        row[i] = akv_as_f32(akv_sane(bits));
    }
    if (rotate)
        akv_rotate_store(row, dim);
    for (uint32_t i = dim; i < akv_padded_dim(dim); i++)
        row[i] = 0.0f;
    return saw;
}

static inline uint32_t s_quantise(struct q_work *work, const uint8_t *const *src, uint32_t rows,
                                  uint32_t dtype, uint32_t dim, uint32_t flags, uint32_t format)
{
    uint32_t dp = akv_padded_dim(dim), width = akv_scale_width(format), saw = 0;

    for (uint32_t k = 0; k < rows; k++) {
        float *row = work->value + k * AKV_CODE_STRIDE;
        uint8_t *code = work->code + k * AKV_CODE_STRIDE;
        saw |= s_load(src[k], dtype, dim, (flags & AKV_FLAG_ROTATE) != 0, row);
        for (uint32_t i = 0; akv_format_blocks(format) && i < dp; i += 32u) {
            uint32_t s = akv_block_quantise(row + i, format, code + i);
            work->scale[k * AKV_SCALE_STRIDE + i / 32u] = (uint16_t)s;
            work->offset[k * AKV_SCALE_STRIDE + i / 32u] = (uint16_t)(s >> 16);
        }
        if (akv_format_blocks(format))
            continue;
        for (uint32_t i = 0; i < dp; i += width) {
            uint32_t n = AKV_MIN(width, dp - i), amax = akv_amax(row + i, n, 0u);
            uint32_t s = akv_scale_of(row + i, amax, format, flags & AKV_FLAG_SEARCH);
            work->scale[k * AKV_SCALE_STRIDE + i / width] = (uint16_t)s;
            for (uint32_t j = i; j < i + n; j += 32u)
                akv_group_codes(row + j, s, format, code + j);
        }
    }
    return saw;
}

static inline void s_put_block_rows(uint8_t *tile, uint32_t format, uint32_t dim, uint32_t t,
                                    uint32_t rows, const struct q_work *work)
{
    for (uint32_t k = 0; k < rows; k++)
        for (uint32_t g = 0; g < akv_padded_dim(dim) / 32u; g++) {
            uint32_t n = k * AKV_SCALE_STRIDE + g;
            akv_block_put(tile, format, dim, t + k, g, work->code + k * AKV_CODE_STRIDE + 32u * g,
                          work->scale[n] | (uint32_t)work->offset[n] << 16);
        }
}
static inline void s_get_block_row(const uint8_t *tile, uint32_t format, uint32_t dim, uint32_t t,
                                   float *row)
{
    for (uint32_t g = 0; g < akv_padded_dim(dim) / 32u; g++)
        akv_block_load(tile, format, dim, t, g, row + 32u * g);
}

static inline void s_put_rows(uint8_t *tile, uint32_t format, uint32_t tokens, uint32_t dim,
                              uint32_t t, uint32_t rows, const struct q_work *work)
{
    if (akv_format_blocks(format)) {
        s_put_block_rows(tile, format, dim, t, rows, work);
        return;
    }
    for (uint32_t k = 0; k < rows; k++) {
        for (uint32_t g = 0; g < akv_padded_dim(dim) / 32u; g++)
            akv_row_put(tile, format, tokens, dim, t + k, g,
                        work->code + k * AKV_CODE_STRIDE + 32u * g);
        for (uint32_t s = 0; s < akv_scale_count(format, dim); s++)
            akv_scale_put(tile, format, AKV_ORDER_ROW, tokens, dim, t + k, s,
                          work->scale[k * AKV_SCALE_STRIDE + s]);
    }
}

static inline void s_put_quad(uint8_t *tile, uint32_t format, uint32_t tokens, uint32_t dim,
                              uint32_t q, const struct q_work *work)
{
    if (akv_format_blocks(format)) {
        s_put_block_rows(tile, format, dim, q * 4u, 4u, work);
        return;
    }
    for (uint32_t u = 0; u < akv_padded_dim(dim) / 8u; u++) {
        uint8_t unit[32];
        for (uint32_t e = 0; e < 32u; e++)
            unit[e] = work->code[(e & 3u) * AKV_CODE_STRIDE + u * 8u + e / 4u];
        akv_quad_put(tile, format, tokens, dim, q, u, unit);
    }
    for (uint32_t k = 0; k < 4u; k++)
        for (uint32_t s = 0; s < akv_scale_count(format, dim); s++)
            akv_scale_put(tile, format, AKV_ORDER_QUAD, tokens, dim, q * 4u + k, s,
                          work->scale[k * AKV_SCALE_STRIDE + s]);
}

static inline void s_get_row(const uint8_t *tile, uint32_t format, uint32_t tokens, uint32_t dim,
                             uint32_t t, float *row)
{
    uint32_t groups = akv_scale_width(format) / 32u;

    if (akv_format_blocks(format)) {
        s_get_block_row(tile, format, dim, t, row);
        return;
    }
    for (uint32_t g = 0; g < akv_padded_dim(dim) / 32u; g++) {
        uint8_t code[32];
        uint32_t s = akv_scale_get(tile, format, AKV_ORDER_ROW, tokens, dim, t, g / groups);
        float unit = akv_code_unit(format, s);
        akv_row_get(tile, format, tokens, dim, t, g, code);
        for (uint32_t i = 0; i < 32u; i++)
            row[32u * g + i] = akv_code_value(format, code[i], unit);
    }
}

static inline void s_get_rows(const uint8_t *tile, uint32_t format, uint32_t tokens, uint32_t dim,
                              uint32_t t, uint32_t rows, float *out, size_t stride)
{
    for (uint32_t k = 0; k < rows; k++)
        s_get_row(tile, format, tokens, dim, t + k, out + k * stride);
}

static inline void s_get_quad(const uint8_t *tile, uint32_t format, uint32_t tokens, uint32_t dim,
                              uint32_t q, float *rows)
{
    uint32_t width = akv_scale_width(format);

    if (akv_format_blocks(format)) {
        for (uint32_t k = 0; k < 4u; k++)
            s_get_block_row(tile, format, dim, q * 4u + k, rows + k * AKV_CODE_STRIDE);
        return;
    }
    for (uint32_t u = 0; u < akv_padded_dim(dim) / 8u; u++) {
        uint8_t code[32];
        float unit[4];
        for (uint32_t k = 0; k < 4u; k++)
            unit[k] = akv_code_unit(format, akv_scale_get(tile, format, AKV_ORDER_QUAD, tokens, dim,
                                                          q * 4u + k, u * 8u / width));
        akv_quad_get(tile, format, tokens, dim, q, u, code);
        for (uint32_t e = 0; e < 32u; e++)
            rows[(e & 3u) * AKV_CODE_STRIDE + u * 8u + e / 4u] =
                akv_code_value(format, code[e], unit[e & 3u]);
    }
}

static inline void s_store(float *row, int back, uint32_t dim, uint32_t dtype, uint8_t *dst)
{
    if (back)
        akv_rotate_read(row, dim);
    if ((uint8_t *)row == dst)
        return;
    for (uint32_t i = 0; i < dim; i++)
        akv_store_bits(dst, i, dtype, akv_as_u32(row[i]));
}

static inline void s_convert(uint8_t *dst, uint32_t dst_type, const uint8_t *src, uint32_t src_type,
                             uint32_t dim)
{
    if (dst_type == src_type) {
        memcpy(dst, src, (size_t)dim * akv_raw_bytes(dst_type));
        return;
    }
    for (uint32_t i = 0; i < dim; i++)
        akv_convert_element(dst, i, dst_type, src, i, src_type);
}

#endif
