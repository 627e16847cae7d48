/* SPDX-License-Identifier: Apache-2.0 */
/* Modes and their effects; the importer of the original engine's field names. */
#include "engine.h"

/* ---- modes ---- */

static void start(struct engine *engine, anykv_mode mode, anykv_format format, uint32_t blocks)
{
    anykv_layer layer = engine_layer(1, 64, 0);
    layer.k_format = layer.v_format = format;
    engine->context = house_context();
    engine->device = engine_device(engine->context, 0);
    engine->layout = engine_layout(engine->context, &layer, 1);
    anykv_cache_options options = ANYKV_CACHE_OPTIONS_INIT;
    OK(anykv_cache_options_mode(mode, &options));
    options.max_step_tokens = 64;
    options.max_sequences = 2;
    anykv_estimate estimate = ANYKV_ESTIMATE_INIT;
    OK(anykv_cache_estimate(engine->device, engine->layout, &options, &estimate));
    options.budget_bytes = estimate.fixed_bytes + blocks * estimate.hot_block_bytes;
    OK(anykv_cache_create(engine->device, engine->layout, &options, &engine->cache));
}

/* Appends until nothing fits; blocks held in the end, most blocks lowered by one step's end. */
static uint32_t fill(struct engine *engine, anykv_seq *seq, uint32_t steps, uint64_t *most_out)
{
    *most_out = 0;
    for (uint32_t i = 0; i < steps; i++) {
        const uint32_t count = 16;
        uint64_t seeds[16];
        uint32_t tokens[16];
        for (uint32_t t = 0; t < 16; t++) {
            tokens[t] = i * 16 + t;
            seeds[t] = engine_chain(i * 16 + t, tokens[t]);
        }
        anykv_step *step;
        if (anykv_step_begin(engine->cache, &seq, &count, 1, &step))
            return i;
        OK(engine_append(step, seeds));
        const uint64_t before = engine_stats(engine->cache).blocks_lowered;
        OK(anykv_step_end(step, NULL, tokens));
        const uint64_t lowered = engine_stats(engine->cache).blocks_lowered - before;
        *most_out = lowered > *most_out ? lowered : *most_out;
        audit(engine->cache, "modes");
    }
    return steps;
}

static uint32_t held[6];
static uint64_t pace[6];
static anykv_stats seen[6];

static void use(anykv_mode mode)
{
    struct engine engine;
    start(&engine, mode, ANYKV_F16, 60);
    anykv_seq *seq = engine_seq(engine.cache);
    held[mode] = fill(&engine, seq, 300, &pace[mode]);
    seen[mode] = engine_stats(engine.cache);
    anykv_seq_destroy(seq);
    engine_stop(&engine);
}

Test(config, every_mode_has_its_effect, .timeout = 120)
{
    for (int mode = ANYKV_MODE_INFERENCE; mode <= ANYKV_MODE_INTERACTIVE; mode++)
        use((anykv_mode)mode);
    cr_expect(held[ANYKV_MODE_TRAINING] <= 60 && seen[ANYKV_MODE_TRAINING].blocks_lowered == 0,
              "training lowers nothing");
    cr_expect(held[ANYKV_MODE_INFERENCE] > 100 && seen[ANYKV_MODE_INFERENCE].rung_blocks[1] &&
                  !seen[ANYKV_MODE_INFERENCE].rung_blocks[2],
              "inference goes to N4 and no further");
    cr_expect(held[ANYKV_MODE_BULK] > held[ANYKV_MODE_INFERENCE] * 3 / 2 &&
                  seen[ANYKV_MODE_BULK].rung_blocks[2],
              "bulk holds most: %u, inference %u", held[ANYKV_MODE_BULK],
              held[ANYKV_MODE_INFERENCE]);
    cr_expect(pace[ANYKV_MODE_INTERACTIVE] <= 8 && pace[ANYKV_MODE_INTERACTIVE] > 0);
    cr_expect(pace[ANYKV_MODE_STREAMING] <= 16 && pace[ANYKV_MODE_STREAMING] > 0);
}

