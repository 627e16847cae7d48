/* SPDX-License-Identifier: Apache-2.0 */
/* Blocks compressed in place: the same rows and attention as of a cache that never did so, on every device;
 * shared, evicted, damaged and refused ones; budgets; and every failure. */
#include "engine.h"
#include "lib/cold.h"
#include <pthread.h>

#define ALL 300u

struct rig {
    struct engine engine;
    bool skipped;
};

static uint32_t layer_count = 3;

/* Two layer groups of BF16 rows; the second sees a window of `window` tokens. */
static void fill_layers(anykv_layer layers[3], uint32_t window, anykv_format format)
{
    for (uint32_t l = 0; l < 3; l++) {
        layers[l] = engine_layer(l == 1 ? 2 : 1, 64, l == 1 ? window : 0);
        layers[l].hot_type = ANYKV_BF16;
        layers[l].k_format = layers[l].v_format = format;
    }
}

static void rig_on(struct rig *rig, const char *name, uint32_t threads, bool staged, const anykv_layer *layers,
                   const anykv_cache_options *options)
{
    anykv_device_options device_options = ANYKV_DEVICE_OPTIONS_INIT;
    struct engine *engine = &rig->engine;
    device_options.threads = threads;
    memset(rig, 0, sizeof *rig);
    engine->context = house_context();
    if (anykv_device_open(engine->context, name, &device_options, &engine->device) != ANYKV_OK) {
        cr_assert(strcmp(name, "cpu") != 0, "%s", anykv_error_detail());
        printf("# skipped: %s\n", anykv_error_detail());
        anykv_context_destroy(engine->context);
        rig->skipped = true;
        return;
    }
    if (staged)
        engine_hide_host_memory(engine->device);
    engine->layout = engine_layout(engine->context, layers, layer_count);
    OK(anykv_cache_create(engine->device, engine->layout, options, &engine->cache));
}

static anykv_cache_options cold_options(uint64_t budget)
{
    anykv_cache_options options = engine_options(budget);
    options.flags = ANYKV_CACHE_COMPRESS;
    options.events = 4096;
    return options;
}

static void rig_start(struct rig *rig)
{
    anykv_layer layers[3];
    fill_layers(layers, 0, ANYKV_BF16);
    const anykv_cache_options options = cold_options(8u << 20);
    rig_on(rig, "cpu", 0, false, layers, &options);
}

static void rig_stop(struct rig *rig)
{
    if (rig->skipped)
        return;
    audit(rig->engine.cache, "at the end");
    engine_stop(&rig->engine);
}

static anykv_compress_info compress(anykv_seq *seq)
{
    anykv_compress_info info = ANYKV_COMPRESS_INFO_INIT;
    OK(anykv_seq_compress(seq, ANYKV_COMPRESS_BX16, 0, UINT64_MAX, &info));
    audit(seq->cache, "after compressing");
    return info;
}

/* The sequence's rows of all layers, bits as they are. */
static void all_rows(const anykv_seq *seq, uint16_t *rows)
{
    const anykv_layout *layout = seq->cache->layout;
    const uint64_t tokens = engine_length(seq);
    for (uint32_t l = 0; l < layout->count; l++)
        for (int side = 0; side < 2; side++) {
            const uint32_t heads = layout->layers[l].kv_heads;
            const uint64_t first = akv_first_visible(seq->cache, layout->places[l].group, (uint32_t)tokens) * 16u;
            const anykv_view view = anykv_view_host(rows, ANYKV_BF16, heads, 64);
            OK(anykv_seq_gather(seq, l, side, first, tokens - first, &view));
            rows += tokens * heads * 64;
        }
}

static size_t rows_bytes(void)
{
    return 2u * (1 + 2 + 1) * 1024u * 64u * 2u;
}

static void expect_same(const anykv_seq *seq, const anykv_seq *twin, const char *when)
{
    uint16_t *a = calloc(1, rows_bytes()), *b = calloc(1, rows_bytes());
    all_rows(seq, a);
    all_rows(twin, b);
    cr_assert(memcmp(a, b, rows_bytes()) == 0, "%s: rows differ", when);
    free(a);
    free(b);
}

/* One step of `count` tokens; the attention of every layer. */
static void step_and_attend(anykv_seq *seq, uint32_t count, float *out)
{
    uint32_t tokens[64];
    uint64_t seeds[64];
    const uint64_t length = engine_length(seq);
    anykv_step *step;
    for (uint32_t i = 0; i < count; i++) {
        tokens[i] = (uint32_t)length + i;
        seeds[i] = engine_chain(length + i, tokens[i]);
    }
    OK(anykv_step_begin(seq->cache, &seq, &count, 1, &step));
    OK(engine_append(step, seeds));
    for (uint32_t l = 0; l < layer_count; l++) {
        const uint32_t heads = seq->cache->layout->layers[l].q_heads;
        float *q = malloc((size_t)count * heads * 64 * sizeof *q);
        for (size_t i = 0; i < (size_t)count * heads * 64; i++)
            q[i] = (float)((int)(i * 2654435761u >> 20 & 63) - 32) / 256.0f;
        const anykv_view q_view = anykv_view_host(q, ANYKV_F32, heads, 64);
        const anykv_view o_view = anykv_view_host(out, ANYKV_F32, heads, 64);
        OK(anykv_step_attend(step, l, &q_view, NULL, &o_view));
        out += (size_t)count * heads * 64;
        free(q);
    }
    OK(anykv_step_end(step, NULL, tokens));
    audit(seq->cache, "after a step");
}

