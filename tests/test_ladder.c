/* SPDX-License-Identifier: Apache-2.0 */
/* The precision ladder: rungs of a layout, what steps down and what does not, watermarks, what a
 * sequence accepts, failures in the middle. */
#include "engine.h"

/* One layer of 16 bit rows whose ladder has all three rungs. */
static void start(struct engine *engine, anykv_format format, uint32_t blocks,
                  void (*change)(anykv_cache_options *options))
{
    anykv_layer layer = engine_layer(1, 64, 0);
    layer.k_format = layer.v_format = format;
    engine->context = house_context();
    engine->device = engine_device(engine->context, 0);
    engine->layout = engine_layout(engine->context, &layer, 1);
    anykv_cache_options options = engine_options(0);
    options.error_budget = 0.5f;
    options.ladder_blocks = 0;
    if (change)
        change(&options);
    anykv_estimate estimate = ANYKV_ESTIMATE_INIT;
    OK(anykv_cache_estimate(engine->device, engine->layout, &options, &estimate));
    options.budget_bytes = estimate.fixed_bytes + blocks * estimate.hot_block_bytes;
    OK(anykv_cache_create(engine->device, engine->layout, &options, &engine->cache));
}

static uint32_t kind_at(const anykv_seq *seq, uint32_t block)
{
    const uint32_t id = akv_seq_table(seq, 0)[block];
    return akv_block_kind(akv_pool_block(&seq->cache->pool, id));
}

/* ---- rungs ---- */

static void lay(const anykv_layer *layers, uint32_t count, const anykv_cache_options *options,
                anykv_context *context, anykv_layout **layout_out)
{
    *layout_out = engine_layout(context, layers, count);
    OK(akv_ladder_check(context, options, count));
    akv_ladder_lay(*layout_out, options);
}

Test(ladder, rungs_follow_formats_and_sensitivities)
{
    anykv_context *context = house_context();
    anykv_layout *layout;
    anykv_layer layers[2] = {engine_layer(1, 64, 0), engine_layer(1, 64, 0)};
    anykv_cache_options options = engine_options(0);
    options.error_budget = 0.5f;
    /* N4 rows have one step left, to N2. */
    lay(layers, 2, &options, context, &layout);
    const struct akv_group *group = &layout->groups[0];
    cr_expect(group->block_bytes[2] == 0 && group->block_bytes[3] == 0, "I8 and N4 save nothing");
    cr_expect(group->block_bytes[4] == 2 * 2 * akv_tile_bytes(AKV_N2, 16, 64));
    cr_expect(akv_ladder_below(group, AKV_KIND_SEALED) == 4 && akv_ladder_below(group, 4) == 0);
    anykv_layout_destroy(layout);
    /* A layer eight times as sensitive, keys only, keeps a larger format at each rung. */
    const float sensitivity[4] = {8, 1, 1, 1};
    layers[0].k_format = layers[0].v_format = layers[1].k_format = layers[1].v_format = ANYKV_F16;
    options.sensitivity = sensitivity;
    options.sensitivities = 4;
    lay(layers, 2, &options, context, &layout);
    static const uint32_t want[3][4] = {{AKV_F16, AKV_I8, AKV_I8, AKV_I8},
                                        {AKV_I8, AKV_N4, AKV_N4, AKV_N4},
                                        {AKV_I8, AKV_N2, AKV_N2, AKV_N2}};
    for (uint32_t r = 0; r < 3; r++)
        for (uint32_t l = 0; l < 2; l++)
            for (uint32_t side = 0; side < 2; side++)
                cr_expect(layout->places[l].format[2 + r][side] == want[r][2 * l + side],
                          "rung %u layer %u side %u: format %u", r, l, side,
                          layout->places[l].format[2 + r][side]);
    cr_expect(layout->groups[0].rotate[0] == AKV_FLAG_ROTATE, "quantised rungs are rotated");
    cr_expect(layout->groups[0].error[2] < layout->groups[0].error[3] &&
              layout->groups[0].error[3] < layout->groups[0].error[4]);
    anykv_layout_destroy(layout);
    /* What exceeds the error budget is not even laid out. */
    options.sensitivities = 0;
    options.error_budget = 0.1f;
    lay(layers, 2, &options, context, &layout);
    cr_expect(layout->groups[0].block_bytes[3] && !layout->groups[0].block_bytes[4],
              "N2 is beyond the budget");
    anykv_layout_destroy(layout);
    options.error_budget = 0;
    lay(layers, 2, &options, context, &layout);
    cr_expect(akv_ladder_tiles(layout) == 0, "without an error budget nothing is lowered");
    anykv_layout_destroy(layout);
    /* A raw side of a sealed block stays raw. */
    layers[0].v_format = layers[1].v_format = ANYKV_I8;
    options.error_budget = 0.5f;
    lay(layers, 2, &options, context, &layout);
    cr_expect(layout->places[0].format[3][0] == AKV_F16 &&
              layout->places[0].format[3][1] == AKV_N4);
    anykv_layout_destroy(layout);
    anykv_context_destroy(context);
}

