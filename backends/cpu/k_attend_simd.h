/* SPDX-License-Identifier: Apache-2.0 */
/* Attend operations on decoded rows, once for all vector widths.  The file that includes this has
 * defined V (a vector of VN floats) and V_* over it. */
#ifndef AKV_K_ATTEND_SIMD_H
#define AKV_K_ATTEND_SIMD_H
#include "k_attend_decode.h"
#include "k_attend_mean.h"

#define ALWAYS static inline __attribute__((always_inline))
#define STRIPS (AKV_SPAN / AKV_STRIP)

/* e^x for x <= 0; 0 for -inf and NaN.  The polynomial of akv_exp2. */
ALWAYS V v_exp(V x)
{
    V n, f, y;
    x = V_MAX(V_MUL(x, V_SET(AKV_LOG2E)), V_SET(-126.5f)); /* NaN: the second */
    n = V_ROUND(x);
    f = V_SUB(x, n);
    y = V_FMA(V_SET(AKV_EXP2_C5), f, V_SET(AKV_EXP2_C4));
    y = V_FMA(y, f, V_SET(AKV_EXP2_C3));
    y = V_FMA(y, f, V_SET(AKV_EXP2_C2));
    y = V_FMA(y, f, V_SET(AKV_EXP2_C1));
    y = V_FMA(y, f, V_SET(1.0f));
    return V_IF_GE(x, V_SET(-126.0f), V_SCALE2(y, n));
}

/* ---- the rotation back ---- */
static void simd_turn(float *row, uint32_t dim)
{
    const uint32_t n = akv_rotate_block(dim);
    const float factor = akv_rotate_read_factor(dim);
    if (n < 16u) {
        akv_rotate_read(row, dim);
        return;
    }
    for (uint32_t i = 0; i < dim; i += VN)
        V_STORE(row + i, V_TURN(V_LOAD(row + i)));
    for (uint32_t stride = VN; stride < n; stride *= 2u)
        for (uint32_t i = 0; i < dim; i += 2u * stride)
            for (uint32_t j = i; j < i + stride; j += VN) {
                V a = V_LOAD(row + j), b = V_LOAD(row + j + stride);
                V_STORE(row + j, V_ADD(a, b));
                V_STORE(row + j + stride, V_SUB(a, b));
            }
    for (uint32_t i = 0; i < dim; i += VN)
        V_STORE(row + i, V_MUL(V_LOAD(row + i), V_SET(factor)));
}

/* ---- decoding ---- */
/* VN elements of a raw row from element i on. */
ALWAYS V v_raw(const uint8_t *row, const uint32_t format, uint32_t i)
{
    return format == AKV_F16    ? V_LOAD_F16(row + (size_t)i * 2u)
           : format == AKV_BF16 ? V_LOAD_BF16(row + (size_t)i * 2u)
                                : V_LOAD((const float *)(const void *)(row + (size_t)i * 4u));
}
ALWAYS void decode_rows(struct akv_attend_work *work, const uint8_t *from, const uint32_t format,
                        uint32_t dim, uint32_t tokens)
{
    const uint32_t pad = akv_padded_dim(dim), bytes = akv_raw_bytes(format);
    for (uint32_t t = 0; t < tokens; t++) {
        float *to = work->tile + (size_t)t * pad;
        for (uint32_t i = 0; i < dim; i += 16u)
            UNROLL
        for (uint32_t a = 0; a < 16u; a += VN)
            V_STORE(to + i + a, v_raw(from, format, i + a));
        for (uint32_t i = dim; i < pad; i += VN)
            V_STORE(to + i, V_SET(0.0f));
        from += (size_t)dim * bytes;
    }
}
static void simd_decode(struct akv_attend_work *work, const uint8_t *tile, uint32_t format,
                        uint32_t order, uint32_t dim, uint32_t first, uint32_t tokens)
{
    const uint8_t *from = tile + (size_t)first * dim * akv_raw_bytes(format);
    if (format > AKV_N2)
        akv_attend_decode(work, tile, format, order, dim, first, tokens);
    else if (!akv_format_raw(format))
        decode_packed(work, tile, format, order, dim, first, tokens);
    else if (dim % 16u != 0)
        akv_attend_decode(work, tile, format, order, dim, first, tokens);
    else if (format == AKV_F16)
        decode_rows(work, from, AKV_F16, dim, tokens);
    else if (format == AKV_BF16)
        decode_rows(work, from, AKV_BF16, dim, tokens);
    else
        decode_rows(work, from, AKV_F32, dim, tokens);
}

