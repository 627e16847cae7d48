/* SPDX-License-Identifier: Apache-2.0 */
/* Block pool: chunks, places, block ids and their counts. */
#include "pool.h"

#define SLOT_FREE 0x80000000u /* in slot[]: free, the low bits are the next free slot */
#define SLOT_END  0x7FFFFFFFu

/* ---- lists of chunks: free ones, and per class those with free slots ---- */

static uint32_t *list_of(struct akv_pool *pool, const struct akv_chunk *chunk)
{
    return chunk->class_ == AKV_CHUNK_FREE ? &pool->free_list
                                           : &pool->class_[chunk->class_].partial;
}

static void link_chunk(struct akv_pool *pool, uint32_t c)
{
    struct akv_chunk *chunk = &pool->chunks[c];
    uint32_t *head = list_of(pool, chunk);
    chunk->prev = AKV_NO_ID;
    chunk->next = *head;
    if (*head != AKV_NO_ID)
        pool->chunks[*head].prev = c;
    *head = c;
}

static void unlink_chunk(struct akv_pool *pool, uint32_t c)
{
    struct akv_chunk *chunk = &pool->chunks[c];
    if (chunk->prev != AKV_NO_ID)
        pool->chunks[chunk->prev].next = chunk->next;
    else
        *list_of(pool, chunk) = chunk->next;
    if (chunk->next != AKV_NO_ID)
        pool->chunks[chunk->next].prev = chunk->prev;
    chunk->prev = chunk->next = AKV_NO_ID;
}

/* Is the chunk in the list it would belong to? */
static bool listed(const struct akv_chunk *chunk)
{
    if (chunk->doomed || chunk->class_ == AKV_CHUNK_ABSENT)
        return false;
    return chunk->class_ == AKV_CHUNK_FREE || chunk->free_slot != SLOT_END;
}

/* ---- making and growing ---- */

anykv_status akv_pool_init(struct akv_pool *pool, anykv_context *context,
                           const struct akv_pool_shape *shape)
{
    memset(pool, 0, sizeof *pool);
    pool->context = context;
    pool->chunk_bytes = shape->chunk_bytes;
    pool->chunks_per_slab = shape->chunks_per_slab;
    pool->groups = shape->groups;
    pool->classes = shape->groups * AKV_POOL_KINDS;
    pool->free_list = pool->block_free = AKV_NO_ID;
    pool->class_ = akv_alloc(context, pool->classes, sizeof *pool->class_);
    if (!pool->class_)
        return ANYKV_E_MEMORY;
    for (uint32_t c = 0; c < pool->classes; c++) {
        struct akv_pool_class *class_ = &pool->class_[c];
        class_->block_bytes = shape->block_bytes[c];
        class_->partial = AKV_NO_ID;
        if (class_->block_bytes == 0)
            continue;
        assert(class_->block_bytes <= shape->chunk_bytes);
        class_->per_chunk = (uint32_t)(shape->chunk_bytes / class_->block_bytes);
        if (class_->per_chunk > pool->slots_per_chunk)
            pool->slots_per_chunk = class_->per_chunk;
    }
    return ANYKV_OK;
}

void akv_pool_finish(struct akv_pool *pool)
{
    akv_free(pool->context, pool->class_);
    akv_free(pool->context, pool->chunks);
    akv_free(pool->context, pool->slot);
    akv_free(pool->context, pool->slot_tenant);
    akv_free(pool->context, pool->blocks);
    memset(pool, 0, sizeof *pool);
}

/* Arrays for chunk numbers below `count`. */
static anykv_status grow(struct akv_pool *pool, uint32_t count)
{
    const uint32_t old = pool->chunk_count;
    if (count <= old)
        return ANYKV_OK;
    const size_t per = pool->slots_per_chunk, old_slots = old * per, slots = count * per;
    struct akv_chunk *chunks = akv_resize(pool->context, pool->chunks, old, count, sizeof *chunks);
    if (!chunks)
        return ANYKV_E_MEMORY;
    pool->chunks = chunks;
    uint32_t *slot = akv_resize(pool->context, pool->slot, old_slots, slots, sizeof *slot);
    if (!slot)
        return ANYKV_E_MEMORY;
    pool->slot = slot;
    uint64_t *tenant =
        akv_resize(pool->context, pool->slot_tenant, old_slots, slots, sizeof *tenant);
    if (!tenant)
        return ANYKV_E_MEMORY;
    pool->slot_tenant = tenant;
    struct akv_block *blocks =
        akv_resize(pool->context, pool->blocks, pool->block_capacity, slots, sizeof *blocks);
    if (!blocks)
        return ANYKV_E_MEMORY;
    pool->blocks = blocks;
    for (size_t i = slots; i-- > pool->block_capacity;) {
        blocks[i].next = pool->block_free;
        pool->block_free = (uint32_t)i;
    }
    pool->block_capacity = (uint32_t)slots;
    for (uint32_t c = old; c < count; c++)
        chunks[c].class_ = AKV_CHUNK_ABSENT;
    pool->chunk_count = count;
    return ANYKV_OK;
}

