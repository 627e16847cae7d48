/* SPDX-License-Identifier: Apache-2.0 */
/* What the policies for comparison share: blocks in lists, and a request's way through them. */
#include "replay_lists.h"

void akv_rival_push(struct akv_rival *rival, uint32_t list, uint32_t id)
{
    struct akv_rival_list *l = &rival->list[list];
    struct akv_rival_block *b = &rival->block[id];
    assert(b->list == 0);
    b->list = (uint8_t)(list + 1);
    b->newer = AKV_RIVAL_NONE;
    b->older = l->newest;
    *(l->newest == AKV_RIVAL_NONE ? &l->oldest : &rival->block[l->newest].newer) = id;
    l->newest = id;
    l->count++;
}

void akv_rival_take(struct akv_rival *rival, uint32_t id)
{
    struct akv_rival_block *b = &rival->block[id];
    if (b->list == 0)
        return;
    struct akv_rival_list *l = &rival->list[b->list - 1];
    *(b->newer == AKV_RIVAL_NONE ? &l->newest : &rival->block[b->newer].older) = b->older;
    *(b->older == AKV_RIVAL_NONE ? &l->oldest : &rival->block[b->older].newer) = b->newer;
    b->list = 0;
    l->count--;
}

uint32_t akv_rival_oldest(const struct akv_rival *rival, uint32_t list)
{
    uint32_t id = rival->list[list].oldest;
    while (id != AKV_RIVAL_NONE &&
           (rival->block[id].children != 0 || rival->block[id].busy == rival->request))
        id = rival->block[id].newer;
    return id;
}

static void drop(struct akv_rival *rival, uint32_t id)
{
    const uint32_t parent = rival->trace->parent[id];
    rival->block[id].cached = false;
    rival->cached--;
    if (parent != AKV_NEVER)
        rival->block[parent].children--;
}

static void one_request(struct akv_rival *rival, struct akv_replay_run *run)
{
    const struct akv_trace *trace = rival->trace;
    const uint64_t first = trace->first[rival->request - 1];
    const uint32_t *id = trace->id + first;
    const uint64_t count = trace->first[rival->request] - first;
    const uint64_t held = count < rival->capacity ? count : rival->capacity;
    uint64_t found = 0;
    while (found < count && rival->block[id[found]].cached)
        found++;
    run->hits += found;
    for (uint64_t i = 0; i < held; i++)
        rival->block[id[i]].busy = rival->request;
    for (uint64_t i = found; i < held; i++) {
        if (rival->cached == rival->capacity) {
            const uint32_t victim = rival->victim(rival, id[i]);
            drop(rival, victim);
            run->evictions++;
        }
        rival->block[id[i]].cached = true;
        rival->cached++;
        if (trace->parent[id[i]] != AKV_NEVER)
            rival->block[trace->parent[id[i]]].children++;
    }
    for (uint64_t i = held; i-- > 0;) /* deepest first */
        rival->use(rival, id[i], i < found);
}

anykv_status akv_rival_run(struct akv_rival *rival, struct akv_replay_run *run)
{
    memset(run, 0, sizeof *run);
    rival->block = akv_alloc(NULL, (size_t)rival->trace->ids + 1, sizeof *rival->block);
    if (rival->block == NULL)
        return ANYKV_E_MEMORY;
    for (uint32_t l = 0; l < AKV_RIVAL_LISTS; l++)
        rival->list[l] = (struct akv_rival_list){AKV_RIVAL_NONE, AKV_RIVAL_NONE, 0};
    for (uint32_t r = 0; r < rival->trace->requests; r++) {
        rival->request = r + 1;
        one_request(rival, run);
    }
    akv_free(NULL, rival->block);
    return ANYKV_OK;
}
