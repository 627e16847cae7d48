/* SPDX-License-Identifier: Apache-2.0 */
/* Compressing blocks of a cache in place: of a sequence, and those that no sequence holds.
 *
 * BX16: the exponents of up to AKV_COLD_BATCH blocks are counted in one go and waited for; then each block
 * that becomes smaller in whole pages is encoded into the room for one body and copied into its pages. */
#include "cold.h"
#include "kernel/bx16.h"
#include "seq.h"
#include <stdlib.h>

static uint32_t max_block(const anykv_layout *layout)
{
    uint32_t most = 0;
    for (uint32_t g = 0; g < layout->group_count; g++)
        for (uint32_t kind = 0; kind < AKV_KIND_COLD; kind++)
            if (layout->groups[g].block_bytes[kind] > most)
                most = layout->groups[g].block_bytes[kind];
    return most;
}

static uint32_t page_bytes(const struct akv_group *group)
{
    const uint32_t page = akv_pad16((group->block_bytes[AKV_KIND_HOT] + AKV_COLD_PAGES - 1) / AKV_COLD_PAGES);
    return page < 64 ? 64 : page;
}

void akv_cold_lay(anykv_layout *layout)
{
    for (uint32_t g = 0; g < layout->group_count; g++)
        layout->groups[g].block_bytes[AKV_KIND_COLD] = page_bytes(&layout->groups[g]);
}

struct akv_cold_room akv_cold_room(const anykv_layout *layout)
{
    struct akv_cold_room room = {0};
    room.words = AKV_COLD_BATCH * 1024ull;
    room.body = room.words + (AKV_COLD_BATCH * 4ull + 255) / 256 * 256;
    room.bytes = room.body + max_block(layout);
    return room;
}

bool akv_cold_takes(const struct akv_group *group, uint32_t kind, anykv_compression method)
{
    if (method != ANYKV_COMPRESS_BX16 || group->block_bytes[kind] == 0)
        return false;
    if (kind == AKV_KIND_SEALED)
        return group->format[0] == AKV_BF16 && group->format[1] == AKV_BF16;
    return kind == AKV_KIND_HOT && group->hot_type == AKV_BF16;
}

anykv_status akv_cold_prepare(anykv_cache *cache)
{
    static const enum akv_kernel_id kernels[] = {AKV_K_BX16_COUNT, AKV_K_BX16_ENCODE, AKV_K_BX16_DECODE};
    struct akv_device *device = cache->device->device;
    anykv_status status = ANYKV_OK;
    for (uint32_t g = 0; g < cache->layout->group_count && !status; g++) {
        const struct akv_group *group = &cache->layout->groups[g];
        akv_copy_params copy;
        memset(&copy, 0, sizeof copy);
        copy.pool = akv_plan_map(&cache->plan, cache->layout, g);
        copy.bytes = group->block_bytes[AKV_KIND_COLD];
        status = akv_kernel_prepare(device, AKV_K_COPY, &copy);
        for (uint32_t kind = 0; kind < AKV_KIND_COLD && !status; kind++) {
            if (!akv_cold_takes(group, kind, ANYKV_COMPRESS_BX16))
                continue;
            const akv_bx16_params params = {group->block_bytes[kind] / 2, 0, /* any table */
                                            {0x03020100u, 0x07060504u, 0x0B0A0908u, 0x0F0E0D0Cu}};
            for (uint32_t k = 0; k < 3 && !status; k++) {
                struct akv_check check;
                akv_kernel_check(device, kernels[k], &params, &check);
                if (!check.supported)
                    return akv_fail(cache->context, ANYKV_E_UNSUPPORTED, "flags: compression: %s",
                                    check.reason ? check.reason : "refused by the device");
                status = akv_kernel_prepare(device, kernels[k], &params);
            }
        }
    }
    return status;
}

void akv_cold_finish(anykv_cache *cache)
{
    akv_free(cache->context, cache->cold.params);
    cache->cold.params = NULL;
}

struct akv_span akv_cold_span(const anykv_cache *cache, uint64_t at, uint64_t bytes)
{
    return akv_fixed_span(cache, cache->plan.cold_at + at, bytes);
}

struct akv_span akv_block_span(const anykv_cache *cache, uint32_t id)
{
    const struct akv_block *block = akv_pool_block(&cache->pool, id);
    const uint64_t address = akv_pool_address(&cache->pool, block->group, block->entry);
    return (struct akv_span){cache->slab[AKV_ADDR_SLAB(address)], AKV_ADDR_OFFSET(address),
                             cache->pool.class_[akv_pool_class_of(block)].block_bytes};
}

