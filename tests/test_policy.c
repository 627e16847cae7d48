/* SPDX-License-Identifier: Apache-2.0 */
/* Policies and hints in the cache: in which order cached chains go when room is needed. */
#include "engine.h"
#include <math.h>

#define CHAINS 6u
#define LENGTH 64u /* tokens of a chain: four blocks */
#define BLOCKS (LENGTH / 16u)

static struct engine engine;
static double now;
static bool own_clock; /* the cache's own, with which uses are told late */

static double fake_clock(void *user)
{
    return *(double *)user;
}

static void start(anykv_policy policy,
                  void (*score)(void *, const anykv_candidate *, uint32_t, float *))
{
    const anykv_layer layer = engine_layer(1, 64, 0);
    anykv_cache_options options = engine_options(0);
    options.max_step_tokens = 512;
    options.recent = 10000; /* all at 16 bit: every block takes the same bytes */
    options.policy = policy;
    options.clock = own_clock ? NULL : fake_clock;
    options.clock_user = &now;
    options.score = score;
    anykv_context *context = house_context();
    anykv_device *device = engine_device(context, 0);
    anykv_layout *layout = engine_layout(context, &layer, 1);
    anykv_estimate estimate = ANYKV_ESTIMATE_INIT;
    options.budget_bytes = 1u << 30;
    OK(anykv_cache_estimate(device, layout, &options, &estimate));
    options.budget_bytes = estimate.minimum_bytes + 40 * estimate.hot_block_bytes;
    anykv_layout_destroy(layout);
    anykv_device_close(device);
    anykv_context_destroy(context);
    now = 1000.0;
    engine_start(&engine, &layer, 1, &options, 0);
}

static void stop(void)
{
    audit(engine.cache, "at the end");
    engine_stop(&engine);
}

/* The tokens of chain c begin with another number. */
static anykv_seq *chain(uint32_t c)
{
    anykv_seq *seq = engine_seq(engine.cache);
    engine_run(seq, 1000 * (c + 1), LENGTH);
    return seq;
}

static uint32_t blocks_of(uint32_t c)
{
    uint32_t tokens[LENGTH + 1];
    for (uint32_t i = 0; i <= LENGTH; i++)
        tokens[i] = 1000 * (c + 1) + i;
    anykv_seq_options options = ANYKV_SEQ_OPTIONS_INIT;
    options.flags = ANYKV_SEQ_PUBLIC;
    uint64_t matched;
    OK(anykv_cache_lookup(engine.cache, &options, tokens, LENGTH + 1, &matched));
    return (uint32_t)matched / 16;
}

/* A use of the whole chain. */
static void use(uint32_t c)
{
    uint32_t tokens[LENGTH + 1];
    for (uint32_t i = 0; i <= LENGTH; i++)
        tokens[i] = 1000 * (c + 1) + i;
    anykv_seq *seq = engine_seq(engine.cache);
    uint64_t matched;
    OK(anykv_seq_match(seq, tokens, LENGTH + 1, &matched));
    cr_assert(matched == LENGTH, "chain %u: %llu tokens", c, (unsigned long long)matched);
    anykv_seq_destroy(seq);
}

/* Takes room away, block by block, and writes down the chains in the order in which they lost their
 * first block; returns how many lost one before nothing more could go. */
