/* SPDX-License-Identifier: Apache-2.0 */
/* Sequences and the prefix index: match, lookup, name.
 *
 * A node is one position of a chain and may hold a block of each layer group.  Blocks of global
 * groups must all be there for a match; of a window group, only those that the window still sees at
 * the matched length.  The first published block of a key stays: a second sequence that computed
 * the same tokens holds the same node but keeps its own block, unshared, so that its results depend
 * on its own rows only; where the node had lost a group's block, the second one's takes the place.
 */
#include "seq.h"

#define BATCH 32u /* keys whose slots are asked for from memory together */

/* Walks a chain of keys; `runs[g]` counts the blocks of group g that are held without a gap up to
 * here. */
struct walk {
    anykv_cache *cache;
    const uint32_t *tokens;
    uint32_t blocks; /* whole blocks asked for */
    uint32_t found;  /* nodes found in a row */
    uint32_t best;   /* longest length in blocks at which every group is served */
    akv_digest key;
    uint32_t rungs; /* accepted below the layout's formats */
    bool too_low;   /* a block was there, at less */
    uint64_t state; /* of the index before the walk */
    uint32_t runs[AKV_MAX_LAYERS];
};

/* Takes one found node in, whose blocks are of these kinds; false: the chain ends here. */
static bool extend(struct walk *walk, const uint8_t *kinds)
{
    const anykv_cache *cache = walk->cache;
    const uint32_t count = walk->found + 1, length = count * akv_block_tokens(cache);
    bool served = true;
    for (uint32_t g = 0; g < cache->layout->group_count; g++) {
        bool held = kinds[g] != AKV_KIND_NONE;
        if (held && kinds[g] > AKV_KIND_SEALED + walk->rungs) {
            held = false;
            walk->too_low = true;
        }
        if (!held && cache->layout->groups[g].window == 0)
            return false;
        walk->runs[g] = held ? walk->runs[g] + 1 : 0;
        if (walk->runs[g] < count - akv_first_visible(cache, g, length))
            served = false;
    }
    walk->found = count;
    if (served)
        walk->best = count;
    return true;
}

/* One key, without the lock unless changes come in between all the time. */
static void look(anykv_cache *cache, const akv_digest *key, struct akv_found *found, uint8_t *kinds)
{
    struct akv_find *find = &cache->prefix.find;
    if (akv_find_peek(find, key, found, kinds))
        return;
    akv_mutex_lock(&cache->lock);
    (void)akv_find_peek(find, key, found, kinds); /* nothing changes now */
    akv_mutex_unlock(&cache->lock);
}

/* Looks the chain up, without the lock, and lists what was found, where asked to. */
static void run_walk(struct walk *walk, struct akv_found *list)
{
    anykv_cache *cache = walk->cache;
    const uint32_t size = akv_block_tokens(cache);
    uint8_t kinds[AKV_MAX_LAYERS];
    bool more = true;
    walk->state = akv_find_state(&cache->prefix.find);
    while (more && walk->found < walk->blocks) {
        akv_digest keys[BATCH];
        const uint32_t left = walk->blocks - walk->found, count = left < BATCH ? left : BATCH;
        for (uint32_t i = 0; i < count; i++) {
            walk->key =
                akv_prefix_key(&walk->key, walk->tokens + (size_t)(walk->found + i) * size, size);
            keys[i] = walk->key;
            akv_find_prefetch(&cache->prefix.find, &keys[i]);
        }
        for (uint32_t i = 0; i < count && more; i++) {
            struct akv_found found;
            look(cache, &keys[i], &found, kinds);
            more = found.node != AKV_NO_ID && extend(walk, kinds);
            if (more && list)
                list[walk->found - 1] = found;
        }
    }
}

