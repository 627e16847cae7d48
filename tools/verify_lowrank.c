/* SPDX-License-Identifier: Apache-2.0 */
/* verify: the cases of low rank and of dense products.  The scalar reference gives the bytes of the
 * exact kernels, which tests/test_lowrank.c holds against double precision; products are compared
 * with that here. */
#include "verify.h"
#include "../lib/kernel/lowrank.h"
#include <inttypes.h>
#include <math.h>

struct low_data {
    akv_lowrank_params params;
    uint64_t elements;   /* of rows */
    uint8_t *rows;       /* in dtype */
    float *wide, *basis; /* coefficients or sums; [heads][dim][dim] */
    uint8_t *codes, *shifts;
    uint16_t *centre;
    uint64_t *turns;
    uint8_t *out;
};

static bool low_create(struct verify *v, struct low_data *d, uint64_t seed)
{
    const akv_lowrank_params *p = &d->params;
    const uint64_t n = d->elements, columns = (uint64_t)p->heads * p->dim,
                   square = columns * p->dim;
    d->rows = verify_alloc(v, n * 4u);
    d->wide = verify_alloc(v, n * sizeof *d->wide);
    d->basis = verify_alloc(v, square * sizeof *d->basis);
    d->codes = verify_alloc(v, (uint64_t)p->tokens * p->columns);
    d->shifts = verify_alloc(v, columns);
    d->centre = verify_alloc(v, columns * sizeof *d->centre);
    d->turns = verify_alloc(v, p->dim * sizeof *d->turns);
    d->out = verify_alloc(v, n * 4u);
    if (!d->rows || !d->wide || !d->basis || !d->codes || !d->shifts || !d->centre || !d->turns ||
        !d->out)
        return false;
    for (uint64_t i = 0; i < square; i++)
        d->basis[i] = (float)((int32_t)(verify_random(&seed) >> 40) - 8388608) * 0x1p-23f;
    for (uint64_t i = 0; i < (uint64_t)p->tokens * p->columns; i++)
        d->codes[i] = (uint8_t)(verify_random(&seed) >> 56);
    for (uint64_t i = 0; i < columns; i++) {
        d->shifts[i] =
            (uint8_t)(verify_below(&seed, 8) ? verify_below(&seed, 9) : verify_below(&seed, 101));
        d->centre[i] = (uint16_t)(verify_random(&seed) >> 48);
        d->centre[i] &= (d->centre[i] & 0x7C00u) == 0x7C00u ? 0x83FFu : 0xFFFFu; /* finite */
    }
    for (uint32_t i = 0; i < p->dim; i++)
        d->turns[i] = verify_random(&seed) >> verify_below(&seed, 40);
    for (uint64_t i = 0; i < n; i++) { /* sums: every magnitude, subnormal and zero, but no NaN */
        uint32_t bits = (uint32_t)(verify_random(&seed) >> 32);
        const uint32_t exponent = verify_below(&seed, 16) ? 110u + bits % 30u : bits % 220u;
        d->wide[i] = akv_as_f32((bits & 0x807FFFFFu) | exponent << 23);
    }
    return verify_rows(v, d->rows, (uint64_t)p->tokens * p->heads, p->dim, p->dtype, 0, p->dtype,
                       seed);
}

static void low_destroy(struct verify *v, struct low_data *d)
{
    void *all[] = {d->rows, d->wide, d->basis, d->codes, d->shifts, d->centre, d->turns, d->out};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        akv_free(v->context, all[i]);
}

static void low_compare(struct verify *v, struct low_data *d, bool centred)
{
    const akv_lowrank_params *p = &d->params;
    const uint64_t columns = (uint64_t)p->heads * p->dim,
                   raw = d->elements * akv_raw_bytes(p->dtype);
    const struct verify_span rows = {d->rows, NULL, raw}, wide = {d->wide, NULL, d->elements * 4u};
    const struct verify_span centre = {d->centre, NULL, centred ? columns * 2u : 0u};
    const struct verify_span turns = {d->turns, NULL, p->pairs * 8ull};
    const bool project = v->kernel == AKV_K_LOWRANK_PROJECT, read = v->kernel == AKV_K_LOWRANK_READ;
    const uint32_t out = project ? 4u : read ? 2u : 3u;
    struct verify_launch launch, shape[VERIFY_SHAPES];
    memset(&launch, 0, sizeof launch);
    launch.params = p;
    launch.span[0] = project ? rows
                     : read ? (struct verify_span){d->codes, NULL, (uint64_t)p->tokens * p->columns}
                            : wide;
    launch.span[1] = project ? (struct verify_span){d->basis, NULL, columns * p->dim * 4u}
                     : read  ? (struct verify_span){d->shifts, NULL, columns}
                             : centre;
    if (!read) {
        launch.span[project ? 2 : 1] = centre;
        launch.span[project ? 3 : 2] = turns;
    }
    launch.span[out] =
        (struct verify_span){NULL, verify_any, project || read ? d->elements * 4u : raw};
    launch.result[out] = d->out;
    if (!verify_reference(v, v->kernel, &launch))
        return;
    launch.span[out].expect = d->out;
    launch.result[out] = NULL;
    for (uint32_t s = 0; s < VERIFY_SHAPES; s++)
        shape[s] = launch;
    verify_compare(v, d->elements, shape);
}

