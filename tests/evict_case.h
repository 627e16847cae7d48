/* SPDX-License-Identifier: Apache-2.0 */
/* What the suites of token eviction share: a long sequence, attention over what it keeps, the
 * scores of its rows by every policy once more in double precision, and failures of every
 * allocation and call. */
#ifndef TESTS_EVICT_CASE_H
#define TESTS_EVICT_CASE_H
#include "steps.h"

#define DIM     64u
#define ALL     400u
#define SIZE    16u   /* tokens of a block */
#define ROWS    1024u /* room for those of a sequence */
#define KV      4u    /* at most so many kv heads of all layers, each with two of q */
#define QUERIES 70u   /* of MASS: more than a launch takes */

/* A sequence of ALL tokens, the id of each its position. */
static inline anykv_seq *long_seq(bool private_)
{
    anykv_seq_options options = ANYKV_SEQ_OPTIONS_INIT;
    options.flags = private_ ? ANYKV_SEQ_PRIVATE : ANYKV_SEQ_PUBLIC;
    anykv_seq *seq;
    OK(anykv_seq_create(engine.cache, &options, &seq));
    for (uint32_t at = 0; at < ALL; at += 100)
        engine_run(seq, at, 100);
    return seq;
}

static inline float row(uint32_t position, uint32_t layer, int side, uint32_t head, uint32_t i)
{
    return engine_value(engine_chain(position, position), layer, side, head, i);
}

static inline uint32_t kept_of(const anykv_seq *seq, uint32_t layer, uint32_t head,
                               uint32_t *positions)
{
    uint64_t count = ROWS;
    OK(anykv_seq_kept(seq, layer, head, positions, &count));
    return (uint32_t)count;
}

/* Runs a token and compares its attention with that over the positions that are said to be kept. */
static inline void attend_kept(anykv_seq *seq, double bound)
{
    const uint32_t position = (uint32_t)engine_length(seq);
    uint32_t one = 1, kept[ROWS];
    uint64_t seed = engine_chain(position, position);
    float out[2 * KV * DIM];
    anykv_step *step;
    OK(anykv_step_begin(engine.cache, &seq, &one, 1, &step));
    OK(engine_append(step, &seed));
    const anykv_attend_params params = ANYKV_ATTEND_PARAMS_INIT;
    for (uint32_t layer = 0; layer < engine.layout->count; layer++) {
        const uint32_t window = engine.layout->layers[layer].window;
        OK(attend_layer(step, layer, &params, out));
        for (uint32_t h = 0; h < engine.layout->layers[layer].q_heads; h++) {
            const uint32_t n = kept_of(seq, layer, h / 2, kept);
            double sum = 0.0, want[DIM] = {0}, worst = 0.0;
            kept[n] = position;
            for (uint32_t j = 0; j <= n; j++) {
                if (window && kept[j] + window <= position)
                    continue;
                double s = 0.0;
                for (uint32_t i = 0; i < DIM; i++)
                    s += (double)(float)((int)((h * DIM + i) * 2654435761u >> 20 & 63) - 32) /
                         256.0 * (double)row(kept[j], layer, 0, h / 2, i);
                const double w = exp(s / 8.0);
                sum += w;
                for (uint32_t i = 0; i < DIM; i++)
                    want[i] += w * (double)row(kept[j], layer, 1, h / 2, i);
            }
            for (uint32_t i = 0; i < DIM; i++)
                worst = fmax(worst, fabs(want[i] / sum - (double)out[h * DIM + i]));
            cr_assert(worst < bound, "layer %u, head %u: off by %g over %u rows", layer, h, worst,
                      n);
        }
    }
    OK(anykv_step_end(step, NULL, &position));
}

/* ---- what a policy keeps ---- */

/* What a call is given; `params` points into it. */
static struct {
    float weights[KV * DIM], bias[KV], scores[KV * ROWS], q[KV][QUERIES * 2 * KV * DIM],
        lse[QUERIES * 2 * KV];
    uint16_t half[KV][QUERIES * 2 * KV * DIM];
    anykv_view views[KV];
} given;

