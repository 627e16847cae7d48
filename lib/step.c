/* SPDX-License-Identifier: Apache-2.0 */
/* Steps: begin reserves everything, end commits, cancel takes back. */
#include "cache.h"
#include "evict_tokens.h"

/* ---- undoing ---- */

static void release_spare(anykv_step *step)
{
    for (uint32_t g = 0; g < step->cache->layout->group_count; g++) {
        struct akv_id_list *spare = &step->spare[g];
        while (spare->count)
            akv_cache_release(step->cache, spare->id[--spare->count]);
    }
}

/* Gives back the blocks that begin put into sequence i's tables. */
static void restore_tables(anykv_step *step, uint32_t i)
{
    anykv_cache *cache = step->cache;
    anykv_seq *seq = step->seqs[i];
    const uint32_t held = akv_blocks_for(cache, seq->length);
    uint32_t end = akv_blocks_for(cache, seq->length + step->counts[i]);
    if (end > seq->table_capacity) /* begin failed before it made room */
        end = seq->table_capacity;
    for (uint32_t g = 0; g < cache->layout->group_count; g++) {
        uint32_t *old = &step->old_tails[i * cache->layout->group_count + g];
        akv_seq_drop_blocks(seq, g, held, end);
        if (*old == AKV_NO_ID)
            continue;
        akv_seq_drop_blocks(seq, g, held - 1, held);
        akv_seq_table(seq, g)[held - 1] = *old;
        *old = AKV_NO_ID;
    }
}

/* The sequences leave the step; those that were destroyed meanwhile go. */
static void close_step(anykv_step *step)
{
    for (uint32_t i = 0; i < step->n; i++) {
        step->seqs[i]->step = NULL;
        if (step->seqs[i]->destroyed)
            akv_seq_free(step->seqs[i]);
    }
    step->n = 0;
    step->open = false;
}

static void take_back(anykv_step *step)
{
    for (uint32_t i = 0; i < step->n; i++)
        restore_tables(step, i);
    release_spare(step);
    close_step(step);
}

/* ---- begin ---- */

static anykv_status check_arguments(anykv_cache *cache, anykv_seq *const *seqs,
                                    const uint32_t *counts, uint32_t n, anykv_step **step_out)
{
    if (!cache || !seqs || !counts || !step_out)
        return akv_fail(cache ? cache->context : NULL, ANYKV_E_ARG, "%s: NULL",
                        !cache    ? "cache"
                        : !seqs   ? "seqs"
                        : !counts ? "counts"
                                  : "step_out");
    if (n == 0)
        return akv_fail(cache->context, ANYKV_E_ARG, "n: 0; a step has a sequence at least");
    if (n > cache->plan.options.max_sequences)
        return akv_fail(cache->context, ANYKV_E_SHAPE, "n: %u is above max_sequences, %u", n,
                        cache->plan.options.max_sequences);
    for (uint32_t i = 0; i < n; i++)
        if (!seqs[i] || seqs[i]->cache != cache)
            return akv_fail(cache->context, ANYKV_E_ARG, "seqs[%u]: %s", i,
                            seqs[i] ? "belongs to another cache" : "NULL");
    return ANYKV_OK;
}

/* Enters sequence i into the step. */
static anykv_status enter_sequence(anykv_step *step, anykv_seq *seq, uint32_t count)
{
    anykv_cache *cache = step->cache;
    const anykv_cache_options *options = &cache->plan.options;
    const uint32_t i = step->n;
    anykv_status status = akv_seq_alive(seq);
    if (status)
        return status;
    if (seq->step == step)
        return akv_fail(cache->context, ANYKV_E_ARG, "seqs[%u]: occurs twice", i);
    if (seq->step)
        return akv_fail(cache->context, ANYKV_E_BUSY, "seqs[%u]: it is in another open step", i);
    if (count > options->max_step_tokens - step->tokens)
        return akv_fail(cache->context, ANYKV_E_SHAPE,
                        "counts[%u]: the step then has more than max_step_tokens, %u", i,
                        options->max_step_tokens);
    if (count > options->max_seq_tokens || seq->length > options->max_seq_tokens - count)
        return akv_fail(cache->context, ANYKV_E_SHAPE,
                        "counts[%u]: %u more than %u tokens are above max_seq_tokens, %u", i, count,
                        seq->length, options->max_seq_tokens);
    seq->step = step;
    step->seqs[i] = seq;
    step->counts[i] = count;
    step->n++;
    step->tokens += count;
    if (count > step->most_tokens)
        step->most_tokens = count;
    if (count && seq->length + count > step->longest)
        step->longest = seq->length + count;
    return ANYKV_OK;
}