/* ---- scores: `rows` rows from r on, VT tokens at a time, keys as raw rows of k_pad elements ----
 */
ALWAYS void scores_rows(struct akv_attend_work *work, uint32_t domain, const uint8_t *from,
                        const uint32_t format, uint32_t r, const uint32_t rows)
{
    const uint32_t pad = work->k_pad, bytes = akv_raw_bytes(format);
    const float *q = work->q[domain] + (size_t)r * pad;
    for (uint32_t t = 0; t < AKV_STRIP; t += VT) {
        const uint8_t *k = from + (size_t)t * pad * bytes;
        V sum[4][VT];
        UNROLL
        for (uint32_t a = 0; a < 4; a++) {
            UNROLL
            for (uint32_t b = 0; b < VT; b++)
                sum[a][b] = V_SET(0.0f);
        }
        for (uint32_t i = 0; i < pad; i += VN) {
            akv_attend_ask(work, VN / 8u);
            UNROLL
            for (uint32_t b = 0; b < VT; b++) {
                V x = v_raw(k + (size_t)b * pad * bytes, format, i);
                UNROLL
                for (uint32_t a = 0; a < rows; a++)
                    sum[a][b] = V_FMA(V_LOAD(q + a * pad + i), x, sum[a][b]);
            }
        }
        V_REDUCE(sum, work->s, r, work->at + t, rows);
    }
}
ALWAYS void scores_all(struct akv_attend_work *work, uint32_t domain, const uint8_t *from,
                       const uint32_t format)
{
    uint32_t r = 0;
    for (; r + 4u <= work->rows; r += 4)
        scores_rows(work, domain, from, format, r, 4);
    if (work->rows - r == 3u)
        scores_rows(work, domain, from, format, r, 3);
    else if (work->rows - r == 2u)
        scores_rows(work, domain, from, format, r, 2);
    else if (work->rows - r == 1u)
        scores_rows(work, domain, from, format, r, 1);
}
static void simd_scores(struct akv_attend_work *work, uint32_t domain, uint32_t tokens)
{
    (void)tokens; /* what stands behind them is masked later */
    scores_all(work, domain, (const uint8_t *)work->tile, AKV_F32);
}
/* Few rows: straight from raw keys. */
#define DIRECT_ROWS 8u
static bool raw_scores(struct akv_attend_work *work, const struct akv_strip *strip)
{
    if (work->rows > DIRECT_ROWS || work->k_dim != work->k_pad)
        return false;
    const uint8_t *from =
        strip->k + (size_t)strip->first * work->k_dim * akv_raw_bytes(strip->k_format);
    if (strip->k_format == AKV_F16)
        scores_all(work, 0, from, AKV_F16);
    else if (strip->k_format == AKV_BF16)
        scores_all(work, 0, from, AKV_BF16);
    else
        return false;
    return true;
}