/* ---- under pressure ---- */

/* A sequence that would need far more than the budget steps down instead of being refused. */
static void press(anykv_format format, uint32_t blocks)
{
    struct engine engine;
    start(&engine, format, blocks, NULL);
    anykv_seq *seq = engine_seq(engine.cache);
    uint32_t most = 0;
    for (uint32_t i = 0; i < 40; i++) {
        engine_run(seq, 100 + 16 * i, 16);
        audit(engine.cache, "under pressure");
        uint32_t last = UINT32_MAX;
        for (uint32_t b = 0; b <= i; b++) {
            const uint32_t kind = kind_at(seq, b);
            if (b == 0 || b + 2 > i) /* sinks of 4 tokens, recent window of 32 */
                cr_assert(kind == AKV_KIND_HOT, "block %u of %u has kind %u", b, i, kind);
            most = kind > most ? kind : most;
            last = kind;
        }
        (void)last;
    }
    const anykv_stats stats = engine_stats(engine.cache);
    cr_expect(most >= AKV_KIND_RUNG && stats.blocks_lowered && stats.lowered_bytes);
    cr_expect(stats.blocks_evicted == 0, "something was dropped before it was lowered");
    uint64_t lowered = 0;
    for (uint32_t r = 0; r < 4; r++)
        lowered += stats.rung_blocks[r];
    cr_expect(lowered + stats.hot_blocks + stats.sealed_blocks == 40);
    char text[256];
    OK(anykv_cache_explain(engine.cache, text, sizeof text));
    cr_expect(strstr(text, "lowered"), "%s", text);
    /* The rows are what the formats keep of them. */
    float want[640 * 64], have[640 * 64];
    uint64_t seeds[640];
    for (uint32_t p = 0; p < 640; p++)
        seeds[p] = engine_chain(p, 100 + p);
    for (int side = 0; side < 2; side++) {
        engine_rows(seeds, 640, 0, side, 1, 64, want);
        const anykv_view view = anykv_view_host(have, ANYKV_F32, 1, 64);
        OK(anykv_seq_gather(seq, 0, side, 0, 640, &view));
        for (uint32_t b = 0; b < 40; b++) {
            double error = 0, size = 0;
            for (uint32_t i = b * 1024; i < (b + 1) * 1024; i++) {
                error += ((double)have[i] - (double)want[i]) * ((double)have[i] - (double)want[i]);
                size += (double)want[i] * (double)want[i];
            }
            static const double bound[AKV_POOL_KINDS] = {0, 0.03, 0.001, 0.03, 0.2, 0};
            cr_expect(error <= bound[kind_at(seq, b)] * size, "block %u of kind %u: %g of %g", b,
                      kind_at(seq, b), error, size);
        }
    }
    anykv_seq_destroy(seq);
    engine_stop(&engine);
}

Test(ladder, steps_down_instead_of_refusing, .timeout = 60)
{
    press(ANYKV_F16, 16);
    press(ANYKV_I8, 16);
    press(ANYKV_N4, 15);
}

