/* SPDX-License-Identifier: Apache-2.0 */
/* Sequences: identity, match, name, fork, trim, remove, pin, done, tables, gathered rows; bad
 * input. */
#include "engine.h"

static struct engine engine;

static void start_with(uint32_t window, uint32_t recent, uint64_t budget)
{
    anykv_layer layers[2] = {engine_layer(1, 64, 0), engine_layer(1, 64, window)};
    anykv_cache_options options = engine_options(budget);
    options.recent = recent;
    engine_start(&engine, layers, window ? 2 : 1, &options, 0);
}

static void stop(void)
{
    audit(engine.cache, "at the end");
    engine_stop(&engine);
}

static anykv_seq *tenant_seq(const char *salt, const char *extra)
{
    anykv_seq_options options = ANYKV_SEQ_OPTIONS_INIT;
    options.tenant = salt;
    options.tenant_bytes = (uint32_t)strlen(salt);
    options.extra = extra;
    options.extra_bytes = (uint32_t)strlen(extra);
    anykv_seq *seq;
    OK(anykv_seq_create(engine.cache, &options, &seq));
    return seq;
}

static uint64_t match(anykv_seq *seq, uint32_t first, uint64_t count)
{
    uint32_t tokens[1024];
    for (uint32_t i = 0; i < count; i++)
        tokens[i] = first + i;
    uint64_t matched;
    OK(anykv_seq_match(seq, tokens, count, &matched));
    return matched;
}

static uint32_t kind_of(anykv_seq *seq, uint32_t layer, uint32_t block)
{
    uint32_t entries[64];
    uint64_t count = 64, first;
    OK(anykv_seq_table(seq, layer, entries, &count, &first));
    cr_assert(block >= first / 16 && block < first / 16 + count, "block %u", block);
    return entries[block - first / 16] >> 28;
}

/* Rows [first, first + count) of layer 0's keys equal those of engine_run(seq, 100, …) exactly. */
static void expect_rows(anykv_seq *seq, uint32_t first, uint32_t count)
{
    float have[256 * 64], want[64];
    const anykv_view view = anykv_view_host(have, ANYKV_F32, 1, 64);
    OK(anykv_seq_gather(seq, 0, 0, first, count, &view));
    for (uint32_t t = 0; t < count; t++) {
        const uint64_t seed = engine_chain(first + t, 100 + first + t);
        engine_rows(&seed, 1, 0, 0, 1, 64, want);
        for (uint32_t i = 0; i < 64; i++)
            cr_assert(have[t * 64 + i] == want[i], "row %u element %u", first + t, i);
    }
}

/* ---- identity ---- */

Test(seq, who_shares_with_whom)
{
    start_with(0, 0, 4u << 20);
    anykv_seq *alice = tenant_seq("alice", ""), *plain = engine_seq(engine.cache);
    engine_run(alice, 100, 40);
    engine_run(plain, 500, 40);
    const struct {
        const char *salt, *extra;
        uint64_t matched;
    } cases[] = {{"alice", "", 32}, {"bob", "", 0}, {"alice", "lora", 0}, {"alic", "e", 0}};
    for (int i = 0; i < 4; i++) {
        anykv_seq *seq = tenant_seq(cases[i].salt, cases[i].extra);
        const uint64_t matched = match(seq, 100, 40);
        cr_expect(matched == cases[i].matched, "%s+%s: %llu", cases[i].salt, cases[i].extra,
                  (unsigned long long)matched);
        anykv_seq_destroy(seq);
    }
    anykv_seq *other = engine_seq(engine.cache);
    cr_expect(match(other, 100, 40) == 0, "public sees a tenant's blocks");
    cr_expect(match(other, 500, 40) == 32);
    anykv_seq_options options = ANYKV_SEQ_OPTIONS_INIT;
    options.flags = ANYKV_SEQ_PRIVATE;
    anykv_seq *hidden;
    OK(anykv_seq_create(engine.cache, &options, &hidden));
    cr_expect(match(hidden, 500, 40) == 0, "a private sequence matches");
    engine_run(hidden, 900, 40);
    anykv_seq_destroy(other);
    other = engine_seq(engine.cache);
    cr_expect(match(other, 900, 40) == 0, "a private sequence names");
    const uint32_t token = 1;
    REFUSED(ANYKV_E_STATE, "private", anykv_seq_name(hidden, &token, 1));
    anykv_seq_destroy(alice);
    anykv_seq_destroy(plain);
    anykv_seq_destroy(other);
    anykv_seq_destroy(hidden);
    stop();
}