/* Queries are exact in 16 bits: of `dtype`. */
static inline void give(anykv_evict_params *params, anykv_dtype dtype)
{
    for (uint32_t i = 0; i < KV * DIM; i++)
        given.weights[i] = (float)(i * 5 % 7) - 3.0f + (float)(i / DIM);
    for (uint32_t h = 0; h < KV; h++)
        given.bias[h] = 4.0f * (float)(h + 1);
    for (uint32_t i = 0; i < KV * ROWS; i++)
        given.scores[i] = i % 50 == 0 ? NAN : (float)(i * 7919 % 1013) - 600.0f;
    for (uint32_t i = 0; i < QUERIES * 2 * KV; i++)
        given.lse[i] = 6.0f + (float)(i * 5 % 9) / 4.0f;
    for (uint32_t l = 0; l < engine.layout->count; l++) {
        const uint32_t heads = engine.layout->layers[l].q_heads;
        for (uint32_t i = 0; i < QUERIES * heads * DIM; i++) {
            given.q[l][i] = (float)((int)((i + 77 * l) * 2654435761u >> 20 & 31) - 16) / 64.0f;
            uint32_t bits;
            memcpy(&bits, &given.q[l][i], 4);
            given.half[l][i] =
                (uint16_t)(dtype == ANYKV_F16 && bits
                               ? (bits >> 16 & 0x8000u) | (((bits >> 13) & 0x3FFFFu) - (112u << 10))
                               : bits >> 16);
        }
        given.views[l] = anykv_view_host(dtype == ANYKV_F32 ? (void *)given.q[l] : given.half[l],
                                         dtype, heads, DIM);
    }
    params->weights = given.weights;
    params->bias = given.bias;
    params->scores = given.scores;
    params->q = given.views;
    params->lse = given.lse;
}

/* The rows of every kv head before a call: positions, and where they are in the sequence's tables.
 */
struct rows_before {
    uint32_t kept[KV][ROWS], slot[KV][ROWS], n[KV], most, slots;
    uint64_t length;
};
static inline uint32_t head_of(uint32_t layer, uint32_t head)
{
    for (uint32_t l = 0; l < layer; l++)
        head += engine.layout->layers[l].kv_heads;
    return head;
}
static inline void note_rows(const anykv_seq *seq, struct rows_before *before)
{
    before->length = engine_length(seq);
    before->slots = seq->length;
    before->most = 0;
    for (uint32_t l = 0; l < engine.layout->count; l++)
        for (uint32_t h = 0; h < engine.layout->layers[l].kv_heads; h++) {
            const uint32_t head = head_of(l, h);
            before->n[head] = kept_of(seq, l, h, before->kept[head]);
            before->most = before->n[head] > before->most ? before->n[head] : before->most;
            for (uint32_t i = 0, r = 0; i < seq->length; i++)
                if (i < seq->kept_first || i >= seq->kept_first + seq->kept_rows ||
                    seq->kept[(uint64_t)head * seq->kept_rows + i - seq->kept_first] != UINT32_MAX)
                    before->slot[head][r++] = i;
        }
}

/* Attention that the last tokens pay to a key, each of both q heads. */
static inline double mass_of(const struct rows_before *before, const anykv_evict_params *params,
                             uint32_t layer, uint32_t head, uint32_t position)
{
    const uint32_t heads = engine.layout->layers[layer].q_heads;
    const float *lse = given.lse + 2 * head_of(layer, 0) * params->queries;
    const double scale = params->scale != 0.0f ? (double)params->scale : 0.125,
                 cap = (double)params->cap;
    double mass = 0.0;
    for (uint32_t i = 0; i < params->queries; i++)
        for (uint32_t h = 2 * head; h < 2 * head + 2; h++) {
            double s = 0.0;
            if (position > before->length - params->queries + i)
                continue;
            for (uint32_t j = 0; j < DIM; j++)
                s += (double)given.q[layer][(i * heads + h) * DIM + j] *
                     (double)row(position, layer, 0, head, j);
            s *= scale;
            s = cap > 0.0 ? cap * tanh(s / cap) : s;
            mass += fmin(1.0, exp(s - (double)lse[i * heads + h]));
        }
    return mass;
}

/* The region of a head: its rows behind the sinks' last block and before the first one of the
 * recent tokens, which are those that a window sees, too. */
