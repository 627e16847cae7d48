/* SPDX-License-Identifier: Apache-2.0 */
/* `anykv bench evict`: scoring by keys and by the attention of a window of queries against the bandwidth of
 * reading, compaction against a copy. */
#include "../lib/kernel/params.h"
#include "bench_pool.h"
#include <stdio.h>

#define COPY_BYTES (64ull << 20)
#define GIB        ((double)(1 << 30))
#define RUN_NS     5e6
#define QUERIES    64u /* of mass, */
#define GROUP      4u  /* of so many heads each */

enum op { SCORE, MASS, COMPACT, OPS };
static const char *const op_names[] = {"score", "mass", "compact"};

static const struct akv_column columns[] = {
    {"bench", NULL, 0},
    {"op", "op", 0},
    {"format", "format", 0},
    {"head_dim", "head dim", 0},
    {"kv_heads", "kv heads", 0},
    {"tokens", "tokens", 0},
    {"threads", "threads", 0},
    {"device", "device", 0},
    {"ns_per_row", "ns/row", 2},
    {"gib_s", "GiB/s", 2},
    {"share_of_copy", "of copy", 3},
    {"share_of_read", "of reading", 3},
    {"spread", "spread", 2},
};
enum { COLUMNS = sizeof columns / sizeof columns[0] };

struct subject {
    struct bench_pool pool;
    struct akv_mem *scores, *rows, *counts, *queries;
    akv_step_head head;
    enum op op;
    uint32_t loops, next;
    double ns[BENCH_REPEATS_MAX];
};

/* score: norms of one sequence's keys.  mass: of its last queries, all zero, which cost what others do.
 * compact: every second row of it, in place. */
static anykv_status enqueue(void *user, uint32_t loop)
{
    struct subject *x = user;
    const struct bench_shape *shape = x->pool.shape;
    const uint64_t list = (uint64_t)shape->kv_heads * shape->tokens * 4;
    const uint32_t blocks = shape->tokens / BENCH_BLOCK_TOKENS, set = x->next++ % x->pool.sets;
    const struct akv_span table = {x->pool.descriptors, set * x->pool.descriptor_bytes + x->head.table_offset,
                                   blocks * 4ull};
    akv_score_params score = {.pool = x->pool.map, .tiles = x->pool.tiles, .kv_heads = shape->kv_heads,
                              .k_dim = shape->head_dim, .v_dim = shape->head_dim,
                              .block_tokens = BENCH_BLOCK_TOKENS, .blocks = blocks,
                              .rows = blocks * BENCH_BLOCK_TOKENS, .stride = shape->tokens};
    const uint32_t kind = x->pool.tiles.k_format[1] ? 1 : 0;
    akv_compact_params compact = {.pool = x->pool.map, .kv_heads = shape->kv_heads, .block_tokens = BENCH_BLOCK_TOKENS,
                                  .dim = {shape->head_dim, shape->head_dim},
                                  .format = {x->pool.k_format, x->pool.v_format},
                                  .offset = {x->pool.tiles.k_offset[kind], x->pool.tiles.v_offset[kind]},
                                  .from_blocks = blocks, .to_blocks = blocks / 2, .stride = shape->tokens, .in_place = 1};
    const akv_mass_params mass = {.pool = x->pool.map, .tiles = x->pool.tiles, .kv_heads = shape->kv_heads,
                                  .q_heads = shape->kv_heads * GROUP, .k_dim = shape->head_dim,
                                  .block_tokens = BENCH_BLOCK_TOKENS, .blocks = blocks, .rows = score.rows,
                                  .stride = shape->tokens, .queries = QUERIES, .scale = 0.1f};
    const uint64_t query_bytes = (uint64_t)QUERIES * mass.q_heads * 4;
    struct akv_launch launch = {.kernel = x->op == COMPACT ? AKV_K_COMPACT : x->op == MASS ? AKV_K_MASS : AKV_K_SCORE};
    (void)loop;
    launch.params = x->op == COMPACT ? (const void *)&compact : x->op == MASS ? (const void *)&mass : &score;
    launch.arg[0] = table;
    if (x->op == MASS) {
        const uint64_t rows = 2 * query_bytes * shape->head_dim;
        launch.arg[1] = (struct akv_span){x->queries, 0, rows};
        launch.arg[2] = (struct akv_span){x->queries, rows, query_bytes};
        launch.arg[3] = (struct akv_span){x->queries, rows + query_bytes, QUERIES * 4};
        launch.arg[4] = (struct akv_span){x->scores, 0, list};
    } else if (x->op == COMPACT) {
        launch.arg[1] = (struct akv_span){table.mem, table.offset, blocks / 2 * 4ull};
        launch.arg[2] = (struct akv_span){x->rows, 0, list};
        launch.arg[3] = (struct akv_span){x->counts, 0, shape->kv_heads * 4ull};
    } else {
        launch.arg[2] = (struct akv_span){x->scores, 0, list};
    }
    bench_pool_bind(&x->pool, &launch);
    return akv_kernel_launch(x->pool.device->queue, &launch);
}