/* Under lock: what of the listed nodes is still there, with blocks as they are now. */
static void check_walk(struct walk *walk, const struct akv_found *list)
{
    const struct akv_find *find = &walk->cache->prefix.find;
    const uint32_t found = walk->found;
    uint8_t kinds[AKV_MAX_LAYERS];
    if (walk->state % 2 == 0 && akv_find_state(find) == walk->state)
        return; /* all of it */
    memset(walk->runs, 0, walk->cache->layout->group_count * sizeof walk->runs[0]);
    walk->found = walk->best = 0;
    for (uint32_t i = 0; i < found; i++) {
        if (akv_find_birth(find, list[i].node) != list[i].birth)
            return;
        for (uint32_t g = 0; g < walk->cache->layout->group_count; g++)
            kinds[g] = akv_find_kinds(find, list[i].node)[g];
        if (!extend(walk, kinds))
            return;
    }
}

/* All but one token at most, in whole blocks, within the declared length. */
static uint32_t blocks_asked(const anykv_cache *cache, uint64_t count)
{
    if (count == 0)
        return 0;
    const uint64_t most = cache->plan.options.max_seq_tokens;
    const uint64_t tokens = count - 1 < most ? count - 1 : most;
    return (uint32_t)(tokens / akv_block_tokens(cache));
}

static void start_walk(struct walk *walk, anykv_cache *cache, const akv_digest *root,
                       const uint32_t *tokens, uint64_t count, uint32_t rungs)
{
    walk->rungs = rungs;
    walk->too_low = false;
    walk->cache = cache;
    walk->tokens = tokens;
    walk->blocks = blocks_asked(cache, count);
    walk->found = walk->best = 0;
    walk->key = *root;
    memset(walk->runs, 0, cache->layout->group_count * sizeof walk->runs[0]);
}

static void count_lookup(struct walk *walk, uint64_t count)
{
    static atomic_uint threads;
    static _Thread_local uint32_t place = UINT32_MAX;
    anykv_cache *cache = walk->cache;
    if (place == UINT32_MAX)
        place = atomic_fetch_add_explicit(&threads, 1, memory_order_relaxed) % AKV_COUNTERS;
    struct akv_lookups *lookups = &cache->lookups[place];
    const uint64_t hit = (uint64_t)walk->best * akv_block_tokens(cache);
    const bool missed = walk->best < walk->blocks;
    atomic_fetch_add_explicit(&lookups->calls, 1, memory_order_relaxed);
    atomic_fetch_add_explicit(&lookups->tokens, count, memory_order_relaxed);
    /* Whoever reads this sees what was asked for too. */
    atomic_fetch_add_explicit(&lookups->hit_tokens, hit, memory_order_release);
    if (missed && walk->too_low)
        atomic_fetch_add_explicit(&lookups->precision_misses, 1, memory_order_relaxed);
    if (missed)
        akv_explain(cache, "missed block %u of %u: %s", walk->best, walk->blocks,
                    walk->too_low ? "its precision was lowered below what the sequence accepts"
                    : walk->found > walk->best ? "the window's blocks before it are gone"
                                               : "no block of that key and identity");
}

void akv_lookups_count(const anykv_cache *cache, anykv_stats *stats)
{
    for (uint32_t i = 0; i < AKV_COUNTERS; i++) {
        const struct akv_lookups *lookups = &cache->lookups[i];
        stats->hit_tokens += atomic_load_explicit(&lookups->hit_tokens, memory_order_acquire);
        stats->precision_misses +=
            atomic_load_explicit(&lookups->precision_misses, memory_order_relaxed);
        stats->lookups += atomic_load_explicit(&lookups->calls, memory_order_relaxed);
        stats->lookup_tokens += atomic_load_explicit(&lookups->tokens, memory_order_relaxed);
    }
}

