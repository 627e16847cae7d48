/* SPDX-License-Identifier: Apache-2.0 */
/* verify: the cases of encode, decode and rotate. */
#include "verify.h"
#include <inttypes.h>
#include <math.h>
#include <stdio.h>

#define CHUNK_ELEMENTS                                                                             \
    (1ull << 21)     /* of one case, so that memory does not grow with --elements                  \
                      */
#define TINY_ROWS 3u /* the first chunk: a tile that is smaller than any vector loop */
#define HEADS     3u

/* How the rows of a case lie in shape 1: heads, gaps, and which of tokens and heads is the outer
 * one. */
static akv_rows strided(uint32_t dim, uint32_t dtype, uint32_t tokens, uint32_t variant)
{
    akv_rows rows = {0, 0, dtype, HEADS};
    if (variant % 2 == 0) {
        rows.head_stride = dim + 5u;
        rows.token_stride = HEADS * rows.head_stride + 11u;
    } else {
        rows.token_stride = dim + 3u;
        rows.head_stride = tokens * rows.token_stride + 7u;
    }
    return rows;
}

/* Rows of chunk `index` when the combination needs `want` rows: 3, then as many as a chunk holds.
 */
static uint32_t chunk_rows(uint64_t want, uint32_t dim, uint32_t index)
{
    uint64_t most = CHUNK_ELEMENTS / dim / HEADS * HEADS;
    uint64_t done = index == 0 ? 0 : TINY_ROWS + (index - 1u) * most;
    if (index != 0 && done >= want)
        return 0;
    uint64_t left = index == 0 ? TINY_ROWS : want - done;
    left = (left + HEADS - 1) / HEADS * HEADS;
    return (uint32_t)(left < most ? left : most);
}

static uint64_t rows_wanted(const struct verify *v, uint32_t combinations, uint32_t dim)
{
    uint64_t each = (v->elements + combinations - 1) / combinations;
    return (each + dim - 1) / dim;
}

static void *filled(struct verify *v, uint64_t bytes, int value)
{
    void *memory = verify_alloc(v, bytes);
    if (memory)
        memset(memory, value, bytes);
    return memory;
}

struct quantize_case {
    uint32_t format, dim, dtype, flags, rows;
    const void *dense; /* the rows, or for decode the expected ones */
};

static uint32_t tile_row_of(const struct quantize_case *c, uint64_t offset)
{
    if (akv_format_raw(c->format))
        return (uint32_t)(offset / (c->dim * akv_raw_bytes(c->format)));
    if (akv_format_blocks(c->format))
        return (uint32_t)offset / (akv_padded_dim(c->dim) / 32u * akv_block_bytes(c->format));
    uint32_t plane1 = akv_plane1_offset(c->format, c->rows, c->dim);
    uint32_t scale = akv_scale_offset(c->format, c->rows, c->dim);
    uint32_t dp = akv_padded_dim(c->dim);
    if (offset >= scale)
        return (uint32_t)(offset - scale) /
               (akv_scale_count(c->format, c->dim) * akv_scale_bytes(c->format));
    if (offset >= plane1)
        return (uint32_t)(offset - plane1) / (dp * akv_format_plane1(c->format) / 8u);
    return (uint32_t)offset / (dp * akv_format_plane0(c->format) / 8u);
}

static void explain_encode(const struct verify_launch *launch, uint32_t span, uint64_t offset)
{
    const struct quantize_case *c = launch->user;
    if (span != 1)
        return;
    uint32_t row = tile_row_of(c, offset);
    const char *part = "codes";
    if (!akv_format_raw(c->format) && offset >= akv_scale_offset(c->format, c->rows, c->dim))
        part = "scales";
    fprintf(stderr, "  row %" PRIu32 " of %" PRIu32 " rows of %" PRIu32 " elements, %s\n", row,
            c->rows, c->dim, part);
    if (row < c->rows)
        verify_print_row("input row",
                         (const uint8_t *)c->dense +
                             (uint64_t)row * c->dim * akv_raw_bytes(c->dtype),
                         c->dtype, c->dim);
}

/* ---- encode ---- */