/* ---- the same as a twin that is never compressed ---- */

static void twin_on(const char *name, uint32_t threads, bool staged, uint32_t window, anykv_format format)
{
    anykv_layer layers[3];
    struct rig a, b;
    fill_layers(layers, window, format);
    anykv_cache_options options = cold_options(16u << 20);
    rig_on(&a, name, threads, staged, layers, &options);
    if (a.skipped)
        return;
    options.flags = 0;
    rig_on(&b, name, threads, staged, layers, &options);
    anykv_seq *seq = engine_seq(a.engine.cache), *twin = engine_seq(b.engine.cache);
    float *out = calloc(2, 64 * 8 * 64 * sizeof *out), *other = out + 64 * 8 * 64;
    for (uint32_t at = 0; at < ALL; at += 60) {
        engine_run(seq, at, 60);
        engine_run(twin, at, 60);
        const anykv_compress_info info = compress(seq);
        cr_assert(info.blocks > 0 && info.bytes < info.plain_bytes * 4 / 5, "%llu blocks, %llu of %llu bytes",
                  (unsigned long long)info.blocks, (unsigned long long)info.bytes,
                  (unsigned long long)info.plain_bytes);
        if (at % 120 == 0)
            expect_same(seq, twin, "gathered after compressing");
        for (uint32_t i = 0; i < 3; i++) {
            step_and_attend(seq, 5, out);
            step_and_attend(twin, 5, other);
            cr_assert(memcmp(out, other, 64 * 8 * 64 * sizeof *out) == 0, "%s: attention differs at %u", name, at);
        }
        expect_same(seq, twin, "after steps");
    }
    compress(seq);
    uint8_t *packed = calloc(2, 1u << 16);
    for (uint32_t p = 0; p < ALL; p += 16) {
        uint64_t bytes = 1u << 16, twin_bytes = 1u << 16;
        uint32_t kind, twin_kind;
        OK(anykv_seq_gather_packed(seq, 0, p, packed, &bytes, &kind));
        OK(anykv_seq_gather_packed(twin, 0, p, packed + (1u << 16), &twin_bytes, &twin_kind));
        cr_assert(bytes == twin_bytes && kind == twin_kind && memcmp(packed, packed + (1u << 16), bytes) == 0,
                  "block of %u as stored", p);
    }
    const anykv_stats stats = engine_stats(a.engine.cache);
    const anykv_method_stats *method = &stats.compressed[ANYKV_COMPRESS_BX16 - 1];
    cr_expect(method->blocks_compressed == method->blocks_read_back + method->blocks, "counts");
    cr_expect(method->blocks_read_back > 30 && method->bytes_saved > 0);
    free(packed);
    free(out);
    anykv_seq_destroy(seq);
    anykv_seq_destroy(twin);
    rig_stop(&a);
    rig_stop(&b);
}

Test(cold, as_a_twin_without)
{
    twin_on("cpu", 0, false, 0, ANYKV_BF16);
    twin_on("cpu", 0, false, 70, ANYKV_BF16);
    twin_on("cpu", 2, false, 70, ANYKV_BF16);
    twin_on("cpu", 0, true, 0, ANYKV_BF16);
}
/* Only sinks and the recent blocks are of BF16 rows, the others are packed and passed over. */
Test(cold, beside_packed_blocks)
{
    twin_on("cpu", 0, false, 70, ANYKV_N4);
}
Test(cold, opencl, .timeout = 300)
{
    twin_on("opencl", 0, false, 70, ANYKV_BF16);
}
Test(cold, cuda)
{
    twin_on("cuda", 0, false, 70, ANYKV_BF16);
}

/* ---- what is shared ---- */

Test(cold, forks_and_matches_share)
{
    struct rig rig, plain;
    rig_start(&rig);
    rig_start(&plain);
    anykv_cache *cache = rig.engine.cache;
    anykv_seq *seq = engine_seq(cache), *twin = engine_seq(plain.engine.cache), *copy, *late;
    uint32_t tokens[ALL];
    uint64_t matched;
    float out[64 * 8 * 64];
    for (uint32_t i = 0; i < ALL; i++)
        tokens[i] = i;
    for (uint32_t at = 0; at < 240; at += 60) {
        engine_run(seq, at, 60);
        engine_run(twin, at, 60);
    }
    OK(anykv_seq_fork(seq, &copy));
    const anykv_compress_info info = compress(seq);
    cr_expect(info.blocks == 30, "%llu blocks of two layer groups", (unsigned long long)info.blocks);
    cr_expect(compress(copy).blocks == 0, "what is shared is compressed once");
    late = engine_seq(cache);
    OK(anykv_seq_match(late, tokens, 241, &matched));
    cr_expect(matched == 240);
    anykv_stats stats = engine_stats(cache);
    cr_expect(stats.compressed_blocks == 30, "matching reads nothing back");
    cr_expect(stats.hot_blocks == 0 && stats.hot_bytes == 0);
    step_and_attend(copy, 3, out);
    stats = engine_stats(cache);
    cr_expect(stats.compressed_blocks == 0 && stats.compressed[0].blocks_read_back == 30);
    expect_same(seq, twin, "the first");
    expect_same(late, twin, "the late one");
    compress(late);
    anykv_seq_destroy(late);
    anykv_seq_destroy(seq);
    OK(anykv_seq_trim(copy, 240));
    expect_same(copy, twin, "the copy");
    compress(copy);
    OK(anykv_seq_trim(copy, 230)); /* inside a compressed block of 16-bit rows */
    OK(anykv_seq_trim(twin, 230));
    expect_same(copy, twin, "cut");
    step_and_attend(copy, 10, out);
    step_and_attend(twin, 10, out);
    expect_same(copy, twin, "continued");
    anykv_seq_destroy(copy);
    anykv_seq_destroy(twin);
    rig_stop(&rig);
    rig_stop(&plain);
}

