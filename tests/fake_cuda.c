/* SPDX-License-Identifier: Apache-2.0 */
/* A CUDA driver for tests, built as a module that the backend loads by ANYKV_CUDA_LIBRARY: two devices on
 * host memory, every function of driver.def, strict about handles, current contexts and ranges.
 *
 * FAKE_CUDA, read at each question, is one of "none" (no device), "old" (compute capability 7.0), "broken"
 * (does not start), "plain" (no code for the fast attention, little shared memory), "small" (as little of it as any card
 * has); unset: all is well. */
#include "fake_cuda.h"
#include <pthread.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define EXPORT __attribute__((visibility("default")))
#define DEVICES 2
#define DEPTH   16
#define INVALID_VALUE   1
#define INVALID_CONTEXT 201
#define INVALID_HANDLE  400

enum kind { CONTEXT, STREAM, EVENT, MODULE, FUNCTION, DEVICE_MEMORY, PINNED_MEMORY, GRAPH };
struct thing {
    enum kind kind;
    struct thing *next, *context;
    /* context */
    CUdevice device;
    uint32_t retained; /* primary */
    /* event */
    uint32_t pending;
    bool recorded;
    struct timespec passed;
    /* memory */
    uint8_t *bytes;
    size_t count;
    /* module, function */
    const uint8_t *image;
    struct thing *module;
    char name[64];
    int shared;
    /* stream: what it captures; graph, executable graph: launches in order */
    struct thing *capture;
    struct fake_cuda_launch *nodes[64];
    uint32_t node_count;
};
struct work {
    struct work *next;
    struct thing *event; /* record */
    uint8_t *to;
    const uint8_t *from; /* NULL: fill */
    uint8_t value;
    size_t count;
    struct fake_cuda_launch *launch;
};

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER; /* guards all that follows */
static struct thing *things;
static struct thing *primary[DEVICES];
static struct work *first, **last = &first;
static uint64_t calls, fail_number, lost, misused, pending;
static int fail_code, poisoned;
static bool deferred, stalled;
static const char *failed = "";
static char misuse[200];
static struct fake_cuda_launch *launches[1u << 16];
static uint64_t launch_count;
#if defined(FAKE_CUDA_ON_HOST) /* tests/cuda_host: kernels-cu itself */
uint32_t cuda_host_sizes(const char *name, size_t bytes[FAKE_CUDA_PARAMS]);
void cuda_host_run(const char *name, const unsigned *grid, const unsigned *block, unsigned shared,
                   void *const *param, uint32_t params);
static void host_run(const struct fake_cuda_launch *l)
{
    cuda_host_run(l->name, l->grid, l->block, l->shared, l->param, l->params);
}
static struct fake_cuda_kernels kernels = {cuda_host_sizes, host_run};
#else
static struct fake_cuda_kernels kernels;
#endif
static _Thread_local struct thing *stack[DEPTH];
static _Thread_local uint32_t depth;

static bool pose(const char *what)
{
    const char *now = getenv("FAKE_CUDA");
    return now && strcmp(now, what) == 0;
}

/* A call starts: the lock is taken, and the failure that it was told to report is returned. */
static CUresult begin(const char *name)
{
    pthread_mutex_lock(&lock);
    if (++calls == fail_number) {
        failed = name;
        return fail_code;
    }
    return strncmp(name, "cuCtx", 5) == 0 || strncmp(name, "cuDevice", 8) == 0 ? 0 : poisoned;
}
static CUresult end(CUresult code)
{
    pthread_mutex_unlock(&lock);
    return code;
}
/* The caller broke the driver's contract. */
static CUresult wrong(CUresult code, const char *function, const char *what)
{
    if (misused++ == 0)
        snprintf(misuse, sizeof misuse, "%s: %s", function, what);
    return code;
}

