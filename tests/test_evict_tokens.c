/* SPDX-License-Identifier: Apache-2.0 */
/* Eviction of tokens inside sequences: which stay, what attention sees of them, what else changes.
 */
#include "evict_case.h"

#define HEADS 2u

static uint32_t window_of[2]; /* of the layers; all 0 but in one test */

static void begin_cache(anykv_format format, uint32_t threads, bool staged)
{
    anykv_layer layers[2] = {engine_layer(HEADS, DIM, window_of[0]),
                             engine_layer(HEADS, DIM, window_of[1])};
    for (uint32_t l = 0; l < 2; l++)
        layers[l].k_format = layers[l].v_format = format;
    anykv_cache_options options = engine_options(24u << 20);
    options.flags = ANYKV_CACHE_EVICT_TOKENS;
    engine_start_at(&engine, layers, 2, &options, threads, staged);
}

static void by_norm(anykv_format format, bool private_, bool staged, double bound)
{
    begin_cache(format, staged ? 2 : 0, staged);
    anykv_seq *seq = long_seq(private_);
    anykv_evict_params params = ANYKV_EVICT_PARAMS_INIT;
    struct rows_before rows;
    const anykv_stats before = engine_stats(engine.cache);
    note_rows(seq, &rows);
    params.policy = ANYKV_TOKENS_KNORM;
    params.keep = 200;
    params.recent = 40;
    OK(anykv_seq_evict_tokens(seq, &params));
    audit(engine.cache, "after the eviction");
    const anykv_stats after = engine_stats(engine.cache);
    cr_expect_eq(engine_length(seq), ALL);
    cr_expect_eq(after.tokens_evicted,
                 192); /* 200 of 400 to keep; (400 - 40) / 16 = 22 blocks, 21 candidates */
    if (private_)
        cr_expect_eq(
            before.hot_blocks + before.sealed_blocks - after.hot_blocks - after.sealed_blocks, 12);
    if (format == ANYKV_F16)
        check_stays(seq, &rows, &params, 0.0);
    for (int i = 0; i < 20; i++)
        attend_kept(seq, bound);
    uint32_t hot = 0; /* beside the sinks' and the recent tokens' blocks all are sealed, as without
                         an eviction */
    for (uint32_t b = 0; b < akv_blocks_for(engine.cache, seq->length); b++)
        hot += akv_block_kind(akv_pool_block(&engine.cache->pool, akv_seq_table(seq, 0)[b])) ==
               AKV_KIND_HOT;
    cr_expect(format == ANYKV_F16 || hot <= 32 / SIZE + 2, "%u hot blocks", hot);
    audit(engine.cache, "after more tokens");
    anykv_seq_destroy(seq);
    stop();
}

Test(evict_tokens, by_norm_in_place)
{
    by_norm(ANYKV_F16, true, false, 1e-3);
}
Test(evict_tokens, by_norm_from_named_blocks)
{
    by_norm(ANYKV_F16, false, false, 1e-3);
}
Test(evict_tokens, by_norm_staged)
{
    by_norm(ANYKV_F16, false, true, 1e-3);
}
Test(evict_tokens, by_norm_packed)
{
    by_norm(ANYKV_I8, true, false, 0.1);
    by_norm(ANYKV_N4, false, false, 1.0);
}

/* Every policy, one after the other on a sequence that goes on: what stays has the largest scores.
 */
