/* SPDX-License-Identifier: Apache-2.0 */
/* verify: the cases of append, ragged batches of new rows into 16-bit blocks. */
#include "verify.h"
#include <inttypes.h>
#include <stdio.h>

#define HEADS         3u
#define MAX_SEQUENCES 7u

struct append_case {
    uint32_t hot, dtype, dim[2], block_tokens, tokens, sequences;
    uint32_t count[MAX_SEQUENCES], length[MAX_SEQUENCES];
    uint32_t offset[2]; /* of head 0's tile in a hot block */
    uint32_t variant;
};

/* The step descriptor of a batch and how many hot blocks its tables name. */
struct batch {
    uint8_t *descriptor;
    uint32_t bytes;
    akv_step_seq *seq;
    uint32_t *table;
};

static void explain_append(const struct verify_launch *launch, uint32_t span, uint64_t offset)
{
    const struct append_case *c = launch->user;
    (void)span;
    fprintf(stderr, "  pool byte %" PRIu64 "; batch of %" PRIu32 " sequences:", offset,
            c->sequences);
    for (uint32_t s = 0; s < c->sequences; s++)
        fprintf(stderr, " %" PRIu32 "+%" PRIu32, c->length[s], c->count[s]);
    fprintf(stderr, " tokens, blocks of %" PRIu32 "\n", c->block_tokens);
}

/* Deals the tokens to ragged sequences; one of them gets none. */
static void ragged(struct append_case *c, uint32_t want, uint64_t *state)
{
    c->sequences = 1 + verify_below(state, MAX_SEQUENCES);
    c->tokens = 0;
    for (uint32_t s = 0; s < c->sequences; s++) {
        bool none = c->sequences > 2 && s == c->sequences / 2;
        uint32_t share = want / c->sequences + 1;
        c->count[s] = none ? 0 : 1 + verify_below(state, 2 * share);
        c->length[s] = verify_below(state, 3 * c->block_tokens);
        c->tokens += c->count[s];
    }
}

static uint32_t last_block(const struct append_case *c, uint32_t s)
{
    return (c->length[s] + c->count[s] + c->block_tokens - 1) / c->block_tokens;
}

/* Blocks before the new tokens' first one need not be hot, or be held at all. */
static bool describe(struct verify *v, const struct append_case *c, const struct verify_pool *pool,
                     struct batch *batch, uint64_t *state)
{
    akv_step_head head = {c->sequences, c->tokens, c->block_tokens, 0, 0, 0, 0, 0, {0}};
    for (uint32_t s = 0; s < c->sequences; s++) {
        head.table_entries += last_block(c, s);
        head.max_tokens = AKV_MAX(head.max_tokens, c->count[s]);
    }
    head.seq_offset = sizeof head;
    head.token_offset = head.seq_offset + c->sequences * (uint32_t)sizeof(akv_step_seq);
    head.table_offset = akv_pad16(head.token_offset + c->tokens * 4u);
    batch->bytes = head.table_offset + head.table_entries * 4u;
    batch->descriptor = verify_alloc(v, batch->bytes);
    if (!batch->descriptor)
        return false;
    batch->seq = (akv_step_seq *)(void *)(batch->descriptor + head.seq_offset);
    batch->table = (uint32_t *)(void *)(batch->descriptor + head.table_offset);
    uint32_t *owner = (uint32_t *)(void *)(batch->descriptor + head.token_offset);
    uint32_t first = 0, entries = 0, hot = 0, packed = 0;
    for (uint32_t s = 0; s < c->sequences; s++) {
        uint32_t whole = c->length[s] / c->block_tokens;
        uint32_t gone = whole ? verify_below(state, whole + 1) : 0; /* behind a window */
        akv_step_seq *seq = &batch->seq[s];
        *seq = (akv_step_seq){first, c->count[s], c->length[s], gone, entries, 0, {0}};
        for (uint32_t b = gone; b < last_block(c, s); b++) {
            uint32_t *entry = &batch->table[entries++];
            if (b >= whole)
                *entry = pool->entry[0][hot++];
            else
                *entry = b % 2 ? AKV_NO_BLOCK : pool->entry[1][packed++ % pool->count[1]];
        }
        seq->table_count = entries - seq->table_first;
        for (uint32_t i = 0; i < c->count[s]; i++)
            owner[first + i] = s;
        first += c->count[s];
    }
    memcpy(batch->descriptor, &head, sizeof head);
    return true;
}

/* Writes the converted rows of one side where the block tables say; returns the dense rows. */
static uint8_t *place_side(struct verify *v, const struct append_case *c, struct verify_pool *pool,
                           const struct batch *batch, uint32_t side, uint64_t seed)
{
    uint32_t dim = c->dim[side], n = c->tokens * HEADS;
    uint64_t row_bytes = (uint64_t)dim * akv_raw_bytes(c->hot);
    uint32_t tile_bytes = akv_tile_bytes(c->hot, c->block_tokens, dim);
    uint8_t *rows = verify_alloc(v, (uint64_t)n * dim * akv_raw_bytes(c->dtype));
    uint8_t *stored = verify_alloc(v, akv_tile_bytes(c->hot, n, dim));
    if (!rows || !stored || !verify_rows(v, rows, n, dim, c->hot, 0, c->dtype, seed) ||
        !verify_encode_rows(v, rows, c->dtype, n, dim, c->hot, 0, stored, NULL)) {
        akv_free(v->context, rows);
        akv_free(v->context, stored);
        return NULL;
    }
    for (uint32_t s = 0; s < c->sequences; s++)
        for (uint32_t i = 0; i < c->count[s]; i++) {
            uint32_t position = c->length[s] + i, token = batch->seq[s].first_token + i;
            uint32_t entry = batch->table[batch->seq[s].table_first + position / c->block_tokens -
                                          batch->seq[s].first_block];
            for (uint32_t h = 0; h < HEADS; h++) {
                uint64_t at = akv_block_address(&pool->map, entry) + c->offset[side] +
                              (uint64_t)h * tile_bytes + position % c->block_tokens * row_bytes;
                verify_pool_write(pool, at, stored + ((uint64_t)token * HEADS + h) * row_bytes,
                                  row_bytes, true);
            }
        }
    akv_free(v->context, stored);
    return rows;
}

