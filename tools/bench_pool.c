/* SPDX-License-Identifier: Apache-2.0 */
/* bench attend: pools of blocks, sealed and multiplied by the device itself. */
#include "bench_pool.h"
#include <math.h>

#define TEMPLATES   64u           /* different blocks; the others are copies of them */
#define COPY_MOVES  4096u         /* of one launch */
#define CHUNK_BYTES (1ull << 20)  /* at least */
#define CPU_SETS    (96ull << 20) /* bytes of all input sets together, at least */
#define GPU_SETS    (512ull << 20)

static uint64_t next_random(uint64_t *state)
{
    *state ^= *state << 13; /* xorshift64 (Marsaglia 2003) */
    *state ^= *state >> 7;
    *state ^= *state << 17;
    return *state;
}

/* fp16 of a value between -8 and 8, cut off: benchmark input only. */
static uint16_t small_half(double value)
{
    int exponent;
    double m = frexp(fabs(value), &exponent);
    uint16_t sign = value < 0.0 ? 0x8000u : 0u;
    if (exponent < -12)
        return sign;
    return (uint16_t)(sign | (uint32_t)(exponent + 14) << 10 | ((uint32_t)(m * 2048.0) & 1023u));
}

static uint32_t blocks_of(const struct bench_shape *shape)
{
    return (shape->tokens + BENCH_BLOCK_TOKENS - 1) / BENCH_BLOCK_TOKENS;
}

/* Which block is number n of a kind, kinds' first chunks being 0 and `first`. */
static uint32_t entry_of(const struct bench_pool *pool, uint32_t kind, uint32_t first, uint32_t n)
{
    uint32_t per = pool->map.blocks_per_chunk[kind];
    return kind << 28 | ((first + n / per) * per + n % per);
}

/* Geometry: kind 0 holds the templates at 16 bits (and everything, where the pair is raw), kind 1
 * the packed blocks. */
static void plan(struct bench *b, struct bench_pool *pool, uint32_t *first_chunk, uint32_t *blocks)
{
    const struct bench_shape *s = pool->shape;
    bool packed = pool->k_format != AKV_F16 || pool->v_format != AKV_F16;
    uint64_t read = 0, target = b->gpu ? GPU_SETS : CPU_SETS;
    for (uint32_t kind = 0; kind < 2; kind++) {
        uint32_t k = kind ? pool->k_format : AKV_F16, v = kind ? pool->v_format : AKV_F16;
        uint32_t k_bytes = s->kv_heads * akv_tile_bytes(k, BENCH_BLOCK_TOKENS, s->head_dim);
        uint32_t v_bytes = s->kv_heads * akv_tile_bytes(v, BENCH_BLOCK_TOKENS, s->head_dim);
        pool->tiles.k_format[kind] = k;
        pool->tiles.v_format[kind] = v;
        pool->tiles.v_offset[kind] = k_bytes;
        pool->map.block_bytes[kind] = k_bytes + v_bytes;
    }
    uint32_t used = packed ? 1 : 0, bytes = pool->map.block_bytes[used];
    read = (uint64_t)blocks_of(s) * s->batch * bytes;
    pool->read_bytes = read;
    pool->sets = (uint32_t)((target + read - 1) / read);
    *blocks = blocks_of(s) * s->batch * pool->sets;
    uint64_t hot = pool->map.block_bytes[0];
    pool->map.chunk_bytes = hot > CHUNK_BYTES ? hot : CHUNK_BYTES / hot * hot;
    for (uint32_t kind = 0; kind < 2; kind++)
        pool->map.blocks_per_chunk[kind] =
            (uint32_t)(pool->map.chunk_bytes / pool->map.block_bytes[kind]);
    uint32_t per0 = pool->map.blocks_per_chunk[0], per = pool->map.blocks_per_chunk[used];
    *first_chunk = packed ? (TEMPLATES + per0 - 1) / per0 : 0;
    uint32_t count = *blocks > TEMPLATES ? *blocks : TEMPLATES;
    uint32_t chunks = *first_chunk + (count + per - 1) / per;
    uint64_t most = pool->device->device->info.max_alloc / pool->map.chunk_bytes;
    pool->map.chunks_per_slab = chunks < most ? chunks : (uint32_t)most;
    pool->map.slabs = (chunks + pool->map.chunks_per_slab - 1) / pool->map.chunks_per_slab;
    pool->slab_bytes = pool->map.chunks_per_slab * pool->map.chunk_bytes;
}

