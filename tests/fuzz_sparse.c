/* SPDX-License-Identifier: Apache-2.0 */
/* Fuzz target: sparse rows, damaged or made up.  An input is a selector and the bytes.  Selector 0: bytes as
 * they are; 1: with the checks of header and body made right first, so that what lies behind them is reached;
 * 2: a shape, scores and rows, which go there and back. */
#include "fuzz_rows.h"

static size_t bytes_of(anykv_dtype dtype)
{
    return dtype == ANYKV_F32 ? 4 : 2;
}

/* Axis, dtype and shape by the index; of three selectors. */
size_t akv_fuzz_seed(unsigned index, uint8_t *out, size_t capacity)
{
    enum { TOKENS = 37, HEADS = 2, DIM = 40 };
    static const anykv_dtype dtypes[] = {ANYKV_F32, ANYKV_F16, ANYKV_BF16};
    static uint32_t rows[TOKENS * HEADS * DIM];
    static float scores[HEADS * DIM];
    if (index >= 18 || capacity < 1 + sizeof rows)
        return 0;
    const anykv_axis axis = index / 3 & 1u ? ANYKV_AXIS_CHANNEL : ANYKV_AXIS_TOKEN;
    const anykv_dtype dtype = dtypes[index / 6];
    uint32_t state = index + 1;
    for (uint32_t i = 0; i < TOKENS * HEADS * DIM; i++)
        rows[i] = fuzz_random(&state);
    for (uint32_t i = 0; i < HEADS * DIM; i++)
        scores[i] = (float)(rows[i] >> 24);
    out[0] = (uint8_t)(index % 3);
    if (out[0] == 2) {
        const uint8_t head[6] = {(uint8_t)axis, (uint8_t)dtype, 20, 9, HEADS, 24};
        memcpy(out + 1, head, sizeof head);
        memcpy(out + 1 + sizeof head, rows, sizeof rows);
        return 1 + sizeof head + sizeof rows;
    }
    const anykv_view view = anykv_view_host(rows, dtype, HEADS, DIM);
    uint64_t bytes = 0;
    FUZZ_REQUIRE(anykv_sparse_compress(fuzz_device(), axis, 1 + index, scores, &view, TOKENS, HEADS, DIM, out + 1,
                                       capacity - 1, &bytes) == ANYKV_OK);
    return 1 + (size_t)bytes;
}

static void mend(uint8_t *packed, uint64_t bytes)
{
    const uint32_t method = ANYKV_COMPRESS_SPARSE, zero[2] = {0, 0};
    const uint32_t sum = compressed_sum(packed + ANYKV_COMPRESS_HEADER, (bytes - ANYKV_COMPRESS_HEADER) / 4, UINT64_MAX);
    memcpy(packed + 4, &method, 4);
    memcpy(packed + 44, &sum, 4);
    memcpy(packed + 48, zero, sizeof zero);
    compressed_seal(packed, bytes);
}

/* What a head kept is what its rows have, and zeros are the rest. */
static void look_at(const uint8_t *packed, uint64_t bytes, anykv_axis axis, const uint8_t *before, const uint8_t *after,
                    uint32_t tokens, uint32_t heads, uint32_t dim, size_t each, uint32_t keep)
{
    const uint32_t units = axis == ANYKV_AXIS_TOKEN ? tokens : dim;
    uint8_t *kept = malloc(units);
    FUZZ_REQUIRE(kept);
    for (uint32_t h = 0; h < heads; h++) {
        uint32_t count = 0;
        FUZZ_REQUIRE(anykv_sparse_kept(packed, bytes, h, kept) == ANYKV_OK);
        for (uint32_t u = 0; u < units; u++)
            count += kept[u];
        FUZZ_REQUIRE(keep == 0 || count == keep);
        for (uint32_t t = 0; t < tokens; t++)
            for (uint32_t i = 0; i < dim; i++) {
                const size_t at = (((size_t)t * heads + h) * dim + i) * each;
                static const uint8_t zero[4] = {0};
                const uint8_t *want = !kept[axis == ANYKV_AXIS_TOKEN ? t : i] ? zero : before ? before + at : after + at;
                FUZZ_REQUIRE(memcmp(after + at, want, each) == 0);
            }
    }
    FUZZ_REQUIRE(anykv_sparse_kept(packed, bytes, heads, kept) == ANYKV_E_SHAPE);
    free(kept);
}