static void each_policy(anykv_format format, double near, double bound)
{
    static const anykv_dtype dtypes[] = {ANYKV_F32, ANYKV_F16, ANYKV_BF16};
    begin_cache(format, 0, false);
    for (uint32_t n = 0; n < 13; n++) {
        anykv_seq *seq = long_seq(n % 2);
        anykv_evict_params params = ANYKV_EVICT_PARAMS_INIT;
        struct rows_before before;
        params.policy = n < 7    ? (anykv_token_policy)(ANYKV_TOKENS_WINDOW + n)
                        : n < 11 ? ANYKV_TOKENS_MASS
                                 : ANYKV_TOKENS_RATIO;
        params.flags = n == 7 || n == 11 ? ANYKV_EVICT_SHARED : 0;
        params.recent = 64;
        params.pool = n == 7 ? 5 : 0;
        params.scale = n == 9 ? 0.05f : 0.0f;
        params.cap = n == 10 ? 1.5f : 0.0f;
        for (uint32_t round = 0; round < 3; round++) {
            /* Later, queries whose own rows are there. */
            params.queries = n == 8 ? 1 : round ? 60 : QUERIES;
            params.keep = 300 - round * 60;
            give(&params, dtypes[(n + round) % 3]);
            if (n == 12)
                params.bias = NULL;
            note_rows(seq, &before);
            OK(anykv_seq_evict_tokens(seq, &params));
            audit(engine.cache, "after an eviction");
            check_stays(seq, &before, &params, near);
            uint32_t a[ROWS], b[ROWS];
            const uint32_t rows = kept_of(seq, 1, 0, a);
            cr_assert(rows >= params.keep && rows < params.keep + 16 + round, "policy %d: %u rows",
                      (int)params.policy, rows);
            kept_of(seq, 1, 1, b);
            if (params.flags & ANYKV_EVICT_SHARED)
                cr_assert_arr_eq(a, b, rows * sizeof *a);
            attend_kept(seq, bound);
        }
        anykv_seq_destroy(seq);
    }
    stop();
}

Test(evict_tokens, every_policy)
{
    each_policy(ANYKV_F16, 1e-4, 1e-3);
}
Test(evict_tokens, every_policy_packed)
{
    each_policy(ANYKV_I8, 0.02, 0.2);
}

Test(evict_tokens, scores_decide_and_nan_stays)
{
    begin_cache(ANYKV_F16, 0, false);
    anykv_seq *seq = long_seq(true);
    struct rows_before before;
    anykv_evict_params params = ANYKV_EVICT_PARAMS_INIT;
    give(&params, ANYKV_F32);
    for (uint32_t i = 0; i < KV * ROWS; i++)
        given.scores[i] = i % 37 == 0 ? NAN : (float)(i * 7919 % 51) - 25.0f;
    params.policy = ANYKV_TOKENS_SCORES;
    params.recent = 32;
    for (params.keep = 130; params.keep >= 98; params.keep -= 32) {
        note_rows(seq, &before);
        OK(anykv_seq_evict_tokens(seq, &params));
        check_stays(seq, &before, &params, 0.0);
    }
    anykv_seq_destroy(seq);
    stop();
}

