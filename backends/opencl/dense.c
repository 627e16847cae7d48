/* SPDX-License-Identifier: Apache-2.0 */
/* Dense products by CLBlast, opened at run time; where it is absent or fails, the backend's own
 * kernel. */
#include "cl.h"
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>

enum { ROW_MAJOR = 101, NO_TRANSPOSE = 111 }; /* clblast_c.h */

struct clblast {
#define AKV_CLBLAST(field, name, params) int(*field) params;
#include "clblast.def"
#undef AKV_CLBLAST
};
static const struct {
    const char *name;
    size_t offset;
} symbols[] = {
#define AKV_CLBLAST(field, name, params) {name, offsetof(struct clblast, field)},
#include "clblast.def"
#undef AKV_CLBLAST
};

static pthread_once_t once = PTHREAD_ONCE_INIT;
static struct clblast table; /* guarded by `once`, as is what follows */
static bool found;
static char label[128] = "own kernel";

/* It calls libOpenCL.so.1, whose handles are not another library's: with ANYKV_OPENCL_LIBRARY it
 * must be asked for by name. */
static void find(void)
{
    const char *path = getenv("ANYKV_CLBLAST_LIBRARY"), *other = getenv("ANYKV_OPENCL_LIBRARY");
    if (!path || !*path)
        path = other && *other ? "none" : "libclblast.so.1";
    void *library = strcmp(path, "none") == 0 ? NULL : dlopen(path, RTLD_NOW | RTLD_LOCAL);
    if (!library)
        return;
    for (size_t i = 0; i < sizeof symbols / sizeof *symbols; i++) {
        void *address = dlsym(library, symbols[i].name);
        if (!address) {
            dlclose(library);
            return;
        }
        memcpy((char *)&table + symbols[i].offset, &address, sizeof address);
    }
    found = true;
    snprintf(label, sizeof label, "%s", path);
}

const char *akv_cl_dense(void)
{
    pthread_once(&once, find);
    return label;
}

bool akv_cl_dense_multiply(struct akv_cl_device *device, struct akv_cl_queue *queue,
                           const struct akv_launch *launch)
{
    const akv_multiply_params *p = launch->params;
    const struct akv_span *arg = launch->arg;
    cl_mem mem[3];
    size_t at[3];
    pthread_once(&once, find);
    if (!found || atomic_load(&device->dense) == AKV_CL_DENSE_FAILED)
        return false;
    for (uint32_t i = 0; i < 3; i++) {
        mem[i] = akv_cl_mem(arg[i].mem)->buffer;
        at[i] = (size_t)(arg[i].offset / sizeof(float));
    }
    const int code =
        table.sgemm(ROW_MAJOR, NO_TRANSPOSE, NO_TRANSPOSE, p->m, p->n, p->k, 1.0f, mem[0], at[0],
                    p->lda, (size_t)p->a_step, mem[1], at[1], p->ldb, (size_t)p->b_step, 0.0f,
                    mem[2], at[2], p->ldc, (size_t)p->c_step, p->batch, &queue->queue, NULL);
    atomic_store(&device->dense, code ? AKV_CL_DENSE_FAILED : AKV_CL_DENSE_USED);
    if (code) /* c is written anew, whatever it did */
        akv_log(device->base.context, ANYKV_LOG_WARNING,
                "%s on %s: error %d, from now on by our own kernel", label, device->base.info.name,
                code);
    return code == 0;
}

/* Its programs hold the context, for the life of the process if nobody tells it. */
void akv_cl_dense_close(struct akv_cl_device *device)
{
    if (atomic_load(&device->dense) != AKV_CL_DENSE_UNUSED)
        (void)table.clear_cache();
}