static bool tail_shared(const anykv_cache *cache, const anykv_seq *seq, uint32_t group,
                        uint32_t held)
{
    if (seq->length % akv_block_tokens(cache) == 0)
        return false;
    return akv_pool_block(&cache->pool, akv_seq_table(seq, group)[held - 1])->refs > 1;
}

/* Host memory for everything that the step and its end can need, and the blocks it needs by class.
 */
static anykv_status count_needs(anykv_step *step)
{
    anykv_cache *cache = step->cache;
    const uint32_t groups = cache->layout->group_count;
    uint64_t names = 0;
    memset(cache->need, 0, cache->pool.classes * sizeof *cache->need);
    akv_tenants_need_none(cache);
    for (uint32_t i = 0; i < step->n; i++) {
        anykv_seq *seq = step->seqs[i];
        const uint32_t length = seq->length + step->counts[i];
        if (step->counts[i] == 0)
            continue;
        anykv_status status = akv_seq_reserve(seq, length);
        if (status)
            return status;
        const uint32_t held = akv_blocks_for(cache, seq->length);
        if (!seq->private_ && !seq->closed)
            names += length / akv_block_tokens(cache) - seq->node_count;
        for (uint32_t g = 0; g < groups; g++) {
            const uint32_t hot =
                akv_blocks_for(cache, length) - held + (tail_shared(cache, seq, g, held) ? 1 : 0);
            const uint32_t sealed = akv_seal_count(seq, g, length, step->serial);
            cache->need[AKV_CLASS(g, AKV_KIND_HOT)] += hot;
            cache->need[AKV_CLASS(g, AKV_KIND_SEALED)] += sealed;
            akv_tenants_need(cache, seq->part, g, hot, sealed);
        }
    }
    for (uint32_t g = 0; g < groups; g++) {
        struct akv_id_list *spare = &step->spare[g];
        const uint32_t need = cache->need[AKV_CLASS(g, AKV_KIND_SEALED)];
        if (need <= spare->capacity)
            continue;
        uint32_t *id = akv_resize(cache->context, spare->id, 0, need, sizeof *id);
        if (!id)
            return ANYKV_E_MEMORY;
        spare->id = id;
        spare->capacity = need;
    }
    return akv_prefix_reserve(&cache->prefix, names > UINT32_MAX ? UINT32_MAX : (uint32_t)names);
}

/* Blocks for sequence i's new tokens of a group; a shared partial block is replaced by a new one.
 */
static anykv_status extend_table(anykv_step *step, uint32_t i, uint32_t group)
{
    anykv_cache *cache = step->cache;
    anykv_seq *seq = step->seqs[i];
    uint32_t *table = akv_seq_table(seq, group);
    const uint32_t held = akv_blocks_for(cache, seq->length);
    const uint32_t end = akv_blocks_for(cache, seq->length + step->counts[i]);
    const bool copy = tail_shared(cache, seq, group, held);
    anykv_status status = ANYKV_OK;
    for (uint32_t b = copy ? held - 1 : held; b < end && !status; b++) {
        const uint32_t id = akv_cache_alloc(cache, group, AKV_KIND_HOT, seq->tenant, &status);
        if (status)
            break;
        if (b < held)
            step->old_tails[i * cache->layout->group_count + group] = table[b];
        table[b] = id;
        akv_pool_block(&cache->pool, id)->position = b + seq->dropped / akv_block_tokens(cache);
        akv_pool_block(&cache->pool, id)->least = seq->rungs;
    }
    return status;
}