static anykv_status subject_open(struct bench *b, struct bench_device *device, const struct bench_shape *shape,
                                 uint32_t format, enum op op, struct subject *x)
{
    const uint32_t heads = shape->kv_heads, half = shape->tokens / BENCH_BLOCK_TOKENS / 2 * BENCH_BLOCK_TOKENS;
    const uint64_t list = (uint64_t)heads * shape->tokens * 4;
    /* Queries, their log-sum-exps and positions. */
    const uint64_t query_bytes = (uint64_t)QUERIES * heads * GROUP * (2 * shape->head_dim + 1) * 4;
    const uint32_t position = shape->tokens - 1;
    uint32_t *rows = akv_alloc(b->context, list / 4 + heads, 4);
    anykv_status status = rows ? ANYKV_OK : ANYKV_E_MEMORY;
    memset(x, 0, sizeof *x);
    x->op = op;
    if (status == ANYKV_OK)
        status = bench_pool_create(b, device, shape, format, format, &x->pool);
    if (status == ANYKV_OK)
        status = akv_mem_alloc(device->device, list, AKV_MEM_DEVICE, &x->scores);
    if (status == ANYKV_OK)
        status = akv_mem_alloc(device->device, list, AKV_MEM_DEVICE, &x->rows);
    if (status == ANYKV_OK)
        status = akv_mem_alloc(device->device, heads * 4ull, AKV_MEM_DEVICE, &x->counts);
    if (status == ANYKV_OK)
        status = akv_mem_alloc(device->device, query_bytes + QUERIES * 4, AKV_MEM_DEVICE, &x->queries);
    if (status == ANYKV_OK)
        status = akv_queue_fill(device->queue, (struct akv_span){x->queries, 0, query_bytes}, 0);
    for (uint32_t i = 0; i < QUERIES && status == ANYKV_OK; i++)
        status = akv_queue_put(device->queue, (struct akv_span){x->queries, query_bytes + i * 4, 4}, &position);
    for (uint32_t i = 0; rows && i < heads * shape->tokens; i++)
        rows[i] = i % shape->tokens * 2;
    for (uint32_t i = 0; rows && i < heads; i++)
        rows[list / 4 + i] = half;
    if (status == ANYKV_OK)
        status = akv_queue_put(device->queue, (struct akv_span){x->rows, 0, list}, rows);
    if (status == ANYKV_OK)
        status = akv_queue_put(device->queue, (struct akv_span){x->counts, 0, heads * 4ull}, rows + list / 4);
    if (status == ANYKV_OK)
        status = akv_queue_get(device->queue, &x->head, (struct akv_span){x->pool.descriptors, 0, sizeof x->head});
    if (status == ANYKV_OK)
        status = akv_queue_wait(device->queue, UINT64_MAX);
    akv_free(b->context, rows);
    return status == ANYKV_OK ? bench_loops(device, enqueue, x, RUN_NS, &x->loops) : status;
}

static void subject_close(struct subject *x)
{
    akv_mem_free(x->scores);
    akv_mem_free(x->rows);
    akv_mem_free(x->counts);
    akv_mem_free(x->queries);
    bench_pool_destroy(&x->pool);
}

