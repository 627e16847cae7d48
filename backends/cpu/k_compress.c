/* SPDX-License-Identifier: Apache-2.0 */
/* CPU kernels of the compress family: BX16.  An item is a piece of 1024 elements, of count 64 pieces.
 * Encoding takes three phases: pieces and their numbers of escapes, the sum of those in order, escapes. */
#include "k_compress.h"

static akv_u32 load16(const uint8_t *rows, akv_u32 i)
{
    uint16_t bits;
    memcpy(&bits, rows + 2u * i, 2);
    return bits;
}

static void store16(uint8_t *rows, akv_u32 i, akv_u32 bits)
{
    uint16_t value = (uint16_t)bits;
    memcpy(rows + 2u * i, &value, 2);
}

static void store32(uint8_t *to, akv_u32 value)
{
    memcpy(to, &value, 4);
}

/* ---- count ---- */

void akv_bx16_counts_add(uint8_t *to, const akv_u32 counts[256])
{
    for (akv_u32 e = 0; e < 256u; e++)
        if (counts[e])
            __atomic_fetch_add((akv_u32 *)(void *)(to + 4u * e), counts[e], __ATOMIC_RELAXED);
}

static uint64_t count_items(const struct akv_cpu_args *args, uint32_t phase)
{
    (void)phase;
    const akv_bx16_params *p = args->params;
    return (akv_bx16_pieces(p->elements) + AKV_BX16_COUNT_PIECES - 1u) / AKV_BX16_COUNT_PIECES;
}

/* Neighbours have equal exponents and a counter is a memory cell, so four take turns. */
static void count_run(const struct akv_cpu_args *args, uint32_t phase, uint64_t first, uint64_t count)
{
    (void)phase;
    const akv_bx16_params *p = args->params;
    akv_u32 counts[4][256] = {{0}};
    const uint64_t each = AKV_BX16_COUNT_PIECES * AKV_BX16_PIECE;
    const uint64_t end = AKV_MIN((first + count) * each, (uint64_t)p->elements);
    uint64_t i = first * each;
    for (; i + 4u <= end; i += 4u) {
        uint64_t four;
        memcpy(&four, args->arg[0] + 2u * i, 8);
        counts[0][four >> 7 & 255u]++;
        counts[1][four >> 23 & 255u]++;
        counts[2][four >> 39 & 255u]++;
        counts[3][four >> 55 & 255u]++;
    }
    for (; i < end; i++)
        counts[0][akv_bx16_exponent(load16(args->arg[0], (akv_u32)i))]++;
    for (akv_u32 e = 0; e < 256u; e++)
        counts[0][e] += counts[1][e] + counts[2][e] + counts[3][e];
    akv_bx16_counts_add(args->arg[1], counts[0]);
}

/* ---- a piece ---- */

akv_u32 akv_bx16_split_from(const akv_bx16_params *p, const uint8_t *rows, akv_u32 from, akv_u32 m,
                            uint8_t *rests, uint8_t *indices)
{
    uint8_t index[256];
    akv_u32 escapes = 0;
    if (from == m)
        return 0;
    memset(index, AKV_BX16_ESCAPE, sizeof index);
    for (akv_u32 i = 0; i < 16u; i++)
        index[akv_bx16_entry(p, i)] = (uint8_t)i;
    memset(indices + from / 2u, 0, (m + 1u) / 2u - from / 2u); /* from is even */
    for (akv_u32 i = from; i < m; i++) {
        akv_u32 bits = load16(rows, i), k = index[akv_bx16_exponent(bits)];
        rests[i] = (uint8_t)akv_bx16_rest(bits);
        escapes += k / AKV_BX16_ESCAPE;
        indices[i / 2u] |= (uint8_t)((k & 15u) << 4u * (i & 1u));
    }
    return escapes;
}

void akv_bx16_merge_from(const akv_bx16_params *p, const uint8_t *rests, const uint8_t *indices, akv_u32 from,
                         akv_u32 m, uint8_t *rows)
{
    for (akv_u32 i = from; i < m; i++)
        store16(rows, i,
                akv_bx16_join(rests[i], akv_bx16_entry(p, (uint32_t)indices[i / 2u] >> 4u * (i & 1u) & 15u)));
}

