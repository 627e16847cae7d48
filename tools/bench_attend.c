/* SPDX-License-Identifier: Apache-2.0 */
/* `anykv bench attend`: decode and prefill attention over packed blocks in random order. */
#include "bench_maps.h"
#include "bench_pool.h"
#include <math.h>
#include <stdio.h>

static const struct akv_column columns[] = {
    {"bench", NULL, 0},
    {"phase", "phase", 0},
    {"k", "K", 0},
    {"v", "V", 0},
    {"transform", "map", 0},
    {"head_dim", "dim", 0},
    {"q_heads", "q", 0},
    {"kv_heads", "kv", 0},
    {"tokens", "tokens", 0},
    {"batch", "batch", 0},
    {"threads", "threads", 0},
    {"device", "device", 0},
    {"ns_per_kv_row", "ns/row pair", 2},
    {"us", "us", 1},
    {"gib_s", "GiB/s", 2},
    {"ratio_f16", "F16/this", 3},
    {"share_of_copy", "of copy", 3},
    {"spread", "spread", 2},
    {"new_tokens", NULL, 0},
    {"precise", NULL, 0},
    {"copy_gib_s", NULL, 0},
    {"share_of_read", "of read", 3},
    {"read_gib_s", NULL, 0},
    {"clock", NULL, 0},
};
enum { COLUMNS = sizeof columns / sizeof columns[0], PAIRS_MAX = 4 * AKV_LIST_MAX + 1 };

#define CPU_COPY_BYTES (64ull << 20)
#define GPU_COPY_BYTES (512ull << 20)
#define CPU_NEW_TOKENS 64u
#define GPU_NEW_TOKENS 2048u
#define GIB            ((double)(1 << 30))
#define RUN_NS         5e6 /* a run of one pair lasts at least so long */

/* One pair of formats under one shape. */
struct subject {
    struct bench_pool pool;
    akv_attend_params params;
    struct akv_mem *q, *out, *scratch, *maps;
    uint32_t transform;
    uint64_t q_bytes, out_bytes, scratch_bytes;
    uint32_t loops, next;
    bool shown, open;
    double ns[BENCH_REPEATS_MAX];
};

/* What memory gives in the same run: a copy, and on a CPU reading alone. */
struct peer {
    struct bench_copy copy;
    bool copied, read;
    double copy_ns[BENCH_REPEATS_MAX], read_ns[BENCH_REPEATS_MAX];
};

static anykv_status enqueue(void *user, uint32_t loop)
{
    struct subject *x = user;
    struct akv_launch launch = {.kernel = AKV_K_ATTEND, .params = &x->params};
    (void)loop;
    uint32_t set = x->next++ % x->pool.sets;
    launch.arg[0] = (struct akv_span){x->pool.descriptors, set * x->pool.descriptor_bytes,
                                      x->pool.descriptor_bytes};
    launch.arg[1] = (struct akv_span){x->q, 0, x->q_bytes};
    launch.arg[2] = (struct akv_span){x->out, 0, x->out_bytes};
    if (x->scratch)
        launch.arg[6] = (struct akv_span){x->scratch, 0, x->scratch_bytes};
    if (x->maps)
        launch.arg[7] = (struct akv_span){x->maps, 0, x->maps->bytes};
    bench_pool_bind(&x->pool, &launch);
    return akv_kernel_launch(x->pool.device->queue, &launch);
}

static void subject_close(struct subject *x)
{
    if (!x->open)
        return;
    akv_mem_free(x->q);
    akv_mem_free(x->out);
    akv_mem_free(x->scratch);
    akv_mem_free(x->maps);
    bench_pool_destroy(&x->pool);
    x->open = false;
}

static anykv_status put_queries(struct bench *b, struct subject *x)
{
    uint16_t *q = akv_alloc(b->context, x->q_bytes / 2, sizeof *q);
    if (!q)
        return ANYKV_E_MEMORY;
    uint32_t state = 12345;
    for (uint64_t i = 0; i < x->q_bytes / 2; i++) { /* fp16 between 0.5 and 2, either sign */
        state = state * 1664525u + 1013904223u;
        q[i] = (uint16_t)((state >> 16 & 0x83FFu) | (0x3800u + (state >> 8 & 0x400u)));
    }
    struct akv_span span = {x->q, 0, x->q_bytes};
    anykv_status status = akv_queue_put(x->pool.device->queue, span, q);
    akv_free(b->context, q);
    return status;
}