/* Attention over a table of several kinds is attention over the rows that gather gives. */
Test(ladder, attention_reads_all_kinds, .timeout = 60)
{
    struct engine engine;
    start(&engine, ANYKV_F16, 12, NULL);
    anykv_seq *seq = engine_seq(engine.cache);
    for (uint32_t i = 0; i < 30; i++)
        engine_run(seq, 100 + 16 * i, 16);
    uint32_t kinds = 0;
    for (uint32_t b = 0; b < 30; b++)
        kinds |= 1u << kind_at(seq, b);
    cr_assert((kinds & 1u) && (kinds & ~3u), "kinds 0x%x", kinds);
    const uint32_t one = 1, token = 7;
    const uint64_t seed = 5;
    float q[2 * 64], out[2 * 64], k[481 * 64], v[481 * 64];
    for (uint32_t i = 0; i < 128; i++)
        q[i] = (float)((i * 37) % 17) / 40.0f - 0.2f;
    anykv_step *step;
    OK(anykv_step_begin(engine.cache, &seq, &one, 1, &step));
    OK(engine_append(step, &seed));
    const anykv_view q_view = anykv_view_host(q, ANYKV_F32, 2, 64);
    const anykv_view o_view = anykv_view_host(out, ANYKV_F32, 2, 64);
    OK(anykv_step_attend(step, 0, &q_view, NULL, &o_view));
    OK(anykv_step_end(step, NULL, &token));
    const anykv_view k_view = anykv_view_host(k, ANYKV_F32, 1, 64);
    const anykv_view v_view = anykv_view_host(v, ANYKV_F32, 1, 64);
    OK(anykv_seq_gather(seq, 0, 0, 0, 481, &k_view));
    OK(anykv_seq_gather(seq, 0, 1, 0, 481, &v_view));
    for (uint32_t h = 0; h < 2; h++) {
        double sum[64] = {0}, total = 0, error = 0, size = 0;
        for (uint32_t p = 0; p < 481; p++) {
            double s = 0;
            for (uint32_t i = 0; i < 64; i++)
                s += (double)q[h * 64 + i] * (double)k[p * 64 + i];
            const double w = exp(s / 8);
            total += w;
            for (uint32_t i = 0; i < 64; i++)
                sum[i] += w * (double)v[p * 64 + i];
        }
        for (uint32_t i = 0; i < 64; i++) {
            const double d = (double)out[h * 64 + i] - sum[i] / total;
            error += d * d;
            size += sum[i] / total * (sum[i] / total);
        }
        cr_expect(sqrt(error) <= 0.02 * sqrt(size), "head %u: off by %g of %g", h, sqrt(error),
                  sqrt(size));
    }
    anykv_seq_destroy(seq);
    engine_stop(&engine);
}

static void stop_at_n4(anykv_cache_options *options)
{
    options->error_budget = 0.06f;
}

Test(ladder, never_exceeds_the_error_budget)
{
    struct engine engine;
    start(&engine, ANYKV_F16, 12, stop_at_n4);
    anykv_seq *seq = engine_seq(engine.cache);
    anykv_status status = ANYKV_OK;
    for (uint32_t i = 0; i < 60 && !status; i++) {
        const uint32_t count = 16;
        uint64_t seeds[16] = {0};
        anykv_step *step;
        const anykv_stats before = engine_stats(engine.cache);
        status = anykv_step_begin(engine.cache, &seq, &count, 1, &step);
        if (status) {
            const anykv_stats after = engine_stats(engine.cache);
            cr_expect(before.blocks_lowered == after.blocks_lowered &&
                          before.used_bytes == after.used_bytes,
                      "a refused step changed the cache");
            break;
        }
        OK(engine_append(step, seeds));
        OK(anykv_step_end(step, NULL, NULL));
        audit(engine.cache, "error budget");
    }
    cr_expect(status == ANYKV_E_BUDGET && engine_length(seq) > 20 * 16, "%llu tokens",
              (unsigned long long)engine_length(seq));
    const anykv_stats stats = engine_stats(engine.cache);
    cr_expect(stats.rung_blocks[1] > 10 && stats.rung_blocks[2] == 0);
    anykv_seq_destroy(seq);
    engine_stop(&engine);
}