static struct thing *alive(const void *handle, enum kind kind)
{
    for (struct thing *t = things; t; t = t->next)
        if (t == handle && t->kind == kind)
            return t;
    return NULL;
}
static struct thing *make(enum kind kind)
{
    struct thing *t = calloc(1, sizeof *t);
    if (!t)
        abort();
    t->kind = kind;
    t->context = depth ? stack[depth - 1] : NULL;
    t->next = things;
    things = t;
    return t;
}
static void destroy(struct thing *thing)
{
    for (struct thing **at = &things; *at; at = &(*at)->next)
        if (*at == thing) {
            *at = thing->next;
            break;
        }
    free(thing->bytes);
    free(thing);
}
/* Is a live context current? */
static CUresult need_context(const char *name)
{
    if (depth == 0 || !alive(stack[depth - 1], CONTEXT))
        return wrong(INVALID_CONTEXT, name, "no context is current");
    return 0;
}
/* A live object of the current context. */
static CUresult need(const char *name, const void *handle, enum kind kind, struct thing **out)
{
    CUresult code = need_context(name);
    if (code)
        return code;
    *out = alive(handle, kind);
    if (!*out)
        return wrong(INVALID_HANDLE, name, "not a live handle of this kind");
    if ((*out)->context != stack[depth - 1])
        return wrong(INVALID_HANDLE, name, "handle of another context than the current one");
    return 0;
}
/* NULL is the current context's own stream. */
static CUresult need_stream(const char *name, CUstream stream)
{
    struct thing *t;
    CUresult code = stream ? need(name, stream, STREAM, &t) : need_context(name);
    if (!code && stream && t->capture && strcmp(name, "cuLaunchKernel") != 0)
        code = wrong(900, name, "the stream is captured"); /* so far as this fake goes */
    return code;
}
static bool inside(enum kind kind, uintptr_t address, size_t count)
{
    for (struct thing *t = things; t; t = t->next)
        if (t->kind == kind && address >= (uintptr_t)t->bytes &&
            address - (uintptr_t)t->bytes <= t->count && count <= t->count - (address - (uintptr_t)t->bytes))
            return true;
    return false;
}
static bool reachable(CUdeviceptr address, size_t count)
{
    return inside(DEVICE_MEMORY, (uintptr_t)address, count) || inside(PINNED_MEMORY, (uintptr_t)address, count);
}

/* ---- asynchronous work: one order for all streams, which every order of events allows ---- */

static void carry_out(struct work *work)
{
    if (work->event) {
        work->event->pending--;
        clock_gettime(CLOCK_MONOTONIC, &work->event->passed);
    } else if (work->launch) {
        if (kernels.run)
            kernels.run(work->launch);
    } else if (work->from) {
        memmove(work->to, work->from, work->count);
    } else {
        memset(work->to, work->value, work->count);
    }
}
static void one(void)
{
    struct work *work = first;
    if (!work)
        return;
    first = work->next;
    if (!first)
        last = &first;
    pending--;
    carry_out(work);
    free(work);
}
static void drain(void)
{
    while (first)
        one();
}
static void enqueue(struct work work)
{
    struct work *copy = malloc(sizeof *copy);
    if (!copy)
        abort();
    *copy = work;
    copy->next = NULL;
    *last = copy;
    last = &copy->next;
    pending++;
    if (!deferred)
        drain();
}

/* ---- driver and devices ---- */

