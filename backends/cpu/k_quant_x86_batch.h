/* SPDX-License-Identifier: Apache-2.0 */
/* Quantising some rows at once, so that the latency of scales and reciprocals hides.
 *
 * The including file names its parts: X_READY() says whether its tables are there; X_ROTATE_LOAD,
 * X_AMAX, X_UNIFORM, X_FACTORS, X_SEARCH and X_CODEBOOK do as the functions of k_quant_x86.h and
 * k_quant_x86_codes.h that are called x_… */
#ifndef AKV_K_QUANT_X86_BATCH_H
#define AKV_K_QUANT_X86_BATCH_H
#include "k_quant_x86.h"

/* Largest magnitudes, and the smallest and largest of them. */
X_INLINE void x_batch_amax(struct x_batch *b)
{
    uint32_t count = b->rows * b->scales, n = 0;
    __m256i m[X_SCALES], least = _mm256_set1_epi32(0x7FFFFFFF), most = _mm256_setzero_si256();

    for (uint32_t k = 0; k < b->rows; k++)
        for (uint32_t i = 0; i < b->dp; i += b->width)
            m[n++] = X_AMAX(b->at[k] + i, AKV_MIN(b->width, b->dp - i));
    for (; n % 8u != 0; n++) /* 1 is no special case of anything */
        m[n] = _mm256_set1_epi32(0x3F800000);
    for (n = 0; n < count; n += 8u) {
        __m256i a = x_max_eight(m + n);
        least = _mm256_min_epi32(least, a);
        most = _mm256_max_epi32(most, a);
        _mm256_store_si256((void *)(b->amax + n), a);
    }
    b->most = x_max8(most);
    __m128i l = _mm_min_epi32(_mm256_castsi256_si128(least), _mm256_extracti128_si256(least, 1));
    l = _mm_min_epi32(l, _mm_shuffle_epi32(l, 0x4E));
    l = _mm_min_epi32(l, _mm_shuffle_epi32(l, 0xB1));
    b->least = (uint32_t)_mm_cvtsi128_si32(l);
}
/* Scales, and reciprocals of d or d/256; true if there is a scale of 0 or a saturated one. */
X_INLINE int x_batch_scales(struct x_batch *b, uint32_t format, int search)
{
    uint32_t count = b->rows * b->scales;
    int codebook = akv_format_codebook(format) != 0;
    __m256i rare = _mm256_setzero_si256(), saturated = _mm256_set1_epi32(codebook ? 0xF7 : 0x7BFF);

    if (search && count % 8u != 0)
        _mm256_store_si256((void *)(b->scale + count / 8u * 8u), _mm256_set1_epi32(8));
    if (search)
        X_SEARCH(b, format);
    for (uint32_t i = 0; i < count; i += 8u) {
        __m256 a = _mm256_castsi256_ps(_mm256_load_si256((const void *)(b->amax + i)));
        __m256 d, hi, lo;
        __m256i s;
        if (codebook) {
            if (search)
                s = _mm256_load_si256((const void *)(b->scale + i));
            else
                s = x_ue5m3(_mm256_mul_ps(a, _mm256_set1_ps(akv_candidate[0][0])));
            d = _mm256_mul_ps(x_ue5m3_value(s), _mm256_set1_ps(0x1p-8f));
        } else {
            float inverse = format == AKV_I8 ? AKV_INVERSE_I8 : AKV_INVERSE_N6;
            __m128i h = _mm256_cvtps_ph(_mm256_mul_ps(a, _mm256_set1_ps(inverse)),
                                        _MM_FROUND_TO_NEAREST_INT);
            h = _mm_min_epi16(h, _mm_set1_epi16(0x7BFF));
            s = _mm256_cvtepu16_epi32(h);
            d = _mm256_cvtph_ps(h);
        }
        hi = X_FACTORS(d, format, &lo);
        rare =
            _mm256_or_si256(rare, _mm256_or_si256(_mm256_cmpeq_epi32(s, saturated),
                                                  _mm256_cmpeq_epi32(s, _mm256_setzero_si256())));
        _mm256_store_si256((void *)(b->scale + i), s);
        _mm256_store_ps(b->hi + i, hi);
        _mm256_store_ps(b->lo + i, lo);
    }
    return _mm256_movemask_epi8(rare) != 0;
}
/* Codes under a scale of 0 or a saturated one. */
static void x_rare_codes(const struct x_batch *b, uint32_t format, uint32_t saturated,
                         struct q_work *work)
{
    for (uint32_t n = 0; n < b->rows * b->scales; n++) {
        uint32_t s = b->scale[n], k = n / b->scales, first = n % b->scales * b->width;
        for (uint32_t i = first; i < AKV_MIN(first + b->width, b->dp); i += 32u) {
            float sane[32];
            if (s != 0u && s != saturated)
                break;
            for (uint32_t j = 0; j < 32u; j++)
                sane[j] = akv_as_f32(akv_sane(akv_as_u32(b->at[k][i + j])));
            akv_group_codes(sane, s, format, work->code + k * AKV_CODE_STRIDE + i);
        }
    }
}
X_INLINE void x_batch_codes(const struct x_batch *b, uint32_t format, int rare, struct q_work *work)
{
    uint32_t groups = b->dp / 32u;
    const float *hi = b->hi, *lo = b->lo;

    for (uint32_t k = 0; k < b->rows; k++) {
        uint8_t *code = work->code + k * AKV_CODE_STRIDE;
        const float *x = b->at[k];
        for (uint32_t s = 0; s < b->scales; s++)
            work->scale[k * AKV_SCALE_STRIDE + s] = (uint16_t)b->scale[k * b->scales + s];
        if (akv_format_codebook(format)) {
            X_CODEBOOK(x, hi, lo, groups, format, code);
            hi += groups;
            lo += groups;
            continue;
        }
        for (uint32_t i = 0; i < b->dp; i += b->width, hi++, lo++)
            X_UNIFORM(x + i, *hi, *lo, format, AKV_MIN(b->width, b->dp - i), code + i);
    }
    if (AKV_UNLIKELY(rare))
        x_rare_codes(b, format, akv_format_codebook(format) ? 0xF7u : 0x7BFFu, work);
}
/* Values are already in place; false: a magnitude is too large for this code.  rows and dp are
 * constants where this is inlined for the usual size. */