static void watermarks(anykv_cache_options *options)
{
    options->ladder_blocks = 6;
    options->high_watermark = 0.75f;
    options->low_watermark = 0.5f;
}

Test(ladder, watermarks_and_pace)
{
    struct engine engine;
    start(&engine, ANYKV_F16, 40, watermarks);
    anykv_seq *seq = engine_seq(engine.cache);
    uint64_t before = 0;
    bool lowering = false, stopped = false;
    for (uint32_t i = 0; i < 60; i++) {
        engine_run(seq, 100 + 16 * i, 16);
        const uint64_t now = engine_stats(engine.cache).blocks_lowered;
        const struct akv_pool *pool = &engine.cache->pool;
        memset(engine.cache->need, 0, pool->classes * sizeof *engine.cache->need);
        const double share =
            (double)akv_pool_least_chunks(pool, engine.cache->need, false) / pool->present;
        cr_expect(now - before <= 6, "%llu blocks in one step", (unsigned long long)(now - before));
        cr_expect(now == before || lowering || share > 0.5, "lowered at %g", share);
        if (now == before && lowering)
            stopped = true;
        lowering = now != before;
        before = now;
    }
    cr_expect(before && stopped, "it lowers, stops, and lowers again");
    anykv_seq_destroy(seq);
    engine_stop(&engine);
}

/* ---- who accepts what ---- */

static anykv_seq *demanding(anykv_cache *cache, uint32_t rungs)
{
    anykv_seq_options options = ANYKV_SEQ_OPTIONS_INIT;
    options.flags = ANYKV_SEQ_PUBLIC;
    options.rungs = rungs;
    anykv_seq *seq;
    OK(anykv_seq_create(cache, &options, &seq));
    return seq;
}

Test(ladder, a_lookup_names_the_least_it_accepts)
{
    struct engine engine;
    start(&engine, ANYKV_I8, 16, NULL);
    anykv_seq *seq = engine_seq(engine.cache);
    for (uint32_t i = 0; i < 26; i++)
        engine_run(seq, 100 + 16 * i, 16);
    uint32_t tokens[416], least = 26;
    for (uint32_t i = 0; i < 416; i++)
        tokens[i] = 100 + i;
    for (uint32_t b = 26; b-- > 0;)
        if (kind_at(seq, b) >= AKV_KIND_RUNG)
            least = b;
    cr_assert(least < 20 && least > 0);
    anykv_seq_destroy(seq);
    uint64_t matched;
    anykv_seq *strict = demanding(engine.cache, 0), *any = engine_seq(engine.cache);
    OK(anykv_seq_match(strict, tokens, 416, &matched));
    cr_expect(matched == least * 16, "%llu of %u", (unsigned long long)matched, least * 16);
    cr_expect(engine_stats(engine.cache).precision_misses == 1);
    char text[256];
    OK(anykv_cache_explain(engine.cache, text, sizeof text));
    cr_expect(strstr(text, "precision was lowered"), "%s", text);
    OK(anykv_seq_match(any, tokens, 416, &matched));
    cr_expect(matched == 400, "%llu", (unsigned long long)matched);
    anykv_seq_destroy(any);
    /* The strict sequence computes the rest anew; its blocks take the lowered ones' names. */
    for (uint32_t i = least; i < least + 2; i++)
        engine_run(strict, 100 + 16 * i, 16);
    audit(engine.cache, "strict");
    cr_expect(engine_stats(engine.cache).blocks_restored >= 1);
    anykv_seq *again = demanding(engine.cache, 0);
    OK(anykv_seq_match(again, tokens, 416, &matched));
    cr_expect(matched >= (least + 1) * 16, "%llu", (unsigned long long)matched);
    anykv_seq_destroy(again);
    anykv_seq_destroy(strict);
    engine_stop(&engine);
}