/* ---- a call ---- */

struct freeze {
    anykv_cache *cache;
    anykv_compression method;
    bool cached;   /* only blocks that no sequence holds */
    bool ahead;    /* of those, only what cannot step down */
    uint32_t *ids; /* what is asked for */
    uint32_t count;
    anykv_compress_info info;
    uint32_t batch[AKV_COLD_BATCH], held; /* under way: a reference and a lock each */
    uint32_t (*counts)[256];              /* [AKV_COLD_BATCH] */
};

/* Can the block be compressed now?  Counts it as passed over if not. */
static bool ready(struct freeze *run, uint32_t id)
{
    const struct akv_block *block = &run->cache->pool.blocks[id];
    const struct akv_group *group = &run->cache->layout->groups[block->group];
    if (block->refs == 0 || block->page || block->method || (run->cached && !block->idle))
        return false;
    akv_steps_lock(run->cache);
    if (block->locks || block->holds) {
        run->info.busy++;
        return false;
    }
    if (run->ahead && (akv_ladder_below(group, akv_block_kind(block)) || block->stubborn == 1 + akv_block_kind(block)))
        return false;
    if (!akv_cold_takes(group, akv_block_kind(block), run->method)) {
        run->info.foreign++;
        return false;
    }
    return true;
}

static uint32_t elements(const anykv_cache *cache, uint32_t id)
{
    return cache->pool.class_[akv_pool_class_of(akv_pool_block(&cache->pool, id))].block_bytes / 2;
}

/* Enqueues the counts of the blocks under way. */
static anykv_status count_exponents(struct freeze *run)
{
    anykv_cache *cache = run->cache;
    struct akv_queue *queue = cache->device->queue;
    const struct akv_cold_room room = akv_cold_room(cache->layout);
    const struct akv_span all = akv_cold_span(cache, room.counts, run->held * 1024ull);
    anykv_status status = akv_queue_fill(queue, all, 0);
    for (uint32_t i = 0; i < run->held && !status; i++) {
        const akv_bx16_params params = {elements(cache, run->batch[i]), 0, {0}};
        struct akv_launch launch = {.kernel = AKV_K_BX16_COUNT, .params = &params};
        launch.arg[0] = akv_block_span(cache, run->batch[i]);
        launch.arg[1] = akv_cold_span(cache, room.counts + i * 1024ull, 1024);
        status = akv_kernel_launch(queue, &launch);
    }
    return status ? status : akv_queue_get(queue, run->counts, all);
}

static void release_pages(anykv_cache *cache, const uint32_t *pages, uint32_t count)
{
    for (uint32_t i = 0; i < count; i++) {
        akv_pool_set_tenant(&cache->pool, pages[i], AKV_TENANT_MIXED); /* perhaps written, perhaps not */
        akv_pool_release(&cache->pool, pages[i]);
    }
}

/* New pages for the block's bytes; relocates, but evicts nothing.  none_out: there is no room. */
static anykv_status take_pages(anykv_cache *cache, uint32_t id, uint32_t *pages, uint32_t count, bool *none_out)
{
    const struct akv_block *block = akv_pool_block(&cache->pool, id);
    uint32_t have = 0;
    *none_out = false;
    while (have < count) {
        bool scrub, emptied; /* whole pages are written */
        pages[have] = akv_pool_alloc(&cache->pool, block->group, AKV_KIND_COLD, akv_pool_tenant(&cache->pool, id),
                                     &scrub);
        if (pages[have] != AKV_NO_ID) {
            have++;
            continue;
        }
        release_pages(cache, pages, have);
        have = 0;
        anykv_status status = akv_cache_pack(cache, &emptied);
        if (status || !emptied) {
            *none_out = !status;
            return status;
        }
    }
    return ANYKV_OK;
}

static anykv_status encode(anykv_cache *cache, uint32_t id, const akv_bx16_params *params, uint32_t bytes,
                           const uint32_t *pages, uint32_t count)
{
    const struct akv_cold_room room = akv_cold_room(cache->layout);
    const uint32_t group = akv_pool_block(&cache->pool, id)->group;
    struct akv_launch launch = {.kernel = AKV_K_BX16_ENCODE, .params = params};
    launch.arg[0] = akv_block_span(cache, id);
    launch.arg[1] = akv_cold_span(cache, room.body, bytes);
    anykv_status status = akv_kernel_launch(cache->device->queue, &launch);
    const uint64_t rest = (uint64_t)count * cache->layout->groups[group].block_bytes[AKV_KIND_COLD] - bytes;
    if (!status && rest) /* what stood in the room before may be another tenant's */
        status = akv_queue_fill(cache->device->queue, akv_cold_span(cache, room.body + bytes, rest), 0);
    return status ? status : akv_enqueue_pages(cache, group, pages, count, AKV_COPY_LINEAR_POOL);
}

