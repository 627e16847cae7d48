/* SPDX-License-Identifier: Apache-2.0 */
/* The byte budget: a device whose allocations are counted, exact estimates, refusals that change
 * nothing, budgets that move, and tenants that never see each other's bytes. */
#include "engine.h"

/* ---- a device that counts ---- */

static uint64_t counted, counted_peak, counted_calls;
static const struct akv_backend *real;
static struct akv_backend counting;

static anykv_status count_alloc(struct akv_device *device, uint64_t bytes, enum akv_mem_kind kind,
                                struct akv_mem **mem_out)
{
    const anykv_status status = real->mem_alloc(device, bytes, kind, mem_out);
    if (status)
        return status;
    counted += bytes;
    counted_calls++;
    counted_peak = counted > counted_peak ? counted : counted_peak;
    return ANYKV_OK;
}

static void count_free(struct akv_mem *mem)
{
    counted -= mem->bytes;
    real->mem_free(mem);
}

static struct engine engine;

static void open_device(void)
{
    engine.context = house_context();
    engine.device = engine_device(engine.context, 0);
    real = engine.device->device->backend;
    counting = *real;
    counting.mem_alloc = count_alloc;
    counting.mem_free = count_free;
    engine.device->device->backend = &counting;
    counted = counted_peak = counted_calls = 0;
}

static void close_device(void)
{
    engine.device->device->backend = real;
    anykv_device_close(engine.device);
    anykv_context_destroy(engine.context);
}

static anykv_layer three_sizes[3];

static void make_layout(uint64_t seed)
{
    three_sizes[0] = engine_layer(1 + (uint32_t)(seed % 3), 64, 0);
    three_sizes[1] = engine_layer(1, 128, seed % 2 ? 60 : 0);
    three_sizes[1].k_format = ANYKV_I8;
    three_sizes[2] = engine_layer(1, 64, 33);
    three_sizes[2].k_format = three_sizes[2].v_format = ANYKV_F16; /* never sealed */
    engine.layout = engine_layout(engine.context, three_sizes, 3);
}

static anykv_estimate estimate(const anykv_cache_options *options)
{
    anykv_estimate result = ANYKV_ESTIMATE_INIT;
    OK(anykv_cache_estimate(engine.device, engine.layout, options, &result));
    return result;
}

/* ---- estimates ---- */

Test(budget, the_estimate_is_exact)
{
    open_device();
    struct akv_mem *const window = engine.device->device->host_window;
    const uint32_t caps = engine.device->device->info.caps;
    for (uint64_t seed = 0; seed < 40; seed++) {
        if (seed % 2) { /* with a staging area, which counts */
            engine_hide_host_memory(engine.device);
        } else {
            engine.device->device->info.caps = caps;
            engine.device->device->host_window = window;
        }
        make_layout(seed);
        anykv_cache_options options = engine_options(0);
        const anykv_estimate least = estimate(&options);
        cr_expect(counted == 0 && counted_calls == 0, "the estimate allocates");
        options.budget_bytes = least.minimum_bytes + seed * seed * 3571;
        const anykv_estimate wanted = estimate(&options);
        cr_expect(wanted.minimum_bytes == least.minimum_bytes &&
                  wanted.fixed_bytes == least.fixed_bytes);
        OK(anykv_cache_create(engine.device, engine.layout, &options, &engine.cache));
        cr_expect(counted == wanted.total_bytes && counted_peak == counted,
                  "seed %llu: %llu bytes allocated, %llu estimated", (unsigned long long)seed,
                  (unsigned long long)counted, (unsigned long long)wanted.total_bytes);
        cr_expect(counted <= options.budget_bytes);
        cr_expect(options.budget_bytes - counted < wanted.chunk_bytes * 4,
                  "a chunk's worth is unused");
        const anykv_stats stats = engine_stats(engine.cache);
        cr_expect(stats.fixed_bytes == wanted.fixed_bytes &&
                  stats.chunk_bytes == wanted.chunk_bytes &&
                  stats.used_bytes == wanted.fixed_bytes);
        anykv_seq *seq = engine_seq(engine.cache); /* the least budget is enough for a block */
        engine_run(seq, 100, 16);
        anykv_seq_destroy(seq);
        anykv_cache_destroy(engine.cache);
        cr_expect(counted == 0, "%llu bytes leaked", (unsigned long long)counted);
        options.budget_bytes = least.minimum_bytes - 1;
        REFUSED(ANYKV_E_BUDGET, "budget_bytes",
                anykv_cache_create(engine.device, engine.layout, &options, &engine.cache));
        cr_expect(counted == 0 && counted_peak <= wanted.total_bytes);
        counted_peak = counted_calls = 0;
        anykv_layout_destroy(engine.layout);
    }
    close_device();
}

