/* SPDX-License-Identifier: Apache-2.0 */
/* `anykv bench compress`: BX16 of Gaussian bf16 rows, in cache and in memory, against memcpy of the rows.
 * encode is counting and encoding; the table is made on the host in between and not measured. */
#include "bench.h"
#include "../lib/kernel/bx16.h"
#include <math.h>
#include <stdio.h>

static const struct akv_column columns[] = {
    {"bench", NULL, 0},         {"op", "op", 0},
    {"method", "method", 0},    {"working_set", "set", 0},
    {"threads", "threads", 0},  {"device", "device", 0},
    {"bits", "bits", 3},        {"ratio", "ratio", 3},
    {"gib_s", "GiB/s", 2},      {"ratio_memcpy", "of memcpy", 3},
    {"spread", "spread", 2},    {"clock", NULL, 0},
};
enum { COLUMNS = sizeof columns / sizeof columns[0] };

#define CACHE_BYTES (256u << 10)

struct work {
    struct bench_device *device;
    struct bench_copy copy; /* copy.from holds the rows, copy.to is what decoding writes */
    struct akv_mem *body, *words;
    akv_bx16_params params;
    bool encode;
};

static anykv_status enqueue(void *user, uint32_t loop)
{
    const struct work *w = user;
    const struct akv_span words = {w->words, 0, 1024};
    const struct akv_span body = {w->body, 0, akv_bx16_bytes(w->params.elements, w->params.escapes)};
    (void)loop;
    struct akv_launch launch = {.kernel = AKV_K_BX16_DECODE, .params = &w->params};
    launch.arg[0] = body;
    launch.arg[1] = (struct akv_span){w->copy.to, 0, w->copy.bytes};
    launch.arg[2] = words;
    if (!w->encode)
        return akv_kernel_launch(w->device->queue, &launch);
    launch.kernel = AKV_K_BX16_COUNT;
    launch.arg[0] = (struct akv_span){w->copy.from, 0, w->copy.bytes};
    launch.arg[1] = words;
    launch.arg[2] = (struct akv_span){NULL, 0, 0};
    anykv_status status = akv_queue_fill(w->device->queue, words, 0);
    if (!status)
        status = akv_kernel_launch(w->device->queue, &launch);
    launch.kernel = AKV_K_BX16_ENCODE;
    launch.arg[1] = body;
    return status ? status : akv_kernel_launch(w->device->queue, &launch);
}

/* Gaussian rows rounded down to bf16, and their table. */
static anykv_status fill(struct bench *b, struct work *w)
{
    uint16_t *rows = akv_alloc(b->context, w->params.elements, 2);
    uint32_t counts[256] = {0};
    uint64_t state = 88172645463325252u;
    if (!rows)
        return ANYKV_E_MEMORY;
    for (uint32_t i = 0; i < w->params.elements; i++) {
        double u[2];
        for (uint32_t k = 0; k < 2 && i < 1u << 16; k++) {
            state ^= state << 13; /* xorshift64 (Marsaglia 2003) */
            state ^= state >> 7;
            state ^= state << 17;
            u[k] = ((double)(state >> 11) + 0.5) * 0x1p-53;
        }
        rows[i] = i < 1u << 16 ? (uint16_t)(akv_as_u32((float)(sqrt(-2.0 * log(u[0])) * cos(6.283185307179586 * u[1]))) >> 16)
                               : rows[i - (1u << 16)];
        counts[akv_bx16_exponent(rows[i])]++;
    }
    w->params.escapes = akv_bx16_choose(counts, w->params.table);
    anykv_status status =
        akv_queue_put(w->device->queue, (struct akv_span){w->copy.from, 0, w->copy.bytes}, rows);
    if (!status)
        status = akv_queue_wait(w->device->queue, UINT64_MAX);
    akv_free(b->context, rows);
    return status;
}

