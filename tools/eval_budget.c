/* SPDX-License-Identifier: Apache-2.0 */
/* The precision ladder against plain eviction at the same bytes, on real rows.
 *
 * One layout of 16-bit rows for all layers of the file, one cache of each kind with the same
 * budget, one sequence.  The tokens before the first query are appended in steps; from there on
 * each step of 16 tokens also attends, and its outputs are compared with exact attention over all
 * rows in double precision.  Where a step does not fit, the ladder lowers precision inside begin;
 * the other cache's sequence gives up its oldest block behind the sinks, which is what evicting
 * the cold part of a running sequence means. */
#include "eval_budget.h"
#include "dump.h"
#include "eval_reference.h"
#include "report.h"
#include <math.h>

#define STEP 16u

struct way {
    const char *name;
    float error_budget;
    anykv_layout *layout;
    anykv_cache *cache;
    anykv_seq *seq;
    uint64_t removed; /* positions behind the sinks that were given up */
    anykv_stats stats;
    double *error; /* [layers]: sum over queries and heads */
};

struct budget {
    struct akv_tool *tool;
    struct akv_dump dump;
    struct akv_dump_layer *rows; /* [layers] */
    double **exact;              /* [layers]: outputs */
    anykv_layer *layers;
    float *out;
    uint32_t percent, sinks, recent;
    uint64_t f16_bytes;
    struct way way[2];
};

static const struct akv_column columns[] = {
    {"way", "under pressure", 0},
    {"budget_percent", "budget %", 0},
    {"layer", "layer", 0},
    {"output_error", "output error", 4},
    {"blocks_hot", "F16 blocks", 0},
    {"blocks_rung1", "I8", 0},
    {"blocks_rung2", "N4", 0},
    {"blocks_rung3", "N2", 0},
    {"tokens_kept", "tokens kept", 0},
    {"peak_percent", "peak %", 1},
};
enum { COLUMNS = sizeof columns / sizeof columns[0] };

/* ---- making ---- */

static void describe_layer(const struct budget *b, uint32_t l, anykv_layer *layer)
{
    const anykv_layer plain = ANYKV_LAYER_INIT;
    *layer = plain;
    layer->kv_heads = b->dump.kv_heads;
    layer->q_heads = b->dump.q_heads;
    layer->k_dim = layer->v_dim = b->dump.head_dim;
    layer->window = b->dump.window[l];
    layer->k_format = layer->v_format = ANYKV_F16;
}

static anykv_status open_way(struct budget *b, struct way *way)
{
    anykv_layout_options identity = ANYKV_LAYOUT_OPTIONS_INIT;
    identity.weights = "eval";
    identity.weights_bytes = 4;
    anykv_cache_options options = ANYKV_CACHE_OPTIONS_INIT;
    options.sinks = b->sinks;
    options.recent = b->recent;
    options.max_sequences = 1;
    options.max_step_tokens = STEP;
    options.max_seq_tokens = b->dump.tokens;
    options.error_budget = way->error_budget;
    options.ladder_blocks = 0;
    anykv_status status =
        anykv_layout_create(b->tool->context, b->layers, b->dump.layers, &identity, &way->layout);
    anykv_estimate estimate = ANYKV_ESTIMATE_INIT;
    if (!status)
        status = anykv_cache_estimate(b->tool->device, way->layout, &options, &estimate);
    options.budget_bytes = estimate.fixed_bytes + b->f16_bytes / 100 * b->percent;
    if (!status)
        status = anykv_cache_create(b->tool->device, way->layout, &options, &way->cache);
    anykv_seq_options who = ANYKV_SEQ_OPTIONS_INIT;
    who.flags = ANYKV_SEQ_PRIVATE;
    if (!status)
        status = anykv_seq_create(way->cache, &who, &way->seq);
    way->error = akv_alloc(NULL, b->dump.layers, sizeof *way->error);
    return status ? status : way->error ? ANYKV_OK : ANYKV_E_MEMORY;
}

static anykv_status load_layer(struct budget *b, uint32_t l)
{
    anykv_status status = akv_dump_load(&b->dump, l, &b->rows[l]);
    return status ? status : akv_eval_exact(&b->dump, l, &b->rows[l], &b->exact[l]);
}

