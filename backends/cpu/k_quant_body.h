/* SPDX-License-Identifier: Apache-2.0 */
/* The loops of encode, decode, seal and gather over rows and tiles, once for each instruction set.
 *
 * The including file defines before, as static functions, what happens to up to four rows:
 *
 * q_quantise(work, src, rows, dtype, dim, flags, format): rows of the caller to stored codes (dp
 * bytes) and scales in work; flags as in params.h; returns AKV_SAW_* bits.
 *
 * q_put_rows, q_put_quad: codes and scales of some rows from row t on, or of the four rows of quad
 * q, from work into a tile.
 *
 * q_get_rows, q_get_quad: values of some rows from row t on, `stride` floats apart, or of the four rows of a
 *     quad (AKV_CODE_STRIDE floats apart), dp each, from a tile.
 *
 * q_store(row, back, dim, dtype, dst): rotates a row of values back if asked (in place), converts
 * and stores it; dst may be row itself when dtype is F32.
 *
 * q_convert(dst, dst_type, src, src_type, dim): a raw row. */
#ifndef AKV_K_QUANT_BODY_H
#define AKV_K_QUANT_BODY_H
#include "k_map.h"

/* Decoded rows at successive positions, AKV_CODE_STRIDE apart, as they were before they were stored, in
 * place or in w->row; returns where. */
static inline float *q_maps_back(struct q_maps *w, float *x, uint32_t rows, uint32_t position)
{
    const uint32_t dim = w->dim;
    const float scale = akv_map_scale(w->maps, w->map, w->head, 1);
    if (w->map->transform == AKV_TRANSFORM_MATRIX) {
        q_chain_back(w->row, x, w->maps + akv_map_inverse_row(w->map, w->head, dim, 0), dim, rows);
        x = w->row;
    }
    for (uint32_t k = 0; k < rows; k++) {
        float *row = x + k * AKV_CODE_STRIDE;
        if (akv_map_rotates(w->map))
            q_store(row, 1, dim, AKV_F32, (uint8_t *)row);
        if (w->map->scales)
            q_row_times(row, scale, false, dim);
        if (w->map->mean)
            q_row_mean(w, row, position + k, Q_TURNED_ON);
    }
    return x;
}

/* Formats without vector code take the portable one. */
static uint32_t q_any_quantise(struct q_work *work, const uint8_t *const *src, uint32_t rows,
                               uint32_t dtype, uint32_t dim, uint32_t flags, uint32_t format)
{
    return AKV_UNLIKELY(format > AKV_N2)
               ? s_quantise(work, src, rows, dtype, dim, flags, format)
               : q_quantise(work, src, rows, dtype, dim, flags, format);
}
static void q_any_put_rows(uint8_t *tile, uint32_t format, uint32_t tokens, uint32_t dim, uint32_t t,
                           uint32_t rows, const struct q_work *work)
{
    if (AKV_UNLIKELY(format > AKV_N2))
        s_put_rows(tile, format, tokens, dim, t, rows, work);
    else
        q_put_rows(tile, format, tokens, dim, t, rows, work);
}
static void q_any_put_quad(uint8_t *tile, uint32_t format, uint32_t tokens, uint32_t dim, uint32_t q,
                           const struct q_work *work)
{
    if (AKV_UNLIKELY(format > AKV_N2))
        s_put_quad(tile, format, tokens, dim, q, work);
    else
        q_put_quad(tile, format, tokens, dim, q, work);
}
static void q_any_get_rows(const uint8_t *tile, uint32_t format, uint32_t tokens, uint32_t dim,
                           uint32_t t, uint32_t rows, float *out, size_t stride)
{
    if (AKV_UNLIKELY(format > AKV_N2))
        s_get_rows(tile, format, tokens, dim, t, rows, out, stride);
    else
        q_get_rows(tile, format, tokens, dim, t, rows, out, stride);
}
static void q_any_get_quad(const uint8_t *tile, uint32_t format, uint32_t tokens, uint32_t dim,
                           uint32_t q, float *rows)
{
    if (AKV_UNLIKELY(format > AKV_N2))
        s_get_quad(tile, format, tokens, dim, q, rows);
    else
        q_get_quad(tile, format, tokens, dim, q, rows);
}
#undef q_quantise
#undef q_put_rows
#undef q_put_quad
#undef q_get_rows
#undef q_get_quad
#define q_quantise q_any_quantise
#define q_put_rows q_any_put_rows
#define q_put_quad q_any_put_quad
#define q_get_rows q_any_get_rows
#define q_get_quad q_any_get_quad

