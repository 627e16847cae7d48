/* SPDX-License-Identifier: Apache-2.0 */
/* What it saves and costs to compress the blocks of a paused sequence in place, on real rows. */
#include "eval_cold.h"
#include "dump.h"
#include "report.h"
#include <stdlib.h>

#define STEP   256u
#define ROUNDS 9u

struct cold {
    struct akv_tool *tool;
    struct akv_dump dump;
    anykv_layer *layers;
    anykv_layout *layout;
    anykv_cache *cache;
    anykv_seq *seq;
    uint16_t *rows[2]; /* all of them before and after */
    anykv_compress_info info;
    uint64_t compress_ns[ROUNDS], read_ns[ROUNDS], begin_ns[ROUNDS], copy_ns[ROUNDS];
    bool same;
};

static const struct akv_column columns[] = {
    {"method", "method", 0},
    {"blocks", "blocks", 0},
    {"plain_bytes", "bytes before", 0},
    {"bytes", "after", 0},
    {"ratio", "before/after", 3},
    {"compress_us", "compress us/block", 1},
    {"read_back_us", "read back us/block", 1},
    {"copy_us", "memcpy us/block", 1},
    {"same", "same bits", 0},
};
enum { COLUMNS = sizeof columns / sizeof columns[0] };

static size_t side_elements(const struct cold *c)
{
    return (size_t)c->dump.tokens * c->dump.kv_heads * c->dump.head_dim;
}

static anykv_status open_cache(struct cold *c)
{
    anykv_layout_options identity = ANYKV_LAYOUT_OPTIONS_INIT;
    identity.weights = "eval";
    identity.weights_bytes = 4;
    anykv_cache_options options = ANYKV_CACHE_OPTIONS_INIT;
    options.max_sequences = 1;
    options.max_step_tokens = STEP;
    options.max_seq_tokens = c->dump.tokens + 1;
    options.flags = ANYKV_CACHE_COMPRESS;
    for (uint32_t l = 0; l < c->dump.layers; l++) {
        const anykv_layer plain = ANYKV_LAYER_INIT;
        c->layers[l] = plain;
        c->layers[l].kv_heads = c->dump.kv_heads;
        c->layers[l].q_heads = c->dump.q_heads;
        c->layers[l].k_dim = c->layers[l].v_dim = c->dump.head_dim;
        c->layers[l].k_format = c->layers[l].v_format = c->layers[l].hot_type = ANYKV_BF16;
    }
    anykv_status status =
        anykv_layout_create(c->tool->context, c->layers, c->dump.layers, &identity, &c->layout);
    anykv_estimate estimate = ANYKV_ESTIMATE_INIT;
    if (!status)
        status = anykv_cache_estimate(c->tool->device, c->layout, &options, &estimate);
    options.budget_bytes = estimate.fixed_bytes + (uint64_t)side_elements(c) * c->dump.layers * 8u + estimate.minimum_bytes;
    if (!status)
        status = anykv_cache_create(c->tool->device, c->layout, &options, &c->cache);
    anykv_seq_options who = ANYKV_SEQ_OPTIONS_INIT;
    who.flags = ANYKV_SEQ_PRIVATE;
    return status ? status : anykv_seq_create(c->cache, &who, &c->seq);
}

static const void *row_at(const void *rows, anykv_dtype dtype, size_t element)
{
    return (const uint8_t *)rows + element * (dtype == ANYKV_F32 ? 4u : 2u);
}

static anykv_status append(struct cold *c, struct akv_dump_layer *rows)
{
    anykv_status status = ANYKV_OK;
    for (uint32_t first = 0; first < c->dump.tokens && !status;) {
        const uint32_t left = c->dump.tokens - first;
        uint32_t count = left < STEP ? left : STEP;
        const size_t at = (size_t)first * c->dump.kv_heads * c->dump.head_dim;
        anykv_step *step;
        status = anykv_step_begin(c->cache, &c->seq, &count, 1, &step);
        if (status)
            break;
        for (uint32_t l = 0; l < c->dump.layers && !status; l++) {
            const anykv_view k = anykv_view_host(row_at(rows[l].k, rows[l].k_dtype, at), rows[l].k_dtype,
                                                 c->dump.kv_heads, c->dump.head_dim);
            const anykv_view v = anykv_view_host(row_at(rows[l].v, rows[l].v_dtype, at), rows[l].v_dtype,
                                                 c->dump.kv_heads, c->dump.head_dim);
            status = anykv_step_append(step, l, &k, &v);
        }
        if (status)
            anykv_step_cancel(step);
        else
            status = anykv_step_end(step, NULL, NULL);
        first += count;
    }
    return status;
}

static anykv_status gather(struct cold *c, uint16_t *rows)
{
    anykv_status status = ANYKV_OK;
    for (uint32_t l = 0; l < c->dump.layers && !status; l++)
        for (int side = 0; side < 2 && !status; side++, rows += side_elements(c)) {
            const anykv_view view = anykv_view_host(rows, ANYKV_BF16, c->dump.kv_heads, c->dump.head_dim);
            status = anykv_seq_gather(c->seq, l, side, 0, c->dump.tokens, &view);
        }
    return status;
}