/* E_UNSUPPORTED: the device refuses the kernel with these parameters. */
static anykv_status subject_open(struct bench *b, struct bench_device *device,
                                 const struct bench_shape *shape, uint32_t k, uint32_t v,
                                 uint32_t transform, struct subject *x)
{
    anykv_status status = bench_pool_create(b, device, shape, k, v, &x->pool);
    if (status != ANYKV_OK)
        return status;
    x->open = true;
    uint32_t new_all = shape->batch * shape->new_tokens, row = shape->q_heads * shape->head_dim;
    akv_rows rows = {row, shape->head_dim, AKV_F16, shape->q_heads};
    x->params = (akv_attend_params){.pool = x->pool.map,
                                    .tiles = x->pool.tiles,
                                    .q = rows,
                                    .out = rows,
                                    .kv_heads = shape->kv_heads,
                                    .q_heads = shape->q_heads,
                                    .k_dim = shape->head_dim,
                                    .v_dim = shape->head_dim,
                                    .k_flags = bench_transform_flags(transform),
                                    .v_flags = bench_transform_flags(transform),
                                    .k_map = BENCH_MAP_KEYS,
                                    .v_map = BENCH_MAP_VALUES,
                                    .flags = shape->precise ? AKV_ATTEND_PRECISE : 0u,
                                    .scale = 1.0f / sqrtf((float)shape->head_dim),
                                    .max_tokens = new_all,
                                    .max_sequences = shape->batch,
                                    .max_length = shape->tokens,
                                    .bound_sequences = shape->batch,
                                    .bound_seq_tokens = shape->new_tokens,
                                    .bound_length = shape->tokens,
                                    .block_tokens = BENCH_BLOCK_TOKENS};
    x->transform = transform;
    x->q_bytes = x->out_bytes = (uint64_t)new_all * row * 2u;
    struct akv_check check;
    akv_kernel_check(device->device, AKV_K_ATTEND, &x->params, &check);
    if (!check.supported)
        return akv_fail(b->context, ANYKV_E_UNSUPPORTED, "attend: %s",
                        check.reason ? check.reason : "refused without a reason");
    x->scratch_bytes = check.scratch_bytes;
    status = akv_mem_alloc(device->device, x->q_bytes, AKV_MEM_DEVICE, &x->q);
    if (status == ANYKV_OK)
        status = akv_mem_alloc(device->device, x->out_bytes, AKV_MEM_DEVICE, &x->out);
    if (status == ANYKV_OK && x->scratch_bytes)
        status = akv_mem_alloc(device->device, x->scratch_bytes, AKV_MEM_DEVICE, &x->scratch);
    if (status == ANYKV_OK)
        status = put_queries(b, x);
    if (status == ANYKV_OK)
        status = bench_maps_create(b, device, transform, shape->kv_heads, shape->head_dim, &x->maps);
    if (status == ANYKV_OK)
        status = akv_kernel_prepare(device->device, AKV_K_ATTEND, &x->params);
    if (status == ANYKV_OK)
        status = bench_loops(device, enqueue, x, RUN_NS, &x->loops);
    return status;
}