static void q_report(uint8_t *flags, uint32_t saw)
{
    if (saw != 0 && flags != NULL)
        __atomic_fetch_or((uint32_t *)(void *)flags, saw, __ATOMIC_RELAXED);
}

/* Byte address of row (token, head) of the caller. */
static inline uint8_t *q_row_at(uint8_t *base, const akv_rows *rows, uint64_t token, uint64_t head)
{
    return base +
           (token * rows->token_stride + head * rows->head_stride) * akv_raw_bytes(rows->dtype);
}

/* ---- encode, decode: an item is a row, with maps Q_ROWS tokens of a head ---- */
static bool q_by_head(uint32_t flags, uint32_t format)
{
    return (flags & AKV_FLAG_MAP) && !akv_format_raw(format);
}
static uint64_t q_rows_items(const struct akv_cpu_args *args, uint32_t phase)
{
    const akv_encode_params *p = args->params; /* those of decode begin alike */
    (void)phase;
    if (q_by_head(p->flags, p->format))
        return ((uint64_t)p->tokens + Q_ROWS - 1u) / Q_ROWS * p->rows.heads;
    return (uint64_t)p->tokens * p->rows.heads;
}

/* Rows of a head stand `heads` rows apart in the tile. */
static void q_put_apart(uint8_t *tile, const akv_encode_params *p, uint32_t token, uint32_t head,
                        uint32_t count, struct q_work *work)
{
    const uint32_t heads = p->rows.heads, rows = p->tokens * heads;
    if (heads == 1u) {
        q_put_rows(tile, p->format, rows, p->dim, token, count, work);
        return;
    }
    for (uint32_t k = 0; k < count; k++) {
        if (k) {
            memcpy(work->code, work->code + k * AKV_CODE_STRIDE, akv_padded_dim(p->dim));
            memcpy(work->scale, work->scale + k * AKV_SCALE_STRIDE, sizeof *work->scale * AKV_SCALE_STRIDE);
            memcpy(work->offset, work->offset + k * AKV_SCALE_STRIDE, sizeof *work->offset * AKV_SCALE_STRIDE);
        }
        q_put_rows(tile, p->format, rows, p->dim, (token + k) * heads + head, 1, work);
    }
}
static uint32_t q_encode_heads(const struct akv_cpu_args *args, uint64_t first, uint64_t count)
{
    const akv_encode_params *p = args->params;
    const uint32_t heads = p->rows.heads;
    uint32_t saw = 0;
    struct q_work work;
    struct q_maps maps;
    q_maps_init(&maps);
    for (uint64_t item = first; item < first + count; item++) {
        const uint32_t head = (uint32_t)(item % heads), token = (uint32_t)(item / heads) * Q_ROWS;
        const uint32_t n = AKV_MIN(Q_ROWS, p->tokens - token);
        const uint8_t *src[Q_ROWS];
        q_maps_use(&maps, args->arg[3], p->map, p->flags, p->dim, head);
        for (uint32_t k = 0; k < n; k++)
            src[k] = q_row_at(args->arg[0], &p->rows, token + k, head);
        saw |= q_maps_store(&maps, &work, src, n, p->rows.dtype, p->position + token);
        saw |= q_quantise(&work, src, n, AKV_F32, p->dim, q_maps_flags(&maps, p->flags), p->format);
        q_put_apart(args->arg[1], p, token, head, n, &work);
    }
    return saw;
}
static uint32_t q_encode_rows(const struct akv_cpu_args *args, uint64_t first, uint64_t count)
{
    const akv_encode_params *p = args->params;
    uint32_t heads = p->rows.heads, rows = p->tokens * heads, dim = p->dim, saw = 0;
    uint32_t token = (uint32_t)(first / heads), head = (uint32_t)(first % heads);
    uint32_t raw_bytes = akv_raw_bytes(p->format) * dim;
    uint8_t *tile = args->arg[1];
    struct q_work work;

    for (uint32_t t = (uint32_t)first, end = (uint32_t)(first + count); t < end;) {
        const uint8_t *src[Q_ROWS];
        uint32_t n = AKV_MIN(Q_ROWS, end - t);
        for (uint32_t k = 0; k < n; k++) {
            src[k] = q_row_at(args->arg[0], &p->rows, token, head);
            if (++head == heads) {
                head = 0;
                token++;
            }
        }
        if (akv_format_raw(p->format)) {
            for (uint32_t k = 0; k < n; k++)
                q_convert(tile + (uint64_t)(t + k) * raw_bytes, p->format, src[k], p->rows.dtype,
                          dim);
        } else {
            saw |= q_quantise(&work, src, n, p->rows.dtype, dim, p->flags, p->format);
            q_put_rows(tile, p->format, rows, dim, t, n, &work);
        }
        t += n;
    }
    return saw;
}
static void q_encode_run(const struct akv_cpu_args *args, uint32_t phase, uint64_t first,
                         uint64_t count)
{
    const akv_encode_params *p = args->params;
    const uint32_t saw = q_by_head(p->flags, p->format) ? q_encode_heads(args, first, count)
                                                        : q_encode_rows(args, first, count);
    if (first + count == q_rows_items(args, phase))
        akv_tile_padding(args->arg[1], p->format, p->tokens * p->rows.heads, p->dim);
    q_report(args->arg[2], saw);
}