void bench_pool_bind(const struct bench_pool *pool, struct akv_launch *launch)
{
    launch->slabs = pool->map.slabs;
    for (uint32_t i = 0; i < pool->map.slabs; i++)
        launch->slab[i] = (struct akv_span){pool->slab[i], 0, pool->slab_bytes};
}

static struct akv_span place(const struct bench_pool *pool, uint32_t entry)
{
    uint64_t a = akv_block_address(&pool->map, entry);
    return (struct akv_span){pool->slab[AKV_ADDR_SLAB(a)], AKV_ADDR_OFFSET(a),
                             pool->map.block_bytes[entry >> 28]};
}

/* Gaussian 16-bit rows into the templates' hot blocks. */
static anykv_status put_templates(struct bench *b, struct bench_pool *pool)
{
    uint32_t halves = pool->map.block_bytes[0] / 2;
    uint16_t *block = akv_alloc(b->context, halves, sizeof *block);
    if (!block)
        return ANYKV_E_MEMORY;
    uint64_t state = 88172645463325252u;
    anykv_status status = ANYKV_OK;
    for (uint32_t t = 0; t < TEMPLATES && status == ANYKV_OK; t++) {
        for (uint32_t i = 0; i < halves; i++) { /* the sum of twelve uniforms is near enough */
            double sum = -6.0;
            uint64_t r = next_random(&state), r2 = next_random(&state);
            for (uint32_t k = 0; k < 6; k++, r >>= 10, r2 >>= 10)
                sum += ((double)(r & 1023u) + (double)(r2 & 1023u) + 1.0) / 1024.0;
            block[i] = small_half(sum);
        }
        status = akv_queue_put(pool->device->queue, place(pool, entry_of(pool, 0, 0, t)), block);
    }
    akv_free(b->context, block);
    return status;
}

static anykv_status seal_templates(struct bench_pool *pool, uint32_t first_chunk,
                                   struct akv_mem *list)
{
    const struct bench_shape *s = pool->shape;
    akv_seal_layer layer = {pool->tiles.k_offset[0], pool->tiles.v_offset[0],
                            pool->tiles.k_offset[1], pool->tiles.v_offset[1], 0, 0};
    akv_move moves[TEMPLATES];
    for (uint32_t t = 0; t < TEMPLATES; t++) {
        moves[t].src = akv_block_address(&pool->map, entry_of(pool, 0, 0, t));
        moves[t].dst = akv_block_address(&pool->map, entry_of(pool, 1, first_chunk, t));
    }
    akv_seal_params params = {.pool = pool->map,
                              .moves = TEMPLATES,
                              .layers = 1,
                              .kv_heads = s->kv_heads,
                              .block_tokens = BENCH_BLOCK_TOKENS,
                              .k_dim = s->head_dim,
                              .v_dim = s->head_dim,
                              .hot_type = AKV_F16,
                              .k_format = pool->k_format,
                              .v_format = pool->v_format,
                              .k_flags = AKV_FLAG_ROTATE,
                              .v_flags = AKV_FLAG_ROTATE};
    struct akv_queue *queue = pool->device->queue;
    struct akv_launch launch = {.kernel = AKV_K_SEAL, .params = &params};
    launch.arg[0] = (struct akv_span){list, 0, sizeof layer};
    launch.arg[1] = (struct akv_span){list, 256, sizeof moves};
    launch.arg[2] = (struct akv_span){list, 256 + sizeof moves, 4};
    bench_pool_bind(pool, &launch);
    anykv_status status = akv_queue_put(queue, launch.arg[0], &layer);
    if (status == ANYKV_OK)
        status = akv_queue_put(queue, launch.arg[1], moves);
    if (status == ANYKV_OK)
        status = akv_queue_fill(queue, launch.arg[2], 0);
    return status == ANYKV_OK ? akv_kernel_launch(queue, &launch) : status;
}