static void emit(struct bench *b, const struct subject *x, const struct subject *f16,
                 const char *phase, const struct peer *peer)
{
    const struct bench_shape *s = x->pool.shape;
    uint32_t count = (uint32_t)b->options.repeats;
    double ns = bench_median(x->ns, count), read = (double)x->pool.read_bytes;
    double moved = 2.0 * (double)peer->copy.bytes; /* a copy reads and writes */
    bool raw = akv_format_raw(x->pool.k_format) && akv_format_raw(x->pool.v_format);
    struct akv_value values[COLUMNS] = {
        akv_text("attend"),
        akv_text(phase),
        akv_text(anykv_format_name((anykv_format)x->pool.k_format)),
        akv_text(anykv_format_name((anykv_format)x->pool.v_format)),
        akv_text(raw ? "none" : bench_transform_name(x->transform)),
        akv_whole(s->head_dim),
        akv_whole(s->q_heads),
        akv_whole(s->kv_heads),
        akv_whole(s->tokens),
        akv_whole(s->batch),
        x->pool.device->remote ? akv_none() : akv_whole(x->pool.device->threads),
        akv_text(b->label),
        akv_real(ns / ((double)s->tokens * s->kv_heads * s->batch)),
        akv_real(ns * 1e-3),
        akv_real(read / ns * 1e9 / GIB),
        f16->open ? akv_real(bench_ratio(f16->ns, x->ns, count)) : akv_none(),
        peer->copied ? akv_real(bench_ratio(peer->copy_ns, x->ns, count) * read / moved)
                     : akv_none(),
        akv_real(bench_spread(x->ns, count)),
        akv_whole(s->new_tokens),
        akv_bool(s->precise),
        peer->copied ? akv_real(moved / bench_median(peer->copy_ns, count) * 1e9 / GIB)
                     : akv_none(),
        peer->read ? akv_real(bench_ratio(peer->read_ns, x->ns, count) * read * 2.0 / moved)
                   : akv_none(),
        peer->read ? akv_real(0.5 * moved / bench_median(peer->read_ns, count) * 1e9 / GIB)
                   : akv_none(),
        akv_text(x->pool.device->busy ? "processor" : "wall"),
    };
    akv_progress_hide(&b->progress);
    akv_report_row(b->report, values);
}

static bool is_f16(const uint32_t pair[3])
{
    return pair[0] == AKV_F16 && pair[1] == AKV_F16;
}

/* All pairs of one shape, their runs and the copy's alternating. */
static anykv_status one_shape(struct bench *b, struct bench_device *device,
                              const struct bench_shape *shape, const char *phase,
                              const uint32_t (*pairs)[3], uint32_t count, struct subject *subjects)
{
    char name[128], shape_name[64];
    struct peer peer = {0};
    anykv_status status = ANYKV_OK;
    uint32_t open = 0;
    snprintf(shape_name, sizeof shape_name, "d%u/q%u/kv%u/n%u/b%u/t%u", (unsigned)shape->head_dim,
             (unsigned)shape->q_heads, (unsigned)shape->kv_heads, (unsigned)shape->tokens,
             (unsigned)shape->batch, (unsigned)device->threads);
    for (uint32_t i = 0; i <= count; i++)
        subjects[i] = (struct subject){0};
    for (uint32_t i = 1; i <= count; i++) {
        snprintf(name, sizeof name, "%s/%s/%s/%s/%s", phase,
                 anykv_format_name((anykv_format)pairs[i][0]),
                 anykv_format_name((anykv_format)pairs[i][1]), bench_transform_name(pairs[i][2]),
                 shape_name);
        subjects[i].shown = bench_chosen(b, name);
        open += subjects[i].shown;
    }
    if (open == 0)
        return ANYKV_OK;
    for (uint32_t i = 0; i <= count && status == ANYKV_OK; i++) {
        bench_progress(b, shape_name);
        if (i != 0 && (!subjects[i].shown || is_f16(pairs[i])))
            continue;
        status = subject_open(b, device, shape, pairs[i][0], pairs[i][1], pairs[i][2],
                              &subjects[i]);
        if (status == ANYKV_E_UNSUPPORTED) {
            akv_cli_message("bench", "%s: %s", shape_name, anykv_error_detail());
            subject_close(&subjects[i]);
            status = ANYKV_OK;
        }
    }
    peer.copied = strcmp(b->options.peer, "memcpy") == 0;
    peer.read = peer.copied && !device->remote;
    if (status == ANYKV_OK && peer.copied)
        status = bench_copy_create(device, b->gpu ? GPU_COPY_BYTES : CPU_COPY_BYTES, &peer.copy);
    for (uint32_t r = 0; r < b->options.repeats && status == ANYKV_OK; r++) {
        if (peer.copied)
            status = bench_copy_time(&peer.copy, b->gpu ? 4 : 1, &peer.copy_ns[r]);
        if (peer.read && status == ANYKV_OK)
            status = bench_read_time(&peer.copy, 1, &peer.read_ns[r]);
        for (uint32_t i = 0; i <= count && status == ANYKV_OK; i++)
            if (subjects[i].open)
                status = bench_time(device, enqueue, &subjects[i], subjects[i].loops,
                                    &subjects[i].ns[r]);
    }
    for (uint32_t i = 1; i <= count && status == ANYKV_OK; i++) {
        const struct subject *x = &subjects[is_f16(pairs[i]) ? 0 : i];
        if (subjects[i].shown && x->open)
            emit(b, x, &subjects[0], phase, &peer);
    }
    for (uint32_t i = 0; i <= count; i++)
        subject_close(&subjects[i]);
    bench_copy_destroy(&peer.copy);
    return status;
}