/* ---- chunks ---- */

/* What a pool of `blocks` hot blocks wastes in its worst class, and of its room, in per mille. */
static uint32_t chunk_waste(anykv_format format, uint32_t dim, uint32_t blocks, uint32_t *left_out)
{
    anykv_layer layer = engine_layer(1, dim, 0);
    layer.k_format = layer.v_format = format;
    engine.layout = engine_layout(engine.context, &layer, 1);
    anykv_cache_options options = engine_options(0);
    anykv_estimate result = estimate(&options);
    const uint64_t room = blocks * result.hot_block_bytes;
    options.budget_bytes = result.fixed_bytes + room;
    result = estimate(&options);
    const uint64_t hot = result.chunk_bytes % result.hot_block_bytes;
    const uint64_t sealed = result.chunk_bytes % result.sealed_block_bytes;
    cr_expect(result.chunk_bytes >= result.hot_block_bytes && result.pool_bytes <= room);
    *left_out = (uint32_t)((room - result.pool_bytes) * 1000 / room);
    anykv_layout_destroy(engine.layout);
    return (uint32_t)((hot > sealed ? hot : sealed) * 1000 / result.chunk_bytes);
}

/* A chunk holds blocks of one class; small pools must not lose much to what does not divide. */
Test(budget, chunks_waste_little)
{
    static const anykv_format format[] = {ANYKV_I8, ANYKV_N6, ANYKV_N5, ANYKV_N4,
                                          ANYKV_N3, ANYKV_N2, ANYKV_F16};
    static const uint32_t dim[] = {64, 80, 128, 576};
    open_device();
    for (uint32_t f = 0; f < 7; f++)
        for (uint32_t d = 0; d < 4; d++)
            for (uint32_t blocks = 8; blocks <= 4096; blocks *= 2) {
                uint32_t left;
                const uint32_t waste = chunk_waste(format[f], dim[d], blocks, &left);
                const uint32_t most = blocks < 16 ? 125 : blocks < 64 ? 90 : 60;
                cr_expect(waste <= most && left <= most,
                          "%s, head size %u, %u blocks: %u of 1000 wasted in a chunk, %u left over",
                          anykv_format_name(format[f]), dim[d], blocks, waste, left);
            }
    close_device();
}

/* ---- random use ---- */

#define SEQS 8u

/* Bytes of blocks that sequences hold; each block once. */
static uint64_t referenced_bytes(void)
{
    const struct akv_pool *pool = &engine.cache->pool;
    uint64_t bytes = 0;
    for (uint32_t id = 0; id < pool->block_capacity; id++)
        if (pool->blocks[id].refs && !pool->blocks[id].idle)
            bytes += pool->class_[akv_pool_class_of(&pool->blocks[id])].block_bytes;
    return bytes;
}

static void check_ledger(uint64_t seed, uint32_t step)
{
    const anykv_stats stats = engine_stats(engine.cache);
    uint64_t held = stats.fixed_bytes;
    for (uint32_t s = 0; s < engine.cache->slabs; s++)
        held += engine.cache->slab_bytes[s];
    cr_assert(counted == held, "seed %llu step %u: %llu bytes counted, ledger %llu",
              (unsigned long long)seed, step, (unsigned long long)counted,
              (unsigned long long)held);
    cr_assert(counted <= stats.budget_bytes, "seed %llu step %u: %llu bytes of %llu",
              (unsigned long long)seed, step, (unsigned long long)counted,
              (unsigned long long)stats.budget_bytes);
    cr_assert(stats.used_bytes <= counted &&
              stats.hot_bytes + stats.sealed_bytes <= stats.used_bytes - stats.fixed_bytes);
}

/* A refused begin changes nothing, and is right: what is held and what is needed do not fit into
 * the pool less one partly filled chunk for each class. */
