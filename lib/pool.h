/* SPDX-License-Identifier: Apache-2.0 */
/* Block pool: chunks cut into blocks of one class, block ids with reference counts, and the exact
 * ledger.
 *
 * A class is a (layer group, kind).  A block id stays the same while its place and kind change:
 * sealing moves a block to another class, relocation to another chunk.  The pool is bookkeeping
 * only and owns no device memory; `anykv replay` uses one with a single class.
 *
 * Chunks are numbered as the kernels number them: chunk c lies in slab c / chunks_per_slab.  The
 * numbers of absent slabs are absent chunks.  Not thread-safe: the owner locks. */
#ifndef AKV_POOL_H
#define AKV_POOL_H
#include "evict.h" /* AKV_NO_ID */
#include "kernel/params.h"

#define AKV_KIND_HOT           0u
#define AKV_KIND_SEALED        1u
#define AKV_KIND_RUNG          2u /* the first rung of the precision ladder; lower ones follow */
#define AKV_MAX_RUNGS          4u
#define AKV_KIND_COLD          (AKV_KIND_RUNG + AKV_MAX_RUNGS) /* pages of compressed blocks */
#define AKV_POOL_KINDS         (AKV_KIND_COLD + 1u)
#define AKV_CLASS(group, kind) ((group)*AKV_POOL_KINDS + (kind))

#define AKV_TENANT_NONE   UINT64_C(0) /* never used since the chunk exists */
#define AKV_TENANT_MIXED  UINT64_MAX
#define AKV_TENANT_NOBODY UINT64_C(1) /* overwritten already */

struct akv_block {
    uint32_t entry;      /* kind and index, as tables name it */
    uint32_t refs;       /* sequences, open steps and the prefix node that hold it */
    uint32_t locks;      /* open steps that use it: it is neither moved nor sealed */
    uint32_t holds;      /* sequences that end inside it: it is not sealed */
    uint32_t node;       /* prefix node that holds it, or AKV_NO_ID; the cache's */
    uint32_t prev, next; /* neighbours in the cache's list of loose blocks; free records: next */
    uint32_t group;
    uint32_t mark;     /* scratch of the cache: serial of the step that counted it */
    uint32_t position; /* logical number in its sequences (in a region that tokens were evicted
                        * from: number there, or before a group kept all it had); the cache's */
    uint32_t used_at;  /* serial of the last step or match that took it; the cache's */
    uint8_t part;      /* whose bytes are counted: a part of the policy */
    uint8_t least;     /* rungs that its users accept below the layout's formats; the cache's */
    bool idle;      /* only an idle node or the loose list holds it: it can be evicted */
    bool loose;     /* in the list of loose blocks */
    bool page;      /* a page of the compressed block `position`, which holds it */
    uint8_t method, plain_kind; /* compressed: how, and the kind it has when it is read back; else 0 */
    uint8_t stubborn;           /* 1 + a kind in which it would not become smaller; the cache's */
    uint32_t more;              /* compressed: the next page, or AKV_NO_ID */
    uint32_t packed_bytes;      /* compressed: in its pages */
    uint64_t epoch; /* of the last write, for device failures; the cache's */
};

/* Compressed blocks by method; a compressed block's first page is its own place, the others hang on it. */
#define AKV_METHODS 5u
struct akv_pool_cold {
    uint64_t blocks;
    uint64_t bytes, plain_bytes; /* that their pages take, and their rows would */
};

struct akv_chunk {
    uint32_t class_;     /* AKV_CHUNK_FREE, AKV_CHUNK_ABSENT or a class */
    uint32_t used;       /* blocks in use */
    uint32_t locked;     /* of those, locked ones */
    uint32_t free_slot;  /* first free slot, 0x7FFFFFFF: none */
    uint32_t prev, next; /* among the class's chunks with free slots, or the free chunks */
    bool doomed;         /* being emptied for good: gets no further blocks */
    uint64_t tenant;     /* of every byte in a free chunk */
};
#define AKV_CHUNK_FREE   0xFFFFFFFEu
#define AKV_CHUNK_ABSENT 0xFFFFFFFDu

