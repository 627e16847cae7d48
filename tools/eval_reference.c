/* SPDX-License-Identifier: Apache-2.0 */
/* Attention in double precision over exact rows, and over rows that have been through a format.
 *
 * Both of its products (scores = q times keys, output = weights times values) are the same small
 * kernel: four vectors against eight columns.  Work is cut into batches of four queries of one kv
 * head; a batch belongs to one thread and every sum has one order, so results do not depend on the
 * threads. */
#include "eval_reference.h"
#include <math.h>
#include <stdatomic.h>
#include <stdlib.h>

#define BATCH 4u
#define WIDE  8u

struct work {
    const struct akv_eval_problem *problem;
    struct akv_panels *k, *v; /* [1 + variants][kv_heads]; number 0 is exact */
    uint32_t batches;         /* of one kv head */
    double *tv, *error;       /* [pairs][queries of all heads] */
    unsigned char *top;
    double *out; /* exact outputs wanted, or NULL */
    atomic_uint next;
};
struct scratch {
    double *score;  /* [1 + k_variants][BATCH][tokens]: scores, then weights */
    double *masked; /* [BATCH][tokens]: weights of the rows that went through the format */
    double *exact;  /* [BATCH][tokens]: the others */
    double *output; /* [2][BATCH][dim rounded up] */
    uint32_t *best; /* [1 + k_variants][BATCH] */
};

static uint32_t rounded(uint32_t count)
{
    return (count + WIDE - 1) / WIDE * WIDE;
}

/* out[b][j] = sum over i of a[b][i] * panel[i][j], i ascending. */
static void multiply(const double *const a[BATCH], const double *panel, size_t count,
                     double out[BATCH][WIDE])
{
    for (uint32_t half = 0; half < WIDE; half += 4) {
        double s00 = 0, s01 = 0, s02 = 0, s03 = 0, s10 = 0, s11 = 0, s12 = 0, s13 = 0;
        double s20 = 0, s21 = 0, s22 = 0, s23 = 0, s30 = 0, s31 = 0, s32 = 0, s33 = 0;
        const double *column = panel + half;
        for (size_t i = 0; i < count; i++, column += WIDE) {
            const double x0 = column[0], x1 = column[1], x2 = column[2], x3 = column[3];
            const double a0 = a[0][i], a1 = a[1][i], a2 = a[2][i], a3 = a[3][i];
            s00 += a0 * x0, s01 += a0 * x1, s02 += a0 * x2, s03 += a0 * x3;
            s10 += a1 * x0, s11 += a1 * x1, s12 += a1 * x2, s13 += a1 * x3;
            s20 += a2 * x0, s21 += a2 * x1, s22 += a2 * x2, s23 += a2 * x3;
            s30 += a3 * x0, s31 += a3 * x1, s32 += a3 * x2, s33 += a3 * x3;
        }
        double *o = out[0] + half;
        o[0] = s00, o[1] = s01, o[2] = s02, o[3] = s03;
        o = out[1] + half;
        o[0] = s10, o[1] = s11, o[2] = s12, o[3] = s13;
        o = out[2] + half;
        o[0] = s20, o[1] = s21, o[2] = s22, o[3] = s23;
        o = out[3] + half;
        o[0] = s30, o[1] = s31, o[2] = s32, o[3] = s33;
    }
}

/* ---- panels ---- */

static anykv_status make_panels(struct akv_panels *panels, const struct akv_eval_problem *p,
                                const double *rows, uint32_t head, bool keys)
{
    panels->rows = keys ? p->dim : p->tokens;
    panels->columns = keys ? p->tokens : p->dim;
    size_t stride = (size_t)p->kv_heads * p->dim;
    panels->data = akv_alloc(NULL, (size_t)panels->rows * rounded(panels->columns), sizeof(double));
    if (panels->data == NULL)
        return ANYKV_E_MEMORY;
    for (uint32_t t = 0; t < p->tokens; t++)
        for (uint32_t i = 0; i < p->dim; i++) {
            size_t row = keys ? i : t, column = keys ? t : i;
            panels->data[(column / WIDE * panels->rows + row) * WIDE + column % WIDE] =
                rows[t * stride + (size_t)head * p->dim + i];
        }
    return ANYKV_OK;
}