Test(cold, cached_blocks)
{
    struct rig rig;
    rig_start(&rig);
    anykv_cache *cache = rig.engine.cache;
    anykv_seq *seq = engine_seq(cache);
    uint32_t tokens[ALL];
    uint64_t matched, count = 256, lost;
    anykv_compress_info info = ANYKV_COMPRESS_INFO_INIT;
    anykv_block_event *events = calloc(256, sizeof *events);
    for (uint32_t i = 0; i < ALL; i++)
        tokens[i] = i;
    for (uint32_t at = 0; at < 240; at += 60)
        engine_run(seq, at, 60);
    OK(anykv_cache_compress(cache, ANYKV_COMPRESS_BX16, UINT64_MAX, &info));
    cr_expect(info.blocks == 0, "a sequence holds them");
    anykv_seq_destroy(seq);
    OK(anykv_cache_compress(cache, ANYKV_COMPRESS_BX16, 5, &info));
    cr_expect(info.blocks == 5);
    OK(anykv_cache_compress(cache, ANYKV_COMPRESS_BX16, UINT64_MAX, &info));
    cr_expect(info.blocks == 25 && info.plain_bytes > 12u * 16 * 4 * 2 * 64 * 2);
    audit(cache, "all compressed");
    anykv_stats stats = engine_stats(cache);
    cr_expect(stats.cached_blocks == 30 && stats.compressed_blocks == 30);
    cr_expect(stats.compressed_bytes == stats.compressed[0].bytes &&
              stats.compressed_bytes < stats.compressed[0].plain_bytes * 4 / 5);
    OK(anykv_cache_events(cache, events, NULL, &count, &lost));
    uint32_t seen = 0;
    for (uint64_t i = 0; i < count; i++)
        seen += events[i].type == ANYKV_BLOCK_COMPRESSED && events[i].kind == 0;
    cr_expect(seen == 30, "%u events", seen);
    seq = engine_seq(cache);
    OK(anykv_seq_match(seq, tokens, 100, &matched));
    cr_expect(matched == 96);
    engine_run(seq, 96, 1);
    stats = engine_stats(cache);
    cr_expect(stats.compressed_blocks == 18, "the rest stays compressed: %llu",
              (unsigned long long)stats.compressed_blocks);
    anykv_seq_destroy(seq);
    OK(anykv_cache_trim_memory(cache));
    audit(cache, "trimmed");
    stats = engine_stats(cache);
    cr_expect(stats.used_bytes == stats.fixed_bytes && stats.compressed_blocks == 0 && stats.cached_blocks == 0);
    free(events);
    rig_stop(&rig);
}

/* ---- the budget ---- */

/* A pool of `blocks` 16-bit blocks. */
static uint64_t budget_of(const anykv_layer *layers, anykv_cache_options *options, uint32_t blocks)
{
    anykv_context *context = house_context();
    anykv_device *device = house_device(context, 0);
    anykv_layout *layout = engine_layout(context, layers, layer_count);
    anykv_estimate estimate = ANYKV_ESTIMATE_INIT;
    OK(anykv_cache_estimate(device, layout, options, &estimate));
    options->budget_bytes = estimate.fixed_bytes + blocks * estimate.hot_block_bytes;
    anykv_layout_destroy(layout);
    anykv_device_close(device);
    anykv_context_destroy(context);
    return options->budget_bytes;
}

/* How many of 8 texts of 160 tokens a pool of 48 blocks keeps. */
static uint32_t texts_kept(uint32_t flags, bool compressing)
{
    struct rig rig;
    anykv_layer layers[3];
    fill_layers(layers, 0, ANYKV_BF16);
    anykv_cache_options options = cold_options(8u << 20);
    options.policy = ANYKV_POLICY_LRU;
    options.flags = flags;
    const uint64_t budget = budget_of(layers, &options, 48);
    rig_on(&rig, "cpu", 0, false, layers, &options);
    anykv_cache *cache = rig.engine.cache;
    uint32_t kept = 0;
    for (uint32_t text = 0; text < 8; text++) {
        anykv_seq *seq = engine_seq(cache);
        engine_run(seq, text * 1000, 100);
        engine_run(seq, text * 1000 + 100, 60);
        anykv_seq_destroy(seq);
        if (compressing)
            OK(anykv_cache_compress(cache, ANYKV_COMPRESS_BX16, UINT64_MAX, NULL));
        audit(cache, "a text");
        const anykv_stats stats = engine_stats(cache);
        cr_assert(stats.used_bytes <= budget && stats.peak_bytes <= budget);
        if (flags & ANYKV_CACHE_COMPRESS_CACHED)
            cr_assert(stats.blocks_evicted == 0 || stats.compressed[0].blocks_ahead > 40,
                      "%llu blocks evicted, %llu compressed", (unsigned long long)stats.blocks_evicted,
                      (unsigned long long)stats.compressed[0].blocks_ahead);
    }
    anykv_seq_options public = ANYKV_SEQ_OPTIONS_INIT;
    public.flags = ANYKV_SEQ_PUBLIC;
    for (uint32_t text = 0; text < 8; text++) {
        uint32_t tokens[161];
        uint64_t matched;
        for (uint32_t i = 0; i < 161; i++)
            tokens[i] = text * 1000 + i;
        OK(anykv_cache_lookup(cache, &public, tokens, 161, &matched));
        kept += matched == 160;
    }
    rig_stop(&rig);
    return kept;
}

