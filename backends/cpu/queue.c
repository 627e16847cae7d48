/* SPDX-License-Identifier: Apache-2.0 */
/* The CPU's queue: a ring of commands that one thread at a time, the leader, carries out in order,
 * with a team of helpers for the parallel ones.  The leader is the dispatcher thread, or a caller
 * that waits for ever anyway: it would need longer to wake the dispatcher than to do a small
 * command itself.  With 0 threads a command is carried out inside the call.
 *
 * Nothing is allocated after creation: the ring, the staging bytes of small puts, the workers'
 * memory and the team are made once; a full ring makes the caller wait.  Locks, in their order: enqueue_lock (producers;
 * guards `head` for writing, the slot being filled and `staged`), sleep_lock (a leaf: guards only
 * the sleep of dispatcher and waiters). */
#include "device.h"
#include "fpenv.h"

#define RING_COMMANDS 256u
#define STAGE_BYTES   ((uint64_t)1 << 20)
#define STAGE_PUT     ((uint64_t)64 << 10)  /* larger puts are read in place, the caller waits */
#define PIECE_BYTES   ((uint64_t)256 << 10) /* of a copy that several threads share */

/* Pauses before a thread sleeps: the dispatcher between commands, a caller that waits.  A wake-up
 * costs about 50 microseconds on a virtual machine, a spin of this length 10 to 20. */
#define SPINS_DISPATCH 400u
#define SPINS_WAIT     200u

enum kind { MOVE, FILL, LAUNCH, RECORD, AWAIT };

/* Room for the parameters of any kernel. */
union any_params {
#define AKV_KERNEL(ID, family, name, class_, arguments) akv_##name##_params name;
#include "../../lib/kernel/kernels.def"
#undef AKV_KERNEL
};

struct command {
    enum kind kind;
    /* move, fill */
    uint8_t *dst;
    const uint8_t *src;
    uint64_t bytes;
    uint64_t staged; /* staging bytes that this command frees */
    uint8_t value;
    /* record, await */
    struct akv_cpu_event *event;
    uint64_t target;
    /* launch */
    const struct akv_cpu_kernel *kernel;
    struct akv_cpu_args args;
    union any_params params;
};

struct akv_cpu_queue {
    struct akv_queue base;
    struct akv_cpu_queue *next; /* of the device; guarded by its queues_lock */
    struct command *ring;       /* RING_COMMANDS of them; one when inline */
    uint8_t *stage;
    uint64_t staged; /* staging bytes ever taken, gaps at the end included */
    uint8_t *work_memory, *work; /* AKV_CPU_WORK_BYTES a worker, aligned to 64 */
    struct akv_cpu_team *team;
    akv_thread dispatcher;
    akv_mutex enqueue_lock, sleep_lock;
    akv_cond work_cond, done_cond;
    _Alignas(64) atomic_uint_fast64_t head; /* commands ever enqueued */
    atomic_uint sleeping;                   /* 1: the dispatcher */
    atomic_bool stop, leading;
    _Alignas(64) atomic_uint_fast64_t done; /* commands ever carried out */
    atomic_uint_fast64_t unstaged;          /* staging bytes ever given back */
    atomic_uint waiters;
};

static struct akv_cpu_queue *queue_of(struct akv_queue *queue)
{
    return (struct akv_cpu_queue *)queue;
}

static uint32_t threads_of(const struct akv_cpu_queue *queue)
{
    return akv_cpu_device_of(queue->base.device)->threads;
}

/* ---- carrying out ---- */

static void move_pieces(const void *job, uint32_t worker, uint64_t first, uint64_t count)
{
    const struct command *command = job;
    uint64_t start = first * PIECE_BYTES, end = (first + count) * PIECE_BYTES;
    (void)worker;
    if (end > command->bytes)
        end = command->bytes;
    if (command->kind == MOVE)
        memcpy(command->dst + start, command->src + start, end - start);
    else
        memset(command->dst + start, command->value, end - start);
}

struct phase {
    const struct akv_cpu_queue *queue;
    const struct command *command;
    uint32_t number;
};

static void run_phase(const void *job, uint32_t worker, uint64_t first, uint64_t count)
{
    const struct phase *phase = job;
    struct akv_cpu_args args = phase->command->args;
    args.work = phase->queue->work + worker * AKV_CPU_WORK_BYTES;
    phase->command->kernel->run(&args, phase->number, first, count);
}

