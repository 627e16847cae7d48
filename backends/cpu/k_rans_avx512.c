/* SPDX-License-Identifier: Apache-2.0 */
/* rANS with AVX-512: a step of 32 lanes at a time, states in two registers. */
#include "k_rans.h"
#include <immintrin.h>

#define INLINE static inline __attribute__((always_inline))

/* ---- symbols of a step: words to bytes and back ---- */

INLINE akv_u32 word_at(const uint8_t *words, akv_u32 i)
{
    akv_u32 value;
    memcpy(&value, words + (size_t)i * 4u, 4);
    return value;
}
INLINE void word_put(uint8_t *words, akv_u32 i, akv_u32 value)
{
    memcpy(words + (size_t)i * 4u, &value, 4);
}

INLINE __m256i load_plane(const uint8_t *words, akv_u32 bits, akv_u32 at, akv_u32 word, akv_u32 lanes)
{
    if (bits == 8u) {
        const __mmask32 mask = lanes == 32u ? 0xFFFFFFFFu : 0xFFFFu;
        return _mm256_maskz_loadu_epi8(mask, words + (size_t)at * 4u);
    }
    if (bits == 4u) {
        __m128i raw = _mm_set_epi32((int)word_at(words, at + 3u * word), (int)word_at(words, at + 2u * word),
                                    (int)word_at(words, at + word), (int)word_at(words, at));
        __m256i v = _mm256_cvtepu8_epi16(raw);
        return _mm256_and_si256(_mm256_or_si256(v, _mm256_slli_epi16(v, 4)), _mm256_set1_epi8(15));
    }
    if (bits == 2u) {
        __m128i raw = _mm_set_epi32(0, 0, (int)word_at(words, at + word), (int)word_at(words, at));
        __m256i v = _mm256_cvtepu8_epi32(raw);
        v = _mm256_or_si256(v, _mm256_slli_epi32(v, 12));
        v = _mm256_or_si256(v, _mm256_slli_epi32(v, 6));
        return _mm256_and_si256(v, _mm256_set1_epi8(3));
    }
    return _mm256_maskz_set1_epi8(word_at(words, at), 1);
}

INLINE void store_plane(uint8_t *words, akv_u32 bits, akv_u32 at, akv_u32 word, akv_u32 lanes, __m256i v)
{
    if (bits == 8u) {
        const __mmask32 mask = lanes == 32u ? 0xFFFFFFFFu : 0xFFFFu;
        _mm256_mask_storeu_epi8(words + (size_t)at * 4u, mask, v);
    } else if (bits == 4u) {
        v = _mm256_maddubs_epi16(v, _mm256_set1_epi16(0x1001));
        __m128i packed = _mm256_cvtepi16_epi8(v);
        word_put(words, at, (akv_u32)_mm_extract_epi32(packed, 0));
        word_put(words, at + word, (akv_u32)_mm_extract_epi32(packed, 1));
        word_put(words, at + 2u * word, (akv_u32)_mm_extract_epi32(packed, 2));
        word_put(words, at + 3u * word, (akv_u32)_mm_extract_epi32(packed, 3));
    } else if (bits == 2u) {
        v = _mm256_madd_epi16(_mm256_maddubs_epi16(v, _mm256_set1_epi16(0x0401)), _mm256_set1_epi32(0x00100001));
        __m128i packed = _mm256_cvtepi32_epi8(v);
        word_put(words, at, (akv_u32)_mm_extract_epi32(packed, 0));
        word_put(words, at + word, (akv_u32)_mm_extract_epi32(packed, 1));
    } else
        word_put(words, at, (akv_u32)_mm256_test_epi8_mask(v, _mm256_set1_epi8(1)));
}

/* A place with the first words of its planes: finding those takes divisions. */
struct cursor {
    akv_rans_place place;
    akv_u32 at[2];
};
INLINE void set(const akv_rans_params *p, struct cursor *c)
{
    c->at[0] = akv_rans_word(p, 0, &c->place);
    c->at[1] = akv_rans_word(p, 1, &c->place);
}
INLINE void find(const akv_rans_params *p, akv_u32 step, struct cursor *c)
{
    akv_rans_find(p, step, &c->place);
    set(p, c);
}
INLINE void next(const akv_rans_params *p, struct cursor *c)
{
    if (AKV_LIKELY(c->place.step + 1u < p->tile_steps)) {
        c->place.step++;
        c->at[0] += p->plane[0].step;
        c->at[1] += p->plane[1].step;
    } else {
        akv_rans_next(p, &c->place);
        set(p, c);
    }
}
INLINE void previous(const akv_rans_params *p, struct cursor *c)
{
    if (AKV_LIKELY(c->place.step > 0)) {
        c->place.step--;
        c->at[0] -= p->plane[0].step;
        c->at[1] -= p->plane[1].step;
    } else {
        akv_rans_previous(p, &c->place);
        set(p, c);
    }
}

