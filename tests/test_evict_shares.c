/* SPDX-License-Identifier: Apache-2.0 */
/* Eviction of tokens with shares: kv heads declared as layers of their own compete for the same
 * bytes. */
#include "evict_case.h"

#define FIRST  16u /* the candidates, with 40 recent tokens: blocks 1 … 21 */
#define END    352u
#define BLOCKS ((END - FIRST) / SIZE)
#define SHARE  9u /* blocks of them that `keep` leaves each layer */
#define KEEP   (ALL - (END - FIRST) + SHARE * SIZE)

/* Layers of a model, or the kv heads of two as a caller would declare them. */
struct shape {
    uint32_t layers, heads[KV];
};
static const struct shape alone = {4, {1, 1, 1, 1}}, unlike = {3, {1, 2, 1}};

static void begin_cache(const struct shape *shape, anykv_format format, uint32_t flags)
{
    anykv_layer layers[KV];
    anykv_cache_options options = engine_options(24u << 20);
    options.flags = ANYKV_CACHE_EVICT_TOKENS;
    anykv_layout_options identity = ANYKV_LAYOUT_OPTIONS_INIT;
    identity.weights = "test";
    identity.weights_bytes = 4;
    identity.flags = flags;
    for (uint32_t l = 0; l < shape->layers; l++) {
        layers[l] = engine_layer(shape->heads[l], DIM, 0);
        layers[l].k_format = layers[l].v_format = format;
    }
    engine.context = house_context();
    engine.device = engine_device(engine.context, 0);
    OK(anykv_layout_create(engine.context, layers, shape->layers, &identity, &engine.layout));
    cr_assert_eq(engine.layout->group_count, flags ? shape->layers : 1);
    OK(anykv_cache_create(engine.device, engine.layout, &options, &engine.cache));
}

/* ---- what stays, worked out again ---- */

static int larger_first(const void *a, const void *b)
{
    const double x = *(const double *)a, y = *(const double *)b;
    return x < y ? 1 : x > y ? -1 : 0;
}

/* value[k]: of the k-th block of a layer: the middle score of its 16 rows, the best rows first;
 * over several heads the mean in the order of floats' bits, towards zero. */
static void block_values(const struct shape *shape, uint32_t layer, const float *scores,
                         int64_t *value)
{
    double sorted[END - FIRST];
    uint32_t head = 0;
    for (uint32_t l = 0; l < layer; l++)
        head += shape->heads[l];
    memset(value, 0, BLOCKS * sizeof *value);
    for (uint32_t h = head; h < head + shape->heads[layer]; h++) {
        for (uint32_t r = 0; r < END - FIRST; r++)
            sorted[r] = (double)scores[h * ALL + FIRST + r];
        qsort(sorted, END - FIRST, sizeof *sorted, larger_first);
        for (uint32_t k = 0; k < BLOCKS; k++) {
            const float middle = (float)sorted[k * SIZE + SIZE / 2];
            int32_t bits;
            memcpy(&bits, &middle, 4);
            value[k] += middle < 0.0f ? bits ^ 0x7FFFFFFF : bits;
        }
    }
    for (uint32_t k = 0; k < BLOCKS; k++)
        value[k] /= (int64_t)shape->heads[layer];
}

/* Blocks of each layer of a set: a fifth of the share, then the blocks of the largest value as long
 * as all of a value fit, then of the next value those of the first layers. */
static void expect_shares(const struct shape *shape, const float *scores, const uint32_t *sets,
                          uint32_t set, uint32_t *blocks)
{
    int64_t value[KV][BLOCKS], best = 0;
    uint32_t left = 0;
    for (uint32_t l = 0; l < shape->layers; l++) {
        block_values(shape, l, scores, value[l]);
        if (sets[l] == set) {
            blocks[l] = (SHARE + 4) / 5;
            left += shape->heads[l] * (SHARE - blocks[l]);
        }
    }
    for (bool all = true; all && left;) {
        bool any = false;
        for (uint32_t l = 0; l < shape->layers; l++)
            if (sets[l] == set && blocks[l] < BLOCKS && (!any || value[l][blocks[l]] > best)) {
                best = value[l][blocks[l]];
                any = true;
            }
        all = any;
        for (uint32_t l = 0; l < shape->layers; l++)
            while (sets[l] == set && blocks[l] < BLOCKS && value[l][blocks[l]] == best) {
                if (left < shape->heads[l]) {
                    all = false;
                    break;
                }
                left -= shape->heads[l];
                blocks[l]++;
            }
    }
}