static inline uint32_t rows_until(const struct rows_before *before, uint32_t head, uint32_t slot)
{
    uint32_t r = 0;
    while (r < before->n[head] && before->slot[head][r] < slot)
        r++;
    return r;
}
static inline uint32_t region_first(const struct rows_before *before,
                                    const anykv_evict_params *params, uint32_t head)
{
    return rows_until(before, head, (params->sinks + SIZE - 1) / SIZE * SIZE);
}
static inline uint32_t region_end(const struct rows_before *before,
                                  const anykv_evict_params *params, uint32_t head)
{
    uint32_t recent = params->recent;
    for (uint32_t l = 0; l < engine.layout->count; l++)
        recent =
            engine.layout->layers[l].window > recent ? engine.layout->layers[l].window : recent;
    return rows_until(before, head, (before->slots - recent) / SIZE * SIZE);
}

/* value[i]: of unit i of the region, one row, or SIZE with RATIO; returns how many there are. */
static inline uint32_t values_of(const struct rows_before *before, const anykv_evict_params *params,
                                 uint32_t layer, uint32_t head, double *value)
{
    const uint32_t number = head_of(layer, head), first = region_first(before, params, number),
                   *kept = before->kept[number] + first;
    const uint32_t rows = region_end(before, params, number) - first;
    double own[ROWS], mean[DIM] = {0};
    for (uint32_t pass = 0; pass < 2; pass++)
        for (uint32_t r = 0; r < rows; r++) {
            double kk = 0.0, vv = 0.0, kw = 0.0, kd = 0.0;
            for (uint32_t i = 0; i < DIM; i++) {
                const double k = (double)row(kept[r], layer, 0, head, i),
                             v = (double)row(kept[r], layer, 1, head, i);
                kk += k * k;
                vv += v * v;
                kw += k * (double)given.weights[number * DIM + i];
                kd += k * mean[i];
            }
            for (uint32_t i = 0; i < DIM && pass == 0; i++)
                mean[i] += (double)row(kept[r], layer, 0, head, i) / sqrt(kk) / rows;
            const double score = (double)given.scores[number * before->most + first + r];
            own[r] = params->policy == ANYKV_TOKENS_WINDOW    ? (double)r
                     : params->policy == ANYKV_TOKENS_KNORM   ? -kk
                     : params->policy == ANYKV_TOKENS_KEYDIFF ? -kd / sqrt(kk)
                     : params->policy == ANYKV_TOKENS_RATIO   ? sqrt(vv / kk)
                     : params->policy == ANYKV_TOKENS_AFFINE
                         ? kw + (double)given.bias[number] * sqrt(kk)
                     : params->policy == ANYKV_TOKENS_SCORES ? (isnan(score) ? INFINITY : score)
                     : pass ? mass_of(before, params, layer, head, kept[r])
                            : 0.0;
        }
    const uint32_t unit = params->policy == ANYKV_TOKENS_RATIO ? SIZE : 1,
                   pool = params->policy == ANYKV_TOKENS_MASS && params->pool ? params->pool : unit,
                   back = unit > 1 ? 0 : pool / 2;
    for (uint32_t u = 0; u < rows / unit; u++) {
        value[u] = 0.0;
        for (uint32_t i = u * unit; i < u * unit + pool; i++)
            value[u] += i >= back && i - back < rows ? own[i - back] / pool : 0.0;
    }
    return rows / unit;
}

static inline double spread_of(const double *value, uint32_t n)
{
    double low = INFINITY, high = -INFINITY;
    for (uint32_t i = 0; i < n; i++) {
        low = value[i] < low ? value[i] : low;
        high = isfinite(value[i]) && value[i] > high ? value[i] : high;
    }
    return high - low;
}

/* Of every head those rows stay that have the largest values, of equal ones the older; values
 * nearer to each other than this part of all their spread count as either. */