Test(evict_tokens, forks_cuts_and_names)
{
    begin_cache(ANYKV_I8, 0, false);
    anykv_seq *seq = long_seq(false), *fork, *other = engine_seq(engine.cache);
    anykv_evict_params params = ANYKV_EVICT_PARAMS_INIT;
    uint32_t kept[1024], same[1024], tokens[ALL];
    uint64_t matched;
    float rows[HEADS * DIM];
    anykv_view view = anykv_view_host(rows, ANYKV_F32, HEADS, DIM);
    params.policy = ANYKV_TOKENS_KEYDIFF;
    params.keep = 150;
    params.recent = 64;
    OK(anykv_seq_fork(seq, &fork)); /* shares all blocks: the eviction copies */
    OK(anykv_seq_evict_tokens(seq, &params));
    cr_expect_eq(kept_of(fork, 0, 0, kept), ALL);
    attend_kept(fork, 0.2);
    attend_kept(seq, 0.2);
    anykv_seq_destroy(fork);
    OK(anykv_seq_fork(seq, &fork));
    const uint32_t n = kept_of(seq, 1, 1, kept);
    cr_expect_eq(kept_of(fork, 1, 1, same), n);
    cr_expect_arr_eq(kept, same, n * sizeof *kept);
    attend_kept(fork, 0.2);
    audit(engine.cache, "with a fork");

    /* What others may find is what was there before. */
    for (uint32_t i = 0; i < ALL; i++)
        tokens[i] = i;
    OK(anykv_seq_match(other, tokens, ALL, &matched));
    cr_expect_eq(matched, ALL - 16);
    attend_kept(other, 0.2);
    REFUSED(ANYKV_E_STATE, "names nothing", anykv_seq_name(seq, tokens, 1));

    REFUSED(ANYKV_E_NOT_FOUND, "evicted", anykv_seq_trim(seq, 200));
    REFUSED(ANYKV_E_NOT_FOUND, "evicted", anykv_seq_gather(seq, 0, 0, 200, 1, &view));
    REFUSED(ANYKV_E_STATE, "evicted", anykv_seq_remove(seq, 0, 16));
    OK(anykv_seq_gather(seq, 0, 0, 395, 1, &view));
    cr_expect_float_eq(rows[5], row(395, 0, 0, 0, 5), 1e-3);
    OK(anykv_seq_trim(seq, 390));
    cr_expect_eq(engine_length(seq), 390);
    attend_kept(seq, 0.2);
    OK(anykv_seq_trim(seq, 16));
    cr_expect_eq(engine_length(seq), 16);
    cr_expect_eq(kept_of(seq, 0, 0, kept), 16);
    attend_kept(seq, 0.2);
    anykv_seq_destroy(seq);
    anykv_seq_destroy(fork);
    anykv_seq_destroy(other);
    stop();
}

Test(evict_tokens, refusals)
{
    begin_cache(ANYKV_I8, 0, false);
    anykv_seq *seq = long_seq(false);
    anykv_evict_params params = ANYKV_EVICT_PARAMS_INIT;
    uint64_t count = 3;
    uint32_t kept[4];
    REFUSED(ANYKV_E_ARG, "seq: NULL", anykv_seq_evict_tokens(NULL, &params));
    params.recent = 31;
    REFUSED(ANYKV_E_ARG, "recent", anykv_seq_evict_tokens(seq, &params));
    params.recent = 32;
    params.policy = (anykv_token_policy)8;
    REFUSED(ANYKV_E_ARG, "policy", anykv_seq_evict_tokens(seq, &params));
    params.policy = ANYKV_TOKENS_SCORES;
    REFUSED(ANYKV_E_ARG, "scores", anykv_seq_evict_tokens(seq, &params));
    params.policy = ANYKV_TOKENS_AFFINE;
    REFUSED(ANYKV_E_ARG, "weights", anykv_seq_evict_tokens(seq, &params));
    params.policy = ANYKV_TOKENS_MASS;
    REFUSED(ANYKV_E_ARG, "queries", anykv_seq_evict_tokens(seq, &params));
    params.policy = ANYKV_TOKENS_KNORM;
    params.flags = 4;
    REFUSED(ANYKV_E_ARG, "flags", anykv_seq_evict_tokens(seq, &params));
    params.flags = 0;
    params.pool = 4;
    REFUSED(ANYKV_E_ARG, "pool", anykv_seq_evict_tokens(seq, &params));
    params.pool = 0;
    REFUSED(ANYKV_E_SHAPE, "400", anykv_seq_kept(seq, 0, 0, kept, &count));
    cr_expect_eq(count, 400);
    REFUSED(ANYKV_E_ARG, "layer", anykv_seq_kept(seq, 2, 0, kept, &count));
    REFUSED(ANYKV_E_ARG, "head", anykv_seq_kept(seq, 0, HEADS, kept, &count));
    params.keep = 400;
    OK(anykv_seq_evict_tokens(seq, &params)); /* nothing to do */
    cr_expect_eq(engine_stats(engine.cache).tokens_evicted, 0);
    anykv_step *step = begin_one(seq, 1);
    params.keep = 100;
    REFUSED(ANYKV_E_STATE, "open step", anykv_seq_evict_tokens(seq, &params));
    anykv_step_cancel(step);
    OK(anykv_seq_evict_tokens(seq, &params));
    anykv_attend_params window = ANYKV_ATTEND_PARAMS_INIT;
    uint64_t seed = 1;
    float out[2 * HEADS * DIM];
    window.window = 64;
    step = begin_one(seq, 1);
    OK(engine_append(step, &seed));
    REFUSED(ANYKV_E_UNSUPPORTED, "window", attend_layer(step, 0, &window, out));
    anykv_step_cancel(step);
    anykv_seq_destroy(seq);
    stop();
}

