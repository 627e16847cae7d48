/* SPDX-License-Identifier: Apache-2.0 */
/* A team of threads that shares one piece of work at a time.
 *
 * The leader writes the work, opens the gate and takes ranges itself; a helper that sees the gate
 * open enters and takes ranges too.  The leader closes the gate when nothing is left and waits only
 * for the helpers inside: one that slept through small work costs nothing.  Ranges start large and
 * shrink, so that tiny items are amortised and huge ones still spread evenly.  While helpers sleep
 * the leader starts with single items instead, and wakes them once the work has proved to be worth
 * it. */
#include "device.h"
#include "fpenv.h"

/* Pauses that an idle helper spins before it sleeps: about 15 microseconds, the gap between the
 * launches of a layer; longer would take a core from the caller's own work. */
#define SPINS_IDLE 400u
/* Work that the leader finishes alone within this time wakes nobody: a sleeper needs longer to
 * come. */
#define WAKE_NS 10000u

/* The gate: generation in bits 63:32, open in bit 31, helpers inside in bits 30:0. */
#define GATE_OPEN   ((uint64_t)1 << 31)
#define GATE_INSIDE (GATE_OPEN - 1)

struct helper {
    akv_thread thread;
    struct akv_cpu_team *team;
    uint32_t worker;
};

struct akv_cpu_team {
    anykv_context *context;
    uint32_t helpers;
    struct helper *helper;
    /* The work; written by the leader while nobody is inside. */
    akv_cpu_work *work;
    const void *job;
    uint64_t items;
    _Alignas(64) atomic_uint_fast64_t next; /* first item not handed out */
    _Alignas(64) atomic_uint_fast64_t gate;
    atomic_uint sleepers;
    atomic_bool stop;
    akv_mutex lock; /* with cond: helpers sleep under it; guards nothing else */
    akv_cond cond;
};

/* Takes ranges until there are none. */
static void take(struct akv_cpu_team *team, uint32_t worker)
{
    uint64_t items = team->items, share = 3u * ((uint64_t)team->helpers + 1);
    uint64_t first = atomic_load_explicit(&team->next, memory_order_relaxed);
    while (first < items) {
        uint64_t count = (items - first) / share;
        if (count == 0)
            count = 1;
        if (!atomic_compare_exchange_weak_explicit(&team->next, &first, first + count,
                                                   memory_order_relaxed, memory_order_relaxed))
            continue;
        team->work(team->job, worker, first, count);
        first = atomic_load_explicit(&team->next, memory_order_relaxed);
    }
}

static void wake(struct akv_cpu_team *team)
{
    akv_mutex_lock(&team->lock);
    akv_cond_broadcast(&team->cond);
    akv_mutex_unlock(&team->lock);
}

/* The leader's start while helpers sleep: 1, 2, 4 … items until WAKE_NS are over. */
static void start_alone(struct akv_cpu_team *team)
{
    uint64_t begin = akv_now_ns(), first;
    for (uint64_t count = 1;; count *= 2) {
        first = atomic_fetch_add_explicit(&team->next, count, memory_order_relaxed);
        if (first >= team->items)
            return;
        if (count > team->items - first)
            count = team->items - first;
        team->work(team->job, 0, first, count);
        if (akv_now_ns() - begin >= WAKE_NS) {
            wake(team);
            return;
        }
    }
}

static bool is_open(uint64_t gate, uint32_t seen)
{
    return (gate & GATE_OPEN) && (uint32_t)(gate >> 32) != seen;
}

/* Waits until the gate opens on work not seen before; false: the team ends. */
static bool wait_for_work(struct akv_cpu_team *team, uint32_t seen)
{
    for (unsigned spin = 0; spin < SPINS_IDLE; spin++) {
        if (is_open(atomic_load_explicit(&team->gate, memory_order_relaxed), seen))
            return true;
        akv_cpu_rest(spin);
    }
    /* Announce, then look again: the leader opens, then looks for sleepers (both sequentially
     * consistent), so one of the two sees the other. */
    akv_mutex_lock(&team->lock);
    atomic_fetch_add(&team->sleepers, 1);
    while (!is_open(atomic_load(&team->gate), seen) && !atomic_load(&team->stop))
        akv_cond_wait(&team->cond, &team->lock);
    atomic_fetch_sub(&team->sleepers, 1);
    akv_mutex_unlock(&team->lock);
    return !atomic_load(&team->stop);
}