static void there_and_back(const uint8_t *data, size_t size)
{
    struct fuzz_bytes in = {data, data + size};
    const anykv_axis axis = fuzz_u8(&in) & 1u ? ANYKV_AXIS_CHANNEL : ANYKV_AXIS_TOKEN;
    const anykv_dtype dtype = (anykv_dtype)(ANYKV_F32 + fuzz_u8(&in) % 3);
    const uint32_t tokens = 1 + fuzz_u8(&in) % 70u, keep = fuzz_u8(&in), heads = 1 + fuzz_u8(&in) % 3u,
                   dim = 1 + fuzz_u8(&in) % 70u, units = axis == ANYKV_AXIS_TOKEN ? tokens : dim;
    const size_t each = bytes_of(dtype), plain = (size_t)tokens * heads * dim * each;
    float *scores = malloc(heads * units * sizeof *scores);
    uint8_t *before = malloc(plain), *after = malloc(plain), *packed = NULL;
    uint64_t bytes = 0, made = 0;
    FUZZ_REQUIRE(scores && before && after);
    for (uint32_t i = 0; i < heads * units; i++) {
        const uint32_t bits = fuzz_u32(&in);
        memcpy(&scores[i], &bits, 4);
    }
    for (size_t i = 0; i < plain; i++)
        before[i] = fuzz_u8(&in);
    anykv_status status = anykv_sparse_bytes(axis, keep, dtype, tokens, heads, dim, &bytes);
    FUZZ_REQUIRE((status == ANYKV_OK) == (keep >= 1 && keep <= units));
    if (status == ANYKV_OK) {
        packed = malloc(bytes); /* exactly: a write beyond is seen */
        FUZZ_REQUIRE(packed);
        const anykv_view view = anykv_view_host(before, dtype, heads, dim), back = anykv_view_host(after, dtype, heads, dim);
        status = anykv_sparse_compress(fuzz_device(), axis, keep, scores, &view, tokens, heads, dim, packed, bytes, &made);
        FUZZ_REQUIRE(status == (bytes > plain ? ANYKV_E_UNSUPPORTED : ANYKV_OK));
        if (status == ANYKV_OK) {
            FUZZ_REQUIRE(made == bytes);
            FUZZ_REQUIRE(anykv_decompress(fuzz_device(), packed, bytes, &back, tokens, heads, dim) == ANYKV_OK);
            look_at(packed, bytes, axis, before, after, tokens, heads, dim, each, keep);
        }
    }
    free(scores);
    free(before);
    free(after);
    free(packed);
}

static void read_back(const uint8_t *packed, uint64_t bytes)
{
    struct fuzz_shape s;
    /* What was dropped takes a bit. */
    if (!fuzz_header(packed, bytes, ANYKV_COMPRESS_SPARSE, &s) || (uint64_t)s.tokens * s.heads * s.dim > MOST * 16u)
        return;
    const size_t each = bytes_of(s.dtype);
    uint8_t *rows = malloc((size_t)s.tokens * s.heads * s.dim * each); /* exactly */
    FUZZ_REQUIRE(rows);
    const anykv_view view = anykv_view_host(rows, s.dtype, s.heads, s.dim);
    const anykv_status status = anykv_decompress(fuzz_device(), packed, bytes, &view, s.tokens, s.heads, s.dim);
    FUZZ_REQUIRE(status == ANYKV_OK || (status == ANYKV_E_DATA && anykv_error_detail()[0]));
    if (status == ANYKV_OK) {
        uint32_t axis;
        memcpy(&axis, packed + 40, 4);
        look_at(packed, bytes, (anykv_axis)axis, NULL, rows, s.tokens, s.heads, s.dim, each, 0);
    }
    free(rows);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size < 1 || size > MOST)
        return 0;
    const size_t bytes = size - 1;
    if (data[0] % 3u == 2) {
        there_and_back(data + 1, bytes);
        return 0;
    }
    uint8_t *packed = fuzz_rest(data, size);
    if (data[0] % 3u == 1 && bytes >= ANYKV_COMPRESS_HEADER)
        mend(packed, bytes);
    read_back(packed, bytes);
    free(packed);
    return 0;
}