anykv_status akv_pool_add_slab(struct akv_pool *pool, uint32_t slab, uint32_t chunks)
{
    assert(chunks <= pool->chunks_per_slab);
    const uint32_t first = slab * pool->chunks_per_slab;
    if (((uint64_t)first + chunks) * pool->slots_per_chunk >= SLOT_END)
        return akv_fail(pool->context, ANYKV_E_MEMORY, "pool: more than 2^31 blocks");
    anykv_status status = grow(pool, first + chunks);
    if (status)
        return status;
    uint32_t last = pool->free_list; /* chunks of later slabs are taken later */
    while (last != AKV_NO_ID && pool->chunks[last].next != AKV_NO_ID)
        last = pool->chunks[last].next;
    for (uint32_t c = first; c < first + chunks; c++) {
        struct akv_chunk *chunk = &pool->chunks[c];
        assert(chunk->class_ == AKV_CHUNK_ABSENT);
        memset(chunk, 0, sizeof *chunk);
        chunk->class_ = AKV_CHUNK_FREE;
        chunk->free_slot = SLOT_END;
        chunk->tenant = AKV_TENANT_NONE;
        chunk->prev = last;
        chunk->next = AKV_NO_ID;
        *(last == AKV_NO_ID ? &pool->free_list : &pool->chunks[last].next) = c;
        last = c;
        pool->present++;
        pool->free_chunks++;
    }
    return ANYKV_OK;
}

static uint32_t slab_end(const struct akv_pool *pool, uint32_t slab)
{
    const uint64_t end = ((uint64_t)slab + 1) * pool->chunks_per_slab;
    return end < pool->chunk_count ? (uint32_t)end : pool->chunk_count;
}

void akv_pool_doom_slab(struct akv_pool *pool, uint32_t slab, bool doomed)
{
    for (uint32_t c = slab * pool->chunks_per_slab; c < slab_end(pool, slab); c++) {
        struct akv_chunk *chunk = &pool->chunks[c];
        if (chunk->class_ == AKV_CHUNK_ABSENT || chunk->doomed == doomed)
            continue;
        if (listed(chunk))
            unlink_chunk(pool, c);
        chunk->doomed = doomed;
        if (listed(chunk))
            link_chunk(pool, c);
        pool->present += doomed ? -1u : 1u;
        if (chunk->class_ == AKV_CHUNK_FREE)
            pool->free_chunks += doomed ? -1u : 1u;
    }
}

void akv_pool_drop_slab(struct akv_pool *pool, uint32_t slab)
{
    for (uint32_t c = slab * pool->chunks_per_slab; c < slab_end(pool, slab); c++) {
        struct akv_chunk *chunk = &pool->chunks[c];
        if (chunk->class_ == AKV_CHUNK_ABSENT)
            continue;
        assert(chunk->class_ == AKV_CHUNK_FREE);
        if (!chunk->doomed) {
            unlink_chunk(pool, c);
            pool->free_chunks--;
            pool->present--;
        }
        chunk->class_ = AKV_CHUNK_ABSENT;
        chunk->doomed = false;
    }
}

/* ---- blocks ---- */