/* Rows that lie equally far apart and take f32 values as they are decoded: true if they were. */
static bool q_decode_plain(const struct akv_cpu_args *args, uint64_t first, uint64_t count)
{
    const akv_decode_params *p = args->params;
    uint64_t heads = p->rows.heads;
    uint64_t stride = heads == 1u ? p->rows.token_stride : p->rows.head_stride;

    if (akv_format_raw(p->format) || p->rows.dtype != AKV_F32 || p->dim % 32u != 0 ||
        (p->flags & AKV_FLAG_MAP) != 0 || ((uintptr_t)args->arg[1] & 3u) != 0 ||
        (heads != 1u && p->rows.token_stride != heads * stride))
        return false;
    for (uint32_t n, t = (uint32_t)first, end = (uint32_t)(first + count); t < end; t += n) {
        float *row = (float *)(void *)args->arg[1] + t * stride;
        n = p->flags & AKV_FLAG_ROTATE ? AKV_MIN(Q_ROWS, end - t) : end - t;
        q_get_rows(args->arg[0], p->format, (uint32_t)(p->tokens * heads), p->dim, t, n, row, stride);
        for (uint32_t k = 0; k < n && (p->flags & AKV_FLAG_ROTATE) != 0; k++)
            q_store(row + k * stride, 1, p->dim, AKV_F32, (uint8_t *)(row + k * stride));
    }
    return true;
}

static void q_decode_heads(const struct akv_cpu_args *args, uint64_t first, uint64_t count)
{
    const akv_decode_params *p = args->params;
    const uint32_t heads = p->rows.heads, rows = p->tokens * heads;
    struct q_work work;
    struct q_maps maps;
    q_maps_init(&maps);
    for (uint64_t item = first; item < first + count; item++) {
        const uint32_t head = (uint32_t)(item % heads), token = (uint32_t)(item / heads) * Q_ROWS;
        const uint32_t n = AKV_MIN(Q_ROWS, p->tokens - token);
        float *row;
        if (heads == 1u)
            q_get_rows(args->arg[0], p->format, rows, p->dim, token, n, work.value, AKV_CODE_STRIDE);
        for (uint32_t k = 0; heads != 1u && k < n; k++)
            q_get_rows(args->arg[0], p->format, rows, p->dim, (token + k) * heads + head, 1,
                       work.value + k * AKV_CODE_STRIDE, 0);
        q_maps_use(&maps, args->arg[2], p->map, p->flags, p->dim, head);
        row = q_maps_back(&maps, work.value, n, p->position + token);
        for (uint32_t k = 0; k < n; k++, row += AKV_CODE_STRIDE)
            q_store(row, 0, p->dim, p->rows.dtype, q_row_at(args->arg[1], &p->rows, token + k, head));
    }
}
static void q_decode_run(const struct akv_cpu_args *args, uint32_t phase, uint64_t first,
                         uint64_t count)
{
    const akv_decode_params *p = args->params;
    uint32_t heads = p->rows.heads, rows = p->tokens * heads, dim = p->dim;
    uint32_t token = (uint32_t)(first / heads), head = (uint32_t)(first % heads);
    uint32_t raw_bytes = akv_raw_bytes(p->format) * dim;
    int back = (p->flags & AKV_FLAG_ROTATE) != 0;
    const uint8_t *tile = args->arg[0];
    struct q_work work;
    (void)phase;
    if (q_by_head(p->flags, p->format)) {
        q_decode_heads(args, first, count);
        return;
    }
    if (q_decode_plain(args, first, count))
        return;

    for (uint32_t t = (uint32_t)first; t < (uint32_t)(first + count); t++) {
        uint8_t *dst = q_row_at(args->arg[1], &p->rows, token, head);
        if (akv_format_raw(p->format)) {
            q_convert(dst, p->rows.dtype, tile + (uint64_t)t * raw_bytes, p->format, dim);
        } else {
            q_get_rows(tile, p->format, rows, dim, t, 1, work.value, 0);
            q_store(work.value, back, dim, p->rows.dtype, dst);
        }
        if (++head == heads) {
            head = 0;
            token++;
        }
    }
}

