/* SPDX-License-Identifier: Apache-2.0 */
/* Eviction of tokens with shares: kv heads declared as layers of their own compete for the same
 * bytes. */
#include "steps.h"

#define LAYERS 4u /* two layers of two kv heads each, as a caller would declare them */
#define DIM    64u
#define ALL    400u
#define SIZE   16u
#define FIRST  16u /* the candidates, with 40 recent tokens: blocks 1 … 21 */
#define END    352u
#define SHARE  9u /* blocks of them that `keep` leaves each layer */
#define KEEP   (ALL - (END - FIRST) + SHARE * SIZE)

static void begin_cache(anykv_format format, uint32_t flags)
{
    anykv_layer layers[LAYERS];
    anykv_cache_options options = engine_options(24u << 20);
    options.flags = ANYKV_CACHE_EVICT_TOKENS;
    anykv_layout_options identity = ANYKV_LAYOUT_OPTIONS_INIT;
    identity.weights = "test";
    identity.weights_bytes = 4;
    identity.flags = flags;
    for (uint32_t l = 0; l < LAYERS; l++) {
        layers[l] = engine_layer(1, DIM, 0);
        layers[l].k_format = layers[l].v_format = format;
    }
    engine.context = house_context();
    engine.device = engine_device(engine.context, 0);
    OK(anykv_layout_create(engine.context, layers, LAYERS, &identity, &engine.layout));
    cr_assert_eq(engine.layout->group_count, flags ? LAYERS : 1);
    OK(anykv_cache_create(engine.device, engine.layout, &options, &engine.cache));
}

static anykv_seq *long_seq(bool private_)
{
    anykv_seq_options options = ANYKV_SEQ_OPTIONS_INIT;
    options.flags = private_ ? ANYKV_SEQ_PRIVATE : ANYKV_SEQ_PUBLIC;
    anykv_seq *seq;
    OK(anykv_seq_create(engine.cache, &options, &seq));
    for (uint32_t at = 0; at < ALL; at += 100)
        engine_run(seq, at, 100);
    return seq;
}

static float row(uint32_t position, uint32_t layer, int side, uint32_t i)
{
    return engine_value(engine_chain(position, position), layer, side, 0, i);
}

static uint32_t kept_of(const anykv_seq *seq, uint32_t layer, uint32_t *positions)
{
    uint64_t count = 1024;
    OK(anykv_seq_kept(seq, layer, 0, positions, &count));
    return (uint32_t)count;
}

/* Runs a token and compares its attention with that over the positions that are said to be kept. */
static void attend_kept(anykv_seq *seq, double bound)
{
    const uint32_t position = (uint32_t)engine_length(seq);
    uint32_t one = 1, kept[1024];
    uint64_t seed = engine_chain(position, position);
    float out[2 * DIM];
    anykv_step *step;
    OK(anykv_step_begin(engine.cache, &seq, &one, 1, &step));
    OK(engine_append(step, &seed));
    const anykv_attend_params params = ANYKV_ATTEND_PARAMS_INIT;
    for (uint32_t layer = 0; layer < LAYERS; layer++) {
        const uint32_t n = kept_of(seq, layer, kept);
        kept[n] = position;
        OK(attend_layer(step, layer, &params, out));
        for (uint32_t h = 0; h < 2; h++) {
            double sum = 0.0, want[DIM] = {0}, worst = 0.0;
            for (uint32_t j = 0; j <= n; j++) {
                double s = 0.0;
                for (uint32_t i = 0; i < DIM; i++)
                    s += (double)(float)((int)((h * DIM + i) * 2654435761u >> 20 & 63) - 32) /
                         256.0 * (double)row(kept[j], layer, 0, i);
                const double w = exp(s / 8.0);
                sum += w;
                for (uint32_t i = 0; i < DIM; i++)
                    want[i] += w * (double)row(kept[j], layer, 1, i);
            }
            for (uint32_t i = 0; i < DIM; i++)
                worst = fmax(worst, fabs(want[i] / sum - (double)out[h * DIM + i]));
            cr_assert(worst < bound, "layer %u, head %u: off by %g over %u rows", layer, h, worst,
                      n);
        }
    }
    OK(anykv_step_end(step, NULL, &position));
}

/* ---- what stays, worked out again ---- */

static int larger_first(const void *a, const void *b)
{
    const double x = *(const double *)a, y = *(const double *)b;
    return x < y ? 1 : x > y ? -1 : 0;
}

/* Blocks of each layer: a fifth of the share, then one after the other the block with the largest
 * middle score of its 16 rows, the layer's best rows first. */
