/* SPDX-License-Identifier: Apache-2.0 */
/* What the CUDA backend's files share: its objects, and entering its context. */
#ifndef AKV_CUDA_H
#define AKV_CUDA_H
#include "../backend.h"
#include "driver.h"
#include "images.h"

#define AKV_CUDA_FUNCTIONS 512u /* entry points of all images at most */

/* What was loaded of the images into a CUDA context. */
struct akv_cuda_code {
    struct akv_cuda_code *next;
    CUcontext context;
    uint32_t devices;
    atomic_bool lost; /* with its context, whose handle may be another one's by now */
    akv_mutex lock; /* guards what follows */
    CUmodule module[AKV_IMAGES];
    struct {
        char name[32];
        CUfunction function;
    } functions[AKV_CUDA_FUNCTIONS]; /* looked up so far */
    uint32_t function_count;
};
struct akv_cuda_device {
    struct akv_device base;
    const struct akv_cu *cu;
    CUdevice device;
    CUcontext context;
    bool primary;         /* the primary context was retained and must be released */
    CUstream user_stream; /* adopted, or NULL */
    int sm_count;
    int shared_optin;     /* bytes of shared memory a block may ask for */
    bool decode;          /* the image of the fast attention kernels has code for this device */
    bool prefill;         /* the same for prefill */
    struct akv_cuda_code *code;
    akv_mutex lock;       /* guards dense */
    void *dense;          /* handle of cuBLAS, made for the first product */
    bool dense_failed;
};
struct akv_cuda_mem {
    struct akv_mem base;
    CUdeviceptr pointer;
    void *host;  /* pinned memory's host address, else NULL */
    bool owned;
};
/* Small ring of pinned memory through which `put` reads the caller's memory. */
#define AKV_CUDA_STAGES      4u
#define AKV_CUDA_STAGE_BYTES (512u * 1024u)
struct akv_cuda_queue {
    struct akv_queue base;
    CUstream stream;
    bool owned;
    akv_mutex lock; /* guards the ring */
    uint8_t *ring;
    CUevent ring_event[AKV_CUDA_STAGES];
    bool ring_used[AKV_CUDA_STAGES];
    uint32_t ring_next;
    CUdeviceptr counters; /* AKV_CUDA_COUNTERS u32 of attend, zero between launches */
};
#define AKV_CUDA_COUNTERS (256u * 1024u)
struct akv_cuda_event {
    struct akv_event base;
    CUevent event;
};

/* Records a driver failure as a status: out of memory is E_MEMORY, the rest E_DEVICE. */
anykv_status akv_cuda_fail(struct akv_cuda_device *device, CUresult code, const char *what);
/* Makes the device's context current, and restores the caller's. */
anykv_status akv_cuda_enter(struct akv_cuda_device *device);
void akv_cuda_leave(struct akv_cuda_device *device);

static inline CUdeviceptr akv_cuda_address(struct akv_span span)
{
    return span.mem ? ((struct akv_cuda_mem *)span.mem)->pointer + span.offset : 0;
}

/* device.c */
extern const struct akv_backend akv_backend_cuda;
anykv_status akv_cuda_probe(anykv_context *context, uint32_t capacity, struct akv_device_info *infos,
                            uint32_t *count_out);
anykv_status akv_cuda_open(anykv_context *context, uint32_t index, const anykv_device_options *options,
                           struct akv_device **device_out);
void akv_cuda_close(struct akv_device *device);
anykv_status akv_cuda_memory_info(struct akv_device *device, uint64_t *total_out, uint64_t *free_out);
/* kat.c */
anykv_status akv_cuda_kat(struct akv_cuda_device *device);
/* memory.c */
anykv_status akv_cuda_mem_alloc(struct akv_device *device, uint64_t bytes, enum akv_mem_kind kind,
                                struct akv_mem **mem_out);
anykv_status akv_cuda_mem_adopt(struct akv_device *device, void *native, uint64_t bytes,
                                struct akv_mem **mem_out);
