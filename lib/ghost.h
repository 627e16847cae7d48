/* SPDX-License-Identifier: Apache-2.0 */
/* Ghosts: what is remembered of blocks that are no longer cached. */
#ifndef AKV_GHOST_H
#define AKV_GHOST_H
#include "internal.h"

/* A table of buckets; in a bucket the newest comes first and pushes the oldest out, so the whole is
 * a FIFO within the fluctuation of a hash.  Two sorts share a bucket, so that one memory access
 * serves both: blocks that were evicted, and ends of requests, which reach much further back. */
struct akv_ghost {
    uint64_t tag; /* of the block's key; 0: empty */
    uint32_t time;
    uint32_t data;
};
enum akv_ghost_sort { AKV_GHOST_BLOCK, AKV_GHOST_END };
#define AKV_GHOST_BLOCKS 6u /* of a bucket */
#define AKV_GHOST_BUCKET 8u

struct akv_ghosts {
    anykv_context *context;
    struct akv_ghost *entry;
    uint64_t buckets;
};

/* Room for 12 evicted blocks and 4 ends for each of `blocks`; grows only, keeps what is there.
 * E_MEMORY: nothing changed. */
anykv_status akv_ghosts_reserve(struct akv_ghosts *ghosts, anykv_context *context, uint64_t blocks);
void akv_ghosts_finish(struct akv_ghosts *ghosts);
/* Adds, or renews, a tag; true: another one went, and is in *pushed_out (which may be NULL). */
bool akv_ghosts_put(struct akv_ghosts *ghosts, enum akv_ghost_sort sort, struct akv_ghost ghost,
                    struct akv_ghost *pushed_out);
/* The tag's ghost of this sort, or NULL; valid until the next change. */
const struct akv_ghost *akv_ghosts_find(const struct akv_ghosts *ghosts, enum akv_ghost_sort sort,
                                        uint64_t tag);
/* Takes it out, as when the block is cached again. */
bool akv_ghosts_take(struct akv_ghosts *ghosts, enum akv_ghost_sort sort, uint64_t tag,
                     struct akv_ghost *ghost_out);
/* Starts the memory access that put, find and take will need. */
void akv_ghosts_prefetch(const struct akv_ghosts *ghosts, uint64_t tag);
static inline uint64_t akv_ghosts_bytes(const struct akv_ghosts *ghosts)
{
    return ghosts->buckets * AKV_GHOST_BUCKET * sizeof(struct akv_ghost);
}

#endif
