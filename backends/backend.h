/* SPDX-License-Identifier: Apache-2.0 */
/* The backend table: what a device can do, as one record of functions.  The engine calls only the
 * checked wrappers (akv_backend_*, backend.c); backends therefore hold no argument checks. */
#ifndef AKV_BACKEND_H
#define AKV_BACKEND_H
#include "../lib/anykv.h"
#include "../lib/internal.h"
#include "../lib/kernel/params.h"
#include <stdatomic.h>

#define AKV_BACKEND_ABI 1u

enum akv_kernel_id {
#define AKV_KERNEL(ID, family, name, class_, arguments) AKV_K_##ID,
#include "../lib/kernel/kernels.def"
#undef AKV_KERNEL
    AKV_KERNEL_COUNT
};
enum akv_kernel_class { AKV_CLASS_EXACT, AKV_CLASS_BOUNDED };
struct akv_kernel_info {
    const char *name;   /* id in kernels.def, lower case */
    const char *family;
    enum akv_kernel_class class_;
    uint32_t arguments;
    size_t params_bytes;
};
extern const struct akv_kernel_info akv_kernels[AKV_KERNEL_COUNT]; /* backend.c */

#define AKV_MAX_ARGS 8u

/* Capability bits of a device. */
#define AKV_CAP_HOST_MEMORY 1u /* device memory is host memory: akv_device.host_window spans all of it */
#define AKV_CAP_GPU         2u
#define AKV_CAP_VIRTUAL     4u /* pools can grow in place */

struct akv_device_info {
    const char *backend;    /* "cpu", "opencl", "cuda" */
    uint32_t index;         /* within the backend */
    char name[128], vendor[128], driver[128], uuid[40], isa[32];
    char reason[256];       /* why it is not usable; empty when it is */
    uint64_t bytes_total, bytes_free; /* 0: unknown */
    uint64_t max_alloc;     /* largest single allocation in bytes */
    uint32_t align;         /* of span offsets, bytes */
    uint32_t caps;
    bool usable;
    bool is_cpu_opencl;     /* `auto` never takes it */
};

/* Backends put these first in their own structs. */
struct akv_mem {
    struct akv_device *device;
    uint64_t bytes;
};
struct akv_queue {
    struct akv_device *device;
};
struct akv_event {
    struct akv_device *device;
};
struct akv_device {
    const struct akv_backend *backend;
    anykv_context *context;
    struct akv_device_info info;
    struct akv_mem *host_window; /* AKV_CAP_HOST_MEMORY: offset = (uintptr_t)pointer; else NULL */
    atomic_uint lost;            /* enum akv_lost, lost.c */
    char lost_to[160];           /* what took it, once lost is AKV_LOST */
};

/* A place in device memory. */
struct akv_span {
    struct akv_mem *mem;
    uint64_t offset;
    uint64_t bytes;
};

enum akv_mem_kind { AKV_MEM_DEVICE, AKV_MEM_PINNED /* host memory for fast transfers, mappable */ };

struct akv_launch {
    enum akv_kernel_id kernel;
    const void *params; /* akv_<name>_params, copied by the call */
    struct akv_span arg[AKV_MAX_ARGS]; /* as many as kernels.def says; mem NULL where optional and absent */
    struct akv_span slab[AKV_MAX_SLABS]; /* the pool; params' pool.slabs of them */
    uint32_t slabs;
};
struct akv_check {
    bool supported;
    enum akv_kernel_class class_;
    uint64_t scratch_bytes; /* attend: scratch for the declared maxima of params */
    const char *reason;     /* static text, when unsupported */
};

struct akv_backend {
    uint32_t abi;
    const char *name;
    /* Fills up to `capacity` infos of devices, usable or not; count_out may be larger.  Cheap, creates
     * no context, prints nothing; an absent runtime gives one unusable entry with the reason. */
    anykv_status (*probe)(anykv_context *context, uint32_t capacity, struct akv_device_info *infos,
                          uint32_t *count_out);
    anykv_status (*open)(anykv_context *context, uint32_t index, const anykv_device_options *options,
                         struct akv_device **device_out);
    void (*close)(struct akv_device *device);
    /* Fresh bytes_total, bytes_free. */
    anykv_status (*memory_info)(struct akv_device *device, uint64_t *total_out, uint64_t *free_out);