/* ---- seal: an item is one tile; items run over moves, layers, sides, heads ---- */
static uint64_t q_seal_items(const struct akv_cpu_args *args, uint32_t phase)
{
    const akv_seal_params *p = args->params;
    (void)phase;
    return (uint64_t)p->moves * p->layers * 2u * p->kv_heads;
}

static uint32_t q_seal_tile(uint8_t *dst, const uint8_t *src, uint32_t src_type, uint32_t format,
                            uint32_t flags, uint32_t order, uint32_t tokens, uint32_t dim,
                            uint32_t position, struct q_maps *maps, struct q_work *work)
{
    uint32_t saw = 0;
    uint64_t src_row = (uint64_t)akv_raw_bytes(src_type) * dim;

    if (akv_format_raw(format)) {
        uint64_t dst_row = (uint64_t)akv_raw_bytes(format) * dim;
        for (uint32_t t = 0; t < tokens; t++)
            q_convert(dst + t * dst_row, format, src + t * src_row, src_type, dim);
    } else {
        for (uint32_t t = 0; t < tokens; t += 4u) {
            const uint8_t *rows[4];
            for (uint32_t k = 0; k < 4u; k++)
                rows[k] = src + (t + k) * src_row;
            if (maps->maps)
                saw |= q_maps_store(maps, work, rows, 4u, src_type, position + t);
            saw |= q_quantise(work, rows, 4u, maps->maps ? AKV_F32 : src_type, dim,
                              q_maps_flags(maps, flags), format);
            if (order == AKV_ORDER_QUAD)
                q_put_quad(dst, format, tokens, dim, t / 4u, work);
            else
                q_put_rows(dst, format, tokens, dim, t, 4u, work);
        }
    }
    akv_tile_padding(dst, format, tokens, dim);
    return saw;
}

static void q_seal_run(const struct akv_cpu_args *args, uint32_t phase, uint64_t first,
                       uint64_t count)
{
    const akv_seal_params *p = args->params;
    const akv_seal_layer *layers = (const void *)args->arg[0];
    const akv_move *moves = (const void *)args->arg[1];
    uint32_t saw = 0;
    struct q_work work;
    struct q_maps maps;
    (void)phase;
    q_maps_init(&maps);

    for (uint64_t item = first; item < first + count; item++) {
        uint32_t head = (uint32_t)(item % p->kv_heads);
        uint64_t rest = item / p->kv_heads;
        uint32_t value = (uint32_t)(rest & 1u), layer = (uint32_t)((rest >> 1) % p->layers);
        const akv_move *move = &moves[(rest >> 1) / p->layers];
        const akv_seal_layer *at = &layers[layer];
        uint32_t dim = value ? p->v_dim : p->k_dim, format = value ? p->v_format : p->k_format;
        uint64_t src_tile = akv_tile_bytes(p->hot_type, p->block_tokens, dim);
        uint64_t dst_tile = akv_tile_bytes(format, p->block_tokens, dim);

        q_maps_use(&maps, args->arg[3], value ? at->v_map : at->k_map,
                   value ? p->v_flags : p->k_flags, dim, head);
        saw |= q_seal_tile(
            akv_cpu_at(args, move->dst) + (value ? at->dst_v : at->dst_k) + head * dst_tile,
            akv_cpu_at(args, move->src) + (value ? at->src_v : at->src_k) + head * src_tile,
            p->hot_type, format, value ? p->v_flags : p->k_flags,
            value ? AKV_ORDER_QUAD : AKV_ORDER_ROW, p->block_tokens, dim, move->position, &maps,
            &work);
    }
    q_report(args->arg[2], saw);
}