Test(seq, match_takes_whole_blocks_but_one_token)
{
    start_with(0, 0, 4u << 20);
    anykv_seq *seq = engine_seq(engine.cache);
    engine_run(seq, 100, 70);
    const uint64_t wanted[][2] = {{0, 0},   {1, 0},   {16, 0},  {17, 16}, {32, 16},
                                  {33, 32}, {64, 48}, {65, 64}, {70, 64}, {200, 64}};
    for (int i = 0; i < 10; i++) {
        anykv_seq *other = engine_seq(engine.cache);
        const uint64_t matched = match(other, 100, wanted[i][0]);
        cr_expect(matched == wanted[i][1] && engine_length(other) == matched, "%llu tokens: %llu",
                  (unsigned long long)wanted[i][0], (unsigned long long)matched);
        anykv_seq_destroy(other);
    }
    uint64_t matched;
    const uint32_t token = 100;
    REFUSED(ANYKV_E_STATE, "empty", anykv_seq_match(seq, &token, 1, &matched));
    anykv_seq_destroy(seq);
    stop();
}

Test(seq, a_second_sequence_keeps_its_own_blocks)
{
    start_with(0, 1000, 4u << 20);
    anykv_seq *first = engine_seq(engine.cache), *second = engine_seq(engine.cache);
    engine_run(first, 100, 32);
    engine_run(second, 100, 32); /* the same tokens, computed again */
    const anykv_stats stats = engine_stats(engine.cache);
    cr_expect(stats.blocks_named == 2 && stats.hot_blocks == 4, "%llu named, %llu held",
              (unsigned long long)stats.blocks_named, (unsigned long long)stats.hot_blocks);
    cr_expect(akv_seq_table(first, 0)[0] != akv_seq_table(second, 0)[0]);
    anykv_seq *third = engine_seq(engine.cache);
    match(third, 100, 33);
    cr_expect(akv_seq_table(third, 0)[0] == akv_seq_table(first, 0)[0],
              "the first published stays");
    anykv_seq_destroy(first);
    anykv_seq_destroy(second);
    anykv_seq_destroy(third);
    stop();
}

Test(seq, windows_need_only_what_they_see)
{
    start_with(40, 1000, 4u << 20);
    anykv_seq *seq = engine_seq(engine.cache);
    engine_run(seq, 100, 128); /* named at once: the index has all blocks of the window group */
    cr_expect(akv_seq_table(seq, 1)[4] == AKV_NO_ID && akv_seq_table(seq, 1)[5] != AKV_NO_ID);
    anykv_stats stats = engine_stats(engine.cache);
    cr_expect(stats.cached_blocks == 5, "%llu blocks behind the window",
              (unsigned long long)stats.cached_blocks);
    anykv_seq *other = engine_seq(engine.cache);
    cr_expect(match(other, 100, 60) == 48);
    anykv_seq_destroy(other);
    OK(anykv_cache_trim_memory(engine.cache)); /* those behind the window go, the sequence's stay */
    stats = engine_stats(engine.cache);
    cr_expect(stats.cached_blocks == 0 && stats.hot_blocks == 8 + 3, "%llu",
              (unsigned long long)stats.hot_blocks);
    other = engine_seq(engine.cache);
    cr_expect(match(other, 100, 60) == 0, "matched where the window's blocks are gone");
    char text[200];
    OK(anykv_cache_explain(engine.cache, text, sizeof text));
    cr_expect(strstr(text, "window"), "%s", text);
    cr_expect(match(other, 100, 200) == 128, "the end is still there");
    anykv_seq_destroy(seq);
    anykv_seq_destroy(other);
    stop();
}