static void execute(struct akv_cpu_queue *queue, const struct command *command)
{
    switch (command->kind) {
    case MOVE:
    case FILL:
        akv_cpu_team_run(queue->team, move_pieces, command,
                         command->bytes / PIECE_BYTES + (command->bytes % PIECE_BYTES != 0));
        break;
    case LAUNCH:
        for (uint32_t i = 0; i < command->kernel->phases; i++) {
            struct phase phase = {queue, command, i};
            akv_cpu_team_run(queue->team, run_phase, &phase,
                             command->kernel->items(&command->args, i));
        }
        break;
    case RECORD:
        akv_cpu_event_finish(command->event);
        break;
    case AWAIT:
        akv_cpu_event_reach(command->event, command->target);
        break;
    }
}

/* ---- leading ---- */

static bool try_lead(struct akv_cpu_queue *queue)
{
    return !atomic_load_explicit(&queue->leading, memory_order_relaxed) &&
           !atomic_exchange_explicit(&queue->leading, true, memory_order_acquire);
}

static bool pending(struct akv_cpu_queue *queue)
{
    return atomic_load(&queue->head) != atomic_load(&queue->done);
}

/* Carries out commands up to number `target`, or all there are; the leader's alone. */
static void lead(struct akv_cpu_queue *queue, uint64_t target)
{
    uint64_t done = atomic_load_explicit(&queue->done, memory_order_relaxed);
    while (done < target && done != atomic_load_explicit(&queue->head, memory_order_acquire)) {
        const struct command *command = &queue->ring[done % RING_COMMANDS];
        uint64_t staged = command->staged;
        execute(queue, command);
        if (staged)
            atomic_fetch_add_explicit(&queue->unstaged, staged, memory_order_release);
        atomic_store(&queue->done, ++done);
        if (atomic_load(&queue->waiters)) {
            akv_mutex_lock(&queue->sleep_lock);
            akv_cond_broadcast(&queue->done_cond);
            akv_mutex_unlock(&queue->sleep_lock);
        }
    }
}

static void wake_dispatcher(struct akv_cpu_queue *queue)
{
    if (atomic_load(&queue->sleeping)) {
        akv_mutex_lock(&queue->sleep_lock);
        akv_cond_signal(&queue->work_cond);
        akv_mutex_unlock(&queue->sleep_lock);
    }
}

/* Waits until there is a command and this thread leads; false: the queue ends. */
static bool wait_for_lead(struct akv_cpu_queue *queue)
{
    for (;;) {
        for (unsigned spin = 0; spin < SPINS_DISPATCH; spin++) {
            if (pending(queue) && try_lead(queue))
                return true;
            akv_cpu_rest(spin);
        }
        /* As in team.c: announce, look again, sleep.  Who stops leading looks for a sleeper too. */
        akv_mutex_lock(&queue->sleep_lock);
        atomic_store(&queue->sleeping, 1);
        while ((!pending(queue) || atomic_load(&queue->leading)) && !atomic_load(&queue->stop))
            akv_cond_wait(&queue->work_cond, &queue->sleep_lock);
        atomic_store(&queue->sleeping, 0);
        akv_mutex_unlock(&queue->sleep_lock);
        if (atomic_load(&queue->stop))
            return false;
    }
}

static void *dispatch(void *argument)
{
    struct akv_cpu_queue *queue = argument;
    akv_fp_enter();
    while (wait_for_lead(queue)) {
        lead(queue, UINT64_MAX);
        atomic_store(&queue->leading, false);
    }
    return NULL;
}

/* A caller that waits for ever leads, if nobody does, until `target` is done. */
static void lend_hand(struct akv_cpu_queue *queue, uint64_t target)
{
    if (!pending(queue) || !try_lead(queue))
        return;
    akv_fp_state saved = akv_fp_enter();
    lead(queue, target);
    akv_fp_leave(saved);
    atomic_store(&queue->leading, false);
    if (pending(queue))
        wake_dispatcher(queue);
}

/* ---- waiting ---- */

