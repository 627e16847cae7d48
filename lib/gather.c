/* SPDX-License-Identifier: Apache-2.0 */
/* Reading a sequence's rows back: block tables, decoded rows, blocks as stored. */
#include "seq.h"

static anykv_status check_layer(const anykv_seq *seq, uint32_t layer)
{
    if (layer < seq->cache->layout->count)
        return ANYKV_OK;
    return akv_fail(seq->cache->context, ANYKV_E_ARG, "layer: %u, the layout has %u", layer,
                    seq->cache->layout->count);
}

anykv_status anykv_seq_table(const anykv_seq *seq, uint32_t layer, uint32_t *entries,
                             uint64_t *count_in_out, uint64_t *first_position_out)
{
    if (seq && (!count_in_out || !first_position_out || (!entries && *count_in_out)))
        return akv_fail(seq->cache->context, ANYKV_E_ARG, "%s: NULL",
                        !count_in_out         ? "count_in_out"
                        : !first_position_out ? "first_position_out"
                                              : "entries");
    anykv_status status = akv_seq_enter(seq, false);
    if (status)
        return status;
    anykv_cache *cache = seq->cache;
    if (akv_cold_any(cache, &seq, NULL, 1)) { /* a caller's kernels cannot read compressed blocks */
        akv_mutex_unlock(&cache->lock);
        akv_mutex_lock(&cache->io);
        status = akv_cold_read(cache, &seq, NULL, 1, 0, UINT32_MAX);
        akv_cache_enter(cache);
        akv_mutex_unlock(&cache->io);
    }
    if (!status)
        status = check_layer(seq, layer);
    if (status)
        return akv_seq_leave(seq, status);
    const uint32_t group = cache->layout->places[layer].group;
    const uint32_t first = seq->first[group], end = akv_blocks_for(cache, seq->length);
    const uint64_t count = end > first ? end - first : 0, capacity = *count_in_out;
    *count_in_out = count;
    if (count > capacity)
        return akv_seq_leave(seq,
                             akv_fail(cache->context, ANYKV_E_SHAPE,
                                      "count_in_out: room for %llu entries, there are %llu",
                                      (unsigned long long)capacity, (unsigned long long)count));
    for (uint64_t i = 0; i < count; i++) {
        const uint32_t id = akv_seq_table(seq, group)[first + i];
        entries[i] = id == AKV_NO_ID ? AKV_NO_BLOCK : akv_pool_block(&cache->pool, id)->entry;
    }
    *first_position_out = (uint64_t)first * akv_block_tokens(cache);
    return akv_seq_leave(seq, ANYKV_OK);
}

/* ---- decoded rows ---- */

/* Table of up to AKV_GATHER_BLOCKS blocks from logical number `from`; under lock. */
static anykv_status list_blocks(const anykv_seq *seq, uint32_t group, uint32_t from, uint32_t count,
                                uint32_t *entries)
{
    const anykv_cache *cache = seq->cache;
    for (uint32_t i = 0; i < count; i++) {
        const uint32_t id = akv_seq_table(seq, group)[from + i];
        if (id == AKV_NO_ID)
            return akv_fail(cache->context, ANYKV_E_NOT_FOUND,
                            "first, count: positions from %u are not held any more",
                            (from + i) * akv_block_tokens(cache));
        entries[i] = akv_pool_block(&cache->pool, id)->entry;
    }
    return ANYKV_OK;
}