static uint32_t squeeze(uint32_t *order)
{
    anykv_seq *seqs[16];
    uint32_t held[CHAINS], lost = 0, count = 0;
    for (uint32_t c = 0; c < CHAINS; c++)
        held[c] = blocks_of(c);
    for (bool more = true; more && count < 16; count++) {
        anykv_seq_options options = ANYKV_SEQ_OPTIONS_INIT;
        options.flags = ANYKV_SEQ_PRIVATE;
        OK(anykv_seq_create(engine.cache, &options, &seqs[count]));
        for (uint32_t block = 0; more && block < 60; block++) {
            const uint32_t tokens = 16;
            anykv_step *step;
            anykv_status status = anykv_step_begin(engine.cache, &seqs[count], &tokens, 1, &step);
            more = status == ANYKV_OK;
            if (!more) {
                cr_assert(status == ANYKV_E_BUDGET, "%s", anykv_error_detail());
                break;
            }
            uint64_t seeds[16] = {0};
            OK(engine_append(step, seeds));
            OK(anykv_step_end(step, NULL, NULL));
            for (uint32_t c = 0; c < CHAINS; c++) {
                const uint32_t left = blocks_of(c);
                if (left < held[c] && held[c] == BLOCKS)
                    order[lost++] = c;
                held[c] = left;
            }
        }
    }
    while (count--)
        anykv_seq_destroy(seqs[count]);
    return lost;
}

#define EXPECT_ORDER(...)                                                                          \
    do {                                                                                           \
        const uint32_t wanted_[] = {__VA_ARGS__};                                                  \
        const uint32_t count_ = sizeof wanted_ / sizeof *wanted_;                                  \
        uint32_t order_[CHAINS] = {0};                                                             \
        const uint32_t lost_ = squeeze(order_);                                                    \
        cr_expect(lost_ == count_, "%u chains lost blocks, not %u", lost_, count_);                \
        for (uint32_t i_ = 0; i_ < count_ && i_ < lost_; i_++)                                     \
            cr_expect(order_[i_] == wanted_[i_], "chain %u went at place %u, not %u", order_[i_],  \
                      i_, wanted_[i_]);                                                            \
    } while (0)

/* Chains made one a second. */
static void make_chains(void)
{
    for (uint32_t c = 0; c < CHAINS; c++) {
        anykv_seq_destroy(chain(c));
        now += 1.0;
    }
}

Test(policy, lru_order)
{
    start(ANYKV_POLICY_LRU, NULL);
    make_chains();
    use(1);
    use(0);
    EXPECT_ORDER(2, 3, 4, 5, 1, 0);
    stop();
}

/* Uses that the policy is told of late count like others, whether their sequences still live or not. */
Test(policy, late_uses_count)
{
    own_clock = true;
    start(ANYKV_POLICY_LRU, NULL);
    own_clock = false;
    make_chains();
    uint32_t tokens[LENGTH + 1];
    for (uint32_t i = 0; i <= LENGTH; i++)
        tokens[i] = 1000 * (2 + 1) + i;
    anykv_seq *twice[2];
    uint64_t matched;
    for (uint32_t i = 0; i < 2; i++) {
        twice[i] = engine_seq(engine.cache);
        OK(anykv_seq_match(twice[i], tokens, LENGTH + 1, &matched));
    }
    cr_expect(engine.cache->prefix.lates == 1, "%u paths are late, not one", engine.cache->prefix.lates);
    anykv_seq_destroy(twice[0]); /* the other one holds the path: nothing becomes idle */
    cr_expect(engine.cache->prefix.lates == 2);
    use(0);
    anykv_seq_destroy(twice[1]);
    EXPECT_ORDER(1, 3, 4, 5, 0, 2);
    stop();
}

Test(policy, fifo_order)
{
    start(ANYKV_POLICY_FIFO, NULL);
    make_chains();
    use(1);
    use(0);
    EXPECT_ORDER(0, 1, 2, 3, 4, 5);
    stop();
}

Test(policy, lfu_order)
{
    start(ANYKV_POLICY_LFU, NULL);
    make_chains();
    use(1);
    use(0);
    use(1);
    EXPECT_ORDER(2, 3, 4, 5, 0, 1);
    stop();
}

Test(policy, adaptive_order)
{
    start(ANYKV_POLICY_ADAPTIVE, NULL);
    make_chains();
    use(1);
    use(0);
    use(1);
    now += 200.0; /* more than three half-lives: one new use against three old ones */
    use(2);
    EXPECT_ORDER(3, 4, 5, 0, 1, 2);
    stop();
}

