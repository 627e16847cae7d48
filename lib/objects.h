/* SPDX-License-Identifier: Apache-2.0 */
/* What the engine's files know about context, device and device memory. */
#ifndef AKV_OBJECTS_H
#define AKV_OBJECTS_H
#include "internal.h"
#include "../backends/backend.h"

struct anykv_context {
    anykv_context_options options;
    akv_mutex lock;                  /* guards the list of devices */
    struct akv_device_info *devices; /* NULL until the first question */
    uint32_t device_count;
};

/* One open device and its one queue.  Any thread may enqueue; the queue keeps the order of the calls. */
struct anykv_device {
    anykv_context *context;
    struct akv_device *device;
    struct akv_queue *queue;
    uint32_t index; /* in the context's list of devices */
};

struct anykv_mem {
    struct akv_mem *mem;
    anykv_device *device;
};

/* Checks a view of [tokens][heads][dim] rows for this device and says where it lies: on a device with
 * host memory a host view becomes a span of the host window; otherwise span_out->mem is NULL and the
 * caller stages the bytes.  span_out->bytes is the extent from the first to the last element. */
anykv_status akv_view_check(anykv_device *device, const char *what, const anykv_view *view,
                            uint32_t tokens, uint32_t heads, uint32_t dim, struct akv_span *span_out);

/* The rows record of a view for kernel parameters. */
static inline akv_rows akv_view_rows(const anykv_view *view, uint32_t heads)
{
    akv_rows rows = {view->token_stride, view->head_stride, (akv_u32)view->dtype, heads};
    return rows;
}

#endif
