/* SPDX-License-Identifier: Apache-2.0 */
/* ADAPTIVE: recency and frequency in one score (LRFU, Lee and others, 2001) with a half-life that
 * follows the workload.
 *
 *     touch at n:  v ← 1 + v·2^(−(n−t)/h),  t ← n        key = log2 v + t/h
 *
 * The key stays as it is between touches.  A partial block has v = 1e-6 for ever.  h is twice the
 * median of the last 2048 return gaps, set again every 500 requests once 64 gaps are known, and at
 * least a second; candidates get new keys when it moves by more than a quarter. */
#include "evict.h"
#include <math.h>

#define RING          2048u
#define GAPS_FIRST    64u
#define REQUESTS      500u
#define HALF_FIRST    60.0
#define HALF_LEAST    1.0
#define PARTIAL_COUNT 1e-6f

struct adaptive {
    double half;
    float gap[RING], sorted[RING];
    uint64_t gaps;
    uint32_t requests;
};

static anykv_status adaptive_open(struct akv_evict *evict, struct akv_evict_part *part)
{
    struct adaptive *a = part->state;
    (void)evict;
    a->half = HALF_FIRST;
    return ANYKV_OK;
}

static void adaptive_recall(struct akv_evict *evict, uint32_t id, const struct akv_ghost *ghost)
{
    if (ghost)
        memcpy(&evict->entry[id].v, &ghost->data, sizeof ghost->data);
}

static uint32_t adaptive_remember(struct akv_evict *evict, uint32_t id)
{
    uint32_t data;
    memcpy(&data, &evict->entry[id].v, sizeof data);
    return data;
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
    (void)tag;
    if (e->flags & AKV_EVICT_PARTIAL)
        e->v = PARTIAL_COUNT;
    else
        e->v = 1.0f + (e->v > 0.0f ? e->v * (float)decay(evict, e) : 0.0f);
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

static double score(const struct akv_evict *evict, const struct akv_evict_part *part, uint32_t id)
{
    const struct akv_evict_entry *e = &evict->entry[id];
    const struct adaptive *a = part->state;
    return (double)log2f(e->v > 0.0f ? e->v : PARTIAL_COUNT) + (e->t - evict->epoch) / a->half;
}

static uint64_t adaptive_key(struct akv_evict *evict, const struct akv_evict_part *part,
                             uint32_t id)
{
    return akv_policy_real(score(evict, part, id));
}

static double adaptive_heat(const struct akv_evict *evict, const struct akv_evict_part *part,
                            uint32_t id)
{
    const struct adaptive *a = part->state;
    return score(evict, part, id) - (evict->now - evict->epoch) / a->half;
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

static void adaptive_request(struct akv_evict *evict, struct akv_evict_part *part)
{
    struct adaptive *a = part->state;
    /* While candidates still move over from the last change, the next one waits. */
    if (++a->requests < REQUESTS || a->gaps < GAPS_FIRST || akv_evict_rekeying(part))
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
    .state_bytes = sizeof(struct adaptive),
    .open = adaptive_open,
    .recall = adaptive_recall,
    .remember = adaptive_remember,
    .touch = adaptive_touch,
    .renew = adaptive_renew,
    .key = adaptive_key,
    .gap = adaptive_gap,
    .request = adaptive_request,
    .horizon = adaptive_horizon,
    .heat = adaptive_heat,
};