Test(policy, gittins_takes_what_is_there)
{
    start(ANYKV_POLICY_GITTINS, NULL);
    make_chains();
    uint32_t order[CHAINS];
    cr_expect(squeeze(order) == CHAINS);
    stop();
}

/* ---- the caller's scores ---- */

static uint32_t scored, calls;

/* The larger the first token's chain, the sooner it goes; an odd one is not a number. */
static void by_idleness(void *user, const anykv_candidate *candidates, uint32_t count,
                        float *scores)
{
    (void)user;
    calls++;
    for (uint32_t i = 0; i < count; i++) {
        cr_assert(candidates[i].tokens == 16 && candidates[i].bytes >= 4096);
        cr_assert(candidates[i].first_position % 16 == 0 && candidates[i].first_position < LENGTH);
        cr_assert(candidates[i].priority == 35);
        scores[i] = (float)candidates[i].idle_seconds; /* the newest goes first */
        scored++;
    }
}

Test(policy, callers_scores)
{
    start(ANYKV_POLICY_CALLER, by_idleness);
    make_chains();
    scored = calls = 0;
    EXPECT_ORDER(5, 4, 3, 2, 1, 0);
    cr_expect(scored == CHAINS * BLOCKS, "%u blocks were scored", scored);
    stop();
}

static void no_number(void *user, const anykv_candidate *candidates, uint32_t count, float *scores)
{
    (void)user;
    for (uint32_t i = 0; i < count; i++)
        scores[i] = candidates[i].idle_seconds > 3.5 ? (float)NAN : 1.0f;
}

Test(policy, a_score_that_is_no_number_is_the_largest)
{
    start(ANYKV_POLICY_CALLER, no_number);
    make_chains();
    uint32_t order[CHAINS];
    cr_expect(squeeze(order) == CHAINS);
    cr_expect(order[4] < 3 && order[5] < 3, "the oldest did not go last");
    stop();
}

Test(policy, bad_options)
{
    const anykv_layer layer = engine_layer(1, 64, 0);
    anykv_context *context = house_context();
    anykv_device *device = engine_device(context, 0);
    anykv_layout *layout = engine_layout(context, &layer, 1);
    anykv_cache_options options = engine_options(16u << 20);
    anykv_cache *cache;
    options.policy = ANYKV_POLICY_CALLER;
    REFUSED(ANYKV_E_ARG, "score: NULL", anykv_cache_create(device, layout, &options, &cache));
    options.policy = ANYKV_POLICY_LRU;
    options.score = by_idleness;
    REFUSED(ANYKV_E_ARG, "score: only", anykv_cache_create(device, layout, &options, &cache));
    anykv_layout_destroy(layout);
    anykv_device_close(device);
    anykv_context_destroy(context);
}

/* ---- hints ---- */

Test(policy, done_ones_go_first_in_their_order)
{
    start(ANYKV_POLICY_ADAPTIVE, NULL);
    for (uint32_t c = 0; c < CHAINS; c++) {
        anykv_seq *seq = chain(c);
        if (c == 4 || c == 2)
            OK(anykv_seq_done(seq));
        anykv_seq_destroy(seq);
        now += 1.0;
    }
    use(4); /* a use undoes it */
    EXPECT_ORDER(2, 0, 1, 3, 5, 4);
    stop();
}

