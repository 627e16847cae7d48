/* SPDX-License-Identifier: Apache-2.0 */
/* Ghosts: what is remembered of blocks that are no longer cached. */
#include "ghost.h"

#define BUCKETS_A_BLOCK 2u /* 16 entries: 12 of blocks, 4 of ends */

/* Entries of one sort in the tag's bucket. */
static struct akv_ghost *bucket(const struct akv_ghosts *ghosts, enum akv_ghost_sort sort,
                                uint64_t tag, uint32_t *count_out)
{
    /* The upper half of the tag times the number of buckets: no division, any number of buckets. */
    const uint64_t high = tag >> 32;
    struct akv_ghost *first =
        ghosts->entry + (high * ghosts->buckets >> 32) * (uint64_t)AKV_GHOST_BUCKET;
    *count_out = sort == AKV_GHOST_BLOCK ? AKV_GHOST_BLOCKS : AKV_GHOST_BUCKET - AKV_GHOST_BLOCKS;
    return sort == AKV_GHOST_BLOCK ? first : first + AKV_GHOST_BLOCKS;
}

void akv_ghosts_prefetch(const struct akv_ghosts *ghosts, uint64_t tag)
{
#if defined(__GNUC__)
    uint32_t count;
    if (ghosts->buckets == 0)
        return;
    const struct akv_ghost *entry = bucket(ghosts, AKV_GHOST_BLOCK, tag, &count);
    __builtin_prefetch(entry, 1);
    __builtin_prefetch(entry + AKV_GHOST_BUCKET / 2, 1);
#else
    (void)ghosts;
    (void)tag;
#endif
}

bool akv_ghosts_put(struct akv_ghosts *ghosts, enum akv_ghost_sort sort, struct akv_ghost ghost,
                    struct akv_ghost *pushed_out)
{
    uint32_t count, at = 0;
    if (ghosts->buckets == 0)
        return false;
    struct akv_ghost *entry = bucket(ghosts, sort, ghost.tag, &count);
    while (at + 1 < count && entry[at].tag != 0 && entry[at].tag != ghost.tag)
        at++;
    const bool pushed = entry[at].tag != 0 && entry[at].tag != ghost.tag;
    if (pushed && pushed_out)
        *pushed_out = entry[at];
    memmove(entry + 1, entry, at * sizeof *entry);
    entry[0] = ghost;
    return pushed;
}

const struct akv_ghost *akv_ghosts_find(const struct akv_ghosts *ghosts, enum akv_ghost_sort sort,
                                        uint64_t tag)
{
    uint32_t count;
    if (ghosts->buckets == 0)
        return NULL;
    const struct akv_ghost *entry = bucket(ghosts, sort, tag, &count);
    for (uint32_t i = 0; i < count && entry[i].tag != 0; i++)
        if (entry[i].tag == tag)
            return &entry[i];
    return NULL;
}

bool akv_ghosts_take(struct akv_ghosts *ghosts, enum akv_ghost_sort sort, uint64_t tag,
                     struct akv_ghost *ghost_out)
{
    uint32_t count;
    const struct akv_ghost *found = akv_ghosts_find(ghosts, sort, tag);
    if (!found)
        return false;
    struct akv_ghost *entry = bucket(ghosts, sort, tag, &count);
    const uint32_t at = (uint32_t)(found - entry);
    *ghost_out = *found;
    memmove(entry + at, entry + at + 1, (count - at - 1) * sizeof *entry);
    entry[count - 1].tag = 0;
    return true;
}

anykv_status akv_ghosts_reserve(struct akv_ghosts *ghosts, anykv_context *context, uint64_t blocks)
{
    struct akv_ghosts wider = {context, NULL, blocks * BUCKETS_A_BLOCK};
    ghosts->context = context;
    if (wider.buckets <= ghosts->buckets)
        return ANYKV_OK;
    if (wider.buckets > UINT32_MAX)
        return akv_fail(context, ANYKV_E_MEMORY, "ghosts: more than 2^31 blocks");
    wider.entry = akv_alloc(context, (size_t)wider.buckets, AKV_GHOST_BUCKET * sizeof *wider.entry);
    if (!wider.entry)
        return ANYKV_E_MEMORY;
    for (uint64_t b = 0; b < ghosts->buckets; b++)
        for (uint32_t i = AKV_GHOST_BUCKET; i-- > 0;) { /* oldest first */
            const struct akv_ghost *old = &ghosts->entry[b * AKV_GHOST_BUCKET + i];
            if (old->tag)
                akv_ghosts_put(&wider, i < AKV_GHOST_BLOCKS ? AKV_GHOST_BLOCK : AKV_GHOST_END, *old,
                               NULL);
        }
    akv_free(context, ghosts->entry);
    *ghosts = wider;
    return ANYKV_OK;
}

void akv_ghosts_finish(struct akv_ghosts *ghosts)
{
    akv_free(ghosts->context, ghosts->entry);
    memset(ghosts, 0, sizeof *ghosts);
}