Test(cold, more_fits_into_the_same_budget)
{
    const uint32_t plain = texts_kept(ANYKV_CACHE_COMPRESS, false), cold = texts_kept(ANYKV_CACHE_COMPRESS, true);
    const uint32_t ahead = texts_kept(ANYKV_CACHE_COMPRESS_CACHED, false);
    fprintf(stderr, "# texts kept: %u, compressed %u, under pressure %u\n", plain, cold, ahead);
    cr_expect(cold > plain, "%u texts of 8 are kept compressed, %u as they are", cold, plain);
    cr_expect(ahead > plain, "%u texts of 8 are kept under pressure, %u as they are", ahead, plain);
}

/* What is read back has to fit; if it does not, nothing changes. */
Test(cold, no_room_to_read_back)
{
    struct rig rig;
    anykv_layer layers[3];
    fill_layers(layers, 0, ANYKV_BF16);
    anykv_cache_options options = cold_options(8u << 20);
    budget_of(layers, &options, 40);
    rig_on(&rig, "cpu", 0, false, layers, &options);
    anykv_cache *cache = rig.engine.cache;
    anykv_seq *a = engine_seq(cache), *b = engine_seq(cache);
    uint32_t one = 1, refused = 0;
    anykv_step *step;
    for (uint32_t at = 0; at < 300; at += 100)
        engine_run(a, at, 100);
    compress(a);
    for (uint32_t at = 0; at < 1000; at += 16) {
        uint32_t count = 16, tokens[16];
        uint64_t seeds[16];
        for (uint32_t i = 0; i < 16; i++) {
            tokens[i] = 5000 + at + i;
            seeds[i] = engine_chain(at + i, tokens[i]);
        }
        const anykv_status status = anykv_step_begin(cache, &b, &count, 1, &step);
        if (status == ANYKV_E_BUDGET)
            break;
        OK(status);
        OK(engine_append(step, seeds));
        OK(anykv_step_end(step, NULL, tokens));
    }
    const uint64_t before = engine_stats(cache).compressed_blocks;
    REFUSED(ANYKV_E_BUDGET, "budget_bytes", anykv_step_begin(cache, &a, &one, 1, &step));
    refused++;
    audit(cache, "refused");
    cr_expect(engine_stats(cache).compressed_blocks == before, "nothing was read back");
    anykv_seq_destroy(b);
    float out[64 * 8 * 64];
    step_and_attend(a, 1, out);
    cr_expect(engine_stats(cache).compressed_blocks == 0 && refused == 1);
    anykv_seq_destroy(a);
    rig_stop(&rig);
}

Test(cold, a_tenants_limit_holds)
{
    struct rig rig;
    rig_start(&rig);
    anykv_cache *cache = rig.engine.cache;
    anykv_tenant_options tenant = ANYKV_TENANT_OPTIONS_INIT; /* the public sequences */
    const uint64_t block = 16u * 4 * 2 * 64 * 2;
    tenant.limit_bytes = 20 * block;
    OK(anykv_cache_set_tenant(cache, &tenant));
    anykv_seq *a = engine_seq(cache), *b = engine_seq(cache);
    anykv_step *step;
    uint32_t one = 1;
    uint64_t bytes;
    engine_run(a, 0, 128);
    engine_run(a, 128, 112);
    compress(a);
    OK(anykv_cache_tenant_bytes(cache, NULL, 0, &bytes));
    cr_expect(bytes == engine_stats(cache).compressed_bytes, "%llu bytes", (unsigned long long)bytes);
    engine_run(b, 1000, 128);
    REFUSED(ANYKV_E_BUDGET, "limit_bytes", anykv_step_begin(cache, &a, &one, 1, &step));
    audit(cache, "refused");
    anykv_seq_destroy(b);
    float out[64 * 8 * 64];
    step_and_attend(a, 1, out);
    OK(anykv_cache_tenant_bytes(cache, NULL, 0, &bytes));
    cr_expect(bytes >= 16 * block && bytes <= tenant.limit_bytes, "%llu bytes", (unsigned long long)bytes);
    anykv_seq_destroy(a);
    rig_stop(&rig);
}

/* ---- what cannot be compressed ---- */

