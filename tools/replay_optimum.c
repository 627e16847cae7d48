/* SPDX-License-Identifier: Apache-2.0 */
/* The offline optimum: how many lookups of a trace any policy could turn into hits.
 *
 * Out goes the block whose next request is farthest, the deeper one of equals; a new block that
 * would be the first to go is not taken in (bypass).  A block is never requested before its parent,
 * so what is kept is closed under parents by itself and the hits of a request are its cached
 * blocks. */
#include "replay_optimum.h"

struct entry {
    uint64_t key; /* next request, then depth: the largest goes */
    uint32_t id;
};
struct optimum {
    struct entry *heap; /* [ids], the largest first */
    uint32_t *place;    /* [ids]: position + 1; 0: not cached */
    uint32_t count;
};

static void put(struct optimum *o, uint32_t at, struct entry entry)
{
    o->heap[at] = entry;
    o->place[entry.id] = at + 1;
}

static void up(struct optimum *o, uint32_t at, struct entry entry)
{
    for (; at > 0 && o->heap[(at - 1) / 2].key < entry.key; at = (at - 1) / 2)
        put(o, at, o->heap[(at - 1) / 2]);
    put(o, at, entry);
}

static void down(struct optimum *o, uint32_t at, struct entry entry)
{
    for (;;) {
        uint64_t child = (uint64_t)at * 2 + 1;
        if (child >= o->count)
            break;
        if (child + 1 < o->count && o->heap[child + 1].key > o->heap[child].key)
            child++;
        if (o->heap[child].key <= entry.key)
            break;
        put(o, at, o->heap[child]);
        at = (uint32_t)child;
    }
    put(o, at, entry);
}

static void set(struct optimum *o, uint32_t id, uint64_t key)
{
    struct entry entry = {key, id};
    if (o->place[id] == 0)
        up(o, o->count++, entry);
    else if (key > o->heap[o->place[id] - 1].key)
        up(o, o->place[id] - 1, entry);
    else
        down(o, o->place[id] - 1, entry);
}

static void drop_largest(struct optimum *o)
{
    o->place[o->heap[0].id] = 0;
    struct entry last = o->heap[--o->count];
    if (o->count > 0)
        down(o, 0, last);
}

anykv_status akv_replay_optimum(const struct akv_trace *trace, uint64_t capacity,
                                uint64_t *hits_out)
{
    uint64_t hits = 0;
    struct optimum o = {akv_alloc(NULL, (size_t)trace->ids + 1, sizeof(struct entry)),
                        akv_alloc(NULL, (size_t)trace->ids + 1, sizeof(uint32_t)), 0};
    anykv_status status = o.heap == NULL || o.place == NULL ? ANYKV_E_MEMORY : ANYKV_OK;
    for (uint32_t r = 0; r < trace->requests && status == ANYKV_OK; r++) {
        uint64_t first = trace->first[r], last = trace->first[r + 1];
        for (uint64_t i = first; i < last && o.place[trace->id[i]] != 0; i++)
            hits++;
        for (uint64_t i = first; i < last; i++)
            set(&o, trace->id[i], (uint64_t)trace->again[i] << 32 | trace->depth[trace->id[i]]);
        while (o.count > capacity)
            drop_largest(&o);
    }
    akv_free(NULL, o.heap);
    akv_free(NULL, o.place);
    *hits_out = hits;
    return status;
}
