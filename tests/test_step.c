/* SPDX-License-Identifier: Apache-2.0 */
/* Steps: the transaction, ragged batches, sealing, attention, device views; bad input. */
#include "steps.h"

/* ---- the transaction ---- */

Test(step, cancel_takes_everything_back)
{
    start(0, 32);
    anykv_seq *seq = engine_seq(engine.cache), *copy;
    engine_run(seq, 100, 24);
    OK(anykv_seq_fork(seq, &copy)); /* so that begin copies the partial block */
    const anykv_stats before = engine_stats(engine.cache);
    anykv_step *step = begin_one(seq, 50);
    uint64_t seeds[50];
    seeds_for(seeds, 500, 50);
    OK(engine_append(step, seeds));
    anykv_step_cancel(step);
    const anykv_stats after = engine_stats(engine.cache);
    cr_expect(after.used_bytes == before.used_bytes && after.hot_blocks == before.hot_blocks &&
              after.sealed_blocks == before.sealed_blocks && after.steps == before.steps);
    cr_expect(engine_length(seq) == 24);
    cr_expect(akv_seq_table(seq, 0)[1] == akv_seq_table(copy, 0)[1], "shared as before");
    REFUSED(ANYKV_E_ARG, "step: not open", anykv_step_end(step, NULL, NULL));
    anykv_step_cancel(step);
    anykv_step_cancel(NULL);
    engine_run(seq, 124, 10);
    anykv_seq_destroy(seq);
    anykv_seq_destroy(copy);
    stop();
}

Test(step, accepts_a_part)
{
    start(0, 1000);
    anykv_seq *seqs[2] = {engine_seq(engine.cache), engine_seq(engine.cache)};
    const uint32_t counts[2] = {20, 30};
    uint32_t accepted[2] = {20, 31}, tokens[50];
    uint64_t seeds[50];
    seeds_for(seeds, 0, 20);
    seeds_for(seeds + 20, 0, 30);
    for (uint32_t i = 0; i < 50; i++)
        tokens[i] = 100 + i;
    anykv_step *step;
    OK(anykv_step_begin(engine.cache, seqs, counts, 2, &step));
    REFUSED(ANYKV_E_STATE, "layer 0 and 1 others", anykv_step_end(step, NULL, tokens));
    OK(engine_append(step, seeds));
    REFUSED(ANYKV_E_ARG, "accepted[1]: 31", anykv_step_end(step, accepted, tokens));
    accepted[0] = 0;
    accepted[1] = 17;
    OK(anykv_step_end(step, accepted, tokens));
    cr_expect(engine_length(seqs[0]) == 0 && engine_length(seqs[1]) == 17);
    const anykv_stats stats = engine_stats(engine.cache);
    cr_expect(stats.hot_blocks == 4 && stats.tokens_appended == 17, "%llu blocks",
              (unsigned long long)stats.hot_blocks);
    cr_expect(stats.blocks_named == 1);
    uint64_t matched;
    anykv_seq *other = engine_seq(engine.cache);
    OK(anykv_seq_match(other, tokens + 20, 30, &matched));
    cr_expect(matched == 16, "%llu", (unsigned long long)matched);
    anykv_seq_destroy(other);
    anykv_seq_destroy(seqs[0]);
    anykv_seq_destroy(seqs[1]);
    stop();
}

