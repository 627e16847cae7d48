/* SPDX-License-Identifier: Apache-2.0 */
/* What the host side of the CPU backend shares: device, memory, queue, event, team of workers. */
#ifndef AKV_CPU_DEVICE_H
#define AKV_CPU_DEVICE_H
#include "cpu.h"
#include <stdatomic.h>
#include <sys/types.h>
#include <unistd.h>

extern const struct akv_backend akv_backend_cpu; /* cpu.c */

struct akv_cpu_queue;

struct akv_cpu_mem {
    struct akv_mem base;
    uint8_t *address;
    size_t mapped; /* bytes to unmap; 0: the caller's memory, or the host window */
};

struct akv_cpu_device {
    struct akv_device base;
    struct akv_cpu_mem window; /* all of the address space */
    uint32_t threads;          /* 0: inline */
    pid_t owner;               /* the process that has the threads */
    const struct akv_cpu_kernel *kernel[AKV_KERNEL_COUNT];
    akv_mutex queues_lock; /* guards queues and their links; taken before any other lock */
    struct akv_cpu_queue *queues;
    akv_mutex event_lock; /* guards all events' fields; a leaf */
    akv_cond event_cond;
};

/* Counts of records: an event is done when as many were carried out as were asked for.  All fields
 * are guarded by the device's event_lock. */
struct akv_cpu_event {
    struct akv_event base;
    uint64_t recorded, finished;
    uint64_t finished_ns;
    uint32_t users; /* commands in a queue that will touch this event */
    int fd;         /* -1 until somebody asks */
};

static inline struct akv_cpu_device *akv_cpu_device_of(struct akv_device *device)
{
    return (struct akv_cpu_device *)device;
}

static inline uint8_t *akv_cpu_address(const struct akv_span *span)
{
    const struct akv_cpu_mem *mem = (const struct akv_cpu_mem *)span->mem;
    return (uint8_t *)((uintptr_t)mem->address + (uintptr_t)span->offset);
}

/* In a child of fork() there are no threads to wait for, and locks may be held by them for ever:
 * objects are then only freed. */
static inline bool akv_cpu_forked(const struct akv_cpu_device *device)
{
    return getpid() != device->owner;
}

/* ---- team.c: threads that share one piece of work at a time with the thread that hands it out
 * ---- */
struct akv_cpu_team;
/* worker: 0 for the thread that hands the work out, 1 … helpers. */
typedef void akv_cpu_work(const void *job, uint32_t worker, uint64_t first, uint64_t count);
anykv_status akv_cpu_team_create(anykv_context *context, uint32_t helpers,
                                 struct akv_cpu_team **team_out);
void akv_cpu_team_destroy(struct akv_cpu_team *team, bool forked);
/* Runs work(job, …) over [0, items) in ranges, each once; returns when all is done. */
void akv_cpu_team_run(struct akv_cpu_team *team, akv_cpu_work *work, const void *job,
                      uint64_t items);

/* ---- queue.c ---- */
anykv_status akv_cpu_queue_create(struct akv_device *device, void *native,
                                  struct akv_queue **queue_out);
void akv_cpu_queue_destroy(struct akv_queue *queue);
anykv_status akv_cpu_queue_put(struct akv_queue *queue, struct akv_span dst, const void *src);
anykv_status akv_cpu_queue_get(struct akv_queue *queue, void *dst, struct akv_span src);
anykv_status akv_cpu_queue_copy(struct akv_queue *queue, struct akv_span dst, struct akv_span src);
anykv_status akv_cpu_queue_fill(struct akv_queue *queue, struct akv_span dst, uint8_t value);
anykv_status akv_cpu_queue_flush(struct akv_queue *queue);
anykv_status akv_cpu_queue_wait(struct akv_queue *queue, uint64_t timeout_ns);
anykv_status akv_cpu_queue_launch(struct akv_queue *queue, const struct akv_launch *launch);
void akv_cpu_queue_record(struct akv_queue *queue, struct akv_cpu_event *event);
void akv_cpu_queue_await(struct akv_queue *queue, struct akv_cpu_event *event, uint64_t target);
/* Waits until every queue of the device has carried out what was enqueued before. */
void akv_cpu_drain(struct akv_cpu_device *device);

/* ---- event.c ---- */
anykv_status akv_cpu_event_create(struct akv_device *device, struct akv_event **event_out);
void akv_cpu_event_destroy(struct akv_event *event);
anykv_status akv_cpu_event_record(struct akv_event *event, struct akv_queue *queue);
anykv_status akv_cpu_event_await(struct akv_event *event, struct akv_queue *queue);
anykv_status akv_cpu_event_query(struct akv_event *event, bool *done_out);
anykv_status akv_cpu_event_wait(struct akv_event *event, uint64_t timeout_ns);
int akv_cpu_event_fd(struct akv_event *event);
anykv_status akv_cpu_event_elapsed(struct akv_event *from, struct akv_event *to, uint64_t *ns_out);
/* The queue's side: one record carried out; wait until `target` of them were. */
void akv_cpu_event_finish(struct akv_cpu_event *event);
void akv_cpu_event_reach(struct akv_cpu_event *event, uint64_t target);

/* ---- mem.c ---- */
anykv_status akv_cpu_mem_alloc(struct akv_device *device, uint64_t bytes, enum akv_mem_kind kind,
                               struct akv_mem **mem_out);
anykv_status akv_cpu_mem_adopt(struct akv_device *device, void *native, uint64_t bytes,
                               struct akv_mem **mem_out);
void akv_cpu_mem_free(struct akv_mem *mem);
void *akv_cpu_mem_map(struct akv_mem *mem);

/* ---- dispatch.c ---- */
uint32_t akv_cpu_isa_levels(uint32_t isa_mask); /* bit per enum akv_isa that may run here */
const char *akv_cpu_isa_name(uint32_t levels);  /* of the highest */
void akv_cpu_select(struct akv_cpu_device *device, uint32_t levels);

/* A deadline that is `timeout_ns` from now; UINT64_MAX: never. */
static inline uint64_t akv_cpu_deadline(uint64_t timeout_ns)
{
    uint64_t now = akv_now_ns();
    return timeout_ns > UINT64_MAX - now ? UINT64_MAX : now + timeout_ns;
}

#endif