static void *help(void *argument)
{
    const struct helper *helper = argument;
    struct akv_cpu_team *team = helper->team;
    uint32_t seen = 0;
    akv_fp_enter();
    while (wait_for_work(team, seen)) {
        uint64_t gate = atomic_load_explicit(&team->gate, memory_order_relaxed);
        if (!is_open(gate, seen))
            continue;
        if (!atomic_compare_exchange_strong_explicit(&team->gate, &gate, gate + 1,
                                                     memory_order_acquire, memory_order_relaxed))
            continue;
        seen = (uint32_t)(gate >> 32);
        take(team, helper->worker);
        atomic_fetch_sub_explicit(&team->gate, 1, memory_order_release);
    }
    return NULL;
}

void akv_cpu_team_run(struct akv_cpu_team *team, akv_cpu_work *work, const void *job,
                      uint64_t items)
{
    if (items == 0)
        return;
    if (team->helpers == 0 || items == 1) {
        work(job, 0, 0, items);
        return;
    }
    team->work = work;
    team->job = job;
    team->items = items;
    atomic_store_explicit(&team->next, 0, memory_order_relaxed);
    /* Generations skip 0, which a new helper has "seen". */
    uint32_t generation = (uint32_t)(atomic_load_explicit(&team->gate, memory_order_relaxed) >> 32);
    generation = generation == UINT32_MAX ? 1 : generation + 1;
    atomic_store(&team->gate, ((uint64_t)generation << 32) | GATE_OPEN);
    if (atomic_load(&team->sleepers))
        start_alone(team);
    take(team, 0);
    uint64_t gate = atomic_fetch_and_explicit(&team->gate, ~GATE_OPEN, memory_order_acquire);
    for (unsigned spin = 0; gate & GATE_INSIDE; spin++) {
        akv_cpu_rest(spin);
        gate = atomic_load_explicit(&team->gate, memory_order_acquire);
    }
}

static void stop(struct akv_cpu_team *team, uint32_t started)
{
    akv_mutex_lock(&team->lock);
    atomic_store(&team->stop, true);
    akv_cond_broadcast(&team->cond);
    akv_mutex_unlock(&team->lock);
    for (uint32_t i = 0; i < started; i++)
        akv_thread_join(&team->helper[i].thread);
}

anykv_status akv_cpu_team_create(anykv_context *context, uint32_t helpers,
                                 struct akv_cpu_team **team_out)
{
    struct akv_cpu_team *team = akv_alloc(context, 1, sizeof *team);
    if (!team)
        return ANYKV_E_MEMORY;
    team->context = context;
    team->helpers = helpers;
    anykv_status status = ANYKV_E_MEMORY;
    team->helper = akv_alloc(context, helpers ? helpers : 1, sizeof *team->helper);
    if (!team->helper)
        goto free_team;
    status = akv_mutex_init(context, &team->lock);
    if (status)
        goto free_threads;
    status = akv_cond_init(context, &team->cond);
    if (status)
        goto destroy_lock;
    for (uint32_t i = 0; i < helpers; i++) {
        team->helper[i].team = team;
        team->helper[i].worker = i + 1;
        status = akv_thread_start(context, &team->helper[i].thread, help, &team->helper[i]);
        if (status) {
            stop(team, i);
            goto destroy_cond;
        }
    }
    *team_out = team;
    return ANYKV_OK;
destroy_cond:
    akv_cond_destroy(&team->cond);
destroy_lock:
    akv_mutex_destroy(&team->lock);
free_threads:
    akv_free(context, team->helper);
free_team:
    akv_free(context, team);
    return status;
}

void akv_cpu_team_destroy(struct akv_cpu_team *team, bool forked)
{
    if (!team)
        return;
    if (!forked) {
        stop(team, team->helpers);
        akv_cond_destroy(&team->cond);
        akv_mutex_destroy(&team->lock);
    }
    akv_free(team->context, team->helper);
    akv_free(team->context, team);
}