enum pattern {
    LAYER_BY_LAYER, /* ever larger */
    TIES,           /* three values: many blocks are worth the same */
    FEW,            /* two blocks and a half of the first head are worth more than any other */
    PATTERNS
};
static float score_of(enum pattern pattern, uint32_t head, uint32_t position)
{
    return pattern == LAYER_BY_LAYER
               ? (float)((position * 7919 + head) % 51) + (float)(head * head) * 9.0f
           : pattern == TIES ? (float)((position * 7919 + head) % 3 + head % 2)
           : head == 0       ? (position % 8 == 1 && position >= FIRST && position < FIRST + 40 * 8
                                    ? 1000.0f
                                    : (float)(position % 90))
                             : (float)(100 + position * 7919 % (97 + head));
}

static void by_scores(const struct shape *shape, enum pattern pattern, bool private_,
                      anykv_format format, const uint32_t *share, double bound)
{
    static float scores[KV * ALL];
    const uint32_t one_set[KV] = {0};
    uint32_t blocks[KV], kept[ROWS], gone = 0, gone_rows = 0, heads = 0;
    struct rows_before rows;
    begin_cache(shape, format, ANYKV_LAYOUT_APART);
    anykv_seq *seq = long_seq(private_), *fork;
    for (uint32_t h = 0; h < KV; h++)
        for (uint32_t p = 0; p < ALL; p++)
            given.scores[h * ALL + p] = scores[h * ALL + p] = score_of(pattern, h, p);
    anykv_evict_params params = ANYKV_EVICT_PARAMS_INIT;
    params.policy = ANYKV_TOKENS_SCORES;
    params.scores = scores;
    params.flags = ANYKV_EVICT_ADAPTIVE;
    params.keep = KEEP;
    params.recent = 40;
    params.share = share;
    const anykv_stats before = engine_stats(engine.cache);
    OK(anykv_seq_fork(seq, &fork));
    anykv_seq_destroy(fork);
    note_rows(seq, &rows);
    OK(anykv_seq_evict_tokens(seq, &params));
    audit(engine.cache, "after the eviction");
    const anykv_stats after = engine_stats(engine.cache);
    for (uint32_t set = 0; set < 2; set++)
        expect_shares(shape, scores, share ? share : one_set, set, blocks);
    for (uint32_t l = 0; l < shape->layers; l++) {
        const uint32_t n = kept_of(seq, l, 0, kept);
        cr_assert_eq(n, ALL - (END - FIRST) + blocks[l] * SIZE,
                     "layer %u: %u rows, %u blocks expected", l, n, blocks[l]);
        gone += BLOCKS - blocks[l];
        gone_rows += shape->heads[l] * (BLOCKS - blocks[l]) * SIZE;
        heads += shape->heads[l];
    }
    check_stays(seq, &rows, &params, 0.0);
    cr_expect_eq(after.tokens_evicted, gone_rows / heads);
    if (private_)
        cr_expect_eq(before.hot_blocks + before.sealed_blocks - after.hot_blocks -
                         after.sealed_blocks,
                     gone);
    for (int i = 0; i < 20; i++)
        attend_kept(seq, bound);
    OK(anykv_seq_fork(seq, &fork));
    attend_kept(fork, bound);
    attend_kept(seq, bound);
    audit(engine.cache, "with a fork");
    /* All of it once more, with what came since; then an equal share of what is left. */
    static const anykv_token_policy policies[] = {ANYKV_TOKENS_KEYDIFF, ANYKV_TOKENS_KNORM,
                                                  ANYKV_TOKENS_SCORES, ANYKV_TOKENS_KEYDIFF};
    params.scores = given.scores;
    for (uint32_t round = 0; round < 4; round++) {
        params.keep = KEEP - 32 * round;
        params.flags = round == 3 ? 0 : ANYKV_EVICT_ADAPTIVE;
        params.policy = policies[round];
        params.sinks = 4 + 36 * round; /* beyond what a layer kept */
        note_rows(seq, &rows);
        OK(anykv_seq_evict_tokens(seq, &params));
        audit(engine.cache, "after another eviction");
        if (format == ANYKV_F16)
            check_stays(seq, &rows, &params, 1e-6);
        for (int i = 0; i < 3; i++)
            attend_kept(seq, bound);
        attend_kept(fork, bound);
    }
    OK(anykv_seq_trim(seq, engine_length(seq) - 10));
    attend_kept(seq, bound);
    OK(anykv_seq_trim(seq, 16));
    attend_kept(seq, bound);
    audit(engine.cache, "after a cut");
    anykv_seq_destroy(seq);
    anykv_seq_destroy(fork);
    stop();
}