/* ---- what scores regain of the keys' mean ---- */
static void simd_meet(struct akv_attend_work *work, const uint8_t *mean)
{
    const uint32_t pairs = work->k_mean->pairs, half = work->k_pad / 2u;
    _Alignas(64) float m[AKV_MAX_HEAD_DIM];
    uint32_t i = 0;
    for (; i + VN <= work->k_dim; i += VN)
        V_STORE(m + i, V_LOAD_F16(mean + 2u * (size_t)i));
    for (; i < work->k_dim; i++)
        m[i] = akv_map_f16(mean, 0, i);
    for (uint32_t r = 0; r < work->rows; r++) {
        const float *q = work->q[0] + (size_t)r * work->k_pad;
        float *to = work->conj + (size_t)r * work->k_pad;
        for (i = 0; work->k_mean->rope == AKV_ROPE_HALF && i + VN <= pairs; i += VN) {
            V q0 = V_LOAD(q + i), q1 = V_LOAD(q + pairs + i);
            V m0 = V_LOAD(m + i), m1 = V_LOAD(m + pairs + i);
            V_STORE(to + i, V_FMA(q0, m0, V_MUL(q1, m1)));
            V_STORE(to + half + i, V_SUB(V_MUL(q1, m0), V_MUL(q0, m1)));
        }
        attend_meet(work, m, r, i);
    }
}
ALWAYS void regain_rows(struct akv_attend_work *work, uint32_t position, uint32_t r,
                        const uint32_t rows)
{
    const uint32_t half = work->k_pad / 2u, fast = work->k_mean->slow;
    const uint32_t slow = fast < work->k_mean->pairs ? 16u : 0u; /* degrees */
    const float *basis = (const float *)(const void *)(work->maps + work->k_mean->basis) +
                         (size_t)(position % AKV_ABOUT / AKV_STRIP) * 256u;
    const float *table = (const float *)(const void *)(work->maps + work->k_mean->table);
    _Alignas(64) float turned[4][AKV_MAX_HEAD_DIM];
    uint32_t pad;
    const float *c = attend_steps(work, position, &pad), *s = c + pad;
    V sum[4][2][16u / VN]; /* with cosines, with sines */
    for (uint32_t i = 0; i < fast; i += VN) {
        V vc = V_LOAD(c + i), vs = V_LOAD(s + i);
        UNROLL
        for (uint32_t n = 0; n < rows; n++) {
            const float *from = work->about + (size_t)(r + n) * work->k_pad + i;
            V a = V_LOAD(from), b = V_LOAD(from + half);
            V_STORE(turned[n] + i, V_FMA(a, vc, V_MUL(b, vs)));
            V_STORE(turned[n] + pad + i, V_SUB(V_MUL(b, vc), V_MUL(a, vs)));
        }
    }
    UNROLL
    for (uint32_t n = 0; n < rows; n++) {
        UNROLL
        for (uint32_t k = 0; k < 16u / VN; k++) {
            sum[n][0][k] = V_SET(work->rest[r + n]);
            sum[n][1][k] = V_SET(0.0f);
        }
    }
    for (uint32_t i = 0; i < slow; i += 2u) { /* slow pairs, as polynomials of degree 15 */
        UNROLL
        for (uint32_t k = 0; k < 16u / VN; k++) {
            V t0 = V_LOAD(basis + i * 16u + k * VN), t1 = V_LOAD(basis + i * 16u + 16u + k * VN);
            UNROLL
            for (uint32_t n = 0; n < rows; n++) {
                sum[n][0][k] = V_FMA(V_SET(work->waves[r + n][i]), t0, sum[n][0][k]);
                sum[n][1][k] = V_FMA(V_SET(work->waves[r + n][i + 1u]), t1, sum[n][1][k]);
            }
        }
    }
    for (uint32_t i = 0; i < fast; i++) {
        UNROLL
        for (uint32_t k = 0; k < 16u / VN; k++) {
            V tc = V_LOAD(table + i * 32u + k * VN), ts = V_LOAD(table + i * 32u + 16u + k * VN);
            UNROLL
            for (uint32_t n = 0; n < rows; n++) {
                sum[n][0][k] = V_FMA(V_SET(turned[n][i]), tc, sum[n][0][k]);
                sum[n][1][k] = V_FMA(V_SET(turned[n][pad + i]), ts, sum[n][1][k]);
            }
        }
    }
    UNROLL
    for (uint32_t n = 0; n < rows; n++) {
        UNROLL
        for (uint32_t k = 0; k < 16u / VN; k++) {
            float *to = work->s[r + n] + work->at + k * VN;
            V_STORE(to, V_ADD(V_LOAD(to), V_ADD(sum[n][0][k], sum[n][1][k])));
        }
    }
}
/* The slow pairs of `rows` rows from r on over 256 positions. */
ALWAYS void waves_rows(struct akv_attend_work *work, uint32_t r, const uint32_t rows)
{
    const akv_map *map = work->k_mean;
    const float *at = (const float *)(const void *)(work->maps + map->waves);
    const float *a = work->about + (size_t)r * work->k_pad, *b = a + work->k_pad / 2u;
    V sum[4][2][16u / VN]; /* of cosines and sines, so that none waits for the one before */
    UNROLL
    for (uint32_t n = 0; n < rows; n++) {
        UNROLL
        for (uint32_t k = 0; k < 16u / VN; k++)
            sum[n][0][k] = sum[n][1][k] = V_SET(0.0f);
    }
    for (uint32_t i = map->slow; i < map->pairs; i++, at += 32) {
        UNROLL
        for (uint32_t k = 0; k < 16u / VN; k++) {
            V wc = V_LOAD(at + k * VN), ws = V_LOAD(at + 16u + k * VN);
            UNROLL
            for (uint32_t n = 0; n < rows; n++) {
                sum[n][0][k] = V_FMA(V_SET(a[n * work->k_pad + i]), wc, sum[n][0][k]);
                sum[n][1][k] = V_FMA(V_SET(b[n * work->k_pad + i]), ws, sum[n][1][k]);
            }
        }
    }
    UNROLL
    for (uint32_t n = 0; n < rows; n++) {
        UNROLL
        for (uint32_t k = 0; k < 16u / VN; k++)
            V_STORE(work->waves[r + n] + k * VN, V_ADD(sum[n][0][k], sum[n][1][k]));
    }
}
static void simd_waves(struct akv_attend_work *work)
{
    uint32_t r = 0;
    for (; r + 4u <= work->rows; r += 4)
        waves_rows(work, r, 4);
    if (work->rows - r == 3u)
        waves_rows(work, r, 3);
    else if (work->rows - r == 2u)
        waves_rows(work, r, 2);
    else if (work->rows - r == 1u)
        waves_rows(work, r, 1);
}
/* `about` and `waves` for the 256 positions around `position`; false: they stand there already. */
static bool simd_about(struct akv_attend_work *work, uint32_t position)
{
    _Alignas(64) float c[AKV_MAX_HEAD_DIM / 2u], s[AKV_MAX_HEAD_DIM / 2u];
    const uint32_t half = work->k_pad / 2u;
    if (!attend_angles(work, position, c, s))
        return false;
    for (uint32_t n = 0; n < work->rows; n++) {
        const float *from = work->conj + (size_t)n * work->k_pad;
        float *to = work->about + (size_t)n * work->k_pad;
        for (uint32_t i = 0; i < work->k_mean->pairs; i += VN) {
            V a = V_LOAD(from + i), b = V_LOAD(from + half + i);
            V vc = V_LOAD(c + i), vs = V_LOAD(s + i);
            V_STORE(to + i, V_FMA(a, vc, V_MUL(b, vs)));
            V_STORE(to + half + i, V_SUB(V_MUL(b, vc), V_MUL(a, vs)));
        }
    }
    simd_waves(work);
    return true;
}
static void simd_regain(struct akv_attend_work *work, uint32_t position, bool coarse)
{
    uint32_t r = 0;
    (void)coarse;
    simd_about(work, position);
    for (; r + 4u <= work->rows; r += 4)
        regain_rows(work, position, r, 4);
    if (work->rows - r == 3u)
        regain_rows(work, position, r, 3);
    else if (work->rows - r == 2u)
        regain_rows(work, position, r, 2);
    else if (work->rows - r == 1u)
        regain_rows(work, position, r, 1);
}