X_INLINE int x_batch_run(struct x_batch *b, uint32_t rows, uint32_t dp, uint32_t format, int search,
                         struct q_work *work)
{
    b->rows = rows;
    b->dp = dp;
    b->width = akv_scale_width(format);
    b->scales = (b->dp + b->width - 1u) / b->width;
    x_batch_amax(b);
    if (AKV_UNLIKELY(b->least < X_SMALL_BITS)) {
        for (uint32_t k = 0; k < b->rows; k++) {
            float *row = work->value + k * AKV_CODE_STRIDE;
            if (b->at[k] != row)
                memcpy(row, b->at[k], b->dp * 4u);
            x_sane_row(row, b->dp);
            b->at[k] = row;
        }
        x_batch_amax(b);
    }
    if (AKV_UNLIKELY(b->most > X_LARGE_BITS))
        return 0;
    x_batch_codes(b, format, x_batch_scales(b, format, search), work);
    return 1;
}
X_INLINE int x_batch_size(struct x_batch *b, uint32_t format, int search, struct q_work *work)
{
    if (b->rows == Q_ROWS && b->dp == 128u)
        return x_batch_run(b, Q_ROWS, 128u, format, search, work);
    return x_batch_run(b, b->rows, b->dp, format, search, work);
}
static int x_batch_format(struct x_batch *b, uint32_t format, int search, struct q_work *work)
{
    switch (format) {
    case AKV_I8:
        return x_batch_size(b, AKV_I8, 0, work);
    case AKV_N6:
        return x_batch_size(b, AKV_N6, 0, work);
    case AKV_N5:
        return x_batch_size(b, AKV_N5, search, work);
    case AKV_N4:
        return x_batch_size(b, AKV_N4, search, work);
    case AKV_N3:
        return x_batch_size(b, AKV_N3, search, work);
    default:
        return x_batch_size(b, AKV_N2, search, work);
    }
}
static uint32_t q_quantise(struct q_work *work, const uint8_t *const *src, uint32_t rows,
                           uint32_t dtype, uint32_t dim, uint32_t flags, uint32_t format)
{
    int rotate = (flags & AKV_FLAG_ROTATE) != 0, search = (flags & AKV_FLAG_SEARCH) != 0;
    int in_place = dtype == AKV_F32 && dim % 32u == 0 && !rotate;
    struct x_batch b;
    __m256i largest = _mm256_setzero_si256();

    if (!X_READY())
        return s_quantise(work, src, rows, dtype, dim, flags, format);
    b.rows = rows;
    b.dp = akv_padded_dim(dim);
    for (uint32_t k = 0; k < rows; k++) {
        float *row = work->value + k * AKV_CODE_STRIDE;
        if (in_place && ((uintptr_t)src[k] & 3u) == 0) {
            b.at[k] = (const float *)(const void *)src[k];
            continue;
        }
        b.at[k] = row;
        if (rotate)
            largest = _mm256_max_epi32(largest, X_ROTATE_LOAD(src[k], dtype, dim, row));
        else
            x_load(src[k], dtype, dim, row);
    }
    if (rotate && x_max8(largest) > X_LARGE_BITS)
        return s_quantise(work, src, rows, dtype, dim, flags, format);
    if (!x_batch_format(&b, format, search, work))
        return s_quantise(work, src, rows, dtype, dim, flags, format);
    return 0;
}

#endif