INLINE __m256i load_step(const akv_rans_params *p, const uint8_t *words, const struct cursor *c, akv_u32 b0, akv_u32 b1)
{
    const akv_u32 lanes = akv_rans_lanes(p, &c->place);
    __m256i v = load_plane(words, b0, c->at[0], p->plane[0].word, lanes);
    if (b1)
        v = _mm256_or_si256(v, _mm256_slli_epi16(load_plane(words, b1, c->at[1], p->plane[1].word, lanes),
                                                 (int)b0));
    return v;
}

/* A step of 8 bits is 32 bytes and far from the next one, which no prefetcher follows: brings in what is read AHEAD
 * steps later, or earlier.  An address beyond a tile's end is only of no use. */
#define AHEAD 16u
INLINE void prefetch_step(const akv_rans_params *p, const uint8_t *words, const struct cursor *c, akv_u32 b0, bool back)
{
    const uintptr_t by = (uintptr_t)p->plane[0].step * AHEAD * 4u, at = (uintptr_t)words + (uintptr_t)c->at[0] * 4u;
    if (b0 == 8u)
        _mm_prefetch((const char *)(back ? at - by : at + by), _MM_HINT_T0);
}

INLINE void store_step(const akv_rans_params *p, uint8_t *words, const struct cursor *c, akv_u32 b0, akv_u32 b1,
                       __m256i v)
{
    const akv_u32 lanes = akv_rans_lanes(p, &c->place);
    store_plane(words, b0, c->at[0], p->plane[0].word, lanes,
                b1 ? _mm256_and_si256(v, _mm256_set1_epi8((char)((1u << b0) - 1u))) : v);
    if (b1) {
        v = _mm256_and_si256(_mm256_srli_epi16(v, (int)b0), _mm256_set1_epi8((char)((1u << b1) - 1u)));
        store_plane(words, b1, c->at[1], p->plane[1].word, lanes, v);
    }
}

INLINE __m256i bytes_of(__m512i a, __m512i b)
{
    return _mm256_set_m128i(_mm512_cvtepi32_epi8(b), _mm512_cvtepi32_epi8(a));
}

/* ---- decode ---- */

/* Where each class of each lane begins, by class. */
struct bounds {
    uint16_t below[AKV_RANS_CLASSES + 1u][AKV_RANS_LANES]; /* the last: where all end */
};
static void fill_bounds(const struct akv_cpu_args *args, const struct akv_rans_tables *tables, akv_u32 stripe,
                        struct bounds *to)
{
    for (akv_u32 l = 0; l < AKV_RANS_LANES; l++) {
        const akv_u32 t = akv_rans_table(args->params, (const akv_u32 *)(const void *)args->arg[1],
                                         stripe * AKV_RANS_LANES + l);
        for (akv_u32 c = 0; c < AKV_RANS_CLASSES; c++)
            to->below[c][l] = tables->below[t][c];
        to->below[AKV_RANS_CLASSES][l] = AKV_RANS_ONE;
    }
}

INLINE __m512i bound(const struct bounds *b, akv_u32 c)
{
    return _mm512_loadu_si512(b->below[c]);
}
INLINE __m512i pick(__mmask32 m, __m512i no, __m512i yes)
{
    return _mm512_mask_mov_epi16(no, m, yes);
}

/* Classes of 32 slots, where each begins and the next one does; of 4, 8 or 16 classes. */
INLINE __m512i search(const struct bounds *b, akv_u32 classes, __m512i slot, __m512i *low_out, __m512i *high_out)
{
    __m512i t, low = _mm512_setzero_si512(), high = _mm512_set1_epi16(1024), class_ = low;
    __mmask32 m8 = 0, m4 = 0;
    if (classes > 8u) {
        t = bound(b, 8);
        m8 = _mm512_cmpge_epu16_mask(slot, t);
        low = _mm512_maskz_mov_epi16(m8, t);
        high = pick(m8, t, high);
        class_ = _mm512_maskz_set1_epi16(m8, 8);
    }
    if (classes > 4u) {
        t = classes > 8u ? pick(m8, bound(b, 4), bound(b, 12)) : bound(b, 4);
        m4 = _mm512_cmpge_epu16_mask(slot, t);
        low = pick(m4, low, t);
        high = pick(m4, t, high);
        class_ = _mm512_mask_add_epi16(class_, m4, class_, _mm512_set1_epi16(4));
    }
    t = classes > 4u ? pick(m4, bound(b, 2), bound(b, 6)) : bound(b, 2);
    if (classes > 8u)
        t = pick(m8, t, pick(m4, bound(b, 10), bound(b, 14)));
    const __mmask32 m2 = _mm512_cmpge_epu16_mask(slot, t);
    low = pick(m2, low, t);
    high = pick(m2, t, high);
    t = pick(m2, bound(b, 1), bound(b, 3));
    if (classes > 4u)
        t = pick(m4, t, pick(m2, bound(b, 5), bound(b, 7)));
    if (classes > 8u)
        t = pick(m8, t, pick(m4, pick(m2, bound(b, 9), bound(b, 11)), pick(m2, bound(b, 13), bound(b, 15))));
    const __mmask32 m1 = _mm512_cmpge_epu16_mask(slot, t);
    *low_out = pick(m1, low, t);
    *high_out = pick(m1, t, high);
    class_ = _mm512_mask_add_epi16(class_, m2, class_, _mm512_set1_epi16(2));
    return _mm512_mask_add_epi16(class_, m1, class_, _mm512_set1_epi16(1));
}

