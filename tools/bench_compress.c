/* SPDX-License-Identifier: Apache-2.0 */
/* `anykv bench compress`: kernels of the compress family against a copy of the rows, and of them
 * BX16 of Gaussian bf16 rows, in cache and in memory.  encode is counting and encoding; what the
 * host makes in between (tables, models) is not measured. */
#include "bench_compress.h"
#include "../lib/kernel/bx16.h"
#include <math.h>
#include <stdio.h>

static const struct akv_column columns[] = {
    {"bench", NULL, 0},        {"op", "op", 0},
    {"method", "method", 0},   {"working_set", "set", 0},
    {"threads", "threads", 0}, {"device", "device", 0},
    {"bits", "bits", 3},       {"ratio", "ratio", 3},
    {"gib_s", "GiB/s", 2},     {"ratio_memcpy", "of memcpy", 3},
    {"spread", "spread", 2},   {"clock", NULL, 0},
    {"us", "us", 1},           {"gelements_s", "1e9/s", 3},
};
enum { COLUMNS = sizeof columns / sizeof columns[0] };

#define CACHE_BYTES (256u << 10)
#define RUN_NS      3e6 /* that one measured run should take */

void compress_gauss(float *x, uint32_t count)
{
    uint64_t state = 88172645463325252u;
    for (uint32_t i = 0; i < count; i++) {
        double u[2];
        for (uint32_t k = 0; k < 2; k++) {
            state ^= state << 13; /* xorshift64 (Marsaglia 2003) */
            state ^= state >> 7;
            state ^= state << 17;
            u[k] = ((double)(state >> 11) + 0.5) * 0x1p-53;
        }
        x[i] = (float)(sqrt(-2.0 * log(u[0])) * cos(6.283185307179586 * u[1]));
    }
}

static void name_row(char name[96], const char *op, const char *method, const char *set,
                     const struct bench_device *device)
{
    snprintf(name, 96, "%s/%s/%s/t%u", op, method, set, (unsigned)device->threads);
}

bool compress_wanted(const struct bench *b, const struct bench_device *device,
                     const char *const *ops, uint32_t count, const char *method, const char *set)
{
    bool wanted = false;
    for (uint32_t i = 0; i < count; i++) {
        char name[96];
        name_row(name, ops[i], method, set, device);
        wanted = wanted || bench_chosen(b, name);
    }
    return wanted;
}

static void add_row(struct bench *b, const struct compress_row *row, const double *ours,
                    const double *copy, uint32_t count)
{
    const double ns = bench_median(ours, count), bytes = (double)row->copy->bytes;
    struct akv_value values[COLUMNS] = {
        akv_text("compress"),
        akv_text(row->op),
        akv_text(row->method),
        akv_text(row->set),
        row->device->remote ? akv_none() : akv_whole(row->device->threads),
        akv_text(b->label),
        row->packed > 0.0 ? akv_real(row->packed * 8.0 / row->elements) : akv_none(),
        row->packed > 0.0 ? akv_real(bytes / row->packed) : akv_none(),
        akv_real(bytes / ns * 1e9 / (double)(1 << 30)),
        copy ? akv_real(bench_ratio(copy, ours, count)) : akv_none(),
        akv_real(bench_spread(ours, count)),
        akv_text(row->device->busy ? "processor" : "wall"),
        akv_real(ns * 1e-3),
        akv_real(row->elements / ns),
    };
    akv_progress_hide(&b->progress);
    akv_report_row(b->report, values);
}

anykv_status compress_measure(struct bench *b, const struct compress_row *row)
{
    double ours[BENCH_REPEATS_MAX], copy[BENCH_REPEATS_MAX], copy_ns = 0.0;
    const bool peer = strcmp(b->options.peer, "memcpy") == 0;
    uint32_t loops = 1, count = (uint32_t)b->options.repeats;
    char name[96];
    name_row(name, row->op, row->method, row->set, row->device);
    if (!bench_chosen(b, name))
        return ANYKV_OK;
    bench_progress(b, name);
    anykv_status status = bench_loops(row->device, row->work, row->user, RUN_NS, &loops);
    if (!status)
        status = bench_copy_time(row->copy, 20, &copy_ns);
    const uint32_t copies = copy_ns > RUN_NS ? 1 : (uint32_t)(RUN_NS / (copy_ns + 1.0)) + 1;
    for (uint32_t i = 0; i < count && !status; i++) {
        status = bench_time(row->device, row->work, row->user, loops, &ours[i]);
        if (!status && peer)
            status = bench_copy_time(row->copy, copies, &copy[i]);
    }
    if (!status)
        add_row(b, row, ours, peer ? copy : NULL, count);
    return status;
}

/* ---- BX16 ---- */

struct work {
    struct bench_device *device;
    struct bench_copy copy; /* copy.from holds the rows, copy.to is what decoding writes */
    struct akv_mem *body, *words;
    akv_bx16_params params;
};