static void check_refusal(const anykv_stats *before, uint64_t need_bytes)
{
    const anykv_stats after = engine_stats(engine.cache);
    cr_assert(
        before->hot_blocks == after.hot_blocks && before->sealed_blocks == after.sealed_blocks &&
            before->cached_blocks == after.cached_blocks &&
            before->blocks_evicted == after.blocks_evicted &&
            before->used_bytes == after.used_bytes && before->blocks_moved == after.blocks_moved,
        "a refused step changed the cache");
    cr_assert(after.budget_refusals == before->budget_refusals + 1);
    const struct akv_pool *pool = &engine.cache->pool;
    uint64_t waste = 0;
    for (uint32_t c = 0; c < pool->classes; c++)
        if (pool->class_[c].block_bytes)
            waste += pool->chunk_bytes;
    for (uint32_t c = 0; c < pool->classes; c++) { /* and what does not divide */
        const struct akv_pool_class *class_ = &pool->class_[c];
        if (class_->block_bytes)
            waste += class_->chunks * (pool->chunk_bytes - class_->per_chunk * class_->block_bytes);
    }
    cr_assert(referenced_bytes() + need_bytes + waste >= pool->present * pool->chunk_bytes,
              "refused with %llu held, %llu needed of %llu", (unsigned long long)referenced_bytes(),
              (unsigned long long)need_bytes,
              (unsigned long long)(pool->present * pool->chunk_bytes));
    char text[200];
    OK(anykv_cache_explain(engine.cache, text, sizeof text));
    cr_assert(strstr(text, "refused"), "%s", text);
}

static uint64_t need_of(const anykv_seq *seq, uint32_t count)
{
    const anykv_layout *layout = engine.layout;
    uint64_t bytes = 0;
    for (uint32_t g = 0; g < layout->group_count; g++) {
        bytes += (uint64_t)(akv_blocks_for(engine.cache, seq->length + count) -
                            akv_blocks_for(engine.cache, seq->length) + 1) *
                 layout->groups[g].block_bytes[0];
        bytes += (uint64_t)akv_seal_count(seq, g, seq->length + count, UINT32_MAX - 1) *
                 layout->groups[g].block_bytes[1];
        for (uint32_t id = 0; id < engine.cache->pool.block_capacity; id++)
            if (engine.cache->pool.blocks[id].mark == UINT32_MAX - 1)
                engine.cache->pool.blocks[id].mark = 0;
    }
    return bytes;
}

/* What a caller says of a sequence before it lets it go. */
static void random_hint(anykv_seq *seq, uint64_t *random)
{
    switch (house_random(random) % 6) {
    case 0:
        OK(anykv_seq_done(seq));
        break;
    case 1:
        OK(anykv_seq_expect(seq, house_random(random) % 100));
        break;
    case 2:
        OK(anykv_seq_retain(seq, house_random(random) % 100, 64, house_random(random) % 101, 1e-3));
        break;
    case 3:
        OK(anykv_seq_lease(seq, 1e-5 * (1 + house_random(random) % 100)));
        break;
    default:
        break;
    }
}

/* A chain of four blocks that is pinned and not used: it must stay whatever happens. */
static void pin_chain(void)
{
    anykv_seq *seq = engine_seq(engine.cache);
    engine_run(seq, 90000, 64);
    OK(anykv_seq_pin(seq, 1));
    anykv_seq_destroy(seq);
}

static void check_pinned(uint64_t seed, uint32_t step)
{
    uint32_t tokens[65];
    uint64_t matched;
    for (uint32_t i = 0; i < 65; i++)
        tokens[i] = 90000 + i;
    anykv_seq_options options = ANYKV_SEQ_OPTIONS_INIT;
    options.flags = ANYKV_SEQ_PUBLIC;
    OK(anykv_cache_lookup(engine.cache, &options, tokens, 65, &matched));
    cr_assert(matched == 64, "seed %llu step %u: %llu of the pinned tokens are left",
              (unsigned long long)seed, step, (unsigned long long)matched);
}

static double now; /* the cache's time: it passes between operations only */
static double budget_clock(void *user)
{
    return *(double *)user;
}

/* Time passes, and what was to hold until then ends. */
static void pass_time(double seconds)
{
    now += seconds;
    akv_cache_enter(engine.cache);
    (void)akv_prefix_end_terms(&engine.cache->prefix);
    akv_mutex_unlock(&engine.cache->lock);
}