/* A block under way whose exponents are known. */
static anykv_status freeze_one(struct freeze *run, uint32_t id, const uint32_t counts[256])
{
    anykv_cache *cache = run->cache;
    struct akv_pool *pool = &cache->pool;
    struct akv_block *block = akv_pool_block(pool, id);
    uint32_t pages[AKV_MOVES];
    akv_steps_lock(cache);
    if (block->locks || block->holds || block->refs == 1) { /* in use meanwhile, or gone but for this call */
        run->info.busy += block->refs != 1;
        return ANYKV_OK;
    }
    akv_bx16_params params = {elements(cache, id), 0, {0}};
    params.escapes = akv_bx16_choose(counts, params.table);
    const uint64_t bytes = akv_bx16_bytes(params.elements, params.escapes);
    const uint32_t plain = params.elements * 2, page = pool->class_[AKV_CLASS(block->group, AKV_KIND_COLD)].block_bytes;
    const uint64_t count = (bytes + page - 1) / page;
    struct anykv_method_stats *stats = &cache->count.compressed[run->method - 1];
    if (count * page >= plain || count > AKV_MOVES) {
        run->info.grown++;
        stats->grown++;
        block->stubborn = (uint8_t)(1 + akv_block_kind(block));
        return ANYKV_OK;
    }
    bool none;
    anykv_status status = take_pages(cache, id, pages, (uint32_t)count, &none);
    if (status || none) {
        run->info.no_room += none;
        return status;
    }
    status = encode(cache, id, &params, (uint32_t)bytes, pages, (uint32_t)count);
    if (status) {
        release_pages(cache, pages, (uint32_t)count);
        return status;
    }
    cache->cold.params[id] = params;
    if (block->node != AKV_NO_ID)
        akv_cache_event(cache, ANYKV_BLOCK_COMPRESSED, block->node, akv_block_kind(block), NULL);
    akv_pool_compress(pool, id, pages, (uint32_t)count, (uint32_t)run->method, (uint32_t)bytes);
    block->epoch = ++cache->epoch;
    run->info.blocks++;
    run->info.plain_bytes += plain;
    run->info.bytes += count * page;
    stats->blocks_compressed++;
    stats->bytes_saved += plain - count * page;
    return ANYKV_OK;
}

/* Under io and lock, which it gives up and takes again for the wait. */
static anykv_status freeze_batch(struct freeze *run)
{
    anykv_cache *cache = run->cache;
    anykv_status status = count_exponents(run);
    akv_mutex_unlock(&cache->lock);
    anykv_status wait = akv_cache_drain(cache, UINT64_MAX); /* even after a failure: counts may be under way */
    akv_mutex_lock(&cache->lock);
    if (!status)
        status = wait;
    for (uint32_t i = 0; i < run->held; i++)
        akv_pool_unlock(&cache->pool, run->batch[i]);
    for (uint32_t i = 0; i < run->held && !status; i++)
        status = freeze_one(run, run->batch[i], run->counts[i]);
    for (uint32_t i = 0; i < run->held; i++)
        akv_cache_release(cache, run->batch[i]);
    return status;
}

static anykv_status grow_params(anykv_cache *cache)
{
    struct akv_cold *cold = &cache->cold;
    if (cold->capacity >= cache->pool.block_capacity)
        return ANYKV_OK;
    akv_bx16_params *params = akv_resize(cache->context, cold->params, cold->capacity,
                                         cache->pool.block_capacity, sizeof *params);
    if (!params)
        return ANYKV_E_MEMORY;
    cold->params = params;
    cold->capacity = cache->pool.block_capacity;
    return ANYKV_OK;
}

/* Under io and lock. */
static anykv_status freeze_all(struct freeze *run)
{
    anykv_cache *cache = run->cache;
    run->counts = akv_alloc(cache->context, AKV_COLD_BATCH, sizeof *run->counts);
    anykv_status status = run->counts ? grow_params(cache) : ANYKV_E_MEMORY;
    for (uint32_t i = 0; i < run->count && !status;) {
        for (run->held = 0; i < run->count && run->held < AKV_COLD_BATCH; i++) {
            if (!ready(run, run->ids[i]))
                continue;
            akv_cache_acquire(cache, run->ids[i]);
            akv_pool_lock(&cache->pool, run->ids[i]);
            run->batch[run->held++] = run->ids[i];
        }
        if (run->held)
            status = freeze_batch(run);
    }
    if (run->info.blocks)
        akv_explain(cache, "compressed %llu blocks from %llu to %llu bytes", (unsigned long long)run->info.blocks,
                    (unsigned long long)run->info.plain_bytes, (unsigned long long)run->info.bytes);
    akv_free(cache->context, run->counts);
    return status;
}

