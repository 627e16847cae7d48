/* SPDX-License-Identifier: Apache-2.0 */
/* Sequences: create, destroy, fork, trim, remove, hints. */
#include "cache.h"
#include "seq.h"

/* ---- blocks and nodes of a sequence ---- */

static void show_use(const anykv_seq *seq, struct akv_block *block)
{
    if (block->used_at < seq->used_at)
        block->used_at = seq->used_at;
}

void akv_seq_show_use(anykv_seq *seq, uint32_t group, uint32_t from, uint32_t to)
{
    const uint32_t *table = akv_seq_table(seq, group);
    for (uint32_t i = from; i < to; i++)
        if (table[i] != AKV_NO_ID)
            show_use(seq, akv_pool_block(&seq->cache->pool, table[i]));
}

void akv_seq_drop_blocks(anykv_seq *seq, uint32_t group, uint32_t from, uint32_t to)
{
    uint32_t *table = akv_seq_table(seq, group);
    for (uint32_t i = from; i < to; i++) {
        if (table[i] == AKV_NO_ID)
            continue;
        show_use(seq, akv_pool_block(&seq->cache->pool, table[i]));
        akv_cache_release(seq->cache, table[i]);
        table[i] = AKV_NO_ID;
    }
}

void akv_seq_tell(anykv_seq *seq)
{
    struct akv_evict *evict = &seq->cache->prefix.evict;
    if (seq->told || seq->node_count == 0)
        return;
    const uint32_t part = evict->entry[seq->nodes[0]].part;
    if (seq->gap >= 0.0)
        akv_evict_gap(evict, part, seq->gap);
    akv_evict_request(evict, part);
    seq->told = true;
}

void akv_seq_use_path(const anykv_seq *seq, uint32_t node, bool over)
{
    akv_prefix_use_path(&seq->cache->prefix, node, over);
    if (seq->cache->plan.options.clock) /* stands still between two calls: every use counts */
        akv_prefix_catch_up(&seq->cache->prefix);
}

/* Nodes go deepest first, so that in the order of use a leaf is older than its parent.  Those of a
 * sequence that said it is done go to the line of first victims, up to the first one that many
 * share.  Who shares a node shares all before it. */
void akv_seq_drop_nodes(anykv_seq *seq, uint32_t count)
{
    struct akv_prefix *prefix = &seq->cache->prefix;
    bool demote = seq->done;
    if (count < seq->node_count) {
        akv_seq_tell(seq);
        akv_prefix_end(prefix, seq->nodes[seq->node_count - 1]);
    }
    while (seq->node_count > count) {
        const uint32_t node = seq->nodes[--seq->node_count];
        if (prefix->nodes[node].fan_out > 4 || prefix->nodes[node].users > 1)
            demote = false;
        if (count == 0 && !demote && prefix->nodes[node].users > 1) {
            akv_seq_use_path(seq, node, true);
            seq->node_count++;
            break;
        }
        if (demote)
            akv_prefix_demote(prefix, node);
        else
            akv_prefix_renew(prefix, node);
        akv_prefix_drop(prefix, node);
    }
    while (seq->node_count > count)
        akv_prefix_drop_shared(prefix, seq->nodes[--seq->node_count]);
}

void akv_seq_hold_tail(anykv_seq *seq, bool hold)
{
    if (seq->tail_held == hold || seq->length % akv_block_tokens(seq->cache) == 0)
        return;
    const uint32_t tail = akv_blocks_for(seq->cache, seq->length) - 1;
    for (uint32_t g = 0; g < seq->cache->layout->group_count; g++) {
        const uint32_t id = akv_seq_table(seq, g)[tail];
        if (id != AKV_NO_ID)
            akv_pool_block(&seq->cache->pool, id)->holds += hold ? 1u : -1u;
    }
    seq->tail_held = hold;
}

void akv_seq_slide(anykv_seq *seq)
{
    const anykv_cache *cache = seq->cache;
    for (uint32_t g = 0; g < cache->layout->group_count; g++) {
        const uint32_t visible = akv_first_visible(cache, g, seq->length);
        if (visible <= seq->first[g])
            continue;
        akv_seq_drop_blocks(seq, g, seq->first[g], visible);
        seq->first[g] = visible;
    }
}

/* ---- create and destroy ---- */