/* ---- one step ---- */

static const void *row_at(const void *rows, anykv_dtype dtype, size_t element)
{
    return (const uint8_t *)rows + element * (dtype == ANYKV_F32 ? 4u : 2u);
}

/* Attends with the step's tokens from `first` on, which have queries, and adds up the errors. */
static anykv_status compare(struct budget *b, struct way *way, anykv_step *step, uint32_t l,
                            uint32_t first, uint32_t count)
{
    const struct akv_dump *dump = &b->dump;
    const size_t row = (size_t)dump->q_heads * dump->head_dim;
    const size_t at = (size_t)(first - dump->q_first) * row;
    const anykv_view q = anykv_view_host(row_at(b->rows[l].q, b->rows[l].q_dtype, at),
                                         b->rows[l].q_dtype, dump->q_heads, dump->head_dim);
    const anykv_view out = anykv_view_host(b->out, ANYKV_F32, dump->q_heads, dump->head_dim);
    anykv_attend_params params = ANYKV_ATTEND_PARAMS_INIT;
    params.scale = (float)dump->scale;
    anykv_status status = anykv_step_attend(step, l, &q, &params, &out);
    for (size_t h = 0; h < (size_t)count * dump->q_heads && !status; h++) {
        double error = 0, size = 0;
        for (uint32_t i = 0; i < dump->head_dim; i++) {
            const double want = b->exact[l][at + h * dump->head_dim + i];
            const double d = (double)b->out[h * dump->head_dim + i] - want;
            error += d * d;
            size += want * want;
        }
        way->error[l] += size > 0 ? sqrt(error / size) : error > 0 ? 1.0 : 0.0;
    }
    return status;
}

static anykv_status begin(struct budget *b, struct way *way, uint32_t count, anykv_step **step)
{
    const uint64_t sinks = (b->sinks + STEP - 1) / STEP * STEP;
    for (;;) {
        const anykv_status status = anykv_step_begin(way->cache, &way->seq, &count, 1, step);
        if (status != ANYKV_E_BUDGET || way->error_budget > 0.0f)
            return status;
        const anykv_status gone = anykv_seq_remove(way->seq, sinks + way->removed, STEP);
        if (gone)
            return gone;
        way->removed += STEP;
    }
}

static anykv_status one_step(struct budget *b, struct way *way, uint32_t first, uint32_t count)
{
    const struct akv_dump *dump = &b->dump;
    const size_t at = (size_t)first * dump->kv_heads * dump->head_dim;
    anykv_step *step;
    anykv_status status = begin(b, way, count, &step);
    if (status)
        return status;
    for (uint32_t l = 0; l < dump->layers && !status; l++) {
        const struct akv_dump_layer *rows = &b->rows[l];
        const anykv_view k = anykv_view_host(row_at(rows->k, rows->k_dtype, at), rows->k_dtype,
                                             dump->kv_heads, dump->head_dim);
        const anykv_view v = anykv_view_host(row_at(rows->v, rows->v_dtype, at), rows->v_dtype,
                                             dump->kv_heads, dump->head_dim);
        status = anykv_step_append(step, l, &k, &v);
        if (!status && first >= dump->q_first)
            status = compare(b, way, step, l, first, count);
    }
    if (status) {
        anykv_step_cancel(step);
        return status;
    }
    return anykv_step_end(step, NULL, NULL);
}

static anykv_status run_way(struct budget *b, struct way *way)
{
    const struct akv_dump *dump = &b->dump;
    anykv_status status = open_way(b, way);
    for (uint32_t first = 0; first < dump->tokens && !status;) {
        uint32_t end = first + STEP < dump->tokens ? first + STEP : dump->tokens;
        if (first < dump->q_first && end > dump->q_first)
            end = dump->q_first;
        status = one_step(b, way, first, end - first);
        first = end;
    }
    way->stats.size = sizeof way->stats;
    return status ? status : anykv_cache_stats(way->cache, &way->stats);
}

/* ---- what is printed ---- */