/* ---- naming ---- */

Test(seq, names_given_later)
{
    start_with(0, 0, 4u << 20);
    anykv_seq *seq = engine_seq(engine.cache), *other = engine_seq(engine.cache);
    const uint32_t count = 40;
    uint32_t tokens[60];
    uint64_t seeds[60];
    for (uint32_t i = 0; i < 60; i++) {
        tokens[i] = 100 + i;
        seeds[i] = engine_chain(i, 100 + i);
    }
    anykv_step *step;
    OK(anykv_step_begin(engine.cache, &seq, &count, 1, &step));
    OK(engine_append(step, seeds));
    OK(anykv_step_end(step, NULL, NULL));
    cr_expect(match(other, 100, 60) == 0);
    OK(anykv_seq_name(seq, tokens, 10));
    cr_expect(match(other, 100, 60) == 0);
    OK(anykv_seq_name(seq, tokens + 10, 25));
    cr_expect(match(other, 100, 60) == 32);
    REFUSED(ANYKV_E_ARG, "count: 6", anykv_seq_name(seq, tokens + 35, 6));
    OK(anykv_seq_name(seq, tokens + 35, 5));
    OK(anykv_seq_name(seq, NULL, 0));
    const uint32_t more = 8; /* tokens at the end go on from here */
    OK(anykv_step_begin(engine.cache, &seq, &more, 1, &step));
    OK(engine_append(step, seeds + 40));
    OK(anykv_step_end(step, NULL, tokens + 40));
    anykv_seq_destroy(other);
    other = engine_seq(engine.cache);
    cr_expect(match(other, 100, 60) == 48);
    anykv_seq_destroy(seq);
    anykv_seq_destroy(other);
    stop();
}

/* ---- fork and trim ---- */

Test(seq, fork_copies_a_partial_block_on_write)
{
    start_with(0, 1000, 4u << 20);
    anykv_seq *seq = engine_seq(engine.cache), *copy;
    engine_run(seq, 100, 24);
    OK(anykv_seq_fork(seq, &copy));
    cr_expect(engine_stats(engine.cache).hot_blocks == 2, "a fork takes no block");
    engine_run(copy, 700, 4);
    cr_expect(engine_stats(engine.cache).hot_blocks == 3 &&
              engine_stats(engine.cache).blocks_copied == 1);
    engine_run(seq, 124, 30);
    cr_expect(engine_stats(engine.cache).blocks_copied == 1, "the last owner writes in place");
    expect_rows(seq, 0, 54);
    expect_rows(copy, 0, 24);
    anykv_seq_destroy(seq);
    expect_rows(copy, 0, 24);
    anykv_seq_destroy(copy);
    stop();
}

Test(seq, trim_and_continue)
{
    start_with(0, 1000, 4u << 20);
    anykv_seq *seq = engine_seq(engine.cache), *other = engine_seq(engine.cache);
    engine_run(seq, 100, 64);
    OK(anykv_seq_trim(seq, 24)); /* inside a named block */
    cr_expect(engine_length(seq) == 24);
    cr_expect(match(other, 100, 65) == 64, "the index keeps what was named");
    engine_run(seq, 900, 40); /* other rows: the named block must not change */
    expect_rows(other, 0, 64);
    expect_rows(seq, 0, 24);
    anykv_seq *third = engine_seq(engine.cache);
    cr_expect(match(third, 100, 65) == 64);
    OK(anykv_seq_trim(third, 0));
    cr_expect(engine_length(third) == 0);
    REFUSED(ANYKV_E_ARG, "tokens: 1", anykv_seq_trim(third, 1));
    anykv_seq_destroy(seq);
    anykv_seq_destroy(other);
    anykv_seq_destroy(third);
    stop();
}

