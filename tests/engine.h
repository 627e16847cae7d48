/* SPDX-License-Identifier: Apache-2.0 */
/* What the engine's suites share: small layouts and caches, made-up rows, and an audit of every
 * count. */
#ifndef TESTS_ENGINE_H
#define TESTS_ENGINE_H
#include "house.h"
#include "lib/cache.h"
#include <stdio.h>
#include <stdlib.h>

struct engine {
    anykv_context *context;
    anykv_device *device;
    anykv_layout *layout;
    anykv_cache *cache;
};

static inline anykv_layer engine_layer(uint32_t kv_heads, uint32_t dim, uint32_t window)
{
    anykv_layer layer = ANYKV_LAYER_INIT;
    layer.kv_heads = kv_heads;
    layer.q_heads = kv_heads * 2;
    layer.k_dim = layer.v_dim = dim;
    layer.window = window;
    return layer;
}

static inline anykv_layout *engine_layout_with(anykv_context *context, const anykv_layer *layers,
                                               uint32_t count,
                                               const anykv_calibration *calibration)
{
    anykv_layout_options options = ANYKV_LAYOUT_OPTIONS_INIT;
    options.weights = "test";
    options.weights_bytes = 4;
    options.calibration = calibration;
    anykv_layout *layout;
    OK(anykv_layout_create(context, layers, count, &options, &layout));
    return layout;
}

static inline anykv_layout *engine_layout(anykv_context *context, const anykv_layer *layers,
                                          uint32_t count)
{
    return engine_layout_with(context, layers, count, NULL);
}

/* The device that the engine's suites run on: ANYKV_TEST_DEVICE, or the processor. */
static inline const char *engine_device_name(void)
{
    const char *name = getenv("ANYKV_TEST_DEVICE");
    return name && *name ? name : "cpu";
}

/* A card's context takes long to make, and a test of failures opens its device hundreds
 * of times: one stays open as long as the process, and the others share its context and code. */
static inline void engine_keep_device(void)
{
    static anykv_device *kept;
    if (kept || strncmp(engine_device_name(), "cuda", 4) != 0)
        return;
    OK(anykv_device_open(house_context(), engine_device_name(), NULL, &kept));
}

static inline anykv_device *engine_device(anykv_context *context, uint32_t threads)
{
    engine_keep_device();
    anykv_device_options options = ANYKV_DEVICE_OPTIONS_INIT;
    options.threads = threads;
    anykv_device *device;
    OK(anykv_device_open(context, engine_device_name(), &options, &device));
    return device;
}

static inline bool engine_on_processor(void)
{
    return strcmp(engine_device_name(), "cpu") == 0;
}

/* `count` of something on the processor; a part of it where a call costs a hundred times more. */
static inline uint32_t engine_share(uint32_t count)
{
    return engine_on_processor() ? count : (count + 3) / 4;
}

/* A budget of which `bytes` are there for what a cache on the processor has, too: a device with
 * memory of its own takes a staging area twice, on either side. */
#define ENGINE_STAGING (3u << 20)
static inline uint64_t engine_budget(uint64_t bytes)
{
    return engine_on_processor() ? bytes : bytes + ENGINE_STAGING;
}

static inline anykv_cache_options engine_options(uint64_t budget_bytes)
{
    anykv_cache_options options = ANYKV_CACHE_OPTIONS_INIT;
    options.budget_bytes = budget_bytes;
    options.sinks = 4;
    options.recent = 32;
    options.max_sequences = 4;
    options.max_step_tokens = 128;
    options.max_seq_tokens = 1024;
    return options;
}

/* Scores for ANYKV_POLICY_CALLER: the key decides. */
static inline void engine_score(void *user, const anykv_candidate *candidates, uint32_t count,
                                float *scores)
{
    (void)user;
    for (uint32_t i = 0; i < count; i++)
        scores[i] = (float)candidates[i].key[0];
}

/* The number-th policy, all of them in turn. */
static inline void engine_policy(anykv_cache_options *options, uint64_t number)
{
    options->policy = (anykv_policy)(ANYKV_POLICY_LRU + number % ANYKV_POLICY_CALLER);
    options->score = options->policy == ANYKV_POLICY_CALLER ? engine_score : NULL;
}

/* Makes the CPU look like a device with memory of its own, so that host rows are staged. */
static inline void engine_hide_host_memory(anykv_device *device)
{
    device->device->info.caps &= ~AKV_CAP_HOST_MEMORY;
    device->device->host_window = NULL;
}