Test(cold, refused)
{
    struct rig rig;
    anykv_layer layers[3];
    anykv_cache_options options = cold_options(8u << 20);
    anykv_compress_info info = ANYKV_COMPRESS_INFO_INIT;
    fill_layers(layers, 0, ANYKV_F16);
    for (uint32_t l = 0; l < 3; l++)
        layers[l].hot_type = ANYKV_F16;
    rig_on(&rig, "cpu", 0, false, layers, &options);
    anykv_seq *seq = engine_seq(rig.engine.cache);
    REFUSED(ANYKV_E_UNSUPPORTED, "F16", anykv_seq_compress(seq, ANYKV_COMPRESS_BX16, 0, UINT64_MAX, &info));
    REFUSED(ANYKV_E_ARG, "method", anykv_seq_compress(seq, (anykv_compression)0, 0, UINT64_MAX, &info));
    REFUSED(ANYKV_E_UNSUPPORTED, "in place", anykv_seq_compress(seq, (anykv_compression)2, 0, UINT64_MAX, &info));
    REFUSED(ANYKV_E_ARG, "method", anykv_cache_compress(rig.engine.cache, (anykv_compression)77, 1, &info));
    REFUSED(ANYKV_E_ARG, "seq", anykv_seq_compress(NULL, ANYKV_COMPRESS_BX16, 0, 1, NULL));
    REFUSED(ANYKV_E_ARG, "cache", anykv_cache_compress(NULL, ANYKV_COMPRESS_BX16, 1, NULL));
    info.size = 4;
    REFUSED(ANYKV_E_ARG, "size", anykv_seq_compress(seq, ANYKV_COMPRESS_BX16, 0, UINT64_MAX, &info));
    anykv_seq_destroy(seq);
    rig_stop(&rig);
    fill_layers(layers, 0, ANYKV_BF16);
    options.flags = 0;
    rig_on(&rig, "cpu", 0, false, layers, &options);
    seq = engine_seq(rig.engine.cache);
    REFUSED(ANYKV_E_STATE, "ANYKV_CACHE_COMPRESS", anykv_seq_compress(seq, ANYKV_COMPRESS_BX16, 0, 1, NULL));
    anykv_seq_destroy(seq);
    rig_stop(&rig);
}

/* Blocks of open steps, partial ones and parts of blocks are passed over. */
Test(cold, passed_over)
{
    struct rig rig;
    rig_start(&rig);
    anykv_cache *cache = rig.engine.cache;
    anykv_seq *seq = engine_seq(cache), *copy;
    anykv_compress_info info = ANYKV_COMPRESS_INFO_INIT;
    uint32_t one = 1;
    anykv_step *step;
    engine_run(seq, 0, 100);
    OK(anykv_seq_fork(seq, &copy));
    OK(anykv_step_begin(cache, &copy, &one, 1, &step));
    OK(anykv_seq_compress(seq, ANYKV_COMPRESS_BX16, 0, UINT64_MAX, &info));
    cr_expect(info.blocks == 0 && info.busy == 12, "%llu busy", (unsigned long long)info.busy);
    REFUSED(ANYKV_E_STATE, "step", anykv_seq_compress(copy, ANYKV_COMPRESS_BX16, 0, UINT64_MAX, &info));
    audit(cache, "in a step");
    anykv_step_cancel(step);
    OK(anykv_seq_compress(seq, ANYKV_COMPRESS_BX16, 17, 46, &info)); /* 17 … 62: block 2 is whole */
    cr_expect(info.blocks == 2 && info.busy == 0, "%llu blocks", (unsigned long long)info.blocks);
    OK(anykv_seq_compress(seq, ANYKV_COMPRESS_BX16, 1000, 46, &info));
    cr_expect(info.blocks == 0);
    OK(anykv_seq_compress(seq, ANYKV_COMPRESS_BX16, UINT64_MAX, UINT64_MAX, NULL));
    cr_expect(compress(seq).blocks == 10, "the last, partial one stays");
    anykv_seq_destroy(copy);
    anykv_seq_destroy(seq);
    rig_stop(&rig);
}

/* Rows of random bits do not become smaller, and stay. */
Test(cold, what_does_not_shrink_stays)
{
    struct rig rig;
    rig_start(&rig);
    anykv_cache *cache = rig.engine.cache;
    anykv_seq *seq = engine_seq(cache);
    static uint16_t k[48 * 2 * 64], v[48 * 2 * 64];
    uint64_t random = 5;
    uint32_t count = 48;
    anykv_step *step;
    OK(anykv_step_begin(cache, &seq, &count, 1, &step));
    for (uint32_t l = 0; l < layer_count; l++) {
        const uint32_t heads = cache->layout->layers[l].kv_heads;
        for (uint32_t i = 0; i < 48 * heads * 64; i++) {
            k[i] = (uint16_t)house_random(&random);
            v[i] = (uint16_t)house_random(&random);
        }
        const anykv_view k_view = anykv_view_host(k, ANYKV_BF16, heads, 64);
        const anykv_view v_view = anykv_view_host(v, ANYKV_BF16, heads, 64);
        OK(anykv_step_append(step, l, &k_view, &v_view));
    }
    OK(anykv_step_end(step, NULL, NULL));
    const anykv_compress_info info = compress(seq);
    cr_expect(info.blocks == 0 && info.grown == 6 && engine_stats(cache).compressed[0].grown == 6);
    static uint16_t back[48 * 64];
    const anykv_view view = anykv_view_host(back, ANYKV_BF16, 1, 64);
    OK(anykv_seq_gather(seq, 2, 1, 0, 48, &view));
    cr_expect(memcmp(back, v, sizeof back) == 0, "bits as they were, NaN included");
    anykv_seq_destroy(seq);
    rig_stop(&rig);
}

/* Rows that say little or are strange: bit for bit after compressing and reading back, in fewer pages where they say
 * little, in their place where BX16 would grow.  Blocks are 16 tokens of three layers in two groups. */