/* Waits until `target` commands were carried out; false: the deadline passed first. */
static bool wait_done(struct akv_cpu_queue *queue, uint64_t target, uint64_t deadline)
{
    for (unsigned spin = 0; spin < SPINS_WAIT; spin++) {
        if (atomic_load_explicit(&queue->done, memory_order_acquire) >= target)
            return true;
        if (deadline == 0)
            return false;
        if (deadline == UINT64_MAX)
            lend_hand(queue, target);
        akv_cpu_rest(spin);
    }
    bool in_time = true;
    akv_mutex_lock(&queue->sleep_lock);
    atomic_fetch_add(&queue->waiters, 1);
    while (atomic_load(&queue->done) < target && in_time) {
        if (deadline == UINT64_MAX)
            akv_cond_wait(&queue->done_cond, &queue->sleep_lock);
        else
            in_time = akv_cond_wait_until(&queue->done_cond, &queue->sleep_lock, deadline);
    }
    atomic_fetch_sub(&queue->waiters, 1);
    akv_mutex_unlock(&queue->sleep_lock);
    return atomic_load_explicit(&queue->done, memory_order_acquire) >= target;
}

anykv_status akv_cpu_queue_wait(struct akv_queue *base, uint64_t timeout_ns)
{
    struct akv_cpu_queue *queue = queue_of(base);
    if (threads_of(queue) == 0 || akv_cpu_forked(akv_cpu_device_of(base->device)))
        return ANYKV_OK;
    uint64_t target = atomic_load(&queue->head);
    uint64_t deadline = timeout_ns == 0 ? 0 : akv_cpu_deadline(timeout_ns);
    if (!wait_done(queue, target, deadline))
        return akv_fail(base->device->context, ANYKV_E_TIMEOUT, "queue: not empty after %llu ns",
                        (unsigned long long)timeout_ns);
    return ANYKV_OK;
}

void akv_cpu_drain(struct akv_cpu_device *device)
{
    if (device->threads == 0 || akv_cpu_forked(device))
        return;
    akv_mutex_lock(&device->queues_lock);
    for (struct akv_cpu_queue *queue = device->queues; queue; queue = queue->next)
        wait_done(queue, atomic_load(&queue->head), UINT64_MAX);
    akv_mutex_unlock(&device->queues_lock);
}

/* ---- enqueuing: begin gives the slot to fill, end carries it out or hands it over ---- */

static struct command *begin(struct akv_cpu_queue *queue, enum kind kind)
{
    akv_mutex_lock(&queue->enqueue_lock);
    struct command *command = queue->ring;
    if (threads_of(queue)) {
        uint64_t head = atomic_load_explicit(&queue->head, memory_order_relaxed);
        if (head >= RING_COMMANDS)
            wait_done(queue, head - RING_COMMANDS + 1, UINT64_MAX);
        command = &queue->ring[head % RING_COMMANDS];
    }
    command->kind = kind;
    command->staged = 0;
    return command;
}

/* Returns the number of commands with this one, what wait_done takes. */
static uint64_t end(struct akv_cpu_queue *queue, const struct command *command)
{
    uint64_t number = 0;
    if (threads_of(queue)) {
        number = atomic_load_explicit(&queue->head, memory_order_relaxed) + 1;
        atomic_store(&queue->head, number);
        wake_dispatcher(queue);
    } else {
        akv_fp_state saved = akv_fp_enter();
        execute(queue, command);
        akv_fp_leave(saved);
    }
    akv_mutex_unlock(&queue->enqueue_lock);
    return number;
}

/* Takes `bytes` in one piece from the staging ring; called between begin and end. */
static uint8_t *stage(struct akv_cpu_queue *queue, struct command *command, uint64_t bytes)
{
    uint64_t offset = queue->staged % STAGE_BYTES;
    uint64_t gap = offset + bytes > STAGE_BYTES ? STAGE_BYTES - offset : 0;
    uint64_t end_mark = queue->staged + gap + bytes;
    while (end_mark - atomic_load_explicit(&queue->unstaged, memory_order_acquire) > STAGE_BYTES) {
        /* Commands before this one hold the room; each that ends may give some back. */
        uint64_t done = atomic_load_explicit(&queue->done, memory_order_acquire);
        if (end_mark - atomic_load_explicit(&queue->unstaged, memory_order_acquire) <= STAGE_BYTES)
            break;
        wait_done(queue, done + 1, UINT64_MAX);
    }
    queue->staged = end_mark;
    command->staged = gap + bytes;
    return queue->stage + (end_mark - bytes) % STAGE_BYTES;
}

