/* SPDX-License-Identifier: Apache-2.0 */
/* verify: inputs, strided images of them, tile orders, and what the scalar reference makes of rows.
 */
#include "../tests/conform_inputs.h"
#include "verify.h"
#include <inttypes.h>
#include <stdio.h>

uint64_t verify_mix(uint64_t seed, uint64_t value)
{
    uint64_t x = seed * 0x9E3779B97F4A7C15u + value + 0x632BE59BD9B4E019u;
    return verify_random(&x);
}

/* splitmix64 (Steele, Lea, Flood 2014). */
uint64_t verify_random(uint64_t *state)
{
    uint64_t z = *state += 0x9E3779B97F4A7C15u;
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
    return z ^ (z >> 31);
}

uint32_t verify_below(uint64_t *state, uint32_t limit)
{
    return (uint32_t)(((verify_random(state) >> 32) * limit) >> 32);
}

void *verify_alloc(struct verify *v, uint64_t bytes)
{
    void *memory = v->faults ? NULL : akv_alloc(v->context, bytes ? bytes : 1, 1);
    if (!memory && v->faults++ == 0)
        akv_cli_status("verify", v->name, ANYKV_E_MEMORY);
    return memory;
}

const char *verify_format_name(uint32_t format)
{
    return anykv_format_name((anykv_format)format);
}

/* ---- rows ---- */

/* Rows first … first + count - 1, made by one thread. */
struct rows_part {
    uint64_t seed, first, count;
    uint32_t format, dim, dtype;
    int rotated;
    uint8_t *rows; /* row 0 */
};

static void *make_part(void *argument)
{
    const struct rows_part *p = argument;
    /* cppcheck-suppress uninitvar ; there is always at least one part */
    uint64_t row_bytes = (uint64_t)p->dim * akv_raw_bytes(p->dtype);
    akv_input_rows(p->seed, p->format, p->rotated, p->dtype, p->first, p->count, p->dim,
                   p->rows + p->first * row_bytes);
    return NULL;
}

static bool make_rows(struct verify *v, const struct rows_part *whole)
{
    enum { MOST = 16, LEAST_ROWS = 512 };
    struct rows_part parts[MOST];
    akv_thread threads[MOST];
    uint64_t n = whole->count, count = AKV_MIN(AKV_MIN(akv_cpu_count(), MOST), n / LEAST_ROWS + 1);
    uint32_t started = 1;
    for (uint32_t i = 0; i < count; i++) {
        parts[i] = *whole;
        parts[i].first = n * i / count;
        parts[i].count = n * (i + 1u) / count - parts[i].first;
    }
    anykv_status status = ANYKV_OK;
    for (; started < count && status == ANYKV_OK; started += status == ANYKV_OK)
        status = akv_thread_start(v->context, &threads[started], make_part, &parts[started]);
    make_part(&parts[0]);
    for (uint32_t i = 1; i < started; i++)
        akv_thread_join(&threads[i]);
    if (status != ANYKV_OK && v->faults++ == 0)
        akv_cli_status("verify", v->name, status);
    return status == ANYKV_OK;
}

bool verify_rows(struct verify *v, void *rows, uint64_t n, uint32_t dim, uint32_t format,
                 uint32_t flags, uint32_t dtype, uint64_t seed)
{
    struct rows_part whole = {seed,
                              0,
                              n,
                              akv_format_raw(format) ? AKV_I8 : format,
                              dim,
                              dtype,
                              (flags & AKV_FLAG_ROTATE) != 0,
                              rows};
    if (v->faults || !make_rows(v, &whole))
        return false;
    if (dtype == AKV_F32)
        return true;
    uint16_t *row = rows, pattern = (uint16_t)seed;
    for (uint64_t r = 7; r < n; r += 8)
        for (uint32_t i = 0; i < dim; i++)
            row[r * dim + i] = pattern++;
    return true;
}