Test(cold, adversarial_rows)
{
    enum kind { ZERO, CONSTANT, OUTLIER, NANS, ONE_TOKEN, ONE_CHANNEL, ESCAPES, KINDS };
    enum { TOKENS = 48, MOST = TOKENS * 2 * 64 };
    static uint16_t rows[3][2][MOST], back[MOST];
    for (int kind = 0; kind < KINDS; kind++) {
        struct rig rig;
        rig_start(&rig);
        anykv_cache *cache = rig.engine.cache;
        anykv_seq *seq = engine_seq(cache);
        uint64_t random = 9;
        uint32_t count = TOKENS;
        anykv_step *step;
        OK(anykv_step_begin(cache, &seq, &count, 1, &step));
        for (uint32_t l = 0; l < 3; l++) {
            const uint32_t heads = cache->layout->layers[l].kv_heads, wide = heads * 64;
            anykv_view view[2];
            for (uint32_t side = 0; side < 2; side++) {
                for (uint32_t i = 0; i < TOKENS * wide; i++) {
                    const uint16_t usual = (uint16_t)(0x3F80u | (house_random(&random) & 0x7Fu));
                    const uint16_t value[KINDS] = {0, 0x3F9Du, i == TOKENS * wide / 2 ? 0x7F7Fu : usual,
                                                   i % 5 ? usual : (uint16_t)(0x7FC1u + i % 7), i / wide == 17 ? usual : 0,
                                                   i % 64 == 5 ? usual : 0,
                                                   i % 64 == 9 ? (uint16_t)(i / 64 % 40 << 7) : usual};
                    rows[l][side][i] = value[kind];
                }
                view[side] = anykv_view_host(rows[l][side], ANYKV_BF16, heads, 64);
            }
            OK(anykv_step_append(step, l, &view[0], &view[1]));
        }
        OK(anykv_step_end(step, NULL, NULL));
        const anykv_compress_info info = compress(seq);
        cr_expect(info.blocks == 6 && info.grown == 0, "kind %d: %llu blocks, %llu as they were", kind,
                  (unsigned long long)info.blocks, (unsigned long long)info.grown);
        cr_expect(info.bytes * 5 < info.plain_bytes * 4, "kind %d: %llu of %llu bytes", kind, (unsigned long long)info.bytes,
                  (unsigned long long)info.plain_bytes);
        for (uint32_t l = 0; l < 3; l++)
            for (uint32_t side = 0; side < 2; side++) {
                const uint32_t heads = cache->layout->layers[l].kv_heads;
                const anykv_view view = anykv_view_host(back, ANYKV_BF16, heads, 64);
                OK(anykv_seq_gather(seq, l, (int)side, 0, TOKENS, &view));
                cr_assert(memcmp(back, rows[l][side], TOKENS * heads * 64 * 2) == 0, "kind %d, layer %u, side %u", kind, l,
                          side);
            }
        const anykv_method_stats stats = engine_stats(cache).compressed[0];
        cr_expect(stats.blocks_damaged == 0 && stats.bytes_saved == info.plain_bytes - info.bytes, "kind %d", kind);
        anykv_seq_destroy(seq);
        rig_stop(&rig);
    }
}

/* Behind a body its last page is zero: in the room where it was made another tenant's bytes may have been. */
Test(cold, nothing_of_others_behind_a_body)
{
    static uint8_t page[1 << 16];
    uint32_t looked = 0;
    struct rig rig;
    rig_start(&rig);
    anykv_cache *cache = rig.engine.cache;
    struct akv_queue *queue = rig.engine.device->queue;
    anykv_seq *seq = engine_seq(cache);
    engine_run(seq, 0, 96);
    const struct akv_cold_room room = akv_cold_room(cache->layout);
    OK(akv_queue_fill(queue, akv_cold_span(cache, room.body, room.bytes - room.body), 0x5A));
    compress(seq);
    for (uint32_t id = 0; id < cache->pool.block_capacity; id++) {
        const struct akv_block *block = &cache->pool.blocks[id];
        uint32_t last = id, pages = 1;
        if (!block->refs || !block->method)
            continue;
        for (; cache->pool.blocks[last].more != AKV_NO_ID; pages++)
            last = cache->pool.blocks[last].more;
        const struct akv_span span = akv_block_span(cache, last);
        cr_assert(span.bytes <= sizeof page);
        OK(akv_queue_get(queue, page, span));
        OK(akv_queue_wait(queue, UINT64_MAX));
        for (uint64_t i = block->packed_bytes - (pages - 1) * span.bytes; i < span.bytes; i++, looked++)
            cr_assert(page[i] == 0, "block %u, byte %llu of the last of %u pages", id, (unsigned long long)i, pages);
    }
    cr_expect(looked > 0);
    anykv_seq_destroy(seq);
    rig_stop(&rig);
}

/* ---- damage ---- */