static anykv_status check_identity(anykv_context *context, const anykv_seq_options *options)
{
    const uint32_t known = ANYKV_SEQ_PUBLIC | ANYKV_SEQ_PRIVATE;
    if (options->flags & ~known)
        return akv_fail(context, ANYKV_E_ARG, "flags: 0x%x has unknown bits", options->flags);
    if (options->flags == known)
        return akv_fail(context, ANYKV_E_ARG, "flags: a sequence is public or private, not both");
    if (options->tenant_bytes > 256)
        return akv_fail(context, ANYKV_E_ARG, "tenant_bytes: %u is above 256",
                        options->tenant_bytes);
    if (options->tenant_bytes && !options->tenant)
        return akv_fail(context, ANYKV_E_ARG, "tenant: NULL with tenant_bytes %u",
                        options->tenant_bytes);
    if (options->tenant_bytes && (options->flags & ANYKV_SEQ_PUBLIC))
        return akv_fail(context, ANYKV_E_ARG,
                        "tenant_bytes: %u, but a public sequence has no tenant",
                        options->tenant_bytes);
    if (!options->tenant_bytes && !options->flags)
        return akv_fail(context, ANYKV_E_ARG,
                        "tenant: none; name one, or say ANYKV_SEQ_PUBLIC or ANYKV_SEQ_PRIVATE");
    if (options->extra_bytes > 256)
        return akv_fail(context, ANYKV_E_ARG, "extra_bytes: %u is above 256", options->extra_bytes);
    if (options->extra_bytes && !options->extra)
        return akv_fail(context, ANYKV_E_ARG, "extra: NULL with extra_bytes %u",
                        options->extra_bytes);
    return ANYKV_OK;
}

/* Whose bytes a block holds: public ones are all alike, a private sequence without tenant is its
 * own. */
uint64_t akv_seq_tenant(const anykv_seq_options *options, const anykv_seq *seq)
{
    akv_sha256 state;
    akv_sha256_init(&state);
    akv_sha256_u32(&state, options->flags & ANYKV_SEQ_PUBLIC ? 1 : options->tenant_bytes ? 2 : 3);
    if (options->tenant_bytes)
        akv_sha256_update(&state, options->tenant, options->tenant_bytes);
    else if (options->flags & ANYKV_SEQ_PRIVATE) {
        akv_sha256_u64(&state, (uint64_t)(uintptr_t)seq);
        akv_sha256_u64(&state, seq->cache->sequences_made);
    }
    const akv_digest digest = akv_sha256_final(&state);
    uint64_t tenant;
    memcpy(&tenant, digest.byte, sizeof tenant);
    return tenant <= AKV_TENANT_NOBODY || tenant == AKV_TENANT_MIXED ? 2 : tenant;
}

anykv_status akv_seq_identity(const anykv_cache *cache, const anykv_seq_options *options,
                              anykv_seq_options *checked, akv_digest *root_out)
{
    *checked = (anykv_seq_options)ANYKV_SEQ_OPTIONS_INIT;
    anykv_status status =
        akv_options(cache->context, "sequence options", checked, sizeof *checked, options);
    if (!status)
        status = check_identity(cache->context, checked);
    if (status)
        return status;
    *root_out = akv_prefix_root(cache->layout->identity.byte, checked->tenant,
                                checked->tenant_bytes, checked->extra, checked->extra_bytes);
    return ANYKV_OK;
}

/* Under list_lock. */
static void link_seq(anykv_seq *seq)
{
    anykv_cache *cache = seq->cache;
    seq->prev = NULL;
    seq->next = cache->seqs;
    if (cache->seqs)
        cache->seqs->prev = seq;
    cache->seqs = seq;
    cache->sequences++;
    cache->sequences_made++;
}

static anykv_seq *new_seq(anykv_cache *cache)
{
    anykv_seq *seq = akv_alloc(cache->context, 1, sizeof *seq);
    if (!seq)
        return NULL;
    seq->cache = cache;
    seq->first = akv_alloc(cache->context, cache->layout->group_count, sizeof *seq->first);
    seq->sealed = akv_alloc(cache->context, cache->layout->group_count, sizeof *seq->sealed);
    if (seq->first && seq->sealed)
        return seq;
    akv_free(cache->context, seq->first);
    akv_free(cache->context, seq->sealed);
    akv_free(cache->context, seq);
    return NULL;
}