/* Makes a free chunk one of the class. */
static void carve(struct akv_pool *pool, uint32_t c, uint32_t class_index)
{
    struct akv_pool_class *class_ = &pool->class_[class_index];
    struct akv_chunk *chunk = &pool->chunks[c];
    const size_t base = (size_t)c * pool->slots_per_chunk;
    unlink_chunk(pool, c);
    pool->free_chunks--;
    chunk->class_ = class_index;
    chunk->used = chunk->locked = 0;
    chunk->free_slot = 0;
    for (uint32_t s = 0; s < class_->per_chunk; s++) {
        pool->slot[base + s] = SLOT_FREE | (s + 1 < class_->per_chunk ? s + 1 : SLOT_END);
        pool->slot_tenant[base + s] = chunk->tenant;
    }
    class_->chunks++;
    link_chunk(pool, c);
    const uint64_t used = akv_pool_used_bytes(pool);
    if (used > pool->used_bytes_peak)
        pool->used_bytes_peak = used;
}

/* Returns an empty chunk to the free ones. */
static void uncarve(struct akv_pool *pool, uint32_t c)
{
    struct akv_chunk *chunk = &pool->chunks[c];
    struct akv_pool_class *class_ = &pool->class_[chunk->class_];
    const size_t base = (size_t)c * pool->slots_per_chunk;
    uint64_t tenant = AKV_TENANT_NONE;
    for (uint32_t s = 0; s < class_->per_chunk; s++) {
        const uint64_t here = pool->slot_tenant[base + s];
        if (here != AKV_TENANT_NONE && here != tenant)
            tenant = tenant == AKV_TENANT_NONE ? here : AKV_TENANT_MIXED;
    }
    if (listed(chunk))
        unlink_chunk(pool, c);
    class_->chunks--;
    chunk->class_ = AKV_CHUNK_FREE;
    chunk->free_slot = SLOT_END;
    chunk->tenant = tenant;
    if (!chunk->doomed) {
        link_chunk(pool, c);
        pool->free_chunks++;
    }
}

uint32_t akv_pool_alloc(struct akv_pool *pool, uint32_t group, uint32_t kind, uint64_t tenant,
                        bool *scrub_out)
{
    const uint32_t index = AKV_CLASS(group, kind);
    struct akv_pool_class *class_ = &pool->class_[index];
    assert(class_->block_bytes);
    if (class_->partial == AKV_NO_ID) {
        if (pool->free_list == AKV_NO_ID)
            return AKV_NO_ID;
        carve(pool, pool->free_list, index);
    }
    const uint32_t c = class_->partial;
    struct akv_chunk *chunk = &pool->chunks[c];
    const uint32_t s = chunk->free_slot;
    const size_t at = (size_t)c * pool->slots_per_chunk + s;
    const uint32_t next = pool->slot[at] & ~SLOT_FREE;
    if (next == SLOT_END)
        unlink_chunk(pool, c);
    chunk->free_slot = next;
    chunk->used++;
    class_->used++;
    const uint64_t before = pool->slot_tenant[at];
    *scrub_out = before != AKV_TENANT_NONE && before != tenant;
    pool->slot_tenant[at] = tenant;
    const uint32_t id = pool->block_free;
    struct akv_block *block = &pool->blocks[id];
    pool->block_free = block->next;
    memset(block, 0, sizeof *block);
    block->entry = kind << 28 | (c * class_->per_chunk + s);
    block->refs = 1;
    block->group = group;
    block->node = block->prev = block->next = block->more = AKV_NO_ID;
    pool->slot[at] = id;
    pool->part_bytes[0] += class_->block_bytes;
    return id;
}

static uint64_t bytes_of(const struct akv_pool *pool, const struct akv_block *block)
{
    return pool->class_[akv_pool_class_of(block)].block_bytes;
}

void akv_pool_set_part(struct akv_pool *pool, uint32_t id, uint32_t part)
{
    struct akv_block *block = akv_pool_block(pool, id);
    for (;; block = akv_pool_block(pool, block->more)) {
        pool->part_bytes[block->part] -= bytes_of(pool, block);
        block->part = (uint8_t)part;
        pool->part_bytes[part] += bytes_of(pool, block);
        if (block->more == AKV_NO_ID)
            return;
    }
}

/* Chunk and slot of a block. */
static uint32_t chunk_of(const struct akv_pool *pool, const struct akv_block *block,
                         uint32_t *slot_out)
{
    const uint32_t per = pool->class_[akv_pool_class_of(block)].per_chunk;
    const uint32_t index = block->entry & 0x0FFFFFFFu;
    *slot_out = index % per;
    return index / per;
}

