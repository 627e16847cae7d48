/* SPDX-License-Identifier: Apache-2.0 */
/* What a cache tells: events, errors, what a call did, metrics, gauges; and device memory that is
 * refused. */
#include "engine.h"

static void start(struct engine *engine, uint32_t blocks, uint32_t events, float error_budget)
{
    anykv_layer layer = engine_layer(1, 64, 0);
    layer.k_format = layer.v_format = ANYKV_F16;
    engine->context = house_context();
    engine->device = engine_device(engine->context, 0);
    engine->layout = engine_layout(engine->context, &layer, 1);
    anykv_cache_options options = engine_options(0);
    options.events = events;
    options.error_budget = error_budget;
    options.ladder_blocks = 0;
    anykv_estimate estimate = ANYKV_ESTIMATE_INIT;
    OK(anykv_cache_estimate(engine->device, engine->layout, &options, &estimate));
    options.budget_bytes = estimate.fixed_bytes + blocks * estimate.hot_block_bytes;
    OK(anykv_cache_create(engine->device, engine->layout, &options, &engine->cache));
}

static anykv_call_info info(void)
{
    anykv_call_info last = {.size = sizeof last};
    OK(anykv_call_info_last(&last));
    return last;
}

/* ---- events ---- */

Test(observe, events_of_blocks)
{
    struct engine engine;
    start(&engine, 12, 100, 0);
    anykv_seq *seq = engine_seq(engine.cache);
    engine_run(seq, 100, 48);
    anykv_block_event events[100];
    uint32_t tokens[100 * 16];
    uint64_t count = 100, lost;
    OK(anykv_cache_events(engine.cache, events, tokens, &count, &lost));
    cr_assert(count == 3 && lost == 0, "%llu events", (unsigned long long)count);
    for (uint32_t i = 0; i < 3; i++) {
        cr_expect(events[i].sequence_number == i + 1 && events[i].type == ANYKV_BLOCK_STORED);
        cr_expect(events[i].block_size == 16 && events[i].token_count == 16 &&
                  events[i].lora_id == -1 &&
                  strcmp(events[i].medium, engine_on_processor() ? "CPU" : "GPU") == 0);
        cr_expect(tokens[16 * i] == 100 + 16 * i && tokens[16 * i + 15] == 115 + 16 * i);
        cr_expect(events[i].has_parent == (i > 0));
        if (i)
            cr_expect(memcmp(events[i].parent_block_hash, events[i - 1].block_hash, 32) == 0);
    }
    uint8_t last[32];
    memcpy(last, events[2].block_hash, 32);
    anykv_seq_destroy(seq);
    anykv_seq *other = engine_seq(engine.cache); /* pushes the first one's leaf out */
    engine_run(other, 5000, 128);
    engine_run(other, 6000, 32);
    count = 100;
    OK(anykv_cache_events(engine.cache, events, tokens, &count, &lost));
    uint32_t removed = 0;
    for (uint32_t i = 0; i < count; i++)
        if (events[i].type == ANYKV_BLOCK_REMOVED && removed++ == 0)
            cr_expect(memcmp(events[i].block_hash, last, 32) == 0, "the leaf goes first");
    cr_expect(removed >= 1 && events[0].sequence_number == 4);
    anykv_seq_destroy(other);
    OK(anykv_cache_trim_memory(engine.cache));
    count = 100;
    OK(anykv_cache_events(engine.cache, events, NULL, &count, &lost));
    cr_expect(count && events[count - 1].type == ANYKV_ALL_BLOCKS_CLEARED);
    cr_expect(info().call && strcmp(info().call, "anykv_cache_trim_memory") == 0 &&
              info().blocks_evicted >= 10 && info().bytes_evicted >= 10 * 4096);
    engine_stop(&engine);
}