EXPORT CUresult cuInit(unsigned flags)
{
    (void)flags;
    CUresult code = begin(__func__);
    return end(code ? code : pose("broken") ? 803 : 0);
}
EXPORT CUresult cuDriverGetVersion(int *version)
{
    CUresult code = begin(__func__);
    *version = 13000;
    return end(code);
}
EXPORT CUresult cuGetErrorName(CUresult code, const char **text)
{
    *text = code == 1     ? "CUDA_ERROR_INVALID_VALUE"
            : code == 2   ? "CUDA_ERROR_OUT_OF_MEMORY"
            : code == 700 ? "CUDA_ERROR_ILLEGAL_ADDRESS"
            : code == 803 ? "CUDA_ERROR_SYSTEM_DRIVER_MISMATCH"
                          : NULL;
    return *text ? 0 : INVALID_VALUE;
}
EXPORT CUresult cuGetErrorString(CUresult code, const char **text)
{
    *text = code == 2 ? "out of memory" : code == 700 ? "an illegal memory access was encountered" : NULL;
    return *text ? 0 : INVALID_VALUE;
}
EXPORT CUresult cuDeviceGetCount(int *count)
{
    CUresult code = begin(__func__);
    if (!code)
        *count = pose("none") ? 0 : DEVICES;
    return end(code);
}
EXPORT CUresult cuDeviceGet(CUdevice *device, int ordinal)
{
    CUresult code = begin(__func__);
    if (!code && (ordinal < 0 || ordinal >= DEVICES))
        code = wrong(101, __func__, "no such device");
    if (!code)
        *device = ordinal;
    return end(code);
}
EXPORT CUresult cuDeviceGetName(char *name, int bytes, CUdevice device)
{
    CUresult code = begin(__func__);
    if (!code)
        snprintf(name, (size_t)bytes, "Fake card %d", device);
    return end(code);
}
EXPORT CUresult cuDeviceGetUuid(struct akv_cu_uuid *uuid, CUdevice device)
{
    CUresult code = begin(__func__);
    if (!code)
        memset(uuid->bytes, 0xA0 + device, sizeof uuid->bytes);
    return end(code);
}
EXPORT CUresult cuDeviceTotalMem_v2(size_t *bytes, CUdevice device)
{
    CUresult code = begin(__func__);
    (void)device;
    if (!code)
        *bytes = (size_t)1 << 30;
    return end(code);
}
EXPORT CUresult cuDeviceGetAttribute(int *value, int attribute, CUdevice device)
{
    CUresult code = begin(__func__);
    (void)device;
    if (!code)
        switch (attribute) {
        case AKV_CU_ATTR_SM_COUNT:
            *value = 132;
            break;
        case AKV_CU_ATTR_MAJOR:
            *value = pose("old") ? 7 : 9;
            break;
        case AKV_CU_ATTR_MINOR:
            *value = 0;
            break;
        case AKV_CU_ATTR_SHARED_OPTIN:
            *value = (pose("plain") ? 99 : pose("small") ? 64 : 227) * 1024;
            break;
        default:
            code = wrong(INVALID_VALUE, __func__, "unknown attribute");
        }
    return end(code);
}

/* ---- contexts ---- */

EXPORT CUresult cuDevicePrimaryCtxRetain(CUcontext *context, CUdevice device)
{
    CUresult code = begin(__func__);
    if (!code) {
        if (!primary[device]) {
            primary[device] = make(CONTEXT);
            primary[device]->device = device;
        }
        primary[device]->retained++;
        *context = (CUcontext)(void *)primary[device];
    }
    return end(code);
}
EXPORT CUresult cuDevicePrimaryCtxRelease_v2(CUdevice device)
{
    CUresult code = begin(__func__);
    struct thing *context = primary[device];
    if (!context)
        return end(wrong(INVALID_CONTEXT, __func__, "not retained"));
    if (--context->retained == 0) {
        drain();
        for (struct thing *t = things, *next; t; t = next) { /* all that was made in it goes with it */
            next = t->next;
            if (t->context == context && t->kind != CONTEXT) {
                lost += t->kind != FUNCTION;
                destroy(t);
            }
        }
        destroy(context);
        primary[device] = NULL;
    }
    return end(code);
}
/* A context that cannot be entered has gone, and its unfinished work with it. */
static void drop_work(void)
{
    while (first) {
        struct work *work = first;
        first = work->next;
        if (work->event)
            work->event->pending--;
        free(work);
    }
    last = &first;
    pending = 0;
}
EXPORT CUresult cuCtxPushCurrent_v2(CUcontext context)
{
    CUresult code = begin(__func__);
    if (code)
        drop_work();
    if (!code && !alive(context, CONTEXT))
        code = wrong(INVALID_CONTEXT, __func__, "not a live context");
    if (!code && depth == DEPTH)
        code = wrong(INVALID_VALUE, __func__, "too deep");
    if (!code)
        stack[depth++] = (struct thing *)(void *)context;
    return end(code);
}
EXPORT CUresult cuCtxPopCurrent_v2(CUcontext *context)
{
    CUresult code = begin(__func__);
    if (depth == 0)
        return end(wrong(INVALID_CONTEXT, __func__, "nothing to pop"));
    *context = (CUcontext)(void *)stack[--depth];
    return end(code);
}
EXPORT CUresult cuCtxGetCurrent(CUcontext *context)
{
    CUresult code = begin(__func__);
    if (!code)
        *context = depth ? (CUcontext)(void *)stack[depth - 1] : NULL;
    return end(code);
}
EXPORT CUresult cuCtxGetDevice(CUdevice *device)
{
    CUresult code = begin(__func__);
    if (!code)
        code = need_context(__func__);
    if (!code)
        *device = stack[depth - 1]->device;
    return end(code);
}