/* ---- the caller's side ---- */

static anykv_status check_method(const anykv_cache *cache, anykv_compression method)
{
    if (!(cache->plan.options.flags & ANYKV_CACHE_COMPRESS))
        return akv_fail(cache->context, ANYKV_E_STATE, "flags: the cache was made without ANYKV_CACHE_COMPRESS");
    if (method < ANYKV_COMPRESS_BX16 || method > (anykv_compression)ANYKV_COMPRESS_METHODS)
        return akv_fail(cache->context, ANYKV_E_ARG, "method: %d is not a method", (int)method);
    if (method != ANYKV_COMPRESS_BX16)
        return akv_fail(cache->context, ANYKV_E_UNSUPPORTED, "method: %d is not done in place; BX16 is", (int)method);
    for (uint32_t g = 0; g < cache->layout->group_count; g++)
        for (uint32_t kind = 0; kind < AKV_KIND_COLD; kind++)
            if (akv_cold_takes(&cache->layout->groups[g], kind, method))
                return ANYKV_OK;
    const struct akv_group *group = &cache->layout->groups[0];
    return akv_fail(cache->context, ANYKV_E_UNSUPPORTED,
                    "method: BX16 takes blocks of BF16 rows, the layout's are %s and %s/%s",
                    anykv_format_name((anykv_format)group->hot_type), anykv_format_name((anykv_format)group->format[0]),
                    anykv_format_name((anykv_format)group->format[1]));
}

static anykv_status check_info(anykv_context *context, const anykv_compress_info *info)
{
    if (info && (info->size < sizeof info->size || info->size > sizeof *info))
        return akv_fail(context, ANYKV_E_ARG, "info_out.size: %zu is not between %zu and %zu (set it first)",
                        info->size, sizeof info->size, sizeof *info);
    return ANYKV_OK;
}

/* What was done counts even where a later block failed. */
static void give_info(struct freeze *run, anykv_compress_info *info_out)
{
    if (!info_out)
        return;
    run->info.size = info_out->size;
    memcpy(info_out, &run->info, info_out->size);
}

/* Blocks that lie wholly in positions [first, last) of the sequence, of every layer group. */
static anykv_status list_sequence(struct freeze *run, const anykv_seq *seq, uint64_t first, uint64_t last)
{
    const uint32_t groups = run->cache->layout->group_count, size = akv_block_tokens(run->cache);
    const uint32_t whole = seq->length / size;
    const uint64_t begin = first / size + (first % size != 0);
    const uint32_t from = begin < whole ? (uint32_t)begin : whole;
    const uint32_t to = last / size < whole ? (uint32_t)(last / size) : whole;
    if (to <= from)
        return ANYKV_OK;
    run->ids = akv_alloc(run->cache->context, (size_t)groups * (to - from), sizeof *run->ids);
    if (!run->ids)
        return ANYKV_E_MEMORY;
    for (uint32_t b = from; b < to; b++)
        for (uint32_t g = 0; g < groups; g++)
            if (akv_seq_table(seq, g)[b] != AKV_NO_ID)
                run->ids[run->count++] = akv_seq_table(seq, g)[b];
    return ANYKV_OK;
}

anykv_status anykv_seq_compress(anykv_seq *seq, anykv_compression method, uint64_t first, uint64_t count,
                                anykv_compress_info *info_out)
{
    if (!seq)
        return akv_fail(NULL, ANYKV_E_ARG, "seq: NULL");
    anykv_cache *cache = seq->cache;
    anykv_status status = check_info(cache->context, info_out);
    if (!status)
        status = check_method(cache, method);
    if (status)
        return status;
    akv_mutex_lock(&cache->io); /* before the cache's own lock: the order of locks */
    status = akv_seq_enter(seq, true);
    if (status) {
        akv_mutex_unlock(&cache->io);
        return status;
    }
    struct freeze run = {.cache = cache, .method = method};
    const uint64_t last = count > UINT64_MAX - first ? UINT64_MAX : first + count;
    if (seq->kept_rows && (first || last < (uint64_t)seq->length + seq->dropped))
        status = akv_fail(cache->context, ANYKV_E_STATE,
                          "first, count: tokens were evicted from the sequence; all of it or nothing");
    else
        status = list_sequence(&run, seq, first, last);
    if (!status)
        status = freeze_all(&run);
    akv_free(cache->context, run.ids);
    status = akv_seq_leave(seq, status);
    akv_mutex_unlock(&cache->io);
    give_info(&run, info_out);
    return status;
}