/* Keys of both orders of pairs, some without all components in pairs, and values. */
void verify_lowrank(struct verify *v, uint32_t format)
{
    const uint64_t want = verify_share(v, VERIFY_DIMS * 3u);
    for (uint32_t n = 0; n < VERIFY_DIMS; n++)
        for (uint32_t side = 0; side < 3; side++)
            for (uint64_t done = 0, round = 0; round == 0 || done < want; round++) {
                uint64_t seed = verify_mix(v->seed, 9900u + (n * 3u + side) * 64u + round);
                struct low_data d;
                memset(&d, 0, sizeof d);
                d.params =
                    (akv_lowrank_params){.tokens = 1u + (round ? verify_below(&seed, 300) : n * 9u),
                                         .heads = 1u + verify_below(&seed, 3),
                                         .dim = verify_dims[n],
                                         .dtype = format,
                                         .position = verify_below(&seed, 1u << 20),
                                         .rope = side == 1};
                d.params.columns = d.params.heads * d.params.dim + verify_below(&seed, 2) * 16u;
                d.params.step = akv_as_u32(ldexpf(1.0f + (float)verify_below(&seed, 1000) * 0.001f,
                                                  (int)verify_below(&seed, 30) - 15));
                d.params.pairs = side == 2 ? 0 : d.params.dim / 2u - verify_below(&seed, 2) * 3u;
                d.elements = (uint64_t)d.params.tokens * d.params.heads * d.params.dim;
                done += d.elements;
                if (!verify_case(v, d.elements, "%s-d%" PRIu32 "-t%" PRIu32 "-%" PRIu64,
                                 side == 2 ? "values"
                                 : side    ? "halves"
                                           : "pairs",
                                 d.params.dim, d.params.tokens, round))
                    continue;
                if (low_create(v, &d, seed))
                    low_compare(v, &d, side != 2);
                low_destroy(v, &d);
            }
}

/* ---- products ---- */

static void product_on(struct verify *v, uint32_t t, const struct verify_launch *launch,
                       const float *want, const float *bound, const float *before, float *got)
{
    const akv_multiply_params *p = launch->params;
    struct verify_row *row = &v->row[t];
    const uint64_t count = launch->span[2].bytes / 4u;
    for (uint32_t s = 0; s < VERIFY_SHAPES; s++) {
        struct verify_launch call = *launch;
        uint64_t differ = 0;
        call.result[2] = got;
        anykv_status status = verify_launch_on(v, &v->target[t].side[s], s, &v->target[t],
                                               v->kernel, &call, true, &differ);
        if (status != ANYKV_OK)
            verify_failed(v, t, "%s: %s", anykv_status_name(status), anykv_error_detail());
        row->differ += differ;
        for (uint64_t i = 0; i < count && status == ANYKV_OK; i++) {
            if (bound[i] < 0.0f) { /* between rows */
                row->differ += akv_as_u32(got[i]) != akv_as_u32(before[i]);
                continue;
            }
            const double off = fabs((double)got[i] - (double)want[i]);
            if (!(off <= (double)bound[i]))
                verify_failed(v, t,
                              "%" PRIu32 " x %" PRIu32 " x %" PRIu32 ", element %" PRIu64
                              ": %g, expected %g within %g",
                              p->m, p->n, p->k, i, (double)got[i], (double)want[i],
                              (double)bound[i]);
            if (bound[i] > 0.0f)
                row->max_error = fmax(row->max_error, off / (double)bound[i]);
        }
    }
    row->cases++;
}

