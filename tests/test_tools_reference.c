/* SPDX-License-Identifier: Apache-2.0 */
/* The blocked double-precision reference of `eval` against a naive one written from the
 * definitions. */
#include "tools/eval_reference.h"
#include <criterion/criterion.h>
#include <math.h>
#include <stdlib.h>

#define VARIANTS 2
#define PAIRS    3

struct data {
    struct akv_eval_problem p;
    double *q, *k, *v, *variant[2][VARIANTS];
    const double *k_list[VARIANTS], *v_list[VARIANTS];
    struct akv_eval_pair pair[PAIRS];
};

static double random_real(uint64_t *state)
{
    *state = *state * 6364136223846793005u + 1442695040888963407u;
    return (double)(int64_t)*state / 9223372036854775808.0;
}

static double *fill(size_t count, uint64_t *state, const double *base, double noise)
{
    double *rows = malloc(count * sizeof *rows);
    for (size_t i = 0; i < count; i++)
        rows[i] = (base ? base[i] : 0.0) + noise * random_real(state);
    return rows;
}

static void make(struct data *d, uint64_t seed)
{
    struct akv_eval_problem *p = &d->p;
    size_t rows = (size_t)p->tokens * p->kv_heads * p->dim;
    d->q = fill((size_t)(p->tokens - p->q_first) * p->q_heads * p->dim, &seed, NULL, 3.0);
    d->k = fill(rows, &seed, NULL, 2.0);
    d->v = fill(rows, &seed, NULL, 1.0);
    for (int i = 0; i < VARIANTS; i++) {
        d->k_list[i] = d->variant[0][i] = fill(rows, &seed, d->k, 0.2 * (i + 1));
        d->v_list[i] = d->variant[1][i] = fill(rows, &seed, d->v, 0.1 * (i + 1));
    }
    d->pair[0] = (struct akv_eval_pair){0, 0};
    d->pair[1] = (struct akv_eval_pair){1, 0};
    d->pair[2] = (struct akv_eval_pair){0, 1};
    p->q = d->q;
    p->k = d->k;
    p->v = d->v;
    p->k_variants = p->v_variants = VARIANTS;
    p->k_variant = d->k_list;
    p->v_variant = d->v_list;
    p->pairs = PAIRS;
    p->pair = d->pair;
    p->scale = 1.0 / sqrt(p->dim);
}

static void release(struct data *d)
{
    free(d->q);
    free(d->k);
    free(d->v);
    for (int i = 0; i < VARIANTS; i++) {
        free(d->variant[0][i]);
        free(d->variant[1][i]);
    }
}

/* Weights of one query over `keys` rows; exact rows where the definitions say so.  Returns the
 * first most attended token. */
static uint32_t naive_weights(const struct akv_eval_problem *p, const double *stored,
                              uint32_t position, uint32_t head, const double *q, double *weight)
{
    uint32_t kv = head / (p->q_heads / p->kv_heads), best = UINT32_MAX;
    double sum = 0.0;
    for (uint32_t t = 0; t < p->tokens; t++) {
        double score = 0.0;
        weight[t] = 0.0;
        if (t > position || (p->window != 0 && position - t >= p->window))
            continue;
        const double *rows = t < p->sinks || position - t < p->recent ? p->k : stored;
        for (uint32_t i = 0; i < p->dim; i++)
            score += q[i] * rows[((size_t)t * p->kv_heads + kv) * p->dim + i];
        weight[t] = exp(score * p->scale);
        sum += weight[t];
        if (best == UINT32_MAX || weight[t] > weight[best])
            best = t;
    }
    for (uint32_t t = 0; t < p->tokens; t++)
        weight[t] /= sum;
    return best;
}

static void naive_output(const struct akv_eval_problem *p, const double *stored, uint32_t position,
                         uint32_t head, const double *weight, double *out)
{
    uint32_t kv = head / (p->q_heads / p->kv_heads);
    for (uint32_t i = 0; i < p->dim; i++) {
        out[i] = 0.0;
        for (uint32_t t = 0; t <= position; t++) {
            const double *rows = t < p->sinks || position - t < p->recent ? p->v : stored;
            out[i] += weight[t] * rows[((size_t)t * p->kv_heads + kv) * p->dim + i];
        }
    }
}