Test(policy, priorities_come_before_the_policy_and_end)
{
    start(ANYKV_POLICY_ADAPTIVE, NULL);
    for (uint32_t c = 0; c < CHAINS; c++) {
        anykv_seq *seq = engine_seq(engine.cache);
        if (c == 0)
            OK(anykv_seq_retain(seq, 0, LENGTH, 90, INFINITY)); /* before it has blocks */
        engine_run(seq, 1000 * (c + 1), LENGTH);
        if (c == 1)
            OK(anykv_seq_retain(seq, 0, LENGTH, 80, 50.0));
        if (c == 2)
            OK(anykv_seq_retain(seq, 0, LENGTH, 90, 5.0)); /* over before it matters */
        if (c == 4)
            OK(anykv_seq_retain(seq, 0, LENGTH, 10, 1000.0));
        anykv_seq_destroy(seq);
        now += 1.0;
    }
    now += 10.0;
    EXPECT_ORDER(4, 2, 3, 5, 1, 0);
    stop();
}

Test(policy, the_higher_of_two_priorities_counts)
{
    start(ANYKV_POLICY_LRU, NULL);
    for (uint32_t c = 0; c < CHAINS; c++) {
        anykv_seq *seq = chain(c);
        if (c == 0) {
            OK(anykv_seq_retain(seq, 0, LENGTH, 80, 1000.0));
            anykv_seq *other = engine_seq(engine.cache);
            engine_run(other, 1000, LENGTH);
            OK(anykv_seq_retain(other, 0, LENGTH, 0, 1000.0));
            anykv_seq_destroy(other);
        }
        anykv_seq_destroy(seq);
    }
    EXPECT_ORDER(1, 2, 3, 4, 5, 0);
    stop();
}

/* Only the range's blocks: a chain's end goes early, its start stays. */
Test(policy, priorities_hold_for_a_range)
{
    start(ANYKV_POLICY_LRU, NULL);
    anykv_seq *first = chain(0);
    OK(anykv_seq_retain(first, 0, 20, 100, 1000.0)); /* touches two blocks */
    anykv_seq_destroy(first);
    for (uint32_t c = 1; c < CHAINS; c++)
        anykv_seq_destroy(chain(c));
    const struct akv_prefix *prefix = &engine.cache->prefix;
    uint32_t high = 0;
    for (uint32_t node = 0; node < prefix->capacity; node++)
        if (prefix->nodes[node].used && prefix->evict.entry[node].band == 100) {
            cr_expect(prefix->nodes[node].depth < 2);
            high++;
        }
    cr_expect(high == 2, "%u blocks have the priority", high);
    EXPECT_ORDER(0, 1, 2, 3, 4, 5);
    stop();
}

/* Many leases that are over stand in the way of no step: it needs all of their blocks. */
Test(policy, many_leases_end_at_once)
{
    start(ANYKV_POLICY_LRU, NULL);
    for (uint32_t c = 0; c < 9; c++) {
        anykv_seq *seq = chain(c);
        OK(anykv_seq_lease(seq, 10.0));
        anykv_seq_destroy(seq);
    }
    anykv_seq *seq = engine_seq(engine.cache);
    const uint32_t count = 512;
    anykv_step *step;
    REFUSED(ANYKV_E_BUDGET, "budget_bytes", anykv_step_begin(engine.cache, &seq, &count, 1, &step));
    now += 11.0;
    OK(anykv_step_begin(engine.cache, &seq, &count, 1, &step));
    anykv_step_cancel(step);
    cr_expect(engine_stats(engine.cache).budget_refusals == 1);
    anykv_seq_destroy(seq);
    stop();
}

Test(policy, leases_end_by_themselves)
{
    start(ANYKV_POLICY_LRU, NULL);
    for (uint32_t c = 0; c < CHAINS; c++) {
        anykv_seq *seq = engine_seq(engine.cache);
        if (c == 0) {
            OK(anykv_seq_lease(seq, 5.0));
            OK(anykv_seq_lease(seq, 100.0)); /* extends */
            OK(anykv_seq_lease(seq, 50.0));  /* does not shorten */
        }
        engine_run(seq, 1000 * (c + 1), LENGTH);
        if (c == 1)
            OK(anykv_seq_lease(seq, 10.0));
        anykv_seq_destroy(seq);
    }
    now += 60.0;
    EXPECT_ORDER(1, 2, 3, 4, 5); /* then only leased blocks are left */
    cr_expect(blocks_of(0) == BLOCKS);
    now += 50.0;
    OK(anykv_cache_trim_memory(engine.cache));
    cr_expect(blocks_of(0) == 0);
    stop();
}

