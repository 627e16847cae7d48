/* SPDX-License-Identifier: Apache-2.0 */
/* `anykv bench codec`: encode from fp32 and decode to it, in cache and in memory, against memcpy.
 */
#include "bench_maps.h"
#include <math.h>
#include <stdio.h>
#include <unistd.h>

static const struct akv_column columns[] = {
    {"bench", NULL, 0},        {"op", "op", 0},
    {"format", "format", 0},   {"rotate", "rotate", 0},
    {"search", "search", 0},   {"head_dim", "dim", 0},
    {"working_set", "set", 0}, {"threads", "threads", 0},
    {"device", "device", 0},   {"ns_per_row", "ns/row", 1},
    {"gib_s", "GiB/s", 2},     {"ratio_memcpy", "of memcpy", 3},
    {"spread", "spread", 2},   {"memcpy_ns_per_row", "memcpy ns/row", 1},
    {"clock", NULL, 0},        {"transform", "map", 0},
};
enum { COLUMNS = sizeof columns / sizeof columns[0] };

#define GPU_CACHE_BYTES  (8ull << 20)
#define GPU_MEMORY_BYTES (256ull << 20)
#define CPU_MEMORY_BYTES (64ull << 20)

/* Buffers of one working set: rows, what decoding writes, packed bytes, flags, and the peer. */
struct set {
    struct bench_device *device;
    struct bench_copy copy; /* copy.from holds the rows, copy.to is what decoding writes */
    struct akv_mem *packed, *flags;
    uint32_t rows, dim;
    uint32_t copy_loops;
};

struct work {
    struct set *set;
    enum akv_kernel_id kernel;
    akv_encode_params params;
    struct akv_mem *maps;
    uint32_t transform;
};

static anykv_status enqueue(void *user, uint32_t loop)
{
    const struct work *w = user;
    uint64_t row_bytes = (uint64_t)w->set->rows * w->set->dim * sizeof(float);
    struct akv_launch launch = {.kernel = w->kernel, .params = &w->params};
    struct akv_span tile = {w->set->packed, 0,
                            akv_tile_bytes(w->params.format, w->set->rows, w->set->dim)};
    (void)loop;
    bool encode = w->kernel == AKV_K_ENCODE;
    launch.arg[encode ? 0 : 1] =
        (struct akv_span){encode ? w->set->copy.from : w->set->copy.to, 0, row_bytes};
    launch.arg[encode ? 1 : 0] = tile;
    if (encode)
        launch.arg[2] = (struct akv_span){w->set->flags, 0, 4};
    if (w->maps)
        launch.arg[encode ? 3 : 2] = (struct akv_span){w->maps, 0, w->maps->bytes};
    return akv_kernel_launch(w->set->device->queue, &launch);
}

/* Gaussian rows, in pieces of a fixed size. */
static anykv_status fill_rows(struct bench *b, struct set *set)
{
    enum { PIECE = 1 << 16 };
    float *piece = akv_alloc(b->context, PIECE, sizeof *piece);
    if (!piece)
        return ANYKV_E_MEMORY;
    uint64_t state = 88172645463325252u;
    for (uint32_t i = 0; i < PIECE; i += 2) {
        double u[2];
        for (uint32_t k = 0; k < 2; k++) {
            state ^= state << 13; /* xorshift64 (Marsaglia 2003) */
            state ^= state >> 7;
            state ^= state << 17;
            u[k] = ((double)(state >> 11) + 0.5) * 0x1p-53;
        }
        double r = sqrt(-2.0 * log(u[0]));
        piece[i] = (float)(r * cos(6.283185307179586 * u[1]));
        piece[i + 1] = (float)(r * sin(6.283185307179586 * u[1]));
    }
    anykv_status status = ANYKV_OK;
    uint64_t bytes = (uint64_t)set->rows * set->dim * sizeof(float), most = PIECE * sizeof(float);
    for (uint64_t at = 0; at < bytes && status == ANYKV_OK; at += most) {
        struct akv_span span = {set->copy.from, at, AKV_MIN(most, bytes - at)};
        status = akv_queue_put(set->device->queue, span, piece);
    }
    if (status == ANYKV_OK)
        status = akv_queue_wait(set->device->queue, UINT64_MAX);
    akv_free(b->context, piece);
    return status;
}

static void set_close(struct set *set)
{
    bench_copy_destroy(&set->copy);
    akv_mem_free(set->packed);
    akv_mem_free(set->flags);
}

