/* SPDX-License-Identifier: Apache-2.0 */
/* verify: pools of blocks in host memory, before a launch and after it. */
#include "verify.h"

void verify_shuffle(uint32_t *items, uint32_t count, uint64_t *state)
{
    for (uint32_t i = count; i > 1; i--) {
        uint32_t other = verify_below(state, i), item = items[i - 1];
        items[i - 1] = items[other];
        items[other] = item;
    }
}

uint32_t verify_block_tokens(uint32_t variant)
{
    static const uint32_t tokens[] = {16, 32, 16, 64, 16, 128, 16, 256};
    return tokens[variant % 8u];
}

uint64_t verify_share(const struct verify *v, uint32_t combinations)
{
    return (v->elements + combinations - 1) / combinations;
}

#define FEW_ELEMENTS 20000u
bool verify_wanted(const struct verify *v, uint32_t number)
{
    return v->only || v->elements >= FEW_ELEMENTS || number % 3 == 0;
}

/* Entries of one kind: every kinds-th chunk from `kind` on. */
static void deal(struct verify_pool *pool, uint32_t kinds, uint32_t kind, uint64_t *state)
{
    uint32_t per = pool->map.blocks_per_chunk[kind];
    for (uint32_t i = 0; i < pool->count[kind]; i++) {
        uint32_t chunk = i / per * kinds + kind;
        pool->entry[kind][i] = kind << 28 | (chunk * per + i % per);
    }
    verify_shuffle(pool->entry[kind], pool->count[kind], state);
}

bool verify_pool_create(struct verify *v, struct verify_pool *pool, uint32_t kinds,
                        const uint32_t *block_bytes, const uint32_t *count, uint64_t *state)
{
    memset(pool, 0, sizeof *pool);
    uint32_t largest = 16;
    for (uint32_t k = 0; k < kinds; k++)
        largest = AKV_MAX(largest, block_bytes[k]);
    pool->map.chunk_bytes = (akv_u64)largest * (1 + verify_below(state, 3)) + 48;
    uint32_t chunks = 1;
    for (uint32_t k = 0; k < AKV_KINDS; k++) {
        bool used = k < kinds && count[k] != 0;
        pool->map.block_bytes[k] = used ? block_bytes[k] : 16;
        uint32_t per = (uint32_t)(pool->map.chunk_bytes / pool->map.block_bytes[k]);
        pool->map.blocks_per_chunk[k] = per;
        pool->count[k] = used ? count[k] : 0;
        if (used)
            chunks = AKV_MAX(chunks, (count[k] + per - 1) / per * kinds);
    }
    pool->map.slabs = chunks > 1 ? 2 : 1;
    pool->map.chunks_per_slab = (chunks + pool->map.slabs - 1) / pool->map.slabs;
    pool->slab_bytes = pool->map.chunks_per_slab * pool->map.chunk_bytes;
    bool good = true;
    for (uint32_t s = 0; s < pool->map.slabs; s++) {
        pool->before[s] = verify_alloc(v, pool->slab_bytes);
        pool->after[s] = verify_alloc(v, pool->slab_bytes);
        good = good && pool->before[s] && pool->after[s];
        if (good) {
            verify_fill_pattern(pool->before[s], pool->slab_bytes);
            verify_fill_pattern(pool->after[s], pool->slab_bytes);
        }
    }
    for (uint32_t k = 0; k < kinds && good; k++) {
        pool->entry[k] = verify_alloc(v, (uint64_t)pool->count[k] * sizeof(uint32_t));
        good = pool->entry[k] != NULL;
        if (good)
            deal(pool, kinds, k, state);
    }
    return good;
}

void verify_pool_destroy(struct verify *v, struct verify_pool *pool)
{
    for (uint32_t s = 0; s < AKV_MAX_SLABS; s++) {
        akv_free(v->context, pool->before[s]);
        akv_free(v->context, pool->after[s]);
    }
    for (uint32_t k = 0; k < AKV_KINDS; k++)
        akv_free(v->context, pool->entry[k]);
    memset(pool, 0, sizeof *pool);
}

void verify_pool_write(struct verify_pool *pool, uint64_t address, const void *bytes,
                       uint64_t count, bool only_after)
{
    uint32_t slab = AKV_ADDR_SLAB(address);
    uint64_t offset = AKV_ADDR_OFFSET(address);
    assert(slab < pool->map.slabs && offset + count <= pool->slab_bytes);
    memcpy(pool->after[slab] + offset, bytes, count);
    if (!only_after)
        memcpy(pool->before[slab] + offset, bytes, count);
}

void verify_pool_bind(const struct verify_pool *pool, struct verify_launch *launch)
{
    launch->slabs = pool->map.slabs;
    for (uint32_t s = 0; s < pool->map.slabs; s++)
        launch->span[AKV_MAX_ARGS + s] =
            (struct verify_span){pool->before[s], pool->after[s], pool->slab_bytes};
}

void verify_moves(struct verify *v, const struct verify_pool *pool, const struct verify_launch *launch,
                  uint64_t elements)
{
    uint32_t count = pool->count[0];
    akv_move *moves = verify_alloc(v, (uint64_t)VERIFY_SHAPES * count * sizeof *moves);
    if (moves) {
        struct verify_launch shape[VERIFY_SHAPES];
        for (uint32_t s = 0; s < VERIFY_SHAPES; s++) {
            akv_move *list = moves + (size_t)s * count;
            for (uint32_t b = 0; b < count; b++) {
                uint32_t at = s == 0 ? b : count - 1 - b;
                list[at].src = akv_block_address(&pool->map, pool->entry[0][b]);
                list[at].dst = akv_block_address(&pool->map, pool->entry[1][b]);
            }
            shape[s] = *launch;
            shape[s].span[1] = (struct verify_span){list, NULL, count * sizeof *list};
            verify_pool_bind(pool, &shape[s]);
        }
        verify_compare(v, elements, shape);
    }
    akv_free(v->context, moves);
}

void verify_slice(void *into, const void *tile, uint32_t format, uint32_t n, uint32_t dim,
                  uint32_t first, uint32_t tokens)
{
    uint8_t *to = into;
    const uint8_t *from = tile;
    memset(into, 0, akv_tile_bytes(format, tokens, dim));
    if (akv_format_raw(format)) {
        uint64_t row = (uint64_t)dim * akv_raw_bytes(format);
        memcpy(to, from + first * row, tokens * row);
        return;
    }
    if (akv_format_blocks(format)) {
        uint64_t row = (uint64_t)akv_padded_dim(dim) / 32u * akv_block_bytes(format);
        memcpy(to, from + first * row, tokens * row);
        return;
    }
    uint64_t plane0 = akv_padded_dim(dim) * akv_format_plane0(format) / 8u;
    uint64_t plane1 = akv_padded_dim(dim) * akv_format_plane1(format) / 8u;
    uint64_t scales = akv_scale_count(format, dim) * akv_scale_bytes(format);
    memcpy(to, from + first * plane0, tokens * plane0);
    memcpy(to + akv_plane1_offset(format, tokens, dim),
           from + akv_plane1_offset(format, n, dim) + first * plane1, tokens * plane1);
    memcpy(to + akv_scale_offset(format, tokens, dim),
           from + akv_scale_offset(format, n, dim) + first * scales, tokens * scales);
}