static anykv_status encode(void *user, uint32_t loop)
{
    const struct work *w = user;
    struct akv_launch launch = {.kernel = AKV_K_BX16_COUNT, .params = &w->params};
    (void)loop;
    launch.arg[0] = (struct akv_span){w->copy.from, 0, w->copy.bytes};
    launch.arg[1] = (struct akv_span){w->words, 0, 1024};
    anykv_status status = akv_queue_fill(w->device->queue, launch.arg[1], 0);
    if (!status)
        status = akv_kernel_launch(w->device->queue, &launch);
    launch.kernel = AKV_K_BX16_ENCODE;
    launch.arg[1] =
        (struct akv_span){w->body, 0, akv_bx16_bytes(w->params.elements, w->params.escapes)};
    return status ? status : akv_kernel_launch(w->device->queue, &launch);
}

static anykv_status decode(void *user, uint32_t loop)
{
    const struct work *w = user;
    struct akv_launch launch = {.kernel = AKV_K_BX16_DECODE, .params = &w->params};
    (void)loop;
    launch.arg[0] =
        (struct akv_span){w->body, 0, akv_bx16_bytes(w->params.elements, w->params.escapes)};
    launch.arg[1] = (struct akv_span){w->copy.to, 0, w->copy.bytes};
    launch.arg[2] = (struct akv_span){w->words, 0, 1024};
    return akv_kernel_launch(w->device->queue, &launch);
}

/* Gaussian rows rounded down to bf16, and their table. */
static anykv_status fill(struct bench *b, struct work *w)
{
    enum { DIFFERENT = 1 << 16 };
    uint16_t *rows = akv_alloc(b->context, w->params.elements, 2);
    float *x = akv_alloc(b->context, DIFFERENT, sizeof *x);
    uint32_t counts[256] = {0};
    anykv_status status = rows && x ? ANYKV_OK : ANYKV_E_MEMORY;
    if (!status) {
        compress_gauss(x, DIFFERENT);
        for (uint32_t i = 0; i < w->params.elements; i++) {
            rows[i] = (uint16_t)(akv_as_u32(x[i % DIFFERENT]) >> 16);
            counts[akv_bx16_exponent(rows[i])]++;
        }
        w->params.escapes = akv_bx16_choose(counts, w->params.table);
        status = akv_queue_put(w->device->queue, (struct akv_span){w->copy.from, 0, w->copy.bytes},
                               rows);
    }
    if (!status)
        status = akv_queue_wait(w->device->queue, UINT64_MAX);
    akv_free(b->context, x);
    akv_free(b->context, rows);
    return status;
}

static anykv_status one_set(struct bench *b, struct bench_device *device, bool memory)
{
    static const char *const ops[] = {"encode", "decode"};
    struct work w = {.device = device};
    if (!compress_wanted(b, device, ops, 2, "BX16", memory ? "memory" : "cache"))
        return ANYKV_OK;
    const uint64_t bytes = memory ? (b->gpu ? 256ull << 20 : 64ull << 20) : CACHE_BYTES;
    w.params.elements = (uint32_t)(bytes / 2);
    anykv_status status = bench_copy_create(device, bytes, &w.copy);
    if (status)
        return status;
    status = fill(b, &w);
    const uint64_t body = status ? 0 : akv_bx16_bytes(w.params.elements, w.params.escapes);
    if (!status)
        status = akv_mem_alloc(device->device, body, AKV_MEM_DEVICE, &w.body);
    if (!status)
        status = akv_mem_alloc(device->device, 1024, AKV_MEM_DEVICE, &w.words);
    struct compress_row row = {device,
                               &w.copy,
                               "encode",
                               "BX16",
                               memory ? "memory" : "cache",
                               w.params.elements,
                               (double)(body + ANYKV_COMPRESS_HEADER),
                               encode,
                               &w};
    if (!status)
        status =
            encode(&w, 0); /* what decoding reads must be there, whatever --filter leaves out */
    if (!status)
        status = compress_measure(b, &row);
    row.op = "decode";
    row.work = decode;
    if (!status)
        status = compress_measure(b, &row);
    anykv_status waited = akv_queue_wait(device->queue, UINT64_MAX);
    bench_copy_destroy(&w.copy);
    akv_mem_free(w.body);
    akv_mem_free(w.words);
    return status ? status : waited;
}

anykv_status compress_bx16(struct bench *b, struct bench_device *device)
{
    anykv_status status = one_set(b, device, false);
    return status ? status : one_set(b, device, true);
}

anykv_status bench_compress(struct bench *b)
{
    const struct bench_options *o = &b->options;
    anykv_status status = ANYKV_OK;
    b->report = akv_report_begin(stdout, o->json, columns, COLUMNS);
    if (!b->report)
        return ANYKV_E_MEMORY;
    akv_progress_begin(&b->progress, "bench compress", (uint64_t)17 * o->threads.count);
    for (uint32_t t = 0; t < (b->gpu ? 1 : o->threads.count) && !status; t++) {
        struct bench_device device;
        status = bench_open(b, (uint32_t)o->threads.item[t], &device);
        if (status)
            return status;
        status = compress_bx16(b, &device);
        if (!status)
            status = compress_rans(b, &device);
        if (!status)
            status = compress_lowrank(b, &device);
        bench_close(&device);
    }
    return status;
}