/* vectors times the columns first … last-1 (multiples of WIDE but for last), rows row0 … row1-1;
 * vectors are indexed by row.  out: [BATCH][out_stride], written for whole groups of columns. */
static void multiply_panels(const struct akv_panels *panels, const double *const vector[BATCH],
                            uint32_t row0, uint32_t row1, uint32_t first, uint32_t last,
                            double *out, size_t out_stride)
{
    const double *shifted[BATCH];
    for (uint32_t b = 0; b < BATCH; b++)
        shifted[b] = vector[b] + row0;
    for (uint32_t column = first; column < last; column += WIDE) {
        double tile[BATCH][WIDE];
        multiply(shifted, panels->data + ((size_t)(column / WIDE) * panels->rows + row0) * WIDE,
                 row1 - row0, tile);
        for (uint32_t b = 0; b < BATCH; b++)
            memcpy(out + b * out_stride + column, tile[b], sizeof tile[b]);
    }
}

/* ---- one batch ---- */

struct batch {
    uint32_t count, head; /* queries that are real; kv head */
    uint32_t position[BATCH];
    size_t query[BATCH];  /* number among [queries][q_heads] */
    uint32_t low[BATCH];  /* first key seen; the last is position */
    uint32_t first, last; /* union of the keys seen: first (a multiple of WIDE) … last-1 */
};

static void describe_batch(const struct akv_eval_problem *p, uint32_t head, uint32_t number,
                           struct batch *batch)
{
    uint32_t group = p->q_heads / p->kv_heads, all = (p->tokens - p->q_first) * group;
    batch->head = head;
    batch->count = all - number * BATCH < BATCH ? all - number * BATCH : BATCH;
    batch->first = p->tokens;
    batch->last = 0;
    for (uint32_t b = 0; b < BATCH; b++) {
        uint32_t n = number * BATCH + (b < batch->count ? b : 0);
        uint32_t position = p->q_first + n / group;
        batch->position[b] = position;
        batch->query[b] = (size_t)(n / group) * p->q_heads + head * group + n % group;
        batch->low[b] = p->window != 0 && position + 1 > p->window ? position + 1 - p->window : 0;
        if (batch->low[b] < batch->first)
            batch->first = batch->low[b];
        if (position + 1 > batch->last)
            batch->last = position + 1;
    }
    batch->first -= batch->first % WIDE;
}

static bool exempt(const struct akv_eval_problem *p, uint32_t position, uint32_t token)
{
    return token < p->sinks || position - token < p->recent;
}

/* Scores of one query to weights over low … position, zero elsewhere in first … last rounded up;
 * returns the most attended token. */
static uint32_t soften(double *score, const struct batch *batch, uint32_t b)
{
    uint32_t low = batch->low[b], high = batch->position[b], best = low;
    double sum = 0.0;
    for (uint32_t t = low; t <= high; t++)
        if (score[t] > score[best])
            best = t;
    double top = score[best];
    for (uint32_t t = low; t <= high; t++)
        sum += score[t] = exp(score[t] - top);
    for (uint32_t t = low; t <= high; t++)
        score[t] /= sum;
    for (uint32_t t = batch->first; t < low; t++)
        score[t] = 0.0;
    for (uint32_t t = high + 1; t < batch->last; t++)
        score[t] = 0.0;
    return best;
}

/* Scores against one set of keys, scaled; row stride of the scratch. */
static void score_batch(const struct work *w, const struct batch *batch, uint32_t variant,
                        const double *const q[BATCH], double *score, size_t stride)
{
    const struct akv_eval_problem *p = w->problem;
    multiply_panels(&w->k[variant * p->kv_heads + batch->head], q, 0, p->dim, batch->first,
                    batch->last, score, stride);
    for (uint32_t b = 0; b < BATCH; b++)
        for (uint32_t t = batch->first; t < batch->last; t++)
            score[b * stride + t] *= p->scale;
}

static void output_batch(const struct work *w, const struct batch *batch, uint32_t variant,
                         const double *weight, size_t stride, uint32_t first, uint32_t last,
                         double *out)
{
    const struct akv_eval_problem *p = w->problem;
    const double *vector[BATCH];
    for (uint32_t b = 0; b < BATCH; b++)
        vector[b] = weight + b * stride;
    multiply_panels(&w->v[variant * p->kv_heads + batch->head], vector, first, last, 0, p->dim, out,
                    rounded(p->dim));
}