static void begin_limited(uint32_t policy, uint32_t budget, uint32_t threads)
{
    anykv_layer layers[2] = {engine_layer(HEADS, DIM, 0), engine_layer(HEADS, DIM, 0)};
    for (uint32_t l = 0; l < 2; l++)
        layers[l].k_format = layers[l].v_format = ANYKV_F16;
    anykv_cache_options options = engine_options(24u << 20);
    options.token_policy = policy;
    options.token_budget = budget;
    options.token_every = 32;
    engine_start_at(&engine, layers, 2, &options, threads, false);
}

/* Sequences that lose tokens by themselves: in prefill, in decoding, beside forks and shared
 * blocks. */
static void by_themselves(uint32_t policy, uint32_t threads)
{
    begin_limited(policy, 160, threads);
    anykv_seq *whole = engine_seq(engine.cache), *few, *copy;
    OK(anykv_seq_limit_tokens(whole, 0));
    for (uint32_t at = 0; at < ALL; at += 100)
        engine_run(whole, at, 100);
    uint32_t kept[1024], tokens[ALL];
    cr_assert_eq(kept_of(whole, 0, 0, kept), ALL);
    for (uint32_t i = 0; i < ALL; i++)
        tokens[i] = i;
    uint64_t matched;
    few = engine_seq(engine.cache); /* shares the first 192 positions, and must not change them */
    OK(anykv_seq_match(few, tokens, 193, &matched));
    cr_assert_eq(matched, 192);
    const anykv_stats before = engine_stats(engine.cache);
    engine_run(few, 192, 100);
    cr_assert(kept_of(few, 0, 0, kept) <= 160 + 16 && engine_length(few) == 292, "%u rows",
              kept_of(few, 0, 0, kept));
    cr_assert(engine_stats(engine.cache).tokens_evicted > before.tokens_evicted);
    audit(engine.cache, "after a chunk");
    attend_kept(whole, 2e-2);
    attend_kept(few, 2e-2);
    OK(anykv_seq_fork(few, &copy));
    uint32_t most = 0;
    for (uint32_t i = 0; i < 80; i++) {
        attend_kept(few, 2e-2);
        const uint32_t rows = kept_of(few, 0, 0, kept);
        most = rows > most ? rows : most;
    }
    cr_assert_eq(most, 160 + 32, "%u rows", most);
    audit(engine.cache, "after decoding");
    attend_kept(copy, 2e-2);
    cr_expect_eq(engine_length(copy), 294);
    for (uint32_t i = 0; i < 10; i++)
        attend_kept(whole, 2e-2);
    cr_expect_eq(kept_of(whole, 0, 0, kept), ALL + 11);
    OK(anykv_seq_limit_tokens(whole, 100)); /* and from now on it, too */
    attend_kept(whole, 2e-2);
    cr_expect(kept_of(whole, 0, 0, kept) <= 100 + 16, "%u rows", kept_of(whole, 0, 0, kept));
    REFUSED(ANYKV_E_ARG, "rows", anykv_seq_limit_tokens(whole, 60));
    anykv_seq_destroy(whole);
    anykv_seq_destroy(few);
    anykv_seq_destroy(copy);
    audit(engine.cache, "at the end");
    stop();
}