Test(seq, trim_inside_a_sealed_block)
{
    start_with(0, 16, 4u << 20);
    anykv_seq *seq = engine_seq(engine.cache);
    engine_run(seq, 100, 64);
    cr_assert(kind_of(seq, 0, 2) == AKV_KIND_SEALED && kind_of(seq, 0, 3) == AKV_KIND_HOT);
    REFUSED(ANYKV_E_STATE, "sealed block", anykv_seq_trim(seq, 40));
    cr_expect(engine_length(seq) == 64, "changed on failure");
    OK(anykv_seq_trim(seq, 60));
    OK(anykv_seq_trim(seq, 48));
    engine_run(seq, 148, 5);
    anykv_seq_destroy(seq);
    stop();
}

/* A sequence that ends inside a block keeps another one, for which the block is whole, from sealing
 * it. */
Test(seq, a_partial_tail_stays_hot)
{
    start_with(0, 16, 4u << 20);
    anykv_seq *seq = engine_seq(engine.cache), *copy;
    engine_run(seq, 100, 31);
    engine_run(seq, 131, 1); /* block 1 is whole and still recent */
    OK(anykv_seq_fork(seq, &copy));
    OK(anykv_seq_trim(copy, 20));
    engine_run(seq, 132, 64);
    cr_expect(kind_of(seq, 0, 1) == AKV_KIND_HOT && kind_of(seq, 0, 2) == AKV_KIND_SEALED);
    engine_run(copy, 600, 1);
    expect_rows(copy, 0, 20);
    engine_run(seq, 196, 1); /* nobody ends in it any more */
    cr_expect(kind_of(seq, 0, 1) == AKV_KIND_SEALED);
    anykv_seq_destroy(seq);
    anykv_seq_destroy(copy);
    stop();
}

Test(seq, trim_of_a_window_fetches_rows_back)
{
    start_with(40, 1000, 4u << 20);
    anykv_seq *seq = engine_seq(engine.cache);
    engine_run(seq, 100, 128);
    OK(anykv_seq_trim(seq, 64)); /* its window reaches back to position 25 */
    cr_expect(akv_seq_table(seq, 1)[1] != AKV_NO_ID && akv_seq_table(seq, 1)[0] == AKV_NO_ID);
    engine_run(seq, 164, 64);
    OK(anykv_cache_trim_memory(engine.cache));
    REFUSED(ANYKV_E_STATE, "freed", anykv_seq_trim(seq, 64));
    cr_expect(engine_length(seq) == 128);
    anykv_seq_destroy(seq);
    stop();
}

Test(seq, remove_whole_blocks)
{
    start_with(0, 1000, 4u << 20);
    anykv_seq *seq = engine_seq(engine.cache), *other = engine_seq(engine.cache);
    engine_run(seq, 100, 70);
    REFUSED(ANYKV_E_ARG, "multiples of block_tokens", anykv_seq_remove(seq, 8, 16));
    REFUSED(ANYKV_E_ARG, "multiples of block_tokens", anykv_seq_remove(seq, 16, 8));
    REFUSED(ANYKV_E_ARG, "go beyond", anykv_seq_remove(seq, 48, 32));
    REFUSED(ANYKV_E_ARG, "go beyond", anykv_seq_remove(seq, UINT64_MAX - 15, 32));
    OK(anykv_seq_remove(seq, 16, 32));
    cr_expect(engine_length(seq) == 70);
    float row[64];
    const anykv_view view = anykv_view_host(row, ANYKV_F32, 1, 64);
    REFUSED(ANYKV_E_NOT_FOUND, "not held", anykv_seq_gather(seq, 0, 0, 20, 1, &view));
    expect_rows(seq, 48, 22);
    REFUSED(ANYKV_E_STATE, "removed", anykv_seq_trim(seq, 20));
    const uint32_t token = 170;
    REFUSED(ANYKV_E_STATE, "removal", anykv_seq_name(seq, &token, 1));
    engine_run(seq, 170, 30);
    cr_expect(match(other, 100, 200) == 64, "named after the removal");
    OK(anykv_seq_trim(seq, 48));
    anykv_seq_destroy(seq);
    anykv_seq_destroy(other);
    stop();
}