Test(step, a_sequence_is_in_one_step)
{
    start(0, 32);
    anykv_seq *seqs[2] = {engine_seq(engine.cache), engine_seq(engine.cache)};
    engine_run(seqs[0], 100, 20);
    anykv_step *step = begin_one(seqs[0], 5), *other;
    const uint32_t counts[2] = {1, 1}, token = 1;
    anykv_seq *twice[2] = {seqs[1], seqs[1]}, *copy;
    REFUSED(ANYKV_E_BUSY, "seqs[0]", anykv_step_begin(engine.cache, seqs, counts, 2, &other));
    REFUSED(ANYKV_E_ARG, "seqs[1]: occurs twice",
            anykv_step_begin(engine.cache, twice, counts, 2, &other));
    REFUSED(ANYKV_E_STATE, "open step", anykv_seq_trim(seqs[0], 3));
    REFUSED(ANYKV_E_STATE, "open step", anykv_seq_remove(seqs[0], 0, 16));
    REFUSED(ANYKV_E_STATE, "open step", anykv_seq_fork(seqs[0], &copy));
    REFUSED(ANYKV_E_STATE, "open step", anykv_seq_name(seqs[0], &token, 1));
    anykv_seq_destroy(seqs[0]); /* goes with the step */
    cr_expect(engine_stats(engine.cache).sequences == 2);
    anykv_step_cancel(step);
    cr_expect(engine_stats(engine.cache).sequences == 1);
    anykv_step *open[AKV_OPEN_STEPS];
    anykv_seq *more[AKV_OPEN_STEPS + 1];
    for (uint32_t i = 0; i <= AKV_OPEN_STEPS; i++)
        more[i] = engine_seq(engine.cache);
    for (uint32_t i = 0; i < AKV_OPEN_STEPS; i++)
        open[i] = begin_one(more[i], 1);
    REFUSED(ANYKV_E_BUSY, "steps are open",
            anykv_step_begin(engine.cache, &more[AKV_OPEN_STEPS], counts, 1, &other));
    for (uint32_t i = 0; i < AKV_OPEN_STEPS; i++)
        anykv_step_cancel(open[i]);
    for (uint32_t i = 0; i <= AKV_OPEN_STEPS; i++)
        anykv_seq_destroy(more[i]);
    anykv_seq_destroy(seqs[1]);
    stop();
}

Test(step, counts_of_zero)
{
    start(0, 32);
    anykv_seq *seq = engine_seq(engine.cache);
    engine_run(seq, 100, 20);
    const anykv_stats before = engine_stats(engine.cache);
    anykv_step *step = begin_one(seq, 0);
    float nothing[1];
    OK(attend_layer(step, 0, NULL, nothing));
    OK(anykv_step_end(step, NULL, NULL));
    cr_expect(engine_stats(engine.cache).hot_blocks == before.hot_blocks &&
              engine_length(seq) == 20);
    anykv_seq_destroy(seq);
    stop();
}

/* ---- sealing ---- */

Test(step, seals_what_left_the_recent_window)
{
    start(0, 32);
    anykv_seq *seq = engine_seq(engine.cache);
    uint32_t entries[64];
    for (uint32_t length = 0; length < 400; length += 7) {
        engine_run(seq, 100 + length, 7);
        uint64_t count = 64, first;
        OK(anykv_seq_table(seq, 0, entries, &count, &first));
        for (uint32_t b = 0; b < count; b++) {
            const bool sealed =
                b > 0 && (b + 1) * 16 + 32 <= length + 7; /* block 0 holds the sinks */
            cr_assert(entries[b] >> 28 == (sealed ? 1u : 0u), "block %u at %u tokens", b,
                      length + 7);
        }
    }
    anykv_seq_destroy(seq);
    stop();
}

Test(step, open_steps_keep_shared_blocks_as_they_are)
{
    start(0, 16);
    anykv_seq *seq = engine_seq(engine.cache), *copy;
    engine_run(seq, 100, 31);
    engine_run(seq, 131, 1);
    OK(anykv_seq_fork(seq, &copy));
    anykv_step *step = begin_one(copy, 1);
    engine_run(seq, 132, 60);
    const uint32_t id = akv_seq_table(seq, 0)[1];
    cr_expect(akv_block_kind(&engine.cache->pool.blocks[id]) == AKV_KIND_HOT,
              "sealed under a reader");
    anykv_step_cancel(step);
    engine_run(seq, 192, 1);
    cr_expect(akv_block_kind(&engine.cache->pool.blocks[id]) == AKV_KIND_SEALED, "forgotten");
    cr_expect(akv_seq_table(copy, 0)[1] == id, "the block is still shared");
    anykv_seq_destroy(seq);
    anykv_seq_destroy(copy);
    stop();
}

/* Odd values reach a quantised block: a NaN and an infinity, noted once the device is known to be
 * done. */