static inline void engine_start_at(struct engine *engine, const anykv_layer *layers, uint32_t count,
                                   const anykv_cache_options *options, uint32_t threads,
                                   bool staged)
{
    engine->context = house_context();
    engine->device = engine_device(engine->context, threads);
    if (staged)
        engine_hide_host_memory(engine->device);
    engine->layout = engine_layout(engine->context, layers, count);
    OK(anykv_cache_create(engine->device, engine->layout, options, &engine->cache));
}

static inline void engine_start(struct engine *engine, const anykv_layer *layers, uint32_t count,
                                const anykv_cache_options *options, uint32_t threads)
{
    engine_start_at(engine, layers, count, options, threads, false);
}

static inline void engine_stop(struct engine *engine)
{
    anykv_cache_destroy(engine->cache);
    anykv_layout_destroy(engine->layout);
    anykv_device_close(engine->device);
    anykv_context_destroy(engine->context);
}

static inline anykv_seq *engine_seq(anykv_cache *cache)
{
    anykv_seq_options options = ANYKV_SEQ_OPTIONS_INIT;
    options.flags = ANYKV_SEQ_PUBLIC;
    anykv_seq *seq;
    OK(anykv_seq_create(cache, &options, &seq));
    return seq;
}

static inline anykv_stats engine_stats(anykv_cache *cache)
{
    anykv_stats stats;
    memset(&stats, 0, sizeof stats);
    stats.size = sizeof stats;
    OK(anykv_cache_stats(cache, &stats));
    return stats;
}

static inline uint64_t engine_length(const anykv_seq *seq)
{
    uint64_t length;
    OK(anykv_seq_length(seq, &length));
    return length;
}

/* Element i of a made-up row: eighths up to 15.875, exact in every raw format. */
static inline float engine_value(uint64_t seed, uint32_t layer, int side, uint32_t head, uint32_t i)
{
    uint64_t x = seed + layer * 0x9E3779B97F4A7C15u + (uint64_t)side * 0xC2B2AE3D27D4EB4Fu +
                 head * 0x165667B19E3779F9u + i * 0x27D4EB2F165667C5u;
    x = (x ^ (x >> 29)) * 0xBF58476D1CE4E5B9u;
    x ^= x >> 32;
    return (float)((int)(x & 255) - 128) / 8.0f;
}

/* Dense rows [tokens][heads][dim] of positions with these seeds. */
static inline void engine_rows(const uint64_t *seeds, uint32_t tokens, uint32_t layer, int side,
                               uint32_t heads, uint32_t dim, float *rows)
{
    for (uint32_t t = 0; t < tokens; t++)
        for (uint32_t h = 0; h < heads; h++)
            for (uint32_t i = 0; i < dim; i++)
                *rows++ = engine_value(seeds[t], layer, side, h, i);
}

/* Appends every layer of an open step; seeds of all its tokens. */
static inline anykv_status engine_append(anykv_step *step, const uint64_t *seeds)
{
    const anykv_layout *layout = step->cache->layout;
    const uint32_t tokens = step->tokens;
    anykv_status status = ANYKV_OK;
    for (uint32_t l = 0; l < layout->count && !status; l++) {
        if (!layout->places[l].owner)
            continue;
        const anykv_layer *layer = &layout->layers[l];
        const size_t k_count = (size_t)tokens * layer->kv_heads * layer->k_dim;
        const size_t v_count = (size_t)tokens * layer->kv_heads * layer->v_dim;
        float *k = malloc((k_count + 1) * sizeof *k), *v = malloc((v_count + 1) * sizeof *v);
        engine_rows(seeds, tokens, l, 0, layer->kv_heads, layer->k_dim, k);
        engine_rows(seeds, tokens, l, 1, layer->kv_heads, layer->v_dim, v);
        const anykv_view k_view = anykv_view_host(k, ANYKV_F32, layer->kv_heads, layer->k_dim);
        const anykv_view v_view = anykv_view_host(v, ANYKV_F32, layer->kv_heads, layer->v_dim);
        status = anykv_step_append(step, l, &k_view, &v_view);
        free(k);
        free(v);
    }
    return status;
}

/* Seed of position p in a sequence of these tokens: equal prefixes have equal rows. */
static inline uint64_t engine_chain(uint64_t before, uint32_t token)
{
    uint64_t x = before ^ (token + 0x9E3779B97F4A7C15u + (before << 6) + (before >> 2));
    return (x ^ (x >> 31)) * 0x94D049BB133111EBu;
}

