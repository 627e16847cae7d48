/* SPDX-License-Identifier: Apache-2.0 */
/* One eviction of tokens, as its files share it: the region, what stays, and how rows are scored.
 */
#ifndef AKV_EVICT_RUN_H
#define AKV_EVICT_RUN_H
#include "evict_tokens.h"
#include "seq.h"

#define AKV_NO_ROW UINT32_MAX /* in seq->kept: no row is there */

struct akv_evict_run {
    anykv_cache *cache;
    anykv_seq *seq;
    anykv_evict_params params;
    struct akv_evict_room room;
    uint32_t first, end; /* blocks of the region */
    uint32_t share;      /* of them, what stays of a group on average */
    uint32_t keep;       /* and at most */
    uint32_t *have;      /* [groups]: how many are there; below, "rows" are theirs, without gaps */
    uint32_t *stay;      /* [groups]: how many stay */
    uint32_t *number;    /* [groups][numbers]: which are there, from 0 for the first */
    uint32_t numbers;    /* blocks of the sequence */
    bool in_place, touched;
    uint32_t *lists;     /* [all kv heads of all layers][keep rows]: rows of the region that stay */
    uint32_t *to;        /* [groups][keep]: destination blocks */
    uint32_t *entries;   /* [blocks] */
    int32_t *sums;       /* KEYDIFF: mean's sums, layer after layer */
    int32_t *scores;     /* ADAPTIVE: of all heads of all layers, layer after layer */
    void *rows_in;       /* host rows on their way */
    uint32_t *positions; /* the sequence's next `kept`, and its first row */
    uint32_t kept_first;
};

static inline uint32_t akv_layer_heads(const anykv_layout *layout, uint32_t layer)
{
    return layout->places[layer].owner ? layout->groups[layout->places[layer].group].kv_heads : 0;
}

static inline uint32_t akv_heads_before(const anykv_layout *layout, uint32_t layer)
{
    uint32_t heads = 0;
    for (uint32_t l = 0; l < layer; l++)
        heads += akv_layer_heads(layout, l);
    return heads;
}

static inline const struct akv_group *akv_run_group(const struct akv_evict_run *run, uint32_t layer)
{
    return &run->cache->layout->groups[run->cache->layout->places[layer].group];
}

static inline bool akv_run_evicts(const struct akv_evict_run *run, uint32_t group)
{
    return run->cache->layout->groups[group].window == 0;
}

static inline bool akv_run_evicts_layer(const struct akv_evict_run *run, uint32_t layer)
{
    const struct akv_place *place = &run->cache->layout->places[layer];
    return place->owner && akv_run_evicts(run, place->group);
}

static inline bool akv_run_adaptive(const struct akv_evict_run *run)
{
    return run->params.flags & ANYKV_EVICT_ADAPTIVE;
}

static inline uint32_t *akv_run_numbers(const struct akv_evict_run *run, uint32_t group)
{
    return run->number + (size_t)group * run->numbers;
}

/* Rows of a layer in the region. */
static inline uint32_t akv_run_rows(const struct akv_evict_run *run, uint32_t layer)
{
    return run->have[run->cache->layout->places[layer].group] * akv_block_tokens(run->cache);
}

/* Is a layer scored? */
static inline bool akv_run_scored(const struct akv_evict_run *run, uint32_t layer)
{
    return akv_run_evicts_layer(run, layer) && akv_run_rows(run, layer);
}

static inline struct akv_span akv_run_span(const struct akv_evict_run *run, uint64_t at,
                                           uint64_t bytes)
{
    return akv_fixed_span(run->cache, run->cache->plan.evict_at + at, bytes);
}

static inline anykv_status akv_run_put(const struct akv_evict_run *run, uint64_t at,
                                       const void *bytes, uint64_t count)
{
    return akv_queue_put(run->cache->device->queue, akv_run_span(run, at, count), bytes);
}

static inline uint32_t akv_run_block(const struct akv_evict_run *run, uint32_t group, uint32_t i)
{
    return akv_seq_table(run->seq, group)[run->first + akv_run_numbers(run, group)[i]];
}

static inline uint32_t akv_run_kind(const struct akv_evict_run *run, uint32_t group)
{
    return akv_block_kind(akv_pool_block(&run->cache->pool, akv_run_block(run, group, 0)));
}

/* Rows of a kv head among the sequence's first `end`, and of the head that has most. */
static inline uint32_t akv_seq_count_rows(const anykv_seq *seq, uint32_t head, uint32_t end)
{
    uint32_t count = end;
    for (uint32_t i = 0; i < seq->kept_rows && seq->kept_first + i < end; i++)
        count -= seq->kept[(uint64_t)head * seq->kept_rows + i] == AKV_NO_ROW;
    return count;
}

static inline uint32_t akv_run_unit(const struct akv_evict_run *run)
{
    return run->params.policy == ANYKV_TOKENS_RATIO ? akv_block_tokens(run->cache) : 1;
}

static inline uint32_t akv_run_pool(const struct akv_evict_run *run)
{
    return run->params.policy == ANYKV_TOKENS_MASS && run->params.pool ? run->params.pool : 1;
}

static inline uint64_t akv_run_scores_count(const struct akv_evict_run *run, uint32_t layer)
{
    return (uint64_t)akv_layer_heads(run->cache->layout, layer) * akv_run_rows(run, layer);
}

/* ---- evict_score.c ---- */
anykv_status akv_run_launch(struct akv_evict_run *run, enum akv_kernel_id kernel,
                            const void *params, const struct akv_span *args, uint32_t count);
/* The region's blocks of a layer, for the kernels. */
anykv_status akv_run_put_from(struct akv_evict_run *run, uint32_t layer);
void akv_run_fill_score(const struct akv_evict_run *run, uint32_t layer, uint32_t method,
                        akv_score_params *p);
void akv_run_fill_compact(const akv_score_params *score, uint32_t kind, akv_compact_params *p);
/* KEYDIFF: the mean's sums of a layer, and those of all layers on their way to run->sums. */
uint64_t akv_run_sums_count(const struct akv_evict_run *run, uint32_t layer);
anykv_status akv_run_fetch_sums(struct akv_evict_run *run);
/* Scores of a layer, whose blocks were put, into room.scores. */
anykv_status akv_run_score(struct akv_evict_run *run, uint32_t layer);

/* ---- evict_share.c: ADAPTIVE ---- */
/* Scores of all layers on their way to run->scores. */
anykv_status akv_run_fetch_scores(struct akv_evict_run *run);
/* Sets run->stay by them. */
anykv_status akv_run_share_out(struct akv_evict_run *run);

#endif