static void free_seq(anykv_seq *seq)
{
    anykv_context *context = seq->cache->context;
    akv_free(context, seq->tokens);
    akv_free(context, seq->nodes);
    akv_free(context, seq->table);
    akv_free(context, seq->kept);
    akv_free(context, seq->first);
    akv_free(context, seq->sealed);
    akv_free(context, seq);
}

/* A number for the extra bytes, for events; -1 without. */
static int64_t lora_id_of(const anykv_seq_options *options)
{
    if (options->extra_bytes == 0)
        return -1;
    akv_sha256 state;
    akv_sha256_init(&state);
    akv_sha256_update(&state, options->extra, options->extra_bytes);
    const akv_digest digest = akv_sha256_final(&state);
    uint64_t id;
    memcpy(&id, digest.byte, sizeof id);
    return (int64_t)(id >> 1);
}

anykv_status anykv_seq_create(anykv_cache *cache, const anykv_seq_options *options,
                              anykv_seq **seq_out)
{
    if (!cache || !seq_out)
        return akv_fail(cache ? cache->context : NULL, ANYKV_E_ARG, "%s: NULL",
                        cache ? "seq_out" : "cache");
    anykv_seq_options checked;
    akv_digest root;
    anykv_status status = akv_seq_identity(cache, options, &checked, &root);
    if (status)
        return status;
    anykv_seq *seq = new_seq(cache);
    if (!seq)
        return ANYKV_E_MEMORY;
    seq->root = root;
    seq->private_ = checked.flags & ANYKV_SEQ_PRIVATE;
    seq->gap = -1.0;
    seq->rungs = akv_seq_rungs(&checked);
    seq->lora_id = lora_id_of(&checked);
    seq->token_budget = cache->plan.options.token_budget;
    if (!seq->private_)
        seq->tenant = akv_seq_tenant(&checked, seq);
    akv_mutex_lock(&cache->list_lock);
    if (seq->private_) /* unless it names a tenant its own: numbered by the sequences made */
        seq->tenant = akv_seq_tenant(&checked, seq);
    seq->part = akv_tenant_part(cache, seq->tenant);
    link_seq(seq);
    akv_mutex_unlock(&cache->list_lock);
    *seq_out = seq;
    return ANYKV_OK;
}

/* Under lock: the sequence lets all go and is no longer the cache's. */
static void unlink_seq(anykv_seq *seq)
{
    anykv_cache *cache = seq->cache;
    akv_seq_hold_tail(seq, false);
    akv_seq_drop_nodes(seq, 0);
    for (uint32_t g = 0; g < cache->layout->group_count; g++)
        akv_seq_drop_blocks(seq, g, 0, seq->table_capacity);
    akv_mutex_lock(&cache->list_lock);
    if (seq->prev)
        seq->prev->next = seq->next;
    else
        cache->seqs = seq->next;
    if (seq->next)
        seq->next->prev = seq->prev;
    cache->sequences--;
    akv_mutex_unlock(&cache->list_lock);
}

void akv_seq_free(anykv_seq *seq)
{
    unlink_seq(seq);
    free_seq(seq);
}

void anykv_seq_destroy(anykv_seq *seq)
{
    if (!seq)
        return;
    anykv_cache *cache = seq->cache;
    akv_cache_enter_short(cache);
    const bool now = !seq->step;
    if (now)
        unlink_seq(seq);
    else
        seq->destroyed = true;
    akv_mutex_unlock(&cache->lock);
    if (now)
        free_seq(seq);
}

/* ---- questions and changes ---- */

static anykv_status entered(const anykv_seq *seq, bool change)
{
    anykv_status status = akv_seq_alive(seq);
    if (!status && change && seq->step)
        status = akv_fail(seq->cache->context, ANYKV_E_STATE, "seq: it is in an open step");
    if (status)
        akv_mutex_unlock(&seq->cache->lock);
    return status;
}

anykv_status akv_seq_enter(const anykv_seq *seq, bool change)
{
    if (!seq)
        return akv_fail(NULL, ANYKV_E_ARG, "seq: NULL");
    akv_cache_enter(seq->cache);
    return entered(seq, change);
}

anykv_status akv_seq_enter_short(const anykv_seq *seq)
{
    if (!seq)
        return akv_fail(NULL, ANYKV_E_ARG, "seq: NULL");
    akv_cache_enter_short(seq->cache);
    return entered(seq, true);
}