static void random_use(uint64_t seed, uint32_t steps)
{
    uint64_t random = seed;
    now = 1.0;
    open_device();
    make_layout(seed);
    anykv_cache_options options = engine_options(0);
    options.recent = (uint32_t)(seed % 3) * 32;
    const anykv_estimate least = estimate(&options);
    const uint64_t normal =
        least.minimum_bytes + least.hot_block_bytes * (10 + seed % 40) + seed * 977;
    options.budget_bytes = normal;
    options.clock = budget_clock;
    options.clock_user = &now;
    engine_policy(&options, seed);
    OK(anykv_cache_create(engine.device, engine.layout, &options, &engine.cache));
    pin_chain();
    anykv_seq *seqs[SEQS] = {NULL};
    uint64_t refusals = 0, resized = 0;
    for (uint32_t step = 0; step < steps; step++) {
        pass_time(1e-6 * (house_random(&random) % 200));
        const uint32_t which = house_random(&random) % SEQS, kind = house_random(&random) % 16;
        if (!seqs[which]) {
            seqs[which] = engine_seq(engine.cache);
        } else if (kind == 0) {
            random_hint(seqs[which], &random);
            anykv_seq_destroy(seqs[which]);
            seqs[which] = NULL;
        } else if (kind == 1) {
            const uint64_t budget = normal / 8 * (5 + house_random(&random) % 8);
            const anykv_status status = anykv_cache_set_budget(engine.cache, budget);
            cr_assert(status == ANYKV_OK || status == ANYKV_E_BUDGET, "%s", anykv_error_detail());
            resized += status == ANYKV_OK;
        } else {
            const uint32_t count = 1 + house_random(&random) % 50;
            uint32_t tokens[50];
            uint64_t seeds[50];
            if (seqs[which]->length + count > 1000)
                continue;
            for (uint32_t i = 0; i < count; i++) {
                tokens[i] = which % 3 * 10000 + seqs[which]->length + i;
                seeds[i] = tokens[i];
            }
            const anykv_stats before = engine_stats(engine.cache);
            const uint64_t need = need_of(seqs[which], count);
            anykv_step *open;
            const anykv_status status =
                anykv_step_begin(engine.cache, &seqs[which], &count, 1, &open);
            if (status == ANYKV_E_BUDGET) {
                refusals++;
                check_refusal(&before, need);
                anykv_seq_destroy(seqs[which]);
                seqs[which] = NULL;
            } else {
                OK(status);
                check_ledger(seed, step);
                OK(engine_append(open, seeds));
                OK(anykv_step_end(open, NULL, tokens));
            }
        }
        check_ledger(seed, step);
        check_pinned(seed, step);
        if (step % 16 == 0)
            audit(engine.cache, "random use");
    }
    const anykv_stats stats = engine_stats(engine.cache);
    fprintf(stderr,
            "# seed %llu: %llu refusals, %llu evicted, %llu moved, %llu sealed, %llu resized\n",
            (unsigned long long)seed, (unsigned long long)refusals,
            (unsigned long long)stats.blocks_evicted, (unsigned long long)stats.blocks_moved,
            (unsigned long long)stats.blocks_sealed, (unsigned long long)resized);
    cr_expect(stats.blocks_evicted && stats.blocks_sealed && refusals,
              "too roomy to show anything");
    for (uint32_t i = 0; i < SEQS; i++)
        anykv_seq_destroy(seqs[i]);
    anykv_cache_destroy(engine.cache);
    cr_expect(counted == 0);
    anykv_layout_destroy(engine.layout);
    close_device();
}

Test(budget, random_use_never_exceeds_it, .timeout = 200)
{
    const char *given = getenv("ANYKV_TEST_SEED"), *length = getenv("ANYKV_TEST_OPERATIONS");
    const uint32_t steps = length ? (uint32_t)strtoul(length, NULL, 10) : 400;
    const uint64_t first = given ? strtoull(given, NULL, 10) : 1;
    for (uint64_t seed = first; seed < first + (given ? 1 : 6); seed++)
        random_use(seed, steps);
}

/* ---- everything at once ---- */

/* An open step: what its sequence held when it began must be there when it ends. */
struct running {
    anykv_step *step;
    uint32_t which, groups, blocks;
    uint32_t id[2][64], kind[2][64];
    uint64_t seeds[50];
    uint32_t tokens[50];
};

static void note_running(struct running *running, const anykv_seq *seq, uint32_t count)
{
    running->groups = engine.layout->group_count;
    running->blocks = akv_blocks_for(engine.cache, seq->length + count);
    for (uint32_t g = 0; g < running->groups; g++)
        for (uint32_t b = 0; b < running->blocks; b++) {
            const uint32_t id = akv_seq_table(seq, g)[b];
            running->id[g][b] = id;
            if (id != AKV_NO_ID)
                running->kind[g][b] = akv_block_kind(akv_pool_block(&engine.cache->pool, id));
        }
}

static void check_running(const struct running *running, const anykv_seq *seq, uint64_t seed,
                          uint32_t at)
{
    for (uint32_t g = 0; running->step && g < running->groups; g++)
        for (uint32_t b = 0; b < running->blocks; b++) {
            const uint32_t id = akv_seq_table(seq, g)[b];
            cr_assert(id == running->id[g][b], "seed %llu operation %u: a running block went",
                      (unsigned long long)seed, at);
            if (id == AKV_NO_ID)
                continue;
            const struct akv_block *block = akv_pool_block(&engine.cache->pool, id);
            cr_assert(block->refs && akv_block_kind(block) == running->kind[g][b],
                      "seed %llu operation %u: a running block changed", (unsigned long long)seed,
                      at);
        }
}