Test(evict_tokens, by_themselves)
{
    by_themselves(ANYKV_TOKENS_WINDOW, 0);
    by_themselves(ANYKV_TOKENS_KNORM, 0);
    by_themselves(ANYKV_TOKENS_KEYDIFF, 2);
    by_themselves(ANYKV_TOKENS_RATIO, 0);
}

/* Whatever fails at the end of a step's eviction: the step has ended, and the rows stay or the
 * sequence is dead. */
static void limit_failure(int how)
{
    const uint32_t step = engine_on_processor() ? 1 : 5; /* a call costs a hundred times more */
    uint64_t sites = 1;
    for (uint64_t at = 0; at <= sites; at += step) {
        begin_limited(ANYKV_TOKENS_KEYDIFF, 0, 0);
        anykv_seq *seq = long_seq(true);
        const uint32_t one = 1, token = ALL;
        const uint64_t seed = engine_chain(ALL, ALL);
        uint32_t kept[1024];
        anykv_step *step;
        OK(anykv_seq_limit_tokens(seq, 100));
        OK(anykv_step_begin(engine.cache, &seq, &one, 1, &step));
        OK(engine_append(step, &seed));
        OK(anykv_cache_wait(engine.cache, UINT64_MAX));
        if (how == 0)
            akv_alloc_fail_at(at, false);
        else
            akv_fault_at(at, ANYKV_E_DEVICE, how == 2);
        const anykv_status status = anykv_step_end(step, NULL, &token);
        if (at == 0)
            sites = how == 0 ? akv_alloc_count() : akv_fault_count();
        akv_alloc_fail_at(0, false);
        akv_fault_at(0, ANYKV_OK, false);
        uint64_t length;
        const anykv_status alive = anykv_seq_length(seq, &length);
        const bool calls = how || !engine_on_processor(); /* a launch on a device may allocate */
        cr_assert(status == ANYKV_OK || calls, "site %d: %s", (int)at, anykv_status_name(status));
        cr_assert(alive == ANYKV_OK || (calls && alive == ANYKV_E_DEAD));
        if (alive == ANYKV_OK) {
            const uint32_t rows = kept_of(seq, 0, 0, kept);
            cr_assert(length == ALL + 1 && (at == 0 ? rows <= 116 : rows == ALL + 1 || rows <= 116),
                      "site %d: %u rows", (int)at, rows);
            attend_kept(seq, 2e-2);
            cr_assert(kept_of(seq, 0, 0, kept) <= 100 + 32, "the next step did not try again");
        }
        audit(engine.cache, "after a failure");
        anykv_seq_destroy(seq);
        stop();
    }
    cr_assert(sites > 3);
}

Test(evict_tokens, failures_at_the_end_of_a_step)
{
    for (int how = 0; how < 3; how++)
        limit_failure(how);
}

Test(evict_tokens, refused_budgets)
{
    struct {
        uint32_t policy, budget, recent;
        const char *what;
    } wrong[] = {{0, 200, 32, "token_budget"},
                 {ANYKV_TOKENS_MASS, 200, 32, "token_policy"},
                 {ANYKV_TOKENS_KNORM, 60, 32, "token_budget"},
                 {ANYKV_TOKENS_KNORM, 200, 31, "recent"}};
    begin_cache(ANYKV_F16, 0, false);
    anykv_seq *seq = engine_seq(engine.cache);
    REFUSED(ANYKV_E_STATE, "token_policy", anykv_seq_limit_tokens(seq, 200));
    REFUSED(ANYKV_E_ARG, "seq: NULL", anykv_seq_limit_tokens(NULL, 200));
    for (uint32_t i = 0; i < 4; i++) {
        anykv_cache_options options = engine_options(24u << 20);
        anykv_cache *cache;
        options.token_policy = wrong[i].policy;
        options.token_budget = wrong[i].budget;
        options.recent = wrong[i].recent;
        REFUSED(ANYKV_E_ARG, wrong[i].what,
                anykv_cache_create(engine.device, engine.layout, &options, &cache));
    }
    anykv_seq_destroy(seq);
    stop();
}