/* One step of one sequence: `count` tokens `first`, `first` + 1 … */
static inline void engine_run(anykv_seq *seq, uint32_t first, uint32_t count)
{
    uint32_t tokens[1024];
    uint64_t seeds[1024];
    const uint64_t length = engine_length(seq);
    for (uint32_t i = 0; i < count; i++) {
        tokens[i] = first + i;
        seeds[i] = engine_chain(length + i, first + i);
    }
    anykv_step *step;
    OK(anykv_step_begin(seq->cache, &seq, &count, 1, &step));
    OK(engine_append(step, seeds));
    OK(anykv_step_end(step, NULL, tokens));
}

/* ---- audit: every count in the cache, computed again ---- */

static inline void audit_blocks(anykv_cache *cache, const char *when)
{
    const struct akv_pool *pool = &cache->pool;
    const uint32_t groups = cache->layout->group_count;
    akv_steps_lock(cache);
    uint32_t *refs = calloc(pool->block_capacity + 1, sizeof *refs);
    uint32_t *locks = calloc(pool->block_capacity + 1, sizeof *locks);
    uint32_t *holds = calloc(pool->block_capacity + 1, sizeof *holds);
    for (const anykv_seq *seq = cache->seqs; seq; seq = seq->next) {
        for (uint32_t g = 0; g < groups; g++)
            for (uint32_t i = 0; i < seq->table_capacity; i++) {
                const uint32_t id = akv_seq_table(seq, g)[i];
                if (id == AKV_NO_ID)
                    continue;
                cr_assert(id < pool->block_capacity && pool->blocks[id].refs, "%s: dangling block",
                          when);
                refs[id]++;
                if (seq->tail_held && !seq->step && i == akv_blocks_for(cache, seq->length) - 1)
                    holds[id]++;
            }
    }
    for (uint32_t slot = 0; slot < AKV_OPEN_STEPS; slot++) {
        const struct anykv_step *step = &cache->steps[slot];
        if (!step->open)
            continue;
        for (uint32_t i = 0; i < step->n; i++)
            for (uint32_t g = 0; g < groups; g++) {
                const anykv_seq *seq = step->seqs[i];
                const uint32_t old = step->old_tails[i * groups + g];
                if (old != AKV_NO_ID)
                    refs[old]++;
                if (step->counts[i] == 0)
                    continue;
                const uint32_t tail = akv_blocks_for(cache, seq->length) - 1;
                if (seq->tail_held)
                    holds[old != AKV_NO_ID ? old : akv_seq_table(seq, g)[tail]]++;
                for (uint32_t b = akv_first_visible(cache, g, seq->length);
                     b < akv_blocks_for(cache, seq->length + step->counts[i]); b++)
                    if (akv_seq_table(seq, g)[b] != AKV_NO_ID)
                        locks[akv_seq_table(seq, g)[b]]++;
            }
        for (uint32_t i = 0; i < step->n; i++)
            if (step->counts[i] == 0 && step->seqs[i]->tail_held)
                for (uint32_t g = 0; g < groups; g++)
                    holds[akv_seq_table(step->seqs[i],
                                        g)[akv_blocks_for(cache, step->seqs[i]->length) - 1]]++;
        for (uint32_t g = 0; g < groups; g++)
            for (uint32_t i = 0; i < step->spare[g].count; i++)
                refs[step->spare[g].id[i]]++;
    }
    for (uint32_t node = 0; node < cache->prefix.capacity; node++)
        for (uint32_t g = 0; cache->prefix.nodes[node].used && g < groups; g++) {
            const uint32_t id = akv_prefix_blocks(&cache->prefix, node)[g];
            const uint32_t shown = akv_find_kinds(&cache->prefix.find, node)[g];
            cr_assert(shown == (id == AKV_NO_ID ? AKV_KIND_NONE
                                                : akv_block_rows(&pool->blocks[id])),
                      "%s: lookups see kind %u of node %u", when, shown, node);
            if (id == AKV_NO_ID)
                continue;
            cr_assert(pool->blocks[id].node == node, "%s: block %u is not its node's", when, id);
            refs[id]++;
        }
    uint64_t used[64] = {0}, idle[64] = {0}, live = 0, cold = 0, cold_idle = 0, cold_bytes = 0;
    for (uint32_t id = 0; id < pool->block_capacity; id++) /* a page is its block's */
        for (uint32_t more = pool->blocks[id].refs && pool->blocks[id].method ? pool->blocks[id].more : AKV_NO_ID;
             more != AKV_NO_ID; more = pool->blocks[more].more) {
            cr_assert(pool->blocks[more].page && pool->blocks[more].position == id, "%s: page %u", when, more);
            refs[more]++;
        }
    for (uint32_t id = 0; id < pool->block_capacity; id++) {
        const struct akv_block *block = &pool->blocks[id];
        if (block->refs && block->method) {
            uint32_t pages = 0;
            for (uint32_t page = id; page != AKV_NO_ID; page = pool->blocks[page].more)
                pages++;
            cold++;
            cold_idle += block->idle;
            cold_bytes += (uint64_t)pages * pool->class_[akv_pool_class_of(block)].block_bytes;
            cr_assert(akv_pool_block_bytes(pool, block) ==
                          (uint64_t)pages * pool->class_[akv_pool_class_of(block)].block_bytes,
                      "%s: %u bytes in %u pages", when, block->packed_bytes, pages);
        }
        cr_assert(block->refs == refs[id], "%s: block %u has %u references, %u hold it", when, id,
                  block->refs, refs[id]);
        if (!block->refs)
            continue;
        live++;
        cr_assert(block->locks == locks[id], "%s: block %u has %u locks, not %u", when, id,
                  block->locks, locks[id]);
        cr_assert(block->holds == holds[id], "%s: block %u has %u holds, not %u", when, id,
                  block->holds, holds[id]);
        const struct akv_block *head = block->page ? &pool->blocks[block->position] : block;
        const bool alone = head->refs == 1 && head->node != AKV_NO_ID &&
                           cache->prefix.nodes[head->node].pins == 0;
        cr_assert((akv_block_kind(block) == AKV_KIND_COLD) == (block->page || block->method),
                  "%s: block %u of kind %u, method %u", when, id, akv_block_kind(block), block->method);
        cr_assert(block->idle == alone, "%s: block %u idle %d, alone %d", when, id, block->idle,
                  alone);
        cr_assert(!block->loose || block->idle, "%s: a loose block is not idle", when);
        used[akv_pool_class_of(block)]++;
        idle[akv_pool_class_of(block)] += block->idle;
    }
    cr_assert(pool->cold_blocks == cold && pool->cold_idle == cold_idle, "%s: %llu compressed blocks, %llu idle", when,
              (unsigned long long)pool->cold_blocks, (unsigned long long)pool->cold_idle);
    for (uint32_t method = 0; method < AKV_METHODS; method++)
        cold_bytes -= pool->cold[method].bytes;
    cr_assert(cold_bytes == 0, "%s: bytes of compressed blocks", when);
    uint64_t chunks = 0, in_chunks = 0;
    for (uint32_t c = 0; c < pool->chunk_count; c++)
        if (pool->chunks[c].class_ < pool->classes) {
            chunks++;
            in_chunks += pool->chunks[c].used;
            cr_assert(pool->chunks[c].used, "%s: an empty chunk is not free", when);
        }
    for (uint32_t c = 0; c < pool->classes; c++) {
        cr_assert(pool->class_[c].used == used[c],
                  "%s: class %u counts %llu blocks, there are %llu", when, c,
                  (unsigned long long)pool->class_[c].used, (unsigned long long)used[c]);
        cr_assert(pool->class_[c].idle == idle[c], "%s: class %u counts %llu idle, there are %llu",
                  when, c, (unsigned long long)pool->class_[c].idle, (unsigned long long)idle[c]);
    }
    cr_assert(in_chunks == live, "%s: chunks hold %llu blocks of %llu", when,
              (unsigned long long)in_chunks, (unsigned long long)live);
    cr_assert(pool->present - pool->free_chunks == chunks, "%s: chunks", when);
    free(refs);
    free(locks);
    free(holds);
}