/* Symbols of 16 lanes from their classes, and what they take as it is out of the states. */
INLINE __m512i join(akv_u32 raw, akv_u32 centre, __m512i class_, __m512i *x)
{
    if (raw < AKV_RANS_SIGNED) {
        const __m512i bits = _mm512_and_si512(*x, _mm512_set1_epi32((1 << raw) - 1));
        *x = _mm512_srli_epi32(*x, raw);
        return _mm512_or_si512(_mm512_slli_epi32(class_, raw), bits);
    }
    const __m512i extras = _mm512_setr_epi32(0, 0, 0, 0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 6, 6, 6);
    const __m512i firsts = _mm512_setr_epi32(0, 1, 1, 2, 2, 3, 3, 5, 5, 9, 9, 17, 17, 33, 33, 97);
    const __m512i extra = _mm512_permutexvar_epi32(class_, extras), one = _mm512_set1_epi32(1);
    const __m512i bits = _mm512_and_si512(*x, _mm512_sub_epi32(_mm512_sllv_epi32(one, extra), one));
    __m512i m = _mm512_add_epi32(_mm512_permutexvar_epi32(class_, firsts), bits);
    const __mmask16 last = _mm512_cmpeq_epi32_mask(class_, _mm512_set1_epi32(15));
    const __mmask16 far = _mm512_mask_cmpge_epu32_mask(last, bits, _mm512_set1_epi32(31));
    const __mmask16 even = (__mmask16)~_mm512_test_epi32_mask(class_, one);
    m = _mm512_mask_sub_epi32(m, far, m, _mm512_set1_epi32(31));
    *x = _mm512_srlv_epi32(*x, extra);
    m = _mm512_mask_sub_epi32(m, (__mmask16)(even | far), _mm512_setzero_si512(), m);
    return _mm512_add_epi32(m, _mm512_set1_epi32((int)centre));
}

/* States below 2^16 take the next u16 in the order of lanes. */
INLINE __m512i refill(__m512i x, __mmask16 low, const uint8_t *stream, akv_u32 *got, akv_u32 all)
{
    const akv_u32 left = AKV_MIN(all - *got, 16u);
    const __m256i more = _mm256_maskz_loadu_epi16((__mmask16)((1u << left) - 1u), stream + 2u * *got);
    *got = AKV_MIN(all, *got + (akv_u32)__builtin_popcount(low));
    return _mm512_mask_or_epi32(x, low, _mm512_slli_epi32(x, 16),
                                _mm512_maskz_expand_epi32(low, _mm512_cvtepu16_epi32(more)));
}

/* A segment on its way; its states are apart, so that they stay in registers. */
struct decoding {
    const uint8_t *stream;
    akv_u32 got, all, stripe, steps, tail; /* steps: coded ones that are left */
    struct cursor at;
};
INLINE void decode_begin(const akv_rans_params *p, const struct akv_rans_part *part, struct decoding *d, __m512i *a, __m512i *b)
{
    const akv_u32 steps = akv_rans_segment_steps(p, part->segment);
    d->stream = part->from + AKV_RANS_LANES * 4u;
    d->got = 0;
    d->all = (part->words - AKV_RANS_LANES) * 2u;
    d->stripe = AKV_RANS_MAX;
    d->tail = akv_rans_tail(p, steps);
    d->steps = steps - d->tail;
    *a = _mm512_loadu_si512(part->from);
    *b = _mm512_loadu_si512(part->from + 64);
    find(p, part->segment * akv_rans_each(p), &d->at);
}