/* Changed bytes anywhere: an error and a miss, or (in padding) the rows as they were; never other rows. */
Test(cold, damaged)
{
    struct rig rig, plain;
    rig_start(&rig);
    rig_start(&plain);
    anykv_cache *cache = rig.engine.cache;
    anykv_seq_options public = ANYKV_SEQ_OPTIONS_INIT;
    public.flags = ANYKV_SEQ_PUBLIC;
    anykv_seq *twin = engine_seq(plain.engine.cache);
    uint32_t tokens[100], found = 0, tries = 0, one = 1;
    engine_run(twin, 0, 96);
    for (uint32_t i = 0; i < 100; i++)
        tokens[i] = i;
    for (uint32_t at = 3; at < 20000; at += 611, tries++) {
        anykv_seq *seq = engine_seq(cache);
        anykv_step *step;
        uint64_t matched;
        engine_run(seq, 0, 96);
        compress(seq);
        const uint32_t id = akv_seq_table(seq, 0)[3];
        const struct akv_block *block = akv_pool_block(&cache->pool, id);
        const uint32_t page = cache->pool.class_[akv_pool_class_of(block)].block_bytes;
        uint32_t here = at % block->packed_bytes, hit = id;
        for (; here >= page; here -= page)
            hit = cache->pool.blocks[hit].more;
        const uint64_t address = akv_pool_address(&cache->pool, 0, cache->pool.blocks[hit].entry);
        ((uint8_t *)akv_mem_map(cache->slab[AKV_ADDR_SLAB(address)]))[AKV_ADDR_OFFSET(address) + here] ^= 1u << at % 8;
        const anykv_status status = anykv_step_begin(cache, &seq, &one, 1, &step);
        audit(cache, "damaged");
        if (status) {
            found++;
            cr_assert(status == ANYKV_E_DATA && strstr(anykv_error_detail(), "from 48 is damaged"), "%s",
                      anykv_error_detail());
            OK(anykv_cache_lookup(cache, &public, tokens, 97, &matched));
            cr_assert(matched == 48, "matched %llu", (unsigned long long)matched);
            cr_assert(anykv_step_begin(cache, &seq, &one, 1, &step) == ANYKV_E_DATA, "again");
        } else {
            anykv_step_cancel(step);
            expect_same(seq, twin, "not noticed");
        }
        anykv_seq_destroy(seq);
        OK(anykv_cache_trim_memory(cache));
    }
    cr_expect(found > tries * 9 / 10, "%u of %u changes were found", found, tries);
    cr_expect(engine_stats(cache).compressed[0].blocks_damaged >= found);
    anykv_seq_destroy(twin);
    rig_stop(&rig);
    rig_stop(&plain);
}

/* ---- failures ---- */

/* Compress, read back by a step and by gather, compress the cached ones, evict; the first failure.  Rows
 * that can be read are right. */
static anykv_status everything(void)
{
    anykv_context *context;
    anykv_device *device = NULL;
    anykv_layout *layout = NULL;
    anykv_cache *cache = NULL;
    anykv_seq *seq = NULL, *copy = NULL;
    anykv_layer layers[3];
    uint64_t seeds[100];
    uint32_t tokens[100], one = 1, count = 90;
    anykv_step *step;
    static float rows[90 * 64];
    fill_layers(layers, 40, ANYKV_BF16);
    for (uint32_t i = 0; i < 100; i++) {
        tokens[i] = i;
        seeds[i] = engine_chain(i, i);
    }
    anykv_status status = anykv_context_create(NULL, &context);
    if (status)
        return status;
    anykv_device_options device_options = ANYKV_DEVICE_OPTIONS_INIT;
    device_options.threads = 0;
    anykv_layout_options layout_options = ANYKV_LAYOUT_OPTIONS_INIT;
    layout_options.weights = "w";
    layout_options.weights_bytes = 1;
    const anykv_cache_options options = cold_options(2u << 20);
    const anykv_seq_options identity = {sizeof identity, ANYKV_SEQ_PUBLIC, NULL, 0, NULL, 0, 0};
    status = anykv_device_open(context, "cpu", &device_options, &device);
    if (!status)
        status = anykv_layout_create(context, layers, 3, &layout_options, &layout);
    if (!status)
        status = anykv_cache_create(device, layout, &options, &cache);
    if (!status)
        status = anykv_seq_create(cache, &identity, &seq);
    if (!status)
        status = anykv_step_begin(cache, &seq, &count, 1, &step);
    if (!status) {
        status = engine_append(step, seeds);
        if (status)
            anykv_step_cancel(step);
        else
            status = anykv_step_end(step, NULL, tokens);
    }
    if (!status)
        status = anykv_seq_compress(seq, ANYKV_COMPRESS_BX16, 0, UINT64_MAX, NULL);
    if (!status)
        status = anykv_seq_fork(seq, &copy);
    if (!status)
        status = anykv_step_begin(cache, &copy, &one, 1, &step);
    if (!status) {
        status = engine_append(step, seeds + 90);
        if (status)
            anykv_step_cancel(step);
        else
            status = anykv_step_end(step, NULL, tokens + 90);
    }
    if (!status)
        status = anykv_seq_compress(seq, ANYKV_COMPRESS_BX16, 0, UINT64_MAX, NULL);
    const anykv_view view = anykv_view_host(rows, ANYKV_F32, 1, 64);
    for (int twice = 0; cache && seq && twice < 2; twice++) {
        const anykv_status gathered = anykv_seq_gather(seq, 0, 1, 0, 90, &view);
        for (uint32_t i = 0; !gathered && i < 90 * 64; i++)
            cr_assert(rows[i] == engine_value(seeds[i / 64], 0, 1, 0, i % 64), "row %u", i / 64);
        status = status ? status : gathered;
    }
    anykv_seq_destroy(seq);
    anykv_seq_destroy(copy);
    if (!status)
        status = anykv_cache_compress(cache, ANYKV_COMPRESS_BX16, UINT64_MAX, NULL);
    if (!status)
        status = anykv_cache_set_budget(cache, cache->budget_bytes - cache->slab_bytes[cache->slabs - 1]);
    if (!status)
        status = anykv_cache_wait(cache, UINT64_MAX);
    if (cache) {
        akv_alloc_fail_at(0, false);
        audit(cache, "after a failure");
    }
    anykv_cache_destroy(cache);
    anykv_layout_destroy(layout);
    anykv_device_close(device);
    anykv_context_destroy(context);
    return status;
}

Test(cold, each_allocation_fails_once, .timeout = 120)
{
    OK(everything()); /* lists that live as long as the process */
    house_fail_allocations("compressed blocks", everything);
}