/* What is recorded of one step does another only if it would make the same launches. */
Test(step, recordings_tell_launches_apart)
{
    start(0, 32);
    anykv_seq *seqs[2] = {engine_seq(engine.cache), engine_seq(engine.cache)};
    const uint32_t one[2] = {1, 1};
    anykv_step *step, *other;
    engine_run(seqs[0], 0, 20);
    engine_run(seqs[1], 50, 9);
    OK(anykv_step_begin(engine.cache, &seqs[0], one, 1, &step));
    const uint64_t number = anykv_step_recording(step);
    OK(anykv_step_begin(engine.cache, &seqs[1], one, 1, &other)); /* its descriptor lies elsewhere */
    cr_expect(anykv_step_recording(other) != number);
    REFUSED(ANYKV_E_STATE, "other launches", anykv_step_replayed(other, number));
    anykv_step_cancel(other);
    step->kinds[0] ^= 1u << AKV_KIND_RUNG; /* as with a block that stepped down */
    cr_expect(anykv_step_recording(step) != number);
    step->kinds[0] ^= 1u << AKV_KIND_RUNG;
    anykv_step_cancel(step);
    OK(anykv_step_begin(engine.cache, seqs, one, 2, &step));
    cr_expect(anykv_step_recording(step) != number, "two sequences");
    anykv_step_cancel(step);
    OK(anykv_step_begin(engine.cache, &seqs[1], one, 1, &step));
    cr_expect(anykv_step_recording(step) == number, "another sequence");
    OK(anykv_step_replayed(step, number));
    OK(anykv_step_end(step, NULL, NULL));
    const uint32_t slabs = engine.cache->slabs;
    OK(anykv_cache_set_budget(engine.cache, 32u << 20));
    cr_assert(engine.cache->slabs > slabs);
    OK(anykv_step_begin(engine.cache, &seqs[0], one, 1, &step));
    cr_expect(anykv_step_recording(step) != number, "blocks in more memory");
    anykv_step_cancel(step);
    anykv_seq_destroy(seqs[0]);
    anykv_seq_destroy(seqs[1]);
    stop();
}

Test(step, notes_odd_values)
{
    start(1, 0);
    anykv_seq *seq = engine_seq(engine.cache);
    engine_run(seq, 100, 48);
    OK(anykv_cache_wait(engine.cache, UINT64_MAX));
    cr_expect(engine_stats(engine.cache).saw == 0);
    const float odd[2] = {NAN, INFINITY};
    for (uint32_t i = 0; i < 2; i++) {
        float rows[16 * 2 * 64];
        for (uint32_t k = 0; k < 16 * 2 * 64; k++)
            rows[k] = k == 700 ? odd[i] : 0.5f;
        anykv_step *step = begin_one(seq, 16);
        for (uint32_t l = 0; l < 2; l++) {
            const anykv_view view = anykv_view_host(rows, ANYKV_F32, l + 1, 64);
            OK(anykv_step_append(step, l, &view, &view));
        }
        OK(anykv_step_end(step, NULL, NULL));
        OK(anykv_cache_wait(engine.cache, UINT64_MAX));
        cr_expect(engine_stats(engine.cache).saw == (i ? 3u : 1u), "saw %u",
                  engine_stats(engine.cache).saw);
    }
    anykv_seq_destroy(seq);
    stop();
}

/* ---- attention through the engine ---- */

Test(step, results_do_not_depend_on_neighbours)
{
    start(1, 32);
    anykv_seq *one = engine_seq(engine.cache), *two = engine_seq(engine.cache), *copy;
    engine_run(one, 100, 90);
    engine_run(two, 700, 33);
    OK(anykv_seq_fork(one, &copy));
    float alone[3 * 4 * 64], both[5 * 4 * 64];
    uint64_t seeds[5];
    seeds_for(seeds, 90, 3);
    anykv_step *step = begin_one(one, 3);
    OK(engine_append(step, seeds));
    OK(attend_layer(step, 1, NULL, alone));
    OK(anykv_step_end(step, NULL, NULL));
    anykv_seq *seqs[2] = {copy, two};
    const uint32_t counts[2] = {3, 2};
    seeds_for(seeds + 3, 1000, 2);
    OK(anykv_step_begin(engine.cache, seqs, counts, 2, &step));
    OK(engine_append(step, seeds));
    OK(attend_layer(step, 1, NULL, both));
    OK(anykv_step_end(step, NULL, NULL));
    cr_expect(memcmp(alone, both, sizeof alone) == 0, "the batch changed a sequence's result");
    anykv_seq_destroy(one);
    anykv_seq_destroy(two);
    anykv_seq_destroy(copy);
    stop();
}