static anykv_status copy_tails(anykv_step *step, uint32_t group)
{
    anykv_cache *cache = step->cache;
    uint32_t count = 0;
    for (uint32_t i = 0; i < step->n; i++) {
        const uint32_t old = step->old_tails[i * cache->layout->group_count + group];
        if (old == AKV_NO_ID)
            continue;
        const uint32_t tail = akv_blocks_for(cache, step->seqs[i]->length) - 1;
        const uint32_t id = akv_seq_table(step->seqs[i], group)[tail];
        cache->moves[count].src =
            akv_pool_address(&cache->pool, group, akv_pool_block(&cache->pool, old)->entry);
        cache->moves[count].dst =
            akv_pool_address(&cache->pool, group, akv_pool_block(&cache->pool, id)->entry);
        cache->count.blocks_copied++;
        if (++count == AKV_MOVES) {
            anykv_status status = akv_enqueue_copy(cache, group, AKV_KIND_HOT, count);
            if (status)
                return status;
            count = 0;
        }
    }
    return akv_enqueue_copy(cache, group, AKV_KIND_HOT, count);
}

/* Packed blocks are for whichever sequence seals; with several tenants they start out as nobody's.
 */
static uint64_t spare_tenant(const anykv_step *step)
{
    for (uint32_t i = 1; i < step->n; i++)
        if (step->seqs[i]->tenant != step->seqs[0]->tenant)
            return AKV_TENANT_NOBODY;
    return step->seqs[0]->tenant;
}

static anykv_status reserve_blocks(anykv_step *step)
{
    anykv_cache *cache = step->cache;
    const uint32_t groups = cache->layout->group_count;
    uint64_t asking = 1;
    for (uint32_t i = 0; i < step->n; i++)
        asking |= (uint64_t)1 << step->seqs[i]->part;
    anykv_status status = akv_tenants_admit(cache, asking);
    if (!status)
        status = akv_cache_make_room(cache, cache->need);
    for (uint32_t g = 0; g < groups && !status; g++) {
        for (uint32_t i = 0; i < step->n && !status; i++)
            if (step->counts[i])
                status = extend_table(step, i, g);
        struct akv_id_list *spare = &step->spare[g];
        for (uint32_t k = cache->need[AKV_CLASS(g, AKV_KIND_SEALED)]; k > 0 && !status; k--) {
            const uint32_t id =
                akv_cache_alloc(cache, g, AKV_KIND_SEALED, spare_tenant(step), &status);
            if (!status)
                spare->id[spare->count++] = id;
        }
        if (!status)
            status = copy_tails(step, g);
    }
    return status;
}

/* Locks or unlocks every block that the step's kernels can touch. */
static void lock_blocks(anykv_step *step, bool lock)
{
    anykv_cache *cache = step->cache;
    if (step->locked == lock)
        return;
    step->locked = lock;
    for (uint32_t i = 0; i < step->n; i++) {
        const anykv_seq *seq = step->seqs[i];
        if (step->counts[i] == 0)
            continue;
        const uint32_t end = akv_blocks_for(cache, seq->length + step->counts[i]);
        for (uint32_t g = 0; g < cache->layout->group_count; g++) {
            const uint32_t *table = akv_seq_table(seq, g);
            for (uint32_t b = akv_first_visible(cache, g, seq->length); b < end; b++) {
                if (table[b] == AKV_NO_ID)
                    continue;
                if (lock)
                    akv_pool_lock(&cache->pool, table[b]);
                else
                    akv_pool_unlock(&cache->pool, table[b]);
            }
        }
    }
}

void akv_steps_lock(anykv_cache *cache)
{
    for (uint32_t slot = 0; slot < AKV_OPEN_STEPS; slot++)
        if (cache->steps[slot].running)
            lock_blocks(&cache->steps[slot], true);
}

/* The step's kernels may run, or no longer do. */
static void run(anykv_step *step, bool running)
{
    step->running = running;
    for (uint32_t i = 0; running && i < step->n; i++)
        if (step->counts[i])
            step->seqs[i]->used_at = step->serial;
    if (!running)
        lock_blocks(step, false);
}

/* Sets the epoch of the blocks that the step writes. */
static void mark_written(anykv_step *step, uint64_t epoch)
{
    anykv_cache *cache = step->cache;
    for (uint32_t i = 0; i < step->n; i++) {
        const anykv_seq *seq = step->seqs[i];
        const uint32_t end = akv_blocks_for(cache, seq->length + step->counts[i]);
        for (uint32_t g = 0; g < cache->layout->group_count && step->counts[i]; g++)
            for (uint32_t b = seq->length / akv_block_tokens(cache); b < end; b++)
                akv_pool_block(&cache->pool, akv_seq_table(seq, g)[b])->epoch = epoch;
    }
}