static inline void audit_nodes(anykv_cache *cache, const char *when)
{
    const struct akv_prefix *prefix = &cache->prefix;
    uint32_t *users = calloc(prefix->capacity, sizeof *users);
    uint32_t *children = calloc(prefix->capacity, sizeof *children);
    uint32_t *busy = calloc(prefix->capacity, sizeof *busy);
    for (const anykv_seq *seq = cache->seqs; seq; seq = seq->next)
        for (uint32_t i = 0; i < seq->node_count; i++)
            users[seq->nodes[i]]++;
    uint32_t count = 0;
    for (uint32_t node = 0; node < prefix->capacity; node++) {
        const struct akv_node *n = &prefix->nodes[node];
        if (!n->used)
            continue;
        count++;
        if (n->parent != AKV_NO_ID) {
            cr_assert(prefix->nodes[n->parent].used, "%s: node without its parent", when);
            children[n->parent]++;
            busy[n->parent] += akv_prefix_busy(prefix, node);
        }
    }
    cr_assert(count == prefix->count, "%s: %u nodes, counted %u", when, count, prefix->count);
    for (uint32_t node = 0; node < prefix->capacity; node++) {
        const struct akv_node *n = &prefix->nodes[node];
        if (!n->used)
            continue;
        cr_assert(n->users == users[node] && n->children == children[node] &&
                      n->busy_children == busy[node],
                  "%s: node %u: users %u/%u, children %u/%u, busy children %u/%u", when, node,
                  n->users, users[node], n->children, children[node], n->busy_children, busy[node]);
        const bool candidate = !akv_prefix_busy(prefix, node) && n->children == 0;
        cr_assert((prefix->evict.place[node] != 0) == candidate, "%s: node %u as a candidate", when,
                  node);
        const akv_digest key = akv_find_key(&prefix->find, node);
        cr_assert(n->withdrawn || akv_prefix_find(prefix, &key) == node,
                  "%s: node %u is not found", when, node);
    }
    free(users);
    free(children);
    free(busy);
}