/* Streaming keeps a part of the pool free for what comes. */
Test(config, streaming_keeps_room)
{
    struct engine engine;
    uint64_t most;
    start(&engine, ANYKV_MODE_STREAMING, ANYKV_F16, 100);
    anykv_seq *seq = engine_seq(engine.cache);
    fill(&engine, seq, 200, &most);
    const struct akv_pool *pool = &engine.cache->pool;
    memset(engine.cache->need, 0, pool->classes * sizeof *engine.cache->need);
    cr_expect((double)akv_pool_least_chunks(pool, engine.cache->need, false) <=
              0.8 * pool->present + 1);
    anykv_seq_destroy(seq);
    engine_stop(&engine);
}

/* Training keeps every row exactly, although the layout says N4. */
Test(config, training_is_exact)
{
    struct engine engine;
    uint64_t most;
    start(&engine, ANYKV_MODE_TRAINING, ANYKV_N4, 60);
    anykv_seq *seq = engine_seq(engine.cache);
    cr_assert(fill(&engine, seq, 30, &most) == 30);
    float want[480 * 64], have[480 * 64];
    uint64_t seeds[480];
    for (uint32_t p = 0; p < 480; p++)
        seeds[p] = engine_chain(p, p);
    engine_rows(seeds, 480, 0, 1, 1, 64, want);
    const anykv_view view = anykv_view_host(have, ANYKV_F32, 1, 64);
    OK(anykv_seq_gather(seq, 0, 1, 0, 480, &view));
    cr_expect(memcmp(want, have, sizeof want) == 0, "rows changed");
    cr_expect(engine_stats(engine.cache).sealed_blocks == 0);
    anykv_seq_destroy(seq);
    engine_stop(&engine);
}

Test(config, modes_refuse_nonsense)
{
    anykv_cache_options options = ANYKV_CACHE_OPTIONS_INIT;
    options.budget_bytes = 12345;
    anykv_mode mode;
    REFUSED(ANYKV_E_ARG, "mode: 0", anykv_cache_options_mode((anykv_mode)0, &options));
    REFUSED(ANYKV_E_ARG, "options", anykv_cache_options_mode(ANYKV_MODE_BULK, NULL));
    OK(anykv_cache_options_mode(ANYKV_MODE_BULK, &options));
    cr_expect(options.budget_bytes == 12345 && options.recent == 32);
    options.size = 24; /* an older program's: what it does not have stays as it is */
    options.max_sequences = 7;
    OK(anykv_cache_options_mode(ANYKV_MODE_STREAMING, &options));
    cr_expect(options.recent == 256 && options.max_sequences == 7);
    options.size = 4;
    REFUSED(ANYKV_E_ARG, "options.size", anykv_cache_options_mode(ANYKV_MODE_BULK, &options));
    OK(anykv_mode_parse("streaming", &mode));
    cr_expect(mode == ANYKV_MODE_STREAMING);
    REFUSED(ANYKV_E_ARG, "\"fast\"", anykv_mode_parse("fast", &mode));
    REFUSED(ANYKV_E_ARG, "name", anykv_mode_parse(NULL, &mode));
    REFUSED(ANYKV_E_ARG, "mode_out", anykv_mode_parse("bulk", NULL));
}

/* ---- importer ---- */

static anykv_config config;
static anykv_config_field fields[64];
static uint32_t count;

static anykv_status import(const char *text)
{
    const anykv_config plain = ANYKV_CONFIG_INIT;
    config = plain;
    count = 64;
    return anykv_config_import(NULL, text, strlen(text), &config, fields, &count);
}

static const anykv_config_field *field(const char *name)
{
    for (uint32_t i = 0; i < count; i++)
        if (strcmp(fields[i].name, name) == 0)
            return &fields[i];
    cr_assert(false, "no field %s", name);
    return NULL;
}