static anykv_step *free_slot(anykv_cache *cache)
{
    for (uint32_t slot = 0; slot < AKV_OPEN_STEPS; slot++)
        if (!cache->steps[slot].open)
            return &cache->steps[slot];
    return NULL;
}

static anykv_status begin(anykv_cache *cache, anykv_seq *const *seqs, const uint32_t *counts,
                          uint32_t n, anykv_step **step_out)
{
    anykv_step *step = free_slot(cache);
    if (!step)
        return akv_fail(cache->context, ANYKV_E_BUSY,
                        "cache: %u steps are open, which is the limit", AKV_OPEN_STEPS);
    step->open = true;
    cache->serial += 2; /* and the next number: akv_seal_step's mark */
    step->serial = cache->serial;
    step->n = step->tokens = step->most_tokens = step->longest = step->missing = 0;
    memset(step->appended, 0, cache->layout->count);
    for (size_t k = 0; k < (size_t)n * cache->layout->group_count; k++)
        step->old_tails[k] = AKV_NO_ID;
    anykv_status status = ANYKV_OK;
    for (uint32_t i = 0; i < n && !status; i++)
        status = enter_sequence(step, seqs[i], counts[i]);
    if (!status)
        status = count_needs(step);
    if (!status)
        status = reserve_blocks(step);
    if (!status)
        status = akv_step_describe(step);
    if (status) {
        take_back(step);
        return status;
    }
    run(step, true);
    mark_written(step, UINT64_MAX);
    for (uint32_t l = 0; l < cache->layout->count; l++)
        if (cache->layout->places[l].owner && step->tokens)
            step->missing++;
    *step_out = step;
    return ANYKV_OK;
}

anykv_status anykv_step_begin(anykv_cache *cache, anykv_seq *const *seqs, const uint32_t *counts,
                              uint32_t n, anykv_step **step_out)
{
    anykv_status status = check_arguments(cache, seqs, counts, n, step_out);
    if (status)
        return status;
    /* Each whole block of new tokens can drive one cached block out. */
    uint64_t tokens = 0;
    for (uint32_t i = 0; i < n; i++)
        tokens += counts[i];
    const uint64_t blocks = tokens ? tokens / akv_block_tokens(cache) + n : 0;
    akv_cold_ahead(cache, blocks);
    status = akv_cache_rate(cache, blocks);
    if (status)
        return status;
    akv_cache_enter(cache);
    struct akv_call call;
    akv_call_begin(cache, &call, "anykv_step_begin");
    const bool cold = akv_cold_any(cache, (const anykv_seq *const *)seqs, counts, n);
    if (cold) { /* compressed blocks are read back first; while io is held none is compressed again */
        akv_mutex_unlock(&cache->lock);
        akv_mutex_lock(&cache->io);
        status = akv_cold_read(cache, (const anykv_seq *const *)seqs, counts, n, 0, UINT32_MAX);
        akv_cache_enter(cache);
    }
    if (!status)
        status = begin(cache, seqs, counts, n, step_out);
    akv_call_end(cache, &call, status);
    akv_mutex_unlock(&cache->lock);
    if (cold)
        akv_mutex_unlock(&cache->io);
    return status;
}

/* ---- end ---- */

/* Sequence i keeps `accepted` of its new tokens, whose ids are at `tokens` if given. */
static void commit(anykv_step *step, uint32_t i, uint32_t accepted, const uint32_t *tokens)
{
    anykv_cache *cache = step->cache;
    anykv_seq *seq = step->seqs[i];
    const uint32_t before = seq->length, after = before + accepted;
    akv_seq_hold_tail(seq, false);
    for (uint32_t g = 0; g < cache->layout->group_count; g++)
        akv_seq_drop_blocks(seq, g, akv_blocks_for(cache, after),
                            akv_blocks_for(cache, before + step->counts[i]));
    seq->length = after;
    if (tokens && accepted && !seq->private_ && !seq->closed && seq->named == before) {
        memcpy(seq->tokens + before, tokens, accepted * sizeof *tokens);
        seq->named = after;
        akv_seq_publish(seq);
    }
    akv_seq_slide(seq);
    cache->count.tokens_appended += accepted;
}