/* ---- hints ---- */

static uint64_t cached_after_pressure(uint32_t first)
{
    anykv_seq *seq = engine_seq(engine.cache);
    const uint64_t matched = match(seq, first, 33);
    anykv_seq_destroy(seq);
    return matched;
}

Test(seq, pins_survive_the_sequence)
{
    start_with(0, 0, 4u << 20);
    anykv_seq *seq = engine_seq(engine.cache);
    engine_run(seq, 100, 20);
    OK(anykv_seq_pin(seq, 1));
    OK(anykv_seq_pin(seq, 1));
    engine_run(seq, 120, 20); /* named while pinned */
    anykv_seq_destroy(seq);
    OK(anykv_cache_trim_memory(engine.cache));
    cr_expect(cached_after_pressure(100) == 32);
    seq = engine_seq(engine.cache);
    match(seq, 100, 33);
    OK(anykv_seq_pin(seq, 0));
    anykv_seq_destroy(seq);
    OK(anykv_cache_trim_memory(engine.cache));
    cr_expect(cached_after_pressure(100) == 0);
    cr_expect(engine_stats(engine.cache).used_bytes == engine_stats(engine.cache).fixed_bytes);
    stop();
}

Test(seq, done_ones_go_first)
{
    anykv_layer layer = engine_layer(1, 64, 0);
    layer.k_format = layer.v_format = ANYKV_F16; /* one kind of block */
    anykv_cache_options options = engine_options(0);
    options.recent = 0;
    engine.context = house_context();
    engine.device = engine_device(engine.context, 0);
    engine.layout = engine_layout(engine.context, &layer, 1);
    anykv_estimate estimate = ANYKV_ESTIMATE_INIT;
    OK(anykv_cache_estimate(engine.device, engine.layout, &options, &estimate));
    options.budget_bytes = estimate.fixed_bytes + 6 * estimate.hot_block_bytes;
    OK(anykv_cache_create(engine.device, engine.layout, &options, &engine.cache));
    anykv_seq *old = engine_seq(engine.cache), *done = engine_seq(engine.cache);
    engine_run(old, 100, 32);
    engine_run(done, 300, 32);
    OK(anykv_seq_done(done));
    anykv_seq_destroy(old);
    anykv_seq_destroy(done); /* later than old, but it said it is done */
    anykv_seq *seq = engine_seq(engine.cache);
    engine_run(seq, 500, 64);
    cr_expect(cached_after_pressure(300) == 0 && cached_after_pressure(100) == 32);
    anykv_seq_destroy(seq);
    stop();
}

/* ---- reading back ---- */