static const uint32_t pairs[KV] = {0, 0, 1, 1};

Test(evict_shares, across_the_heads_of_a_layer)
{
    for (int pattern = 0; pattern < PATTERNS; pattern++)
        by_scores(&alone, (enum pattern)pattern, true, ANYKV_F16, pairs, 1e-3);
}
Test(evict_shares, across_all)
{
    for (int pattern = 0; pattern < PATTERNS; pattern++)
        by_scores(&alone, (enum pattern)pattern, true, ANYKV_F16, NULL, 1e-3);
}
Test(evict_shares, across_layers_with_more_heads)
{
    for (int pattern = 0; pattern < PATTERNS; pattern++)
        by_scores(&unlike, (enum pattern)pattern, true, ANYKV_F16, NULL, 1e-3);
}
Test(evict_shares, from_named_blocks)
{
    by_scores(&alone, LAYER_BY_LAYER, false, ANYKV_F16, pairs, 1e-3);
    by_scores(&alone, TIES, false, ANYKV_F16, NULL, 1e-3);
}
Test(evict_shares, packed)
{
    by_scores(&alone, LAYER_BY_LAYER, true, ANYKV_I8, NULL, 0.1);
    by_scores(&unlike, FEW, false, ANYKV_N4, pairs, 1.0);
}

/* No layer would give a block for the next one of another: what it is worth least of its own beyond
 * the fifth, against what the other's next is worth.  A kv head a layer. */
static void check_shares(const anykv_seq *seq, const struct rows_before *before,
                         const anykv_evict_params *params, double near)
{
    double last[KV], next[KV], spread = 0.0;
    uint32_t kept[ROWS], stay[KV], have[KV], total = 0, all = 0;
    const uint32_t rest = SIZE + params->recent + (before->slots - params->recent) % SIZE;
    const uint32_t share =
        params->keep > rest ? (uint32_t)(params->keep - rest + SIZE - 1) / SIZE : 0;
    const uint32_t sure = (share + 4) / 5;
    for (uint32_t l = 0; l < KV; l++) {
        double value[ROWS];
        const uint32_t units = values_of(before, params, l, 0, value);
        const double each = spread_of(value, units);
        spread = each > spread ? each : spread;
        qsort(value, units, sizeof *value, larger_first);
        have[l] = (region_end(before, params, l) - region_first(before, params, l)) / SIZE;
        stay[l] = have[l] - (before->n[l] - kept_of(seq, l, 0, kept)) / SIZE;
        const uint32_t step = units / have[l], middle = step / 2;
        next[l] = stay[l] < have[l] ? value[stay[l] * step + middle] : -INFINITY;
        last[l] = stay[l] > sure ? value[(stay[l] - 1) * step + middle] : INFINITY;
        cr_assert(stay[l] >= (sure < have[l] ? sure : have[l]));
        total += stay[l];
        all += have[l];
    }
    cr_assert_eq(total, KV * share < all ? KV * share : all,
                 "policy %d: %u blocks of %u, the share is %u", (int)params->policy, total, all,
                 share);
    for (uint32_t a = 0; a < KV; a++)
        for (uint32_t b = 0; b < KV; b++)
            cr_assert(next[a] <= last[b] + near * spread,
                      "policy %d: layer %u has %u blocks, layer %u %u", (int)params->policy, a,
                      stay[a], b, stay[b]);
}

