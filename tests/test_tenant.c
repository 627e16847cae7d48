/* SPDX-License-Identifier: Apache-2.0 */
/* Tenants: guaranteed and greatest bytes, an order of their own. */
#include "engine.h"

static struct engine engine;
static uint64_t block_bytes;

static void start(anykv_policy policy, uint32_t blocks)
{
    const anykv_layer layer = engine_layer(1, 64, 0);
    anykv_cache_options options = engine_options(0);
    options.recent = 10000; /* all at 16 bit: every block takes the same bytes */
    engine_policy(&options, (uint64_t)policy - ANYKV_POLICY_LRU);
    anykv_context *context = house_context();
    anykv_device *device = engine_device(context, 0);
    anykv_layout *layout = engine_layout(context, &layer, 1);
    anykv_estimate estimate = ANYKV_ESTIMATE_INIT;
    options.budget_bytes = 1u << 30;
    OK(anykv_cache_estimate(device, layout, &options, &estimate));
    options.budget_bytes = estimate.minimum_bytes + blocks * estimate.hot_block_bytes;
    anykv_layout_destroy(layout);
    anykv_device_close(device);
    anykv_context_destroy(context);
    engine_start(&engine, &layer, 1, &options, 0);
    block_bytes = engine.cache->pool.class_[AKV_CLASS(0, AKV_KIND_HOT)].block_bytes;
}

/* Bytes by part, counted block by block. */
static void check_parts(void)
{
    const struct akv_pool *pool = &engine.cache->pool;
    uint64_t bytes[AKV_PARTS] = {0};
    for (uint32_t id = 0; id < pool->block_capacity; id++)
        if (pool->blocks[id].refs)
            bytes[pool->blocks[id].part] +=
                pool->class_[akv_pool_class_of(&pool->blocks[id])].block_bytes;
    for (uint32_t p = 0; p < AKV_PARTS; p++) {
        cr_assert(bytes[p] == pool->part_bytes[p], "part %u: %llu bytes, counted %llu", p,
                  (unsigned long long)pool->part_bytes[p], (unsigned long long)bytes[p]);
        const struct akv_tenant *tenant = &engine.cache->tenant[p];
        cr_assert(p == 0 || tenant->limit == 0 || bytes[p] <= tenant->limit,
                  "part %u: %llu bytes of %llu", p, (unsigned long long)bytes[p],
                  (unsigned long long)tenant->limit);
    }
}

static void stop(void)
{
    check_parts();
    audit(engine.cache, "at the end");
    engine_stop(&engine);
}

static void set(const char *name, uint64_t guaranteed, uint64_t limit)
{
    anykv_tenant_options options = ANYKV_TENANT_OPTIONS_INIT;
    options.tenant = name;
    options.tenant_bytes = (uint32_t)strlen(name);
    options.guaranteed_bytes = guaranteed;
    options.limit_bytes = limit;
    OK(anykv_cache_set_tenant(engine.cache, &options));
}

static anykv_seq *sequence(const char *name)
{
    anykv_seq_options options = ANYKV_SEQ_OPTIONS_INIT;
    options.tenant = name;
    options.tenant_bytes = (uint32_t)strlen(name);
    if (!options.tenant_bytes)
        options.flags = ANYKV_SEQ_PUBLIC;
    anykv_seq *seq;
    OK(anykv_seq_create(engine.cache, &options, &seq));
    return seq;
}

static void chain(const char *name, uint32_t number, uint32_t tokens)
{
    anykv_seq *seq = sequence(name);
    engine_run(seq, number * 1000, tokens);
    anykv_seq_destroy(seq);
    check_parts();
}

static uint32_t cached(const char *name, uint32_t number, uint32_t tokens)
{
    anykv_seq_options options = ANYKV_SEQ_OPTIONS_INIT;
    options.tenant = name;
    options.tenant_bytes = (uint32_t)strlen(name);
    if (!options.tenant_bytes)
        options.flags = ANYKV_SEQ_PUBLIC;
    uint32_t ids[256];
    uint64_t matched;
    for (uint32_t i = 0; i <= tokens; i++)
        ids[i] = number * 1000 + i;
    OK(anykv_cache_lookup(engine.cache, &options, ids, tokens + 1, &matched));
    return (uint32_t)matched / 16;
}

static uint64_t bytes_of(const char *name)
{
    uint64_t bytes = 0;
    OK(anykv_cache_tenant_bytes(engine.cache, name, (uint32_t)strlen(name), &bytes));
    return bytes;
}

Test(tenant, guaranteed_blocks_stay)
{
    for (int policy = ANYKV_POLICY_LRU; policy <= ANYKV_POLICY_CALLER; policy++)
        for (int guaranteed = 0; guaranteed < 2; guaranteed++) {
            start((anykv_policy)policy, 40);
            set("alice", guaranteed ? 8 * block_bytes : 0, 0);
            chain("alice", 1, 64);
            chain("alice", 2, 64);
            cr_expect(bytes_of("alice") == 8 * block_bytes);
            for (uint32_t i = 0; i < 30; i++)
                chain("bob", 10 + i, 64);
            const uint32_t left = cached("alice", 1, 64) + cached("alice", 2, 64);
            if (guaranteed)
                cr_expect(left == 8, "policy %d: %u of 8 guaranteed blocks are left", policy, left);
            else if (policy == ANYKV_POLICY_LRU || policy == ANYKV_POLICY_ADAPTIVE)
                cr_expect(left == 0, "policy %d: %u blocks that nobody guaranteed stayed", policy,
                          left);
            OK(anykv_cache_trim_memory(engine.cache)); /* spares nobody */
            cr_expect(bytes_of("alice") == 0);
            stop();
        }
}

