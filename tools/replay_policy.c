/* SPDX-License-Identifier: Apache-2.0 */
/* One run of `anykv replay`: a trace through the library's prefix index, block pool and policy. */
#include "pool.h"
#include "prefix.h"
#include "replay.h"

/* A block here is bookkeeping: the pool's smallest block, a chunk of its own. */
#define BLOCK_BYTES 16u

struct replay {
    const struct akv_trace *trace;
    struct akv_prefix prefix;
    struct akv_pool pool;
    uint32_t *nodes; /* of the request under way */
    uint64_t capacity;
    struct akv_replay_run *run;
    bool done_hints;
};

static anykv_status open_run(struct replay *replay, anykv_policy policy)
{
    const uint32_t block_bytes[AKV_POOL_KINDS] = {BLOCK_BYTES, 0};
    const struct akv_pool_shape shape = {BLOCK_BYTES, (uint32_t)replay->capacity, 1, block_bytes};
    anykv_status status = akv_prefix_init(&replay->prefix, NULL, 1, policy);
    if (status != ANYKV_OK)
        return status;
    status = akv_pool_init(&replay->pool, NULL, &shape);
    if (status != ANYKV_OK) {
        akv_prefix_finish(&replay->prefix);
        return status;
    }
    status = akv_pool_add_slab(&replay->pool, 0, (uint32_t)replay->capacity);
    if (status == ANYKV_OK)
        status = akv_prefix_reserve(&replay->prefix, (uint32_t)replay->capacity);
    if (status != ANYKV_OK) {
        akv_pool_finish(&replay->pool);
        akv_prefix_finish(&replay->prefix);
    }
    return status;
}

static void close_run(struct replay *replay)
{
    akv_pool_finish(&replay->pool);
    akv_prefix_finish(&replay->prefix);
}

static void evict(struct replay *replay, uint64_t count)
{
    uint64_t start = akv_thread_ns();
    for (uint64_t i = 0; i < count; i++) {
        uint32_t victim = akv_prefix_victim(&replay->prefix);
        assert(victim != AKV_NO_ID); /* what is held is less than the capacity */
        akv_pool_release(&replay->pool, *akv_prefix_blocks(&replay->prefix, victim));
        akv_prefix_remove(&replay->prefix, victim);
    }
    replay->run->eviction_ns += akv_thread_ns() - start;
    replay->run->evictions += count;
}

/* The leading run of cached blocks, held; returns its length. */
static uint32_t look_up(struct replay *replay, const uint32_t *ids, uint32_t count)
{
    uint32_t found = 0;
    for (; found < count; found++) {
        akv_digest key = akv_prefix_key_of(ids[found]);
        uint32_t node = akv_prefix_find(&replay->prefix, &key);
        if (node == AKV_NO_ID)
            break;
        akv_prefix_hold(&replay->prefix, node);
        replay->nodes[found] = node;
    }
    return found;
}

/* `partial`: the last of them is. */
static anykv_status insert(struct replay *replay, const uint32_t *ids, uint32_t first,
                           uint32_t count, bool partial)
{
    for (uint32_t i = first; i < count; i++) {
        akv_digest key = akv_prefix_key_of(ids[i]);
        bool scrub;
        uint32_t block = akv_pool_alloc(&replay->pool, 0, AKV_KIND_HOT, 1, &scrub);
        if (block == AKV_NO_ID)
            return akv_fail(NULL, ANYKV_E_INTERNAL, "pool: full after eviction");
        replay->nodes[i] =
            akv_prefix_insert(&replay->prefix, &key, i == 0 ? AKV_NO_ID : replay->nodes[i - 1], 0,
                              partial && i + 1 == count);
        if (replay->nodes[i] == AKV_NO_ID) {
            akv_pool_release(&replay->pool, block);
            return ANYKV_E_MEMORY;
        }
        *akv_prefix_blocks(&replay->prefix, replay->nodes[i]) = block;
    }
    return ANYKV_OK;
}

/* The request's conversation is over when the id before its last never comes again. */
static void hint_done(struct replay *replay, uint32_t request, uint32_t held)
{
    uint64_t first = replay->trace->first[request], last = replay->trace->first[request + 1];
    if (last - first < 2 || replay->trace->again[last - 2] != AKV_NEVER)
        return;
    for (uint32_t i = held; i-- > 0;) {
        if (replay->prefix.nodes[replay->nodes[i]].fan_out > 4)
            return;
        akv_prefix_demote(&replay->prefix, replay->nodes[i]);
    }
}

static anykv_status one_request(struct replay *replay, uint32_t request)
{
    const uint32_t *ids = replay->trace->id + replay->trace->first[request];
    uint32_t count = (uint32_t)(replay->trace->first[request + 1] - replay->trace->first[request]);
    akv_prefix_clock(&replay->prefix, replay->trace->seconds[request]);
    uint32_t found = look_up(replay, ids, count);
    replay->run->hits += found;
    uint32_t held = count > replay->capacity ? (uint32_t)replay->capacity : count;
    uint64_t room = replay->capacity - replay->prefix.count;
    if (held - found > room)
        evict(replay, held - found - room);
    anykv_status status =
        insert(replay, ids, found, held, held == count && replay->trace->partial[request]);
    if (status != ANYKV_OK)
        return status;
    uint64_t start = akv_thread_ns();
    akv_prefix_request(&replay->prefix, replay->nodes, held);
    replay->run->touch_ns += akv_thread_ns() - start;
    replay->run->touches += held;
    if (replay->done_hints)
        hint_done(replay, request, held);
    for (uint32_t i = held; i-- > 0;)
        akv_prefix_drop(&replay->prefix, replay->nodes[i]);
    return ANYKV_OK;
}

/* Room for the nodes of the longest request. */
static anykv_status make_nodes(struct replay *replay)
{
    const struct akv_trace *trace = replay->trace;
    uint64_t longest = 1;
    for (uint32_t r = 0; r < trace->requests; r++)
        if (trace->first[r + 1] - trace->first[r] > longest)
            longest = trace->first[r + 1] - trace->first[r];
    replay->nodes = akv_alloc(NULL, (size_t)longest, sizeof *replay->nodes);
    return replay->nodes == NULL ? ANYKV_E_MEMORY : ANYKV_OK;
}

anykv_status akv_replay_policy(const struct akv_trace *trace, uint64_t capacity,
                               anykv_policy policy, bool done_hints, struct akv_progress *progress,
                               struct akv_replay_run *run)
{
    struct replay replay;
    memset(&replay, 0, sizeof replay);
    memset(run, 0, sizeof *run);
    replay.trace = trace;
    replay.capacity = capacity;
    replay.run = run;
    replay.done_hints = done_hints;
    anykv_status status = make_nodes(&replay);
    if (status == ANYKV_OK)
        status = open_run(&replay, policy);
    if (status == ANYKV_OK) {
        for (uint32_t r = 0; r < trace->requests && status == ANYKV_OK; r++) {
            status = one_request(&replay, r);
            if (r % 1024 == 0)
                akv_progress_step(progress, r, NULL);
        }
        run->changes = replay.prefix.evict.changes;
        close_run(&replay);
    }
    akv_free(NULL, replay.nodes);
    return status;
}