static void forget_cold(struct akv_pool *pool, struct akv_block *block)
{
    struct akv_pool_cold *cold = &pool->cold[block->method];
    cold->blocks--;
    cold->bytes -= akv_pool_block_bytes(pool, block);
    cold->plain_bytes -= pool->class_[AKV_CLASS(block->group, block->plain_kind)].block_bytes;
    pool->cold_blocks--;
    pool->cold_idle -= block->idle;
    block->method = 0;
}

/* Gives the place of a block without references back. */
static void free_place(struct akv_pool *pool, uint32_t id)
{
    struct akv_block *block = &pool->blocks[id];
    assert(!block->refs && !block->locks && !block->loose);
    uint32_t s;
    const uint32_t c = chunk_of(pool, block, &s);
    struct akv_chunk *chunk = &pool->chunks[c];
    struct akv_pool_class *class_ = &pool->class_[chunk->class_];
    if (block->idle)
        class_->idle--;
    pool->part_bytes[block->part] -= class_->block_bytes;
    const bool was = listed(chunk);
    pool->slot[(size_t)c * pool->slots_per_chunk + s] = SLOT_FREE | chunk->free_slot;
    chunk->free_slot = s;
    if (!was && listed(chunk))
        link_chunk(pool, c);
    class_->used--;
    block->idle = false;
    block->next = pool->block_free;
    pool->block_free = id;
    if (--chunk->used == 0)
        uncarve(pool, c);
}

bool akv_pool_release(struct akv_pool *pool, uint32_t id)
{
    struct akv_block *block = akv_pool_block(pool, id);
    if (--block->refs)
        return false;
    if (block->method)
        forget_cold(pool, block);
    while (id != AKV_NO_ID) {
        const uint32_t more = pool->blocks[id].more;
        pool->blocks[id].refs = 0;
        free_place(pool, id);
        id = more;
    }
    return true;
}

void akv_pool_lock(struct akv_pool *pool, uint32_t id)
{
    struct akv_block *block = akv_pool_block(pool, id);
    if (block->locks++)
        return;
    uint32_t s;
    struct akv_chunk *chunk = &pool->chunks[chunk_of(pool, block, &s)];
    if (chunk->locked++ == 0)
        pool->class_[chunk->class_].locked_chunks++;
}

void akv_pool_unlock(struct akv_pool *pool, uint32_t id)
{
    struct akv_block *block = akv_pool_block(pool, id);
    assert(block->locks);
    if (--block->locks)
        return;
    uint32_t s;
    struct akv_chunk *chunk = &pool->chunks[chunk_of(pool, block, &s)];
    if (--chunk->locked == 0)
        pool->class_[chunk->class_].locked_chunks--;
}

void akv_pool_set_idle(struct akv_pool *pool, uint32_t id, bool idle)
{
    struct akv_block *block = akv_pool_block(pool, id);
    if (block->idle == idle)
        return;
    pool->cold_idle += !block->method ? 0 : idle ? 1u : UINT64_MAX;
    for (;; block = akv_pool_block(pool, block->more)) {
        block->idle = idle;
        pool->class_[akv_pool_class_of(block)].idle += idle ? 1u : UINT64_MAX;
        if (block->more == AKV_NO_ID)
            return;
    }
}

void akv_pool_set_tenant(struct akv_pool *pool, uint32_t id, uint64_t tenant)
{
    uint32_t s;
    const uint32_t c = chunk_of(pool, akv_pool_block(pool, id), &s);
    pool->slot_tenant[(size_t)c * pool->slots_per_chunk + s] = tenant;
}

uint64_t akv_pool_tenant(const struct akv_pool *pool, uint32_t id)
{
    uint32_t s;
    const uint32_t c = chunk_of(pool, akv_pool_block(pool, id), &s);
    return pool->slot_tenant[(size_t)c * pool->slots_per_chunk + s];
}

void akv_pool_swap(struct akv_pool *pool, uint32_t id, uint32_t other_id)
{
    struct akv_block *block = akv_pool_block(pool, id), *other = akv_pool_block(pool, other_id);
    assert(block->group == other->group && !block->locks && !other->locks);
    assert(akv_block_kind(block) == akv_block_kind(other) || (!block->idle && !other->idle));
    uint32_t s, t;
    const uint32_t c = chunk_of(pool, block, &s), d = chunk_of(pool, other, &t);
    pool->slot[(size_t)c * pool->slots_per_chunk + s] = other_id;
    pool->slot[(size_t)d * pool->slots_per_chunk + t] = id;
    const uint64_t bytes = bytes_of(pool, block), other_bytes = bytes_of(pool, other);
    pool->part_bytes[block->part] += other_bytes - bytes;
    pool->part_bytes[other->part] += bytes - other_bytes;
    const uint32_t entry = block->entry;
    block->entry = other->entry;
    other->entry = entry;
}

