/* SPDX-License-Identifier: Apache-2.0 */
/* `anykv bench page`: scattered blocks of a pool to pinned host memory and back, against one copy
 * of as many bytes that lie side by side.  offload and restore go through a staging area on the
 * device, which the copy kernel fills or empties while the copying proper is left to the device's
 * copy engine; direct_offload and direct_restore let the kernel itself write and read host memory.
 */
#include "bench.h"
#include <stdio.h>

static const struct akv_column columns[] = {
    {"bench", NULL, 0},
    {"op", "op", 0},
    {"blocks", "blocks", 0},
    {"block_bytes", "bytes each", 0},
    {"threads", "threads", 0},
    {"device", "device", 0},
    {"us", "us", 1},
    {"gib_s", "GiB/s", 2},
    {"ratio_copy", "of one copy", 3},
    {"spread", "spread", 2},
    {"copy_us", NULL, 1},
};
enum { COLUMNS = sizeof columns / sizeof columns[0] };

#define BLOCKS 1000u
#define POOL   2048u       /* blocks, of which BLOCKS in random order are meant */
#define STAGE  (32u << 20) /* bytes of the staging area */
#define LAYER                                                                                      \
    17408u /* bytes of a block of 16 tokens in one layer: N4/N4, 8 kv heads, head size 128 */

static const struct way {
    const char *name;
    bool out, direct;
} ways[] = {{"offload", true, false},
            {"restore", false, false},
            {"direct_offload", true, true},
            {"direct_restore", false, true}};

struct work {
    struct bench_device *device;
    const struct way *way;
    bool one; /* the peer: one copy */
    uint32_t per_stage;
    struct akv_mem *slab, *host, *stage, *moves; /* moves: [direct or staged][out or in][BLOCKS] */
    akv_copy_params params;
};

static struct akv_span part(struct akv_mem *mem, uint64_t offset, uint64_t bytes)
{
    return (struct akv_span){mem, offset, bytes};
}

static anykv_status kernel(const struct work *w, uint32_t first, uint32_t count,
                           struct akv_span linear)
{
    akv_copy_params params = w->params;
    params.moves = count;
    params.direction = w->way->out ? AKV_COPY_POOL_LINEAR : AKV_COPY_LINEAR_POOL;
    struct akv_launch launch = {.kernel = AKV_K_COPY, .params = &params, .slabs = 1};
    const uint64_t list = (w->way->direct ? 2u : 0u) + (w->way->out ? 0u : 1u);
    launch.arg[0] =
        part(w->moves, (list * BLOCKS + first) * sizeof(akv_move), count * sizeof(akv_move));
    launch.arg[1] = linear;
    launch.slab[0] = part(w->slab, 0, w->slab->bytes);
    return akv_kernel_launch(w->device->queue, &launch);
}

static anykv_status enqueue(void *user, uint32_t loop)
{
    const struct work *w = user;
    struct akv_queue *queue = w->device->queue;
    const uint64_t bytes = w->params.bytes;
    anykv_status status = ANYKV_OK;
    (void)loop;
    if (w->one) {
        const struct akv_span device = part(w->slab, 0, BLOCKS * bytes),
                              host = part(w->host, 0, BLOCKS * bytes);
        return w->way->out ? akv_queue_copy(queue, host, device)
                           : akv_queue_copy(queue, device, host);
    }
    if (w->way->direct)
        return kernel(w, 0, BLOCKS, part(w->host, 0, BLOCKS * bytes));
    for (uint32_t first = 0; first < BLOCKS && !status; first += w->per_stage) {
        const uint32_t count = AKV_MIN(w->per_stage, BLOCKS - first);
        const struct akv_span stage = part(w->stage, 0, count * bytes);
        const struct akv_span host = part(w->host, first * bytes, count * bytes);
        status = w->way->out ? kernel(w, first, count, stage) : akv_queue_copy(queue, stage, host);
        if (!status)
            status =
                w->way->out ? akv_queue_copy(queue, host, stage) : kernel(w, first, count, stage);
    }
    return status;
}

/* Which blocks: a permutation's first ones. */
static anykv_status put_moves(struct bench *b, const struct work *w)
{
    akv_move *moves = akv_alloc(b->context, 4 * BLOCKS, sizeof *moves);
    uint32_t entry[POOL], state = 12345;
    if (!moves)
        return ANYKV_E_MEMORY;
    for (uint32_t i = 0; i < POOL; i++)
        entry[i] = i;
    for (uint32_t i = 0; i < BLOCKS; i++) {
        state = state * 1664525u + 1013904223u;
        const uint32_t j = i + (state >> 8) % (POOL - i), block = entry[j];
        entry[j] = entry[i];
        for (uint32_t list = 0; list < 4; list++) {
            const uint64_t pool = akv_block_address(&w->params.pool, block);
            const uint64_t linear = (uint64_t)(list < 2 ? i % w->per_stage : i) * w->params.bytes;
            moves[list * BLOCKS + i].src = list % 2 ? linear : pool;
            moves[list * BLOCKS + i].dst = list % 2 ? pool : linear;
        }
    }
    anykv_status status =
        akv_queue_put(w->device->queue, part(w->moves, 0, 4 * BLOCKS * sizeof *moves), moves);
    akv_free(b->context, moves);
    return status;
}