static void expect_shares(double score[LAYERS][ALL], const uint32_t *set, uint32_t *blocks)
{
    double sorted[LAYERS][ALL];
    for (uint32_t l = 0; l < LAYERS; l++) {
        memcpy(sorted[l], score[l] + FIRST, (END - FIRST) * sizeof sorted[l][0]);
        qsort(sorted[l], END - FIRST, sizeof sorted[l][0], larger_first);
        blocks[l] = (SHARE + 4) / 5;
    }
    for (uint32_t s = 0; s < LAYERS; s++) {
        uint32_t left = 0;
        for (uint32_t l = 0; l < LAYERS; l++)
            left += set[l] == s ? SHARE - blocks[l] : 0;
        for (; left; left--) {
            uint32_t best = LAYERS;
            for (uint32_t l = LAYERS; l-- > 0;) /* of equal ones the first layer's */
                if (set[l] == s && blocks[l] < (END - FIRST) / SIZE &&
                    (best == LAYERS || sorted[l][blocks[l] * SIZE + SIZE / 2] >=
                                           sorted[best][blocks[best] * SIZE + SIZE / 2]))
                    best = l;
            blocks[best]++;
        }
    }
}

static void check_best(const anykv_seq *seq, uint32_t layer, const double *score, uint32_t blocks)
{
    uint32_t kept[1024], in[1024] = {0};
    const uint32_t n = kept_of(seq, layer, kept);
    cr_assert_eq(n, ALL - (END - FIRST) + blocks * SIZE, "layer %u: %u rows, %u blocks expected",
                 layer, n, blocks);
    for (uint32_t i = 0; i < n; i++) {
        cr_assert(i == 0 || kept[i] > kept[i - 1], "row %u: not ascending", i);
        in[kept[i]] = 1;
    }
    for (uint32_t p = 0; p < ALL; p++) {
        uint32_t better = 0;
        for (uint32_t q = FIRST; q < END; q++)
            better += score[q] > score[p] || (score[q] == score[p] && q < p);
        cr_assert_eq(in[p], p < FIRST || p >= END || better < blocks * SIZE,
                     "layer %u, position %u", layer, p);
    }
}