/* Everything that the lists ask of one device with one number of threads. */
static anykv_status one_device(struct bench *b, struct bench_device *device,
                               const uint32_t (*pairs)[3], uint32_t count, struct subject *subjects)
{
    const struct bench_options *o = &b->options;
    anykv_status status = ANYKV_OK;
    uint32_t combinations = o->phase.count * o->head_dim.count * o->gqa.count * o->batch.count;
    for (uint32_t c = 0; c < combinations * o->tokens.count && status == ANYKV_OK; c++) {
        uint32_t rest = c;
        struct bench_shape shape = {0};
        shape.tokens = (uint32_t)o->tokens.item[rest % o->tokens.count];
        rest /= o->tokens.count;
        shape.batch = (uint32_t)o->batch.item[rest % o->batch.count];
        rest /= o->batch.count;
        shape.q_heads = (uint32_t)o->q_heads;
        shape.kv_heads = shape.q_heads / (uint32_t)o->gqa.item[rest % o->gqa.count];
        rest /= o->gqa.count;
        shape.head_dim = (uint32_t)o->head_dim.item[rest % o->head_dim.count];
        rest /= o->head_dim.count;
        const char *phase = o->phase.item[rest];
        uint32_t wanted = o->new_tokens ? (uint32_t)o->new_tokens
                          : b->gpu      ? GPU_NEW_TOKENS
                                        : CPU_NEW_TOKENS;
        shape.new_tokens = strcmp(phase, "decode") == 0 ? 1 : AKV_MIN(wanted, shape.tokens);
        shape.precise = o->precise;
        status = one_shape(b, device, &shape, phase, pairs, count, subjects);
    }
    return status;
}

anykv_status bench_attend(struct bench *b)
{
    struct bench_options *o = &b->options;
    uint32_t pairs[PAIRS_MAX][3] = {{AKV_F16, AKV_F16, AKV_TRANSFORM_ROTATE}}; /* 0: the F16 peer */
    uint32_t count = 0, transforms = o->transforms.count ? o->transforms.count : 1;
    static const char *const defaults[] = {"F16/F16", "I8/I8", "N4/N4"};
    for (uint32_t i = 0; i < (o->formats.count ? o->formats.count : 3); i++) {
        anykv_format k, v;
        anykv_status status =
            anykv_format_pair_parse(o->formats.count ? o->formats.item[i] : defaults[i], &k, &v);
        for (uint32_t t = 0; t < transforms && count + 1 < PAIRS_MAX && status == ANYKV_OK; t++) {
            uint32_t transform = AKV_TRANSFORM_ROTATE;
            if (o->transforms.count)
                status = bench_transform(o->transforms.item[t], &transform);
            if (k == ANYKV_F16 && v == ANYKV_F16 && t > 0)
                break; /* raw rows are as they are */
            count++;
            pairs[count][0] = (uint32_t)k;
            pairs[count][1] = (uint32_t)v;
            pairs[count][2] = transform;
        }
        if (status != ANYKV_OK)
            return status;
    }
    struct subject *subjects = akv_alloc(b->context, count + 1, sizeof *subjects);
    b->report = akv_report_begin(stdout, o->json, columns, COLUMNS);
    if (!b->report || !subjects) {
        akv_free(b->context, subjects);
        return ANYKV_E_MEMORY;
    }
    akv_progress_begin(&b->progress, "bench attend",
                       (uint64_t)(count + 1) * o->tokens.count * o->phase.count *
                           o->head_dim.count * o->gqa.count * o->batch.count *
                           (b->gpu ? 1 : o->threads.count));
    anykv_status status = ANYKV_OK;
    for (uint32_t t = 0; t < (b->gpu ? 1 : o->threads.count) && status == ANYKV_OK; t++) {
        struct bench_device device;
        status = bench_open(b, (uint32_t)o->threads.item[t], &device);
        if (status != ANYKV_OK)
            break;
        status = one_device(b, &device, pairs, count, subjects);
        bench_close(&device);
    }
    akv_free(b->context, subjects);
    return status;
}