INLINE void decode_step(const struct akv_cpu_args *args, const struct akv_rans_tables *tables, struct bounds *bounds,
                        struct decoding *d, __m512i *a, __m512i *b, akv_u32 b0, akv_u32 b1, akv_u32 raw)
{
    const akv_rans_params *p = args->params;
    const akv_u32 classes = raw == AKV_RANS_SIGNED ? 16u : 1u << (b0 + b1 - raw);
    const __m512i ten = _mm512_set1_epi32(1023), limit = _mm512_set1_epi32(AKV_RANS_LOW);
    const bool whole = akv_rans_lanes(p, &d->at.place) == 32u;
    if (AKV_UNLIKELY(d->at.place.stripe != d->stripe)) {
        d->stripe = d->at.place.stripe;
        fill_bounds(args, tables, d->stripe, bounds);
    }
    __m512i low, high;
    const __m512i slot =
        _mm512_inserti64x4(_mm512_castsi256_si512(_mm512_cvtepi32_epi16(_mm512_and_si512(*a, ten))),
                           _mm512_cvtepi32_epi16(_mm512_and_si512(*b, ten)), 1);
    const __m512i class_ = search(bounds, classes, slot, &low, &high);
    const __m512i f = _mm512_sub_epi16(high, low), bias = _mm512_sub_epi16(slot, low);
    __m512i na = _mm512_add_epi32(
        _mm512_mullo_epi32(_mm512_srli_epi32(*a, 10), _mm512_cvtepu16_epi32(_mm512_castsi512_si256(f))),
        _mm512_cvtepu16_epi32(_mm512_castsi512_si256(bias)));
    __m512i nb = _mm512_add_epi32(
        _mm512_mullo_epi32(_mm512_srli_epi32(*b, 10), _mm512_cvtepu16_epi32(_mm512_extracti64x4_epi64(f, 1))),
        _mm512_cvtepu16_epi32(_mm512_extracti64x4_epi64(bias, 1)));
    const __m512i sa = join(raw, p->centre, _mm512_cvtepu16_epi32(_mm512_castsi512_si256(class_)), &na);
    const __m512i sb = join(raw, p->centre, _mm512_cvtepu16_epi32(_mm512_extracti64x4_epi64(class_, 1)), &nb);
    *a = refill(na, _mm512_cmplt_epu32_mask(na, limit), d->stream, &d->got, d->all);
    if (whole)
        *b = refill(nb, _mm512_cmplt_epu32_mask(nb, limit), d->stream, &d->got, d->all);
    store_step(p, args->arg[2], &d->at, b0, b1, bytes_of(sa, sb));
    next(p, &d->at);
}

INLINE bool decode_end(const struct akv_cpu_args *args, struct decoding *d, __m512i a, __m512i b, akv_u32 b0, akv_u32 b1)
{
    const akv_rans_params *p = args->params;
    const __m512i one = _mm512_set1_epi32(1), mask = _mm512_set1_epi32((int)((1u << (b0 + b1)) - 1u));
    const bool good = _mm512_cmpneq_epi32_mask(_mm512_srli_epi32(a, 16), one) == 0 &&
                      _mm512_cmpneq_epi32_mask(_mm512_srli_epi32(b, 16), one) == 0;
    for (akv_u32 i = 0; i < d->tail; i++, next(p, &d->at)) {
        store_step(p, args->arg[2], &d->at, b0, b1, bytes_of(_mm512_and_si512(a, mask), _mm512_and_si512(b, mask)));
        a = _mm512_srli_epi32(a, b0 + b1);
        b = _mm512_srli_epi32(b, b0 + b1);
    }
    return good && (d->got + 1u) / 2u == d->all / 2u;
}

/* count: 1 or 2.  The chain from a step's states to the next one's is long: two segments take turns in it. */
INLINE void decode_parts(const struct akv_cpu_args *args, const struct akv_rans_tables *tables,
                         const struct akv_rans_part *part, akv_u32 count, bool *good, akv_u32 b0, akv_u32 b1, akv_u32 raw)
{
    struct bounds bounds[2];
    struct decoding d[2];
    __m512i a0, c0, a1 = _mm512_setzero_si512(), c1 = a1;
    decode_begin(args->params, &part[0], &d[0], &a0, &c0);
    if (count == 2u) {
        decode_begin(args->params, &part[1], &d[1], &a1, &c1);
        for (; d[0].steps && d[1].steps; d[0].steps--, d[1].steps--) {
            decode_step(args, tables, &bounds[0], &d[0], &a0, &c0, b0, b1, raw);
            decode_step(args, tables, &bounds[1], &d[1], &a1, &c1, b0, b1, raw);
        }
        for (; d[1].steps; d[1].steps--)
            decode_step(args, tables, &bounds[1], &d[1], &a1, &c1, b0, b1, raw);
        good[1] = decode_end(args, &d[1], a1, c1, b0, b1);
    }
    for (; d[0].steps; d[0].steps--)
        decode_step(args, tables, &bounds[0], &d[0], &a0, &c0, b0, b1, raw);
    good[0] = decode_end(args, &d[0], a0, c0, b0, b1);
}

/* ---- encode ---- */