static void append_case(struct verify *v, struct append_case *c, uint64_t seed)
{
    struct verify_pool pool;
    struct batch batch = {0};
    uint32_t blocks[2] = {1, 3}, bytes[2], gap = 32;
    c->offset[0] = 48;
    c->offset[1] = c->offset[0] + HEADS * akv_tile_bytes(c->hot, c->block_tokens, c->dim[0]) + gap;
    bytes[0] = c->offset[1] + HEADS * akv_tile_bytes(c->hot, c->block_tokens, c->dim[1]) + gap;
    bytes[1] = 1024;
    for (uint32_t s = 0; s < c->sequences; s++)
        blocks[0] += last_block(c, s);
    bool good = verify_pool_create(v, &pool, 2, bytes, blocks, &seed) &&
                describe(v, c, &pool, &batch, &seed);
    uint8_t *dense[2] = {NULL, NULL}, *apart[2] = {NULL, NULL};
    struct verify_launch shape[VERIFY_SHAPES] = {0};
    akv_append_params params[VERIFY_SHAPES] = {0};
    for (uint32_t side = 0; good && side < 2; side++) {
        dense[side] = place_side(v, c, &pool, &batch, side, verify_mix(seed, side));
        uint32_t dim = c->dim[side];
        akv_rows near = {HEADS * dim, dim, c->dtype, HEADS}, far = near;
        far.token_stride = dim + 1u + side;
        far.head_stride = c->tokens * far.token_stride + 9u;
        uint64_t extent = verify_extent(&far, c->tokens, dim);
        apart[side] = verify_alloc(v, extent);
        good = dense[side] && apart[side];
        if (!good)
            break;
        memset(apart[side], 0xFF, extent);
        verify_spread(apart[side], &far, dense[side], c->tokens, dim);
        *(side ? &params[0].v : &params[0].k) = near;
        *(side ? &params[1].v : &params[1].k) = far;
        shape[0].span[1 + side].data = dense[side];
        shape[0].span[1 + side].bytes = verify_extent(&near, c->tokens, dim);
        shape[1].span[1 + side].data = apart[side];
        shape[1].span[1 + side].bytes = extent;
    }
    for (uint32_t s = 0; good && s < VERIFY_SHAPES; s++) {
        params[s].pool = pool.map;
        params[s].k_dim = c->dim[0];
        params[s].v_dim = c->dim[1];
        params[s].k_offset = c->offset[0];
        params[s].v_offset = c->offset[1];
        params[s].hot_type = c->hot;
        params[s].max_tokens = c->tokens + 17u * s; /* a captured launch is larger than the step */
        shape[s].params = &params[s];
        shape[s].span[0] = (struct verify_span){batch.descriptor, NULL, batch.bytes};
        verify_pool_bind(&pool, &shape[s]);
        shape[s].explain = explain_append;
        shape[s].user = c;
    }
    if (good)
        verify_compare(v, (uint64_t)c->tokens * HEADS * (c->dim[0] + c->dim[1]), shape);
    for (uint32_t side = 0; side < 2; side++) {
        akv_free(v->context, dense[side]);
        akv_free(v->context, apart[side]);
    }
    akv_free(v->context, batch.descriptor);
    verify_pool_destroy(v, &pool);
}

void verify_append(struct verify *v, uint32_t format)
{
    uint32_t combinations = VERIFY_DIMS * 3 * 2, variant = 0;
    for (uint32_t d = 0; d < VERIFY_DIMS; d++)
        for (uint32_t i = 0; i < 6; i++, variant++) {
            struct append_case c = {.hot = format, .dtype = AKV_F32 + i % 3u, .variant = variant};
            uint64_t state = verify_mix(v->seed, 6000u + variant);
            c.dim[0] = verify_dims[d];
            c.dim[1] = verify_dims[i < 3 ? d : (d + 1 + i) % VERIFY_DIMS];
            c.block_tokens = verify_block_tokens(variant);
            uint64_t each = (uint64_t)HEADS * (c.dim[0] + c.dim[1]);
            uint64_t left = (verify_share(v, combinations) + each - 1) / each;
            for (uint32_t chunk = 0; left != 0; chunk++) {
                uint32_t want = (uint32_t)AKV_MIN(left, (1u << 21) / each);
                ragged(&c, want, &state);
                if (verify_case(v, c.tokens * each,
                                "d%" PRIu32 "-d%" PRIu32 "-%s-t%" PRIu32 "-%" PRIu32, c.dim[0],
                                c.dim[1], verify_format_name(c.dtype), c.block_tokens, chunk))
                    append_case(v, &c, verify_mix(state, 1));
                left -= AKV_MIN(left, c.tokens);
            }
        }
}