/* Tenants' sequences, one of them limited, all of which lose tokens by themselves, on a ladder,
 * with cached blocks compressed, under a budget that moves, and one step open across the others. */
static uint64_t everything(uint64_t seed, uint32_t operations, anykv_stats *total)
{
    enum { TENANTS = 3 };
    static const char *const tenant[TENANTS] = {NULL, "alice", "bob"};
    uint64_t random = seed, refusals = 0;
    anykv_layer layers[2] = {engine_layer(1, 64, 0), engine_layer(2, 64, 0)};
    for (uint32_t l = 0; l < 2; l++) {
        layers[l].hot_type = ANYKV_BF16;
        layers[l].k_format = layers[l].v_format = ANYKV_BF16;
    }
    open_device();
    engine.layout = engine_layout(engine.context, layers, 2);
    anykv_cache_options options = engine_options(0);
    options.flags = seed % 2 ? ANYKV_CACHE_COMPRESS : ANYKV_CACHE_COMPRESS_CACHED;
    options.error_budget = 0.6f;
    options.ladder_blocks = (uint32_t)(seed % 3) * 4;
    options.token_policy = ANYKV_TOKENS_WINDOW + (uint32_t)(seed % 4);
    options.token_budget = 128;
    options.token_every = 32;
    engine_policy(&options, seed);
    const anykv_estimate least = estimate(&options);
    const uint64_t normal = least.minimum_bytes + least.hot_block_bytes * (24 + seed % 16);
    options.budget_bytes = normal;
    OK(anykv_cache_create(engine.device, engine.layout, &options, &engine.cache));
    pin_chain();
    anykv_tenant_options limit = ANYKV_TENANT_OPTIONS_INIT;
    limit.tenant = "alice";
    limit.tenant_bytes = 5;
    limit.limit_bytes = 12 * least.hot_block_bytes;
    OK(anykv_cache_set_tenant(engine.cache, &limit));
    anykv_seq *seqs[SEQS] = {NULL};
    struct running open = {NULL};
    for (uint32_t at = 0; at < operations; at++) {
        const uint32_t which = house_random(&random) % SEQS, kind = house_random(&random) % 20;
        if (open.step && (kind == 2 || which == open.which)) {
            check_running(&open, seqs[open.which], seed, at);
            if (house_random(&random) % 4) {
                OK(engine_append(open.step, open.seeds));
                OK(anykv_step_end(open.step, NULL, open.tokens));
            } else
                anykv_step_cancel(open.step);
            open.step = NULL;
        } else if (!seqs[which]) {
            anykv_seq_options who = ANYKV_SEQ_OPTIONS_INIT;
            who.tenant = tenant[which % TENANTS];
            who.tenant_bytes = who.tenant ? (uint32_t)strlen(who.tenant) : 0;
            who.flags = who.tenant ? 0 : ANYKV_SEQ_PUBLIC;
            who.rungs = which % 2 ? 3 : 0;
            OK(anykv_seq_create(engine.cache, &who, &seqs[which]));
            uint32_t text[200];
            uint64_t matched;
            for (uint32_t i = 0; i < 200; i++)
                text[i] = which / TENANTS * 10000 + i;
            OK(anykv_seq_match(seqs[which], text, 1 + house_random(&random) % 200, &matched));
        } else if (kind == 0) {
            random_hint(seqs[which], &random);
            anykv_seq_destroy(seqs[which]);
            seqs[which] = NULL;
        } else if (kind == 1) {
            const anykv_status status =
                anykv_cache_set_budget(engine.cache, normal / 8 * (6 + house_random(&random) % 6));
            cr_assert(status == ANYKV_OK || status == ANYKV_E_BUDGET ||
                          (status == ANYKV_E_BUSY && open.step),
                      "%s", anykv_error_detail());
        } else if (kind == 3) {
            anykv_compress_info info = ANYKV_COMPRESS_INFO_INIT;
            OK(anykv_cache_compress(engine.cache, ANYKV_COMPRESS_BX16, 8, &info));
        } else {
            anykv_seq *seq = seqs[which];
            uint32_t count = 1 + house_random(&random) % 50;
            struct running next = {.which = which};
            if (seq->length + seq->dropped + count > 900)
                continue;
            for (uint32_t i = 0; i < count; i++) {
                next.tokens[i] = which / TENANTS * 10000 + seq->length + seq->dropped + i;
                next.seeds[i] = next.tokens[i];
            }
            const anykv_status status = anykv_step_begin(engine.cache, &seq, &count, 1, &next.step);
            if (status) {
                cr_assert(status == ANYKV_E_BUDGET, "%s", anykv_error_detail());
                refusals++;
                anykv_seq_destroy(seq);
                seqs[which] = NULL;
            } else if (!open.step && house_random(&random) % 2) {
                note_running(&next, seq, count);
                open = next;
            } else {
                OK(engine_append(next.step, next.seeds));
                OK(anykv_step_end(next.step, NULL, next.tokens));
            }
        }
        check_ledger(seed, at);
        check_pinned(seed, at);
        check_running(&open, seqs[open.which], seed, at);
        uint64_t held;
        OK(anykv_cache_tenant_bytes(engine.cache, "alice", 5, &held));
        cr_assert(held <= limit.limit_bytes,
                  "seed %llu operation %u: %llu of the tenant's %llu bytes",
                  (unsigned long long)seed, at, (unsigned long long)held,
                  (unsigned long long)limit.limit_bytes);
        if (at % 16 == 0)
            audit(engine.cache, "everything at once");
    }
    if (open.step)
        anykv_step_cancel(open.step);
    const anykv_stats stats = engine_stats(engine.cache);
    total->blocks_evicted += stats.blocks_evicted;
    total->blocks_lowered += stats.blocks_lowered;
    total->tokens_evicted += stats.tokens_evicted;
    total->compressed[0].blocks_compressed += stats.compressed[0].blocks_compressed;
    total->compressed[0].blocks_read_back += stats.compressed[0].blocks_read_back;
    for (uint32_t i = 0; i < SEQS; i++)
        anykv_seq_destroy(seqs[i]);
    anykv_cache_destroy(engine.cache);
    cr_expect(counted == 0);
    anykv_layout_destroy(engine.layout);
    close_device();
    return refusals;
}