/* Beyond its guarantee a tenant competes with all others. */
Test(tenant, more_than_guaranteed_goes)
{
    start(ANYKV_POLICY_LRU, 40);
    set("alice", 4 * block_bytes, 0);
    for (uint32_t i = 0; i < 5; i++)
        chain("alice", 1 + i, 64);
    for (uint32_t i = 0; i < 30; i++)
        chain("", 10 + i, 64);
    uint32_t left = 0;
    for (uint32_t i = 0; i < 5; i++)
        left += cached("alice", 1 + i, 64);
    cr_expect(left == 4 || left == 5, "%u blocks are left of a guarantee of 4", left);
    /* Its own requests may evict what is guaranteed to it. */
    for (uint32_t i = 0; i < 40; i++)
        chain("alice", 60 + i, 64);
    cr_expect(cached("alice", 5, 64) == 0 && cached("alice", 99, 64) == 4);
    stop();
}

Test(tenant, a_limit_holds)
{
    start(ANYKV_POLICY_ADAPTIVE, 60);
    set("alice", 0, 10 * block_bytes);
    chain("bob", 1, 64);
    for (uint32_t i = 0; i < 6; i++)
        chain("alice", 10 + i, 64);
    cr_expect(bytes_of("alice") <= 10 * block_bytes && bytes_of("alice") >= 8 * block_bytes);
    cr_expect(cached("alice", 15, 64) == 4 && cached("alice", 10, 64) == 0);
    cr_expect(cached("bob", 1, 64) == 4, "another tenant paid");
    anykv_seq *seq = sequence("alice");
    engine_run(seq, 90000, 112); /* seven blocks */
    const uint32_t count = 64;
    anykv_step *step;
    const uint64_t refusals = engine_stats(engine.cache).budget_refusals;
    REFUSED(ANYKV_E_BUDGET, "limit_bytes: the step needs",
            anykv_step_begin(engine.cache, &seq, &count, 1, &step));
    cr_expect(engine_stats(engine.cache).budget_refusals == refusals + 1);
    cr_expect(engine_length(seq) == 112);
    set("alice", 0, 11 * block_bytes);
    engine_run(seq, 90112, 64);
    anykv_seq_destroy(seq);
    stop();
}

Test(tenant, one_tenants_requests_leave_anothers_half_life)
{
    start(ANYKV_POLICY_ADAPTIVE, 60);
    set("alice", 0, 0);
    set("", 0, 0); /* the public ones */
    struct akv_evict *evict = &engine.cache->prefix.evict;
    cr_expect(evict->parts == 3);
    chain("alice", 1, 64);
    chain("", 1, 64);
    chain("bob", 1, 64);
    uint32_t nodes[3] = {0};
    for (uint32_t node = 0; node < engine.cache->prefix.capacity; node++)
        if (engine.cache->prefix.nodes[node].used)
            nodes[evict->entry[node].part]++;
    cr_expect(nodes[0] == 4 && nodes[1] == 4 && nodes[2] == 4, "%u %u %u", nodes[0], nodes[1],
              nodes[2]);
    stop();
}

Test(tenant, bad_input)
{
    start(ANYKV_POLICY_LRU, 40);
    anykv_tenant_options options = ANYKV_TENANT_OPTIONS_INIT;
    uint64_t bytes;
    REFUSED(ANYKV_E_ARG, "cache: NULL", anykv_cache_set_tenant(NULL, &options));
    REFUSED(ANYKV_E_ARG, "options: NULL", anykv_cache_set_tenant(engine.cache, NULL));
    options.tenant_bytes = 5;
    REFUSED(ANYKV_E_ARG, "tenant: NULL", anykv_cache_set_tenant(engine.cache, &options));
    options.tenant = "alice";
    options.guaranteed_bytes = 2;
    options.limit_bytes = 1;
    REFUSED(ANYKV_E_ARG, "limit_bytes: 1 is below", anykv_cache_set_tenant(engine.cache, &options));
    options.limit_bytes = 0;
    options.guaranteed_bytes = UINT64_MAX;
    REFUSED(ANYKV_E_BUDGET, "guaranteed_bytes", anykv_cache_set_tenant(engine.cache, &options));
    REFUSED(ANYKV_E_NOT_FOUND, "tenant: not set",
            anykv_cache_tenant_bytes(engine.cache, "alice", 5, &bytes));
    REFUSED(ANYKV_E_ARG, "bytes_out", anykv_cache_tenant_bytes(engine.cache, "alice", 5, NULL));
    options.guaranteed_bytes = 0;
    char name[8];
    options.tenant = name;
    for (uint32_t i = 1; i <= 64; i++) {
        options.tenant_bytes = (uint32_t)snprintf(name, sizeof name, "t%u", i);
        if (i < 64)
            OK(anykv_cache_set_tenant(engine.cache, &options));
        else
            REFUSED(ANYKV_E_ARG, "tenants: more than 63",
                    anykv_cache_set_tenant(engine.cache, &options));
    }
    stop();
}