/* Nanoseconds of a begin, which reads back what is compressed. */
static anykv_status time_begin(struct cold *c, uint64_t *ns_out)
{
    uint32_t one = 1;
    anykv_step *step;
    const uint64_t start = akv_now_ns();
    const anykv_status status = anykv_step_begin(c->cache, &c->seq, &one, 1, &step);
    *ns_out = akv_now_ns() - start;
    if (!status)
        anykv_step_cancel(step);
    return status;
}

static anykv_status measure(struct cold *c)
{
    const size_t bytes = side_elements(c) * 2u * c->dump.layers * sizeof(uint16_t);
    anykv_status status = gather(c, c->rows[0]);
    c->info = (anykv_compress_info)ANYKV_COMPRESS_INFO_INIT;
    c->same = true;
    for (uint32_t r = 0; r < ROUNDS && !status; r++) {
        status = anykv_cache_wait(c->cache, UINT64_MAX);
        const uint64_t start = akv_now_ns();
        if (!status)
            status = anykv_seq_compress(c->seq, ANYKV_COMPRESS_BX16, 0, UINT64_MAX, &c->info);
        if (!status)
            status = anykv_cache_wait(c->cache, UINT64_MAX);
        c->compress_ns[r] = akv_now_ns() - start;
        if (!status)
            status = time_begin(c, &c->read_ns[r]);
        if (!status)
            status = time_begin(c, &c->begin_ns[r]);
        if (!status)
            status = gather(c, c->rows[1]);
        if (!status)
            c->same = c->same && memcmp(c->rows[0], c->rows[1], bytes) == 0;
        const uint64_t copy = akv_now_ns();
        memcpy(c->rows[1], c->rows[0], bytes);
        c->copy_ns[r] = akv_now_ns() - copy;
    }
    return status;
}

static int ascending(const void *a, const void *b)
{
    const uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return x < y ? -1 : x > y;
}

static double median_us(uint64_t *ns, uint64_t blocks)
{
    qsort(ns, ROUNDS, sizeof *ns, ascending);
    return (double)ns[ROUNDS / 2] * 1e-3 / (double)(blocks ? blocks : 1);
}

static anykv_status print(struct cold *c, bool json, bool *good_out)
{
    const anykv_compress_info *info = &c->info;
    struct akv_report *report = akv_report_begin(stdout, json, columns, COLUMNS);
    if (!report)
        return ANYKV_E_MEMORY;
    const struct akv_value row[COLUMNS] = {
        akv_text("bx16"),
        akv_whole(info->blocks),
        akv_whole(info->plain_bytes),
        akv_whole(info->bytes),
        akv_real((double)info->plain_bytes / (double)info->bytes),
        akv_real(median_us(c->compress_ns, info->blocks)),
        akv_real(median_us(c->read_ns, info->blocks) - median_us(c->begin_ns, info->blocks)),
        akv_real(median_us(c->copy_ns, info->blocks)),
        akv_text(c->same ? "yes" : "no"),
    };
    akv_report_row(report, row);
    *good_out = c->same && info->blocks && info->bytes < info->plain_bytes;
    return akv_report_end(report);
}

anykv_status akv_eval_cold(struct akv_tool *tool, const char *path, bool json, bool *good_out)
{
    struct cold c = {.tool = tool};
    struct akv_dump_layer *rows = NULL;
    anykv_status status = akv_dump_open(&c.dump, path);
    if (!status) {
        rows = akv_alloc(NULL, c.dump.layers, sizeof *rows);
        c.layers = akv_alloc(NULL, c.dump.layers, sizeof *c.layers);
        for (uint32_t i = 0; i < 2; i++)
            c.rows[i] = akv_alloc(NULL, side_elements(&c) * 2u * c.dump.layers, sizeof *c.rows[i]);
        status = rows && c.layers && c.rows[0] && c.rows[1] ? ANYKV_OK : ANYKV_E_MEMORY;
    }
    for (uint32_t l = 0; !status && l < c.dump.layers; l++)
        status = akv_dump_load(&c.dump, l, &rows[l]);
    if (!status)
        status = open_cache(&c);
    if (!status)
        status = append(&c, rows);
    if (!status)
        status = measure(&c);
    if (!status)
        status = print(&c, json, good_out);
    anykv_seq_destroy(c.seq);
    anykv_cache_destroy(c.cache);
    anykv_layout_destroy(c.layout);
    for (uint32_t l = 0; rows && l < c.dump.layers; l++)
        akv_dump_free(&rows[l]);
    akv_free(NULL, rows);
    akv_free(NULL, c.layers);
    akv_free(NULL, c.rows[0]);
    akv_free(NULL, c.rows[1]);
    akv_dump_close(&c.dump);
    return status;
}