/* Weights split by how their rows were stored; output = the two products' sum. */
static void mixed_output(const struct work *w, const struct batch *batch, uint32_t variant,
                         const double *weight, size_t stride, struct scratch *s, double *out)
{
    const struct akv_eval_problem *p = w->problem;
    const size_t width = rounded(p->dim);
    if (p->sinks == 0 && p->recent == 0) {
        output_batch(w, batch, variant, weight, stride, batch->first, batch->last, out);
        return;
    }
    for (uint32_t b = 0; b < BATCH; b++)
        for (uint32_t t = batch->first; t < batch->last; t++) {
            bool raw = t <= batch->position[b] && exempt(p, batch->position[b], t);
            s->exact[b * stride + t] = raw ? weight[b * stride + t] : 0.0;
            s->masked[b * stride + t] = raw ? 0.0 : weight[b * stride + t];
        }
    output_batch(w, batch, variant, s->masked, stride, batch->first, batch->last, out);
    double part[BATCH * 8];
    const uint32_t sinks = p->sinks < batch->last ? p->sinks : batch->last;
    const uint32_t span = p->recent + BATCH < batch->last ? batch->last - p->recent - BATCH : 0;
    const uint32_t from[2] = {batch->first, span > sinks ? span : sinks};
    const uint32_t to[2] = {sinks, batch->last};
    const double *vector[BATCH];
    for (uint32_t b = 0; b < BATCH; b++)
        vector[b] = s->exact + b * stride;
    for (int piece = 0; piece < 2; piece++) {
        uint32_t row0 = from[piece] > batch->first ? from[piece] : batch->first;
        for (uint32_t column = 0; column < p->dim && row0 < to[piece]; column += WIDE) {
            const struct akv_panels *exact = &w->v[batch->head];
            const double *shifted[BATCH] = {vector[0] + row0, vector[1] + row0, vector[2] + row0,
                                            vector[3] + row0};
            multiply(shifted, exact->data + ((size_t)(column / WIDE) * exact->rows + row0) * WIDE,
                     to[piece] - row0, (double(*)[WIDE])part);
            for (uint32_t b = 0; b < BATCH; b++)
                for (uint32_t j = 0; j < WIDE; j++)
                    out[b * width + column + j] += part[b * WIDE + j];
        }
    }
}

static double variation(const double *a, const double *b, const struct batch *batch, uint32_t n)
{
    double sum = 0.0;
    for (uint32_t t = batch->low[n]; t <= batch->position[n]; t++)
        sum += fabs(a[t] - b[t]);
    return 0.5 * sum;
}

double akv_relative_error(const double *a, const double *b, uint32_t count)
{
    double difference = 0.0, norm = 0.0;
    for (uint32_t i = 0; i < count; i++) {
        difference += (a[i] - b[i]) * (a[i] - b[i]);
        norm += b[i] * b[i];
    }
    if (norm == 0.0)
        return difference == 0.0 ? 0.0 : 1.0;
    return sqrt(difference / norm);
}

static void compare_batch(const struct work *w, const struct batch *batch, struct scratch *s,
                          size_t stride, const double *exact_output)
{
    const struct akv_eval_problem *p = w->problem;
    const size_t width = rounded(p->dim), queries = (size_t)(p->tokens - p->q_first) * p->q_heads;
    double *output = s->output + BATCH * width;
    for (uint32_t n = 0; n < p->pairs; n++) {
        double *weight = s->score + (1 + p->pair[n].k) * BATCH * stride;
        mixed_output(w, batch, 1 + p->pair[n].v, weight, stride, s, output);
        for (uint32_t b = 0; b < batch->count; b++) {
            size_t at = n * queries + batch->query[b];
            w->tv[at] = variation(weight + b * stride, s->score + b * stride, batch, b);
            w->error[at] = akv_relative_error(output + b * width, exact_output + b * width, p->dim);
            w->top[at] = s->best[b] == s->best[(1 + p->pair[n].k) * BATCH + b];
        }
    }
}