Test(seq, tables_and_stored_blocks)
{
    start_with(0, 16, 4u << 20);
    anykv_seq *seq = engine_seq(engine.cache);
    engine_run(seq, 100, 48);
    const uint32_t more = 16, kept = 6; /* the rejected rows stand behind the kept ones */
    uint64_t more_seeds[16] = {1, 2, 3};
    anykv_step *step;
    OK(anykv_step_begin(engine.cache, &seq, &more, 1, &step));
    OK(engine_append(step, more_seeds));
    OK(anykv_step_end(step, &kept, NULL)); /* blocks: sink, sealed, recent, partial */
    uint32_t entries[4];
    uint64_t count = 3, first = 9;
    REFUSED(ANYKV_E_SHAPE, "room for 3", anykv_seq_table(seq, 0, entries, &count, &first));
    cr_expect(count == 4 && first == 9);
    OK(anykv_seq_table(seq, 0, entries, &count, &first));
    cr_expect(first == 0 && entries[0] >> 28 == 0 && entries[1] >> 28 == 1 &&
              entries[2] >> 28 == 0);
    uint8_t block[4096];
    memset(block, 0xAA, sizeof block);
    uint64_t bytes = 4095;
    uint32_t kind = 9;
    REFUSED(ANYKV_E_SHAPE, "room for 4095",
            anykv_seq_gather_packed(seq, 0, 50, block, &bytes, &kind));
    cr_expect(bytes == 4096 && kind == 9 && block[0] == 0xAA);
    OK(anykv_seq_gather_packed(seq, 0, 50, block, &bytes, &kind));
    cr_expect(kind == 0);
    for (uint32_t side = 0; side < 2; side++)
        for (uint32_t i = 0; i < 16 * 128; i++)
            if (i >= 6 * 128) /* 6 rows of 64 F16 elements */
                cr_assert(block[side * 2048 + i] == 0, "the unused tail is readable at %u", i);
    bytes = sizeof block;
    OK(anykv_seq_gather_packed(seq, 0, 20, block, &bytes, &kind));
    cr_expect(kind == 1 && bytes == 2 * (512 + 32), "%llu bytes", (unsigned long long)bytes);
    /* The packed key tile is what the codec writes for the same rows. */
    anykv_codec_options options = ANYKV_CODEC_OPTIONS_INIT;
    options.head_dim = 64;
    anykv_codec *codec;
    OK(anykv_codec_create(engine.device, &options, &codec));
    float rows[16 * 64];
    uint64_t seeds[16];
    for (uint32_t i = 0; i < 16; i++)
        seeds[i] = engine_chain(16 + i, 116 + i);
    engine_rows(seeds, 16, 0, 0, 1, 64, rows);
    const anykv_view view = anykv_view_host(rows, ANYKV_F32, 1, 64);
    uint8_t wanted[544];
    OK(anykv_codec_encode(codec, &view, 16, 1, wanted, sizeof wanted, NULL));
    cr_expect_arr_eq(block, wanted, sizeof wanted);
    anykv_codec_destroy(codec);
    anykv_seq_destroy(seq);
    stop();
}

Test(seq, gather_in_pieces_and_strides)
{
    anykv_layer layer = engine_layer(1, 64, 0);
    anykv_cache_options options = engine_options(16u << 20);
    options.max_seq_tokens = 6000;
    options.recent = 10000;
    engine_start(&engine, &layer, 1, &options, 0);
    anykv_seq *seq = engine_seq(engine.cache);
    for (uint32_t at = 0; at < 5000; at += 100)
        engine_run(seq, 100 + at, 100);
    float *rows = calloc(5000 * 70, sizeof *rows);
    anykv_view view = anykv_view_host(rows, ANYKV_F32, 1, 64);
    view.token_stride = 70;
    OK(anykv_seq_gather(seq, 0, 0, 7, 4990, &view)); /* more than one launch's blocks */
    for (uint32_t t = 0; t < 4990; t++) {
        float want[64];
        const uint64_t seed = engine_chain(7 + t, 107 + t);
        engine_rows(&seed, 1, 0, 0, 1, 64, want);
        cr_assert(memcmp(rows + t * 70, want, sizeof want) == 0, "row %u", t);
        cr_assert(rows[t * 70 + 64] == 0.0f && rows[t * 70 + 69] == 0.0f, "between rows at %u", t);
    }
    free(rows);
    anykv_seq_destroy(seq);
    stop();
}

/* ---- bad input ---- */

