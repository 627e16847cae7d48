/* SPDX-License-Identifier: Apache-2.0 */
/* Dense products by cuBLAS, opened at run time; where it is absent or fails, the backend's own
 * kernel. */
#include "cuda.h"
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>

enum {
    NO_TRANSPOSE = 0,
    PEDANTIC_MATH = 2
}; /* cublas_api.h; pedantic: f32 throughout, whatever the environment says */

struct cublas {
#define AKV_CUBLAS(field, name, params) int(*field) params;
#include "cublas.def"
#undef AKV_CUBLAS
};
static const struct {
    const char *name;
    size_t offset;
} symbols[] = {
#define AKV_CUBLAS(field, name, params) {name, offsetof(struct cublas, field)},
#include "cublas.def"
#undef AKV_CUBLAS
};

static pthread_once_t once = PTHREAD_ONCE_INIT;
static struct cublas table; /* guarded by `once`, as is what follows */
static bool found;
static char label[128] = "own kernel";

static bool load(const char *path)
{
    void *library = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    if (!library)
        return false;
    for (size_t i = 0; i < sizeof symbols / sizeof *symbols; i++) {
        void *address = dlsym(library, symbols[i].name);
        if (!address) {
            dlclose(library);
            return false;
        }
        memcpy((char *)&table + symbols[i].offset, &address, sizeof address);
    }
    found = true;
    snprintf(label, sizeof label, "%s", path);
    return true;
}

/* It calls the real driver, whose handles are not another library's: with ANYKV_CUDA_LIBRARY it
 * must be asked for by name. */
static void find(void)
{
    const char *path = getenv("ANYKV_CUBLAS_LIBRARY"), *other = getenv("ANYKV_CUDA_LIBRARY");
    if (path && *path) {
        if (strcmp(path, "none") != 0)
            load(path);
    } else if (!(other && *other) && !load("libcublas.so.13"))
        load("libcublas.so.12");
}

const char *akv_cuda_dense(void)
{
    pthread_once(&once, find);
    return label;
}

/* cuBLAS has columns behind columns: c' = b' * a' of the same bytes. */
static int multiply(struct akv_cuda_device *device, struct akv_cuda_queue *queue,
                    const struct akv_launch *launch)
{
    static const float one = 1.0f, zero = 0.0f;
    const akv_multiply_params *p = launch->params;
    int code = 0;
    if (!device->dense)
        code = table.create(&device->dense);
    if (!code)
        code = table.set_math(device->dense, PEDANTIC_MATH);
    if (!code)
        code = table.set_stream(device->dense, queue->stream);
    if (!code)
        code = table.sgemm(device->dense, NO_TRANSPOSE, NO_TRANSPOSE, (int)p->n, (int)p->m,
                           (int)p->k, &one, akv_cuda_address(launch->arg[1]), (int)p->ldb,
                           (long long)p->b_step, akv_cuda_address(launch->arg[0]), (int)p->lda,
                           (long long)p->a_step, &zero, akv_cuda_address(launch->arg[2]),
                           (int)p->ldc, (long long)p->c_step, (int)p->batch);
    return code;
}

bool akv_cuda_dense_multiply(struct akv_cuda_device *device, struct akv_cuda_queue *queue,
                             const struct akv_launch *launch)
{
    bool done = false;
    pthread_once(&once, find);
    if (!found || akv_cuda_enter(device) != ANYKV_OK)
        return false;
    akv_mutex_lock(&device->lock);
    if (!device->dense_failed) {
        const int code = multiply(device, queue, launch);
        done = code == 0;
        device->dense_failed = !done;
        if (code) /* c is written anew, whatever it did */
            akv_log(device->base.context, ANYKV_LOG_WARNING,
                    "%s on %s: error %d, from now on by our own kernel", label,
                    device->base.info.name, code);
    }
    akv_mutex_unlock(&device->lock);
    akv_cuda_leave(device);
    return done;
}

void akv_cuda_dense_close(struct akv_cuda_device *device)
{
    if (!device->dense || akv_cuda_enter(device) != ANYKV_OK)
        return;
    (void)table.destroy(device->dense);
    akv_cuda_leave(device);
}