/* ---- memory ---- */

EXPORT CUresult cuMemGetInfo_v2(size_t *unused, size_t *total)
{
    CUresult code = begin(__func__);
    if (!code)
        code = need_context(__func__);
    *total = (size_t)1 << 30;
    *unused = *total;
    for (struct thing *t = things; t; t = t->next)
        if (t->kind == DEVICE_MEMORY)
            *unused -= t->count < *unused ? t->count : *unused;
    return end(code);
}
/* New memory is not zero. */
static CUresult take(const char *name, enum kind kind, size_t bytes, void **out)
{
    CUresult code = begin(name);
    if (!code)
        code = need_context(name);
    if (!code && bytes == 0)
        code = wrong(INVALID_VALUE, name, "0 bytes");
    if (!code && bytes > (size_t)1 << 30)
        code = AKV_CU_OUT_OF_MEMORY;
    if (code)
        return end(code);
    struct thing *t = make(kind);
    t->count = bytes;
    t->bytes = aligned_alloc(256, (bytes + 255) & ~(size_t)255);
    if (!t->bytes)
        abort();
    memset(t->bytes, 0xCC, bytes);
    *out = t->bytes;
    return end(0);
}
/* Waits for work that may use it, as the driver does. */
static CUresult give(const char *name, enum kind kind, const void *bytes)
{
    CUresult code = begin(name), here = need_context(name);
    drain();
    for (struct thing *t = things; t; t = t->next)
        if (t->kind == kind && t->bytes == bytes) {
            destroy(t);
            return end(code ? code : here);
        }
    return end(wrong(INVALID_VALUE, name, "not the start of memory of this kind"));
}
EXPORT CUresult cuMemAlloc_v2(CUdeviceptr *pointer, size_t bytes)
{
    void *address = NULL;
    CUresult code = take(__func__, DEVICE_MEMORY, bytes, &address);
    *pointer = (CUdeviceptr)(uintptr_t)address;
    return code;
}
EXPORT CUresult cuMemFree_v2(CUdeviceptr pointer)
{
    return give(__func__, DEVICE_MEMORY, (const void *)(uintptr_t)pointer);
}
EXPORT CUresult cuMemHostAlloc(void **pointer, size_t bytes, unsigned flags)
{
    (void)flags;
    return take(__func__, PINNED_MEMORY, bytes, pointer);
}
EXPORT CUresult cuMemFreeHost(void *pointer)
{
    return give(__func__, PINNED_MEMORY, pointer);
}
EXPORT CUresult cuMemcpyHtoDAsync_v2(CUdeviceptr dst, const void *src, size_t bytes, CUstream stream)
{
    CUresult code = begin(__func__);
    if (!code)
        code = need_stream(__func__, stream);
    if (!code && !reachable(dst, bytes))
        code = wrong(INVALID_VALUE, __func__, "destination outside device memory");
    if (!code && !inside(PINNED_MEMORY, (uintptr_t)src, bytes))
        code = wrong(INVALID_VALUE, __func__, "the source is not pinned: the copy would wait");
    if (!code)
        enqueue((struct work){.to = (uint8_t *)(uintptr_t)dst, .from = src, .count = bytes});
    return end(code);
}
EXPORT CUresult cuMemcpyDtoHAsync_v2(void *dst, CUdeviceptr src, size_t bytes, CUstream stream)
{
    CUresult code = begin(__func__);
    if (!code)
        code = need_stream(__func__, stream);
    if (!code && !reachable(src, bytes))
        code = wrong(INVALID_VALUE, __func__, "source outside device memory");
    if (!code)
        enqueue((struct work){.to = dst, .from = (const uint8_t *)(uintptr_t)src, .count = bytes});
    return end(code);
}
EXPORT CUresult cuMemcpyAsync(CUdeviceptr dst, CUdeviceptr src, size_t bytes, CUstream stream)
{
    CUresult code = begin(__func__);
    if (!code)
        code = need_stream(__func__, stream);
    if (!code && (!reachable(src, bytes) || !reachable(dst, bytes)))
        code = wrong(INVALID_VALUE, __func__, "outside device memory");
    if (!code)
        enqueue((struct work){.to = (uint8_t *)(uintptr_t)dst,
                              .from = (const uint8_t *)(uintptr_t)src,
                              .count = bytes});
    return end(code);
}
EXPORT CUresult cuMemsetD8Async(CUdeviceptr dst, unsigned char value, size_t bytes, CUstream stream)
{
    CUresult code = begin(__func__);
    if (!code)
        code = need_stream(__func__, stream);
    if (!code && !reachable(dst, bytes))
        code = wrong(INVALID_VALUE, __func__, "outside device memory");
    if (!code)
        enqueue((struct work){.to = (uint8_t *)(uintptr_t)dst, .value = value, .count = bytes});
    return end(code);
}