Test(cold, each_backend_call_fails_once, .timeout = 240)
{
    static const anykv_status codes[] = {ANYKV_E_DEVICE, ANYKV_E_MEMORY};
    OK(everything());
    const uint64_t live = akv_alloc_live();
    akv_fault_at(0, ANYKV_OK, false);
    OK(everything());
    const uint64_t sites = akv_fault_count();
    for (uint64_t n = 1; n <= sites; n++)
        for (int how = 0; how < 4; how++) {
            akv_fault_at(n, codes[how / 2], how % 2);
            const anykv_status status = everything();
            akv_fault_at(0, ANYKV_OK, false);
            cr_assert(status == codes[how / 2] || status == ANYKV_E_DEAD || status == ANYKV_OK,
                      "call %llu of %llu: %s", (unsigned long long)n, (unsigned long long)sites,
                      anykv_status_name(status));
            cr_assert(akv_alloc_live() == live, "call %llu leaks", (unsigned long long)n);
        }
    fprintf(stderr, "# %llu backend calls\n", (unsigned long long)sites);
}

/* ---- threads ---- */

struct worker {
    anykv_cache *cache;
    uint32_t number;
    atomic_bool *stop;
};

/* Texts that others work on too, continued, paused, read. */
static void *use(void *argument)
{
    const struct worker *worker = argument;
    uint64_t random = worker->number + 1, matched;
    for (uint32_t round = 0; round < 25; round++) {
        const uint32_t text = house_random(&random) % 3 * 1000, length = 33 + house_random(&random) % 60;
        uint32_t tokens[100];
        uint64_t seeds[100];
        for (uint32_t i = 0; i < 100; i++) {
            tokens[i] = text + i;
            seeds[i] = engine_chain(i, text + i);
        }
        anykv_seq *seq = engine_seq(worker->cache);
        OK(anykv_seq_match(seq, tokens, length, &matched));
        uint32_t count = length - (uint32_t)matched;
        anykv_step *step;
        OK(anykv_step_begin(worker->cache, &seq, &count, 1, &step));
        OK(engine_append(step, seeds + matched));
        OK(anykv_step_end(step, NULL, tokens + matched));
        if (house_random(&random) % 2)
            OK(anykv_seq_compress(seq, ANYKV_COMPRESS_BX16, 0, UINT64_MAX, NULL));
        float rows[100 * 64];
        const anykv_view view = anykv_view_host(rows, ANYKV_F32, 1, 64);
        OK(anykv_seq_gather(seq, 0, 1, 0, length, &view));
        for (uint32_t i = 0; i < length * 64; i++)
            cr_assert(rows[i] == engine_value(seeds[i / 64], 0, 1, 0, i % 64), "row %u of text %u", i / 64, text);
        anykv_seq_destroy(seq);
    }
    return NULL;
}

static void *squeeze(void *argument)
{
    const struct worker *worker = argument;
    while (!atomic_load(worker->stop))
        OK(anykv_cache_compress(worker->cache, ANYKV_COMPRESS_BX16, worker->number, NULL));
    return NULL;
}

Test(cold, threads, .timeout = 120)
{
    struct rig rig;
    anykv_layer layers[3];
    fill_layers(layers, 0, ANYKV_BF16);
    anykv_cache_options options = cold_options(8u << 20);
    rig_on(&rig, "cpu", 1, false, layers, &options);
    atomic_bool stop = false;
    struct worker workers[4] = {{rig.engine.cache, 0, &stop}, {rig.engine.cache, 1, &stop},
                                {rig.engine.cache, 2, &stop}, {rig.engine.cache, 7, &stop}};
    pthread_t threads[4];
    for (uint32_t t = 0; t < 4; t++)
        cr_assert(pthread_create(&threads[t], NULL, t < 3 ? use : squeeze, &workers[t]) == 0);
    for (uint32_t t = 0; t < 4; t++) {
        if (t == 3)
            atomic_store(&stop, true);
        pthread_join(threads[t], NULL);
    }
    const anykv_stats stats = engine_stats(rig.engine.cache);
    cr_expect(stats.compressed[0].blocks_read_back > 50, "%llu blocks read back",
              (unsigned long long)stats.compressed[0].blocks_read_back);
    rig_stop(&rig);
}

/* ---- the profile ---- */

Test(cold, profile)
{
    anykv_layer layers[2] = {engine_layer(1, 64, 0), engine_layer(1, 64, 0)};
    anykv_cache_options options = ANYKV_CACHE_OPTIONS_INIT;
    OK(anykv_profile_set("q4", layers, 2, &options));
    cr_expect(layers[1].k_format == ANYKV_N4 && layers[1].hot_type == ANYKV_F16 && options.flags == 0);
    OK(anykv_profile_set("Lossless", layers, 2, &options));
    for (uint32_t l = 0; l < 2; l++)
        cr_expect(layers[l].k_format == ANYKV_BF16 && layers[l].v_format == ANYKV_BF16 &&
                  layers[l].hot_type == ANYKV_BF16);
    cr_expect(options.flags == ANYKV_CACHE_COMPRESS_CACHED);
    OK(anykv_profile_set("lossless", layers, 1, NULL));
    REFUSED(ANYKV_E_ARG, "profile", anykv_profile_set("best", layers, 2, &options));
    REFUSED(ANYKV_E_ARG, "layers", anykv_profile_set("q4", NULL, 2, &options));
    options.size = 8;
    REFUSED(ANYKV_E_ARG, "size", anykv_profile_set("q4", layers, 2, &options));
}