/* ---- matrices, of sizes that are multiples of 16 ---- */
static void simd_forward(float *y, const float *x, const float *w, uint32_t dim)
{
    for (uint32_t j = 0; j < dim; j++, w += dim) {
        V sum[2] = {V_SET(0.0f), V_SET(0.0f)};
        for (uint32_t i = 0; i < dim; i += 16u)
            UNROLL
        for (uint32_t k = 0; k < 16u / VN; k++)
            sum[k] = V_FMA(V_LOAD(w + i + k * VN), V_LOAD(x + i + k * VN), sum[k]);
        y[j] = V_HSUM(V_ADD(sum[0], sum[1]));
    }
}
static void simd_back(float *y, const float *x, const float *w, uint32_t dim)
{
    for (uint32_t i = 0; i < dim; i += 16u) {
        V sum[16u / VN];
        UNROLL
        for (uint32_t k = 0; k < 16u / VN; k++)
            sum[k] = V_SET(0.0f);
        for (uint32_t j = 0; j < dim; j++) {
            V v = V_SET(x[j]);
            UNROLL
            for (uint32_t k = 0; k < 16u / VN; k++)
                sum[k] = V_FMA(v, V_LOAD(w + (size_t)j * dim + i + k * VN), sum[k]);
        }
        UNROLL
        for (uint32_t k = 0; k < 16u / VN; k++)
            V_STORE(y + i + k * VN, sum[k]);
    }
}

