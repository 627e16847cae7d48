/* SPDX-License-Identifier: Apache-2.0 */
/* ADAPTIVE: recency and frequency in one score (LRFU, Lee and others, 2001) with a half-life that
 * follows the workload.
 *
 *     touch at n:  v ← 1 + v·2^(−(n−t)/h),  t ← n        key = log2 v + t/h
 *
 * The key stays as it is between touches.  A partial block has v = 1e-6 for ever.  h is twice the
 * median of the last 2048 return gaps, set again every 500 requests once 64 gaps are known, and at
 * least a second; candidates get new keys when it moves by more than a quarter.
 *
 * Where that is the wrong order one of two others takes over, as miniature caches show (duel.h):
 * RECENT, log2 v + 16·t/h, where sessions grow and go, and LEARNED, the index of GITTINS, where
 * blocks come back at a beat or however long they rested. */
#include "duel.h"
#include <math.h>

#define RING          2048u
#define GAPS_FIRST    64u
#define REQUESTS      500u
#define HALF_FIRST    60.0
#define HALF_LEAST    1.0
#define PARTIAL_COUNT 1e-6f
#define CLEAR         0.005 /* of the blocks asked for: hits more that are worth another rule */
#define CLEAR_EARLY   0.1   /* the same before the half-life has been set */
#define TAG(tag)      ((uint32_t)((tag) >> 24)) /* in the miniature caches */

struct adaptive {
    struct akv_gittins learned; /* first: its functions find it there */
    double half;
    float gap[RING], sorted[RING];
    uint64_t gaps;
    uint32_t requests;
    bool set; /* the half-life follows the workload */
    enum akv_duel_rule rule;
    uint32_t pressed; /* touches for which the last eviction counts */
    struct akv_duel duel;
};

static anykv_status adaptive_open(struct akv_evict *evict, struct akv_evict_part *part)
{
    struct adaptive *a = part->state;
    const anykv_status status = akv_gittins_open(evict, part);
    part->lists = false;
    a->half = HALF_FIRST;
    return status;
}

/* A ghost keeps the count v to 12 bits, children seen, and what the index goes by. */
static void adaptive_recall(struct akv_evict *evict, uint32_t id, const struct akv_ghost *ghost)
{
    if (!ghost)
        return;
    struct akv_evict_entry *e = &evict->entry[id];
    const uint32_t bits = ghost->data & ~AKV_GITTINS_KEPT;
    memcpy(&e->v, &bits, sizeof bits);
    akv_gittins_recall(evict, id, ghost);
}

static uint32_t adaptive_remember(struct akv_evict *evict, uint32_t id)
{
    uint32_t bits;
    memcpy(&bits, &evict->entry[id].v, sizeof bits);
    return (bits & ~AKV_GITTINS_KEPT) | akv_gittins_remember(evict, id);
}

/* What is left at `now` of a count of 1 at the last touch. */
static double decay(const struct akv_evict *evict, const struct akv_evict_entry *e)
{
    const struct adaptive *a = evict->part[e->part]->state;
    return evict->now <= e->t ? 1.0 : exp2((e->t - evict->now) / a->half);
}

static void adaptive_touch(struct akv_evict *evict, uint32_t id, uint64_t tag)
{
    struct akv_evict_entry *e = &evict->entry[id];
    struct akv_evict_part *part = evict->part[e->part];
    struct adaptive *a = part->state;
    akv_gittins_touch(evict, id, tag);
    if (e->flags & AKV_EVICT_PARTIAL)
        e->v = PARTIAL_COUNT;
    else
        e->v = 1.0f + (e->v > 0.0f ? e->v * (float)decay(evict, e) : 0.0f);
    a->pressed -= a->pressed != 0;
    if (!akv_duel_takes(&a->duel, tag))
        return;
    const struct akv_duel_block block = {evict->now,
                                         log2f(e->v),
                                         TAG(tag),
                                         (uint32_t)evict->stamp,
                                         (uint16_t)akv_gittins_class(e->word),
                                         0};
    akv_duel_touch(&a->duel, &block, part->live, a->half, &a->learned);
}

/* The last touch's own count moves to now: 1 + (v − 1)·2^(−(n−t)/h). */
static void adaptive_renew(struct akv_evict *evict, uint32_t id)
{
    struct akv_evict_entry *e = &evict->entry[id];
    if (evict->now <= e->t)
        return;
    if (!(e->flags & AKV_EVICT_PARTIAL) && e->v >= 1.0f)
        e->v = 1.0f + (e->v - 1.0f) * (float)decay(evict, e);
    e->t = evict->now;
}

static double rate(const struct adaptive *a)
{
    return (a->rule == AKV_RULE_RECENT ? AKV_RECENT : 1.0) / a->half;
}

static double score(const struct akv_evict *evict, const struct akv_evict_part *part, uint32_t id,
                    double by)
{
    const struct akv_evict_entry *e = &evict->entry[id];
    (void)part;
    return (double)log2f(e->v > 0.0f ? e->v : PARTIAL_COUNT) + (e->t - evict->epoch) * by;
}

