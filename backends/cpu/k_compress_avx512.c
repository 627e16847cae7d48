/* SPDX-License-Identifier: Apache-2.0 */
/* BX16 with AVX-512 (BW, VBMI): counting and encoding, 32 to 128 elements at a time. */
#include "k_compress.h"
#include <immintrin.h>

static inline __m512i load(const uint8_t *from)
{
    return _mm512_loadu_si512(from);
}

/* ---- count ---- */

/* How often each of the 16 exponents from `low` on occurred: exponent low + k in bit k of the words of the five
 * vectors, which weigh 1, 2, 4, 8 and 16, and in counts. */
struct tally {
    __m512i weight[5];
    akv_u32 low;
    akv_u32 counts[256];
};

static uint64_t count_items(const struct akv_cpu_args *args, uint32_t phase)
{
    return akv_cpu_bx16_count_scalar.items(args, phase);
}

/* Exponents of 32 elements as words. */
static inline __m512i exponents(const uint8_t *rows)
{
    const __m512i from = _mm512_set1_epi64(0x0037002700170007); /* bits 7, 23, 39, 55 */
    return _mm512_maskz_multishift_epi64_epi8(0x5555555555555555u, from, load(rows));
}

/* a + b + *sum: the carries. */
static inline __m512i add3(__m512i *sum, __m512i a, __m512i b)
{
    const __m512i carry = _mm512_ternarylogic_epi64(a, b, *sum, 0xE8);
    *sum = _mm512_ternarylogic_epi64(a, b, *sum, 0x96);
    return carry;
}

static void count_bits(struct tally *t, __m512i bits, akv_u32 weight)
{
    for (akv_u32 k = 0; k < 16u; k++) {
        const __mmask32 those = _mm512_test_epi16_mask(bits, _mm512_set1_epi16((short)(1u << k)));
        t->counts[t->low + k] += weight * (akv_u32)__builtin_popcount(those);
    }
}

static void flush(struct tally *t)
{
    for (akv_u32 i = 0; i < 5u; i++) {
        count_bits(t, t->weight[i], 1u << i);
        t->weight[i] = _mm512_setzero_si512();
    }
}

/* The window of 16 that ends with a piece's largest exponent. */
static void set_window(struct tally *t, const uint8_t *rows)
{
    __m512i most = _mm512_setzero_si512();
    for (akv_u32 i = 0; i < AKV_BX16_PIECE / 32u; i++)
        most = _mm512_max_epu16(most, exponents(rows + 64u * i));
    const akv_u32 top = (akv_u32)_mm512_reduce_max_epi32(
        _mm512_max_epu16(_mm512_srli_epi32(most, 16), _mm512_and_si512(most, _mm512_set1_epi32(0xFFFF))));
    t->low = top < 15u ? 0u : top - 15u;
}

/* 512 elements: vectors that weigh 16.  *most: the farthest place in the window. */
static inline __m512i count_half(struct tally *t, const uint8_t *rows, __m512i *most)
{
    const __m512i low = _mm512_set1_epi16((short)t->low), one = _mm512_set1_epi16(1);
    __m512i *w = t->weight, two[2], four[2], eight[2];
    for (akv_u32 i = 0; i < 2u; i++) {
        for (akv_u32 j = 0; j < 2u; j++) {
            for (akv_u32 k = 0; k < 2u; k++) {
                const uint8_t *at = rows + 64u * (8u * i + 4u * j + 2u * k);
                const __m512i a = _mm512_sub_epi16(exponents(at), low);
                const __m512i b = _mm512_sub_epi16(exponents(at + 64u), low);
                *most = _mm512_max_epu16(*most, _mm512_max_epu16(a, b));
                /* a shift by 16 or more gives 0 */
                two[k] = add3(&w[0], _mm512_sllv_epi16(one, a), _mm512_sllv_epi16(one, b));
            }
            four[j] = add3(&w[1], two[0], two[1]);
        }
        eight[i] = add3(&w[2], four[0], four[1]);
    }
    return add3(&w[3], eight[0], eight[1]);
}

static void count_piece(struct tally *t, const uint8_t *rows)
{
    __m512i most = _mm512_setzero_si512();
    const __m512i a = count_half(t, rows, &most), b = count_half(t, rows + AKV_BX16_PIECE, &most);
    count_bits(t, add3(&t->weight[4], a, b), 32u);
    if (!_mm512_cmpgt_epu16_mask(most, _mm512_set1_epi16(15)))
        return;
    akv_u32 others = 0;
    for (akv_u32 i = 0; i < AKV_BX16_PIECE / 32u; i++) {
        const __m512i place = _mm512_sub_epi16(exponents(rows + 64u * i), _mm512_set1_epi16((short)t->low));
        __mmask32 those = _mm512_cmpgt_epu16_mask(place, _mm512_set1_epi16(15));
        others += (akv_u32)__builtin_popcount(those);
        for (; those; those &= those - 1u) {
            const uint8_t *x = rows + 64u * i + 2u * (akv_u32)__builtin_ctz(those);
            t->counts[akv_bx16_exponent((akv_u32)(x[0] | x[1] << 8))]++;
        }
    }
    if (others > AKV_BX16_PIECE / 16u) { /* the rows that follow may be like these */
        flush(t);
        set_window(t, rows);
    }
}