/* Blocks TEMPLATES … count-1 become copies of the templates. */
static anykv_status multiply(struct bench *b, struct bench_pool *pool, uint32_t kind,
                             uint32_t first_chunk, uint32_t count, struct akv_mem *list)
{
    akv_move *moves = akv_alloc(b->context, COPY_MOVES, sizeof *moves);
    if (!moves)
        return ANYKV_E_MEMORY;
    anykv_status status = ANYKV_OK;
    for (uint32_t at = TEMPLATES; at < count && status == ANYKV_OK; at += COPY_MOVES) {
        uint32_t n = count - at < COPY_MOVES ? count - at : COPY_MOVES;
        for (uint32_t i = 0; i < n; i++) {
            uint32_t from = entry_of(pool, kind, first_chunk, (at + i) % TEMPLATES);
            moves[i].src = akv_block_address(&pool->map, from);
            moves[i].dst = akv_block_address(&pool->map, entry_of(pool, kind, first_chunk, at + i));
        }
        akv_copy_params params = {pool->map, n, pool->map.block_bytes[kind], AKV_COPY_POOL_POOL, 0};
        struct akv_launch launch = {.kernel = AKV_K_COPY, .params = &params};
        launch.arg[0] = (struct akv_span){list, 0, n * sizeof *moves};
        bench_pool_bind(pool, &launch);
        status = akv_queue_put(pool->device->queue, launch.arg[0], moves);
        if (status == ANYKV_OK)
            status = akv_kernel_launch(pool->device->queue, &launch);
    }
    if (status == ANYKV_OK)
        status = akv_queue_wait(pool->device->queue, UINT64_MAX);
    akv_free(b->context, moves);
    return status;
}

/* Step descriptors: `batch` sequences each, tables of shuffled blocks. */
static anykv_status describe(struct bench *b, struct bench_pool *pool, uint32_t *entries)
{
    const struct bench_shape *s = pool->shape;
    uint32_t per = blocks_of(s), new_all = s->batch * s->new_tokens;
    akv_step_head head = {s->batch,      new_all, BENCH_BLOCK_TOKENS, per * s->batch, 0, 0, 0,
                          s->new_tokens, {0}};
    head.seq_offset = sizeof head;
    head.token_offset = head.seq_offset + s->batch * (uint32_t)sizeof(akv_step_seq);
    head.table_offset = akv_pad16(head.token_offset + new_all * 4u);
    pool->descriptor_bytes =
        (head.table_offset + (uint64_t)head.table_entries * 4u + 255u) & ~255ull;
    uint8_t *bytes = akv_alloc(b->context, pool->descriptor_bytes, 1);
    if (!bytes)
        return ANYKV_E_MEMORY;
    anykv_status status = akv_mem_alloc(pool->device->device, pool->descriptor_bytes * pool->sets,
                                        AKV_MEM_DEVICE, &pool->descriptors);
    for (uint32_t set = 0; set < pool->sets && status == ANYKV_OK; set++) {
        memcpy(bytes, &head, sizeof head);
        akv_step_seq *seq = (akv_step_seq *)(void *)(bytes + head.seq_offset);
        uint32_t *owner = (uint32_t *)(void *)(bytes + head.token_offset);
        for (uint32_t i = 0; i < s->batch; i++) {
            seq[i] = (akv_step_seq){
                i * s->new_tokens, s->new_tokens, s->tokens - s->new_tokens, 0, i * per, per, {0}};
            for (uint32_t t = 0; t < s->new_tokens; t++)
                owner[i * s->new_tokens + t] = i;
        }
        memcpy(bytes + head.table_offset, entries + (uint64_t)set * head.table_entries,
               head.table_entries * 4u);
        struct akv_span span = {pool->descriptors, set * pool->descriptor_bytes,
                                pool->descriptor_bytes};
        status = akv_queue_put(pool->device->queue, span, bytes);
    }
    akv_free(b->context, bytes);
    return status;
}