/* ---- streams and events ---- */

EXPORT CUresult cuStreamCreate(CUstream *stream, unsigned flags)
{
    CUresult code = begin(__func__);
    (void)flags;
    if (!code)
        code = need_context(__func__);
    if (!code)
        *stream = (CUstream)(void *)make(STREAM);
    return end(code);
}
static CUresult release(const char *name, const void *handle, enum kind kind)
{
    struct thing *t;
    CUresult code = begin(name), here = need(name, handle, kind, &t);
    drain();
    if (!here)
        destroy(t);
    return end(code ? code : here);
}
EXPORT CUresult cuStreamDestroy_v2(CUstream stream)
{
    return release(__func__, stream, STREAM);
}
static CUresult asked(void)
{
    if (stalled)
        return first ? AKV_CU_NOT_READY : 0;
    one();
    return first ? AKV_CU_NOT_READY : 0;
}
EXPORT CUresult cuStreamQuery(CUstream stream)
{
    CUresult code = begin(__func__);
    if (!code)
        code = need_stream(__func__, stream);
    return end(code ? code : asked());
}
EXPORT CUresult cuStreamSynchronize(CUstream stream)
{
    CUresult code = begin(__func__), here = need_stream(__func__, stream);
    drain();
    return end(code ? code : here);
}
EXPORT CUresult cuStreamWaitEvent(CUstream stream, CUevent event, unsigned flags)
{
    CUresult code = begin(__func__);
    struct thing *t;
    (void)flags;
    if (!code)
        code = need_stream(__func__, stream);
    if (!code)
        code = need(__func__, event, EVENT, &t);
    return end(code);
}
EXPORT CUresult cuEventCreate(CUevent *event, unsigned flags)
{
    CUresult code = begin(__func__);
    (void)flags;
    if (!code)
        code = need_context(__func__);
    if (!code)
        *event = (CUevent)(void *)make(EVENT);
    return end(code);
}
EXPORT CUresult cuEventDestroy_v2(CUevent event)
{
    return release(__func__, event, EVENT);
}
EXPORT CUresult cuEventRecord(CUevent event, CUstream stream)
{
    CUresult code = begin(__func__);
    struct thing *t;
    if (!code)
        code = need_stream(__func__, stream);
    if (!code)
        code = need(__func__, event, EVENT, &t);
    if (!code) {
        t->recorded = true;
        t->pending++;
        enqueue((struct work){.event = t});
    }
    return end(code);
}
EXPORT CUresult cuEventQuery(CUevent event)
{
    CUresult code = begin(__func__);
    struct thing *t;
    if (!code)
        code = need(__func__, event, EVENT, &t);
    if (!code && t->pending) {
        (void)asked();
        code = t->pending ? AKV_CU_NOT_READY : 0;
    }
    return end(code);
}
EXPORT CUresult cuEventSynchronize(CUevent event)
{
    CUresult code = begin(__func__);
    struct thing *t = NULL;
    CUresult here = need(__func__, event, EVENT, &t);
    while (t && t->pending)
        one();
    return end(code ? code : here);
}
EXPORT CUresult cuEventElapsedTime(float *ms, CUevent from, CUevent to)
{
    CUresult code = begin(__func__);
    struct thing *a, *b;
    if (!code)
        code = need(__func__, from, EVENT, &a);
    if (!code)
        code = need(__func__, to, EVENT, &b);
    if (!code && (!a->recorded || !b->recorded))
        code = INVALID_HANDLE;
    if (!code && (a->pending || b->pending))
        code = AKV_CU_NOT_READY;
    if (!code)
        *ms = (float)((double)(b->passed.tv_sec - a->passed.tv_sec) * 1e3 +
                      (double)(b->passed.tv_nsec - a->passed.tv_nsec) * 1e-6);
    return end(code);
}