Test(ladder, pinned_and_running_blocks_keep_their_precision)
{
    struct engine engine;
    start(&engine, ANYKV_I8, 20, NULL);
    anykv_seq *pinned = engine_seq(engine.cache), *running = engine_seq(engine.cache);
    engine_run(pinned, 100, 96);
    OK(anykv_seq_pin(pinned, 1));
    engine_run(running, 5000, 96);
    const uint32_t one = 1;
    uint64_t seed = 3;
    anykv_step *open;
    OK(anykv_step_begin(engine.cache, &running, &one, 1, &open));
    anykv_seq *third = engine_seq(engine.cache);
    uint32_t before[2][6];
    for (uint32_t b = 0; b < 6; b++) {
        before[0][b] = kind_at(pinned, b);
        before[1][b] = kind_at(running, b);
    }
    anykv_status status = ANYKV_OK;
    for (uint32_t i = 0; i < 40 && !status; i++) {
        anykv_step *step;
        const uint32_t count = 16;
        uint64_t seeds[16] = {0};
        status = anykv_step_begin(engine.cache, &third, &count, 1, &step);
        if (status)
            break;
        OK(engine_append(step, seeds));
        OK(anykv_step_end(step, NULL, NULL));
        audit(engine.cache, "pinned and running");
    }
    cr_expect(status == ANYKV_E_BUDGET && engine_stats(engine.cache).blocks_lowered);
    for (uint32_t b = 0; b < 6; b++)
        cr_expect(kind_at(pinned, b) == before[0][b] && kind_at(running, b) == before[1][b],
                  "block %u was lowered", b);
    OK(engine_append(open, &seed));
    OK(anykv_step_end(open, NULL, NULL));
    anykv_seq_destroy(third);
    anykv_seq_destroy(running);
    anykv_seq_destroy(pinned);
    engine_stop(&engine);
}

/* ---- failures and bad input ---- */

static uint64_t sites; /* backend calls before the cache is destroyed, whose wait cannot fail it */

static anykv_status scenario(void)
{
    struct engine engine = {0};
    anykv_seq *seq = NULL;
    anykv_status status = anykv_context_create(NULL, &engine.context);
    if (!status)
        status = anykv_device_open(engine.context, engine_device_name(), NULL, &engine.device);
    anykv_layer layer = engine_layer(1, 64, 0);
    layer.k_format = layer.v_format = ANYKV_F16;
    anykv_layout_options identity = ANYKV_LAYOUT_OPTIONS_INIT;
    identity.weights = "test";
    identity.weights_bytes = 4;
    if (!status)
        status = anykv_layout_create(engine.context, &layer, 1, &identity, &engine.layout);
    anykv_cache_options options = engine_options(0);
    options.error_budget = 0.5f;
    options.ladder_blocks = 0; /* what is done ahead of need fails silently */
    anykv_estimate estimate = ANYKV_ESTIMATE_INIT;
    if (!status)
        status = anykv_cache_estimate(engine.device, engine.layout, &options, &estimate);
    options.budget_bytes = estimate.fixed_bytes + 10 * estimate.hot_block_bytes;
    if (!status)
        status = anykv_cache_create(engine.device, engine.layout, &options, &engine.cache);
    anykv_seq_options who = ANYKV_SEQ_OPTIONS_INIT;
    who.flags = ANYKV_SEQ_PUBLIC;
    if (!status)
        status = anykv_seq_create(engine.cache, &who, &seq);
    for (uint32_t i = 0; i < 12 && !status; i++) {
        const uint32_t count = 16;
        uint64_t seeds[16] = {0};
        anykv_step *step;
        status = anykv_step_begin(engine.cache, &seq, &count, 1, &step);
        if (status)
            break;
        status = engine_append(step, seeds);
        if (status)
            anykv_step_cancel(step);
        else
            status = anykv_step_end(step, NULL, NULL);
    }
    if (engine.cache) {
        audit(engine.cache, "after a failure");
        const anykv_status waited = anykv_cache_wait(engine.cache, UINT64_MAX);
        status = status ? status : waited;
        sites = akv_fault_count();
    }
    anykv_seq_destroy(seq);
    anykv_cache_destroy(engine.cache);
    anykv_layout_destroy(engine.layout);
    anykv_device_close(engine.device);
    anykv_context_destroy(engine.context);
    return status;
}