/* One launch: rows [first, first + count) into `rows`; io is held. */
static anykv_status gather_piece(const anykv_seq *seq, uint32_t layer, uint32_t side,
                                 uint32_t first, uint32_t count, const anykv_view *rows)
{
    anykv_cache *cache = seq->cache;
    const uint32_t size = akv_block_tokens(cache), group = cache->layout->places[layer].group;
    const uint32_t from = first / size, blocks = (first + count - 1) / size - from + 1;
    uint32_t entries[AKV_GATHER_BLOCKS];
    akv_gather_params params;
    akv_fill_gather(cache->layout, layer, side, &params);
    params.blocks = blocks;
    params.first_row = first % size;
    params.position = from * size;
    params.tokens = count;
    struct akv_stage stage = {.cache = cache};
    struct akv_span span;
    anykv_status status = akv_stage_rows(&stage, "rows", rows, count, params.rows.heads, params.dim,
                                         true, &span, &params.rows);
    if (status)
        return status;
    akv_mutex_lock(&cache->lock);
    status = akv_seq_alive(seq);
    if (!status)
        status = list_blocks(seq, group, from, blocks, entries);
    if (status) { /* nothing was enqueued */
        akv_mutex_unlock(&cache->lock);
        return status;
    }
    params.pool = akv_pool_group_map(&cache->pool, group, cache->slabs);
    struct akv_launch launch;
    akv_launch_init(cache, &launch, AKV_K_GATHER, &params);
    launch.arg[0] = akv_fixed_span(cache, cache->plan.gather_at, blocks * sizeof entries[0]);
    launch.arg[1] = span;
    launch.arg[2] = akv_maps_span(cache);
    status = akv_queue_put(cache->device->queue, launch.arg[0], entries);
    if (!status)
        status = akv_kernel_launch(cache->device->queue, &launch);
    akv_mutex_unlock(&cache->lock);
    return akv_stage_finish(&stage, status);
}

static anykv_status check_gather(const anykv_seq *seq, uint32_t layer, int side, uint64_t first,
                                 uint64_t count, const anykv_view *rows)
{
    anykv_cache *cache = seq->cache;
    anykv_status status = check_layer(seq, layer);
    if (status)
        return status;
    if (side != 0 && side != 1)
        return akv_fail(cache->context, ANYKV_E_ARG, "side: %d is neither 0 (keys) nor 1 (values)",
                        side);
    const uint64_t length = (uint64_t)seq->length + seq->dropped;
    if (first > length || count > length - first)
        return akv_fail(cache->context, ANYKV_E_ARG,
                        "first, count: %llu and %llu go beyond the sequence's %llu tokens",
                        (unsigned long long)first, (unsigned long long)count,
                        (unsigned long long)length);
    if (!rows)
        return akv_fail(cache->context, ANYKV_E_ARG, "rows: NULL");
    if (!rows->data)
        return akv_fail(cache->context, ANYKV_E_ARG,
                        "rows.data: NULL; gather writes host memory only");
    const struct akv_group *group = &cache->layout->groups[cache->layout->places[layer].group];
    struct akv_span span;
    return akv_view_check(cache->device, "rows", rows, (uint32_t)count, group->kv_heads,
                          side == 0 ? group->k_dim : group->v_dim, true, &span);
}

anykv_status anykv_seq_gather(const anykv_seq *seq, uint32_t layer, int side, uint64_t first,
                              uint64_t count, const anykv_view *rows)
{
    anykv_status status = akv_seq_enter(seq, false);
    if (status)
        return status;
    anykv_cache *cache = seq->cache;
    uint32_t entries[1];
    const uint32_t size = akv_block_tokens(cache);
    uint32_t row = 0;
    status = check_gather(seq, layer, side, first, count, rows);
    if (!status)
        status = akv_seq_rows_of(seq, first, count, "first, count", &row);
    first = row;
    for (uint64_t i = first / size; !status && count && i <= (first + count - 1) / size; i++)
        status = list_blocks(seq, cache->layout->places[layer].group, (uint32_t)i, 1, entries);
    akv_mutex_unlock(&cache->lock);
    if (status)
        return status;
    anykv_view piece = *rows;
    const uint64_t row_bytes = rows->token_stride * akv_raw_bytes((akv_u32)rows->dtype);
    akv_mutex_lock(&cache->io);
    if (count)
        status = akv_cold_read(cache, &seq, NULL, 1, (uint32_t)(first / size),
                               (uint32_t)((first + count - 1) / size + 1));
    while (count && !status) {
        const uint64_t most = (uint64_t)AKV_GATHER_BLOCKS * size - first % size;
        const uint64_t now = count < most ? count : most;
        status = gather_piece(seq, layer, (uint32_t)side, (uint32_t)first, (uint32_t)now, &piece);
        first += now;
        count -= now;
        if (count)
            piece.data = (uint8_t *)piece.data + now * row_bytes;
    }
    akv_mutex_unlock(&cache->io);
    return status;
}