/* Class, number of bits as they are, and those, of 16 symbols. */
INLINE __m512i split(akv_u32 raw, akv_u32 centre, __m512i symbol, __m512i *extra, __m512i *bits)
{
    if (raw < AKV_RANS_SIGNED) {
        *extra = _mm512_set1_epi32((int)raw);
        *bits = _mm512_and_si512(symbol, _mm512_set1_epi32((1 << raw) - 1));
        return _mm512_srli_epi32(symbol, raw);
    }
    const __m512i one = _mm512_set1_epi32(1), zero = _mm512_setzero_si512();
    const __m512i firsts = _mm512_setr_epi32(0, 1, 2, 3, 5, 9, 17, 33, 97, 0, 0, 0, 0, 0, 0, 0);
    const __m512i extras = _mm512_setr_epi32(0, 0, 0, 1, 2, 3, 4, 6, 6, 0, 0, 0, 0, 0, 0, 0);
    __m512i d = _mm512_sub_epi32(symbol, _mm512_set1_epi32((int)centre)), level = zero;
    d = _mm512_srai_epi32(_mm512_slli_epi32(d, 24), 24);
    const __m512i m = _mm512_abs_epi32(d);
    static const int32_t first[8] = {1, 2, 3, 5, 9, 17, 33, 97};
    for (int i = 0; i < 8; i++)
        level = _mm512_mask_add_epi32(level, _mm512_cmpge_epi32_mask(m, _mm512_set1_epi32(first[i])), level, one);
    *extra = _mm512_permutexvar_epi32(level, extras);
    *bits = _mm512_sub_epi32(m, _mm512_permutexvar_epi32(level, firsts));
    const __mmask16 negative = _mm512_cmplt_epi32_mask(d, zero), last = _mm512_cmpeq_epi32_mask(level, _mm512_set1_epi32(8));
    *bits = _mm512_mask_add_epi32(*bits, (__mmask16)(negative & last), *bits, _mm512_set1_epi32(31));
    __m512i class_ = _mm512_sub_epi32(_mm512_add_epi32(level, level), one);
    class_ = _mm512_mask_add_epi32(class_, (__mmask16)(negative & ~last), class_, one);
    return _mm512_max_epi32(class_, zero);
}

/* x / f, x below f * 2^22, or one less: two operations that round down are off by less than 2^-22 of a quotient
 * below 2^22. */
INLINE __m512i divide(__m512i x, __m512i f)
{
    enum { DOWN = _MM_FROUND_TO_NEG_INF | _MM_FROUND_NO_EXC };
    return _mm512_cvttps_epu32(_mm512_div_round_ps(_mm512_cvt_roundepu32_ps(x, DOWN), _mm512_cvtepu32_ps(f), DOWN));
}

INLINE __m512i push(__m512i x, __m512i f, __m512i below, __m512i extra, __m512i bits)
{
    x = _mm512_or_si512(_mm512_sllv_epi32(x, extra), bits);
    const __m512i q = divide(x, f), rest = _mm512_sub_epi32(x, _mm512_mullo_epi32(q, f));
    const __m512i next = _mm512_add_epi32(_mm512_slli_epi32(q, 10), _mm512_add_epi32(rest, below));
    return _mm512_mask_add_epi32(next, _mm512_cmpge_epu32_mask(rest, f), next,
                                 _mm512_sub_epi32(_mm512_set1_epi32(AKV_RANS_ONE), f));
}

/* Bounds by 32 classes, of which the masks are the bits; next: where the next class begins. */
INLINE __m512i choose(const struct bounds *b, akv_u32 classes, akv_u32 next, const __mmask32 bit[4])
{
    __m512i of[4];
    for (akv_u32 i = 0; i < classes / 4u; i++)
        of[i] = pick(bit[1], pick(bit[0], bound(b, 4u * i + next), bound(b, 4u * i + 1u + next)),
                     pick(bit[0], bound(b, 4u * i + 2u + next), bound(b, 4u * i + 3u + next)));
    if (classes == 4u)
        return of[0];
    of[0] = pick(bit[2], of[0], of[1]);
    return classes == 8u ? of[0] : pick(bit[3], of[0], pick(bit[2], of[2], of[3]));
}

/* A segment on its way, from its last step to its first; its states are apart, so that they stay in registers. */
struct encoding {
    uint8_t *end;
    akv_u32 put, most, stripe, steps; /* steps: coded ones that are left */
    struct cursor at;
};
INLINE void encode_begin(const struct akv_cpu_args *args, const struct akv_rans_slot *slot, struct encoding *e, __m512i *a,
                         __m512i *b, akv_u32 b0, akv_u32 b1)
{
    const akv_rans_params *p = args->params;
    const akv_u32 steps = akv_rans_segment_steps(p, slot->segment), tail = akv_rans_tail(p, steps);
    *a = *b = _mm512_setzero_si512();
    e->put = slot->room <= AKV_RANS_LANES ? AKV_RANS_RAW : 0;
    e->steps = e->put ? 0 : steps - tail;
    e->most = e->put ? 0 : 2u * (slot->room - 1u - AKV_RANS_LANES);
    e->end = slot->slot + (size_t)slot->room * 4u;
    e->stripe = AKV_RANS_MAX;
    find(p, slot->segment * akv_rans_each(p) + steps - 1u, &e->at);
    for (akv_u32 i = 0; i < tail; i++, previous(p, &e->at)) {
        const __m256i v = load_step(p, args->arg[0], &e->at, b0, b1);
        *a = _mm512_or_si512(_mm512_slli_epi32(*a, b0 + b1), _mm512_cvtepu8_epi32(_mm256_castsi256_si128(v)));
        *b = _mm512_or_si512(_mm512_slli_epi32(*b, b0 + b1), _mm512_cvtepu8_epi32(_mm256_extracti128_si256(v, 1)));
    }
    *a = _mm512_or_si512(*a, _mm512_set1_epi32(AKV_RANS_LOW));
    *b = _mm512_or_si512(*b, _mm512_set1_epi32(AKV_RANS_LOW));
}