static anykv_status one(struct bench *b, struct bench_device *device, const struct bench_shape *shape,
                        uint32_t format, enum op op)
{
    struct subject *x = akv_alloc(b->context, 1, sizeof *x);
    struct bench_copy copy = {0};
    double copy_ns[BENCH_REPEATS_MAX], read_ns[BENCH_REPEATS_MAX];
    const uint32_t repeats = (uint32_t)b->options.repeats;
    anykv_status status = x ? subject_open(b, device, shape, format, op, x) : ANYKV_E_MEMORY;
    if (status == ANYKV_OK)
        status = bench_copy_create(device, COPY_BYTES, &copy);
    for (uint32_t r = 0; r < repeats && status == ANYKV_OK; r++) {
        status = bench_copy_time(&copy, 1, &copy_ns[r]);
        if (status == ANYKV_OK && !device->remote)
            status = bench_read_time(&copy, 1, &read_ns[r]);
        if (status == ANYKV_OK)
            status = bench_time(device, enqueue, x, x->loops, &x->ns[r]);
    }
    if (status == ANYKV_OK) {
        const double rows = (double)shape->kv_heads * shape->tokens, ns = bench_median(x->ns, repeats);
        const double tile = akv_tile_bytes(format, BENCH_BLOCK_TOKENS, shape->head_dim) / (double)BENCH_BLOCK_TOKENS;
        /* Read: all keys; or half of the keys and values, and written. */
        const double bytes = op == COMPACT ? rows / 2 * tile * 2 * 2 : rows * tile;
        const struct akv_value values[COLUMNS] = {
            akv_text("evict"), akv_text(op_names[op]), akv_text(anykv_format_name((anykv_format)format)),
            akv_whole(shape->head_dim), akv_whole(shape->kv_heads), akv_whole(shape->tokens), akv_whole(device->threads),
            akv_text(b->label), akv_real(ns / rows), akv_real(bytes / ns * 1e9 / GIB),
            akv_real(bench_ratio(copy_ns, x->ns, repeats) * bytes / (2.0 * COPY_BYTES)),
            device->remote ? akv_none() : akv_real(bench_ratio(read_ns, x->ns, repeats) * bytes / COPY_BYTES),
            akv_real(bench_spread(x->ns, repeats))};
        akv_progress_hide(&b->progress);
        akv_report_row(b->report, values);
    }
    bench_copy_destroy(&copy);
    if (x)
        subject_close(x);
    akv_free(b->context, x);
    return status;
}

anykv_status bench_evict(struct bench *b)
{
    static const uint32_t usual[] = {AKV_F16, AKV_I8, AKV_N4};
    const struct bench_options *o = &b->options;
    anykv_status status = ANYKV_OK;
    b->report = akv_report_begin(stdout, o->json, columns, COLUMNS);
    if (!b->report)
        return ANYKV_E_MEMORY;
    akv_progress_begin(&b->progress, "bench evict", o->threads.count * 3u * OPS);
    for (uint32_t t = 0; t < o->threads.count && status == ANYKV_OK; t++) {
        struct bench_device device;
        status = bench_open(b, (uint32_t)o->threads.item[t], &device);
        if (status != ANYKV_OK)
            return status;
        for (uint32_t i = 0; i < (o->formats.count ? o->formats.count : 3u) * OPS && status == ANYKV_OK; i++) {
            anykv_format format = (anykv_format)usual[i / OPS % 3];
            struct bench_shape shape = {.head_dim = (uint32_t)o->head_dim.item[0], .q_heads = 8, .kv_heads = 8,
                                        .tokens = 8192, .batch = 1, .new_tokens = 1};
            char name[64];
            if (o->formats.count)
                status = anykv_format_parse(o->formats.item[i / OPS], &format);
            snprintf(name, sizeof name, "%s/%s", op_names[i % OPS], anykv_format_name(format));
            bench_progress(b, name);
            if (status == ANYKV_OK && bench_chosen(b, name))
                status = one(b, &device, &shape, (uint32_t)format, (enum op)(i % OPS));
        }
        bench_close(&device);
    }
    return status;
}