static void encode_chunk(struct verify *v, const struct quantize_case *given, uint32_t variant)
{
    struct quantize_case c = *given;
    uint32_t saw = 0, marked = 0x40000000u, marked_after;
    uint64_t elements = (uint64_t)c.rows * c.dim, tokens = c.rows / HEADS;
    uint64_t dense_bytes = elements * akv_raw_bytes(c.dtype);
    akv_rows spread = strided(c.dim, c.dtype, (uint32_t)tokens, variant);
    uint64_t extent = verify_extent(&spread, (uint32_t)tokens, c.dim);
    void *dense = verify_alloc(v, dense_bytes);
    void *apart =
        filled(v, extent, 0xFF); /* NaNs in the gaps: who reads them says so in the flags */
    void *tile = verify_alloc(v, akv_tile_bytes(c.format, c.rows, c.dim));
    if (dense && apart && tile &&
        verify_rows(v, dense, c.rows, c.dim, c.format, c.flags, c.dtype,
                    verify_mix(v->seed, c.dim + variant)) &&
        verify_encode_rows(v, dense, c.dtype, c.rows, c.dim, c.format, c.flags, tile, &saw)) {
        verify_spread(apart, &spread, dense, (uint32_t)tokens, c.dim);
        c.dense = dense;
        marked_after = marked | saw;
        akv_encode_params params[VERIFY_SHAPES] = {
            {{c.dim, c.dim, c.dtype, 1}, c.rows, c.dim, c.format, c.flags, 0, 0},
            {spread, (uint32_t)tokens, c.dim, c.format, c.flags, 0, 0}};
        struct verify_launch shape[VERIFY_SHAPES] = {0};
        for (uint32_t s = 0; s < VERIFY_SHAPES; s++) {
            shape[s].params = &params[s];
            shape[s].span[0] =
                (struct verify_span){s ? apart : dense, NULL, s ? extent : dense_bytes};
            shape[s].span[1] =
                (struct verify_span){NULL, tile, akv_tile_bytes(c.format, c.rows, c.dim)};
            shape[s].span[2] = (struct verify_span){&marked, &marked_after, sizeof marked};
            shape[s].explain = explain_encode;
            shape[s].user = &c;
        }
        verify_compare(v, elements, shape);
    }
    akv_free(v->context, dense);
    akv_free(v->context, apart);
    akv_free(v->context, tile);
}

void verify_encode(struct verify *v, uint32_t format)
{
    uint32_t rotates = akv_format_raw(format) ? 1 : 2,
             searches = akv_format_codebook(format) ? 2 : 1;
    uint32_t combinations = VERIFY_DIMS * 3 * rotates * searches, variant = 0;
    for (uint32_t d = 0; d < VERIFY_DIMS; d++)
        for (uint32_t dtype = AKV_F32; dtype <= AKV_BF16; dtype++)
            for (uint32_t r = 0; r < rotates * searches; r++) {
                struct quantize_case c = {format, verify_dims[d], dtype, 0, 0, NULL};
                c.flags =
                    (r % rotates ? AKV_FLAG_ROTATE : 0u) | (r / rotates ? AKV_FLAG_SEARCH : 0u);
                uint64_t want = rows_wanted(v, combinations, c.dim);
                for (uint32_t chunk = 0; (c.rows = chunk_rows(want, c.dim, chunk)) != 0; chunk++)
                    if (verify_case(v, (uint64_t)c.rows * c.dim, "d%" PRIu32 "-%s%s%s-%" PRIu32,
                                    c.dim, verify_format_name(dtype),
                                    c.flags & AKV_FLAG_ROTATE ? "-rotate" : "",
                                    c.flags & AKV_FLAG_SEARCH ? "-search" : "", chunk))
                        encode_chunk(v, &c, variant + 97u * chunk);
                variant++;
            }
}

/* ---- decode ---- */

static void explain_decode(const struct verify_launch *launch, uint32_t span, uint64_t offset)
{
    const struct quantize_case *c = launch->user;
    const akv_decode_params *params = launch->params;
    if (span != 1)
        return;
    uint64_t element = offset / akv_raw_bytes(c->dtype);
    fprintf(stderr,
            "  element %" PRIu64 " of rows with %" PRIu32 " heads, token stride %" PRIu64
            ", head stride %" PRIu64 "\n",
            element, params->rows.heads, (uint64_t)params->rows.token_stride,
            (uint64_t)params->rows.head_stride);
}

static void decode_chunk(struct verify *v, const struct quantize_case *given, uint32_t variant)
{
    struct quantize_case c = *given;
    uint64_t elements = (uint64_t)c.rows * c.dim, seed = verify_mix(v->seed, 1000u + variant);
    uint32_t tokens = c.rows / HEADS, each = akv_raw_bytes(c.dtype);
    uint64_t dense_bytes = elements * each;
    akv_rows spread = strided(c.dim, c.dtype, tokens, variant);
    uint64_t extent = verify_extent(&spread, tokens, c.dim);
    void *rows = verify_alloc(v, elements * sizeof(float));
    void *apart = verify_alloc(v, extent);
    void *tile = verify_alloc(v, akv_tile_bytes(c.format, c.rows, c.dim));
    bool good = rows && apart && tile;
    if (good && variant % 2 == 0)
        verify_random_tile(tile, c.format, c.rows, c.dim, &seed);
    else if (good)
        good = verify_rows(v, rows, c.rows, c.dim, c.format, c.flags, AKV_F32, seed) &&
               verify_encode_rows(v, rows, AKV_F32, c.rows, c.dim, c.format, c.flags, tile, NULL);
    if (good && verify_decode_rows(v, tile, c.rows, c.dim, c.format, c.flags, c.dtype, rows)) {
        verify_fill_pattern(apart, extent);
        verify_spread(apart, &spread, rows, tokens, c.dim);
        c.dense = rows;
        akv_decode_params params[VERIFY_SHAPES] = {
            {{c.dim, c.dim, c.dtype, 1}, c.rows, c.dim, c.format, c.flags, 0, 0},
            {spread, tokens, c.dim, c.format, c.flags, 0, 0}};
        struct verify_launch shape[VERIFY_SHAPES] = {0};
        for (uint32_t s = 0; s < VERIFY_SHAPES; s++) {
            shape[s].params = &params[s];
            shape[s].span[0] =
                (struct verify_span){tile, NULL, akv_tile_bytes(c.format, c.rows, c.dim)};
            shape[s].span[1] =
                (struct verify_span){NULL, s ? apart : rows, s ? extent : dense_bytes};
            shape[s].explain = explain_decode;
            shape[s].user = &c;
        }
        verify_compare(v, elements, shape);
    }
    akv_free(v->context, rows);
    akv_free(v->context, apart);
    akv_free(v->context, tile);
}