akv_u32 akv_bx16_sum_from(const uint8_t *rows, akv_u32 word, akv_u32 m)
{
    akv_u32 sum = 0;
    for (akv_u32 j = word; j < (m + 1u) / 2u; j++)
        sum += akv_bx16_mix(load16(rows, 2u * j) | (2u * j + 1u < m ? load16(rows, 2u * j + 1u) << 16 : 0u), j);
    return sum;
}

static akv_u32 split(const akv_bx16_params *p, const uint8_t *rows, akv_u32 m, uint8_t *rests, uint8_t *indices)
{
    return akv_bx16_split_from(p, rows, 0, m, rests, indices);
}

static void merge(const akv_bx16_params *p, const uint8_t *rests, const uint8_t *indices, akv_u32 m,
                  uint8_t *rows)
{
    akv_bx16_merge_from(p, rests, indices, 0, m, rows);
}

static akv_u32 sum(const uint8_t *rows, akv_u32 m)
{
    return akv_bx16_sum_from(rows, 0, m);
}

/* ---- encode ---- */

uint64_t akv_bx16_encode_items(const struct akv_cpu_args *args, uint32_t phase)
{
    const akv_bx16_params *p = args->params;
    return phase == 1 ? 1 : akv_bx16_pieces(p->elements);
}

static void put_piece(const struct akv_cpu_args *args, akv_u32 piece, akv_bx16_split *split_,
                      akv_bx16_sum *sum_)
{
    const akv_bx16_params *p = args->params;
    const akv_u32 m = akv_bx16_length(p->elements, piece), half = (m + 1u) / 2u;
    const uint8_t *rows = args->arg[0] + (uint64_t)piece * AKV_BX16_PIECE * 2u;
    uint8_t *rests = args->arg[1] + akv_bx16_piece_at(p->elements, piece);
    uint8_t *indices = args->arg[1] + akv_bx16_indices_at(p->elements, piece);
    uint8_t *record = args->arg[1] + (size_t)piece * 8u;
    memset(rests + m, 0, akv_pad16(m) - m);
    memset(indices + half, 0, akv_pad16(half) - half);
    store32(record, split_(p, rows, m, rests, indices));
    store32(record + 4, sum_(rows, m) + piece);
}

/* Numbers of escapes to sums of the earlier ones, and what pads records and escapes. */
static void sum_records(const struct akv_cpu_args *args)
{
    const akv_bx16_params *p = args->params;
    const akv_u32 pieces = akv_bx16_pieces(p->elements);
    akv_u32 before = 0;
    for (akv_u32 piece = 0; piece < pieces; piece++) {
        akv_u32 own = akv_load_u32(args->arg[1] + (size_t)piece * 8u);
        store32(args->arg[1] + (size_t)piece * 8u, before);
        before += own;
    }
    memset(args->arg[1] + (size_t)pieces * 8u, 0, akv_pad16(pieces * 8u) - pieces * 8u);
    uint64_t end = akv_bx16_bytes(p->elements, p->escapes);
    uint64_t last = akv_bx16_escapes_at(p->elements) + (uint64_t)p->escapes * 4u;
    memset(args->arg[1] + last, 0, end - last);
}

/* Escapes of a piece: its first one and the one behind its last. */
static akv_u32 escapes_before(const struct akv_cpu_args *args, const uint8_t *body, akv_u32 piece)
{
    const akv_bx16_params *p = args->params;
    return piece < akv_bx16_pieces(p->elements) ? akv_load_u32(body + (size_t)piece * 8u) : p->escapes;
}