/* A layer with a window loses nothing and keeps what it sees; the other loses as always. */
static void with_window(bool private_)
{
    window_of[1] = 70;
    begin_cache(ANYKV_F16, 0, false);
    anykv_seq *seq = long_seq(private_);
    anykv_evict_params params = ANYKV_EVICT_PARAMS_INIT;
    params.policy = ANYKV_TOKENS_KNORM;
    params.keep = 200;
    params.recent = 40;
    struct rows_before before;
    note_rows(seq, &before);
    OK(anykv_seq_evict_tokens(seq, &params));
    audit(engine.cache, "after the eviction");
    check_stays(seq, &before, &params, 0.0);
    for (int i = 0; i < 20; i++)
        attend_kept(seq, 2e-2);
    params.keep = 120; /* once more */
    OK(anykv_seq_evict_tokens(seq, &params));
    for (int i = 0; i < 100; i++)
        attend_kept(seq, 2e-2);
    uint32_t held = 0; /* behind the window's blocks none */
    for (uint32_t b = 0, g = engine.layout->places[1].group; b < seq->table_capacity; b++)
        held += akv_seq_table(seq, g)[b] != AKV_NO_ID;
    cr_expect(held <= (70 + SIZE - 2) / SIZE + 1, "%u blocks", held);
    anykv_seq *copy;
    OK(anykv_seq_fork(seq, &copy));
    attend_kept(copy, 2e-2);
    audit(engine.cache, "after more tokens");
    anykv_seq_destroy(copy);
    anykv_seq_destroy(seq);
    window_of[1] = 0;
    stop();
}

Test(evict_tokens, a_layer_with_a_window)
{
    with_window(true);
    with_window(false);
}

Test(evict_tokens, windows_and_caches_without_room)
{
    anykv_evict_params params = ANYKV_EVICT_PARAMS_INIT;
    start(0, 32);
    anykv_seq *seq = engine_seq(engine.cache);
    REFUSED(ANYKV_E_STATE, "ANYKV_CACHE_EVICT_TOKENS", anykv_seq_evict_tokens(seq, &params));
    anykv_seq_destroy(seq);
    stop();
    anykv_layer layers[2] = {engine_layer(1, 64, 30), engine_layer(2, 64, 40)};
    anykv_cache_options options = engine_options(24u << 20);
    options.flags = ANYKV_CACHE_EVICT_TOKENS;
    engine_start(&engine, layers, 2, &options, 0);
    seq = engine_seq(engine.cache);
    REFUSED(ANYKV_E_UNSUPPORTED, "all have a window", anykv_seq_evict_tokens(seq, &params));
    anykv_seq_destroy(seq);
    stop();
}

static void begin_failures(void)
{
    begin_cache(ANYKV_I8, 0, false);
}
static void fail(bool private_, anykv_token_policy policy, int how)
{
    anykv_evict_params params = ANYKV_EVICT_PARAMS_INIT;
    params.policy = policy;
    params.keep = 150;
    params.recent = 40;
    every_failure(begin_failures, private_, &params, how, 0.2);
}

Test(evict_tokens, every_allocation_fails)
{
    fail(true, ANYKV_TOKENS_KEYDIFF, 0);
    fail(false, ANYKV_TOKENS_KNORM, 0);
}
Test(evict_tokens, every_call_fails)
{
    fail(true, ANYKV_TOKENS_KNORM, 1);
    fail(false, ANYKV_TOKENS_KEYDIFF, 1);
}
Test(evict_tokens, every_call_fails_late)
{
    fail(true, ANYKV_TOKENS_KEYDIFF, 2);
    fail(false, ANYKV_TOKENS_WINDOW, 2);
}