static void by_scores(bool private_, anykv_format format, const uint32_t *share, double bound)
{
    static float scores[LAYERS * ALL];
    static double score[LAYERS][ALL];
    const uint32_t one_set[LAYERS] = {0};
    uint32_t blocks[LAYERS], most = 0, sum = 0;
    begin_cache(format, ANYKV_LAYOUT_APART);
    anykv_seq *seq = long_seq(private_), *fork;
    for (uint32_t l = 0; l < LAYERS; l++)
        for (uint32_t p = 0; p < ALL; p++)
            score[l][p] = scores[l * ALL + p] =
                (float)((p * 7919 + l) % 51) + (float)(l * l) * 9.0f;
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
    OK(anykv_seq_evict_tokens(seq, &params));
    audit(engine.cache, "after the eviction");
    const anykv_stats after = engine_stats(engine.cache);
    expect_shares(score, share ? share : one_set, blocks);
    for (uint32_t l = 0; l < LAYERS; l++) {
        check_best(seq, l, score[l], blocks[l]);
        most = blocks[l] > most ? blocks[l] : most;
        sum += blocks[l];
    }
    cr_expect(most > SHARE + 1, "at most %u blocks: nothing was shared out", most);
    cr_expect_eq(sum, LAYERS * SHARE);
    cr_expect_eq(after.tokens_evicted, (END - FIRST) - SHARE * SIZE);
    if (private_)
        cr_expect_eq(before.hot_blocks + before.sealed_blocks - after.hot_blocks -
                         after.sealed_blocks,
                     LAYERS * ((END - FIRST) / SIZE - SHARE));
    for (int i = 0; i < 20; i++)
        attend_kept(seq, bound);
    OK(anykv_seq_fork(seq, &fork));
    attend_kept(fork, bound);
    attend_kept(seq, bound);
    audit(engine.cache, "with a fork");
    /* All of it once more, with what came since; then an equal share of what is left. */
    for (uint32_t round = 0; round < 3; round++) {
        params.keep = KEEP - 32 * round;
        params.flags = round == 2 ? 0 : ANYKV_EVICT_ADAPTIVE;
        params.policy = round == 1 ? ANYKV_TOKENS_KNORM : ANYKV_TOKENS_KEYDIFF;
        params.sinks = round == 0 ? 4 : 40;
        OK(anykv_seq_evict_tokens(seq, &params));
        audit(engine.cache, "after another eviction");
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

static const uint32_t pairs[LAYERS] = {0, 0, 1, 1};

Test(evict_shares, across_the_heads_of_a_layer)
{
    by_scores(true, ANYKV_F16, pairs, 1e-3);
}
Test(evict_shares, across_all)
{
    by_scores(true, ANYKV_F16, NULL, 1e-3);
}
Test(evict_shares, from_named_blocks)
{
    by_scores(false, ANYKV_F16, pairs, 1e-3);
    by_scores(false, ANYKV_F16, NULL, 1e-3);
}
Test(evict_shares, packed)
{
    by_scores(true, ANYKV_I8, NULL, 0.1);
    by_scores(false, ANYKV_N4, pairs, 1.0);
}

/* Every policy that has scores, three times on a sequence that goes on; no more bytes than equal
 * shares. */
Test(evict_shares, every_policy)
{
    static float weights[LAYERS * DIM], scores[LAYERS * 1024], q[LAYERS][70 * 2 * DIM],
        lse[LAYERS * 70 * 2];
    anykv_view views[LAYERS];
    for (uint32_t i = 0; i < LAYERS * DIM; i++)
        weights[i] = (float)(i % 7) - 3.0f + (float)(i / DIM);
    for (uint32_t i = 0; i < LAYERS * 1024; i++)
        scores[i] = i % 50 == 0 ? NAN : (float)(i * 7919 % 101);
    for (uint32_t l = 0; l < LAYERS; l++) {
        for (uint32_t i = 0; i < 70 * 2 * DIM; i++)
            q[l][i] = (float)(i % 13) / 100.0f * (float)(l + 1);
        views[l] = anykv_view_host(q[l], ANYKV_F32, 2, DIM);
    }
    for (uint32_t i = 0; i < LAYERS * 70 * 2; i++)
        lse[i] = 6.0f;
    begin_cache(ANYKV_F16, ANYKV_LAYOUT_APART);
    for (uint32_t n = 0; n < 12; n++) {
        uint64_t held[2];
        for (uint32_t equal = 0; equal < 2; equal++) {
            anykv_seq *seq = long_seq(n >= 6);
            anykv_evict_params params = ANYKV_EVICT_PARAMS_INIT;
            params.policy = (anykv_token_policy)(ANYKV_TOKENS_KNORM + n % 6);
            params.flags = equal ? 0 : ANYKV_EVICT_ADAPTIVE;
            params.recent = 64;
            params.weights = weights;
            params.scores = scores;
            params.q = views;
            params.lse = lse;
            params.queries = 70;
            params.pool = n >= 6 ? 5 : 0;
            for (uint32_t round = 0; round < 3; round++) {
                params.keep = 300 - round * 60;
                OK(anykv_seq_evict_tokens(seq, &params));
                audit(engine.cache, "after an eviction");
                attend_kept(seq, 0.2);
            }
            uint32_t kept[1024];
            held[equal] = 0;
            for (uint32_t l = 0; l < LAYERS; l++)
                held[equal] += kept_of(seq, l, kept);
            anykv_seq_destroy(seq);
        }
        cr_expect(held[0] <= held[1], "policy %u: %llu rows, %llu with equal shares", n % 6 + 2,
                  (unsigned long long)held[0], (unsigned long long)held[1]);
    }
    stop();
}

Test(evict_shares, refusals)
{
    const uint32_t share[LAYERS] = {0, 0, 1, 1};
    for (uint32_t apart = 0; apart < 2; apart++) {
        begin_cache(ANYKV_F16, apart ? ANYKV_LAYOUT_APART : 0);
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

/* Every allocation and every backend call fails once: nothing changed, or the sequence is dead. */
static void every_failure(bool private_, anykv_token_policy policy, int how)
{
    const uint32_t step = engine_on_processor() ? 1 : 5; /* a call costs a hundred times more */
    uint64_t sites = 1;
    for (uint64_t at = 0, round = 0; at <= sites; at += round++ > 0 ? step : 0) {
        begin_cache(ANYKV_F16, ANYKV_LAYOUT_APART);
        anykv_seq *seq = long_seq(private_);
        anykv_evict_params params = ANYKV_EVICT_PARAMS_INIT;
        params.policy = policy;
        params.flags = ANYKV_EVICT_ADAPTIVE;
        params.keep = 150;
        params.recent = 40;
        OK(anykv_cache_wait(engine.cache, UINT64_MAX));
        if (how == 0)
            akv_alloc_fail_at(at, false);
        else
            akv_fault_at(at, ANYKV_E_DEVICE, how == 2);
        const anykv_status status = anykv_seq_evict_tokens(seq, &params);
        if (at == 0)
            sites = how == 0 ? akv_alloc_count() : akv_fault_count();
        akv_alloc_fail_at(0, false);
        akv_fault_at(0, ANYKV_OK, false);
        cr_assert((status == ANYKV_OK) == (at == 0), "site %d of %d, way %d: %s", (int)at,
                  (int)sites, how, anykv_status_name(status));
        uint64_t length;
        const anykv_status alive = anykv_seq_length(seq, &length);
        cr_assert(alive == ANYKV_OK || ((how || !engine_on_processor()) && alive == ANYKV_E_DEAD));
        if (alive == ANYKV_OK)
            attend_kept(seq, 1e-3);
        audit(engine.cache, "after a failure");
        anykv_seq_destroy(seq);
        stop();
    }
}

Test(evict_shares, every_failure)
{
    every_failure(true, ANYKV_TOKENS_KEYDIFF, 0);
    every_failure(false, ANYKV_TOKENS_KNORM, 0);
    for (int late = 0; late < 2; late++) {
        every_failure(true, ANYKV_TOKENS_KNORM, 1 + late);
        every_failure(false, ANYKV_TOKENS_KEYDIFF, 1 + late);
    }
}