Test(budget, everything_at_once, .timeout = 300)
{
    const char *given = getenv("ANYKV_TEST_SEED"), *length = getenv("ANYKV_TEST_OPERATIONS");
    const uint32_t operations = length ? (uint32_t)strtoul(length, NULL, 10) : 300;
    const uint64_t first = given ? strtoull(given, NULL, 10) : 1;
    anykv_stats total;
    uint64_t refusals = 0;
    memset(&total, 0, sizeof total);
    for (uint64_t seed = first; seed < first + (given ? 1 : engine_share(12)); seed++)
        refusals += everything(seed, operations, &total);
    printf("# %llu refusals, %llu blocks evicted, %llu lowered, %llu compressed, %llu read back, "
           "%llu tokens evicted\n",
           (unsigned long long)refusals, (unsigned long long)total.blocks_evicted,
           (unsigned long long)total.blocks_lowered,
           (unsigned long long)total.compressed[0].blocks_compressed,
           (unsigned long long)total.compressed[0].blocks_read_back,
           (unsigned long long)total.tokens_evicted);
    cr_expect(given || (refusals && total.blocks_evicted && total.blocks_lowered &&
                        total.tokens_evicted && total.compressed[0].blocks_compressed &&
                        total.compressed[0].blocks_read_back),
              "too roomy to show anything");
}

/* ---- moving the budget ---- */

