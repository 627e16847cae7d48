/* SPDX-License-Identifier: Apache-2.0 */
/* `anykv bench compress`: rANS of the codes of Gaussian rows, as the codec packs them.  Bytes are
 * those of the packed codes, without scales. */
#include "bench_compress.h"
#include "../lib/rans.h"

enum { HEADS = 8, DIM = 128, WIDE = HEADS * DIM, SLIDE = 8, APART = 1000 };

struct work {
    struct bench_device *device;
    struct bench_copy copy; /* copy.from: the packed rows, copy.to: what decoding writes */
    akv_rans_params params;
    struct akv_mem *counts, *model, *body, *scratch, *damaged;
    uint64_t counts_bytes, model_bytes, most;
    uint64_t packed; /* bytes of model and body */
};

static struct akv_span all(struct akv_mem *mem)
{
    return (struct akv_span){mem, 0, mem->bytes};
}

static anykv_status count(const struct work *w)
{
    struct akv_launch launch = {.kernel = AKV_K_RANS_COUNT, .params = &w->params};
    launch.arg[0] = all(w->copy.from);
    launch.arg[1] = (struct akv_span){w->counts, 0, w->counts_bytes};
    anykv_status status = akv_queue_fill(w->device->queue, launch.arg[1], 0);
    return status ? status : akv_kernel_launch(w->device->queue, &launch);
}

static anykv_status encode(void *user, uint32_t loop)
{
    const struct work *w = user;
    struct akv_launch launch = {.kernel = AKV_K_RANS_ENCODE, .params = &w->params};
    (void)loop;
    launch.arg[0] = all(w->copy.from);
    launch.arg[1] = (struct akv_span){w->model, 0, w->model_bytes};
    launch.arg[2] = (struct akv_span){w->body, 0, w->most};
    launch.arg[3] = (struct akv_span){w->scratch, 0, w->most};
    anykv_status status = count(w);
    return status ? status : akv_kernel_launch(w->device->queue, &launch);
}

static anykv_status decode(void *user, uint32_t loop)
{
    const struct work *w = user;
    struct akv_launch launch = {.kernel = AKV_K_RANS_DECODE, .params = &w->params};
    (void)loop;
    launch.arg[0] = (struct akv_span){w->body, 0, w->most};
    launch.arg[1] = (struct akv_span){w->model, 0, w->model_bytes};
    launch.arg[2] = all(w->copy.to);
    launch.arg[3] = (struct akv_span){w->damaged, 0, 4};
    return akv_kernel_launch(w->device->queue, &launch);
}

/* Rows that slide over Gaussian numbers, so that few of them make many, into copy.from. */
static anykv_status pack_rows(struct bench *b, struct work *w, uint32_t format, uint32_t tokens)
{
    const uint32_t n = tokens * SLIDE + HEADS * APART + DIM;
    float *x = akv_alloc(b->context, n, sizeof *x);
    struct akv_mem *rows = NULL, *flags = NULL;
    anykv_status status =
        x ? akv_mem_alloc(w->device->device, n * sizeof *x, AKV_MEM_DEVICE, &rows) : ANYKV_E_MEMORY;
    if (!status)
        status = akv_mem_alloc(w->device->device, 16, AKV_MEM_DEVICE, &flags);
    if (!status) {
        compress_gauss(x, n < 1u << 20 ? n : 1u << 20);
        for (uint32_t i = 1u << 20; i < n; i++)
            x[i] = x[i - (1u << 20)];
        status = akv_queue_put(w->device->queue, all(rows), x);
    }
    const akv_encode_params params = {
        {SLIDE, APART, AKV_F32, HEADS}, tokens, DIM, format, AKV_FLAG_ROTATE, 0, 0};
    struct akv_launch launch = {.kernel = AKV_K_ENCODE, .params = &params};
    launch.arg[0] = (struct akv_span){rows, 0, n * sizeof *x};
    launch.arg[1] = all(w->copy.from);
    launch.arg[2] = (struct akv_span){flags, 0, 16};
    if (!status)
        status = akv_kernel_launch(w->device->queue, &launch);
    if (!status)
        status = akv_queue_copy(w->device->queue, all(w->copy.to),
                                all(w->copy.from)); /* scales and padding stay */
    anykv_status waited = akv_queue_wait(w->device->queue, UINT64_MAX);
    akv_mem_free(rows);
    akv_mem_free(flags);
    akv_free(b->context, x);
    return status ? status : waited;
}

