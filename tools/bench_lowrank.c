/* SPDX-License-Identifier: Apache-2.0 */
/* `anykv bench compress`: low rank between F16 rows and coefficients, as many as a call has on the
 * device at a time. project: rows to coefficients; multiply: the product alone, by the device's
 * library; expand: codes to rows, with the product.  What it takes is up to the data: `anykv eval
 * --compress` says. */
#include "bench_compress.h"
#include "../lib/kernel/lowrank.h"

enum { HEADS = 8, DIM = 128, WIDE = HEADS * DIM, TOKENS = (1 << 22) / WIDE };

struct work {
    struct bench_device *device;
    struct bench_copy copy; /* of F16 rows: copy.from is read, copy.to written */
    akv_lowrank_params params;
    akv_multiply_params product;
    struct akv_mem *matrix, *centre, *turns, *coefficients, *sums, *codes, *shifts;
};

static struct akv_span all(struct akv_mem *mem)
{
    return (struct akv_span){mem, 0, mem->bytes};
}

static anykv_status project(void *user, uint32_t loop)
{
    const struct work *w = user;
    struct akv_launch launch = {.kernel = AKV_K_LOWRANK_PROJECT, .params = &w->params};
    (void)loop;
    launch.arg[0] = all(w->copy.from);
    launch.arg[1] = all(w->matrix);
    launch.arg[2] = all(w->centre);
    launch.arg[3] = all(w->turns);
    launch.arg[4] = all(w->coefficients);
    return akv_kernel_launch(w->device->queue, &launch);
}

static anykv_status multiply(void *user, uint32_t loop)
{
    const struct work *w = user;
    struct akv_launch launch = {.kernel = AKV_K_MULTIPLY, .params = &w->product};
    (void)loop;
    launch.arg[0] = all(w->coefficients);
    launch.arg[1] = all(w->matrix);
    launch.arg[2] = all(w->sums);
    return akv_kernel_launch(w->device->queue, &launch);
}

static anykv_status expand(void *user, uint32_t loop)
{
    const struct work *w = user;
    struct akv_launch launch = {.kernel = AKV_K_LOWRANK_READ, .params = &w->params};
    launch.arg[0] = all(w->codes);
    launch.arg[1] = all(w->shifts);
    launch.arg[2] = all(w->coefficients);
    anykv_status status = akv_kernel_launch(w->device->queue, &launch);
    if (!status)
        status = multiply(user, loop);
    launch = (struct akv_launch){.kernel = AKV_K_LOWRANK_ROWS, .params = &w->params};
    launch.arg[0] = all(w->sums);
    launch.arg[1] = all(w->centre);
    launch.arg[2] = all(w->turns);
    launch.arg[3] = all(w->copy.to);
    return status ? status : akv_kernel_launch(w->device->queue, &launch);
}

static anykv_status fill(struct bench *b, struct work *w)
{
    float *x = akv_alloc(b->context, (size_t)TOKENS * WIDE, sizeof *x);
    uint8_t *bytes = akv_alloc(b->context, (size_t)TOKENS * WIDE, 2);
    uint64_t turns[DIM / 2];
    struct akv_queue *queue = w->device->queue;
    anykv_status status = x && bytes ? ANYKV_OK : ANYKV_E_MEMORY;
    if (!status) {
        compress_gauss(x, 1u << 18);
        for (uint32_t i = 1u << 18; i < TOKENS * WIDE; i++)
            x[i] = x[i - (1u << 18)];
        for (uint32_t i = 0; i < TOKENS * WIDE; i++)
            akv_store_bits(bytes, i, AKV_F16, akv_as_u32(x[i]));
        for (uint32_t i = 0; i < DIM / 2; i++)
            turns[i] = UINT64_C(0x9E3779B97F4A7C15) >> (i % 32u);
        status = akv_queue_put(queue, all(w->copy.from), bytes);
    }
    if (!status)
        status = akv_queue_put(queue, all(w->matrix), x);
    if (!status)
        status = akv_queue_put(queue, all(w->centre), bytes);
    if (!status)
        status = akv_queue_put(queue, all(w->turns), turns);
    for (uint32_t i = 0; i < TOKENS * WIDE && !status; i++)
        bytes[i] = (uint8_t)(int8_t)(x[i] * 8.0f);
    if (!status)
        status = akv_queue_put(queue, all(w->codes), bytes);
    if (!status)
        status = akv_queue_fill(queue, all(w->shifts), 1);
    if (!status) /* for whoever --filter leaves alone */
        status = expand(w, 0);
    anykv_status waited = akv_queue_wait(queue, UINT64_MAX);
    akv_free(b->context, x);
    akv_free(b->context, bytes);
    return status ? status : waited;
}

anykv_status compress_lowrank(struct bench *b, struct bench_device *device)
{
    static const char *const names[] = {"project", "multiply", "expand"};
    struct work w = {.device = device};
    if (!compress_wanted(b, device, names, 3, "LOWRANK", "memory"))
        return ANYKV_OK;
    w.params = (akv_lowrank_params){.tokens = TOKENS,
                                    .heads = HEADS,
                                    .dim = DIM,
                                    .columns = WIDE,
                                    .step = akv_as_u32(0.05f),
                                    .dtype = AKV_F16,
                                    .pairs = DIM / 2,
                                    .rope = AKV_ROPE_HALF};
    w.product = (akv_multiply_params){.m = TOKENS,
                                      .n = DIM,
                                      .k = DIM,
                                      .batch = HEADS,
                                      .lda = WIDE,
                                      .ldb = DIM,
                                      .ldc = WIDE,
                                      .a_step = DIM,
                                      .b_step = DIM * DIM,
                                      .c_step = DIM};
    const uint64_t bytes[] = {WIDE * DIM * 4,
                              WIDE * 2,
                              DIM / 2 * 8,
                              (uint64_t)TOKENS * WIDE * 4,
                              (uint64_t)TOKENS * WIDE * 4,
                              (uint64_t)TOKENS * WIDE,
                              WIDE};
    struct akv_mem **const mem[] = {&w.matrix, &w.centre, &w.turns, &w.coefficients,
                                    &w.sums,   &w.codes,  &w.shifts};
    anykv_status status = bench_copy_create(device, (uint64_t)TOKENS * WIDE * 2, &w.copy);
    if (status)
        return status;
    for (size_t i = 0; i < sizeof mem / sizeof *mem && !status; i++)
        status = akv_mem_alloc(device->device, bytes[i], AKV_MEM_DEVICE, mem[i]);
    if (!status)
        status = fill(b, &w);
    static const struct {
        const char *op;
        bench_work *work;
    } ops[] = {{"project", project}, {"multiply", multiply}, {"expand", expand}};
    for (size_t i = 0; i < sizeof ops / sizeof *ops && !status; i++) {
        const struct compress_row row = {device,    &w.copy,     ops[i].op,
                                         "LOWRANK", "memory",    (double)TOKENS * WIDE,
                                         0.0,       ops[i].work, &w};
        status = compress_measure(b, &row);
    }
    anykv_status waited = akv_queue_wait(device->queue, UINT64_MAX);
    bench_copy_destroy(&w.copy);
    for (size_t i = 0; i < sizeof mem / sizeof *mem; i++)
        akv_mem_free(*mem[i]);
    return status ? status : waited;
}