/* Under lock: the sequence takes the nodes and blocks of what the walk found. */
static void take_prefix(anykv_seq *seq, const struct walk *walk, const struct akv_found *list,
                        const uint32_t *tokens)
{
    anykv_cache *cache = seq->cache;
    struct akv_prefix *prefix = &cache->prefix;
    for (; seq->node_count < walk->best; seq->node_count++) {
        seq->nodes[seq->node_count] = list[seq->node_count].node;
        akv_prefix_hold(prefix, seq->nodes[seq->node_count]);
    }
    if (walk->best) {
        const uint32_t last = seq->nodes[walk->best - 1];
        seq->gap = prefix->nodes[last].fan_out <= 2 ? akv_prefix_age(prefix, last) : -1.0;
        akv_seq_use_path(seq, last, false);
    }
    seq->length = seq->named = walk->best * akv_block_tokens(cache);
    if (seq->length)
        memcpy(seq->tokens, tokens, seq->length * sizeof *tokens);
    for (uint32_t g = 0; g < cache->layout->group_count; g++) {
        seq->first[g] = akv_first_visible(cache, g, seq->length);
        seq->sealed[g] = 0;
        for (uint32_t i = seq->first[g]; i < walk->best; i++) {
            const uint32_t id = akv_prefix_blocks(prefix, seq->nodes[i])[g];
            akv_seq_table(seq, g)[i] = id;
            akv_cache_acquire(cache, id);
            struct akv_block *block = akv_pool_block(&cache->pool, id);
            block->least = block->least < seq->rungs ? block->least : seq->rungs;
            block->used_at = cache->serial;
            cache->count.blocks_reused++;
        }
    }
    seq->closed = false;
}

anykv_status anykv_seq_match(anykv_seq *seq, const uint32_t *tokens, uint64_t count,
                             uint64_t *matched_out)
{
    if (seq && (!matched_out || (!tokens && count)))
        return akv_fail(seq->cache->context, ANYKV_E_ARG, "%s: NULL",
                        matched_out ? "tokens" : "matched_out");
    struct walk walk;
    struct akv_found *list = NULL;
    struct akv_seq_room room = {0, NULL, NULL, NULL};
    anykv_status status = ANYKV_OK;
    if (seq && !seq->private_) {
        anykv_cache *cache = seq->cache;
        start_walk(&walk, cache, &seq->root, tokens, count, seq->rungs);
        if (walk.blocks && !(list = akv_alloc(cache->context, walk.blocks, sizeof *list)))
            return ANYKV_E_MEMORY;
        if (walk.blocks)
            status = akv_seq_room(cache->context, cache, walk.blocks, &room);
        if (!status)
            run_walk(&walk, list);
    }
    if (!status && !(status = akv_seq_enter_short(seq))) {
        anykv_cache *cache = seq->cache;
        const uint32_t blocks = seq->private_ ? 0 : walk.blocks;
        struct akv_call call;
        akv_call_begin(cache, &call, "anykv_seq_match");
        if (seq->length)
            status = akv_fail(cache->context, ANYKV_E_STATE,
                              "seq: it holds %u tokens; match wants it empty", seq->length);
        if (!status && blocks) {
            akv_seq_move_in(seq, &room);
            check_walk(&walk, list);
            take_prefix(seq, &walk, list, tokens);
            count_lookup(&walk, count);
        }
        if (!status)
            *matched_out = seq->length;
        akv_call_end(cache, &call, status);
        if (!status && blocks)
            akv_call_matched(count, seq->length);
        (void)akv_seq_leave(seq, status);
    }
    if (list) {
        akv_free(seq->cache->context, list);
        akv_seq_room_free(seq->cache->context, &room);
    }
    return status;
}

anykv_status anykv_cache_lookup(anykv_cache *cache, const anykv_seq_options *options,
                                const uint32_t *tokens, uint64_t count, uint64_t *matched_out)
{
    if (!cache || !matched_out || (!tokens && count))
        return akv_fail(cache ? cache->context : NULL, ANYKV_E_ARG, "%s: NULL",
                        !cache         ? "cache"
                        : !matched_out ? "matched_out"
                                       : "tokens");
    anykv_seq_options checked;
    akv_digest root;
    const uint64_t start_ns = akv_now_ns();
    anykv_status status = akv_seq_identity(cache, options, &checked, &root);
    if (status)
        return status;
    struct walk walk;
    start_walk(&walk, cache, &root, tokens, count, akv_seq_rungs(&checked));
    if (!(checked.flags & ANYKV_SEQ_PRIVATE))
        run_walk(&walk, NULL);
    count_lookup(&walk, count);
    *matched_out = (uint64_t)walk.best * akv_block_tokens(cache);
    akv_call_looked("anykv_cache_lookup", start_ns, count, *matched_out);
    return ANYKV_OK;
}