void akv_pool_compress(struct akv_pool *pool, uint32_t id, const uint32_t *pages, uint32_t count,
                       uint32_t method, uint32_t packed_bytes)
{
    struct akv_block *block = akv_pool_block(pool, id);
    struct akv_pool_cold *cold = &pool->cold[method];
    assert(count && method && !block->method && !block->idle);
    block->plain_kind = (uint8_t)akv_block_kind(block);
    cold->plain_bytes += bytes_of(pool, block);
    akv_pool_swap(pool, id, pages[0]);
    akv_pool_release(pool, pages[0]);
    uint32_t *link = &block->more;
    for (uint32_t i = 1; i < count; i++) {
        struct akv_block *page = akv_pool_block(pool, pages[i]);
        akv_pool_set_part(pool, pages[i], block->part);
        page->page = true;
        page->position = id;
        *link = pages[i];
        link = &page->more;
    }
    block->method = (uint8_t)method;
    block->packed_bytes = packed_bytes;
    cold->blocks++;
    cold->bytes += akv_pool_block_bytes(pool, block);
    pool->cold_blocks++;
}

void akv_pool_restore(struct akv_pool *pool, uint32_t id, uint32_t to)
{
    struct akv_block *block = akv_pool_block(pool, id);
    assert(block->method && !block->idle);
    forget_cold(pool, block);
    akv_pool_swap(pool, id, to);
    pool->blocks[to].more = block->more;
    block->more = AKV_NO_ID;
    akv_pool_release(pool, to);
}

akv_pool_map akv_pool_group_map(const struct akv_pool *pool, uint32_t group, uint32_t slabs)
{
    akv_pool_map map;
    memset(&map, 0, sizeof map);
    map.chunk_bytes = pool->chunk_bytes;
    map.chunks_per_slab = pool->chunks_per_slab;
    map.slabs = slabs;
    for (uint32_t kind = 0; kind < AKV_POOL_KINDS; kind++) {
        map.block_bytes[kind] = pool->class_[AKV_CLASS(group, kind)].block_bytes;
        map.blocks_per_chunk[kind] = pool->class_[AKV_CLASS(group, kind)].per_chunk;
    }
    return map;
}

uint64_t akv_pool_address(const struct akv_pool *pool, uint32_t group, uint32_t entry)
{
    const struct akv_pool_class *class_ = &pool->class_[AKV_CLASS(group, entry >> 28)];
    const uint32_t index = entry & 0x0FFFFFFFu;
    const uint32_t chunk = index / class_->per_chunk, slab = chunk / pool->chunks_per_slab;
    return (uint64_t)slab << 56 | ((uint64_t)(chunk % pool->chunks_per_slab) * pool->chunk_bytes +
                                   (uint64_t)(index % class_->per_chunk) * class_->block_bytes);
}

/* ---- room ---- */

static uint64_t chunks_for(uint64_t blocks, uint32_t per_chunk)
{
    return (blocks + per_chunk - 1) / per_chunk;
}

bool akv_pool_fits(const struct akv_pool *pool, const uint32_t *need)
{
    uint64_t chunks = 0;
    for (uint32_t c = 0; c < pool->classes; c++) {
        const struct akv_pool_class *class_ = &pool->class_[c];
        if (need[c] == 0)
            continue;
        uint64_t open = 0;
        if (class_->partial != AKV_NO_ID) {
            /* Free slots of doomed chunks do not count, so the listed chunks are walked. */
            for (uint32_t k = class_->partial; k != AKV_NO_ID && open < need[c];
                 k = pool->chunks[k].next)
                open += class_->per_chunk - pool->chunks[k].used;
        }
        if (need[c] > open)
            chunks += chunks_for(need[c] - open, class_->per_chunk);
    }
    return chunks == 0 || chunks + pool->reserve <= pool->free_chunks;
}