#define VERDICT(name, want)                                                                        \
    cr_expect(field(name)->verdict == (want), "%s: verdict %d, %s", name, field(name)->verdict,    \
              field(name)->note)

Test(config, the_original_fields)
{
    OK(import("# as users write it\n"
              "kv_cache:\n"
              "  num_heads: 16\n  head_dim: 128\n  max_tokens: 16384\n  block_size: 256\n"
              "  cache_strategy: adaptive   # lru, lfu\n  cache_mode: 'inference'\n"
              "  use_compression: true\n  compression_ratio: 0.3\n  compression_method: svd\n"
              "  use_quantization: true\n  quantization_bits: 8\n  max_memory_mb: 8192\n"
              "  enable_gc: true\n  gc_threshold: 0.8\n  pin_memory: true\n  non_blocking: true\n"
              "  dtype: \"torch.bfloat16\"\n  adaptive_compression: true\n"
              "  adaptive_quantization: false\n  monitor_memory: true\n"
              "  enable_persistence: true\n  persistence_path: /data/kv_cache\n"
              "  enable_prefetch: false\n  prefetch_size: 8\n  enable_profiling: false\n"
              "  enable_distributed: false\n  distributed_backend: nccl\n  multi_tenant: false\n"
              "  tenant_isolation: true\n  enable_async: true\n  async_threads: 2\n"
              "  enable_warmup: false\n  warmup_samples: 100\n"));
    cr_expect(count == 33 && config.accepted + config.mapped + config.refused == 33);
    cr_expect(config.refused == 3, "%u refused", config.refused);
    VERDICT("compression_method", ANYKV_REFUSED);
    VERDICT("enable_persistence", ANYKV_REFUSED);
    VERDICT("persistence_path", ANYKV_REFUSED);
    VERDICT("enable_prefetch", ANYKV_ACCEPTED);
    VERDICT("compression_ratio", ANYKV_MAPPED);
    cr_expect(config.layer.kv_heads == 16 && config.layer.k_dim == 128 &&
              config.layer.hot_type == ANYKV_BF16 && config.layer.k_format == ANYKV_I8);
    cr_expect(config.block_tokens == 256 && config.threads == 2 &&
              config.mode == ANYKV_MODE_INFERENCE);
    const anykv_cache_options *o = &config.options;
    cr_expect(o->budget_bytes == (uint64_t)8192 << 20 && o->max_seq_tokens == 16384 &&
              o->policy == ANYKV_POLICY_ADAPTIVE);
    cr_expect(fabsf(o->high_watermark - 0.8f) < 1e-6f && fabsf(o->low_watermark - 0.78f) < 1e-6f);
    /* 0.3 of 16 bit is nearest to N4's bits: the rungs end there. */
    cr_expect(o->rungs[1] == ANYKV_N4 && o->rungs[2] == 0 && o->error_budget > 0.05f);
    /* What it gives is accepted by the library. */
    struct engine engine;
    engine.context = house_context();
    engine.device = engine_device(engine.context, 0);
    anykv_layout_options identity = ANYKV_LAYOUT_OPTIONS_INIT;
    identity.weights = "test";
    identity.weights_bytes = 4;
    identity.block_tokens = config.block_tokens;
    OK(anykv_layout_create(engine.context, &config.layer, 1, &identity, &engine.layout));
    anykv_estimate estimate = ANYKV_ESTIMATE_INIT;
    OK(anykv_cache_estimate(engine.device, engine.layout, o, &estimate));
    anykv_layout_destroy(engine.layout);
    anykv_device_close(engine.device);
    anykv_context_destroy(engine.context);
}