Test(ladder, every_allocation_fails, .timeout = 120)
{
    engine_keep_device();
    house_fail_allocations("ladder", scenario);
}

Test(ladder, every_backend_call_fails, .timeout = 120)
{
    engine_keep_device();
    const uint64_t live = akv_alloc_live();
    akv_fault_at(0, ANYKV_OK, false);
    OK(scenario());
    const uint64_t all = sites;
    for (int late = 0; late < 2; late++)
        for (uint64_t n = 1; n <= all; n++) {
            akv_fault_at(n, ANYKV_E_DEVICE, late);
            const anykv_status status = scenario();
            akv_fault_at(0, ANYKV_OK, false);
            cr_expect(status == ANYKV_E_DEVICE || (late && status == ANYKV_OK),
                      "backend call %llu of %llu failed %s, status %s", (unsigned long long)n,
                      (unsigned long long)all, late ? "late" : "at once",
                      anykv_status_name(status));
            cr_expect(akv_alloc_live() == live, "backend call %llu leaked", (unsigned long long)n);
        }
}

#define OPTION_REFUSED(text, ...)                                                                  \
    do {                                                                                           \
        anykv_cache_options options = engine_options(1u << 20);                                    \
        __VA_ARGS__;                                                                               \
        REFUSED(ANYKV_E_ARG, text, akv_ladder_check(context, &options, 2));                        \
    } while (0)

Test(ladder, bad_options)
{
    anykv_context *context = house_context();
    const float bad[4] = {1, 1, 0, 1};
    OPTION_REFUSED("error_budget: -1", options.error_budget = -1);
    OPTION_REFUSED("error_budget: nan", options.error_budget = NAN);
    OPTION_REFUSED("error_budget: 2", options.error_budget = 2);
    OPTION_REFUSED("high_watermark", options.high_watermark = 1.5f);
    OPTION_REFUSED("low_watermark", options.low_watermark = 0.95f);
    OPTION_REFUSED("rungs[0]", options.rungs[0] = ANYKV_F16);
    OPTION_REFUSED("rungs[1]", options.rungs[1] = (anykv_format)99);
    OPTION_REFUSED("rungs[1]: I8 is not smaller", options.rungs[1] = ANYKV_I8);
    OPTION_REFUSED("rungs[2]: 9 follows the end", options.rungs[1] = (anykv_format)0);
    OPTION_REFUSED("sensitivities: 3", options.sensitivities = 3);
    OPTION_REFUSED("sensitivity: NULL", options.sensitivities = 4);
    OPTION_REFUSED("sensitivity[2]: 0", options.sensitivities = 4, options.sensitivity = bad);
    anykv_context_destroy(context);
}

/* In a pool full of cached blocks that are all on their last rung, a step does not look at every
 * block again for each block that it evicts. */
Test(ladder, eviction_stays_cheap_at_the_bottom, .timeout = 60)
{
    struct engine engine;
    start(&engine, ANYKV_F16, 1200, NULL);
    for (uint32_t i = 0; i < 160; i++) {
        anykv_seq *seq = engine_seq(engine.cache);
        for (uint32_t k = 0; k < 8; k++)
            engine_run(seq, i * 2000 + k * 128, 128);
        anykv_seq_destroy(seq);
    }
    const anykv_stats stats = engine_stats(engine.cache);
    cr_expect(stats.blocks_evicted > 100 && stats.rung_blocks[2] > 4000 &&
                  stats.blocks_lowered > stats.rung_blocks[2],
              "%llu evicted, %llu on the last rung", (unsigned long long)stats.blocks_evicted,
              (unsigned long long)stats.rung_blocks[2]);
    audit(engine.cache, "at the bottom");
    engine_stop(&engine);
}