/* Blocks with arbitrary codes have finite scales (all of them are in tests/test_ggml.c). */
static void random_blocks(uint8_t *at, uint32_t format, uint32_t blocks, uint64_t *state)
{
    uint32_t bytes = akv_block_bytes(format);
    bool affine = format == AKV_Q4_1 || format == AKV_Q5_1;
    for (uint32_t i = 0; i < blocks; i++, at += bytes)
        for (uint32_t k = 0; k < (affine ? 4u : 2u); k += 2u) {
            uint16_t scale = (uint16_t)verify_random(state);
            if ((scale & 0x7C00u) == 0x7C00u)
                scale ^= 0x4000u;
            memcpy(at + k, &scale, 2);
        }
}

void verify_random_tile(void *tile, uint32_t format, uint32_t tokens, uint32_t dim, uint64_t *state)
{
    uint32_t bytes = akv_tile_bytes(format, tokens, dim);
    uint8_t *at = tile;
    for (uint32_t i = 0; i < bytes; i += 8) { /* tiles are multiples of 16 bytes */
        uint64_t word = verify_random(state);
        memcpy(at + i, &word, 8);
    }
    if (akv_format_raw(format))
        return;
    if (akv_format_blocks(format)) {
        random_blocks(tile, format, tokens * (akv_padded_dim(dim) / 32u), state);
        return;
    }
    if (akv_format_e4m3(format)) /* no NaN: what becomes of its bits in sums is the device's choice */
        for (uint32_t i = 0; i < tokens * akv_padded_dim(dim); i++)
            at[i] = (uint8_t)((at[i] & 0x7Fu) == 0x7Fu ? at[i] ^ 1u : at[i]);
    uint8_t *scales = at + akv_scale_offset(format, tokens, dim);
    uint32_t count = akv_scale_bytes(format) ? tokens * akv_scale_count(format, dim) : 0;
    for (uint32_t i = 0; i < count; i++) {
        if (akv_format_codebook(format)) {
            scales[i] = (uint8_t)(i % 248u); /* 0xF7 is the largest */
        } else {
            uint16_t scale = (uint16_t)(verify_random(state) >> 49);
            if (scale >= 0x7C00u)
                scale = (uint16_t)(scale & 0x3FFu);
            memcpy(scales + 2u * i, &scale, 2);
        }
    }
}

uint64_t verify_extent(const akv_rows *rows, uint32_t tokens, uint32_t dim)
{
    return ((uint64_t)(tokens - 1) * rows->token_stride +
            (uint64_t)(rows->heads - 1) * rows->head_stride + dim) *
           akv_raw_bytes(rows->dtype);
}

void verify_spread(void *into, const akv_rows *rows, const void *dense, uint32_t tokens,
                   uint32_t dim)
{
    uint32_t each = akv_raw_bytes(rows->dtype);
    uint64_t row_bytes = (uint64_t)dim * each;
    const uint8_t *from = dense;
    for (uint32_t t = 0; t < tokens; t++)
        for (uint32_t h = 0; h < rows->heads; h++, from += row_bytes)
            memcpy((uint8_t *)into + (t * rows->token_stride + h * rows->head_stride) * each, from,
                   row_bytes);
}

/* ---- tile orders ---- */

static uint32_t load_code(const uint8_t *plane, uint32_t word, uint32_t bit, uint32_t bits)
{
    uint32_t u;
    memcpy(&u, plane + 4ull * word, 4);
    return (u >> bit) & ((1u << bits) - 1u);
}

static void plane_to_quad(uint8_t *into, const uint8_t *from, uint32_t bits, uint32_t tokens,
                          uint32_t dim)
{
    for (uint32_t t = 0; t < tokens; t++)
        for (uint32_t i = 0; i < akv_padded_dim(dim); i++) {
            uint32_t code = load_code(from, akv_code_word(AKV_ORDER_ROW, bits, tokens, dim, t, i),
                                      akv_code_bit(AKV_ORDER_ROW, bits, t, i), bits);
            uint8_t *word = into + 4ull * akv_code_word(AKV_ORDER_QUAD, bits, tokens, dim, t, i);
            uint32_t u;
            memcpy(&u, word, 4);
            u |= code << akv_code_bit(AKV_ORDER_QUAD, bits, t, i);
            memcpy(word, &u, 4);
        }
}