void akv_cuda_mem_free(struct akv_mem *mem);
void *akv_cuda_mem_map(struct akv_mem *mem);
/* queue.c */
anykv_status akv_cuda_queue_create(struct akv_device *device, void *native, struct akv_queue **queue_out);
void akv_cuda_queue_destroy(struct akv_queue *queue);
anykv_status akv_cuda_put(struct akv_queue *queue, struct akv_span dst, const void *src);
anykv_status akv_cuda_get(struct akv_queue *queue, void *dst, struct akv_span src);
anykv_status akv_cuda_copy(struct akv_queue *queue, struct akv_span dst, struct akv_span src);
anykv_status akv_cuda_fill(struct akv_queue *queue, struct akv_span dst, uint8_t value);
anykv_status akv_cuda_flush(struct akv_queue *queue);
anykv_status akv_cuda_wait(struct akv_queue *queue, uint64_t timeout_ns);
/* event.c */
anykv_status akv_cuda_event_create(struct akv_device *device, struct akv_event **event_out);
void akv_cuda_event_destroy(struct akv_event *event);
anykv_status akv_cuda_event_record(struct akv_event *event, struct akv_queue *queue);
anykv_status akv_cuda_event_await(struct akv_event *event, struct akv_queue *queue);
anykv_status akv_cuda_event_query(struct akv_event *event, bool *done_out);
anykv_status akv_cuda_event_wait(struct akv_event *event, uint64_t timeout_ns);
int akv_cuda_event_fd(struct akv_event *event);
anykv_status akv_cuda_elapsed(struct akv_event *from, struct akv_event *to, uint64_t *ns_out);
/* kernel.c */
void akv_cuda_check(struct akv_device *device, enum akv_kernel_id kernel, const void *params,
                    struct akv_check *check_out);
anykv_status akv_cuda_prepare(struct akv_device *device, enum akv_kernel_id kernel, const void *params);
anykv_status akv_cuda_launch(struct akv_queue *queue, const struct akv_launch *launch);
/* code.c: the device's part in the code of its context, from opening to closing it. */
anykv_status akv_cuda_code_open(struct akv_cuda_device *device);
void akv_cuda_code_close(struct akv_cuda_device *device);
/* Whether an image has code for this device. */
anykv_status akv_cuda_find_entry(struct akv_cuda_device *device, enum akv_cuda_image image, const char *name,
                                 bool *found_out);
/* Looks an entry point up, loading its image when it is the first; shared: bytes of dynamic shared memory
 * it will ask for. */
anykv_status akv_cuda_function(struct akv_cuda_device *device, enum akv_cuda_image image, const char *name,
                               uint32_t shared, CUfunction *function_out);

/* dense.c: the library's file name, or "own kernel"; a multiply by it, false: our own kernel must do it. */
const char *akv_cuda_dense(void);
bool akv_cuda_dense_multiply(struct akv_cuda_device *device, struct akv_cuda_queue *queue,
                             const struct akv_launch *launch);
void akv_cuda_dense_close(struct akv_cuda_device *device);

/* Spans of a launch as device addresses (kernels-cu/common.cuh has the same struct). */
struct akv_cuda_args {
    CUdeviceptr arg[8];
    CUdeviceptr slab[AKV_MAX_SLABS];
};
/* A launch made concrete. */
struct akv_cuda_call {
    enum akv_cuda_image image;
    char name[32];
    uint64_t grid[3];
    uint32_t threads;
    uint32_t shared;
    const void *extra; /* third kernel parameter, or NULL */
    bool counters;     /* fourth kernel parameter */
};

/* k_attend.c: how attend is cut up (kernels-cu/attend.cuh has the same struct). */
struct akv_cuda_plan {
    uint32_t splits, spread, longest, part_offset, most_columns;
};
void akv_cuda_attend_check(struct akv_cuda_device *device, const akv_attend_params *params,
                           struct akv_check *check_out);
/* Fills calls[0 … 1], zeroed, and returns their number. */
uint32_t akv_cuda_attend_calls(struct akv_cuda_device *device, const akv_attend_params *params,
                               struct akv_cuda_plan *plan, struct akv_cuda_call *calls);

#endif