Test(policy, expected_ones_stay)
{
    start(ANYKV_POLICY_ADAPTIVE, NULL);
    for (uint32_t c = 0; c < CHAINS; c++) {
        anykv_seq *seq = chain(c);
        if (c == 1)
            OK(anykv_seq_done(seq));
        if (c == 0)
            OK(anykv_seq_expect(seq, 20.0)); /* within a half-life of 60 s */
        if (c == 1)
            OK(anykv_seq_expect(seq, 10.0)); /* undoes done */
        if (c == 2)
            OK(anykv_seq_expect(seq, 1000.0)); /* far: ages like the others until then */
        anykv_seq_destroy(seq);
        now += 1.0;
    }
    EXPECT_ORDER(2, 3, 4, 5, 1, 0);
    stop();
}

Test(policy, far_expectations_come_near)
{
    start(ANYKV_POLICY_ADAPTIVE, NULL);
    for (uint32_t c = 0; c < CHAINS; c++) {
        anykv_seq *seq = chain(c);
        if (c == 2)
            OK(anykv_seq_expect(seq, 1000.0));
        anykv_seq_destroy(seq);
        now += 1.0;
    }
    now += 980.0;
    EXPECT_ORDER(0, 1, 3, 4, 5, 2);
    stop();
}

Test(policy, bad_hints)
{
    start(ANYKV_POLICY_LRU, NULL);
    anykv_seq *seq = chain(0);
    REFUSED(ANYKV_E_ARG, "priority: 101", anykv_seq_retain(seq, 0, 16, 101, 1.0));
    REFUSED(ANYKV_E_ARG, "seconds: 0", anykv_seq_retain(seq, 0, 16, 50, 0.0));
    REFUSED(ANYKV_E_ARG, "seconds", anykv_seq_retain(seq, 0, 16, 50, NAN));
    REFUSED(ANYKV_E_ARG, "first, count", anykv_seq_retain(seq, 1024, 1, 50, 1.0));
    REFUSED(ANYKV_E_ARG, "first, count", anykv_seq_retain(seq, 1, UINT64_MAX, 50, 1.0));
    REFUSED(ANYKV_E_ARG, "seq", anykv_seq_retain(NULL, 0, 16, 50, 1.0));
    OK(anykv_seq_retain(seq, 2000 % 1024, 0, 50, 1.0)); /* of nothing */
    for (uint32_t i = 0; i < 8; i++)
        OK(anykv_seq_retain(seq, 16 * i, 16, 50, 10.0));
    OK(anykv_seq_retain(seq, 0, 16, 50, 10.0)); /* the same again */
    REFUSED(ANYKV_E_ARG, "8 ranges", anykv_seq_retain(seq, 160, 16, 50, 10.0));
    now += 11.0;
    OK(anykv_seq_retain(seq, 160, 16, 50, 10.0));
    REFUSED(ANYKV_E_ARG, "seconds: 0", anykv_seq_lease(seq, 0.0));
    REFUSED(ANYKV_E_ARG, "seconds: inf", anykv_seq_lease(seq, INFINITY));
    REFUSED(ANYKV_E_ARG, "seq", anykv_seq_lease(NULL, 1.0));
    REFUSED(ANYKV_E_ARG, "seconds: -1", anykv_seq_expect(seq, -1.0));
    REFUSED(ANYKV_E_ARG, "seconds", anykv_seq_expect(seq, NAN));
    REFUSED(ANYKV_E_ARG, "seq", anykv_seq_expect(NULL, 1.0));
    anykv_seq_destroy(seq);
    stop();
}