static void check_parameters(bool staged)
{
    start_at(0, 32, staged);
    anykv_seq *seq = engine_seq(engine.cache);
    engine_run(seq, 100, 60);
    anykv_step *step = begin_one(seq, 4);
    uint64_t seeds[4];
    seeds_for(seeds, 60, 4);
    OK(engine_append(step, seeds));
    float plain[4 * 2 * 64], other[4 * 2 * 64], lse[8], mask[4 * 6];
    const float sinks[2] = {20.0f, 20.0f};
    OK(attend_layer(step, 0, NULL, plain));
    anykv_attend_params params = ANYKV_ATTEND_PARAMS_INIT;
    params.lse = lse;
    OK(attend_layer(step, 0, &params, other));
    cr_expect(memcmp(plain, other, sizeof plain) == 0 && isfinite(lse[0]) && lse[0] != lse[7]);
#define CHANGES(what)                                                                              \
    do {                                                                                           \
        OK(attend_layer(step, 0, &params, other));                                                 \
        cr_expect(memcmp(plain, other, sizeof plain) != 0, "%s has no effect", what);              \
        params = (anykv_attend_params)ANYKV_ATTEND_PARAMS_INIT;                                    \
    } while (0)
    params.scale = 0.5f;
    CHANGES("scale");
    params.cap = 0.5f;
    CHANGES("cap");
    params.window = 5;
    CHANGES("window");
    params.sinks = sinks;
    CHANGES("sinks");
    params.flags = ANYKV_ATTEND_BIDIRECTIONAL;
    CHANGES("bidirectional");
    for (int i = 0; i < 4 * 6; i++)
        mask[i] = i % 6 == i / 6 ? 0.0f : -INFINITY; /* itself only */
    params.mask = mask;
    params.mask_stride = 6;
    CHANGES("mask");
    for (int i = 0; i < 4 * 6; i++)
        mask[i] = i % 6 <= i / 6 ? 0.0f : -INFINITY; /* the causal rule, spelled out */
    params.mask = mask;
    params.mask_stride = 6;
    OK(attend_layer(step, 0, &params, other));
    for (int i = 0; i < 4 * 2 * 64; i++)
        cr_assert(fabsf(plain[i] - other[i]) < 1e-3f * (1.0f + fabsf(plain[i])), "element %d", i);
    anykv_step_cancel(step);
    anykv_seq_destroy(seq);
    stop();
}

Test(step, parameters_of_attend_arrive)
{
    check_parameters(false);
    check_parameters(true);
}

Test(step, a_layer_reads_another_ones_rows)
{
    anykv_layer layers[3] = {engine_layer(1, 64, 0), engine_layer(1, 64, 0),
                             engine_layer(1, 64, 0)};
    layers[2].source = 0;
    layers[2].q_heads = 2;
    const anykv_cache_options options = engine_options(8u << 20);
    engine_start(&engine, layers, 3, &options, 0);
    anykv_seq *seq = engine_seq(engine.cache);
    engine_run(seq, 100, 40);
    anykv_step *step = begin_one(seq, 2);
    uint64_t seeds[2];
    float first[2 * 2 * 64], third[2 * 2 * 64], row[2 * 64];
    seeds_for(seeds, 40, 2);
    REFUSED(ANYKV_E_STATE, "layer 0 are not appended", attend_layer(step, 2, NULL, third));
    const anykv_view view = anykv_view_host(row, ANYKV_F32, 1, 64);
    REFUSED(ANYKV_E_STATE, "rows of layer 0", anykv_step_append(step, 2, &view, &view));
    OK(engine_append(step, seeds));
    REFUSED(ANYKV_E_STATE, "appended already", anykv_step_append(step, 0, &view, &view));
    OK(attend_layer(step, 0, NULL, first));
    OK(attend_layer(step, 2, NULL, third));
    cr_expect(memcmp(first, third, sizeof first) == 0);
    OK(anykv_step_end(step, NULL, NULL));
    anykv_seq_destroy(seq);
    stop();
}

