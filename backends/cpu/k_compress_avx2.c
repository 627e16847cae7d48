/* SPDX-License-Identifier: Apache-2.0 */
/* BX16 with AVX2: 32 elements at a time. */
#include "k_compress.h"
#include <immintrin.h>

/* Low bytes of 2 x 16 words, in order. */
static inline __m256i narrow(__m256i a, __m256i b)
{
    return _mm256_permute4x64_epi64(_mm256_packus_epi16(a, b), 0xD8);
}

static inline __m256i exponents(__m256i x)
{
    return _mm256_and_si256(_mm256_srli_epi16(x, 7), _mm256_set1_epi16(0xFF));
}

static inline __m256i rests_of(__m256i x)
{
    return _mm256_or_si256(_mm256_and_si256(_mm256_srli_epi16(x, 8), _mm256_set1_epi16(0x80)),
                           _mm256_and_si256(x, _mm256_set1_epi16(0x7F)));
}

/* ---- count ---- */

static uint64_t count_items(const struct akv_cpu_args *args, uint32_t phase)
{
    return akv_cpu_bx16_count_scalar.items(args, phase);
}

/* A piece's largest exponent and the 15 below it by comparison, downwards until all are found, the others one by
 * one. */
static void count_piece(const uint8_t *rows, akv_u32 counts[256])
{
    __m256i e[AKV_BX16_PIECE / 32u], most = _mm256_setzero_si256();
    uint8_t byte[AKV_BX16_PIECE];
    akv_u32 low, i, k, seen = 0;
    for (i = 0; i < AKV_BX16_PIECE / 32u; i++) {
        __m256i a = _mm256_loadu_si256((const __m256i *)(const void *)(rows + 64u * i));
        __m256i b = _mm256_loadu_si256((const __m256i *)(const void *)(rows + 64u * i + 32u));
        e[i] = _mm256_packus_epi16(exponents(a), exponents(b)); /* in any order */
        most = _mm256_max_epu8(most, e[i]);
    }
    _mm256_storeu_si256((__m256i *)(void *)byte, most);
    for (i = 1; i < 32u; i++)
        byte[0] = AKV_MAX(byte[0], byte[i]);
    low = byte[0] < 15u ? 0u : byte[0] - 15u;
    for (k = low + 16u; k-- > low && seen < AKV_BX16_PIECE;) {
        const __m256i value = _mm256_set1_epi8((char)k);
        __m256i sum = _mm256_setzero_si256();
        for (i = 0; i < AKV_BX16_PIECE / 32u; i++)
            sum = _mm256_sub_epi8(sum, _mm256_cmpeq_epi8(e[i], value)); /* at most 32 in a byte */
        sum = _mm256_sad_epu8(sum, _mm256_setzero_si256());
        __m128i half = _mm_add_epi64(_mm256_castsi256_si128(sum), _mm256_extracti128_si256(sum, 1));
        akv_u32 n = (akv_u32)(_mm_cvtsi128_si32(half) + _mm_extract_epi16(half, 4));
        counts[k] += n;
        seen += n;
    }
    if (seen == AKV_BX16_PIECE)
        return;
    memcpy(byte, e, sizeof byte);
    for (i = 0; i < AKV_BX16_PIECE; i++)
        if (byte[i] < low)
            counts[byte[i]]++;
}

static void count_run(const struct akv_cpu_args *args, uint32_t phase, uint64_t first, uint64_t count)
{
    const akv_bx16_params *p = args->params;
    const uint64_t full = p->elements / AKV_BX16_PIECE, end = (first + count) * AKV_BX16_COUNT_PIECES;
    akv_u32 counts[256] = {0};
    (void)phase;
    for (uint64_t piece = first * AKV_BX16_COUNT_PIECES; piece < AKV_MIN(end, full); piece++)
        count_piece(args->arg[0] + piece * AKV_BX16_PIECE * 2u, counts);
    for (uint64_t i = full * AKV_BX16_PIECE; end > full && i < p->elements; i++)
        counts[akv_bx16_exponent((akv_u32)(args->arg[0][2u * i] | args->arg[0][2u * i + 1u] << 8))]++;
    akv_bx16_counts_add(args->arg[1], counts);
}

/* ---- pieces ---- */