anykv_status akv_cpu_queue_put(struct akv_queue *base, struct akv_span dst, const void *src)
{
    struct akv_cpu_queue *queue = queue_of(base);
    struct command *command = begin(queue, MOVE);
    bool in_place = threads_of(queue) == 0 || dst.bytes > STAGE_PUT;
    command->dst = akv_cpu_address(&dst);
    command->bytes = dst.bytes;
    command->src = src;
    if (!in_place) {
        uint8_t *copy = stage(queue, command, dst.bytes);
        memcpy(copy, src, dst.bytes);
        command->src = copy;
    }
    uint64_t number = end(queue, command);
    if (in_place && threads_of(queue))
        wait_done(queue, number, UINT64_MAX);
    return ANYKV_OK;
}

static anykv_status enqueue_move(struct akv_queue *base, uint8_t *dst, const uint8_t *src,
                                 uint64_t bytes)
{
    struct akv_cpu_queue *queue = queue_of(base);
    struct command *command = begin(queue, MOVE);
    command->dst = dst;
    command->src = src;
    command->bytes = bytes;
    end(queue, command);
    return ANYKV_OK;
}

anykv_status akv_cpu_queue_get(struct akv_queue *base, void *dst, struct akv_span src)
{
    return enqueue_move(base, dst, akv_cpu_address(&src), src.bytes);
}

anykv_status akv_cpu_queue_copy(struct akv_queue *base, struct akv_span dst, struct akv_span src)
{
    return enqueue_move(base, akv_cpu_address(&dst), akv_cpu_address(&src), src.bytes);
}

anykv_status akv_cpu_queue_fill(struct akv_queue *base, struct akv_span dst, uint8_t value)
{
    struct akv_cpu_queue *queue = queue_of(base);
    struct command *command = begin(queue, FILL);
    command->dst = akv_cpu_address(&dst);
    command->bytes = dst.bytes;
    command->value = value;
    end(queue, command);
    return ANYKV_OK;
}

anykv_status akv_cpu_queue_flush(struct akv_queue *base)
{
    (void)base; /* the dispatcher starts by itself */
    return ANYKV_OK;
}

anykv_status akv_cpu_queue_launch(struct akv_queue *base, const struct akv_launch *launch)
{
    struct akv_cpu_queue *queue = queue_of(base);
    const struct akv_cpu_device *device = akv_cpu_device_of(base->device);
    struct command *command = begin(queue, LAUNCH);
    command->kernel = device->kernel[launch->kernel];
    memcpy(&command->params, launch->params, akv_kernels[launch->kernel].params_bytes);
    command->args.params = &command->params;
    command->args.workers = device->threads ? device->threads : 1;
    for (unsigned i = 0; i < akv_kernels[launch->kernel].arguments; i++) {
        const struct akv_span *span = &launch->arg[i];
        command->args.arg[i] = span->mem ? akv_cpu_address(span) : NULL;
        command->args.arg_bytes[i] = span->mem ? span->bytes : 0;
    }
    for (unsigned i = 0; i < launch->slabs; i++)
        command->args.slab[i] = akv_cpu_address(&launch->slab[i]);
    end(queue, command);
    return ANYKV_OK;
}

void akv_cpu_queue_record(struct akv_queue *base, struct akv_cpu_event *event)
{
    struct akv_cpu_queue *queue = queue_of(base);
    struct command *command = begin(queue, RECORD);
    command->event = event;
    end(queue, command);
}

void akv_cpu_queue_await(struct akv_queue *base, struct akv_cpu_event *event, uint64_t target)
{
    struct akv_cpu_queue *queue = queue_of(base);
    struct command *command = begin(queue, AWAIT);
    command->event = event;
    command->target = target;
    end(queue, command);
}

/* ---- creation ---- */