/* bound: negative where no product is. */
static void product_expected(const akv_multiply_params *p, const float *a, const float *b,
                             float *want, float *bound)
{
    for (uint32_t q = 0; q < p->batch; q++)
        for (uint32_t i = 0; i < p->m; i++)
            for (uint32_t j = 0; j < p->n; j++) {
                double sum = 0.0, size = 0.0;
                for (uint32_t l = 0; l < p->k; l++) {
                    const double one = (double)a[q * p->a_step + (uint64_t)i * p->lda + l] *
                                       (double)b[q * p->b_step + (uint64_t)l * p->ldb + j];
                    sum += one;
                    size += fabs(one);
                }
                want[q * p->c_step + (uint64_t)i * p->ldc + j] = (float)sum;
                /* want itself is rounded */
                bound[q * p->c_step + (uint64_t)i * p->ldc + j] =
                    (float)(size * (1.01 * p->k + 1.0) * 0x1p-24);
            }
}

static void product_case(struct verify *v, const akv_multiply_params *p, uint64_t seed)
{
    const uint64_t counts[3] = {(p->batch - 1) * p->a_step + (uint64_t)(p->m - 1) * p->lda + p->k,
                                (p->batch - 1) * p->b_step + (uint64_t)(p->k - 1) * p->ldb + p->n,
                                (p->batch - 1) * p->c_step + (uint64_t)(p->m - 1) * p->ldc + p->n};
    float *of[3] = {NULL, NULL, NULL}, *want = verify_alloc(v, counts[2] * 4u),
          *bound = verify_alloc(v, counts[2] * 4u);
    float *got = verify_alloc(v, counts[2] * 4u);
    bool good = want && bound && got;
    for (uint32_t i = 0; i < 3; i++) {
        of[i] = verify_alloc(v, counts[i] * 4u);
        good = good && of[i];
        for (uint64_t e = 0; good && e < counts[i]; e++)
            of[i][e] = (float)((int32_t)(verify_random(&seed) >> 40) - 8388608) * 0x1p-23f;
    }
    for (uint64_t e = 0; good && e < counts[2]; e++)
        bound[e] = -1.0f;
    if (good) {
        struct verify_launch launch;
        memset(&launch, 0, sizeof launch);
        product_expected(p, of[0], of[1], want, bound);
        launch.params = p;
        for (uint32_t i = 0; i < 3; i++)
            launch.span[i] =
                (struct verify_span){of[i], i == 2 ? verify_any : NULL, counts[i] * 4u};
        for (uint32_t t = 0; t < v->targets; t++) {
            const uint64_t start = akv_now_ns();
            if (!verify_target_runs(v, t, p))
                continue;
            product_on(v, t, &launch, want, bound, of[2], got);
            v->row[t].elements += (uint64_t)p->batch * p->m * p->n;
            v->row[t].nanoseconds += akv_now_ns() - start;
        }
    }
    for (uint32_t i = 0; i < 3; i++)
        akv_free(v->context, of[i]);
    akv_free(v->context, want);
    akv_free(v->context, bound);
    akv_free(v->context, got);
}

/* Whole rows of one product, and products side by side as low rank has them, of several sizes. */
void verify_multiply(struct verify *v, uint32_t format)
{
    static const uint32_t sizes[][3] = {{1, 1, 1},    {5, 3, 2},     {8, 16, 16},    {9, 17, 33},
                                        {64, 64, 64}, {70, 130, 40}, {33, 128, 128}, {17, 80, 576}};
    (void)format;
    for (uint32_t i = 0; i < sizeof sizes / sizeof *sizes; i++)
        for (uint32_t batch = 1; batch <= 3; batch++) {
            const uint32_t m = sizes[i][0], n = sizes[i][1], k = sizes[i][2];
            akv_multiply_params p = {.m = m,
                                     .n = n,
                                     .k = k,
                                     .batch = batch,
                                     .lda = k * batch,
                                     .ldb = n,
                                     .ldc = n * batch,
                                     .a_step = k,
                                     .b_step = (uint64_t)n * k,
                                     .c_step = n};
            if (batch == 2) { /* one behind the other, in wider rows */
                p.lda = k + 3u;
                p.ldb = n + 1u;
                p.ldc = n + 5u;
                p.a_step = (uint64_t)m * p.lda;
                p.b_step = (uint64_t)k * p.ldb + 7u;
                p.c_step = (uint64_t)m * p.ldc;
            }
            if (verify_case(v, (uint64_t)batch * m * n,
                            "%" PRIu32 "x%" PRIu32 "x%" PRIu32 "-%" PRIu32, m, n, k, batch))
                product_case(v, &p, verify_mix(v->seed, 9950u + i * 4u + batch));
        }
}