static void put_escapes(const struct akv_cpu_args *args, akv_u32 piece)
{
    const akv_bx16_params *p = args->params;
    akv_u32 at = escapes_before(args, args->arg[1], piece), end = escapes_before(args, args->arg[1], piece + 1u);
    const akv_u32 m = akv_bx16_length(p->elements, piece);
    const uint8_t *rows = args->arg[0] + (uint64_t)piece * AKV_BX16_PIECE * 2u;
    /* What the parameters promise is not trusted with memory: a wrong count writes less. */
    end = AKV_MIN(end, p->escapes);
    if (at >= end)
        return;
    bool known[256] = {false};
    for (akv_u32 k = 0; k < 16u; k++)
        known[akv_bx16_entry(p, k)] = true;
    /* They are among the elements of index 0, which are few: the exponents' lowest. */
    const uint8_t *indices = args->arg[1] + akv_bx16_indices_at(p->elements, piece);
    for (akv_u32 i = 0; i < m; i += 16u) { /* they are padded to more */
        uint64_t some;
        memcpy(&some, indices + i / 2u, 8);
        some |= some >> 1;
        some |= some >> 2;
        for (some = ~some & 0x1111111111111111u; some && at < end; some &= some - 1u) {
            const akv_u32 position = i + (akv_u32)__builtin_ctzll(some) / 4u;
            const akv_u32 exponent = position < m ? akv_bx16_exponent(load16(rows, position)) : akv_bx16_entry(p, 0);
            if (!known[exponent])
                store32(args->arg[1] + akv_bx16_escapes_at(p->elements) + (uint64_t)at++ * 4u,
                        position | exponent << 16);
        }
    }
}

void akv_bx16_encode_run(const struct akv_cpu_args *args, uint32_t phase, uint64_t first, uint64_t count,
                         akv_bx16_split *split_, akv_bx16_sum *sum_)
{
    if (phase == 1) {
        sum_records(args);
        return;
    }
    for (uint64_t piece = first; piece < first + count; piece++)
        if (phase == 0)
            put_piece(args, (akv_u32)piece, split_, sum_);
        else
            put_escapes(args, (akv_u32)piece);
}

static void encode_run(const struct akv_cpu_args *args, uint32_t phase, uint64_t first, uint64_t count)
{
    akv_bx16_encode_run(args, phase, first, count, split, sum);
}

/* ---- decode ---- */

/* Escapes to their elements; false where they are damaged. */
static bool get_escapes(const struct akv_cpu_args *args, akv_u32 piece, uint8_t *rows, akv_u32 m)
{
    const akv_bx16_params *p = args->params;
    const uint8_t *body = args->arg[0];
    akv_u32 at = escapes_before(args, body, piece), end = escapes_before(args, body, piece + 1u), next = 0;
    if (at > end || end > p->escapes || (piece == 0 && at != 0))
        return false;
    for (; at < end; at++) {
        akv_u32 escape = akv_load_u32(body + akv_bx16_escapes_at(p->elements) + (uint64_t)at * 4u);
        akv_u32 position = escape & 0xFFFFu, exponent = escape >> 16;
        if (position < next || position >= m || exponent > 255u)
            return false;
        store16(rows, position, (load16(rows, position) & 0x807Fu) | exponent << 7);
        next = position + 1u;
    }
    return true;
}

void akv_bx16_decode_run(const struct akv_cpu_args *args, uint64_t first, uint64_t count,
                         akv_bx16_merge *merge_, akv_bx16_sum *sum_)
{
    const akv_bx16_params *p = args->params;
    for (uint64_t i = first; i < first + count; i++) {
        const akv_u32 piece = (akv_u32)i, m = akv_bx16_length(p->elements, piece);
        uint8_t *rows = args->arg[1] + i * AKV_BX16_PIECE * 2u;
        merge_(p, args->arg[0] + akv_bx16_piece_at(p->elements, piece),
               args->arg[0] + akv_bx16_indices_at(p->elements, piece), m, rows);
        if (!get_escapes(args, piece, rows, m) ||
            sum_(rows, m) + piece != akv_load_u32(args->arg[0] + i * 8u + 4u))
            __atomic_store_n((akv_u32 *)(void *)args->arg[2], 1u, __ATOMIC_RELAXED);
    }
}

static uint64_t decode_items(const struct akv_cpu_args *args, uint32_t phase)
{
    (void)phase;
    return akv_bx16_encode_items(args, 0);
}

static void decode_run(const struct akv_cpu_args *args, uint32_t phase, uint64_t first, uint64_t count)
{
    (void)phase;
    akv_bx16_decode_run(args, first, count, merge, sum);
}

const struct akv_cpu_kernel akv_cpu_bx16_count_scalar = {1, count_items, count_run, NULL, NULL};
const struct akv_cpu_kernel akv_cpu_bx16_encode_scalar = {3, akv_bx16_encode_items, encode_run, NULL, NULL};
const struct akv_cpu_kernel akv_cpu_bx16_decode_scalar = {1, decode_items, decode_run, NULL, NULL};