/* ---- modules and launches ---- */

#define FATBIN 0xBA55ED50u
static bool is_ptx(const void *image)
{
    return strncmp(image, ".version", 8) == 0 || strncmp(image, "//", 2) == 0;
}
EXPORT CUresult cuModuleLoadData(CUmodule *module, const void *image)
{
    CUresult code = begin(__func__);
    uint32_t magic;
    memcpy(&magic, image, sizeof magic);
    if (!code)
        code = need_context(__func__);
    if (!code && magic != FATBIN && !is_ptx(image))
        code = wrong(200, __func__, "neither a fat binary nor PTX");
    if (!code) {
        struct thing *t = make(MODULE);
        t->image = image;
        *module = (CUmodule)(void *)t;
    }
    return end(code);
}
EXPORT CUresult cuModuleUnload(CUmodule module)
{
    struct thing *t;
    CUresult code = begin(__func__), here = need(__func__, module, MODULE, &t);
    drain();
    if (!here) {
        for (struct thing *f = things, *next; f; f = next) { /* its functions go with it */
            next = f->next;
            if (f->kind == FUNCTION && f->module == t)
                destroy(f);
        }
        destroy(t);
    }
    return end(code ? code : here);
}
/* Is there an entry of this name in the image?  Where the names cannot be read (compressed), yes. */
static bool names(const uint8_t *image, const char *name)
{
    static const char section[] = ".text.akv_k_";
    if (is_ptx(image)) /* a build by clang, in which some images are empty */
        return true;
    uint16_t head;
    uint64_t body;
    char wanted[80];
    memcpy(&head, image + 6, sizeof head);
    memcpy(&body, image + 8, sizeof body);
    size_t bytes = (size_t)(head + body), length = (size_t)snprintf(wanted, sizeof wanted, ".text.%s", name) + 1;
    bool readable = false;
    for (size_t i = 0; i + length <= bytes; i++) {
        const uint8_t *at = memchr(image + i, '.', bytes - length - i + 1);
        if (!at)
            break;
        i = (size_t)(at - image);
        readable |= memcmp(at, section, sizeof section - 1) == 0;
        if (memcmp(at, wanted, length) == 0)
            return true;
    }
    return !readable;
}
EXPORT CUresult cuModuleGetFunction(CUfunction *function, CUmodule module, const char *name)
{
    CUresult code = begin(__func__);
    struct thing *t = NULL;
    if (!code)
        code = need(__func__, module, MODULE, &t);
    bool special = strncmp(name, "akv_k_attend_", 13) == 0 || strncmp(name, "akv_k_prefill_", 14) == 0;
    if (!code && pose("plain") && special)
        code = AKV_CU_NOT_FOUND;
    if (!code && !names(t->image, name))
        code = wrong(AKV_CU_NOT_FOUND, name, "the image has no such entry");
    if (!code) {
        struct thing *f = make(FUNCTION);
        f->module = t;
        snprintf(f->name, sizeof f->name, "%s", name);
        *function = (CUfunction)(void *)f;
    }
    return end(code);
}
/* Bytes of shared memory that a kernel has besides those of the launch. */
static int static_shared(const struct thing *function)
{
    return strstr(function->name, "prefill") ? 2048 : 1024;
}
EXPORT CUresult cuFuncGetAttribute(int *value_out, int attribute, CUfunction function)
{
    CUresult code = begin(__func__);
    struct thing *t;
    if (!code)
        code = need(__func__, function, FUNCTION, &t);
    if (!code && attribute != AKV_CU_FUNC_STATIC_SHARED)
        code = wrong(INVALID_VALUE, __func__, "attribute that the fake lacks");
    if (!code)
        *value_out = static_shared(t);
    return end(code);
}
EXPORT CUresult cuFuncSetAttribute(CUfunction function, int attribute, int value)
{
    CUresult code = begin(__func__);
    struct thing *t;
    if (!code)
        code = need(__func__, function, FUNCTION, &t);
    if (!code && (attribute != AKV_CU_FUNC_DYNAMIC_SHARED || value < 0 ||
                  value + static_shared(t) > (pose("plain") ? 99 : 227) * 1024))
        code = wrong(INVALID_VALUE, __func__, "attribute beyond the device");
    if (!code)
        t->shared = value;
    return end(code);
}
EXPORT CUresult cuLaunchKernel(CUfunction function, unsigned gx, unsigned gy, unsigned gz, unsigned bx,
                               unsigned by, unsigned bz, unsigned shared_bytes, CUstream stream,
                               void **params, void **extra)
{
    CUresult code = begin(__func__);
    struct thing *t;
    size_t bytes[FAKE_CUDA_PARAMS] = {0};
    if (!code)
        code = need_stream(__func__, stream);
    if (!code)
        code = need(__func__, function, FUNCTION, &t);
    if (!code && (gx == 0 || gy == 0 || gz == 0 || gx > 0x7FFFFFFFu || gy > 65535u || gz > 65535u ||
                  bx == 0 || by == 0 || bz == 0 || (uint64_t)bx * by * bz > 1024u || bz > 64u))
        code = wrong(INVALID_VALUE, __func__, "grid or block beyond the device");
    if (!code && shared_bytes > (t->shared > 48 * 1024 ? (unsigned)t->shared : 48u * 1024u))
        code = wrong(INVALID_VALUE, __func__, "more shared memory than was asked for");
    if (!code && extra)
        code = wrong(INVALID_VALUE, __func__, "extra");
    uint32_t count = code || !kernels.sizes ? 0 : kernels.sizes(t->name, bytes);
    if (!code && count == 0)
        code = wrong(AKV_CU_NOT_FOUND, t->name, "a name that means no kernel");
    if (!code && launch_count == sizeof launches / sizeof *launches)
        code = wrong(INVALID_VALUE, __func__, "more launches than the fake remembers");
    if (code)
        return end(code);
    struct fake_cuda_launch *launch = calloc(1, sizeof *launch);
    if (!launch)
        abort();
    memcpy(launch->name, t->name, sizeof launch->name);
    memcpy(launch->grid, (unsigned[]){gx, gy, gz}, sizeof launch->grid);
    memcpy(launch->block, (unsigned[]){bx, by, bz}, sizeof launch->block);
    launch->shared = shared_bytes;
    launch->stream = stream;
    launch->params = count;
    for (uint32_t i = 0; i < count; i++) {
        launch->param[i] = malloc(bytes[i]);
        if (!launch->param[i])
            abort();
        memcpy(launch->param[i], params[i], bytes[i]);
    }
    launches[launch_count++] = launch;
    struct thing *graph = stream ? ((struct thing *)(void *)stream)->capture : NULL;
    if (!graph) {
        enqueue((struct work){.launch = launch});
    } else if (graph->node_count < sizeof graph->nodes / sizeof *graph->nodes) {
        graph->nodes[graph->node_count++] = launch;
    } else {
        code = wrong(INVALID_VALUE, __func__, "more launches than a graph of the fake holds");
    }
    return end(code);
}