Test(seq, bad_options)
{
    start_with(0, 0, 4u << 20);
    anykv_seq *seq = (anykv_seq *)8;
    anykv_seq_options options = ANYKV_SEQ_OPTIONS_INIT;
    REFUSED(ANYKV_E_ARG, "tenant: none", anykv_seq_create(engine.cache, &options, &seq));
    REFUSED(ANYKV_E_ARG, "tenant: none", anykv_seq_create(engine.cache, NULL, &seq));
    options.flags = 4;
    REFUSED(ANYKV_E_ARG, "flags: 0x4", anykv_seq_create(engine.cache, &options, &seq));
    options.flags = ANYKV_SEQ_PUBLIC | ANYKV_SEQ_PRIVATE;
    REFUSED(ANYKV_E_ARG, "not both", anykv_seq_create(engine.cache, &options, &seq));
    options.flags = ANYKV_SEQ_PUBLIC;
    options.tenant = "x";
    options.tenant_bytes = 1;
    REFUSED(ANYKV_E_ARG, "tenant_bytes: 1", anykv_seq_create(engine.cache, &options, &seq));
    options.flags = 0;
    options.tenant_bytes = 257;
    REFUSED(ANYKV_E_ARG, "tenant_bytes: 257", anykv_seq_create(engine.cache, &options, &seq));
    options.tenant_bytes = 4;
    options.tenant = NULL;
    REFUSED(ANYKV_E_ARG, "tenant: NULL", anykv_seq_create(engine.cache, &options, &seq));
    options.tenant = "abcd";
    options.extra_bytes = 257;
    REFUSED(ANYKV_E_ARG, "extra_bytes: 257", anykv_seq_create(engine.cache, &options, &seq));
    options.extra_bytes = 1;
    REFUSED(ANYKV_E_ARG, "extra: NULL", anykv_seq_create(engine.cache, &options, &seq));
    options.size = 0;
    REFUSED(ANYKV_E_ARG, "size", anykv_seq_create(engine.cache, &options, &seq));
    cr_expect(seq == (anykv_seq *)8, "written on failure");
    cr_expect(engine_stats(engine.cache).sequences == 0);
    stop();
}