/* ---- reencode: an item is one tile, as for seal ---- */
static uint64_t q_reencode_items(const struct akv_cpu_args *args, uint32_t phase)
{
    const akv_reencode_params *p = args->params;
    (void)phase;
    return (uint64_t)p->moves * p->layers * 2u * p->kv_heads;
}

/* Rows t … t + 3 of a tile as f32, AKV_CODE_STRIDE apart. */
static void q_read_four(const uint8_t *tile, uint32_t format, uint32_t order, uint32_t tokens,
                        uint32_t dim, uint32_t t, float *rows)
{
    if (!akv_format_raw(format) && order == AKV_ORDER_QUAD) {
        q_get_quad(tile, format, tokens, dim, t / 4u, rows);
        return;
    }
    for (uint32_t k = 0; k < 4u; k++) {
        float *row = rows + k * AKV_CODE_STRIDE;
        if (akv_format_raw(format))
            q_convert((uint8_t *)row, AKV_F32,
                      tile + (uint64_t)(t + k) * dim * akv_raw_bytes(format), format, dim);
        else
            q_get_rows(tile, format, tokens, dim, t + k, 1, row, 0);
    }
}

static uint32_t q_reencode_tile(uint8_t *dst, uint32_t format, const uint8_t *src, uint32_t source,
                                uint32_t flags, uint32_t order, uint32_t tokens, uint32_t dim,
                                struct q_work *work)
{
    _Alignas(64) float rows[4 * AKV_CODE_STRIDE];
    const uint8_t *at[4];
    uint32_t saw = 0;

    if (format == source) {
        memcpy(dst, src, akv_tile_bytes(format, tokens, dim));
        return 0;
    }
    for (uint32_t k = 0; k < 4u; k++)
        at[k] = (const uint8_t *)(rows + k * AKV_CODE_STRIDE);
    for (uint32_t t = 0; t < tokens; t += 4u) {
        q_read_four(src, source, order, tokens, dim, t, rows);
        saw |= q_quantise(work, at, 4u, AKV_F32, dim, flags & AKV_FLAG_SEARCH, format);
        if (order == AKV_ORDER_QUAD)
            q_put_quad(dst, format, tokens, dim, t / 4u, work);
        else
            q_put_rows(dst, format, tokens, dim, t, 4u, work);
    }
    akv_tile_padding(dst, format, tokens, dim);
    return saw;
}

static void q_reencode_run(const struct akv_cpu_args *args, uint32_t phase, uint64_t first,
                           uint64_t count)
{
    const akv_reencode_params *p = args->params;
    const akv_seal_layer *layers = (const void *)args->arg[0];
    const akv_move *moves = (const void *)args->arg[1];
    uint32_t saw = 0;
    struct q_work work;
    (void)phase;

    for (uint64_t item = first; item < first + count; item++) {
        uint32_t head = (uint32_t)(item % p->kv_heads);
        uint64_t rest = item / p->kv_heads;
        uint32_t value = (uint32_t)(rest & 1u), layer = (uint32_t)((rest >> 1) % p->layers);
        const akv_move *move = &moves[(rest >> 1) / p->layers];
        const akv_seal_layer *at = &layers[layer];
        uint32_t dim = value ? p->v_dim : p->k_dim, format = value ? p->v_format : p->k_format;
        uint32_t source = value ? p->v_source : p->k_source;
        uint64_t src_tile = akv_tile_bytes(source, p->block_tokens, dim);
        uint64_t dst_tile = akv_tile_bytes(format, p->block_tokens, dim);

        saw |= q_reencode_tile(
            akv_cpu_at(args, move->dst) + (value ? at->dst_v : at->dst_k) + head * dst_tile, format,
            akv_cpu_at(args, move->src) + (value ? at->src_v : at->src_k) + head * src_tile, source,
            value ? p->v_flags : p->k_flags, value ? AKV_ORDER_QUAD : AKV_ORDER_ROW,
            p->block_tokens, dim, &work);
    }
    q_report(args->arg[2], saw);
}