static anykv_status measure(struct bench *b, struct work *w, const char *set)
{
    double ours[BENCH_REPEATS_MAX], copy[BENCH_REPEATS_MAX], copy_ns = 0.0;
    const bool peer = strcmp(b->options.peer, "memcpy") == 0;
    uint32_t loops = 1, count = (uint32_t)b->options.repeats;
    char name[64];
    snprintf(name, sizeof name, "%s/BX16/%s/t%u", w->encode ? "encode" : "decode", set,
             (unsigned)w->device->threads);
    if (!bench_chosen(b, name))
        return ANYKV_OK;
    bench_progress(b, name);
    anykv_status status = ANYKV_OK;
    if (!w->encode) { /* what decoding reads must be there */
        struct work before = *w;
        before.encode = true;
        status = enqueue(&before, 0);
    }
    if (!status)
        status = bench_loops(w->device, enqueue, w, 3e6, &loops);
    if (!status)
        status = bench_copy_time(&w->copy, 20, &copy_ns);
    const uint32_t copies = copy_ns > 3e6 ? 1 : (uint32_t)(3e6 / (copy_ns + 1.0)) + 1;
    for (uint32_t i = 0; i < count && !status; i++) {
        status = bench_time(w->device, enqueue, w, loops, &ours[i]);
        if (!status && peer)
            status = bench_copy_time(&w->copy, copies, &copy[i]);
    }
    if (status)
        return status;
    const double ns = bench_median(ours, count), rows = (double)w->copy.bytes;
    const double bytes = (double)(akv_bx16_bytes(w->params.elements, w->params.escapes) + ANYKV_COMPRESS_HEADER);
    struct akv_value values[COLUMNS] = {
        akv_text("compress"),
        akv_text(w->encode ? "encode" : "decode"),
        akv_text("BX16"),
        akv_text(set),
        w->device->remote ? akv_none() : akv_whole(w->device->threads),
        akv_text(b->label),
        akv_real(bytes * 8.0 / w->params.elements),
        akv_real(rows / bytes),
        akv_real(rows / ns * 1e9 / (double)(1 << 30)),
        peer ? akv_real(bench_ratio(copy, ours, count)) : akv_none(),
        akv_real(bench_spread(ours, count)),
        akv_text(w->device->busy ? "processor" : "wall"),
    };
    akv_progress_hide(&b->progress);
    akv_report_row(b->report, values);
    return ANYKV_OK;
}

static anykv_status one_set(struct bench *b, struct bench_device *device, bool memory)
{
    struct work w = {.device = device};
    const uint64_t bytes = memory ? (b->gpu ? 256ull << 20 : 64ull << 20) : CACHE_BYTES;
    w.params.elements = (uint32_t)(bytes / 2);
    anykv_status status = bench_copy_create(device, bytes, &w.copy);
    if (status)
        return status;
    status = fill(b, &w);
    if (!status)
        status = akv_mem_alloc(device->device, akv_bx16_bytes(w.params.elements, w.params.escapes),
                               AKV_MEM_DEVICE, &w.body);
    if (!status)
        status = akv_mem_alloc(device->device, 1024, AKV_MEM_DEVICE, &w.words);
    for (uint32_t op = 0; op < 2 && !status; op++) {
        w.encode = op == 0;
        status = measure(b, &w, memory ? "memory" : "cache");
    }
    bench_copy_destroy(&w.copy);
    akv_mem_free(w.body);
    akv_mem_free(w.words);
    return status;
}

anykv_status bench_compress(struct bench *b)
{
    const struct bench_options *o = &b->options;
    anykv_status status = ANYKV_OK;
    b->report = akv_report_begin(stdout, o->json, columns, COLUMNS);
    if (!b->report)
        return ANYKV_E_MEMORY;
    akv_progress_begin(&b->progress, "bench compress", (uint64_t)4 * o->threads.count);
    for (uint32_t t = 0; t < (b->gpu ? 1 : o->threads.count) && !status; t++) {
        struct bench_device device;
        status = bench_open(b, (uint32_t)o->threads.item[t], &device);
        if (status)
            return status;
        for (uint32_t memory = 0; memory < 2 && !status; memory++)
            status = one_set(b, &device, memory != 0);
        bench_close(&device);
    }
    return status;
}
