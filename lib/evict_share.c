/* SPDX-License-Identifier: Apache-2.0 */
/* Eviction of tokens: how many blocks each layer group keeps, by the scores of its rows. */
#include "evict_run.h"
#include <stdlib.h>

#define SAFE 5u /* every group keeps a fifth of its share */

anykv_status akv_run_fetch_scores(struct akv_evict_run *run)
{
    anykv_status status = ANYKV_OK;
    int32_t *scores = run->scores;
    for (uint32_t l = 0; l < run->cache->layout->count && !status; l++) {
        if (!akv_run_scored(run, l))
            continue;
        const uint64_t count = akv_run_scores_count(run, l);
        status = akv_run_put_from(run, l);
        if (!status)
            status = akv_run_score(run, l);
        if (!status)
            status = akv_queue_get(run->cache->device->queue, scores,
                                   akv_run_span(run, run->room.scores, count * 4));
        scores += count;
    }
    return status;
}

static int larger_first(const void *a, const void *b)
{
    const int32_t x = *(const int32_t *)a, y = *(const int32_t *)b;
    return x < y ? 1 : x > y ? -1 : 0;
}

/* Adds what the k-th block of a head is worth to value[k]: the middle score of the rows that would
 * be in it, the best ones first; values of rows and units are those of select. */
static void add_values(const struct akv_evict_run *run, const int32_t *scores, uint32_t rows,
                       int64_t *value)
{
    const uint32_t size = akv_block_tokens(run->cache), unit = akv_run_unit(run),
                   pool = akv_run_pool(run);
    int32_t *sorted = run->rows_in;
    for (uint32_t u = 0; u < rows / unit; u++) {
        const uint32_t count = unit > 1 ? unit : pool;
        const uint32_t back = unit > 1 ? 0 : pool / 2, begin = u * unit;
        int64_t sum = 0;
        for (uint32_t i = 0; i < count; i++)
            if (begin + i >= back && begin + i - back < rows)
                sum += scores[begin + i - back];
        sorted[u] = (int32_t)(sum / (int64_t)count);
    }
    qsort(sorted, rows / unit, sizeof *sorted, larger_first);
    for (uint32_t k = 0; k < rows / size; k++)
        value[k] += sorted[unit > 1 ? k : k * size + size / 2];
}

struct shares {
    const struct akv_evict_run *run;
    const int64_t *value; /* [groups][blocks of the region], descending */
    uint32_t blocks, set;
    const uint32_t *sets; /* [groups] */
};

static uint64_t bytes_of(const struct akv_evict_run *run, uint32_t group)
{
    return run->cache->layout->groups[group].block_bytes[akv_run_kind(run, group)];
}

static bool in_set(const struct shares *s, uint32_t group)
{
    return akv_run_evicts(s->run, group) && s->run->have[group] && s->sets[group] == s->set;
}

/* Bytes of a set with the blocks worth `bar` and more, which it leaves in run->stay. */
static uint64_t cost(const struct shares *s, int64_t bar)
{
    const struct akv_evict_run *run = s->run;
    const uint32_t sure = (run->share + SAFE - 1) / SAFE;
    uint64_t bytes = 0;
    for (uint32_t g = 0; g < run->cache->layout->group_count; g++) {
        const int64_t *value = s->value + (size_t)g * s->blocks;
        if (!in_set(s, g))
            continue;
        uint32_t low = sure < run->have[g] ? sure : run->have[g], high = run->have[g];
        while (low < high) {
            const uint32_t middle = low + (high - low) / 2;
            if (value[middle] >= bar)
                low = middle + 1;
            else
                high = middle;
        }
        run->stay[g] = low;
        bytes += low * bytes_of(run, g);
    }
    return bytes;
}

/* The blocks that are worth most, as many bytes of them as the set's groups would keep with equal
 * shares. */
static void share_set(const struct shares *s)
{
    const struct akv_evict_run *run = s->run;
    int64_t low = INT32_MIN, high = (int64_t)INT32_MAX + 1;
    uint64_t budget = 0;
    for (uint32_t g = 0; g < run->cache->layout->group_count; g++)
        budget += in_set(s, g) ? run->share * bytes_of(run, g) : 0;
    while (low < high) {
        const int64_t middle = low + (high - low) / 2;
        if (cost(s, middle) <= budget)
            high = middle;
        else
            low = middle + 1;
    }
    uint64_t bytes = cost(s, low);
    for (uint32_t g = 0; g < run->cache->layout->group_count;
         g++) /* of equal ones those of the first groups */
        while (in_set(s, g) && run->stay[g] < run->have[g] &&
               s->value[(size_t)g * s->blocks + run->stay[g]] == low - 1 &&
               bytes + bytes_of(run, g) <= budget) {
            run->stay[g]++;
            bytes += bytes_of(run, g);
        }
}

anykv_status akv_run_share_out(struct akv_evict_run *run)
{
    const anykv_layout *layout = run->cache->layout;
    const uint32_t groups = layout->group_count, blocks = run->end - run->first;
    const int32_t *scores = run->scores;
    int64_t *value = akv_alloc(run->cache->context, (size_t)groups * blocks, sizeof *value);
    uint32_t *sets = akv_alloc(run->cache->context, groups, sizeof *sets);
    anykv_status status = value && sets ? ANYKV_OK : ANYKV_E_MEMORY;
    for (uint32_t l = 0; l < layout->count && !status; l++) {
        const uint32_t g = layout->places[l].group, heads = akv_layer_heads(layout, l),
                       rows = akv_run_rows(run, l);
        if (!akv_run_scored(run, l))
            continue;
        sets[g] = run->params.share ? run->params.share[l] : 0;
        for (uint32_t h = 0; h < heads; h++, scores += rows)
            add_values(run, scores, rows, value + (size_t)g * blocks);
    }
    for (uint32_t g = 0; g < groups && !status; g++)
        for (uint32_t k = 0; k < run->have[g] && akv_run_evicts(run, g); k++)
            value[(size_t)g * blocks + k] /=
                (int64_t)layout->groups[g].kv_heads * layout->groups[g].layers;
    for (uint32_t g = 0; g < groups && !status; g++) {
        struct shares shares = {run, value, blocks, sets[g], sets};
        bool done = !in_set(&shares, g);
        for (uint32_t before = 0; before < g && !done; before++)
            done = in_set(&shares, before);
        if (!done)
            share_set(&shares);
    }
    akv_free(run->cache->context, value);
    akv_free(run->cache->context, sets);
    return status;
}