static anykv_status set_open(struct bench *b, struct bench_device *device, uint64_t bytes,
                             uint32_t dim, struct set *set)
{
    *set =
        (struct set){.device = device, .dim = dim, .rows = (uint32_t)(bytes / dim / sizeof(float))};
    uint64_t row_bytes = (uint64_t)set->rows * dim * sizeof(float);
    anykv_status status = bench_copy_create(device, row_bytes, &set->copy);
    /* No packed format is larger than padded fp32 rows. */
    if (status == ANYKV_OK)
        status = akv_mem_alloc(device->device, (uint64_t)set->rows * akv_padded_dim(dim) * 4u + 64,
                               AKV_MEM_DEVICE, &set->packed);
    if (status == ANYKV_OK)
        status = akv_mem_alloc(device->device, 64, AKV_MEM_DEVICE, &set->flags);
    if (status == ANYKV_OK)
        status = akv_queue_fill(device->queue, (struct akv_span){set->flags, 0, 64}, 0);
    if (status == ANYKV_OK)
        status = fill_rows(b, set);
    double ns = 0.0;
    if (status == ANYKV_OK)
        status = bench_copy_time(&set->copy, 2, &ns);
    if (status == ANYKV_OK)
        status = bench_copy_time(&set->copy, ns > 1e6 ? 1 : 20, &ns);
    set->copy_loops = ns > 3e6 ? 1 : (uint32_t)(3e6 / ns);
    if (status != ANYKV_OK)
        set_close(set);
    return status;
}

static anykv_status measure(struct bench *b, struct work *w, const char *working_set)
{
    double ours[BENCH_REPEATS_MAX], copy[BENCH_REPEATS_MAX];
    struct set *set = w->set;
    uint32_t loops = 1, count = (uint32_t)b->options.repeats, format = w->params.format;
    bool encode = w->kernel == AKV_K_ENCODE, peer = strcmp(b->options.peer, "memcpy") == 0;
    char name[96];
    snprintf(name, sizeof name, "%s/%s%s%s/d%u/%s/t%u", encode ? "encode" : "decode",
             anykv_format_name((anykv_format)format),
             w->transform == AKV_TRANSFORM_NONE     ? ""
             : w->transform == AKV_TRANSFORM_ROTATE ? "/rotate"
             : w->transform == AKV_TRANSFORM_CENTRE ? "/centre"
                                                    : "/matrix",
             w->params.flags & AKV_FLAG_SEARCH ? "/search" : "", (unsigned)set->dim, working_set,
             (unsigned)set->device->threads);
    if (!bench_chosen(b, name))
        return ANYKV_OK;
    bench_progress(b, name);
    struct akv_check check;
    akv_kernel_check(set->device->device, w->kernel, &w->params, &check);
    if (!check.supported)
        return ANYKV_OK;
    anykv_status status = akv_kernel_prepare(set->device->device, w->kernel, &w->params);
    if (status == ANYKV_OK && !encode) { /* what decoding reads must be there */
        struct work before = *w;
        before.kernel = AKV_K_ENCODE;
        status = enqueue(&before, 0);
    }
    if (status == ANYKV_OK)
        status = bench_loops(set->device, enqueue, w, 3e6, &loops);
    for (uint32_t i = 0; i < count && status == ANYKV_OK; i++) {
        status = bench_time(set->device, enqueue, w, loops, &ours[i]);
        if (status == ANYKV_OK && peer)
            status = bench_copy_time(&set->copy, set->copy_loops, &copy[i]);
    }
    if (status != ANYKV_OK)
        return status;
    double ns = bench_median(ours, count), bytes = (double)set->rows * set->dim * sizeof(float);
    struct akv_value values[COLUMNS] = {
        akv_text("codec"),
        akv_text(encode ? "encode" : "decode"),
        akv_text(anykv_format_name((anykv_format)format)),
        akv_bool((w->params.flags & AKV_FLAG_ROTATE) != 0),
        akv_bool((w->params.flags & AKV_FLAG_SEARCH) != 0),
        akv_whole(set->dim),
        akv_text(working_set),
        set->device->remote ? akv_none() : akv_whole(set->device->threads),
        akv_text(b->label),
        akv_real(ns / set->rows),
        akv_real(bytes / ns * 1e9 / (double)(1 << 30)),
        peer ? akv_real(bench_ratio(copy, ours, count)) : akv_none(),
        akv_real(bench_spread(ours, count)),
        peer ? akv_real(bench_median(copy, count) / set->rows) : akv_none(),
        akv_text(set->device->busy ? "processor" : "wall"),
        akv_text(bench_transform_name(w->transform)),
    };
    akv_progress_hide(&b->progress);
    akv_report_row(b->report, values);
    return ANYKV_OK;
}

