/* SPDX-License-Identifier: Apache-2.0 */
/* bench attend: one shape, and the pools of blocks that it attends over. */
#ifndef AKV_BENCH_POOL_H
#define AKV_BENCH_POOL_H
#include "bench.h"

#define BENCH_BLOCK_TOKENS 16u

struct bench_shape {
    uint32_t head_dim, q_heads, kv_heads, tokens, batch, new_tokens;
    bool precise;
};

/* Blocks of one format pair in random order, enough input sets that no cache holds them all. */
struct bench_pool {
    struct bench_device *device;
    const struct bench_shape *shape;
    uint32_t k_format, v_format;
    akv_pool_map map;
    akv_tile_map tiles;
    struct akv_mem *slab[AKV_MAX_SLABS];
    uint64_t slab_bytes;
    struct akv_mem *descriptors; /* one for each set */
    uint64_t descriptor_bytes;
    uint32_t sets;
    uint64_t read_bytes; /* packed bytes that one call reads */
};
anykv_status bench_pool_create(struct bench *b, struct bench_device *device,
                               const struct bench_shape *shape, uint32_t k_format,
                               uint32_t v_format, struct bench_pool *pool);
void bench_pool_destroy(struct bench_pool *pool);
void bench_pool_bind(const struct bench_pool *pool, struct akv_launch *launch);

#endif
