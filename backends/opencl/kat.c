/* SPDX-License-Identifier: Apache-2.0 */
/* Known-answer test of an OpenCL device, run when it is opened: it encodes and decodes rows whose
 * bytes are known.  A compiler that contracts, reorders or flushes what it must not is refused
 * here. */
#include "cl.h"
#include <stdio.h>

enum { ROWS = 8, DIM = 64, COUNT = ROWS * DIM, TILE_MAX = COUNT * 4 };

/* SHA-256 of the tile, then of the decoded rows; tests/test_opencl.c derives them from the CPU. */
static const struct {
    uint32_t format;
    const char *digest;
} answers[] = {
    {AKV_I8, "24c92bbfed83100c86588294ae2357ebcc5206b61ae178c15d7591b640d168db"},
    {AKV_N4, "3293a1f348ea3010336c16a5bce9c70f3e1fb4b5d36e767cfd003520590590f0"},
};

/* Bits of the rows, from a fixed generator: 16 magnitudes, then what conversions trip over, then
 * values on the ties of a scale that is a power of two. */
void akv_cl_known_rows(uint32_t rows[ROWS * DIM])
{
    static const uint32_t special[] = {
        0x00000000u, 0x80000000u, 0x7FC00001u, 0x7F800000u, 0xFF800000u, 0x00000001u, 0x807FFFFFu,
        0x33800000u, 0x337FFFFFu, 0x7F7FFFFFu, 0x3F800000u, 0xBF800000u, 0x477FE000u, 0x71800001u};
    uint32_t state = 0x2545F491u;
    for (unsigned i = 0; i < COUNT; i++) {
        state = state * 1664525u + 1013904223u;
        rows[i] = (state & 0x807FFFFFu) | (120u + (state >> 28)) << 23;
    }
    memcpy(rows + DIM, special, sizeof special);
    for (unsigned i = 0; i < DIM; i++) {
        float tie = ((float)i - 31.5f) * 0x1p-6f;
        memcpy(&rows[2 * DIM + i], &tie, sizeof tie);
    }
}

const char *akv_cl_known_digest(uint32_t format)
{
    for (size_t i = 0; i < sizeof answers / sizeof *answers; i++)
        if (answers[i].format == format)
            return answers[i].digest;
    return "";
}

/* What comes back: outlives the queue, which may still write when a wait has failed. */
struct results {
    uint32_t rows[COUNT];
    uint8_t tile[TILE_MAX];
};

struct bench {
    struct akv_cl_device *device;
    struct results *results;
    struct akv_queue *queue;
    struct akv_mem *rows, *tile, *flags;
};

static struct akv_span whole(struct akv_mem *mem)
{
    return (struct akv_span){mem, 0, mem->bytes};
}

/* Encodes and decodes on the device; the digest is of what came back. */
static anykv_status answer(const struct bench *bench, uint32_t format, akv_digest *digest_out)
{
    uint32_t *rows = bench->results->rows, zero = 0;
    uint8_t *tile = bench->results->tile;
    akv_cl_known_rows(rows);
    akv_encode_params params = {.rows = {DIM, DIM, AKV_F32, 1},
                                .tokens = ROWS,
                                .dim = DIM,
                                .format = format,
                                .flags = AKV_FLAG_ROTATE | AKV_FLAG_SEARCH};
    struct akv_launch encode = {
        .kernel = AKV_K_ENCODE,
        .params = &params,
        .arg = {whole(bench->rows), whole(bench->tile), whole(bench->flags)}};
    struct akv_launch decode = {
        .kernel = AKV_K_DECODE, .params = &params, .arg = {whole(bench->tile), whole(bench->rows)}};
    struct akv_span used = {bench->tile, 0, akv_tile_bytes(format, ROWS, DIM)};
    anykv_status status = akv_cl_queue_put(bench->queue, whole(bench->rows), rows);
    if (status == ANYKV_OK)
        status = akv_cl_queue_put(bench->queue, whole(bench->flags), &zero);
    if (status == ANYKV_OK)
        status = akv_cl_kernel_launch(bench->queue, &encode);
    if (status == ANYKV_OK)
        status = akv_cl_queue_get(bench->queue, tile, used);
    if (status == ANYKV_OK)
        status = akv_cl_kernel_launch(bench->queue, &decode);
    if (status == ANYKV_OK)
        status = akv_cl_queue_get(bench->queue, rows, whole(bench->rows));
    if (status == ANYKV_OK)
        status = akv_cl_queue_wait(bench->queue, UINT64_MAX);
    if (status != ANYKV_OK)
        return status;
    akv_sha256 state;
    akv_sha256_init(&state);
    akv_sha256_update(&state, tile, used.bytes);
    akv_sha256_update(&state, rows, sizeof bench->results->rows);
    *digest_out = akv_sha256_final(&state);
    return ANYKV_OK;
}

static anykv_status compare(const struct bench *bench)
{
    for (size_t i = 0; i < sizeof answers / sizeof *answers; i++) {
        akv_digest digest;
        char text[65];
        anykv_status status = answer(bench, answers[i].format, &digest);
        if (status != ANYKV_OK)
            return status;
        for (size_t b = 0; b < sizeof digest.byte; b++)
            snprintf(text + 2 * b, 3, "%02x", digest.byte[b]);
        if (strcmp(text, answers[i].digest) != 0) {
            const char *name = anykv_format_name((anykv_format)answers[i].format);
            akv_log(bench->device->base.context, ANYKV_LOG_ERROR,
                    "opencl: %s is refused: its %s bytes are wrong (%.16s, not %.16s)",
                    bench->device->base.info.name, name, text, answers[i].digest);
            return akv_fail(
                bench->device->base.context, ANYKV_E_DEVICE,
                "device: %s fails the known-answer test of %s: its bytes differ from every "
                "other device's (%.16s, not %.16s)",
                bench->device->base.info.name, name, text, answers[i].digest);
        }
    }
    return ANYKV_OK;
}

anykv_status akv_cl_known_answers(struct akv_cl_device *device)
{
    struct bench bench = {.device = device};
    struct akv_device *base = &device->base;
    bench.results = akv_alloc(base->context, 1, sizeof *bench.results);
    if (!bench.results)
        return ANYKV_E_MEMORY;
    anykv_status status = akv_cl_queue_create(base, NULL, &bench.queue);
    if (status != ANYKV_OK)
        goto free_results;
    status = akv_cl_mem_alloc(base, COUNT * 4, AKV_MEM_DEVICE, &bench.rows);
    if (status != ANYKV_OK)
        goto destroy_queue;
    status = akv_cl_mem_alloc(base, TILE_MAX, AKV_MEM_DEVICE, &bench.tile);
    if (status != ANYKV_OK)
        goto free_rows;
    status = akv_cl_mem_alloc(base, 4, AKV_MEM_DEVICE, &bench.flags);
    if (status != ANYKV_OK)
        goto free_tile;
    status = compare(&bench);
    akv_cl_mem_free(bench.flags);
free_tile:
    akv_cl_mem_free(bench.tile);
free_rows:
    akv_cl_mem_free(bench.rows);
destroy_queue:
    akv_cl_queue_destroy(bench.queue);
free_results:
    akv_free(base->context, bench.results);
    return status;
}
