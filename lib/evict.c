/* SPDX-License-Identifier: Apache-2.0 */
/* Eviction policy: a heap of candidates by key, and the table of policies. */
#include "evict.h"

anykv_status akv_evict_init(struct akv_evict *evict, anykv_context *context, anykv_policy policy)
{
    memset(evict, 0, sizeof *evict);
    evict->context = context;
    evict->policy = akv_policy_find(policy);
    if (!evict->policy)
        return akv_fail(context, ANYKV_E_ARG, "policy: %d is none of the known policies",
                        (int)policy);
    return ANYKV_OK;
}

void akv_evict_finish(struct akv_evict *evict)
{
    akv_free(evict->context, evict->heap);
    akv_free(evict->context, evict->place);
    akv_free(evict->context, evict->key);
    evict->heap = NULL;
    evict->place = NULL;
    evict->key = NULL;
    evict->capacity = evict->count = 0;
}

anykv_status akv_evict_reserve(struct akv_evict *evict, uint32_t capacity)
{
    const uint32_t old = evict->capacity;
    if (capacity <= old)
        return ANYKV_OK;
    struct akv_evict_item *heap =
        akv_resize(evict->context, evict->heap, old, capacity, sizeof *heap);
    if (!heap)
        return ANYKV_E_MEMORY;
    evict->heap = heap;
    uint32_t *place = akv_resize(evict->context, evict->place, old, capacity, sizeof *place);
    if (!place)
        return ANYKV_E_MEMORY;
    evict->place = place;
    uint64_t *key = akv_resize(evict->context, evict->key, old, capacity, sizeof *key);
    if (!key)
        return ANYKV_E_MEMORY;
    evict->key = key;
    evict->capacity = capacity;
    return ANYKV_OK;
}

static void put_item(struct akv_evict *evict, uint32_t at, struct akv_evict_item item)
{
    evict->heap[at] = item;
    evict->place[item.id] = at + 1;
}

static void sift_up(struct akv_evict *evict, uint32_t at, struct akv_evict_item item)
{
    while (at > 0) {
        const uint32_t parent = (at - 1) / 4;
        if (evict->heap[parent].key <= item.key)
            break;
        put_item(evict, at, evict->heap[parent]);
        at = parent;
    }
    put_item(evict, at, item);
}

static void sift_down(struct akv_evict *evict, uint32_t at, struct akv_evict_item item)
{
    for (;;) {
        const uint64_t first = (uint64_t)at * 4 + 1;
        if (first >= evict->count)
            break;
        const uint64_t end = first + 4 < evict->count ? first + 4 : evict->count;
        uint32_t least = (uint32_t)first;
        for (uint32_t child = (uint32_t)first + 1; child < end; child++)
            if (evict->heap[child].key < evict->heap[least].key)
                least = child;
        if (evict->heap[least].key >= item.key)
            break;
        put_item(evict, at, evict->heap[least]);
        at = least;
    }
    put_item(evict, at, item);
}

static void set_key(struct akv_evict *evict, uint32_t id, uint64_t key)
{
    assert(id < evict->capacity);
    const uint64_t old = evict->key[id];
    evict->key[id] = key;
    if (evict->place[id] == 0)
        return;
    const struct akv_evict_item item = {key, id, 0};
    if (key < old)
        sift_up(evict, evict->place[id] - 1, item);
    else
        sift_down(evict, evict->place[id] - 1, item);
}

void akv_evict_touch(struct akv_evict *evict, uint32_t id)
{
    evict->tick++;
    set_key(evict, id, AKV_EVICT_TOUCHED | evict->policy->touch(evict, id));
}

void akv_evict_demote(struct akv_evict *evict, uint32_t id)
{
    set_key(evict, id, evict->line++);
}

void akv_evict_enter(struct akv_evict *evict, uint32_t id)
{
    assert(id < evict->capacity);
    if (evict->place[id] != 0)
        return;
    const struct akv_evict_item item = {evict->key[id], id, 0};
    sift_up(evict, evict->count++, item);
}

void akv_evict_leave(struct akv_evict *evict, uint32_t id)
{
    assert(id < evict->capacity);
    if (evict->place[id] == 0)
        return;
    const uint32_t at = evict->place[id] - 1;
    evict->place[id] = 0;
    const struct akv_evict_item last = evict->heap[--evict->count];
    if (at == evict->count)
        return;
    if (at > 0 && last.key < evict->heap[(at - 1) / 4].key)
        sift_up(evict, at, last);
    else
        sift_down(evict, at, last);
}

static uint64_t touch_lru(struct akv_evict *evict, uint32_t id)
{
    (void)id;
    return evict->tick;
}

static const struct akv_policy policies[] = {
    {ANYKV_POLICY_LRU, "lru", touch_lru},
};

const struct akv_policy *akv_policy_find(anykv_policy id)
{
    for (size_t i = 0; i < sizeof policies / sizeof policies[0]; i++)
        if (policies[i].id == id)
            return &policies[i];
    return NULL;
}

const struct akv_policy *akv_policy_parse(const char *name)
{
    for (size_t i = 0; name && i < sizeof policies / sizeof policies[0]; i++)
        if (strcmp(policies[i].name, name) == 0)
            return &policies[i];
    return NULL;
}