/* Every policy that has scores, three times on a sequence that goes on. */
Test(evict_shares, every_policy)
{
    begin_cache(&alone, ANYKV_F16, ANYKV_LAYOUT_APART);
    for (uint32_t n = 0; n < 12; n++) {
        anykv_seq *seq = long_seq(n >= 6);
        anykv_evict_params params = ANYKV_EVICT_PARAMS_INIT;
        struct rows_before before;
        params.policy = (anykv_token_policy)(ANYKV_TOKENS_KNORM + n % 6);
        params.flags = ANYKV_EVICT_ADAPTIVE;
        params.recent = 64;
        params.pool = n >= 6 ? 101 : 0;
        for (uint32_t round = 0; round < 3; round++) {
            params.queries = round ? 60 : QUERIES;
            params.keep = n >= 6 ? 180 + round * 60 : 300 - round * 60;
            give(&params, ANYKV_F32);
            note_rows(seq, &before);
            OK(anykv_seq_evict_tokens(seq, &params));
            audit(engine.cache, "after an eviction");
            check_stays(seq, &before, &params, 1e-4);
            check_shares(seq, &before, &params, 1e-4);
            attend_kept(seq, 1e-3);
            engine_run(seq, (uint32_t)engine_length(seq), 80);
        }
        anykv_seq_destroy(seq);
    }
    stop();
}

Test(evict_shares, refusals)
{
    const uint32_t share[KV] = {0, 0, 1, 1};
    for (uint32_t apart = 0; apart < 2; apart++) {
        begin_cache(&alone, ANYKV_F16, apart ? ANYKV_LAYOUT_APART : 0);
        anykv_seq *seq = long_seq(true);
        anykv_evict_params params = ANYKV_EVICT_PARAMS_INIT;
        params.flags = ANYKV_EVICT_ADAPTIVE;
        params.keep = 200;
        REFUSED(ANYKV_E_ARG, "WINDOW", anykv_seq_evict_tokens(seq, &params));
        params.policy = ANYKV_TOKENS_KNORM;
        params.share = share;
        if (!apart)
            REFUSED(ANYKV_E_ARG, "share[2]", anykv_seq_evict_tokens(seq, &params));
        params.share = NULL;
        OK(anykv_seq_evict_tokens(seq, &params)); /* where blocks are not apart shares are equal */
        attend_kept(seq, 1e-3);
        anykv_seq_destroy(seq);
        stop();
    }
    anykv_layer layer = engine_layer(1, DIM, 0);
    anykv_layout_options options = ANYKV_LAYOUT_OPTIONS_INIT;
    anykv_layout *layout;
    anykv_context *context = house_context();
    options.weights = "test";
    options.weights_bytes = 4;
    options.flags = 2;
    REFUSED(ANYKV_E_ARG, "flags: 0x2", anykv_layout_create(context, &layer, 1, &options, &layout));
    anykv_context_destroy(context);
}

static void begin_failures(void)
{
    begin_cache(&alone, ANYKV_F16, ANYKV_LAYOUT_APART);
}
static void fail(bool private_, anykv_token_policy policy, int how)
{
    anykv_evict_params params = ANYKV_EVICT_PARAMS_INIT;
    params.policy = policy;
    params.flags = ANYKV_EVICT_ADAPTIVE;
    params.keep = 150;
    params.recent = 40;
    every_failure(begin_failures, private_, &params, how, 1e-3);
}

Test(evict_shares, every_failure)
{
    fail(true, ANYKV_TOKENS_KEYDIFF, 0);
    fail(false, ANYKV_TOKENS_KNORM, 0);
    for (int late = 0; late < 2; late++) {
        fail(true, ANYKV_TOKENS_KNORM, 1 + late);
        fail(false, ANYKV_TOKENS_KEYDIFF, 1 + late);
    }
}