Test(budget, lower_and_raise)
{
    open_device();
    const anykv_layer layer = engine_layer(1, 64, 0);
    engine.layout = engine_layout(engine.context, &layer, 1);
    anykv_cache_options options = engine_options(0);
    const anykv_estimate least = estimate(&options);
    options.budget_bytes = least.fixed_bytes + 64 * least.hot_block_bytes;
    OK(anykv_cache_create(engine.device, engine.layout, &options, &engine.cache));
    const uint64_t whole = options.budget_bytes, pool = whole - least.fixed_bytes;
    anykv_seq *keep = engine_seq(engine.cache), *gone = engine_seq(engine.cache);
    engine_run(gone, 5000, 100);
    for (uint32_t i = 0; i < 5; i++)
        engine_run(keep, 100 + i * 20, 20);
    float before[100 * 64], after[100 * 64];
    anykv_view view = anykv_view_host(before, ANYKV_F32, 1, 64);
    OK(anykv_seq_gather(keep, 0, 0, 0, 100, &view));
    anykv_seq_destroy(gone);
    OK(anykv_cache_set_budget(engine.cache, least.fixed_bytes + pool / 4));
    cr_expect(counted == least.fixed_bytes + pool / 4, "%llu", (unsigned long long)counted);
    audit(engine.cache, "lowered");
    view.data = after;
    OK(anykv_seq_gather(keep, 0, 0, 0, 100, &view));
    cr_expect(memcmp(before, after, sizeof before) == 0, "rows changed");
    REFUSED(ANYKV_E_BUDGET, "budget_bytes",
            anykv_cache_set_budget(engine.cache, least.fixed_bytes + pool / 4 - 1));
    REFUSED(ANYKV_E_BUDGET, "budget_bytes", anykv_cache_set_budget(engine.cache, 0));
    cr_expect(engine_stats(engine.cache).budget_bytes == least.fixed_bytes + pool / 4);
    OK(anykv_cache_set_budget(engine.cache, whole));
    cr_expect(counted == whole, "%llu, not %llu", (unsigned long long)counted,
              (unsigned long long)whole);
    OK(anykv_cache_set_budget(engine.cache, whole + pool));
    cr_expect(counted > whole && counted <= whole + pool, "%llu", (unsigned long long)counted);
    engine_run(keep, 200, 100);
    audit(engine.cache, "raised");
    /* More than fits into a quarter is held now: lowering refuses and changes nothing. */
    for (uint32_t i = 3; i < 11; i++)
        engine_run(keep, i * 100, 100);
    cr_assert(referenced_bytes() > pool / 4);
    const anykv_stats held = engine_stats(engine.cache);
    REFUSED(ANYKV_E_BUDGET, "sequences hold more",
            anykv_cache_set_budget(engine.cache, least.fixed_bytes + pool / 4));
    const anykv_stats after_refusal = engine_stats(engine.cache);
    cr_expect(after_refusal.used_bytes == held.used_bytes &&
              after_refusal.blocks_evicted == held.blocks_evicted &&
              after_refusal.budget_bytes == whole + pool);
    REFUSED(ANYKV_E_ARG, "cache", anykv_cache_set_budget(NULL, 1));
    anykv_step *step;
    const uint32_t one = 1;
    OK(anykv_step_begin(engine.cache, &keep, &one, 1, &step));
    anykv_step_cancel(step);
    anykv_seq_destroy(keep);
    anykv_cache_destroy(engine.cache);
    anykv_layout_destroy(engine.layout);
    close_device();
}

/* ---- tenants ---- */

/* Every byte of the pool is 0x5A after the first tenant; the second one's blocks must hold none of
 * it. */
Test(budget, blocks_of_another_tenant_are_scrubbed)
{
    open_device();
    const anykv_layer layer = engine_layer(1, 64, 0);
    engine.layout = engine_layout(engine.context, &layer, 1);
    anykv_cache_options options = engine_options(engine_budget(1u << 20));
    OK(anykv_cache_create(engine.device, engine.layout, &options, &engine.cache));
    anykv_seq_options identity = ANYKV_SEQ_OPTIONS_INIT;
    identity.tenant_bytes = 1;
    for (int other = 0; other < 2; other++) {
        identity.tenant = "a";
        anykv_seq *seq;
        OK(anykv_seq_create(engine.cache, &identity, &seq));
        engine_run(seq, 100, 100);
        anykv_seq_destroy(seq);
        OK(anykv_cache_trim_memory(engine.cache));
        OK(anykv_cache_wait(engine.cache, UINT64_MAX));
        for (uint32_t s = 0; s < engine.cache->slabs; s++)
            OK(akv_queue_fill(
                engine.device->queue,
                (struct akv_span){engine.cache->slab[s], 0, engine.cache->slab_bytes[s]}, 0x5A));
        identity.tenant = other ? "b" : "a";
        OK(anykv_seq_create(engine.cache, &identity, &seq));
        const uint32_t count = 1;
        anykv_step *step;
        OK(anykv_step_begin(engine.cache, &seq, &count, 1, &step));
        OK(anykv_cache_wait(engine.cache, UINT64_MAX));
        const struct akv_block *block = &engine.cache->pool.blocks[akv_seq_table(seq, 0)[0]];
        const uint64_t address = akv_pool_address(&engine.cache->pool, 0, block->entry);
        uint8_t bytes[4096];
        OK(akv_queue_get(engine.device->queue, bytes,
                         (struct akv_span){engine.cache->slab[AKV_ADDR_SLAB(address)],
                                           AKV_ADDR_OFFSET(address), sizeof bytes}));
        OK(akv_queue_wait(engine.device->queue, UINT64_MAX));
        for (uint32_t i = 0; i < 4096; i++)
            cr_assert(bytes[i] == (other ? 0 : 0x5A), "byte %u is %x", i, bytes[i]);
        anykv_step_cancel(step);
        anykv_seq_destroy(seq);
    }
    anykv_cache_destroy(engine.cache);
    anykv_layout_destroy(engine.layout);
    close_device();
}

/* ---- bad input ---- */