/* The lower halves of these lanes in front of `behind`, with what does not matter before them: the next ones put go
 * there, or the states. */
INLINE void put_low(uint8_t *behind, __m512i x, __mmask16 lanes, akv_u32 count)
{
    const __m512i lane = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
    const __m512i to = _mm512_add_epi32(lane, _mm512_set1_epi32((int)count)); /* modulo 16 */
    const __m512i last = _mm512_permutexvar_epi32(to, _mm512_maskz_compress_epi32(lanes, x));
    _mm256_storeu_si256((__m256i *)(void *)(behind - 32), _mm512_cvtepi32_epi16(last));
}

INLINE void encode_step(const struct akv_cpu_args *args, const struct akv_rans_tables *tables, struct bounds *bounds,
                        struct encoding *e, __m512i *a, __m512i *b, akv_u32 b0, akv_u32 b1, akv_u32 raw)
{
    const akv_rans_params *p = args->params;
    const akv_u32 classes = raw == AKV_RANS_SIGNED ? 16u : 1u << (b0 + b1 - raw);
    const __m512i most_bits = _mm512_set1_epi32(22);
    const bool whole = akv_rans_lanes(p, &e->at.place) == 32u;
    if (AKV_UNLIKELY(e->at.place.stripe != e->stripe)) {
        e->stripe = e->at.place.stripe;
        fill_bounds(args, tables, e->stripe, bounds);
    }
    const __m256i v = load_step(p, args->arg[0], &e->at, b0, b1);
    prefetch_step(p, args->arg[0], &e->at, b0, true);
    __m512i ea, eb, ra, rb;
    const __m512i ca = split(raw, p->centre, _mm512_cvtepu8_epi32(_mm256_castsi256_si128(v)), &ea, &ra);
    const __m512i cb = split(raw, p->centre, _mm512_cvtepu8_epi32(_mm256_extracti128_si256(v, 1)), &eb, &rb);
    const __m512i class_ =
        raw == AKV_RANS_SIGNED
            ? _mm512_inserti64x4(_mm512_castsi256_si512(_mm512_cvtepi32_epi16(ca)), _mm512_cvtepi32_epi16(cb), 1)
            : _mm512_srl_epi16(_mm512_cvtepu8_epi16(v), _mm_cvtsi32_si128((int)raw));
    const __mmask32 bit[4] = {
        _mm512_test_epi16_mask(class_, _mm512_set1_epi16(1)), _mm512_test_epi16_mask(class_, _mm512_set1_epi16(2)),
        _mm512_test_epi16_mask(class_, _mm512_set1_epi16(4)), _mm512_test_epi16_mask(class_, _mm512_set1_epi16(8))};
    const __m512i low = choose(bounds, classes, 0, bit);
    const __m512i f = _mm512_max_epu16(_mm512_sub_epi16(choose(bounds, classes, 1, bit), low), _mm512_set1_epi16(1));
    const __m512i fa = _mm512_cvtepu16_epi32(_mm512_castsi512_si256(f));
    const __m512i fb = _mm512_cvtepu16_epi32(_mm512_extracti64x4_epi64(f, 1));
    const __mmask16 ma = _mm512_cmpge_epu32_mask(_mm512_srlv_epi32(*a, _mm512_sub_epi32(most_bits, ea)), fa);
    const __mmask16 mb =
        whole ? _mm512_cmpge_epu32_mask(_mm512_srlv_epi32(*b, _mm512_sub_epi32(most_bits, eb)), fb) : 0;
    const akv_u32 na = (akv_u32)__builtin_popcount(ma), nb = (akv_u32)__builtin_popcount(mb);
    e->put += na + nb;
    if (AKV_UNLIKELY(e->put > e->most)) {
        e->put = AKV_RANS_RAW;
        e->steps = 1; /* this was the last one */
        return;
    }
    uint8_t *behind = e->end - 2u * ((size_t)e->put - na - nb);
    put_low(behind, *b, mb, nb);
    put_low(behind - 2u * nb, *a, ma, na);
    *a = push(_mm512_mask_srli_epi32(*a, ma, *a, 16), fa, _mm512_cvtepu16_epi32(_mm512_castsi512_si256(low)), ea, ra);
    if (whole)
        *b = push(_mm512_mask_srli_epi32(*b, mb, *b, 16), fb, _mm512_cvtepu16_epi32(_mm512_extracti64x4_epi64(low, 1)),
                  eb, rb);
    previous(p, &e->at);
}

INLINE akv_u32 encode_end(const struct akv_rans_slot *slot, const struct encoding *e, __m512i a, __m512i b)
{
    if (e->put != AKV_RANS_RAW) {
        _mm512_storeu_si512(slot->slot, a);
        _mm512_storeu_si512(slot->slot + 64, b);
    }
    return e->put;
}