Test(step, rows_in_device_memory)
{
    start(2, 32);
    anykv_seq *host = engine_seq(engine.cache), *device = engine_seq(engine.cache);
    engine_run(host, 100, 20);
    float rows[20 * 2 * 64], out[20 * 4 * 64];
    uint64_t seeds[20];
    seeds_for(seeds, 0, 20);
    anykv_mem *k, *v, *q, *o;
    OK(anykv_mem_create(engine.device, sizeof rows + 64, &k));
    OK(anykv_mem_create(engine.device, sizeof rows, &v));
    OK(anykv_mem_create(engine.device, sizeof out, &q));
    OK(anykv_mem_create(engine.device, sizeof out, &o));
    anykv_step *step = begin_one(device, 20);
    for (uint32_t l = 0; l < 2; l++) {
        const uint32_t heads = l + 1;
        anykv_view k_view = anykv_view_host(NULL, ANYKV_F32, heads, 64), v_view = k_view;
        k_view.mem = k;
        k_view.offset = 64;
        v_view.mem = v;
        engine_rows(seeds, 20, l, 0, heads, 64, rows);
        OK(anykv_mem_put(k, 64, rows, 20u * heads * 64 * 4));
        engine_rows(seeds, 20, l, 1, heads, 64, rows);
        OK(anykv_mem_put(v, 0, rows, 20u * heads * 64 * 4));
        OK(anykv_step_append(step, l, &k_view, &v_view));
        anykv_view q_view = anykv_view_host(NULL, ANYKV_F32, heads * 2, 64), o_view = q_view;
        q_view.mem = q;
        o_view.mem = o;
        memset(out, 0, sizeof out);
        OK(anykv_mem_put(q, 0, out, sizeof out));
        OK(anykv_step_attend(step, l, &q_view, NULL, &o_view));
        OK(anykv_mem_get(o, 0, out, 20u * heads * 2 * 64 * 4));
        cr_expect(out[0] == engine_value(seeds[0], l, 1, 0, 0), "the first token sees itself only");
    }
    OK(anykv_step_end(step, NULL, NULL));
    OK(anykv_cache_wait(engine.cache, UINT64_MAX));
    float a[20 * 64], b[20 * 64];
    const anykv_view a_view = anykv_view_host(a, ANYKV_F32, 1, 64);
    const anykv_view b_view = anykv_view_host(b, ANYKV_F32, 1, 64);
    OK(anykv_seq_gather(host, 0, 1, 0, 20, &a_view));
    OK(anykv_seq_gather(device, 0, 1, 0, 20, &b_view));
    cr_expect_arr_eq(a, b, sizeof a);
    anykv_mem_destroy(k);
    anykv_mem_destroy(v);
    anykv_mem_destroy(q);
    anykv_mem_destroy(o);
    anykv_seq_destroy(host);
    anykv_seq_destroy(device);
    stop();
}

/* ---- bad input ---- */