static void count_run(const struct akv_cpu_args *args, uint32_t phase, uint64_t first, uint64_t count)
{
    const akv_bx16_params *p = args->params;
    const uint64_t full = p->elements / AKV_BX16_PIECE, end = (first + count) * AKV_BX16_COUNT_PIECES;
    struct tally t = {.low = 0};
    (void)phase;
    uint64_t piece = first * AKV_BX16_COUNT_PIECES;
    if (piece < full)
        set_window(&t, args->arg[0] + piece * AKV_BX16_PIECE * 2u);
    for (; piece < AKV_MIN(end, full); piece++)
        count_piece(&t, args->arg[0] + piece * AKV_BX16_PIECE * 2u);
    flush(&t);
    for (uint64_t i = full * AKV_BX16_PIECE; end > full && i < p->elements; i++)
        t.counts[akv_bx16_exponent((akv_u32)(args->arg[0][2u * i] | args->arg[0][2u * i + 1u] << 8))]++;
    akv_bx16_counts_add(args->arg[1], t.counts);
}

/* ---- pieces ---- */

/* Of two vectors, the bytes of their words: the lower ones for _mm512_permutex2var_epi8, the upper ones by 1 more. */
static inline __m512i lower_bytes(void)
{
    return _mm512_set_epi8(126, 124, 122, 120, 118, 116, 114, 112, 110, 108, 106, 104, 102, 100, 98, 96, 94, 92, 90,
                           88, 86, 84, 82, 80, 78, 76, 74, 72, 70, 68, 66, 64, 62, 60, 58, 56, 54, 52, 50, 48, 46,
                           44, 42, 40, 38, 36, 34, 32, 30, 28, 26, 24, 22, 20, 18, 16, 14, 12, 10, 8, 6, 4, 2, 0);
}

/* Rests of 64 elements to `rests`; indices in the table of 256, escapes 16. */
static inline __m512i split64(const __m512i table[4], const uint8_t *rows, uint8_t *rests)
{
    const __m512i one = _mm512_set1_epi8(1), a = load(rows), b = load(rows + 64);
    const __m512i low = _mm512_permutex2var_epi8(a, lower_bytes(), b);
    const __m512i high = _mm512_permutex2var_epi8(a, _mm512_add_epi8(lower_bytes(), one), b);
    /* high << 1 | low >> 7, of bytes */
    const __m512i e =
        _mm512_ternarylogic_epi64(_mm512_add_epi8(high, high), _mm512_srli_epi16(low, 7), one, 0xF8);
    _mm512_storeu_si512(rests, _mm512_ternarylogic_epi64(_mm512_set1_epi8((char)0x80), high, low, 0xCA));
    return _mm512_mask_mov_epi8(_mm512_permutex2var_epi8(table[0], e, table[1]), _mm512_movepi8_mask(e),
                                _mm512_permutex2var_epi8(table[2], e, table[3]));
}

static akv_u32 split(const akv_bx16_params *p, const uint8_t *rows, akv_u32 m, uint8_t *rests, uint8_t *indices)
{
    const __m512i sixteen = _mm512_set1_epi8(AKV_BX16_ESCAPE), factors = _mm512_set1_epi16(0x1001);
    uint8_t entry[256];
    __m512i table[4];
    akv_u32 i, k, escapes = 0;
    memset(entry, AKV_BX16_ESCAPE, sizeof entry);
    for (k = 0; k < 16u; k++)
        entry[akv_bx16_entry(p, k)] = (uint8_t)k;
    for (k = 0; k < 4u; k++)
        table[k] = load(entry + 64u * k);
    for (i = 0; i + 128u <= m; i += 128u) {
        const __m512i a = split64(table, rows + 2u * i, rests + i);
        const __m512i b = split64(table, rows + 2u * i + 128u, rests + i + 64u);
        const __mmask64 not_a = _mm512_test_epi8_mask(a, sixteen), not_b = _mm512_test_epi8_mask(b, sixteen);
        const __m512i pairs_a = _mm512_maddubs_epi16(_mm512_andnot_si512(sixteen, a), factors);
        const __m512i pairs_b = _mm512_maddubs_epi16(_mm512_andnot_si512(sixteen, b), factors);
        escapes += (akv_u32)__builtin_popcountll(not_a) + (akv_u32)__builtin_popcountll(not_b);
        _mm512_storeu_si512(indices + i / 2u, _mm512_permutex2var_epi8(pairs_a, lower_bytes(), pairs_b));
    }
    return escapes + akv_bx16_split_from(p, rows, i, m, rests, indices);
}

static akv_u32 sum(const uint8_t *rows, akv_u32 m)
{
    const __m512i step = _mm512_set1_epi32((int)(16u * 0x9E3779B1u)), factor = _mm512_set1_epi32((int)0x85EBCA6Bu);
    __m512i place = _mm512_mullo_epi32(_mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15),
                                       _mm512_set1_epi32((int)0x9E3779B1u));
    __m512i all = _mm512_setzero_si512();
    akv_u32 j, lane[16], total = 0;
    for (j = 0; j + 16u <= m / 2u; j += 16u) {
        __m512i a = _mm512_add_epi32(load(rows + 4u * j), place);
        a = _mm512_mullo_epi32(_mm512_xor_si512(a, _mm512_srli_epi32(a, 16)), factor);
        all = _mm512_add_epi32(all, _mm512_xor_si512(a, _mm512_srli_epi32(a, 13)));
        place = _mm512_add_epi32(place, step);
    }
    _mm512_storeu_si512(lane, all);
    for (akv_u32 l = 0; l < 16u; l++) /* modulo 2^32, which the intrinsic's signed sum is not */
        total += lane[l];
    return total + akv_bx16_sum_from(rows, j, m);
}

static void encode_run(const struct akv_cpu_args *args, uint32_t phase, uint64_t first, uint64_t count)
{
    akv_bx16_encode_run(args, phase, first, count, split, sum);
}

const struct akv_cpu_kernel akv_cpu_bx16_count_avx512 = {1, count_items, count_run, NULL, NULL};
const struct akv_cpu_kernel akv_cpu_bx16_encode_avx512 = {3, akv_bx16_encode_items, encode_run, NULL, NULL};