/* Has the block of entry i of a sequence's table the number that it should?  `last`: of the block before,
 * 0 for the first.  Where tokens were evicted a group that kept all it had has the numbers of before. */
static inline bool audit_number(const anykv_seq *seq, uint32_t i, uint32_t number, uint32_t last)
{
    const uint32_t row = i * akv_block_tokens(seq->cache);
    if (row < seq->kept_first || row >= seq->kept_first + seq->kept_rows)
        return number == (row < seq->kept_first ? i : i + seq->dropped / akv_block_tokens(seq->cache));
    return number >= i && (number > last || i == 0);
}

/* Lowered blocks are within the error budget, no sinks, and what their sequences accept; the blocks
 * of open steps are where and what the steps' tables say. */
static inline void audit_ladder(anykv_cache *cache, const char *when)
{
    const uint32_t groups = cache->layout->group_count;
    for (uint32_t id = 0; id < cache->pool.block_capacity; id++) {
        const struct akv_block *block = &cache->pool.blocks[id];
        if (!block->refs || akv_block_kind(block) < AKV_KIND_RUNG || akv_block_kind(block) == AKV_KIND_COLD)
            continue;
        const float error = cache->layout->groups[block->group].error[akv_block_kind(block)];
        cr_assert(error > 0 && error <= cache->plan.options.error_budget,
                  "%s: a block's error is %g of at most %g", when, (double)error,
                  (double)cache->plan.options.error_budget);
        cr_assert(block->position >= akv_blocks_for(cache, cache->plan.options.sinks),
                  "%s: sink block %u was lowered", when, block->position);
    }
    for (const anykv_seq *seq = cache->seqs; seq; seq = seq->next)
        for (uint32_t g = 0; g < groups; g++)
            for (uint32_t i = 0, last = 0; i < seq->table_capacity; i++) {
                const uint32_t id = akv_seq_table(seq, g)[i];
                if (id == AKV_NO_ID)
                    continue;
                const struct akv_block *block = &cache->pool.blocks[id];
                cr_assert(audit_number(seq, i, block->position, last) &&
                              akv_block_rows(block) <= AKV_KIND_SEALED + seq->rungs,
                          "%s: block %u of number %u, kind %u", when, i, block->position,
                          akv_block_kind(block));
                last = block->position;
            }
    for (uint32_t slot = 0; slot < AKV_OPEN_STEPS; slot++) {
        const struct anykv_step *step = &cache->steps[slot];
        for (uint32_t g = 0; step->open && g < groups; g++) {
            const uint8_t *image = step->image + akv_step_image_at(cache, g);
            akv_step_head head;
            memcpy(&head, image, sizeof head);
            for (uint32_t s = 0; s < step->n; s++) {
                akv_step_seq record;
                memcpy(&record, image + head.seq_offset + s * sizeof record, sizeof record);
                for (uint32_t b = 0; b < record.table_count; b++) {
                    uint32_t entry;
                    memcpy(&entry, image + head.table_offset + (record.table_first + b) * 4, 4);
                    const uint32_t id =
                        akv_seq_table(step->seqs[s], g)[record.first_block + b];
                    cr_assert(id == AKV_NO_ID ? entry == AKV_NO_BLOCK
                                              : entry == cache->pool.blocks[id].entry,
                              "%s: block %u of an open step moved or changed", when, b);
                }
            }
        }
    }
}

static inline void audit(anykv_cache *cache, const char *when)
{
    audit_blocks(cache, when);
    audit_ladder(cache, when);
    audit_nodes(cache, when);
    uint64_t held = cache->plan.fixed_bytes;
    for (uint32_t s = 0; s < cache->slabs; s++)
        held += cache->slab_bytes[s];
    cr_assert(held <= cache->budget_bytes, "%s: %llu bytes held of %llu", when,
              (unsigned long long)held, (unsigned long long)cache->budget_bytes);
}

#endif