    anykv_status (*mem_alloc)(struct akv_device *device, uint64_t bytes, enum akv_mem_kind kind,
                              struct akv_mem **mem_out);
    /* Wraps the caller's buffer (CPU: a pointer; CUDA: a device pointer; OpenCL: a cl_mem). */
    anykv_status (*mem_adopt)(struct akv_device *device, void *native, uint64_t bytes,
                              struct akv_mem **mem_out);
    void (*mem_free)(struct akv_mem *mem);
    void *(*mem_map)(struct akv_mem *mem); /* host address of pinned or host memory, else NULL */

    /* In-order, asynchronous.  native: the caller's stream or command queue, or NULL. */
    anykv_status (*queue_create)(struct akv_device *device, void *native, struct akv_queue **queue_out);
    void (*queue_destroy)(struct akv_queue *queue); /* waits for what is enqueued */
    anykv_status (*put)(struct akv_queue *queue, struct akv_span dst, const void *src); /* src read on return */
    anykv_status (*get)(struct akv_queue *queue, void *dst, struct akv_span src); /* dst complete after wait */
    anykv_status (*copy)(struct akv_queue *queue, struct akv_span dst, struct akv_span src);
    anykv_status (*fill)(struct akv_queue *queue, struct akv_span dst, uint8_t value);
    anykv_status (*flush)(struct akv_queue *queue);
    /* UINT64_MAX: for ever; ANYKV_E_TIMEOUT; a failure of earlier asynchronous work is returned here. */
    anykv_status (*wait)(struct akv_queue *queue, uint64_t timeout_ns);

    anykv_status (*event_create)(struct akv_device *device, struct akv_event **event_out);
    void (*event_destroy)(struct akv_event *event);
    anykv_status (*event_record)(struct akv_event *event, struct akv_queue *queue);
    anykv_status (*event_await)(struct akv_event *event, struct akv_queue *queue); /* queue waits for it */
    anykv_status (*event_query)(struct akv_event *event, bool *done_out);
    anykv_status (*event_wait)(struct akv_event *event, uint64_t timeout_ns);
    int (*event_fd)(struct akv_event *event); /* pollable descriptor, readable once done; -1: none */
    anykv_status (*elapsed)(struct akv_event *from, struct akv_event *to, uint64_t *ns_out);

    /* Would this kernel run with these parameters, in which class, with how much scratch? */
    void (*check)(struct akv_device *device, enum akv_kernel_id kernel, const void *params,
                  struct akv_check *check_out);
    /* Compiles or loads now what launch will need. */
    anykv_status (*prepare)(struct akv_device *device, enum akv_kernel_id kernel, const void *params);
    anykv_status (*launch)(struct akv_queue *queue, const struct akv_launch *launch);
    /* What does AKV_K_MULTIPLY: the file name of a library, which this opens if nobody did, or that there is
     * none.  A library that fails on a device is not asked again there, the backend's own kernel does it. */
    const char *(*dense)(void);
};

/* registry.c: the static list, NULL-terminated; and device lookup by name ("auto", "cpu", a device's name,
 * uuid or "backend:index"). */
extern const struct akv_backend *const akv_backends[];
/* Every device of every backend, usable or not, in the order of akv_backends; one allocation of the
 * context that the caller frees. */
anykv_status akv_devices_list(anykv_context *context, struct akv_device_info **infos_out,
                              uint32_t *count_out);
/* The queue of the caller that the options name for this device's backend, or NULL. */
void *akv_native_queue(const struct akv_device *device, const anykv_device_options *options);

/* lost.c: a device that its driver has given up.  The backend that sees it says so and returns
 * E_DEVICE; from then on every wrapper refuses with E_DEAD and calls nothing, and what frees, destroys
 * and closes must not wait for the device. */
enum akv_lost { AKV_NOT_LOST, AKV_BEING_LOST, AKV_LOST };
void akv_device_lose(struct akv_device *device, const char *what);
static inline bool akv_device_is_lost(struct akv_device *device)
{
    return atomic_load_explicit(&device->lost, memory_order_acquire) != AKV_NOT_LOST;
}
anykv_status akv_device_lost(struct akv_device *device, const char *call); /* E_DEAD, with what it was */