/* The model from the device's counts, and what a body takes with it. */
static anykv_status make_model(struct bench *b, struct work *w)
{
    const size_t columns = (size_t)akv_rans_stripes(&w->params) * AKV_RANS_LANES;
    uint32_t *counts = akv_alloc(b->context, columns, AKV_RANS_CLASSES * 4u), end[2] = {0, 0};
    uint64_t *keys = akv_alloc(b->context, columns, sizeof *keys);
    uint32_t *model = akv_alloc(b->context, w->model_bytes, 1);
    struct akv_queue *queue = w->device->queue;
    anykv_status status = counts && keys && model ? count(w) : ANYKV_E_MEMORY;
    if (!status)
        status = akv_queue_get(queue, counts, (struct akv_span){w->counts, 0, w->counts_bytes});
    if (!status)
        status = akv_queue_wait(queue, UINT64_MAX);
    if (!status) {
        akv_rans_model(&w->params, counts, keys, model);
        status = akv_queue_put(queue, (struct akv_span){w->model, 0, w->model_bytes}, model);
    }
    if (!status)
        status = encode(w, 0);
    if (!status)
        status = akv_queue_get(
            queue, end, (struct akv_span){w->body, (akv_rans_segments(&w->params) - 1ull) * 8u, 8});
    anykv_status waited = akv_queue_wait(queue, UINT64_MAX);
    w->params.words = end[0];
    w->packed = w->model_bytes + akv_rans_segments(&w->params) * 8ull + end[0] * 4ull;
    akv_free(b->context, counts);
    akv_free(b->context, keys);
    akv_free(b->context, model);
    return status ? status : waited;
}

static anykv_status take_memory(struct work *w)
{
    const uint64_t bytes[] = {w->counts_bytes, w->model_bytes, w->most, w->most, 16};
    struct akv_mem **const mem[] = {&w->counts, &w->model, &w->body, &w->scratch, &w->damaged};
    anykv_status status = ANYKV_OK;
    for (size_t i = 0; i < sizeof mem / sizeof *mem && !status; i++)
        status = akv_mem_alloc(w->device->device, bytes[i], AKV_MEM_DEVICE, mem[i]);
    return status ? status : akv_queue_fill(w->device->queue, all(w->damaged), 0);
}

static anykv_status is_whole(const struct bench *b, const struct work *w)
{
    uint32_t damaged = 1;
    anykv_status status =
        akv_queue_get(w->device->queue, &damaged, (struct akv_span){w->damaged, 0, 4});
    anykv_status waited = akv_queue_wait(w->device->queue, UINT64_MAX);
    if (!status && !waited && damaged)
        status = akv_fail(b->context, ANYKV_E_DATA,
                          "bench compress: rANS says that what it wrote is damaged");
    return status ? status : waited;
}

static anykv_status one_format(struct bench *b, struct bench_device *device, uint32_t format,
                               const char *method)
{
    struct work w = {.device = device};
    const uint32_t tokens = (b->gpu ? 1u << 28 : 1u << 24) / WIDE;
    const uint64_t bytes = akv_tile_bytes(format, tokens * HEADS, DIM);
    const double codes =
        (double)tokens * WIDE / 8.0 * (akv_format_plane0(format) + akv_format_plane1(format));
    if (!akv_rans_codes(&w.params, format, AKV_ORDER_ROW, DIM, tokens * HEADS, HEADS, 1, true))
        return akv_fail(b->context, ANYKV_E_INTERNAL, "bench compress: no shape");
    w.params.tables = akv_rans_choose(&w.params);
    w.counts_bytes = (uint64_t)akv_rans_stripes(&w.params) * AKV_RANS_LANES * AKV_RANS_CLASSES * 4u;
    w.model_bytes = akv_rans_model_words(&w.params) * 4ull;
    w.most = akv_rans_body_most(&w.params);
    anykv_status status = bench_copy_create(device, bytes, &w.copy);
    if (status)
        return status;
    status = take_memory(&w);
    if (!status)
        status = pack_rows(b, &w, format, tokens);
    if (!status)
        status = make_model(b, &w);
    w.copy.bytes = (uint64_t)codes; /* what is coded; copied are the same bytes */
    struct compress_row row = {device,           &w.copy,  "encode",
                               method,           "memory", (double)tokens * WIDE,
                               (double)w.packed, encode,   &w};
    if (!status)
        status = compress_measure(b, &row);
    row.op = "decode";
    row.work = decode;
    if (!status)
        status = compress_measure(b, &row);
    if (!status)
        status = is_whole(b, &w);
    anykv_status waited = akv_queue_wait(device->queue, UINT64_MAX);
    bench_copy_destroy(&w.copy);
    struct akv_mem *const mem[] = {w.counts, w.model, w.body, w.scratch, w.damaged};
    for (size_t i = 0; i < sizeof mem / sizeof *mem; i++)
        akv_mem_free(mem[i]);
    return status ? status : waited;
}

anykv_status compress_rans(struct bench *b, struct bench_device *device)
{
    static const struct {
        uint32_t format;
        const char *method;
    } formats[] = {
        {AKV_I8, "RANS:I8"}, {AKV_N4, "RANS:N4"}, {AKV_N3, "RANS:N3"}, {AKV_N2, "RANS:N2"}};
    static const char *const ops[] = {"encode", "decode"};
    anykv_status status = ANYKV_OK;
    for (size_t i = 0; i < sizeof formats / sizeof *formats && !status; i++)
        if (compress_wanted(b, device, ops, 2, formats[i].method, "memory"))
            status = one_format(b, device, formats[i].format, formats[i].method);
    return status;
}