void verify_quad(void *into, const void *row_tile, uint32_t format, uint32_t tokens, uint32_t dim)
{
    const uint8_t *from = row_tile;
    uint8_t *to = into;
    if (akv_format_raw(format) || akv_format_blocks(format)) {
        memcpy(into, row_tile, akv_tile_bytes(format, tokens, dim));
        return;
    }
    memset(into, 0, akv_tile_bytes(format, tokens, dim));
    plane_to_quad(to, from, akv_format_plane0(format), tokens, dim);
    uint32_t plane1 = akv_plane1_offset(format, tokens, dim);
    if (akv_format_plane1(format))
        plane_to_quad(to + plane1, from + plane1, akv_format_plane1(format), tokens, dim);
    uint32_t scales = akv_scale_count(format, dim), each = akv_scale_bytes(format);
    uint32_t base = akv_scale_offset(format, tokens, dim);
    for (uint32_t t = 0; t < tokens; t++)
        for (uint32_t s = 0; s < scales; s++)
            memcpy(to + base + each * akv_scale_index(AKV_ORDER_QUAD, scales, t, s),
                   from + base + each * akv_scale_index(AKV_ORDER_ROW, scales, t, s), each);
}

/* ---- the reference ---- */

bool verify_encode_rows(struct verify *v, const void *rows, uint32_t dtype, uint32_t n,
                        uint32_t dim, uint32_t format, uint32_t flags, void *tile,
                        uint32_t *saw_out)
{
    static const uint32_t none = 0;
    akv_encode_params params = {{dim, dim, dtype, 1}, n, dim, format, flags, 0, 0};
    struct verify_launch launch = {.params = &params};
    uint64_t bytes = (uint64_t)n * dim * akv_raw_bytes(dtype);
    launch.span[0] = (struct verify_span){rows, NULL, bytes};
    launch.span[1] = (struct verify_span){NULL, verify_any, akv_tile_bytes(format, n, dim)};
    launch.span[2] = (struct verify_span){&none, verify_any, sizeof none};
    launch.result[1] = tile;
    launch.result[2] = saw_out;
    return verify_reference(v, AKV_K_ENCODE, &launch);
}

bool verify_decode_rows(struct verify *v, const void *tile, uint32_t n, uint32_t dim,
                        uint32_t format, uint32_t flags, uint32_t dtype, void *rows)
{
    akv_decode_params params = {{dim, dim, dtype, 1}, n, dim, format, flags, 0, 0};
    struct verify_launch launch = {.params = &params};
    uint64_t bytes = (uint64_t)n * dim * akv_raw_bytes(dtype);
    launch.span[0] = (struct verify_span){tile, NULL, akv_tile_bytes(format, n, dim)};
    launch.span[1] = (struct verify_span){NULL, verify_any, bytes};
    launch.result[1] = rows;
    return verify_reference(v, AKV_K_DECODE, &launch);
}

/* ---- messages ---- */

void verify_print_row(const char *what, const void *row, uint32_t dtype, uint32_t dim)
{
    const uint8_t *at = row;
    uint32_t each = akv_raw_bytes(dtype);
    fprintf(stderr, "  %s (%s bits):", what, verify_format_name(dtype));
    for (uint32_t i = 0; i < dim; i++) {
        uint32_t u = 0;
        memcpy(&u, at + (uint64_t)i * each, each);
        fprintf(stderr, "%s%0*" PRIx32, i % 16 == 0 ? "\n   " : " ", (int)(2 * each), u);
    }
    fprintf(stderr, "\n");
}
