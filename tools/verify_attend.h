/* SPDX-License-Identifier: Apache-2.0 */
/* verify: one case of attention as numbers, before it becomes a launch. */
#ifndef AKV_VERIFY_ATTEND_H
#define AKV_VERIFY_ATTEND_H
#include "verify.h"

#define ATTEND_SEQUENCES 4u
#define ATTEND_KINDS     3u /* hot, packed, a rung of the precision ladder */

/* What packed blocks hold: rows less their mean, rotated or times a matrix. */
enum {
    ATTEND_MAP_NONE,
    ATTEND_MAP_CENTRE,
    ATTEND_MAP_MATRIX,
    ATTEND_MAP_PART,  /* a part of the components turns, pairs side by side; with a matrix */
    ATTEND_MAP_STILL, /* nothing turns */
    ATTEND_MAPS
};

struct attend_case {
    uint32_t format[2], hot; /* of keys and values in packed blocks, and in hot ones */
    uint32_t lower;          /* of both in blocks of a third kind; 0: there is none */
    uint32_t dim[2], rotate[2];
    uint32_t kv_heads, q_heads, block_tokens;
    uint32_t sequences, count[ATTEND_SEQUENCES], length[ATTEND_SEQUENCES];
    uint32_t tokens;        /* new ones of all sequences */
    uint32_t flags, window; /* AKV_ATTEND_* */
    uint32_t q_dtype, out_dtype;
    float scale, cap;
    bool holes; /* some blocks are not held */
    uint32_t map; /* ATTEND_MAP_*, instead of rotate */
    uint64_t seed;

    /* made by attend_data: */
    uint32_t blocks;                        /* of all sequences */
    uint32_t first_block[ATTEND_SEQUENCES]; /* number of a sequence's first block among them */
    uint32_t *entry;                        /* table entry of each */
    float *row[2];                          /* decoded: [block][head][token][dim] */
    float *q, *mask, *sinks;                /* q: decoded from q_dtype, [token][q_head][dim] */
    void *q_raw;
    uint32_t mask_stride;
    uint8_t *maps; /* records: of keys, of values, then of each head alone */
    uint64_t maps_bytes;
    double *out, *lse, *worth; /* expected; worth: largest |value| a query sees */
    double largest_score;      /* of |scale * q.k| */
};

static inline uint32_t attend_format(const struct attend_case *c, uint32_t kind, uint32_t side)
{
    return kind == 0 ? c->hot : kind == 1 ? c->format[side] : c->lower;
}
static inline uint32_t attend_kinds(const struct attend_case *c)
{
    return c->lower ? 3 : 2;
}
static inline uint32_t attend_blocks_of(const struct attend_case *c, uint32_t s)
{
    return (c->length[s] + c->count[s] + c->block_tokens - 1) / c->block_tokens;
}
static inline uint64_t attend_row_number(const struct attend_case *c, uint32_t s, uint32_t position,
                                         uint32_t head)
{
    uint32_t block = c->first_block[s] + position / c->block_tokens;
    return ((uint64_t)block * c->kv_heads + head) * c->block_tokens + position % c->block_tokens;
}
static inline const float *attend_row(const struct attend_case *c, uint32_t side, uint32_t s,
                                      uint32_t position, uint32_t head)
{
    return c->row[side] + attend_row_number(c, s, position, head) * c->dim[side];
}
/* verify_attend_data.c: blocks in the pool, queries, and what must come out; false: out of memory.
 */
bool attend_data(struct verify *v, struct attend_case *c, struct verify_pool *pool,
                 akv_tile_map *tiles);
void attend_data_free(struct verify *v, struct attend_case *c, struct verify_pool *pool);
/* verify_attend_maps.c: makes c->maps; rows [block][head][token][dim] of one side to tiles one after the other and
 * back. */
bool attend_maps(struct verify *v, struct attend_case *c, uint64_t *state);
bool attend_map_rows(struct verify *v, const struct attend_case *c, uint32_t side, uint32_t format, const float *rows,
                     uint8_t *tiles, float *decoded);
/* verify_attend_reference.c: fills out, lse and worth in double precision. */
bool attend_reference(struct verify *v, struct attend_case *c);
/* Largest error a device may make, as a share of `worth` (docs/attention.md), rounding of the
 * output type not included. */
double attend_bound(const struct attend_case *c, bool gpu);
/* Largest error of a log-sum-exp. */
double attend_lse_bound(const struct attend_case *c, bool gpu);

#endif