/* ---- naming ---- */

/* The source of a lowered block is there again: a sequence computed its rows anew. */
static bool is_better(const anykv_cache *cache, uint32_t id, uint32_t than)
{
    return than != AKV_NO_ID &&
           akv_block_rows(akv_pool_block(&cache->pool, than)) >= AKV_KIND_RUNG &&
           akv_block_rows(akv_pool_block(&cache->pool, id)) < AKV_KIND_RUNG;
}

void akv_seq_publish(anykv_seq *seq)
{
    anykv_cache *cache = seq->cache;
    struct akv_prefix *prefix = &cache->prefix;
    const uint32_t size = akv_block_tokens(cache);
    while (seq->node_count < seq->named / size) {
        const uint32_t i = seq->node_count;
        const uint32_t parent = i ? seq->nodes[i - 1] : AKV_NO_ID;
        const akv_digest before = i ? akv_find_key(&prefix->find, parent) : seq->root;
        const akv_digest key = akv_prefix_key(&before, seq->tokens + (size_t)i * size, size);
        uint32_t node = akv_prefix_find(prefix, &key);
        if (node != AKV_NO_ID) {
            akv_prefix_hold(prefix, node);
        } else {
            node = akv_prefix_insert(prefix, &key, parent, seq->part, false);
            assert(node != AKV_NO_ID); /* reserved */
            cache->count.blocks_named++;
            akv_cache_event(cache, ANYKV_BLOCK_STORED, node, AKV_KIND_HOT, seq);
            /* The gap is that of the deepest block seen before, evicted ones included. */
            const double age = akv_evict_age(&prefix->evict, node);
            if (age >= 0.0)
                seq->gap = age;
            else
                akv_seq_tell(seq);
        }
        akv_prefix_touch(prefix, node);
        seq->nodes[seq->node_count] = node;
        akv_seq_hint_node(seq, seq->node_count++);
        for (uint32_t g = 0; g < cache->layout->group_count; g++) {
            const uint32_t id = akv_seq_table(seq, g)[i];
            if (id == AKV_NO_ID || akv_pool_block(&cache->pool, id)->node != AKV_NO_ID)
                continue;
            if (is_better(cache, id, akv_prefix_blocks(prefix, node)[g])) {
                akv_node_take(cache, node, g); /* its users keep it */
                cache->count.blocks_restored++;
                akv_cache_event(cache, ANYKV_BLOCK_RESTORED, node,
                                akv_block_rows(akv_pool_block(&cache->pool, id)), seq);
            }
            if (akv_prefix_blocks(prefix, node)[g] == AKV_NO_ID)
                akv_node_give(cache, node, g, id);
        }
    }
}

anykv_status anykv_seq_name(anykv_seq *seq, const uint32_t *tokens, uint64_t count)
{
    if (seq && !tokens && count)
        return akv_fail(seq->cache->context, ANYKV_E_ARG, "tokens: NULL");
    anykv_status status = akv_seq_enter(seq, true);
    if (status)
        return status;
    anykv_cache *cache = seq->cache;
    if (seq->private_ || seq->closed)
        return akv_seq_leave(seq, akv_fail(cache->context, ANYKV_E_STATE, "seq: %s",
                                           seq->private_ ? "a private sequence names nothing"
                                                         : "after a removal it names nothing"));
    if (count > seq->length - seq->named)
        return akv_seq_leave(
            seq, akv_fail(cache->context, ANYKV_E_ARG,
                          "count: %llu tokens after the %u named ones, the sequence has "
                          "%u",
                          (unsigned long long)count, seq->named, seq->length));
    const uint32_t named = seq->named + (uint32_t)count;
    status = akv_seq_reserve(seq, seq->length);
    if (!status)
        status =
            akv_prefix_reserve(&cache->prefix, named / akv_block_tokens(cache) - seq->node_count);
    if (!status && count) {
        memcpy(seq->tokens + seq->named, tokens, count * sizeof *tokens);
        seq->named = named;
        akv_seq_publish(seq);
    }
    return akv_seq_leave(seq, status);
}
