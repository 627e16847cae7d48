/* SPDX-License-Identifier: Apache-2.0 */
/* What the engine's files know about context, device and device memory. */
#ifndef AKV_OBJECTS_H
#define AKV_OBJECTS_H
#include "internal.h"
#include "../backends/backend.h"
#include <stdatomic.h>

#define AKV_ERRORS 64u

/* The last failures; the lock is a leaf. */
struct akv_error_ring {
    akv_mutex lock;
    bool ready;
    uint64_t next, drained; /* failures so far, and how many of them were drained */
    anykv_error_record record[AKV_ERRORS];
};

struct anykv_context {
    anykv_context_options options;
    akv_mutex lock;                  /* guards the list of devices */
    struct akv_device_info *devices; /* NULL until the first question */
    uint32_t device_count;
    atomic_uint_fast64_t host_bytes; /* relaxed: of akv_alloc with this context */
    struct akv_error_ring errors;
};

/* One open device and its one queue.  Any thread may enqueue; the queue keeps the order of the
 * calls. */
struct anykv_device {
    anykv_context *context;
    struct akv_device *device;
    struct akv_queue *queue;
    akv_mutex lock;       /* guards what follows; a leaf */
    uint32_t waiting;     /* calls inside akv_device_await */
    uint64_t failures;    /* that waits have reported */
    anykv_status failure; /* the last of them */
};

/* Waits for the device's queue.  A failed asynchronous call is reported to one waiter, whoever it
 * is; others that depend on the device see it by the count.  alone: no other wait was under way at
 * the end of this one, which may yet be told of a failure before it. */
struct akv_device_waits {
    uint64_t failures;
    anykv_status failure; /* the last one */
    bool alone;
};
anykv_status akv_device_await(anykv_device *device, uint64_t timeout_ns,
                              struct akv_device_waits *waits_out);
uint64_t akv_device_failures(anykv_device *device);

struct anykv_mem {
    struct akv_mem *mem;
    anykv_device *device;
};

/* Checks a view of [tokens][heads][dim] rows for this device (view.c): NULL and double ends, dtype,
 * alignment, extents with checked arithmetic, and for `write` that no two rows share an element.
 * On success span_out covers the first to the last element: device memory, or the host window on a
 * device that has one; mem is NULL where host rows must be staged.  tokens 0: an empty span. */
anykv_status akv_view_check(anykv_device *device, const char *what, const anykv_view *view,
                            uint32_t tokens, uint32_t heads, uint32_t dim, bool write,
                            struct akv_span *span_out);

/* The same of a view that must lie in host memory and is only read. */
anykv_status akv_view_check_host(anykv_context *context, const char *what, const anykv_view *view,
                                 uint32_t tokens, uint32_t heads, uint32_t dim);

/* The rows record of a view for kernel parameters. */
static inline akv_rows akv_view_rows(const anykv_view *view, uint32_t heads)
{
    akv_rows rows = {view->token_stride, view->head_stride, (akv_u32)view->dtype, heads};
    return rows;
}

/* Rows of a checked host view to and from dense [tokens][heads][dim] memory of the same dtype, for
 * devices whose memory is not the host's; dense: they already are. */
bool akv_view_dense(const anykv_view *view, uint32_t heads, uint32_t dim);
void akv_view_pack(const anykv_view *view, uint32_t tokens, uint32_t heads, uint32_t dim,
                   void *dense);
void akv_view_unpack(const anykv_view *view, uint32_t tokens, uint32_t heads, uint32_t dim,
                     const void *dense);

/* Waits for everything enqueued before a call that reads or writes the caller's memory returns.
 * After a failure it waits once more, so that nothing in flight can touch that memory any longer.
 */
anykv_status akv_device_finish(anykv_device *device);

#endif