Test(observe, events_are_lost_countably)
{
    struct engine engine;
    start(&engine, 40, 4, 0);
    anykv_seq *seq = engine_seq(engine.cache);
    engine_run(seq, 100, 112);
    anykv_block_event events[8];
    uint64_t count = 2, lost;
    OK(anykv_cache_events(engine.cache, events, NULL, &count, &lost));
    cr_expect(count == 2 && lost == 3 && events[0].sequence_number == 4, "%llu lost",
              (unsigned long long)lost);
    count = 8;
    OK(anykv_cache_events(engine.cache, events, NULL, &count, &lost));
    cr_expect(count == 2 && lost == 0 && events[1].sequence_number == 7);
    count = 8;
    OK(anykv_cache_events(engine.cache, events, NULL, &count, &lost));
    cr_expect(count == 0 && lost == 0);
    REFUSED(ANYKV_E_ARG, "cache", anykv_cache_events(NULL, events, NULL, &count, &lost));
    count = 1;
    REFUSED(ANYKV_E_ARG, "events", anykv_cache_events(engine.cache, NULL, NULL, &count, &lost));
    REFUSED(ANYKV_E_ARG, "lost_out", anykv_cache_events(engine.cache, events, NULL, &count, NULL));
    anykv_seq_destroy(seq);
    engine_stop(&engine);
    start(&engine, 12, 0, 0); /* no ring */
    seq = engine_seq(engine.cache);
    engine_run(seq, 100, 48);
    count = 8;
    OK(anykv_cache_events(engine.cache, events, NULL, &count, &lost));
    cr_expect(count == 0 && lost == 0);
    anykv_seq_destroy(seq);
    engine_stop(&engine);
}

/* ---- what calls did ---- */

Test(observe, calls_say_what_they_did)
{
    struct engine engine;
    start(&engine, 12, 100, 0.5f);
    anykv_seq *seq = engine_seq(engine.cache);
    uint64_t lowered = 0;
    for (uint32_t i = 0; i < 24; i++) {
        uint32_t tokens[16];
        uint64_t seeds[16];
        const uint32_t count = 16;
        for (uint32_t t = 0; t < 16; t++) {
            tokens[t] = 16 * i + t;
            seeds[t] = tokens[t];
        }
        anykv_step *step;
        OK(anykv_step_begin(engine.cache, &seq, &count, 1, &step));
        cr_expect(strcmp(info().call, "anykv_step_begin") == 0 && info().status == ANYKV_OK);
        cr_expect(info().blocks_new == 1 && info().bytes_new == 4096);
        lowered += info().blocks_lowered;
        cr_expect((info().blocks_lowered != 0) == (info().bytes_lowered != 0));
        OK(engine_append(step, seeds));
        OK(anykv_step_end(step, NULL, tokens));
        cr_expect(strcmp(info().call, "anykv_step_end") == 0 && info().blocks_named == 1);
    }
    cr_expect(lowered && lowered == engine_stats(engine.cache).blocks_lowered);
    anykv_block_event events[100];
    uint64_t count = 100, lost, lowerings = 0;
    OK(anykv_cache_events(engine.cache, events, NULL, &count, &lost));
    for (uint64_t i = 0; i < count; i++)
        lowerings += events[i].type == ANYKV_BLOCK_LOWERED;
    cr_expect(lowerings + lost >= lowered / 2 && lowerings, "%llu events of %llu",
              (unsigned long long)lowerings, (unsigned long long)lowered);
    uint32_t tokens[384];
    for (uint32_t t = 0; t < 384; t++)
        tokens[t] = t;
    anykv_seq *second = engine_seq(engine.cache);
    uint64_t matched;
    OK(anykv_seq_match(second, tokens, 100, &matched));
    cr_expect(matched == 96 && strcmp(info().call, "anykv_seq_match") == 0 &&
              info().tokens_asked == 100 && info().tokens_matched == 96 &&
              info().blocks_reused == 6);
    REFUSED(ANYKV_E_BUDGET, "budget_bytes", anykv_cache_set_budget(engine.cache, 1));
    cr_expect(info().status == ANYKV_E_BUDGET);
    anykv_call_info wrong = {.size = 3};
    REFUSED(ANYKV_E_ARG, "size", anykv_call_info_last(&wrong));
    REFUSED(ANYKV_E_ARG, "info_out", anykv_call_info_last(NULL));
    anykv_seq_destroy(second);
    anykv_seq_destroy(seq);
    engine_stop(&engine);
}