static void run_batch(const struct work *w, const struct batch *batch, struct scratch *s,
                      size_t stride)
{
    const struct akv_eval_problem *p = w->problem;
    const size_t width = rounded(p->dim);
    const double *q[BATCH];
    for (uint32_t b = 0; b < BATCH; b++)
        q[b] = p->q + batch->query[b] * p->dim;
    for (uint32_t n = 0; n <= p->k_variants; n++)
        score_batch(w, batch, n, q, s->score + n * BATCH * stride, stride);
    for (uint32_t n = 1; n <= p->k_variants; n++)
        for (uint32_t b = 0; b < BATCH; b++)
            for (uint32_t t = batch->low[b]; t <= batch->position[b]; t++)
                if (exempt(p, batch->position[b], t))
                    s->score[(n * BATCH + b) * stride + t] = s->score[b * stride + t];
                else if (p->kept != NULL && p->kept[n - 1] != NULL &&
                         !p->kept[n - 1][(size_t)batch->head * p->tokens + t])
                    s->score[(n * BATCH + b) * stride + t] = -INFINITY;
    for (uint32_t n = 0; n <= p->k_variants; n++)
        for (uint32_t b = 0; b < BATCH; b++)
            s->best[n * BATCH + b] = soften(s->score + (n * BATCH + b) * stride, batch, b);
    output_batch(w, batch, 0, s->score, stride, batch->first, batch->last, s->output);
    if (w->out != NULL)
        for (uint32_t b = 0; b < batch->count; b++)
            memcpy(w->out + batch->query[b] * p->dim, s->output + b * width,
                   p->dim * sizeof(double));
    compare_batch(w, batch, s, stride, s->output);
}

/* ---- threads ---- */

static void free_scratch(struct scratch *s)
{
    akv_free(NULL, s->score);
    akv_free(NULL, s->masked);
    akv_free(NULL, s->exact);
    akv_free(NULL, s->output);
    akv_free(NULL, s->best);
}

static anykv_status make_scratch(const struct akv_eval_problem *p, struct scratch *s)
{
    size_t stride = rounded(p->tokens);
    memset(s, 0, sizeof *s);
    s->score = akv_alloc(NULL, (1 + (size_t)p->k_variants) * BATCH * stride, sizeof(double));
    s->masked = akv_alloc(NULL, BATCH * stride, sizeof(double));
    s->exact = akv_alloc(NULL, BATCH * stride, sizeof(double));
    s->output = akv_alloc(NULL, (size_t)2 * BATCH * rounded(p->dim), sizeof(double));
    s->best = akv_alloc(NULL, (1 + (size_t)p->k_variants) * BATCH, sizeof(uint32_t));
    if (s->score != NULL && s->masked != NULL && s->exact != NULL && s->output != NULL &&
        s->best != NULL)
        return ANYKV_OK;
    free_scratch(s);
    return ANYKV_E_MEMORY;
}

struct worker {
    struct work *work;
    struct scratch scratch;
    pthread_t thread;
    bool started;
};

static void *work_on(void *argument)
{
    struct worker *worker = argument;
    struct work *w = worker->work;
    uint32_t all = w->batches * w->problem->kv_heads;
    for (;;) {
        uint32_t number = atomic_fetch_add_explicit(&w->next, 1, memory_order_relaxed);
        struct batch batch;
        if (number >= all)
            return NULL;
        describe_batch(w->problem, number / w->batches, number % w->batches, &batch);
        run_batch(w, &batch, &worker->scratch, rounded(w->problem->tokens));
    }
}

/* Threads beyond the first are a gain in time only: one that cannot be started is done without. */
static anykv_status run_all(struct work *w, uint32_t threads)
{
    struct worker workers[64];
    uint32_t ready = 0;
    anykv_status status = ANYKV_OK;
    threads = threads < 1 ? 1 : threads > 64 ? 64 : threads;
    while (ready < threads && status == ANYKV_OK) {
        workers[ready].work = w;
        workers[ready].started = false;
        status = make_scratch(w->problem, &workers[ready].scratch);
        ready += status == ANYKV_OK;
    }
    if (ready > 0) {
        status = ANYKV_OK;
        for (uint32_t i = 1; i < ready; i++)
            workers[i].started =
                pthread_create(&workers[i].thread, NULL, work_on, &workers[i]) == 0;
        work_on(&workers[0]);
    }
    for (uint32_t i = 0; i < ready; i++) {
        if (workers[i].started)
            pthread_join(workers[i].thread, NULL);
        free_scratch(&workers[i].scratch);
    }
    return status;
}