struct akv_pool_class {
    uint32_t block_bytes; /* 0: class unused */
    uint32_t per_chunk;
    uint32_t chunks, locked_chunks;
    uint32_t partial;    /* list of chunks with free slots */
    uint64_t used, idle; /* blocks */
};

struct akv_pool_shape {
    uint64_t chunk_bytes;
    uint32_t chunks_per_slab;
    uint32_t groups;
    const uint32_t *block_bytes; /* [groups * AKV_POOL_KINDS], 0: unused */
};

struct akv_pool {
    anykv_context *context;
    uint64_t chunk_bytes;
    uint32_t chunks_per_slab;
    uint32_t groups, classes;
    uint32_t slots_per_chunk;      /* of the class with the smallest blocks */
    uint32_t chunk_count;          /* numbers, absent ones included */
    uint32_t present, free_chunks; /* chunks, doomed ones left out */
    uint32_t reserve;              /* free chunks that akv_pool_fits leaves alone */
    uint32_t free_list;
    uint64_t used_bytes_peak;
    struct akv_pool_class *class_; /* [classes] */
    struct akv_chunk *chunks;      /* [chunk_count] */
    uint32_t *slot;           /* [chunk_count * slots_per_chunk]: block id, or the next free slot */
    uint64_t *slot_tenant;    /* same: whose bytes stand there */
    struct akv_block *blocks; /* records; never more than slots */
    uint32_t block_capacity, block_free;
    uint64_t part_bytes[AKV_PARTS]; /* of blocks, by part */
    struct akv_pool_cold cold[AKV_METHODS];
    uint64_t cold_blocks, cold_idle; /* compressed blocks, and those of them that are idle */
};

anykv_status akv_pool_init(struct akv_pool *pool, anykv_context *context,
                           const struct akv_pool_shape *shape);
void akv_pool_finish(struct akv_pool *pool);
/* Adds a slab of `chunks` chunks (at most chunks_per_slab) as number `slab`.  E_MEMORY: unchanged.
 */
anykv_status akv_pool_add_slab(struct akv_pool *pool, uint32_t slab, uint32_t chunks);
/* Takes a slab away whose chunks are all free or doomed and empty. */
void akv_pool_drop_slab(struct akv_pool *pool, uint32_t slab);

static inline uint64_t akv_pool_used_bytes(const struct akv_pool *pool)
{
    return (uint64_t)(pool->present - pool->free_chunks) * pool->chunk_bytes;
}

/* ---- blocks ---- */

/* A block of the class with one reference, or AKV_NO_ID where no slot and no chunk is free.
 * scrub_out: the bytes belonged to another tenant and must be overwritten before they can be read.
 */
uint32_t akv_pool_alloc(struct akv_pool *pool, uint32_t group, uint32_t kind, uint64_t tenant,
                        bool *scrub_out);
/* Counts the block's bytes for a part; a new one counts for part 0. */
void akv_pool_set_part(struct akv_pool *pool, uint32_t block, uint32_t part);
static inline struct akv_block *akv_pool_block(const struct akv_pool *pool, uint32_t block)
{
    assert(block < pool->block_capacity && pool->blocks[block].refs);
    return &pool->blocks[block];
}
static inline void akv_pool_acquire(struct akv_pool *pool, uint32_t block)
{
    akv_pool_block(pool, block)->refs++;
}
/* True when that was the last reference and the block is gone. */
bool akv_pool_release(struct akv_pool *pool, uint32_t block);
void akv_pool_lock(struct akv_pool *pool, uint32_t block);
void akv_pool_unlock(struct akv_pool *pool, uint32_t block);
void akv_pool_set_idle(struct akv_pool *pool, uint32_t block, bool idle);
/* Whose bytes stand in the block's place from now on. */
void akv_pool_set_tenant(struct akv_pool *pool, uint32_t block, uint64_t tenant);
uint64_t akv_pool_tenant(const struct akv_pool *pool, uint32_t block);
/* Exchanges the places of two blocks of one group: `block` becomes what `other` was and the
 * reverse. */