/* ---- errors ---- */

Test(observe, errors_are_kept)
{
    anykv_context *context = house_context();
    anykv_error_record records[80];
    uint32_t count = 80;
    uint64_t lost;
    anykv_device *device;
    for (int i = 0; i < 70; i++)
        (void)anykv_device_open(context, "no such device", NULL, &device);
    OK(anykv_context_errors(context, records, &count, &lost));
    cr_assert(count == 64 && lost >= 6, "%u records, %llu lost", count, (unsigned long long)lost);
    for (uint32_t i = 0; i < count; i++)
        cr_expect(records[i].status == ANYKV_E_NOT_FOUND && records[i].text[0] &&
                  (i == 0 || records[i].sequence_number == records[i - 1].sequence_number + 1));
    count = 80;
    OK(anykv_context_errors(context, records, &count, &lost));
    cr_expect(count == 0 && lost == 0);
    REFUSED(ANYKV_E_ARG, "context", anykv_context_errors(NULL, records, &count, &lost));
    REFUSED(ANYKV_E_ARG, "lost_out", anykv_context_errors(context, records, &count, NULL));
    count = 1;
    REFUSED(ANYKV_E_ARG, "records", anykv_context_errors(context, NULL, &count, &lost));
    anykv_context_destroy(context);
}

/* ---- metrics and gauges ---- */