static void simd_shape(struct akv_attend_work *work)
{
    const V most = V_SET(AKV_ATTEND_CLAMP), least = V_SET(-AKV_ATTEND_CLAMP);
    float cap = work->params->cap;
    for (uint32_t r = 0; r < work->rows; r++)
        for (uint32_t t = work->at; t < work->at + AKV_STRIP; t += VN) {
            V x = V_LOAD(&work->s[r][t]);
            if (work->more)
                x = V_ADD(x, V_LOAD(work->more + r * AKV_MAP_SPAN + (t - work->at)));
            x = V_MIN(most, V_MAX(least, x)); /* NaN stays */
            if (cap > 0.0f) {
                V a = V_ABS(x), e = v_exp(V_MUL(a, V_SET(-2.0f / cap)));
                V y = V_DIV(V_SUB(V_SET(1.0f), e), V_ADD(V_SET(1.0f), e));
                x = V_MUL(V_COPYSIGN(y, x), V_SET(cap));
            }
            V_STORE(&work->s[r][t], x);
        }
}

static void simd_softmax(struct akv_attend_work *work)
{
    _Alignas(64) float most[STRIPS][AKV_WORK_ROWS], keep[AKV_WORK_ROWS], sum[STRIPS][AKV_WORK_ROWS];
    const V none = V_SET(akv_minus_infinity());
    bool turned = false;
    for (uint32_t r = 0; r < work->rows; r++)
        UNROLL
    for (uint32_t n = 0; n < STRIPS; n++) {
        V x = none; /* and where a score is NaN */
        UNROLL
        for (uint32_t a = 0; a < AKV_STRIP; a += VN)
            x = V_MAX(V_LOAD(&work->s[r][n * AKV_STRIP + a]), x);
        most[n][r] = V_HMAX(x);
    }
    for (uint32_t r = work->rows; r % VN != 0; r++)
        UNROLL
    for (uint32_t n = 0; n < STRIPS; n++)
        most[n][r] = akv_minus_infinity();
    for (uint32_t r = 0; r < work->rows; r += VN) {
        V m = V_LOAD(work->m + r), larger = m;
        UNROLL
        for (uint32_t n = 0; n < STRIPS; n++)
            larger = V_MAX(larger, V_LOAD(most[n] + r));
        /* -inf - -inf is NaN, which gives 0: nothing there, nothing to keep. */
        V_STORE(keep + r, v_exp(V_SUB(m, larger)));
        UNROLL
        for (uint32_t n = 0; n < STRIPS; n++)
            V_STORE(work->factors[n] + r, v_exp(V_SUB(V_LOAD(most[n] + r), larger)));
        V_STORE(work->m + r, larger);
        turned |= V_ANY_GT(larger, m);
    }
    for (uint32_t r = 0; r < work->rows; r++)
        UNROLL
    for (uint32_t n = 0; n < STRIPS; n++) {
        V base = V_SET(most[n][r]), l = V_SET(0.0f);
        UNROLL
        for (uint32_t a = 0; a < AKV_STRIP; a += VN) {
            float *at = &work->s[r][n * AKV_STRIP + a];
            V e = v_exp(V_SUB(V_LOAD(at), base));
            V_STORE(at, e);
            l = V_ADD(l, e);
        }
        sum[n][r] = V_HSUM(l);
    }
    for (uint32_t r = 0; r < work->rows; r++) {
        float l = work->l[r] * keep[r];
        UNROLL
        for (uint32_t n = 0; n < STRIPS; n++)
            l += sum[n][r] * work->factors[n][r];
        work->l[r] = l;
    }
    if (!turned)
        return;
    for (uint32_t d = 0; d < 2; d++)
        for (uint32_t r = 0; r < work->rows && work->used[d]; r++)
            if (keep[r] != 1.0f) {
                float *at = work->sum[d] + (size_t)r * work->v_pad;
                for (uint32_t i = 0; i < work->v_pad; i += VN)
                    V_STORE(at + i, V_MUL(V_LOAD(at + i), V_SET(keep[r])));
            }
}