void akv_pool_swap(struct akv_pool *pool, uint32_t block, uint32_t other);
static inline uint32_t akv_block_kind(const struct akv_block *block)
{
    return block->entry >> 28;
}
/* The kind that the block's rows have, or have again when they are read back. */
static inline uint32_t akv_block_rows(const struct akv_block *block)
{
    return block->method ? block->plain_kind : akv_block_kind(block);
}
static inline uint32_t akv_pool_class_of(const struct akv_block *block)
{
    return AKV_CLASS(block->group, akv_block_kind(block));
}

/* Bytes that the block takes: of its place, or of all its pages. */
static inline uint64_t akv_pool_block_bytes(const struct akv_pool *pool, const struct akv_block *block)
{
    const uint64_t each = pool->class_[akv_pool_class_of(block)].block_bytes;
    return block->method ? (block->packed_bytes + each - 1) / each * each : each;
}
/* The block, not idle, is compressed from now on: its bytes stand in these new pages, its place is
 * free.  And back: it takes the place of `to`, a new block that goes, and its pages are free. */
void akv_pool_compress(struct akv_pool *pool, uint32_t block, const uint32_t *pages, uint32_t count,
                       uint32_t method, uint32_t packed_bytes);
void akv_pool_restore(struct akv_pool *pool, uint32_t block, uint32_t to);

/* The map that kernels get for a layer group. */
akv_pool_map akv_pool_group_map(const struct akv_pool *pool, uint32_t group, uint32_t slabs);
/* Pool address (slab and offset) of an entry of a group. */
uint64_t akv_pool_address(const struct akv_pool *pool, uint32_t group, uint32_t entry);

/* ---- room ---- */

/* Is there room for need[class] further blocks: as things stand; and after evicting every idle
 * block (without_idle) and emptying chunks by relocation. */
bool akv_pool_fits(const struct akv_pool *pool, const uint32_t *need);
bool akv_pool_could_fit(const struct akv_pool *pool, const uint32_t *need, bool without_idle,
                        uint32_t limit_chunks);
/* The fewest chunks that hold the blocks in use (idle ones left out on request), need[] and the
 * reserve. */
uint64_t akv_pool_least_chunks(const struct akv_pool *pool, const uint32_t *need,
                               bool without_idle);
/* Bytes of need[]'s blocks, and of the blocks in use that are not idle. */
uint64_t akv_pool_need_bytes(const struct akv_pool *pool, const uint32_t *need);
uint64_t akv_pool_held_bytes(const struct akv_pool *pool);

/* The chunk to empty next so that need[] (NULL: nothing) fits, AKV_NO_ID: none can be emptied. */
uint32_t akv_pool_sparse_chunk(const struct akv_pool *pool, const uint32_t *need);
/* Plans the relocation of up to `capacity` blocks of a chunk: src and dst addresses and the block
 * ids, without changing anything but reserving the places; returns their number (0: empty or no
 * place). Then either commit, after the copy was enqueued, or undo. */
uint32_t akv_pool_plan_moves(struct akv_pool *pool, uint32_t chunk, uint32_t capacity,
                             akv_move *moves, uint32_t *from, uint32_t *to);
void akv_pool_commit_moves(struct akv_pool *pool, const uint32_t *from, const uint32_t *to,
                           uint32_t count);
void akv_pool_undo_moves(struct akv_pool *pool, const uint32_t *to, uint32_t count);
/* Marks the chunks of a slab as doomed or not. */
void akv_pool_doom_slab(struct akv_pool *pool, uint32_t slab, bool doomed);

#endif