Test(observe, metrics_are_what_prometheus_reads)
{
    struct engine engine;
    start(&engine, 12, 0, 0.5f);
    anykv_seq *seq = engine_seq(engine.cache);
    for (uint32_t i = 0; i < 20; i++)
        engine_run(seq, 100 + 16 * i, 16);
    uint32_t asked[100];
    uint64_t found;
    for (uint32_t i = 0; i < 100; i++)
        asked[i] = i < 70 ? 100 + i : i;
    anykv_seq *other = engine_seq(engine.cache);
    OK(anykv_seq_match(other, asked, 100, &found));
    cr_expect(found == 64);
    anykv_seq_destroy(other);
    char text[16384], small[64];
    size_t needed;
    OK(anykv_cache_metrics(engine.cache, text, sizeof text, &needed));
    cr_expect(strlen(text) + 1 == needed);
    const anykv_stats now = engine_stats(engine.cache);
    const struct {
        const char *sample;
        uint64_t value;
    } want[] = {{"anykv_budget_bytes ", now.budget_bytes},
                {"anykv_used_bytes ", now.used_bytes},
                {"anykv_fixed_bytes ", now.fixed_bytes},
                {"anykv_blocks{kind=\"hot\"} ", now.hot_blocks},
                {"anykv_blocks{kind=\"sealed\"} ", now.sealed_blocks},
                {"anykv_blocks{kind=\"rung1\"} ", now.rung_blocks[0]},
                {"anykv_blocks{kind=\"rung2\"} ", now.rung_blocks[1]},
                {"anykv_block_bytes{kind=\"rung1\"} ", now.rung_bytes[0]},
                {"anykv_block_bytes{kind=\"rung2\"} ", now.rung_bytes[1]},
                {"anykv_tokens_appended_total ", now.tokens_appended},
                {"anykv_blocks_new_total ", now.blocks_new},
                {"anykv_blocks_named_total ", now.blocks_named},
                {"anykv_blocks_sealed_total ", now.blocks_sealed},
                {"anykv_blocks_lowered_total ", now.blocks_lowered},
                {"anykv_lookup_tokens_total ", now.lookup_tokens},
                {"anykv_hit_tokens_total ", now.hit_tokens}};
    uint32_t given = 0;
    size_t lines = 0, samples = 0;
    char family[80] = "", named[90], seen[8192] = "";
    bool typed = true;
    for (char *line = text; *line;) {
        char *end = strchr(line, '\n');
        cr_assert(end, "the last line is not closed");
        *end = '\0';
        lines++;
        /* A name's HELP, its TYPE, then its samples together; counters end in _total. */
        if (strncmp(line, "# HELP ", 7) == 0) {
            char name[80];
            cr_expect(sscanf(line, "# HELP %79s", name) == 1 && typed, "\"%s\"", line);
            snprintf(family, sizeof family, "%s", name);
            typed = false;
            snprintf(named, sizeof named, "|%s|", name);
            cr_expect(!strstr(seen, named), "%s occurs twice", name);
            snprintf(seen + strlen(seen), sizeof seen - strlen(seen), "%s", named);
        } else if (strncmp(line, "# TYPE ", 7) == 0) {
            char name[80], type[16];
            cr_expect(sscanf(line, "# TYPE %79s %15s", name, type) == 2 &&
                          strcmp(name, family) == 0 && !typed,
                      "\"%s\"", line);
            const size_t length = strlen(name);
            const bool total = length > 6 && strcmp(name + length - 6, "_total") == 0;
            cr_expect(strcmp(type, total ? "counter" : "gauge") == 0, "\"%s\"", line);
            typed = true;
        } else {
            char name[80], label[80] = "";
            unsigned long long value;
            cr_expect(sscanf(line, "%70[a-z_]{%75[^}]} %llu", name, label, &value) == 3 ||
                          sscanf(line, "%70[a-z_] %llu", name, &value) == 2,
                      "\"%s\"", line);
            cr_expect(strncmp(name, "anykv_", 6) == 0 && strcmp(name, family) == 0 && typed,
                      "\"%s\" stands outside of its family", line);
            samples++;
            for (uint32_t i = 0; i < sizeof want / sizeof *want; i++)
                if (strncmp(line, want[i].sample, strlen(want[i].sample)) == 0) {
                    cr_expect(value == want[i].value, "\"%s\": not %llu", line, (unsigned long long)want[i].value);
                    given |= 1u << i;
                }
        }
        line = end + 1;
    }
    cr_expect(samples > 40 && lines > 100, "%zu samples", samples);
    cr_expect(given == 0xFFFF, "0x%x", given);
    OK(anykv_cache_metrics(engine.cache, NULL, 0, &needed));
    REFUSED(ANYKV_E_SHAPE, "text_bytes",
            anykv_cache_metrics(engine.cache, small, sizeof small, &needed));
    cr_expect(strlen(small) == 63);
    REFUSED(ANYKV_E_ARG, "cache", anykv_cache_metrics(NULL, text, 1, &needed));
    REFUSED(ANYKV_E_ARG, "needed_out", anykv_cache_metrics(engine.cache, text, 1, NULL));
    const anykv_stats stats = engine_stats(engine.cache);
    uint64_t blocks = stats.hot_bytes + stats.sealed_bytes;
    for (uint32_t r = 0; r < 4; r++)
        blocks += stats.rung_bytes[r];
    cr_expect(stats.used_bytes == stats.fixed_bytes + blocks + stats.fragmentation_bytes);
    cr_expect(stats.pool_bytes + stats.fixed_bytes <= stats.budget_bytes &&
              stats.used_bytes <= stats.fixed_bytes + stats.pool_bytes);
    cr_expect(stats.device_bytes_total >= stats.device_bytes_free && stats.device_bytes_total);
    cr_expect(stats.host_bytes > sizeof(struct anykv_cache) && stats.host_bytes < 1u << 24,
              "%llu host bytes", (unsigned long long)stats.host_bytes);
    const uint64_t with = stats.host_bytes;
    anykv_seq_destroy(seq);
    cr_expect(engine_stats(engine.cache).host_bytes < with, "a sequence takes no host memory");
    engine_stop(&engine);
}

/* ---- device memory that is refused ---- */