/* ---- blocks as stored ---- */

/* Zeroes the rows of a 16-bit block that the sequence has not filled. */
static void clear_tail(const struct akv_group *group, uint32_t rows, uint8_t *block)
{
    for (uint32_t l = 0; l < group->layers; l++)
        for (uint32_t side = 0; side < 2; side++)
            for (uint32_t h = 0; h < group->kv_heads; h++) {
                const uint32_t tile = group->tile_bytes[AKV_KIND_HOT][side];
                const uint32_t row =
                    (side == 0 ? group->k_dim : group->v_dim) * akv_raw_bytes(group->hot_type);
                memset(block + rows * row, 0, tile - rows * row);
                block += tile;
            }
}

anykv_status anykv_seq_gather_packed(const anykv_seq *seq, uint32_t layer, uint64_t position,
                                     void *packed, uint64_t *bytes_in_out, uint32_t *kind_out)
{
    if (seq && (!bytes_in_out || !kind_out || (!packed && *bytes_in_out)))
        return akv_fail(seq->cache->context, ANYKV_E_ARG, "%s: NULL",
                        !bytes_in_out ? "bytes_in_out"
                        : !kind_out   ? "kind_out"
                                      : "packed");
    if (seq) /* before the cache's own lock: the order of locks */
        akv_mutex_lock(&seq->cache->io);
    anykv_status status = seq ? akv_cold_read(seq->cache, &seq, NULL, 1, 0, UINT32_MAX) : ANYKV_OK;
    if (!status)
        status = akv_seq_enter(seq, false);
    if (status) {
        if (seq)
            akv_mutex_unlock(&seq->cache->io);
        return status;
    }
    anykv_cache *cache = seq->cache;
    const uint32_t size = akv_block_tokens(cache);
    uint32_t entry = 0, kind = 0;
    uint64_t bytes = 0;
    const struct akv_group *group = NULL;
    status = check_layer(seq, layer);
    const uint64_t tokens = (uint64_t)seq->length + seq->dropped;
    uint32_t row = 0;
    if (!status && position >= tokens)
        status = akv_fail(cache->context, ANYKV_E_ARG,
                          "position: %llu, the sequence has %llu tokens",
                          (unsigned long long)position, (unsigned long long)tokens);
    if (!status)
        status = akv_seq_rows_of(seq, position, 1, "position", &row);
    position = row;
    if (!status)
        status = list_blocks(seq, cache->layout->places[layer].group, (uint32_t)position / size, 1,
                             &entry);
    if (!status) {
        const uint32_t g = cache->layout->places[layer].group;
        group = &cache->layout->groups[g];
        kind = entry >> 28;
        bytes = group->block_bytes[kind];
        const uint64_t capacity = *bytes_in_out;
        const uint64_t address = akv_pool_address(&cache->pool, g, entry);
        *bytes_in_out = bytes;
        if (capacity < bytes)
            status = akv_fail(cache->context, ANYKV_E_SHAPE,
                              "bytes_in_out: room for %llu bytes, the block has %llu",
                              (unsigned long long)capacity, (unsigned long long)bytes);
        else
            status = akv_queue_get(cache->device->queue, packed,
                                   (struct akv_span){cache->slab[AKV_ADDR_SLAB(address)],
                                                     AKV_ADDR_OFFSET(address), bytes});
    }
    const uint32_t length = seq->length;
    akv_mutex_unlock(&cache->lock);
    if (!status)
        status = akv_cache_drain(cache, UINT64_MAX);
    akv_mutex_unlock(&cache->io);
    if (status)
        return status;
    const uint32_t first = (uint32_t)position / size * size;
    if (kind == AKV_KIND_HOT && length - first < size)
        clear_tail(group, length - first, packed);
    *kind_out = kind;
    return ANYKV_OK;
}