static int older(const void *a, const void *b)
{
    const uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return x < y ? -1 : x > y;
}

/* Up to `most` blocks that no sequence holds and the method takes, the longest unused first. */
static anykv_status list_cached(struct freeze *run, uint64_t most)
{
    const struct akv_pool *pool = &run->cache->pool;
    uint64_t *keys = akv_alloc(run->cache->context, pool->block_capacity, sizeof *keys);
    run->ids = akv_alloc(run->cache->context, pool->block_capacity, sizeof *run->ids);
    if (!keys || !run->ids) {
        akv_free(run->cache->context, keys);
        return ANYKV_E_MEMORY;
    }
    uint32_t count = 0;
    for (uint32_t id = 0; id < pool->block_capacity; id++)
        if (pool->blocks[id].idle && ready(run, id))
            keys[count++] = (uint64_t)pool->blocks[id].used_at << 32 | id;
    qsort(keys, count, sizeof *keys, older);
    for (; run->count < count && run->count < most; run->count++)
        run->ids[run->count] = (uint32_t)keys[run->count];
    akv_free(run->cache->context, keys);
    return ANYKV_OK;
}

anykv_status anykv_cache_compress(anykv_cache *cache, anykv_compression method, uint64_t most_blocks,
                                  anykv_compress_info *info_out)
{
    if (!cache)
        return akv_fail(NULL, ANYKV_E_ARG, "cache: NULL");
    anykv_status status = check_info(cache->context, info_out);
    if (!status)
        status = check_method(cache, method);
    if (status)
        return status;
    struct freeze run = {.cache = cache, .method = method, .cached = true};
    akv_mutex_lock(&cache->io);
    akv_cache_enter(cache);
    status = list_cached(&run, most_blocks);
    if (!status)
        status = freeze_all(&run);
    akv_free(cache->context, run.ids);
    akv_mutex_unlock(&cache->lock);
    akv_mutex_unlock(&cache->io);
    give_info(&run, info_out);
    return status;
}

/* ---- under pressure ---- */

#define SCAN 64u /* blocks that looking for candidates may cost a begin, on average */

/* Would evicting begin with so many further blocks of 16 bit in each layer group?  Under lock. */
static bool pressed(anykv_cache *cache, uint64_t blocks)
{
    struct akv_pool *pool = &cache->pool;
    memset(cache->need, 0, pool->classes * sizeof *cache->need);
    for (uint32_t g = 0; g < cache->layout->group_count; g++)
        cache->need[AKV_CLASS(g, AKV_KIND_HOT)] = blocks > UINT32_MAX / 2 ? UINT32_MAX / 2 : (uint32_t)blocks;
    return !akv_pool_could_fit(pool, cache->need, false, pool->present);
}

void akv_cold_ahead(anykv_cache *cache, uint64_t blocks)
{
    if (!(cache->plan.options.flags & ANYKV_CACHE_COMPRESS_CACHED) || blocks == 0)
        return;
    akv_cache_enter(cache);
    const bool look = cache->cold.skip == 0 && pressed(cache, blocks);
    cache->cold.skip -= cache->cold.skip != 0;
    akv_mutex_unlock(&cache->lock);
    if (!look)
        return;
    anykv_status status = ANYKV_OK;
    uint64_t done = 1;
    akv_mutex_lock(&cache->io);
    akv_cache_enter(cache);
    while (!status && done && pressed(cache, blocks)) {
        struct freeze run = {.cache = cache, .method = ANYKV_COMPRESS_BX16, .cached = true, .ahead = true};
        status = list_cached(&run, AKV_COLD_BATCH);
        if (!status)
            status = freeze_all(&run);
        akv_free(cache->context, run.ids);
        done = run.info.blocks;
        cache->count.compressed[run.method - 1].blocks_ahead += done;
    }
    if (!done)
        cache->cold.skip = cache->pool.block_capacity / SCAN;
    akv_mutex_unlock(&cache->lock);
    akv_mutex_unlock(&cache->io);
    if (status) /* what was done stays; the step goes on and evicts */
        akv_log(cache->context, ANYKV_LOG_WARNING, "compression of cached blocks: %s", anykv_error_detail());
}