static inline void check_stays(const anykv_seq *seq, const struct rows_before *before,
                               const anykv_evict_params *params, double near)
{
    for (uint32_t l = 0; l < engine.layout->count; l++)
        for (uint32_t h = 0; h < engine.layout->layers[l].kv_heads; h++) {
            const uint32_t number = head_of(l, h), *old = before->kept[number],
                           unit = params->policy == ANYKV_TOKENS_RATIO ? SIZE : 1,
                           first = region_first(before, params, number);
            double value[ROWS], other[ROWS];
            uint32_t kept[ROWS], at = 0, keep = 0;
            bool in[ROWS];
            const uint32_t n = kept_of(seq, l, h, kept),
                           units = values_of(before, params, l, h, value);
            if (engine.layout->layers[l].window)
                continue;
            if (params->flags & ANYKV_EVICT_SHARED)
                for (uint32_t o = 0; o < engine.layout->layers[l].kv_heads; o++) {
                    (void)values_of(before, params, l, o, other);
                    for (uint32_t u = 0; u < units && o != h; u++)
                        value[u] += other[u];
                }
            for (uint32_t r = 0; r < before->n[number]; r++) {
                in[r] = at < n && kept[at] == old[r];
                at += in[r];
                const bool candidate = r >= first && r < first + units * unit;
                cr_assert(in[r] || candidate, "position %u is no candidate", old[r]);
                keep += in[r] && candidate;
            }
            cr_assert(at == n, "layer %u, head %u: rows that were not there, or in another order",
                      l, h);
            const double gap = near * spread_of(value, units);
            for (uint32_t u = 0; u < units; u++) {
                uint32_t sure = 0, perhaps = 0;
                for (uint32_t o = 0; o < units; o++) {
                    sure +=
                        value[o] > value[u] + gap || (gap == 0.0 && value[o] == value[u] && o < u);
                    perhaps += o != u &&
                               (gap == 0.0 ? value[o] > value[u] || (value[o] == value[u] && o < u)
                                           : value[o] >= value[u] - gap);
                }
                for (uint32_t r = first + u * unit; r < first + (u + 1) * unit; r++)
                    cr_assert(in[r] ? sure * unit < keep : perhaps * unit >= keep,
                              "policy %d, layer %u, head %u, position %u %s: %u before it of %u",
                              (int)params->policy, l, h, old[r], in[r] ? "stays" : "goes",
                              (in[r] ? sure : perhaps) * unit, keep);
            }
        }
}

/* ---- failures ---- */

/* Every allocation (how 0), every backend call at once (1) or late (2) fails once: nothing changed,
 * or the sequence is dead; and nothing leaks. */
static inline void every_failure(void (*begin)(void), bool private_,
                                 const anykv_evict_params *params, int how, double bound)
{
    const uint32_t step = engine_on_processor() ? 1 : 5; /* a call costs a hundred times more */
    uint64_t sites = 1;
    /* The first round makes what lives as long as the process or on disk, the second one counts. */
    for (uint64_t at = 0, round = 0; at <= sites; at += round++ > 0 ? step : 0) {
        const uint64_t live = akv_alloc_live();
        begin();
        anykv_seq *seq = long_seq(private_);
        OK(anykv_cache_wait(engine.cache, UINT64_MAX));
        if (how == 0)
            akv_alloc_fail_at(at, false);
        else
            akv_fault_at(at, ANYKV_E_DEVICE, how == 2);
        const anykv_status status = anykv_seq_evict_tokens(seq, params);
        if (at == 0)
            sites = how == 0 ? akv_alloc_count() : akv_fault_count();
        akv_alloc_fail_at(0, false);
        akv_fault_at(0, ANYKV_OK, false);
        cr_assert((status == ANYKV_OK) == (at == 0), "site %d of %d, way %d: %s", (int)at,
                  (int)sites, how, anykv_status_name(status));
        uint64_t length;
        const anykv_status alive = anykv_seq_length(seq, &length);
        /* A launch on a device may allocate: then it is a call that failed. */
        cr_assert(alive == ANYKV_OK || ((how || !engine_on_processor()) && alive == ANYKV_E_DEAD));
        if (alive == ANYKV_OK)
            attend_kept(seq, bound);
        audit(engine.cache, "after a failure");
        anykv_seq_destroy(seq);
        stop();
        cr_assert(round == 0 || akv_alloc_live() == live, "site %d, way %d leaks", (int)at, how);
    }
    cr_assert(sites > 3);
}

#endif