/* count: 1 or 2, as in decode_parts. */
INLINE void encode_slots(const struct akv_cpu_args *args, const struct akv_rans_tables *tables,
                         const struct akv_rans_slot *slot, akv_u32 count, akv_u32 *put, akv_u32 b0, akv_u32 b1, akv_u32 raw)
{
    struct bounds bounds[2];
    struct encoding e[2];
    __m512i a0, c0, a1 = _mm512_setzero_si512(), c1 = a1;
    encode_begin(args, &slot[0], &e[0], &a0, &c0, b0, b1);
    if (count == 2u) {
        encode_begin(args, &slot[1], &e[1], &a1, &c1, b0, b1);
        for (; e[0].steps && e[1].steps; e[0].steps--, e[1].steps--) {
            encode_step(args, tables, &bounds[0], &e[0], &a0, &c0, b0, b1, raw);
            encode_step(args, tables, &bounds[1], &e[1], &a1, &c1, b0, b1, raw);
        }
        for (; e[1].steps; e[1].steps--)
            encode_step(args, tables, &bounds[1], &e[1], &a1, &c1, b0, b1, raw);
        put[1] = encode_end(&slot[1], &e[1], a1, c1);
    }
    for (; e[0].steps; e[0].steps--)
        encode_step(args, tables, &bounds[0], &e[0], &a0, &c0, b0, b1, raw);
    put[0] = encode_end(&slot[0], &e[0], a0, c0);
}

/* ---- count ---- */

INLINE void count_steps(const struct akv_cpu_args *args, akv_u32 first, akv_u32 end,
                        akv_u32 counts[AKV_RANS_LANES][AKV_RANS_CLASSES], akv_u32 b0, akv_u32 b1, akv_u32 raw)
{
    const akv_rans_params *p = args->params;
    const akv_u32 classes = 1u << (b0 + b1 - raw);
    struct cursor at;
    find(p, first, &at);
    while (first < end) {
        __m256i sum[AKV_RANS_CLASSES];
        const akv_u32 stop = AKV_MIN(end, first + 255u); /* a byte of each lane */
        for (akv_u32 c = 0; c < classes; c++)
            sum[c] = _mm256_setzero_si256();
        for (; first < stop; first++, next(p, &at)) {
            __m256i v = load_step(p, args->arg[0], &at, b0, b1);
            prefetch_step(p, args->arg[0], &at, b0, false);
            v = _mm256_and_si256(_mm256_srli_epi16(v, (int)raw), _mm256_set1_epi8((char)(classes - 1u)));
            for (akv_u32 c = 0; c < classes; c++)
                sum[c] = _mm256_sub_epi8(sum[c], _mm256_cmpeq_epi8(v, _mm256_set1_epi8((char)c)));
        }
        for (akv_u32 c = 0; c < classes; c++) {
            uint8_t own[AKV_RANS_LANES];
            _mm256_storeu_si256((__m256i *)(void *)own, sum[c]);
            for (akv_u32 l = 0; l < AKV_RANS_LANES; l++)
                counts[l][c] += own[l];
        }
    }
}

/* ---- by width ---- */

INLINE void encode_any(const struct akv_cpu_args *args, const struct akv_rans_tables *tables,
                       const struct akv_rans_slot *slot, akv_u32 count, akv_u32 *put)
{
    const akv_rans_params *p = args->params;
    switch (p->plane[0].bits * 256u + p->plane[1].bits * 16u + p->raw) {
    case 0x200:
        encode_slots(args, tables, slot, count, put, 2, 0, 0);
        return;
    case 0x210:
        encode_slots(args, tables, slot, count, put, 2, 1, 0);
        return;
    case 0x400:
        encode_slots(args, tables, slot, count, put, 4, 0, 0);
        return;
    case 0x411:
        encode_slots(args, tables, slot, count, put, 4, 1, 1);
        return;
    case 0x422:
        encode_slots(args, tables, slot, count, put, 4, 2, 2);
        return;
    case 0x804:
        encode_slots(args, tables, slot, count, put, 8, 0, 4);
        return;
    default:
        encode_slots(args, tables, slot, count, put, 8, 0, AKV_RANS_SIGNED);
        return;
    }
}

static akv_u32 encode(const struct akv_cpu_args *args, const struct akv_rans_tables *tables, akv_u32 segment,
                      uint8_t *slot, akv_u32 room)
{
    const struct akv_rans_slot one = {segment, room, slot};
    akv_u32 put = 0;
    encode_any(args, tables, &one, 1, &put);
    return put;
}

static void encode_pair(const struct akv_cpu_args *args, const struct akv_rans_tables *tables,
                        const struct akv_rans_slot slot[2], akv_u32 put[2])
{
    encode_any(args, tables, slot, 2, put);
}