static uint64_t adaptive_key(struct akv_evict *evict, const struct akv_evict_part *part,
                             uint32_t id)
{
    const struct adaptive *a = part->state;
    if (a->rule == AKV_RULE_LEARNED)
        return akv_gittins_key(evict, part, id);
    return akv_policy_real(score(evict, part, id, rate(a)));
}

static double adaptive_heat(const struct akv_evict *evict, const struct akv_evict_part *part,
                            uint32_t id)
{
    const struct adaptive *a = part->state;
    return score(evict, part, id, 1.0 / a->half) - (evict->now - evict->epoch) / a->half;
}

static const char *adaptive_rule(const struct akv_evict_part *part)
{
    static const char *const rules[AKV_RULES] = {"adaptive", "adaptive (recent)",
                                                 "adaptive (learned)"};
    const struct adaptive *a = part->state;
    return rules[a->rule];
}

static double adaptive_horizon(const struct akv_evict_part *part)
{
    const struct adaptive *a = part->state;
    return a->half;
}

static void adaptive_gap(struct akv_evict *evict, struct akv_evict_part *part, double seconds)
{
    struct adaptive *a = part->state;
    (void)evict;
    a->gap[a->gaps++ % RING] = (float)seconds;
}

/* The element that would stand at `rank` of the sorted array (Hoare's selection). */
static float select_rank(float *x, uint32_t count, uint32_t rank)
{
    uint32_t low = 0, high = count - 1;
    while (low < high) {
        const float pivot = x[low + (high - low) / 2];
        uint32_t i = low, j = high;
        while (i <= j) {
            while (x[i] < pivot)
                i++;
            while (x[j] > pivot)
                j--;
            if (i > j)
                break;
            const float swap = x[i];
            x[i++] = x[j];
            x[j] = swap;
            if (j == 0)
                break;
            j--;
        }
        if (rank <= j)
            high = j;
        else if (rank >= i)
            low = i;
        else
            break;
    }
    return x[rank];
}

static void adaptive_done(struct akv_evict *evict, uint32_t id, uint64_t tag)
{
    struct adaptive *a = evict->part[evict->entry[id].part]->state;
    if (akv_duel_takes(&a->duel, tag))
        akv_duel_done(&a->duel, TAG(tag));
}

static void adaptive_went(struct akv_evict *evict, uint32_t id)
{
    const struct akv_evict_part *part = evict->part[evict->entry[id].part];
    struct adaptive *a = part->state;
    a->pressed = part->live;
}

/* Lists of candidates are in use, and grow older, only while the learned rule is. */
static void adaptive_work(struct akv_evict *evict, struct akv_evict_part *part)
{
    if (part->listed)
        akv_gittins_work(evict, part);
}

static void adaptive_request(struct akv_evict *evict, struct akv_evict_part *part)
{
    struct adaptive *a = part->state;
    akv_gittins_request(evict, part);
    /* While candidates still move over from the last change, the next one waits. */
    const enum akv_duel_rule rule = akv_duel_request(
        &a->duel, a->rule, a->pressed && !akv_evict_rekeying(part), a->set ? CLEAR : CLEAR_EARLY);
    if (rule != a->rule) {
        a->rule = rule;
        evict->changes++;
        akv_evict_rekey(evict, part);
        part->lists = rule == AKV_RULE_LEARNED;
    }
    a->requests++;
    a->set = a->set || a->requests >= REQUESTS;
    if (a->requests < REQUESTS || a->gaps < GAPS_FIRST || akv_evict_rekeying(part))
        return;
    a->requests = 0;
    const uint32_t count = a->gaps < RING ? (uint32_t)a->gaps : RING;
    memcpy(a->sorted, a->gap, count * sizeof *a->gap);
    double half = 2.0 * (double)select_rank(a->sorted, count, count / 2);
    if (half < HALF_LEAST)
        half = HALF_LEAST;
    if (half <= a->half * 1.25 && half >= a->half / 1.25)
        return;
    a->half = half;
    akv_evict_rekey(evict, part);
}

const struct akv_policy akv_policy_adaptive = {
    .id = ANYKV_POLICY_ADAPTIVE,
    .name = "adaptive",
    .ghosts = true,
    .id_bytes = sizeof(struct akv_gittins_link),
    .state_bytes = sizeof(struct adaptive),
    .open = adaptive_open,
    .close = akv_gittins_close,
    .recall = adaptive_recall,
    .remember = adaptive_remember,
    .touch = adaptive_touch,
    .renew = adaptive_renew,
    .key = adaptive_key,
    .done = adaptive_done,
    .went = adaptive_went,
    .work = adaptive_work,
    .enter = akv_gittins_enter,
    .leave = akv_gittins_leave,
    .first = akv_gittins_first,
    .coldest = akv_gittins_coldest,
    .gap = adaptive_gap,
    .request = adaptive_request,
    .rule = adaptive_rule,
    .horizon = adaptive_horizon,
    .heat = adaptive_heat,
};