/* The old tails come back into the tables for a moment, so that their holds are let go, then go. */
static void release_old_tails(anykv_step *step, uint32_t i)
{
    anykv_cache *cache = step->cache;
    anykv_seq *seq = step->seqs[i];
    const uint32_t tail = akv_blocks_for(cache, seq->length);
    for (uint32_t g = 0; g < cache->layout->group_count; g++) {
        uint32_t *old = &step->old_tails[i * cache->layout->group_count + g];
        if (*old == AKV_NO_ID)
            continue;
        if (seq->tail_held) { /* the hold moves from the shared block to the copy */
            akv_pool_block(&cache->pool, *old)->holds--;
            akv_pool_block(&cache->pool, akv_seq_table(seq, g)[tail - 1])->holds++;
        }
        akv_cache_release(cache, *old);
        *old = AKV_NO_ID;
    }
}

static anykv_status check_end(anykv_step *step, const uint32_t *accepted)
{
    anykv_context *context = step->cache->context;
    if (step->missing)
        for (uint32_t l = 0; l < step->cache->layout->count; l++)
            if (step->cache->layout->places[l].owner && !step->appended[l])
                return akv_fail(context, ANYKV_E_STATE,
                                "step: layer %u and %u others were not appended", l,
                                step->missing - 1);
    for (uint32_t i = 0; accepted && i < step->n; i++)
        if (accepted[i] > step->counts[i])
            return akv_fail(context, ANYKV_E_ARG, "accepted[%u]: %u is above the step's count, %u",
                            i, accepted[i], step->counts[i]);
    return ANYKV_OK;
}

static bool any_dead(const anykv_step *step)
{
    for (uint32_t i = 0; i < step->n; i++)
        if (step->seqs[i]->dead)
            return true;
    return false;
}

/* A device failure hit the step: its sequences are dead. */
static anykv_status abandon(anykv_step *step)
{
    anykv_context *context = step->cache->context;
    run(step, false);
    for (uint32_t i = 0; i < step->n; i++)
        akv_seq_kill(step->seqs[i]);
    take_back(step);
    return akv_fail(context, ANYKV_E_DEVICE, "step: a device failure hit its rows");
}

static anykv_status end(anykv_step *step, const uint32_t *accepted, const uint32_t *tokens,
                        bool evicting)
{
    anykv_cache *cache = step->cache;
    run(step, false);
    mark_written(step, ++cache->epoch);
    uint32_t first = 0;
    for (uint32_t i = 0; i < step->n; i++) {
        release_old_tails(step, i);
        if (step->counts[i])
            commit(step, i, accepted ? accepted[i] : step->counts[i],
                   tokens ? tokens + first : NULL);
        first += step->counts[i];
    }
    cache->count.steps++;
    anykv_status status = akv_seal_step(step);
    release_spare(step);
    if (!status)
        akv_lower_ahead(cache);
    if (status)
        for (uint32_t i = 0; i < step->n; i++)
            akv_seq_kill(step->seqs[i]);
    if (evicting && !status)
        akv_limit_apply(step);
    close_step(step);
    return status;
}

anykv_status anykv_step_end(anykv_step *step, const uint32_t *accepted, const uint32_t *tokens)
{
    if (!step || !step->open)
        return akv_fail(NULL, ANYKV_E_ARG, "step: %s", step ? "not open" : "NULL");
    anykv_cache *cache = step->cache;
    akv_cache_enter(cache);
    const bool evicting = akv_limit_due(step, accepted);
    if (evicting) { /* it waits for the device, and io comes before the cache's own lock */
        akv_mutex_unlock(&cache->lock);
        akv_mutex_lock(&cache->io);
        akv_cache_enter(cache);
    }
    struct akv_call call;
    akv_call_begin(cache, &call, "anykv_step_end");
    anykv_status status = ANYKV_OK;
    if (any_dead(step)) {
        status = abandon(step);
    } else {
        status = check_end(step, accepted);
        if (!status)
            status = end(step, accepted, tokens, evicting);
    }
    akv_call_end(cache, &call, status);
    akv_mutex_unlock(&cache->lock);
    if (evicting)
        akv_mutex_unlock(&cache->io);
    return status;
}

void anykv_step_cancel(anykv_step *step)
{
    if (!step || !step->open)
        return;
    anykv_cache *cache = step->cache;
    akv_cache_enter(cache);
    run(step, false);
    mark_written(step, ++cache->epoch);
    take_back(step);
    akv_mutex_unlock(&cache->lock);
}