static anykv_status fill(struct bench *b, struct bench_pool *pool, uint32_t first_chunk,
                         uint32_t blocks)
{
    bool packed = pool->k_format != AKV_F16 || pool->v_format != AKV_F16;
    uint32_t kind = packed ? 1 : 0;
    struct akv_mem *list = NULL;
    uint32_t *entries = akv_alloc(b->context, blocks, sizeof *entries);
    if (!entries)
        return ANYKV_E_MEMORY;
    uint64_t state = 0x2545F4914F6CDD1Du;
    for (uint32_t i = 0; i < blocks; i++)
        entries[i] = entry_of(pool, kind, first_chunk, i);
    for (uint32_t i = blocks; i > 1; i--) {
        uint32_t other = (uint32_t)(next_random(&state) % i), entry = entries[i - 1];
        entries[i - 1] = entries[other];
        entries[other] = entry;
    }
    anykv_status status = akv_mem_alloc(pool->device->device, COPY_MOVES * sizeof(akv_move) + 4096,
                                        AKV_MEM_DEVICE, &list);
    for (uint32_t i = 0; i < pool->map.slabs && status == ANYKV_OK; i++) {
        status =
            akv_mem_alloc(pool->device->device, pool->slab_bytes, AKV_MEM_DEVICE, &pool->slab[i]);
        struct akv_span span = {pool->slab[i], 0, pool->slab_bytes};
        if (status == ANYKV_OK)
            status = akv_queue_fill(pool->device->queue, span, 0);
    }
    if (status == ANYKV_OK)
        status = put_templates(b, pool);
    if (status == ANYKV_OK && packed)
        status = seal_templates(pool, first_chunk, list);
    if (status == ANYKV_OK)
        status = multiply(b, pool, kind, first_chunk, blocks, list);
    if (status == ANYKV_OK)
        status = describe(b, pool, entries);
    if (status == ANYKV_OK)
        status = akv_queue_wait(pool->device->queue, UINT64_MAX);
    akv_mem_free(list);
    akv_free(b->context, entries);
    return status;
}

anykv_status bench_pool_create(struct bench *b, struct bench_device *device,
                               const struct bench_shape *shape, uint32_t k_format,
                               uint32_t v_format, struct bench_pool *pool)
{
    uint32_t first_chunk, blocks;
    *pool = (struct bench_pool){
        .device = device, .shape = shape, .k_format = k_format, .v_format = v_format};
    plan(b, pool, &first_chunk, &blocks);
    if (pool->map.slabs > AKV_MAX_SLABS)
        return akv_fail(b->context, ANYKV_E_MEMORY,
                        "bench: the pool needs %u allocations, at most %u",
                        (unsigned)pool->map.slabs, AKV_MAX_SLABS);
    anykv_status status = fill(b, pool, first_chunk, blocks);
    if (status != ANYKV_OK)
        bench_pool_destroy(pool);
    return status;
}

void bench_pool_destroy(struct bench_pool *pool)
{
    for (uint32_t i = 0; i < AKV_MAX_SLABS; i++) {
        akv_mem_free(pool->slab[i]);
        pool->slab[i] = NULL;
    }
    akv_mem_free(pool->descriptors);
    pool->descriptors = NULL;
}