void verify_decode(struct verify *v, uint32_t format)
{
    uint32_t rotates = akv_format_raw(format) ? 1 : 2;
    uint32_t combinations = VERIFY_DIMS * 3 * rotates * 2, variant = 0;
    for (uint32_t d = 0; d < VERIFY_DIMS; d++)
        for (uint32_t dtype = AKV_F32; dtype <= AKV_BF16; dtype++)
            for (uint32_t r = 0; r < rotates * 2; r++, variant++) {
                struct quantize_case c = {format, verify_dims[d], dtype, 0, 0, NULL};
                c.flags = r / 2 ? AKV_FLAG_ROTATE : 0u;
                uint64_t want = rows_wanted(v, combinations, c.dim);
                for (uint32_t chunk = 0; (c.rows = chunk_rows(want, c.dim, chunk)) != 0; chunk++)
                    if (verify_case(v, (uint64_t)c.rows * c.dim, "d%" PRIu32 "-%s%s-%s-%" PRIu32,
                                    c.dim, verify_format_name(dtype),
                                    c.flags & AKV_FLAG_ROTATE ? "-rotate" : "",
                                    r % 2 == 0 ? "random" : "encoded", chunk))
                        decode_chunk(v, &c, 2u * (variant + 97u * chunk) + r % 2u);
            }
}

/* ---- rotate ---- */

/* Turning back takes decoded values, and those are 0 or between 2^-40 and 2^100. */
static void decoded_only(float *x, uint64_t count)
{
    for (uint64_t i = 0; i < count; i++)
        if (!(fabsf(x[i]) >= 0x1p-40f && fabsf(x[i]) <= 0x1p100f))
            x[i] = 0.0f;
}

static void rotate_chunk(struct verify *v, uint32_t dim, uint32_t n, uint32_t flags, uint64_t seed)
{
    uint64_t bytes = (uint64_t)n * dim * sizeof(float);
    float *in = verify_alloc(v, bytes), *out = verify_alloc(v, bytes);
    if (in && out && verify_rows(v, in, n, dim, AKV_I8, 0, AKV_F32, seed)) {
        if (!(flags & AKV_FLAG_ROTATE))
            decoded_only(in, (uint64_t)n * dim);
        akv_rotate_params params = {n, dim, flags, 0};
        struct verify_launch launch = {.params = &params};
        launch.span[0] = (struct verify_span){in, NULL, bytes};
        launch.span[1] = (struct verify_span){NULL, verify_any, bytes};
        launch.result[1] = out;
        if (verify_reference(v, AKV_K_ROTATE, &launch)) {
            launch.span[1].expect = out;
            launch.result[1] = NULL;
            struct verify_launch shape[VERIFY_SHAPES] = {launch, launch};
            verify_compare(v, (uint64_t)n * dim, shape);
        }
    }
    akv_free(v->context, in);
    akv_free(v->context, out);
}

void verify_rotate(struct verify *v, uint32_t format)
{
    (void)format;
    for (uint32_t d = 0; d < VERIFY_DIMS; d++)
        for (uint32_t forward = 0; forward < 2; forward++) {
            uint32_t dim = verify_dims[d], rows;
            uint64_t want = rows_wanted(v, VERIFY_DIMS * 2, dim);
            for (uint32_t chunk = 0; (rows = chunk_rows(want, dim, chunk)) != 0; chunk++)
                if (verify_case(v, (uint64_t)rows * dim, "d%" PRIu32 "-%s-%" PRIu32, dim,
                                forward ? "store" : "back", chunk))
                    rotate_chunk(v, dim, rows, forward ? AKV_FLAG_ROTATE : 0u,
                                 verify_mix(v->seed, 2000u + 64u * chunk + 2u * d + forward));
        }
}