static void naive(const struct akv_eval_problem *p, uint32_t pair, struct akv_eval_result *result,
                  double *outputs)
{
    double *exact = malloc(p->tokens * sizeof *exact), *other = malloc(p->tokens * sizeof *other);
    double *o = malloc(p->dim * sizeof *o);
    uint32_t queries = (p->tokens - p->q_first) * p->q_heads;
    double *errors = malloc(queries * sizeof *errors);
    memset(result, 0, sizeof *result);
    for (uint32_t n = 0; n < queries; n++) {
        uint32_t position = p->q_first + n / p->q_heads, head = n % p->q_heads;
        const double *q = p->q + (size_t)n * p->dim;
        uint32_t a = naive_weights(p, p->k, position, head, q, exact);
        uint32_t b = naive_weights(p, p->k_variant[p->pair[pair].k], position, head, q, other);
        naive_output(p, p->v, position, head, exact, outputs + (size_t)n * p->dim);
        naive_output(p, p->v_variant[p->pair[pair].v], position, head, other, o);
        for (uint32_t t = 0; t < p->tokens; t++)
            result->attention_tv += 0.5 * fabs(exact[t] - other[t]) / queries;
        errors[n] = akv_relative_error(o, outputs + (size_t)n * p->dim, p->dim);
        result->output_error += errors[n] / queries;
        result->top1 += (double)(a == b) / queries;
    }
    result->output_error_999 = akv_quantile(errors, queries, 0.999);
    free(exact);
    free(other);
    free(o);
    free(errors);
}

static bool near(double a, double b)
{
    return fabs(a - b) <= 1e-9 * (fabs(a) + fabs(b)) + 1e-12;
}

static void compare(struct akv_eval_problem p)
{
    struct data d = {.p = p};
    struct akv_eval_result blocked[PAIRS], again[PAIRS], plain;
    make(&d, p.tokens * 131u + p.dim);
    size_t outputs = (size_t)(p.tokens - p.q_first) * p.q_heads * p.dim;
    double *exact = malloc(outputs * sizeof *exact), *reference = malloc(outputs * sizeof *exact);
    cr_assert(akv_eval_compare(&d.p, 1, blocked) == ANYKV_OK);
    cr_assert(akv_eval_compare(&d.p, 3, again) == ANYKV_OK);
    cr_assert(akv_eval_attend(&d.p, 2, exact) == ANYKV_OK);
    cr_expect(memcmp(blocked, again, sizeof blocked) == 0, "the result depends on the threads");
    for (uint32_t n = 0; n < PAIRS; n++) {
        naive(&d.p, n, &plain, reference);
        cr_expect(near(plain.attention_tv, blocked[n].attention_tv) &&
                      near(plain.output_error, blocked[n].output_error) &&
                      near(plain.output_error_999, blocked[n].output_error_999) &&
                      near(plain.top1, blocked[n].top1),
                  "tokens %u q_first %u heads %u/%u dim %u window %u sinks %u recent %u pair %u: "
                  "%.12g %.12g %.12g %.12g, naive %.12g %.12g %.12g %.12g",
                  p.tokens, p.q_first, p.q_heads, p.kv_heads, p.dim, p.window, p.sinks, p.recent, n,
                  blocked[n].attention_tv, blocked[n].output_error, blocked[n].output_error_999,
                  blocked[n].top1, plain.attention_tv, plain.output_error, plain.output_error_999,
                  plain.top1);
    }
    for (size_t i = 0; i < outputs; i++)
        cr_assert(fabs(exact[i] - reference[i]) < 1e-9, "output %zu: %.12g, naive %.12g", i,
                  exact[i], reference[i]);
    free(exact);
    free(reference);
    release(&d);
}

Test(reference, plain)
{
    compare((struct akv_eval_problem){
        .tokens = 37, .q_first = 30, .q_heads = 9, .kv_heads = 3, .dim = 64});
}
Test(reference, one_head_of_256)
{
    compare((struct akv_eval_problem){
        .tokens = 40, .q_first = 35, .q_heads = 4, .kv_heads = 1, .dim = 256});
}
Test(reference, one_query_and_odd_sizes)
{
    compare((struct akv_eval_problem){
        .tokens = 9, .q_first = 8, .q_heads = 1, .kv_heads = 1, .dim = 5});
    compare((struct akv_eval_problem){
        .tokens = 1, .q_first = 0, .q_heads = 2, .kv_heads = 2, .dim = 80});
}
Test(reference, windows)
{
    for (uint32_t window = 1; window < 30; window += 7)
        compare((struct akv_eval_problem){.tokens = 29,
                                          .q_first = 3,
                                          .q_heads = 2,
                                          .kv_heads = 1,
                                          .dim = 16,
                                          .window = window,
                                          .sinks = 2,
                                          .recent = 3});
}
Test(reference, sinks_and_recent)
{
    static const uint32_t counts[] = {0, 1, 4, 7, 16, 100};
    for (int i = 0; i < 6; i++)
        for (int j = 0; j < 6; j++)
            compare((struct akv_eval_problem){.tokens = 35,
                                              .q_first = 20,
                                              .q_heads = 6,
                                              .kv_heads = 2,
                                              .dim = 24,
                                              .sinks = counts[i],
                                              .recent = counts[j]});
}

Test(reference, quantile)
{
    double values[] = {5, 1, 4, 2, 3};
    cr_expect(akv_quantile(values, 5, 0.999) == 5.0 && akv_quantile(values, 5, 0.2) == 1.0 &&
              akv_quantile(values, 5, 0.21) == 2.0 && akv_quantile(values, 5, 0.0) == 1.0);
}