/* ---- graphs of kernel launches, for tests; the backend itself captures nothing ---- */

EXPORT CUresult cuStreamBeginCapture_v2(CUstream stream, int mode)
{
    CUresult code = begin(__func__);
    (void)mode;
    if (!code && !stream)
        code = wrong(INVALID_VALUE, __func__, "the default stream cannot be captured");
    if (!code)
        code = need_stream(__func__, stream);
    if (!code)
        ((struct thing *)(void *)stream)->capture = make(GRAPH);
    return end(code);
}
EXPORT CUresult cuStreamEndCapture(CUstream stream, void **graph)
{
    CUresult code = begin(__func__);
    struct thing *t;
    if (!code)
        code = need(__func__, stream, STREAM, &t);
    if (!code && !t->capture)
        code = wrong(INVALID_VALUE, __func__, "nothing is captured");
    if (!code) {
        *graph = t->capture;
        t->capture = NULL;
    }
    return end(code);
}
EXPORT CUresult cuGraphInstantiateWithFlags(void **executable, void *graph, unsigned long long flags)
{
    CUresult code = begin(__func__);
    struct thing *t;
    (void)flags;
    if (!code)
        code = need(__func__, graph, GRAPH, &t);
    if (!code) {
        struct thing *copy = make(GRAPH);
        memcpy(copy->nodes, t->nodes, sizeof t->nodes);
        copy->node_count = t->node_count;
        *executable = copy;
    }
    return end(code);
}
EXPORT CUresult cuGraphLaunch(void *executable, CUstream stream)
{
    CUresult code = begin(__func__);
    struct thing *t;
    if (!code)
        code = need_stream(__func__, stream);
    if (!code)
        code = need(__func__, executable, GRAPH, &t);
    for (uint32_t i = 0; !code && i < t->node_count; i++)
        enqueue((struct work){.launch = t->nodes[i]});
    return end(code);
}
static CUresult destroy_graph(const char *name, void *graph)
{
    CUresult code = begin(name);
    struct thing *t;
    CUresult here = need(name, graph, GRAPH, &t);
    drain();
    if (!here)
        destroy(t);
    return end(code ? code : here);
}
EXPORT CUresult cuGraphDestroy(void *graph)
{
    return destroy_graph(__func__, graph);
}
EXPORT CUresult cuGraphExecDestroy(void *executable)
{
    return destroy_graph(__func__, executable);
}