anykv_status akv_seq_leave(const anykv_seq *seq, anykv_status status)
{
    akv_mutex_unlock(&seq->cache->lock);
    return status;
}

anykv_status anykv_seq_length(const anykv_seq *seq, uint64_t *tokens_out)
{
    if (seq && !tokens_out)
        return akv_fail(seq->cache->context, ANYKV_E_ARG, "tokens_out: NULL");
    anykv_status status = akv_seq_enter(seq, false);
    if (status)
        return status;
    *tokens_out = (uint64_t)seq->length + seq->dropped;
    return akv_seq_leave(seq, ANYKV_OK);
}

anykv_status anykv_seq_fork(anykv_seq *seq, anykv_seq **seq_out)
{
    if (seq && !seq_out)
        return akv_fail(seq->cache->context, ANYKV_E_ARG, "seq_out: NULL");
    anykv_status status = akv_seq_enter(seq, true);
    if (status)
        return status;
    anykv_cache *cache = seq->cache;
    anykv_seq *copy = new_seq(cache);
    if (!copy)
        return akv_seq_leave(seq, ANYKV_E_MEMORY);
    copy->tenant = seq->tenant;
    copy->part = seq->part;
    copy->root = seq->root;
    copy->private_ = seq->private_;
    copy->used_at = seq->used_at;
    copy->told = true; /* one request with the first */
    copy->rungs = seq->rungs;
    copy->lora_id = seq->lora_id;
    copy->token_budget = seq->token_budget;
    status = akv_seq_reserve(copy, seq->length);
    if (status) {
        free_seq(copy);
        return akv_seq_leave(seq, status);
    }
    if (!akv_seq_copy_kept(copy, seq)) {
        free_seq(copy);
        return akv_seq_leave(seq, ANYKV_E_MEMORY);
    }
    copy->closed = seq->closed;
    copy->length = seq->length;
    copy->named = seq->named;
    if (seq->named)
        memcpy(copy->tokens, seq->tokens, seq->named * sizeof *seq->tokens);
    for (uint32_t i = 0; i < seq->node_count; i++) {
        copy->nodes[i] = seq->nodes[i];
        akv_prefix_hold(&cache->prefix, seq->nodes[i]);
    }
    copy->node_count = seq->node_count;
    const uint32_t blocks = akv_blocks_for(cache, seq->length);
    for (uint32_t g = 0; g < cache->layout->group_count; g++) {
        copy->first[g] = seq->first[g];
        copy->sealed[g] = seq->sealed[g];
        for (uint32_t i = 0; i < blocks; i++) {
            const uint32_t id = akv_seq_table(seq, g)[i];
            akv_seq_table(copy, g)[i] = id;
            if (id != AKV_NO_ID)
                akv_cache_acquire(cache, id);
        }
    }
    if (seq->tail_held)
        akv_seq_hold_tail(copy, true);
    akv_mutex_lock(&cache->list_lock);
    link_seq(copy);
    akv_mutex_unlock(&cache->list_lock);
    *seq_out = copy;
    return akv_seq_leave(seq, ANYKV_OK);
}

/* Blocks of window groups that a shorter length sees again come back from the prefix index, or the
 * cut is refused. */
static anykv_status check_cut(const anykv_seq *seq, uint32_t tokens)
{
    const anykv_cache *cache = seq->cache;
    const uint32_t size = akv_block_tokens(cache);
    for (uint32_t g = 0; g < cache->layout->group_count; g++) {
        const uint32_t *table = akv_seq_table(seq, g);
        if (tokens % size) {
            const uint32_t id = table[tokens / size];
            if (id == AKV_NO_ID && tokens / size >= seq->first[g])
                return akv_fail(cache->context, ANYKV_E_STATE,
                                "tokens: %u falls inside a block that was removed", tokens);
            if (id != AKV_NO_ID && akv_block_rows(akv_pool_block(&cache->pool, id)) != AKV_KIND_HOT)
                return akv_fail(cache->context, ANYKV_E_STATE,
                                "tokens: %u falls inside a sealed block; cut at a multiple of %u",
                                tokens, size);
        }
        const uint32_t visible = akv_first_visible(cache, g, tokens);
        for (uint32_t i = visible; i < seq->first[g] && i < akv_blocks_for(cache, tokens); i++) {
            const uint32_t id = i < seq->node_count && !seq->closed /* removed ones stay away */
                                    ? akv_prefix_blocks(&cache->prefix, seq->nodes[i])[g]
                                    : AKV_NO_ID;
            const bool cut = tokens % size && i == tokens / size;
            if (id == AKV_NO_ID ||
                (cut && akv_block_rows(akv_pool_block(&cache->pool, id)) != AKV_KIND_HOT))
                return akv_fail(
                    cache->context, ANYKV_E_STATE,
                    "tokens: at %u the window needs rows of positions %u to %u, which were "
                    "freed",
                    tokens, i * size, i * size + size - 1);
        }
    }
    return ANYKV_OK;
}

