/* SPDX-License-Identifier: Apache-2.0 */
/* One product on a device against double precision, for the suites of the libraries that do it. */
#ifndef TESTS_DENSE_CASE_H
#define TESTS_DENSE_CASE_H
#include "house.h"
#include "backends/backend.h"
#include <dlfcn.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

enum {
    DENSE_M = 21,
    DENSE_N = 48,
    DENSE_K = 32,
    DENSE_BATCH = 2,
    DENSE_LINE = DENSE_N * DENSE_BATCH
};

/* As low rank has them: products side by side.  c: [DENSE_M][DENSE_LINE]. */
static inline anykv_status dense_product(struct akv_device *device, struct akv_queue *queue,
                                         float *c)
{
    static float a[DENSE_M * DENSE_K * DENSE_BATCH], b[DENSE_BATCH * DENSE_K * DENSE_N];
    const akv_multiply_params p = {.m = DENSE_M,
                                   .n = DENSE_N,
                                   .k = DENSE_K,
                                   .batch = DENSE_BATCH,
                                   .lda = DENSE_K * DENSE_BATCH,
                                   .ldb = DENSE_N,
                                   .ldc = DENSE_LINE,
                                   .a_step = DENSE_K,
                                   .b_step = DENSE_K * DENSE_N,
                                   .c_step = DENSE_N};
    const uint64_t bytes[3] = {sizeof a, sizeof b, sizeof(float) * DENSE_M * DENSE_LINE};
    struct akv_launch launch = {.kernel = AKV_K_MULTIPLY, .params = &p};
    struct akv_mem *mem[3] = {NULL, NULL, NULL};
    anykv_status status = ANYKV_OK;
    for (int i = 0; i < DENSE_M * DENSE_K * DENSE_BATCH; i++)
        a[i] = (float)(i * 37 % 101 - 50) / 50.0f;
    for (int i = 0; i < DENSE_BATCH * DENSE_K * DENSE_N; i++)
        b[i] = (float)(i * 53 % 97 - 48) / 48.0f;
    for (int i = 0; i < 3 && !status; i++) {
        status = akv_mem_alloc(device, bytes[i] + 256, AKV_MEM_DEVICE, &mem[i]);
        launch.arg[i] = (struct akv_span){mem[i], 256, bytes[i]};
    }
    if (!status)
        status = akv_queue_put(queue, launch.arg[0], a);
    if (!status)
        status = akv_queue_put(queue, launch.arg[1], b);
    if (!status)
        status = akv_kernel_launch(queue, &launch);
    if (!status)
        status = akv_queue_get(queue, c, launch.arg[2]);
    const anykv_status waited = akv_queue_wait(queue, UINT64_MAX);
    for (int i = 0; i < 3; i++)
        akv_mem_free(mem[i]);
    status = status ? status : waited;
    for (int e = 0; e < DENSE_M * DENSE_LINE && !status; e++) {
        const int i = e / DENSE_LINE, q = e % DENSE_LINE / DENSE_N, j = e % DENSE_N;
        double sum = 0.0, size = 0.0;
        for (int l = 0; l < DENSE_K; l++) {
            const double one = (double)a[(i * DENSE_BATCH + q) * DENSE_K + l] *
                               (double)b[(q * DENSE_K + l) * DENSE_N + j];
            sum += one;
            size += fabs(one);
        }
        cr_assert(fabs(sum - (double)c[e]) <= 1.01 * DENSE_K * 0x1p-24 * size,
                  "element %d: %g, not %g", e, (double)c[e], sum);
    }
    return status;
}

/* The module of fake libraries, which the build makes beside the tests, and what it counts. */
static inline const char *dense_fake(const uint64_t **calls, const uint64_t **handles)
{
    static char path[512];
    const char *top = getenv("top_builddir");
    snprintf(path, sizeof path, "%s/tests/.libs/fake_dense.so", top ? top : ".");
    if (access(path, R_OK) != 0)
        cr_skip_test("the fake library is not built");
    void *library = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    cr_assert(library, "%s", dlerror());
    *calls = dlsym(library, "fake_dense_calls");
    *handles = dlsym(library, "fake_dense_handles");
    cr_assert(*calls && *handles);
    return path;
}

#endif