static anykv_status make_locks(anykv_context *context, struct akv_cpu_queue *queue)
{
    anykv_status status = akv_mutex_init(context, &queue->enqueue_lock);
    if (status)
        return status;
    status = akv_mutex_init(context, &queue->sleep_lock);
    if (status)
        goto destroy_enqueue;
    status = akv_cond_init(context, &queue->work_cond);
    if (status)
        goto destroy_sleep;
    status = akv_cond_init(context, &queue->done_cond);
    if (!status)
        return ANYKV_OK;
    akv_cond_destroy(&queue->work_cond);
destroy_sleep:
    akv_mutex_destroy(&queue->sleep_lock);
destroy_enqueue:
    akv_mutex_destroy(&queue->enqueue_lock);
    return status;
}

static void destroy_locks(struct akv_cpu_queue *queue)
{
    akv_cond_destroy(&queue->done_cond);
    akv_cond_destroy(&queue->work_cond);
    akv_mutex_destroy(&queue->sleep_lock);
    akv_mutex_destroy(&queue->enqueue_lock);
}

anykv_status akv_cpu_queue_create(struct akv_device *base, void *native,
                                  struct akv_queue **queue_out)
{
    struct akv_cpu_device *device = akv_cpu_device_of(base);
    anykv_context *context = base->context;
    (void)native; /* there is no queue of the caller on a CPU */
    struct akv_cpu_queue *queue = akv_alloc(context, 1, sizeof *queue);
    if (!queue)
        return ANYKV_E_MEMORY;
    queue->base.device = base;
    anykv_status status = ANYKV_E_MEMORY;
    queue->ring = akv_alloc(context, device->threads ? RING_COMMANDS : 1, sizeof *queue->ring);
    if (!queue->ring)
        goto free_queue;
    queue->stage = akv_alloc(context, device->threads ? STAGE_BYTES : 1, 1);
    if (!queue->stage)
        goto free_ring;
    queue->work_memory =
        akv_alloc(context, AKV_MAX(device->threads, 1u), AKV_CPU_WORK_BYTES + 64);
    if (!queue->work_memory)
        goto free_stage;
    queue->work = queue->work_memory + (-(uintptr_t)queue->work_memory & 63u);
    status =
        akv_cpu_team_create(context, device->threads > 1 ? device->threads - 1 : 0, &queue->team);
    if (status)
        goto free_work;
    status = make_locks(context, queue);
    if (status)
        goto destroy_team;
    if (device->threads) {
        status = akv_thread_start(context, &queue->dispatcher, dispatch, queue);
        if (status)
            goto destroy_all_locks;
    }
    akv_mutex_lock(&device->queues_lock);
    queue->next = device->queues;
    device->queues = queue;
    akv_mutex_unlock(&device->queues_lock);
    *queue_out = &queue->base;
    return ANYKV_OK;
destroy_all_locks:
    destroy_locks(queue);
destroy_team:
    akv_cpu_team_destroy(queue->team, false);
free_work:
    akv_free(context, queue->work_memory);
free_stage:
    akv_free(context, queue->stage);
free_ring:
    akv_free(context, queue->ring);
free_queue:
    akv_free(context, queue);
    return status;
}

/* Carries out what is enqueued and ends the dispatcher. */
static void stop(struct akv_cpu_device *device, struct akv_cpu_queue *queue)
{
    akv_mutex_lock(&device->queues_lock);
    struct akv_cpu_queue **link = &device->queues;
    while (*link != queue)
        link = &(*link)->next;
    *link = queue->next;
    akv_mutex_unlock(&device->queues_lock);
    if (device->threads) {
        wait_done(queue, atomic_load(&queue->head), UINT64_MAX);
        akv_mutex_lock(&queue->sleep_lock);
        atomic_store(&queue->stop, true);
        akv_cond_signal(&queue->work_cond);
        akv_mutex_unlock(&queue->sleep_lock);
        akv_thread_join(&queue->dispatcher);
    }
    destroy_locks(queue);
}

void akv_cpu_queue_destroy(struct akv_queue *base)
{
    struct akv_cpu_queue *queue = queue_of(base);
    struct akv_cpu_device *device = akv_cpu_device_of(base->device);
    anykv_context *context = base->device->context;
    bool forked = akv_cpu_forked(device);
    if (!forked)
        stop(device, queue);
    akv_cpu_team_destroy(queue->team, forked);
    akv_free(context, queue->work_memory);
    akv_free(context, queue->stage);
    akv_free(context, queue->ring);
    akv_free(context, queue);
}