static anykv_status one_format(struct bench *b, struct set *set, uint32_t format,
                               const char *working_set)
{
    anykv_status status = ANYKV_OK;
    const struct akv_text_list *list = &b->options.transforms;
    uint32_t searches = akv_format_codebook(format) ? 2 : 1;
    uint32_t transforms = akv_format_raw(format) ? 1 : list->count ? list->count : 2;
    for (uint32_t op = 0; op < 2; op++)
        for (uint32_t t = 0; t < transforms && status == ANYKV_OK; t++) {
            struct work w = {.set = set, .kernel = op == 0 ? AKV_K_ENCODE : AKV_K_DECODE};
            w.transform = t;
            if (list->count && !akv_format_raw(format))
                status = bench_transform(list->item[t], &w.transform);
            if (status == ANYKV_OK)
                status = bench_maps_create(b, set->device, w.transform, 1, set->dim, &w.maps);
            for (uint32_t search = 0; search < (op == 0 ? searches : 1) && status == ANYKV_OK;
                 search++) {
                w.params.rows = (akv_rows){set->dim, set->dim, AKV_F32, 1};
                w.params.tokens = set->rows;
                w.params.dim = set->dim;
                w.params.format = format;
                w.params.flags =
                    bench_transform_flags(w.transform) | (search ? AKV_FLAG_SEARCH : 0u);
                w.params.map = BENCH_MAP_KEYS;
                status = measure(b, &w, working_set);
            }
            akv_mem_free(w.maps);
        }
    return status;
}

/* Rows that, with a copy of them, fill three quarters of a core's second-level cache. */
static uint64_t cache_bytes(const struct bench *b, uint32_t threads)
{
    long l2 = sysconf(_SC_LEVEL2_CACHE_SIZE);
    if (b->gpu)
        return GPU_CACHE_BYTES;
    return (l2 > 0 ? (uint64_t)l2 : 512u << 10) * 3 / 8 * threads;
}

static anykv_status one_set(struct bench *b, struct bench_device *device, const uint32_t *formats,
                            uint32_t count, uint32_t dim, bool memory)
{
    struct set set;
    uint64_t bytes =
        memory ? (b->gpu ? GPU_MEMORY_BYTES : CPU_MEMORY_BYTES) : cache_bytes(b, device->threads);
    anykv_status status = set_open(b, device, bytes, dim, &set);
    if (status != ANYKV_OK)
        return status;
    for (uint32_t i = 0; i < count && status == ANYKV_OK; i++)
        status = one_format(b, &set, formats[i], memory ? "memory" : "cache");
    set_close(&set);
    return status;
}

anykv_status bench_codec(struct bench *b)
{
    const struct bench_options *o = &b->options;
    uint32_t formats[AKV_LIST_MAX], count = 0;
    for (uint32_t i = 0; i < o->formats.count; i++) {
        anykv_format format;
        anykv_status status = anykv_format_parse(o->formats.item[i], &format);
        if (status != ANYKV_OK)
            return status;
        formats[count++] = (uint32_t)format;
    }
    for (uint32_t f = AKV_F32; o->formats.count == 0 && f < AKV_FORMATS; f++)
        formats[count++] = f;
    b->report = akv_report_begin(stdout, o->json, columns, COLUMNS);
    if (!b->report)
        return ANYKV_E_MEMORY;
    akv_progress_begin(&b->progress, "bench codec",
                       (uint64_t)count * 10 * o->threads.count * o->head_dim.count);
    anykv_status status = ANYKV_OK;
    for (uint32_t t = 0; t < (b->gpu ? 1 : o->threads.count) && status == ANYKV_OK; t++) {
        struct bench_device device;
        status = bench_open(b, (uint32_t)o->threads.item[t], &device);
        if (status != ANYKV_OK)
            return status;
        for (uint32_t d = 0; d < o->head_dim.count; d++)
            for (uint32_t memory = 0; memory < 2 && status == ANYKV_OK; memory++)
                status =
                    one_set(b, &device, formats, count, (uint32_t)o->head_dim.item[d], memory != 0);
        bench_close(&device);
    }
    return status;
}