Test(seq, bad_arguments)
{
    start_with(0, 0, 4u << 20);
    anykv_seq *seq = engine_seq(engine.cache), *out;
    engine_run(seq, 100, 20);
    uint64_t number = 0;
    uint32_t token = 1, kind;
    float row[64];
    anykv_view view = anykv_view_host(row, ANYKV_F32, 1, 64);
    const anykv_seq_options options = {sizeof options, ANYKV_SEQ_PUBLIC, NULL, 0, NULL, 0, 0};
    REFUSED(ANYKV_E_ARG, "cache", anykv_seq_create(NULL, &options, &out));
    REFUSED(ANYKV_E_ARG, "seq_out", anykv_seq_create(engine.cache, &options, NULL));
    REFUSED(ANYKV_E_ARG, "seq", anykv_seq_length(NULL, &number));
    REFUSED(ANYKV_E_ARG, "tokens_out", anykv_seq_length(seq, NULL));
    REFUSED(ANYKV_E_ARG, "seq", anykv_seq_match(NULL, &token, 1, &number));
    REFUSED(ANYKV_E_ARG, "tokens", anykv_seq_match(seq, NULL, 1, &number));
    REFUSED(ANYKV_E_ARG, "matched_out", anykv_seq_match(seq, &token, 1, NULL));
    REFUSED(ANYKV_E_ARG, "cache", anykv_cache_lookup(NULL, &options, &token, 1, &number));
    REFUSED(ANYKV_E_ARG, "tokens", anykv_cache_lookup(engine.cache, &options, NULL, 1, &number));
    REFUSED(ANYKV_E_ARG, "matched_out",
            anykv_cache_lookup(engine.cache, &options, &token, 1, NULL));
    REFUSED(ANYKV_E_ARG, "tenant", anykv_cache_lookup(engine.cache, NULL, &token, 1, &number));
    REFUSED(ANYKV_E_ARG, "seq", anykv_seq_name(NULL, &token, 1));
    REFUSED(ANYKV_E_ARG, "tokens", anykv_seq_name(seq, NULL, 1));
    REFUSED(ANYKV_E_ARG, "count", anykv_seq_name(seq, &token, UINT64_MAX));
    REFUSED(ANYKV_E_ARG, "seq", anykv_seq_fork(NULL, &out));
    REFUSED(ANYKV_E_ARG, "seq_out", anykv_seq_fork(seq, NULL));
    REFUSED(ANYKV_E_ARG, "seq", anykv_seq_trim(NULL, 0));
    REFUSED(ANYKV_E_ARG, "tokens", anykv_seq_trim(seq, UINT64_MAX));
    REFUSED(ANYKV_E_ARG, "seq", anykv_seq_remove(NULL, 0, 16));
    REFUSED(ANYKV_E_ARG, "seq", anykv_seq_done(NULL));
    REFUSED(ANYKV_E_ARG, "seq", anykv_seq_pin(NULL, 1));
    uint64_t count = 4;
    uint32_t entries[4];
    REFUSED(ANYKV_E_ARG, "seq", anykv_seq_table(NULL, 0, entries, &count, &number));
    REFUSED(ANYKV_E_ARG, "layer: 1", anykv_seq_table(seq, 1, entries, &count, &number));
    REFUSED(ANYKV_E_ARG, "entries", anykv_seq_table(seq, 0, NULL, &count, &number));
    REFUSED(ANYKV_E_ARG, "count_in_out", anykv_seq_table(seq, 0, entries, NULL, &number));
    REFUSED(ANYKV_E_ARG, "first_position_out", anykv_seq_table(seq, 0, entries, &count, NULL));
    REFUSED(ANYKV_E_ARG, "seq", anykv_seq_gather(NULL, 0, 0, 0, 1, &view));
    REFUSED(ANYKV_E_ARG, "layer: 1", anykv_seq_gather(seq, 1, 0, 0, 1, &view));
    REFUSED(ANYKV_E_ARG, "side: 2", anykv_seq_gather(seq, 0, 2, 0, 1, &view));
    REFUSED(ANYKV_E_ARG, "go beyond", anykv_seq_gather(seq, 0, 0, 20, 1, &view));
    REFUSED(ANYKV_E_ARG, "go beyond", anykv_seq_gather(seq, 0, 0, 1, UINT64_MAX, &view));
    REFUSED(ANYKV_E_ARG, "rows: NULL", anykv_seq_gather(seq, 0, 0, 0, 1, NULL));
    view.dtype = ANYKV_I8;
    REFUSED(ANYKV_E_ARG, "rows.dtype", anykv_seq_gather(seq, 0, 0, 0, 1, &view));
    view.dtype = ANYKV_F32;
    view.data = NULL;
    REFUSED(ANYKV_E_ARG, "rows.data", anykv_seq_gather(seq, 0, 0, 0, 1, &view));
    view.data = row;
    view.token_stride = 63;
    REFUSED(ANYKV_E_SHAPE, "rows", anykv_seq_gather(seq, 0, 0, 0, 2, &view));
    view.token_stride = UINT64_MAX / 2;
    REFUSED(ANYKV_E_SHAPE, "rows", anykv_seq_gather(seq, 0, 0, 0, 2, &view));
    view = anykv_view_host(row, ANYKV_F32, 1, 64);
    OK(anykv_seq_gather(seq, 0, 0, 20, 0, &view)); /* nothing */
    uint8_t block[4096];
    uint64_t bytes = sizeof block;
    REFUSED(ANYKV_E_ARG, "seq", anykv_seq_gather_packed(NULL, 0, 0, block, &bytes, &kind));
    REFUSED(ANYKV_E_ARG, "layer: 9", anykv_seq_gather_packed(seq, 9, 0, block, &bytes, &kind));
    REFUSED(ANYKV_E_ARG, "position: 20", anykv_seq_gather_packed(seq, 0, 20, block, &bytes, &kind));
    REFUSED(ANYKV_E_ARG, "packed", anykv_seq_gather_packed(seq, 0, 0, NULL, &bytes, &kind));
    REFUSED(ANYKV_E_ARG, "bytes_in_out", anykv_seq_gather_packed(seq, 0, 0, block, NULL, &kind));
    REFUSED(ANYKV_E_ARG, "kind_out", anykv_seq_gather_packed(seq, 0, 0, block, &bytes, NULL));
    anykv_seq_destroy(NULL);
    anykv_seq_destroy(seq);
    stop();
}