/* ---- the test's side ---- */

static void fake_fail_at(uint64_t n, int code)
{
    pthread_mutex_lock(&lock);
    calls = 0;
    fail_number = n;
    fail_code = code;
    failed = "";
    pthread_mutex_unlock(&lock);
}
static void fake_reset(void)
{
    fake_fail_at(0, 0);
    pthread_mutex_lock(&lock);
    drain();
    deferred = stalled = false;
    poisoned = 0;
    lost = misused = 0;
    misuse[0] = 0;
    while (launch_count > 0) {
        struct fake_cuda_launch *launch = launches[--launch_count];
        for (uint32_t i = 0; i < launch->params; i++)
            free(launch->param[i]);
        free(launch);
    }
    pthread_mutex_unlock(&lock);
}
static void fake_kernels(const struct fake_cuda_kernels *given)
{
    kernels = *given;
}
static uint64_t fake_calls(void)
{
    return calls;
}
static const char *fake_failed(void)
{
    return failed;
}
static void fake_defer(int on)
{
    deferred = on;
}
static void fake_stall(int on)
{
    stalled = on;
}
static void fake_poison(int code)
{
    poisoned = code;
}
static CUcontext fake_context(CUdevice device)
{
    pthread_mutex_lock(&lock);
    struct thing *t = make(CONTEXT);
    t->device = device;
    t->context = NULL;
    pthread_mutex_unlock(&lock);
    return (CUcontext)(void *)t;
}
static void fake_context_free(CUcontext context)
{
    pthread_mutex_lock(&lock);
    struct thing *t = alive(context, CONTEXT);
    if (!t)
        (void)wrong(INVALID_CONTEXT, __func__, "not a live context");
    else
        destroy(t);
    pthread_mutex_unlock(&lock);
}
static const struct fake_cuda_launch *fake_launch(uint64_t index)
{
    return index < launch_count ? launches[index] : NULL;
}
static void fake_state(struct fake_cuda_state *state)
{
    pthread_mutex_lock(&lock);
    *state = (struct fake_cuda_state){.lost = lost,
                                      .pending = pending,
                                      .launches = launch_count,
                                      .stack = depth,
                                      .misused = misused};
    for (struct thing *t = things; t; t = t->next) {
        state->contexts += t->kind == CONTEXT;
        state->retained += t->kind == CONTEXT ? t->retained : 0;
        state->streams += t->kind == STREAM;
        state->events += t->kind == EVENT;
        state->modules += t->kind == MODULE;
        state->device_memory += t->kind == DEVICE_MEMORY;
        state->pinned_memory += t->kind == PINNED_MEMORY;
    }
    memcpy(state->misuse, misuse, sizeof misuse);
    pthread_mutex_unlock(&lock);
}

EXPORT const struct fake_cuda *fake_cuda(void)
{
    static const struct fake_cuda control = {
        .reset = fake_reset,     .kernels = fake_kernels,           .fail_at = fake_fail_at,
        .calls = fake_calls,     .failed = fake_failed,             .defer = fake_defer,
        .stall = fake_stall,     .poison = fake_poison,             .context = fake_context,
        .context_free = fake_context_free, .launch = fake_launch,   .state = fake_state,
    };
    return &control;
}
