/* SPDX-License-Identifier: Apache-2.0 */
/* Scalar encode, decode, rotate, seal and gather: the reference of every other device. */
#include "../../lib/kernel/pack.h"
#include "../../lib/kernel/quant.h"
#include "../../lib/kernel/rotate.h"
#include "k_quant_body.h"

/* A row of the caller as sane values, rotated if asked, padded with zeros. */
static uint32_t q_load(const uint8_t *src, uint32_t dtype, uint32_t dim, int rotate, float *row)
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

static uint32_t q_quantise(const uint8_t *src, uint32_t dtype, uint32_t dim, uint32_t flags,
                           uint32_t format, uint8_t *code, uint16_t *scale)
{
    float row[AKV_MAX_HEAD_DIM];
    uint32_t dp = akv_padded_dim(dim), width = akv_scale_width(format);
    uint32_t saw = q_load(src, dtype, dim, (flags & AKV_FLAG_ROTATE) != 0, row);

    for (uint32_t i = 0; i < dp; i += width) {
        uint32_t n = AKV_MIN(width, dp - i), amax = akv_amax(row + i, n, 0u);
        uint32_t s = akv_scale_of(row + i, amax, format, flags & AKV_FLAG_SEARCH);
        scale[i / width] = (uint16_t)s;
        for (uint32_t k = 0; k < n; k += 32u)
            akv_group_codes(row + i + k, s, format, code + i + k);
    }
    return saw;
}

static void q_put_row(uint8_t *tile, uint32_t format, uint32_t tokens, uint32_t dim, uint32_t t,
                      const uint8_t *code, const uint16_t *scale)
{
    for (uint32_t g = 0; g < akv_padded_dim(dim) / 32u; g++)
        akv_row_put(tile, format, tokens, dim, t, g, code + 32u * g);
    for (uint32_t s = 0; s < akv_scale_count(format, dim); s++)
        akv_scale_put(tile, format, AKV_ORDER_ROW, tokens, dim, t, s, scale[s]);
}

static void q_put_quad(uint8_t *tile, uint32_t format, uint32_t tokens, uint32_t dim, uint32_t q,
                       const uint8_t *code, const uint16_t *scale)
{
    for (uint32_t u = 0; u < akv_padded_dim(dim) / 8u; u++) {
        uint8_t unit[32];
        for (uint32_t e = 0; e < 32u; e++)
            unit[e] = code[(e & 3u) * AKV_CODE_STRIDE + u * 8u + e / 4u];
        akv_quad_put(tile, format, tokens, dim, q, u, unit);
    }
    for (uint32_t k = 0; k < 4u; k++)
        for (uint32_t s = 0; s < akv_scale_count(format, dim); s++)
            akv_scale_put(tile, format, AKV_ORDER_QUAD, tokens, dim, q * 4u + k, s,
                          scale[k * AKV_SCALE_STRIDE + s]);
}

static void q_get_row(const uint8_t *tile, uint32_t format, uint32_t tokens, uint32_t dim,
                      uint32_t t, float *row)
{
    uint32_t groups = akv_scale_width(format) / 32u;

    for (uint32_t g = 0; g < akv_padded_dim(dim) / 32u; g++) {
        uint8_t code[32];
        uint32_t s = akv_scale_get(tile, format, AKV_ORDER_ROW, tokens, dim, t, g / groups);
        float unit = akv_code_unit(format, s);
        akv_row_get(tile, format, tokens, dim, t, g, code);
        for (uint32_t i = 0; i < 32u; i++)
            row[32u * g + i] = akv_code_value(format, code[i], unit);
    }
}

static void q_get_quad(const uint8_t *tile, uint32_t format, uint32_t tokens, uint32_t dim,
                       uint32_t q, float *rows)
{
    uint32_t width = akv_scale_width(format);

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

static void q_store(float *row, int back, uint32_t dim, uint32_t dtype, uint8_t *dst)
{
    if (back)
        akv_rotate_read(row, dim);
    if ((uint8_t *)row == dst)
        return;
    for (uint32_t i = 0; i < dim; i++)
        akv_store_bits(dst, i, dtype, akv_as_u32(row[i]));
}

static void q_convert(uint8_t *dst, uint32_t dst_type, const uint8_t *src, uint32_t src_type,
                      uint32_t dim)
{
    if (dst_type == src_type) {
        memcpy(dst, src, (size_t)dim * akv_raw_bytes(dst_type));
        return;
    }
    for (uint32_t i = 0; i < dim; i++)
        akv_convert_element(dst, i, dst_type, src, i, src_type);
}

/* ---- rotate: an item is a row of dense f32 ---- */
static uint64_t rotate_items(const struct akv_cpu_args *args, uint32_t phase)
{
    const akv_rotate_params *p = args->params;
    (void)phase;
    return p->rows;
}

static void rotate_run(const struct akv_cpu_args *args, uint32_t phase, uint64_t first,
                       uint64_t count)
{
    const akv_rotate_params *p = args->params;
    float row[AKV_MAX_HEAD_DIM];
    size_t bytes = (size_t)p->dim * 4u;
    (void)phase;

    for (uint64_t r = first; r < first + count; r++) {
        if (p->flags & AKV_FLAG_ROTATE) {
            q_load(args->arg[0] + r * bytes, AKV_F32, p->dim, 1, row);
        } else {
            memcpy(row, args->arg[0] + r * bytes, bytes);
            akv_rotate_read(row, p->dim);
        }
        memcpy(args->arg[1] + r * bytes, row, bytes);
    }
}

const struct akv_cpu_kernel akv_cpu_encode_scalar = {1, q_rows_items, q_encode_run, NULL, NULL};
const struct akv_cpu_kernel akv_cpu_decode_scalar = {1, q_rows_items, q_decode_run, NULL, NULL};
const struct akv_cpu_kernel akv_cpu_rotate_scalar = {1, rotate_items, rotate_run, NULL, NULL};
const struct akv_cpu_kernel akv_cpu_seal_scalar = {1, q_seal_items, q_seal_run, NULL, NULL};
const struct akv_cpu_kernel akv_cpu_gather_scalar = {1, q_gather_items, q_gather_run, NULL, NULL};