INLINE void decode_any(const struct akv_cpu_args *args, const struct akv_rans_tables *tables,
                       const struct akv_rans_part *part, akv_u32 count, bool *good)
{
    const akv_rans_params *p = args->params;
    switch (p->plane[0].bits * 256u + p->plane[1].bits * 16u + p->raw) {
    case 0x200:
        decode_parts(args, tables, part, count, good, 2, 0, 0);
        return;
    case 0x210:
        decode_parts(args, tables, part, count, good, 2, 1, 0);
        return;
    case 0x400:
        decode_parts(args, tables, part, count, good, 4, 0, 0);
        return;
    case 0x411:
        decode_parts(args, tables, part, count, good, 4, 1, 1);
        return;
    case 0x422:
        decode_parts(args, tables, part, count, good, 4, 2, 2);
        return;
    case 0x804:
        decode_parts(args, tables, part, count, good, 8, 0, 4);
        return;
    default:
        decode_parts(args, tables, part, count, good, 8, 0, AKV_RANS_SIGNED);
        return;
    }
}

static bool decode(const struct akv_cpu_args *args, const struct akv_rans_tables *tables, akv_u32 segment,
                   const uint8_t *from, akv_u32 words)
{
    const struct akv_rans_part part = {segment, words, from};
    bool good = false;
    decode_any(args, tables, &part, 1, &good);
    return good;
}

static void decode_pair(const struct akv_cpu_args *args, const struct akv_rans_tables *tables,
                        const struct akv_rans_part part[2], bool good[2])
{
    decode_any(args, tables, part, 2, good);
}

static void count(const struct akv_cpu_args *args, akv_u32 first, akv_u32 end,
                  akv_u32 counts[AKV_RANS_LANES][AKV_RANS_CLASSES])
{
    const akv_rans_params *p = args->params;
    const bool whole = p->last == AKV_RANS_LANES;
    switch (whole ? p->plane[0].bits * 256u + p->plane[1].bits * 16u + p->raw : 0u) {
    case 0x200:
        count_steps(args, first, end, counts, 2, 0, 0);
        return;
    case 0x210:
        count_steps(args, first, end, counts, 2, 1, 0);
        return;
    case 0x400:
        count_steps(args, first, end, counts, 4, 0, 0);
        return;
    case 0x411:
        count_steps(args, first, end, counts, 4, 1, 1);
        return;
    case 0x422:
        count_steps(args, first, end, counts, 4, 2, 2);
        return;
    case 0x804:
        count_steps(args, first, end, counts, 8, 0, 4);
        return;
    default:
        akv_rans_count_plain(args, first, end, counts);
    }
}

INLINE __m512i mix(__m512i word, __m512i j) /* akv_bx16_mix */
{
    __m512i a = _mm512_add_epi32(word, _mm512_mullo_epi32(j, _mm512_set1_epi32((int)0x9E3779B1u)));
    a = _mm512_xor_si512(a, _mm512_srli_epi32(a, 16));
    a = _mm512_mullo_epi32(a, _mm512_set1_epi32((int)0x85EBCA6Bu));
    return _mm512_xor_si512(a, _mm512_srli_epi32(a, 13));
}
static akv_u32 check(const uint8_t *words, akv_u32 count, akv_u32 segment)
{
    const __m512i lane = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
    __m512i sum = _mm512_setzero_si512();
    akv_u32 j = 0;
    for (; j + 16u <= count; j += 16u)
        sum = _mm512_add_epi32(sum, mix(_mm512_loadu_si512(words + (size_t)j * 4u),
                                        _mm512_add_epi32(lane, _mm512_set1_epi32((int)j))));
    akv_u32 lanes[16], all = segment;
    _mm512_storeu_si512(lanes, sum);
    for (akv_u32 i = 0; i < 16u; i++) /* modulo 2^32, which the sum of a vector is not meant to be */
        all += lanes[i];
    for (; j < count; j++)
        all += akv_bx16_mix(word_at(words, j), j);
    return all;
}

/* ---- kernels ---- */

static uint64_t count_items(const struct akv_cpu_args *args, uint32_t phase)
{
    return akv_rans_count_items(args, phase);
}
static uint64_t encode_items(const struct akv_cpu_args *args, uint32_t phase)
{
    return akv_rans_encode_items(args, phase);
}
static uint64_t decode_items(const struct akv_cpu_args *args, uint32_t phase)
{
    return akv_rans_decode_items(args, phase);
}
static void count_run(const struct akv_cpu_args *args, uint32_t phase, uint64_t first, uint64_t number)
{
    (void)phase;
    akv_rans_count_run(args, first, number, count);
}
static void encode_run(const struct akv_cpu_args *args, uint32_t phase, uint64_t first, uint64_t number)
{
    akv_rans_encode_run(args, phase, first, number, encode, encode_pair, check);
}
static void decode_run(const struct akv_cpu_args *args, uint32_t phase, uint64_t first, uint64_t number)
{
    (void)phase;
    akv_rans_decode_run(args, first, number, decode, decode_pair, check);
}

const struct akv_cpu_kernel akv_cpu_rans_count_avx512 = {1, count_items, count_run, NULL, NULL};
const struct akv_cpu_kernel akv_cpu_rans_encode_avx512 = {3, encode_items, encode_run, NULL, NULL};
const struct akv_cpu_kernel akv_cpu_rans_decode_avx512 = {1, decode_items, decode_run, NULL, NULL};