#include "k_shift.h"

/* ---- gather: an item is one head of one block ---- */
static uint64_t q_gather_items(const struct akv_cpu_args *args, uint32_t phase)
{
    const akv_gather_params *p = args->params;
    (void)phase;
    return (uint64_t)p->blocks * p->rows.heads;
}

static void q_gather_tile(const akv_gather_params *p, uint8_t *out, const uint8_t *tile,
                          uint32_t format, uint32_t b, uint32_t head, struct q_maps *maps,
                          struct q_work *work)
{
    uint32_t dim = p->dim, dtype = p->rows.dtype, tokens = p->block_tokens;
    int back = (p->flags & AKV_FLAG_ROTATE) != 0;
    uint64_t row_bytes = (uint64_t)akv_raw_bytes(format) * dim;
    int64_t at = (int64_t)b * tokens - p->first_row; /* row number of the block's first */
    int64_t end = AKV_MIN((int64_t)tokens, (int64_t)p->tokens - at);

    for (uint32_t n, t = at < 0 ? (uint32_t)-at : 0u; (int64_t)t < end; t += n) {
        float *row = work->value;
        n = AKV_MIN(Q_ROWS, (uint32_t)end - t);
        if (akv_format_raw(format)) {
            for (uint32_t k = 0; k < n; k++)
                q_convert(q_row_at(out, &p->rows, (uint64_t)(at + t + k), head), dtype,
                          tile + (t + k) * row_bytes, format, dim);
            continue;
        }
        if (p->order == AKV_ORDER_QUAD) { /* up to the end of the last whole quad that has room */
            n = AKV_MIN(n, Q_ROWS - t % 4u);
            for (uint32_t k = 0; k < t % 4u + n; k += 4u)
                q_get_quad(tile, format, tokens, dim, t / 4u + k / 4u, row + k * AKV_CODE_STRIDE);
            row += t % 4u * AKV_CODE_STRIDE;
        } else {
            q_get_rows(tile, format, tokens, dim, t, n, row, AKV_CODE_STRIDE);
        }
        if (maps->maps)
            row = q_maps_back(maps, row, n, p->position + b * tokens + t);
        for (uint32_t k = 0; k < n; k++, row += AKV_CODE_STRIDE)
            q_store(row, back, dim, dtype, q_row_at(out, &p->rows, (uint64_t)(at + t + k), head));
    }
}

/* Row number in the output of row t of block b, or -1 if it is not wanted. */
static inline int64_t q_gather_row(const akv_gather_params *p, uint32_t b, uint32_t t)
{
    int64_t r = (int64_t)b * p->block_tokens + t - p->first_row;
    return r >= 0 && r < (int64_t)p->tokens ? r : -1;
}
static void q_gather_run(const struct akv_cpu_args *args, uint32_t phase, uint64_t first,
                         uint64_t count)
{
    const akv_gather_params *p = args->params;
    const uint32_t *table = (const void *)args->arg[0];
    struct q_work work;
    struct q_maps maps;
    (void)phase;
    q_maps_init(&maps);

    for (uint64_t item = first; item < first + count; item++) {
        uint32_t b = (uint32_t)(item / p->rows.heads), head = (uint32_t)(item % p->rows.heads);
        uint32_t entry = table[b];
        if (entry == AKV_NO_BLOCK) { /* not held: zeros */
            uint64_t row_bytes = (uint64_t)akv_raw_bytes(p->rows.dtype) * p->dim;
            for (uint32_t t = 0; t < p->block_tokens; t++) {
                int64_t r = q_gather_row(p, b, t);
                if (r >= 0)
                    memset(q_row_at(args->arg[1], &p->rows, (uint64_t)r, head), 0, row_bytes);
            }
            continue;
        }
        uint32_t kind = entry >> 28, format = p->format[kind];
        const uint8_t *tile = akv_cpu_at(args, akv_block_address(&p->pool, entry)) +
                              p->offset[kind] +
                              (uint64_t)head * akv_tile_bytes(format, p->block_tokens, p->dim);
        q_maps_use(&maps, args->arg[2], p->map, p->flags, p->dim, head);
        q_gather_tile(p, args->arg[1], tile, format, b, head, &maps, &work);
    }
}

#endif
