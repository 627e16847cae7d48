/* SPDX-License-Identifier: Apache-2.0 */
/* Heaps of candidates: four children a node, a hole at the top after a removal there. */
#include "evict.h"

static void put_item(struct akv_evict *evict, struct akv_heap *heap, uint32_t at,
                     struct akv_evict_item item)
{
    *akv_heap_at(heap, at) = item;
    evict->place[item.id] = (at + 1) | heap->mark;
}

static void sift_up(struct akv_evict *evict, struct akv_heap *heap, uint32_t at,
                    struct akv_evict_item item)
{
    while (at > 0) {
        const uint32_t parent = (at - 1) / 4;
        if (akv_heap_at(heap, parent)->key <= item.key)
            break;
        put_item(evict, heap, at, *akv_heap_at(heap, parent));
        at = parent;
    }
    put_item(evict, heap, at, item);
}

static void sift_down(struct akv_evict *evict, struct akv_heap *heap, uint32_t at,
                      struct akv_evict_item item)
{
    for (;;) {
        const uint64_t first = (uint64_t)at * 4 + 1;
        if (first >= heap->count)
            break;
        const uint64_t end = first + 4 < heap->count ? first + 4 : heap->count;
        uint32_t least = (uint32_t)first;
        for (uint32_t child = (uint32_t)first + 1; child < end; child++)
            if (akv_heap_at(heap, child)->key < akv_heap_at(heap, least)->key)
                least = child;
        if (akv_heap_at(heap, least)->key >= item.key)
            break;
        put_item(evict, heap, at, *akv_heap_at(heap, least));
        at = least;
    }
    put_item(evict, heap, at, item);
}

void akv_heap_repair(struct akv_evict *evict, struct akv_heap *heap)
{
    if (!heap->hole)
        return;
    heap->hole = false;
    sift_down(evict, heap, 0, *akv_heap_at(heap, --heap->count));
}

void akv_heap_add(struct akv_evict *evict, struct akv_heap *heap, uint64_t key, uint32_t id)
{
    const struct akv_evict_item item = {key, id, 0};
    if (heap->hole) {
        heap->hole = false;
        sift_down(evict, heap, 0, item);
    } else
        sift_up(evict, heap, heap->count++, item);
}

void akv_heap_remove(struct akv_evict *evict, struct akv_heap *heap, uint32_t id)
{
    akv_heap_repair(evict, heap);
    const uint32_t at = (evict->place[id] & ~AKV_HEAP_MARK) - 1;
    if (at == 0 && heap->count > 1) {
        heap->hole = true;
        return;
    }
    const struct akv_evict_item last = *akv_heap_at(heap, --heap->count);
    if (at == heap->count)
        return;
    if (at > 0 && last.key < akv_heap_at(heap, (at - 1) / 4)->key)
        sift_up(evict, heap, at, last);
    else
        sift_down(evict, heap, at, last);
}

/* Items whose parents were taken wait in a small heap of their own. */
uint32_t akv_heap_first(const struct akv_heap *heap, uint64_t below, uint32_t most, uint32_t *ids)
{
    struct akv_evict_item wait[3 * AKV_COLDEST + 4]; /* id: the position */
    uint32_t waiting = 0, count = 0;
    if (heap->count)
        wait[waiting++] = (struct akv_evict_item){heap->base->key, 0, 0};
    while (waiting && count < most && wait[0].key < below) {
        const uint32_t at = wait[0].id;
        ids[count++] = akv_heap_at(heap, at)->id;
        struct akv_evict_item last = wait[--waiting];
        uint32_t hole = 0;
        while (hole * 2 + 1 < waiting) {
            uint32_t child = hole * 2 + 1;
            if (child + 1 < waiting && wait[child + 1].key < wait[child].key)
                child++;
            if (wait[child].key >= last.key)
                break;
            wait[hole] = wait[child];
            hole = child;
        }
        wait[hole] = last;
        for (uint64_t c = (uint64_t)at * 4 + 1; c <= (uint64_t)at * 4 + 4 && c < heap->count; c++) {
            const struct akv_evict_item item = {akv_heap_at(heap, (uint32_t)c)->key, (uint32_t)c,
                                                0};
            hole = waiting++;
            /* cppcheck-suppress arrayIndexOutOfBoundsCond ; hole is at least 1 here */
            while (hole > 0 && wait[(hole - 1) / 2].key > item.key) {
                /* cppcheck-suppress arrayIndexOutOfBoundsCond */
                wait[hole] = wait[(hole - 1) / 2];
                hole = (hole - 1) / 2;
            }
            wait[hole] = item;
        }
    }
    return count;
}
