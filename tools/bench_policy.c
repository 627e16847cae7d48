/* SPDX-License-Identifier: Apache-2.0 */
/* What a policy costs in an index of a million blocks: a touch, and an eviction with everything
 * that belongs to it. */
#include "bench_policy.h"
#include "prefix.h"

#define BLOCKS (1u << 20)
#define PATH   32u /* blocks of a request, one below the other */
#define PATHS  (BLOCKS / PATH)
#define WARM   (2u * PATHS) /* requests before anything is timed: memory is touched, ghosts fill */
#define TIMED  4096u

struct rig {
    struct akv_prefix prefix;
    uint32_t (*path)[PATH]; /* [PATHS] */
    uint64_t next;          /* number of the next new block */
    uint64_t random;
    double now;
};

static uint32_t below(struct rig *rig, uint32_t end)
{
    rig->random = rig->random * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)((rig->random >> 33) * end >> 31);
}

/* A new path in place of the old one's slot in `path`; the index has room. */
static anykv_status add_path(struct rig *rig, uint32_t which)
{
    uint32_t parent = AKV_NO_ID, *node = rig->path[which];
    for (uint32_t i = 0; i < PATH; i++) {
        const akv_digest key = akv_prefix_key_of(rig->next++);
        node[i] = parent = akv_prefix_insert(&rig->prefix, &key, parent, 0, false);
        if (parent == AKV_NO_ID)
            return ANYKV_E_MEMORY;
    }
    akv_prefix_request(&rig->prefix, node, PATH);
    for (uint32_t i = PATH; i-- > 0;)
        akv_prefix_drop(&rig->prefix, node[i]);
    return ANYKV_OK;
}

/* Takes out `count` blocks and adds what they leave room for; nanoseconds of the evictions. */
static anykv_status turn_over(struct rig *rig, uint64_t *ns_out)
{
    uint32_t gone[PATH];
    akv_prefix_clock(&rig->prefix, rig->now += 0.1);
    const uint64_t start = akv_thread_ns();
    for (uint32_t i = 0; i < PATH; i++) {
        gone[i] = akv_prefix_victim(&rig->prefix);
        akv_prefix_remove(&rig->prefix, gone[i]);
    }
    *ns_out += akv_thread_ns() - start;
    uint32_t parent = AKV_NO_ID, node[PATH];
    for (uint32_t i = 0; i < PATH; i++) {
        const akv_digest key = akv_prefix_key_of(rig->next++);
        node[i] = parent = akv_prefix_insert(&rig->prefix, &key, parent, 0, false);
        if (parent == AKV_NO_ID)
            return ANYKV_E_MEMORY;
    }
    akv_prefix_request(&rig->prefix, node, PATH);
    for (uint32_t i = PATH; i-- > 0;)
        akv_prefix_drop(&rig->prefix, node[i]);
    return ANYKV_OK;
}

/* Requests for cached paths, held and dropped outside the timing; nanoseconds of the touches. */
static void touch(struct rig *rig, uint64_t *ns_out)
{
    const uint32_t *node = rig->path[below(rig, PATHS)];
    akv_prefix_clock(&rig->prefix, rig->now += 0.1);
    for (uint32_t i = 0; i < PATH; i++)
        akv_prefix_hold(&rig->prefix, node[i]);
    const uint64_t start = akv_thread_ns();
    akv_prefix_request(&rig->prefix, node, PATH);
    *ns_out += akv_thread_ns() - start;
    for (uint32_t i = PATH; i-- > 0;)
        akv_prefix_drop(&rig->prefix, node[i]);
}

static anykv_status fill(struct rig *rig)
{
    anykv_status status = akv_prefix_reserve(&rig->prefix, BLOCKS);
    for (uint32_t i = 0; i < PATHS && status == ANYKV_OK; i++) {
        akv_prefix_clock(&rig->prefix, rig->now += 0.1);
        status = add_path(rig, i);
    }
    return status;
}

anykv_status bench_policy(struct bench *b, anykv_policy policy, bool evictions, double *ns,
                          uint32_t repeats)
{
    struct rig rig = {.random = 1, .now = 1.0};
    uint64_t ignored = 0;
    rig.path = akv_alloc(b->context, PATHS, sizeof *rig.path);
    if (!rig.path)
        return ANYKV_E_MEMORY;
    anykv_status status = akv_prefix_init(&rig.prefix, b->context, 0, policy);
    if (status == ANYKV_OK) {
        status = fill(&rig);
        for (uint32_t i = 0; i < WARM && evictions && status == ANYKV_OK; i++)
            status = turn_over(&rig, &ignored);
        for (uint32_t i = 0; i < TIMED && !evictions && status == ANYKV_OK; i++)
            touch(&rig, &ignored);
        for (uint32_t r = 0; r < repeats && status == ANYKV_OK; r++) {
            uint64_t total = 0;
            for (uint32_t i = 0; i < TIMED && status == ANYKV_OK; i++) {
                if (evictions)
                    status = turn_over(&rig, &total);
                else
                    touch(&rig, &total);
            }
            ns[r] = (double)total / ((double)TIMED * PATH);
        }
        akv_prefix_finish(&rig.prefix);
    }
    akv_free(b->context, rig.path);
    return status;
}