static anykv_status fill_panels(const struct akv_eval_problem *p, struct akv_panels *panels,
                                const double *exact, const double *const *variant,
                                uint32_t variants, bool keys)
{
    for (uint32_t n = 0; n <= variants; n++)
        for (uint32_t head = 0; head < p->kv_heads; head++) {
            anykv_status status = make_panels(&panels[n * p->kv_heads + head], p,
                                              n == 0 ? exact : variant[n - 1], head, keys);
            if (status != ANYKV_OK)
                return status;
        }
    return ANYKV_OK;
}

static void free_panels(struct akv_panels *panels, size_t count)
{
    for (size_t i = 0; panels != NULL && i < count; i++)
        akv_free(NULL, panels[i].data);
    akv_free(NULL, panels);
}

static anykv_status prepare_and_run(struct work *w, uint32_t threads)
{
    const struct akv_eval_problem *p = w->problem;
    uint32_t group = p->q_heads / p->kv_heads;
    size_t ks = (1 + (size_t)p->k_variants) * p->kv_heads,
           vs = (1 + (size_t)p->v_variants) * p->kv_heads;
    anykv_status status = ANYKV_E_MEMORY;
    w->batches = ((p->tokens - p->q_first) * group + BATCH - 1) / BATCH;
    w->k = akv_alloc(NULL, ks, sizeof *w->k);
    w->v = akv_alloc(NULL, vs, sizeof *w->v);
    if (w->k != NULL && w->v != NULL)
        status = fill_panels(p, w->k, p->k, p->k_variant, p->k_variants, true);
    if (status == ANYKV_OK)
        status = fill_panels(p, w->v, p->v, p->v_variant, p->v_variants, false);
    if (status == ANYKV_OK)
        status = run_all(w, threads);
    free_panels(w->k, ks);
    free_panels(w->v, vs);
    return status;
}

static int ascending(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return x < y ? -1 : x > y;
}

double akv_quantile(double *values, size_t count, double share)
{
    size_t index = (size_t)ceil(share * (double)count);
    qsort(values, count, sizeof *values, ascending);
    return values[index == 0 ? 0 : index > count ? count - 1 : index - 1];
}

anykv_status akv_eval_compare(const struct akv_eval_problem *problem, uint32_t threads,
                              struct akv_eval_result *result_out)
{
    size_t queries = (size_t)(problem->tokens - problem->q_first) * problem->q_heads;
    struct work work = {.problem = problem};
    anykv_status status = ANYKV_E_MEMORY;
    work.tv = akv_alloc(NULL, queries * problem->pairs, sizeof(double));
    work.error = akv_alloc(NULL, queries * problem->pairs, sizeof(double));
    work.top = akv_alloc(NULL, queries * problem->pairs, 1);
    if (work.tv != NULL && work.error != NULL && work.top != NULL)
        status = prepare_and_run(&work, threads);
    for (uint32_t n = 0; n < problem->pairs && status == ANYKV_OK; n++) {
        double tv = 0.0, error = 0.0, top = 0.0;
        for (size_t i = n * queries; i < (n + 1) * queries; i++) {
            tv += work.tv[i];
            error += work.error[i];
            top += work.top[i];
        }
        result_out[n].attention_tv = tv / (double)queries;
        result_out[n].output_error = error / (double)queries;
        result_out[n].top1 = top / (double)queries;
        result_out[n].output_error_999 = akv_quantile(work.error + n * queries, queries, 0.999);
    }
    akv_free(NULL, work.tv);
    akv_free(NULL, work.error);
    akv_free(NULL, work.top);
    return status;
}

anykv_status akv_eval_attend(const struct akv_eval_problem *problem, uint32_t threads, double *out)
{
    struct akv_eval_problem exact = *problem;
    struct work work = {.problem = &exact, .out = out};
    exact.k_variants = exact.v_variants = exact.pairs = 0;
    return prepare_and_run(&work, threads);
}