static void add_row(struct akv_report *report, const struct budget *b, const struct way *way,
                    uint32_t layer, double error)
{
    const anykv_stats *s = &way->stats;
    const uint64_t kept = b->dump.tokens - way->removed;
    const struct akv_value row[COLUMNS] = {
        akv_text(way->name),
        akv_whole(b->percent),
        layer == UINT32_MAX ? akv_text("all") : akv_whole(layer),
        akv_real(error),
        akv_whole(s->hot_blocks),
        akv_whole(s->rung_blocks[0]),
        akv_whole(s->rung_blocks[1]),
        akv_whole(s->rung_blocks[2]),
        akv_whole(kept),
        akv_real((double)(s->peak_bytes - s->fixed_bytes) * 100.0 / (double)b->f16_bytes),
    };
    akv_report_row(report, row);
}

static anykv_status print(struct budget *b, bool layers, bool json, bool *good_out)
{
    const double count = (double)(b->dump.tokens - b->dump.q_first) * (double)b->dump.q_heads;
    double mean[2], worst = 0; /* of a layer under the ladder */
    struct akv_report *report = akv_report_begin(stdout, json, columns, COLUMNS);
    if (!report)
        return ANYKV_E_MEMORY;
    for (uint32_t w = 0; w < 2; w++) {
        double sum = 0;
        for (uint32_t l = 0; l < b->dump.layers; l++) {
            const double error = b->way[w].error[l] / count;
            sum += error;
            worst = w == 0 && error > worst ? error : worst;
            if (layers)
                add_row(report, b, &b->way[w], b->dump.layer[l], error);
        }
        mean[w] = sum / b->dump.layers;
        add_row(report, b, &b->way[w], UINT32_MAX, mean[w]);
    }
    *good_out = mean[0] < mean[1] && worst <= (double)b->way[0].error_budget;
    return akv_report_end(report);
}

anykv_status akv_eval_budget(struct akv_tool *tool, const char *path, uint32_t percent,
                             uint32_t sinks, uint32_t recent, bool layers, bool json,
                             bool *good_out)
{
    struct budget b = {.tool = tool, .percent = percent, .sinks = sinks, .recent = recent};
    b.way[0].name = "lower precision";
    b.way[0].error_budget = 0.35f;
    b.way[1].name = "evict";
    anykv_status status = akv_dump_open(&b.dump, path);
    const struct akv_dump *dump = &b.dump;
    if (!status) {
        b.rows = akv_alloc(NULL, dump->layers, sizeof *b.rows);
        b.exact = akv_alloc(NULL, dump->layers, sizeof *b.exact);
        b.layers = akv_alloc(NULL, dump->layers, sizeof *b.layers);
        b.out = akv_alloc(NULL, (size_t)STEP * dump->q_heads * dump->head_dim, sizeof *b.out);
        status = b.rows && b.exact && b.layers && b.out ? ANYKV_OK : ANYKV_E_MEMORY;
    }
    for (uint32_t l = 0; !status && l < dump->layers; l++) {
        describe_layer(&b, l, &b.layers[l]);
        status = load_layer(&b, l);
    }
    b.f16_bytes = (uint64_t)dump->tokens * dump->layers * dump->kv_heads * dump->head_dim * 2 * 2;
    for (uint32_t w = 0; w < 2 && !status; w++)
        status = run_way(&b, &b.way[w]);
    if (!status)
        status = print(&b, layers, json, good_out);
    for (uint32_t w = 0; w < 2; w++) {
        anykv_seq_destroy(b.way[w].seq);
        anykv_cache_destroy(b.way[w].cache);
        anykv_layout_destroy(b.way[w].layout);
        akv_free(NULL, b.way[w].error);
    }
    for (uint32_t l = 0; l < dump->layers; l++) {
        if (b.rows)
            akv_dump_free(&b.rows[l]);
        if (b.exact)
            akv_free(NULL, b.exact[l]);
    }
    akv_free(NULL, b.rows);
    akv_free(NULL, b.exact);
    akv_free(NULL, b.layers);
    akv_free(NULL, b.out);
    akv_dump_close(&b.dump);
    return status;
}