static akv_u32 split(const akv_bx16_params *p, const uint8_t *rows, akv_u32 m, uint8_t *rests, uint8_t *indices)
{
    const akv_u32 low = akv_bx16_entry(p, 0);
    const bool range = akv_bx16_entry(p, 15) - low == 15u; /* 16 neighbours, as real rows have */
    const __m256i base = _mm256_set1_epi8((char)low), fifteen = _mm256_set1_epi8(15);
    akv_u32 i, found_all = 0;
    for (i = 0; i + 32u <= m; i += 32u) {
        __m256i a = _mm256_loadu_si256((const __m256i *)(const void *)(rows + 2u * i));
        __m256i b = _mm256_loadu_si256((const __m256i *)(const void *)(rows + 2u * i + 32u));
        __m256i e = narrow(exponents(a), exponents(b)), index, found;
        _mm256_storeu_si256((__m256i *)(void *)(rests + i), narrow(rests_of(a), rests_of(b)));
        if (range) {
            index = _mm256_sub_epi8(e, base);
            found = _mm256_cmpeq_epi8(_mm256_min_epu8(index, fifteen), index);
            index = _mm256_and_si256(index, found);
        } else {
            index = found = _mm256_setzero_si256();
            for (akv_u32 k = 0; k < 16u; k++) {
                __m256i same = _mm256_cmpeq_epi8(e, _mm256_set1_epi8((char)akv_bx16_entry(p, k)));
                found = _mm256_or_si256(found, same);
                index = _mm256_or_si256(index, _mm256_and_si256(same, _mm256_set1_epi8((char)k)));
            }
        }
        __m256i pairs = _mm256_maddubs_epi16(index, _mm256_set1_epi16(0x1001));
        _mm_storeu_si128((__m128i *)(void *)(indices + i / 2u), _mm256_castsi256_si128(narrow(pairs, pairs)));
        found_all += (akv_u32)__builtin_popcount((unsigned)_mm256_movemask_epi8(found));
    }
    return i - found_all + akv_bx16_split_from(p, rows, i, m, rests, indices);
}

static void merge(const akv_bx16_params *p, const uint8_t *rests, const uint8_t *indices, akv_u32 m,
                  uint8_t *rows)
{
    const __m256i table =
        _mm256_broadcastsi128_si256(_mm_loadu_si128((const __m128i *)(const void *)p->table));
    akv_u32 i;
    for (i = 0; i + 32u <= m; i += 32u) {
        __m256i pairs = _mm256_cvtepu8_epi16(_mm_loadu_si128((const __m128i *)(const void *)(indices + i / 2u)));
        __m256i index = _mm256_or_si256(_mm256_and_si256(pairs, _mm256_set1_epi16(0x0F)),
                                        _mm256_slli_epi16(_mm256_and_si256(pairs, _mm256_set1_epi16(0xF0)), 4));
        __m256i e = _mm256_shuffle_epi8(table, index);
        __m256i rest = _mm256_loadu_si256((const __m256i *)(const void *)(rests + i));
        __m256i low = _mm256_or_si256(_mm256_and_si256(rest, _mm256_set1_epi8(0x7F)),
                                      _mm256_and_si256(_mm256_slli_epi16(e, 7), _mm256_set1_epi8((char)0x80)));
        __m256i high = _mm256_or_si256(_mm256_and_si256(rest, _mm256_set1_epi8((char)0x80)),
                                       _mm256_and_si256(_mm256_srli_epi16(e, 1), _mm256_set1_epi8(0x7F)));
        __m256i a = _mm256_unpacklo_epi8(low, high), b = _mm256_unpackhi_epi8(low, high);
        _mm256_storeu_si256((__m256i *)(void *)(rows + 2u * i), _mm256_permute2x128_si256(a, b, 0x20));
        _mm256_storeu_si256((__m256i *)(void *)(rows + 2u * i + 32u), _mm256_permute2x128_si256(a, b, 0x31));
    }
    akv_bx16_merge_from(p, rests, indices, i, m, rows);
}

static akv_u32 sum(const uint8_t *rows, akv_u32 m)
{
    const __m256i step = _mm256_set1_epi32((int)(8u * 0x9E3779B1u)), factor = _mm256_set1_epi32((int)0x85EBCA6Bu);
    __m256i place = _mm256_mullo_epi32(_mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7), _mm256_set1_epi32((int)0x9E3779B1u));
    __m256i all = _mm256_setzero_si256();
    akv_u32 lane[8], j, result = 0;
    for (j = 0; j + 8u <= m / 2u; j += 8u) {
        __m256i a = _mm256_add_epi32(_mm256_loadu_si256((const __m256i *)(const void *)(rows + 4u * j)), place);
        a = _mm256_mullo_epi32(_mm256_xor_si256(a, _mm256_srli_epi32(a, 16)), factor);
        all = _mm256_add_epi32(all, _mm256_xor_si256(a, _mm256_srli_epi32(a, 13)));
        place = _mm256_add_epi32(place, step);
    }
    _mm256_storeu_si256((__m256i *)(void *)lane, all);
    for (akv_u32 i = 0; i < 8u; i++)
        result += lane[i];
    return result + akv_bx16_sum_from(rows, j, m);
}

static void encode_run(const struct akv_cpu_args *args, uint32_t phase, uint64_t first, uint64_t count)
{
    akv_bx16_encode_run(args, phase, first, count, split, sum);
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

const struct akv_cpu_kernel akv_cpu_bx16_count_avx2 = {1, count_items, count_run, NULL, NULL};
const struct akv_cpu_kernel akv_cpu_bx16_encode_avx2 = {3, akv_bx16_encode_items, encode_run, NULL, NULL};
const struct akv_cpu_kernel akv_cpu_bx16_decode_avx2 = {1, decode_items, decode_run, NULL, NULL};