/* Does a launch need maps? */
static inline bool akv_params_map(enum akv_kernel_id kernel, const void *params)
{
    const akv_seal_params *seal = params;
    const akv_attend_params *attend = params;
    akv_u32 flags = 0;
    if (kernel == AKV_K_ENCODE || kernel == AKV_K_DECODE)
        flags = ((const akv_encode_params *)params)->flags;
    else if (kernel == AKV_K_SEAL)
        flags = seal->k_flags | seal->v_flags;
    else if (kernel == AKV_K_GATHER)
        flags = ((const akv_gather_params *)params)->flags;
    else if (kernel == AKV_K_ATTEND)
        flags = attend->k_flags | attend->v_flags;
    return (flags & AKV_FLAG_MAP) != 0;
}

/* ---- checked wrappers (backend.c): bounds, overlap, alignment, fault points, once, here ---- */
anykv_status akv_device_open(anykv_context *context, const char *name, const anykv_device_options *options,
                             struct akv_device **device_out);
void akv_device_close(struct akv_device *device);
anykv_status akv_device_memory(struct akv_device *device, uint64_t *total_out, uint64_t *free_out);
anykv_status akv_mem_alloc(struct akv_device *device, uint64_t bytes, enum akv_mem_kind kind,
                           struct akv_mem **mem_out);
anykv_status akv_mem_adopt(struct akv_device *device, void *native, uint64_t bytes, struct akv_mem **mem_out);
void akv_mem_free(struct akv_mem *mem);
void *akv_mem_map(struct akv_mem *mem);
anykv_status akv_queue_create(struct akv_device *device, void *native, struct akv_queue **queue_out);
void akv_queue_destroy(struct akv_queue *queue);
anykv_status akv_queue_put(struct akv_queue *queue, struct akv_span dst, const void *src);
anykv_status akv_queue_get(struct akv_queue *queue, void *dst, struct akv_span src);
anykv_status akv_queue_copy(struct akv_queue *queue, struct akv_span dst, struct akv_span src);
anykv_status akv_queue_fill(struct akv_queue *queue, struct akv_span dst, uint8_t value);
anykv_status akv_queue_flush(struct akv_queue *queue);
anykv_status akv_queue_wait(struct akv_queue *queue, uint64_t timeout_ns);
anykv_status akv_event_create(struct akv_device *device, struct akv_event **event_out);
void akv_event_destroy(struct akv_event *event);
anykv_status akv_event_record(struct akv_event *event, struct akv_queue *queue);
anykv_status akv_event_await(struct akv_event *event, struct akv_queue *queue);
anykv_status akv_event_query(struct akv_event *event, bool *done_out);
anykv_status akv_event_wait(struct akv_event *event, uint64_t timeout_ns);
int akv_event_fd(struct akv_event *event);
anykv_status akv_event_elapsed(struct akv_event *from, struct akv_event *to, uint64_t *ns_out);
void akv_kernel_check(struct akv_device *device, enum akv_kernel_id kernel, const void *params,
                      struct akv_check *check_out);
anykv_status akv_kernel_prepare(struct akv_device *device, enum akv_kernel_id kernel, const void *params);
anykv_status akv_kernel_launch(struct akv_queue *queue, const struct akv_launch *launch);

/* Parts of the wrappers.  span.c: is the span inside memory of this device; do two spans share a byte.
 * check.c: everything about a launch that the host can know; empty_out: there is nothing to do. */
anykv_status akv_check_span(struct akv_device *device, const char *what, const struct akv_span *span);
bool akv_spans_meet(struct akv_device *device, const struct akv_span *a, const struct akv_span *b);
anykv_status akv_check_params(struct akv_device *device, enum akv_kernel_id kernel, const void *params,
                              bool *empty_out);
anykv_status akv_check_launch(struct akv_device *device, const struct akv_launch *launch,
                              bool *empty_out);

/* Test seam (fault.c): the n-th backend call from now fails with `code` (n = 0: off); `late`: the call
 * is carried out and the failure is reported by the next wait.  E_DEAD: the device is lost then.  Counts
 * calls since. */
void akv_fault_at(uint64_t n, anykv_status code, bool late);
uint64_t akv_fault_count(void);
/* For the wrappers: counts this call and says whether it fails now; the late failure, taken once. */
anykv_status akv_fault_hit(anykv_context *context, const char *call);
anykv_status akv_fault_take(anykv_context *context);

/* Span of host memory on a device with AKV_CAP_HOST_MEMORY. */
static inline struct akv_span akv_host_span(struct akv_device *device, const void *pointer, uint64_t bytes)
{
    struct akv_span span = {device->host_window, (uint64_t)(uintptr_t)pointer, bytes};
    return span;
}

#endif