static const struct akv_backend *real;
static struct akv_backend refusing;
static uint32_t until, refusals; /* calls before the refusals start, how many there are */

static anykv_status refuse_alloc(struct akv_device *device, uint64_t bytes, enum akv_mem_kind kind,
                                 struct akv_mem **mem_out)
{
    if (until) {
        until--;
    } else if (refusals) {
        refusals--;
        return akv_fail(device->context, ANYKV_E_MEMORY, "made up");
    }
    return real->mem_alloc(device, bytes, kind, mem_out);
}

static void refuse(struct engine *engine, uint32_t after, uint32_t count)
{
    if (!real || engine->device->device->backend != &refusing) {
        real = engine->device->device->backend;
        refusing = *real;
        refusing.mem_alloc = refuse_alloc;
        engine->device->device->backend = &refusing;
    }
    until = after;
    refusals = count;
}

Test(observe, a_refused_allocation_is_tried_again)
{
    struct engine engine;
    anykv_layer layer = engine_layer(1, 64, 0);
    engine.context = house_context();
    engine.device = engine_device(engine.context, 0);
    engine_hide_host_memory(engine.device); /* so that staging memory is needed, too */
    engine.layout = engine_layout(engine.context, &layer, 1);
    anykv_cache_options options = engine_options(0);
    anykv_estimate estimate = ANYKV_ESTIMATE_INIT;
    OK(anykv_cache_estimate(engine.device, engine.layout, &options, &estimate));
    options.budget_bytes = estimate.fixed_bytes + 40 * estimate.hot_block_bytes;
    uint32_t sites = 0;
    for (bool more = true; more; sites++) {
        refuse(&engine, sites, 1); /* once: the second attempt succeeds */
        OK(anykv_cache_create(engine.device, engine.layout, &options, &engine.cache));
        more = refusals == 0;
        cr_expect(engine_stats(engine.cache).device_retries == (more ? 1 : 0));
        anykv_cache_destroy(engine.cache);
        refuse(&engine, sites, 2); /* twice: a clear error, nothing kept */
        const anykv_status status =
            anykv_cache_create(engine.device, engine.layout, &options, &engine.cache);
        if (!more) {
            OK(status);
            anykv_cache_destroy(engine.cache);
            continue;
        }
        cr_expect(status == ANYKV_E_MEMORY && strstr(anykv_error_detail(), "refused twice") &&
                      strstr(anykv_error_detail(), "are free"),
                  "site %u: %s", sites, anykv_error_detail());
    }
    cr_expect(sites >= 5, "%u sites", sites); /* fixed, staging, four slabs */
    /* Raising the budget. */
    refuse(&engine, 0, 0);
    OK(anykv_cache_create(engine.device, engine.layout, &options, &engine.cache));
    anykv_seq *seq = engine_seq(engine.cache);
    engine_run(seq, 100, 64);
    const anykv_stats before = engine_stats(engine.cache);
    for (uint32_t site = 0; site < 2; site++) {
        refuse(&engine, site, 100);
        REFUSED(ANYKV_E_MEMORY, "refused twice",
                anykv_cache_set_budget(engine.cache, 2 * options.budget_bytes));
        const anykv_stats after = engine_stats(engine.cache);
        cr_expect(after.budget_bytes == before.budget_bytes &&
                  after.pool_bytes == before.pool_bytes && after.used_bytes == before.used_bytes);
        audit(engine.cache, "refused growth");
    }
    refuse(&engine, 0, 1);
    OK(anykv_cache_set_budget(engine.cache, 2 * options.budget_bytes));
    cr_expect(engine_stats(engine.cache).pool_bytes > before.pool_bytes);
    audit(engine.cache, "grown");
    engine_run(seq, 200, 64);
    anykv_seq_destroy(seq);
    anykv_cache_destroy(engine.cache);
    anykv_layout_destroy(engine.layout);
    engine.device->device->backend = real;
    anykv_device_close(engine.device);
    anykv_context_destroy(engine.context);
}