Test(step, bad_arguments)
{
    start(0, 32);
    anykv_seq *seq = engine_seq(engine.cache), *none = NULL;
    anykv_step *step = (anykv_step *)8;
    uint32_t count = 2;
    REFUSED(ANYKV_E_ARG, "cache", anykv_step_begin(NULL, &seq, &count, 1, &step));
    REFUSED(ANYKV_E_ARG, "seqs", anykv_step_begin(engine.cache, NULL, &count, 1, &step));
    REFUSED(ANYKV_E_ARG, "counts", anykv_step_begin(engine.cache, &seq, NULL, 1, &step));
    REFUSED(ANYKV_E_ARG, "step_out", anykv_step_begin(engine.cache, &seq, &count, 1, NULL));
    REFUSED(ANYKV_E_ARG, "n: 0", anykv_step_begin(engine.cache, &seq, &count, 0, &step));
    REFUSED(ANYKV_E_SHAPE, "n: 5", anykv_step_begin(engine.cache, &seq, &count, 5, &step));
    REFUSED(ANYKV_E_ARG, "seqs[0]: NULL", anykv_step_begin(engine.cache, &none, &count, 1, &step));
    count = 129;
    REFUSED(ANYKV_E_SHAPE, "max_step_tokens",
            anykv_step_begin(engine.cache, &seq, &count, 1, &step));
    count = UINT32_MAX;
    REFUSED(ANYKV_E_SHAPE, "max_step_tokens",
            anykv_step_begin(engine.cache, &seq, &count, 1, &step));
    for (uint32_t i = 0; i < 8; i++)
        engine_run(seq, i * 125, 125);
    count = 25;
    REFUSED(ANYKV_E_SHAPE, "max_seq_tokens",
            anykv_step_begin(engine.cache, &seq, &count, 1, &step));
    cr_expect(step == (anykv_step *)8, "written on failure");
    count = 24;
    OK(anykv_step_begin(engine.cache, &seq, &count, 1, &step));
    float rows[24 * 4 * 64];
    anykv_view view = anykv_view_host(rows, ANYKV_F32, 1, 64);
    REFUSED(ANYKV_E_ARG, "step", anykv_step_append(NULL, 0, &view, &view));
    REFUSED(ANYKV_E_ARG, "layer: 2", anykv_step_append(step, 2, &view, &view));
    REFUSED(ANYKV_E_ARG, "k: NULL", anykv_step_append(step, 0, NULL, &view));
    REFUSED(ANYKV_E_ARG, "v: NULL", anykv_step_append(step, 0, &view, NULL));
    anykv_view bad = view;
    bad.dtype = ANYKV_N4;
    REFUSED(ANYKV_E_ARG, "v.dtype", anykv_step_append(step, 0, &view, &bad));
    bad = view;
    bad.data = NULL;
    REFUSED(ANYKV_E_ARG, "k: neither", anykv_step_append(step, 0, &bad, &view));
    bad = view;
    bad.token_stride = UINT64_MAX;
    REFUSED(ANYKV_E_SHAPE, "k: strides", anykv_step_append(step, 0, &bad, &view));
    bad = view;
    bad.data = (uint8_t *)rows + 1;
    REFUSED(ANYKV_E_ARG, "k", anykv_step_append(step, 0, &bad, &view));
    memset(rows, 0, sizeof rows);
    OK(anykv_step_append(step, 0, &view, &view));
    view = anykv_view_host(rows, ANYKV_F32, 2, 64);
    anykv_attend_params params = ANYKV_ATTEND_PARAMS_INIT;
    float out[24 * 2 * 64];
    const anykv_view to = anykv_view_host(out, ANYKV_F32, 2, 64);
    REFUSED(ANYKV_E_ARG, "step", anykv_step_attend(NULL, 0, &view, NULL, &to));
    REFUSED(ANYKV_E_ARG, "layer: 7", anykv_step_attend(step, 7, &view, NULL, &to));
    REFUSED(ANYKV_E_ARG, "q: NULL", anykv_step_attend(step, 0, NULL, NULL, &to));
    REFUSED(ANYKV_E_ARG, "out: NULL", anykv_step_attend(step, 0, &view, NULL, NULL));
    params.flags = 2;
    REFUSED(ANYKV_E_ARG, "flags: 0x2", anykv_step_attend(step, 0, &view, &params, &to));
    params = (anykv_attend_params)ANYKV_ATTEND_PARAMS_INIT;
    params.scale = NAN;
    REFUSED(ANYKV_E_ARG, "scale", anykv_step_attend(step, 0, &view, &params, &to));
    params.scale = 0;
    params.cap = -1;
    REFUSED(ANYKV_E_ARG, "cap", anykv_step_attend(step, 0, &view, &params, &to));
    params.cap = 0;
    params.window = 0x80000000u;
    REFUSED(ANYKV_E_ARG, "window", anykv_step_attend(step, 0, &view, &params, &to));
    params.window = 0;
    params.mask = rows;
    params.mask_stride = 23;
    REFUSED(ANYKV_E_SHAPE, "mask_stride: 23", anykv_step_attend(step, 0, &view, &params, &to));
    params.mask = NULL;
    REFUSED(ANYKV_E_ARG, "mask: NULL", anykv_step_attend(step, 0, &view, &params, &to));
    params.size = 1;
    REFUSED(ANYKV_E_ARG, "size", anykv_step_attend(step, 0, &view, &params, &to));
    bad = to;
    bad.head_stride = 63;
    REFUSED(ANYKV_E_SHAPE, "out", anykv_step_attend(step, 0, &view, NULL, &bad));
    REFUSED(ANYKV_E_STATE, "layer 1 are not appended",
            anykv_step_attend(step, 1, &view, NULL, &to));
    REFUSED(ANYKV_E_STATE, "layer 1", anykv_step_end(step, NULL, NULL));
    REFUSED(ANYKV_E_ARG, "step", anykv_step_end(NULL, NULL, NULL));
    anykv_step_cancel(step);
    cr_expect(engine_length(seq) == 1000);
    anykv_seq_destroy(seq);
    stop();
}