Test(config, json_and_plain_forms)
{
    OK(import("{\"kv_cache\": {\"dtype\": \"float32\", \"max_tokens\": 512,\n"
              " \"use_quantization\": true, \"quantization_bits\": 4}}\n"));
    cr_expect(count == 4 && config.layer.hot_type == ANYKV_F32 &&
              config.layer.k_format == ANYKV_N4 && config.options.max_seq_tokens == 512);
    OK(import("max_memory_mb: 100\ncache_mode: training\nadaptive_compression: true\n"));
    cr_expect(config.mode == ANYKV_MODE_TRAINING && config.options.error_budget == 0.0f &&
              config.options.recent == 1u << 28);
    VERDICT("adaptive_compression", ANYKV_REFUSED);
    OK(import("{}"));
    cr_expect(count == 0);
    OK(import(""));
    cr_expect(count == 0);
    OK(import("colour: blue\nblock_size: 17\ngc_threshold: 1.5\ncache_strategy: random\n"
              "head_dim: 63\ndtype: int8\nquantization_bits: 5\npin_memory: false\n"
              "max_tokens: -1\nuse_compression: maybe\ncache_mode: turbo\n"));
    cr_expect(config.refused == 11, "%u refused of %u", config.refused, count);
    cr_expect(strstr(field("colour")->note, "unknown"), "%s", field("colour")->note);
}

#define BAD(text, what) REFUSED(ANYKV_E_DATA, what, import(text))

Test(config, damaged_texts)
{
    BAD("a: 1\na: 2\n", "line 2: the name occurs twice");
    BAD("a: [1, 2]\n", "line 1");
    BAD("a: &x 1\n", "line 1");
    BAD("- a\n", "line 1");
    BAD("a: 'open\n", "quote");
    BAD("a: \"x\\n\"\n", "escapes");
    BAD("a: 1\n  b: 2\n", "line 2: the indentation");
    BAD("s:\n  a: 1\nb: 2\n", "line 3");
    BAD("\ta: 1\n", "tab");
    BAD("a:1\n", "line 1");
    BAD("{\"a\": 1", "brace");
    BAD("{\"a\": {\"b\": {}}}", "only strings");
    BAD("{\"a\": [1]}", "only strings");
    BAD("{\"a\": 1} x", "behind the object");
    BAD("{\"a\" 1}", "colon");
    BAD("{\"a\": \"\\u0041\"}", "escape");
    char large[200];
    memset(large, 'x', sizeof large);
    memcpy(large, "a: ", 3);
    large[199] = '\0';
    BAD(large, "too long");
    const anykv_config plain = ANYKV_CONFIG_INIT;
    config = plain;
    count = 64;
    REFUSED(ANYKV_E_DATA, "NUL", anykv_config_import(NULL, "a\0b", 3, &config, fields, &count));
    REFUSED(ANYKV_E_ARG, "text", anykv_config_import(NULL, NULL, 0, &config, fields, &count));
    REFUSED(ANYKV_E_ARG, "report", anykv_config_import(NULL, "", 0, &config, NULL, &count));
    count = 1;
    REFUSED(ANYKV_E_SHAPE, "2 fields",
            anykv_config_import(NULL, "a: 1\nb: 2\n", 10, &config, fields, &count));
    cr_expect(count == 2);
    config.size = 3;
    REFUSED(ANYKV_E_ARG, "size", anykv_config_import(NULL, "", 0, &config, fields, &count));
}

/* The file that users of the original have. */
Test(config, the_supplied_file)
{
    const char *data = getenv("ANYKV_TEST_DATA");
    if (!data)
        cr_skip_test("ANYKV_TEST_DATA is not set");
    char path[4096], text[8192];
    snprintf(path, sizeof path, "%s/seed-config.yaml", data);
    FILE *file = fopen(path, "rb");
    cr_assert(file, "%s", path);
    const size_t bytes = fread(text, 1, sizeof text - 1, file);
    fclose(file);
    text[bytes] = '\0';
    OK(import(text));
    cr_expect(count == 33, "%u fields", count);
    for (uint32_t i = 0; i < count; i++)
        cr_expect(strcmp(fields[i].note, "unknown name"), "%s is unknown", fields[i].name);
}