static void cut(anykv_seq *seq, uint32_t tokens)
{
    anykv_cache *cache = seq->cache;
    const uint32_t size = akv_block_tokens(cache), keep = akv_blocks_for(cache, tokens);
    const uint32_t held = akv_blocks_for(cache, seq->length);
    akv_seq_hold_tail(seq, false);
    for (uint32_t g = 0; g < cache->layout->group_count; g++) {
        const uint32_t visible = akv_first_visible(cache, g, tokens);
        for (uint32_t i = visible; i < seq->first[g] && i < keep; i++) {
            const uint32_t id = akv_prefix_blocks(&cache->prefix, seq->nodes[i])[g];
            akv_seq_table(seq, g)[i] = id;
            akv_cache_acquire(cache, id);
            struct akv_block *block = akv_pool_block(&cache->pool, id);
            block->least = block->least < seq->rungs ? block->least : seq->rungs;
        }
        if (visible < seq->first[g])
            seq->first[g] = visible;
        if (seq->sealed[g] > tokens / size)
            seq->sealed[g] = tokens / size;
    }
    const uint32_t whole = tokens / size;
    if (seq->node_count > whole)
        akv_seq_drop_nodes(seq, whole);
    for (uint32_t g = 0; g < cache->layout->group_count; g++)
        akv_seq_drop_blocks(seq, g, keep, held);
    seq->length = tokens;
    if (seq->named > tokens)
        seq->named = tokens;
    akv_seq_hold_tail(seq, true);
}

anykv_status anykv_seq_trim(anykv_seq *seq, uint64_t tokens)
{
    anykv_status status = akv_seq_enter(seq, true);
    if (status)
        return status;
    const uint64_t length = (uint64_t)seq->length + seq->dropped;
    uint32_t rows = 0;
    if (tokens > length)
        status = akv_fail(seq->cache->context, ANYKV_E_ARG,
                          "tokens: %llu is more than the sequence's %llu",
                          (unsigned long long)tokens, (unsigned long long)length);
    if (!status)
        status = akv_seq_rows_of(seq, tokens, 0, "tokens", &rows);
    if (!status && rows < seq->length) {
        status = check_cut(seq, rows);
        if (!status) {
            cut(seq, rows);
            akv_seq_cut_kept(seq);
        }
    }
    return akv_seq_leave(seq, status);
}

anykv_status anykv_seq_remove(anykv_seq *seq, uint64_t first, uint64_t count)
{
    anykv_status status = akv_seq_enter(seq, true);
    if (status)
        return status;
    anykv_cache *cache = seq->cache;
    const uint32_t size = akv_block_tokens(cache), whole = seq->length / size * size;
    if (seq->kept_rows)
        status = akv_fail(cache->context, ANYKV_E_STATE,
                          "seq: tokens were evicted from it; its rows cannot be removed");
    else if (first % size || count % size)
        status = akv_fail(cache->context, ANYKV_E_ARG,
                          "first, count: %llu and %llu are not multiples of block_tokens, %u",
                          (unsigned long long)first, (unsigned long long)count, size);
    else if (first > whole || count > whole - first)
        status = akv_fail(cache->context, ANYKV_E_ARG,
                          "first, count: %llu and %llu go beyond the %u positions of whole blocks",
                          (unsigned long long)first, (unsigned long long)count, whole);
    if (!status && count) {
        for (uint32_t g = 0; g < cache->layout->group_count; g++)
            akv_seq_drop_blocks(seq, g, (uint32_t)first / size, (uint32_t)(first + count) / size);
        seq->closed = true;
    }
    return akv_seq_leave(seq, status);
}