#define OPTION_REFUSED(text, ...)                                                                  \
    do {                                                                                           \
        anykv_cache_options options = engine_options(engine_budget(1u << 20));                     \
        __VA_ARGS__;                                                                               \
        REFUSED(ANYKV_E_ARG, text,                                                                 \
                anykv_cache_create(engine.device, engine.layout, &options, &engine.cache));        \
        REFUSED(ANYKV_E_ARG, text,                                                                 \
                anykv_cache_estimate(engine.device, engine.layout, &options, &result));            \
    } while (0)

Test(budget, bad_arguments)
{
    open_device();
    const anykv_layer layer = engine_layer(1, 64, 0);
    engine.layout = engine_layout(engine.context, &layer, 1);
    anykv_estimate result = ANYKV_ESTIMATE_INIT;
    OPTION_REFUSED("max_sequences: 0", options.max_sequences = 0);
    OPTION_REFUSED("max_sequences: 4097", options.max_sequences = 4097);
    OPTION_REFUSED("max_step_tokens: 0", options.max_step_tokens = 0);
    OPTION_REFUSED("max_step_tokens", options.max_step_tokens = UINT32_MAX);
    OPTION_REFUSED("max_seq_tokens: 0", options.max_seq_tokens = 0);
    OPTION_REFUSED("max_seq_tokens", options.max_seq_tokens = UINT32_MAX);
    OPTION_REFUSED("sinks", options.sinks = UINT32_MAX);
    OPTION_REFUSED("recent", options.recent = UINT32_MAX);
    OPTION_REFUSED("policy: 0", options.policy = (anykv_policy)0);
    OPTION_REFUSED("flags: 0x10", options.flags = 16);
    OPTION_REFUSED("size", options.size = 2);
    anykv_cache_options options = engine_options(engine_budget(1u << 20));
    options.max_sequences = 4096;
    options.max_seq_tokens = 1u << 28;
    REFUSED(ANYKV_E_ARG, "block tables",
            anykv_cache_create(engine.device, engine.layout, &options, &engine.cache));
    options = engine_options(engine_budget(1u << 20));
    REFUSED(ANYKV_E_ARG, "device",
            anykv_cache_create(NULL, engine.layout, &options, &engine.cache));
    REFUSED(ANYKV_E_ARG, "layout",
            anykv_cache_create(engine.device, NULL, &options, &engine.cache));
    REFUSED(ANYKV_E_ARG, "cache_out",
            anykv_cache_create(engine.device, engine.layout, &options, NULL));
    REFUSED(ANYKV_E_BUDGET, "budget_bytes: 0",
            anykv_cache_create(engine.device, engine.layout, NULL, &engine.cache));
    REFUSED(ANYKV_E_ARG, "device", anykv_cache_estimate(NULL, engine.layout, &options, &result));
    REFUSED(ANYKV_E_ARG, "layout", anykv_cache_estimate(engine.device, NULL, &options, &result));
    REFUSED(ANYKV_E_ARG, "estimate_out",
            anykv_cache_estimate(engine.device, engine.layout, &options, NULL));
    result.size = 0;
    REFUSED(ANYKV_E_ARG, "estimate_out.size",
            anykv_cache_estimate(engine.device, engine.layout, &options, &result));
    OK(anykv_cache_create(engine.device, engine.layout, &options, &engine.cache));
    anykv_stats stats;
    memset(&stats, 0, sizeof stats);
    char text[4];
    REFUSED(ANYKV_E_ARG, "stats_out.size", anykv_cache_stats(engine.cache, &stats));
    REFUSED(ANYKV_E_ARG, "stats_out", anykv_cache_stats(engine.cache, NULL));
    REFUSED(ANYKV_E_ARG, "cache", anykv_cache_stats(NULL, &stats));
    REFUSED(ANYKV_E_ARG, "cache", anykv_cache_trim_memory(NULL));
    REFUSED(ANYKV_E_ARG, "cache", anykv_cache_wait(NULL, 0));
    REFUSED(ANYKV_E_ARG, "cache", anykv_cache_explain(NULL, text, sizeof text));
    REFUSED(ANYKV_E_ARG, "text", anykv_cache_explain(engine.cache, NULL, 4));
    REFUSED(ANYKV_E_ARG, "text_bytes", anykv_cache_explain(engine.cache, text, 0));
    stats.size = 16; /* an older, shorter struct */
    stats.used_bytes = 77;
    OK(anykv_cache_stats(engine.cache, &stats));
    cr_expect(stats.budget_bytes == options.budget_bytes && stats.used_bytes == 77);
    anykv_cache_destroy(NULL);
    anykv_cache_destroy(engine.cache);
    anykv_layout_destroy(engine.layout);
    close_device();
}