static anykv_status measure(struct bench *b, struct work *w)
{
    double ours[BENCH_REPEATS_MAX], copy[BENCH_REPEATS_MAX];
    const bool peer = strcmp(b->options.peer, "memcpy") == 0;
    const uint32_t count = (uint32_t)b->options.repeats;
    uint32_t loops = 1;
    char name[64];
    snprintf(name, sizeof name, "%s/%u/t%u", w->way->name, (unsigned)w->params.bytes,
             (unsigned)w->device->threads);
    if (!bench_chosen(b, name))
        return ANYKV_OK;
    bench_progress(b, name);
    w->one = false;
    anykv_status status = bench_loops(w->device, enqueue, w, 3e6, &loops);
    for (uint32_t i = 0; i < count && !status; i++) {
        w->one = false;
        status = bench_time(w->device, enqueue, w, loops, &ours[i]);
        w->one = true;
        if (!status && peer)
            status = bench_time(w->device, enqueue, w, loops, &copy[i]);
    }
    if (status)
        return status;
    const double ns = bench_median(ours, count);
    struct akv_value values[COLUMNS] = {
        akv_text("page"),
        akv_text(w->way->name),
        akv_whole(BLOCKS),
        akv_whole(w->params.bytes),
        w->device->remote ? akv_none() : akv_whole(w->device->threads),
        akv_text(b->label),
        akv_real(ns * 1e-3),
        akv_real((double)BLOCKS * w->params.bytes / ns * 1e9 / (double)(1 << 30)),
        peer ? akv_real(bench_ratio(copy, ours, count)) : akv_none(),
        akv_real(bench_spread(ours, count)),
        peer ? akv_real(bench_median(copy, count) * 1e-3) : akv_none(),
    };
    akv_progress_hide(&b->progress);
    akv_report_row(b->report, values);
    return ANYKV_OK;
}

static anykv_status one_size(struct bench *b, struct bench_device *device, uint32_t bytes)
{
    struct work w = {.device = device, .per_stage = AKV_MIN(STAGE / bytes, BLOCKS)};
    w.params.bytes = bytes;
    w.params.pool.block_bytes[0] = bytes;
    w.params.pool.chunk_bytes = (uint64_t)bytes * 64u;
    w.params.pool.blocks_per_chunk[0] = 64;
    w.params.pool.chunks_per_slab = POOL / 64;
    w.params.pool.slabs = 1;
    anykv_status status =
        akv_mem_alloc(device->device, (uint64_t)POOL * bytes, AKV_MEM_DEVICE, &w.slab);
    if (!status)
        status = akv_mem_alloc(device->device, (uint64_t)BLOCKS * bytes, AKV_MEM_PINNED, &w.host);
    if (!status)
        status =
            akv_mem_alloc(device->device, (uint64_t)w.per_stage * bytes, AKV_MEM_DEVICE, &w.stage);
    if (!status)
        status =
            akv_mem_alloc(device->device, 4 * BLOCKS * sizeof(akv_move), AKV_MEM_DEVICE, &w.moves);
    if (!status)
        status = akv_queue_fill(device->queue, part(w.slab, 0, w.slab->bytes),
                                0x5A); /* pages are there */
    if (!status)
        status = akv_queue_fill(device->queue, part(w.host, 0, w.host->bytes), 0xA5);
    if (!status)
        status = put_moves(b, &w);
    for (size_t i = 0; i < sizeof ways / sizeof ways[0] && !status; i++) {
        w.way = &ways[i];
        status = measure(b, &w);
    }
    anykv_status waited = akv_queue_wait(device->queue, UINT64_MAX);
    akv_mem_free(w.slab);
    akv_mem_free(w.host);
    akv_mem_free(w.stage);
    akv_mem_free(w.moves);
    return status ? status : waited;
}

anykv_status bench_page(struct bench *b)
{
    const struct bench_options *o = &b->options;
    anykv_status status = ANYKV_OK;
    b->report = akv_report_begin(stdout, o->json, columns, COLUMNS);
    if (!b->report)
        return ANYKV_E_MEMORY;
    akv_progress_begin(&b->progress, "bench page", (uint64_t)8 * o->threads.count);
    for (uint32_t t = 0; t < (b->gpu ? 1 : o->threads.count) && !status; t++) {
        struct bench_device device;
        status = bench_open(b, (uint32_t)o->threads.item[t], &device);
        if (status)
            return status;
        status = one_size(b, &device, LAYER);
        if (!status && b->gpu) /* a block of 32 layers */
            status = one_size(b, &device, 32 * LAYER);
        bench_close(&device);
    }
    return status;
}