/* ---- values: sums of `rows` rows from r on, values as raw rows of v_pad elements ---- */
ALWAYS void values_rows(struct akv_attend_work *work, uint32_t domain, const uint8_t *from,
                        const uint32_t format, uint32_t tokens, uint32_t r, const uint32_t rows,
                        const uint32_t columns)
{
    const uint32_t pad = work->v_pad, bytes = akv_raw_bytes(format);
    float *to = work->sum[domain] + (size_t)r * pad;
    for (uint32_t i = 0; i < pad; i += columns * VN) {
        V sum[4][4];
        UNROLL
        for (uint32_t a = 0; a < rows; a++)
            UNROLL
        for (uint32_t b = 0; b < columns; b++)
            sum[a][b] = V_LOAD(to + a * pad + i + b * VN);
        for (uint32_t t = 0; t < tokens; t++) {
            const uint8_t *v = from + (size_t)t * pad * bytes;
            V x[4];
            akv_attend_ask(work, VN / 8u);
            UNROLL
            for (uint32_t b = 0; b < columns; b++)
                x[b] = v_raw(v, format, i + b * VN);
            UNROLL
            for (uint32_t a = 0; a < rows; a++) {
                V w = V_SET(work->s[r + a][work->at + t]);
                UNROLL
                for (uint32_t b = 0; b < columns; b++)
                    sum[a][b] = V_FMA(x[b], w, sum[a][b]);
            }
        }
        UNROLL
        for (uint32_t a = 0; a < rows; a++)
            UNROLL
        for (uint32_t b = 0; b < columns; b++)
            V_STORE(to + a * pad + i + b * VN, sum[a][b]);
    }
}
ALWAYS void values_block(struct akv_attend_work *work, uint32_t domain, const uint8_t *from,
                         const uint32_t format, uint32_t tokens, uint32_t r, const uint32_t rows)
{
    if (work->v_pad % (VC * VN) == 0)
        values_rows(work, domain, from, format, tokens, r, rows, VC);
    else
        values_rows(work, domain, from, format, tokens, r, rows, 32u / VN);
}
/* Weights of the strip: e^(s - m) instead of e^(s - strip maximum). */
static void whole_weights(struct akv_attend_work *work)
{
    for (uint32_t n = 0; n < work->rows; n++)
        for (uint32_t t = work->at; t < work->at + AKV_STRIP; t += VN)
            V_STORE(&work->s[n][t], V_MUL(V_LOAD(&work->s[n][t]), V_SET(work->factor[n])));
}
ALWAYS void values_all(struct akv_attend_work *work, uint32_t domain, const uint8_t *from,
                       const uint32_t format, uint32_t tokens)
{
    uint32_t r = 0;
    whole_weights(work);
    for (; r + 4u <= work->rows; r += 4)
        values_block(work, domain, from, format, tokens, r, 4);
    if (work->rows - r == 3u)
        values_block(work, domain, from, format, tokens, r, 3);
    else if (work->rows - r == 2u)
        values_block(work, domain, from, format, tokens, r, 2);
    else if (work->rows - r == 1u)
        values_block(work, domain, from, format, tokens, r, 1);
}
/* Rows of which some may not see some tokens: what stands there must not touch them, even NaN. */
static void values_careful(struct akv_attend_work *work, uint32_t domain, uint32_t tokens)
{
    for (uint32_t r = 0; r < work->rows; r++)
        for (uint32_t t = 0; t < tokens; t++)
            if (work->s[r][work->at + t] != 0.0f) {
                float *to = work->sum[domain] + (size_t)r * work->v_pad;
                const float *v = work->tile + (size_t)t * work->v_pad;
                for (uint32_t i = 0; i < work->v_pad; i += VN)
                    V_STORE(to + i,
                            V_FMA(V_LOAD(v + i), V_SET(work->s[r][work->at + t]), V_LOAD(to + i)));
            }
}
static void simd_values(struct akv_attend_work *work, uint32_t domain,
                        const struct akv_strip *strip)
{
    if (!strip->careful) {
        values_all(work, domain, (const uint8_t *)work->tile, AKV_F32, strip->tokens);
        return;
    }
    whole_weights(work);
    values_careful(work, domain, strip->tokens);
}
static bool raw_values(struct akv_attend_work *work, const struct akv_strip *strip)
{
    if (work->rows > DIRECT_ROWS || work->v_dim != work->v_pad || strip->careful)
        return false;
    const uint8_t *from =
        strip->v + (size_t)strip->first * work->v_dim * akv_raw_bytes(strip->v_format);
    if (strip->v_format == AKV_F16)
        values_all(work, 0, from, AKV_F16, AKV_STRIP);
    else if (strip->v_format == AKV_BF16)
        values_all(work, 0, from, AKV_BF16, AKV_STRIP);
    else
        return false;
    return true;
}

#endif