uint64_t akv_pool_least_chunks(const struct akv_pool *pool, const uint32_t *need, bool without_idle)
{
    uint64_t chunks = pool->reserve;
    for (uint32_t c = 0; c < pool->classes; c++) {
        const struct akv_pool_class *class_ = &pool->class_[c];
        if (class_->block_bytes == 0)
            continue;
        const uint64_t blocks = class_->used - (without_idle ? class_->idle : 0) + need[c];
        const uint64_t least = chunks_for(blocks, class_->per_chunk);
        chunks += least > class_->locked_chunks ? least : class_->locked_chunks;
    }
    return chunks;
}

bool akv_pool_could_fit(const struct akv_pool *pool, const uint32_t *need, bool without_idle,
                        uint32_t limit_chunks)
{
    return akv_pool_least_chunks(pool, need, without_idle) <= limit_chunks;
}

uint64_t akv_pool_need_bytes(const struct akv_pool *pool, const uint32_t *need)
{
    uint64_t bytes = 0;
    for (uint32_t c = 0; c < pool->classes; c++)
        bytes += (uint64_t)need[c] * pool->class_[c].block_bytes;
    return bytes;
}

uint64_t akv_pool_held_bytes(const struct akv_pool *pool)
{
    uint64_t bytes = 0;
    for (uint32_t c = 0; c < pool->classes; c++)
        bytes += (pool->class_[c].used - pool->class_[c].idle) * pool->class_[c].block_bytes;
    return bytes;
}

uint32_t akv_pool_sparse_chunk(const struct akv_pool *pool, const uint32_t *need)
{
    uint32_t best = AKV_NO_ID, best_used = UINT32_MAX;
    for (uint32_t c = 0; c < pool->chunk_count; c++) {
        const struct akv_chunk *chunk = &pool->chunks[c];
        if (chunk->class_ >= pool->classes || chunk->doomed || chunk->locked)
            continue;
        const struct akv_pool_class *class_ = &pool->class_[chunk->class_];
        const uint64_t more = need ? need[chunk->class_] : 0;
        const uint64_t least = chunks_for(class_->used + more, class_->per_chunk);
        if (class_->chunks <= least || class_->chunks <= class_->locked_chunks)
            continue;
        if (chunk->used < best_used) {
            best = c;
            best_used = chunk->used;
        }
    }
    return best;
}

/* ---- relocation ---- */

uint32_t akv_pool_plan_moves(struct akv_pool *pool, uint32_t c, uint32_t capacity, akv_move *moves,
                             uint32_t *from, uint32_t *to)
{
    struct akv_chunk *chunk = &pool->chunks[c];
    if (chunk->class_ >= pool->classes)
        return 0;
    const uint32_t class_index = chunk->class_;
    const uint32_t group = class_index / AKV_POOL_KINDS, kind = class_index % AKV_POOL_KINDS;
    const uint32_t per = pool->class_[class_index].per_chunk;
    const bool doomed = chunk->doomed;
    if (listed(chunk))
        unlink_chunk(pool, c);
    chunk->doomed = true; /* so that nothing moves within the chunk */
    uint32_t count = 0;
    for (uint32_t s = 0; s < per && count < capacity; s++) {
        const size_t at = (size_t)c * pool->slots_per_chunk + s;
        if (pool->slot[at] & SLOT_FREE)
            continue;
        bool scrub; /* the copy overwrites the whole block */
        const uint32_t place = akv_pool_alloc(pool, group, kind, pool->slot_tenant[at], &scrub);
        if (place == AKV_NO_ID)
            break;
        from[count] = pool->slot[at];
        to[count] = place;
        moves[count].src = akv_pool_address(pool, group, pool->blocks[from[count]].entry);
        moves[count].dst = akv_pool_address(pool, group, pool->blocks[place].entry);
        count++;
    }
    chunk->doomed = doomed;
    if (listed(chunk))
        link_chunk(pool, c);
    return count;
}

void akv_pool_commit_moves(struct akv_pool *pool, const uint32_t *from, const uint32_t *to,
                           uint32_t count)
{
    for (uint32_t i = 0; i < count; i++) {
        akv_pool_swap(pool, from[i], to[i]);
        akv_pool_release(pool, to[i]);
    }
}

void akv_pool_undo_moves(struct akv_pool *pool, const uint32_t *to, uint32_t count)
{
    for (uint32_t i = 0; i < count; i++) {
        akv_pool_set_tenant(pool, to[i], AKV_TENANT_MIXED); /* nothing was written */
        akv_pool_release(pool, to[i]);
    }
}
