/* SPDX-License-Identifier: Apache-2.0 */
/* Block tables: room in a sequence, and a step's descriptors for the kernels. */
#include "cache.h"

static uint32_t grown(uint32_t have, uint32_t need)
{
    const uint32_t twice = have < UINT32_MAX / 2 ? have * 2 : UINT32_MAX;
    return need > twice ? need : twice;
}

static anykv_status grow_table(anykv_seq *seq, uint32_t blocks)
{
    const uint32_t old = seq->table_capacity, groups = seq->cache->layout->group_count;
    if (blocks <= old)
        return ANYKV_OK;
    const uint32_t capacity = grown(old, blocks);
    uint32_t *table = akv_alloc(seq->cache->context, (size_t)capacity * groups, sizeof *table);
    if (!table)
        return ANYKV_E_MEMORY;
    for (uint32_t g = 0; g < groups; g++)
        for (uint32_t i = 0; i < capacity; i++)
            table[(size_t)g * capacity + i] = i < old ? akv_seq_table(seq, g)[i] : AKV_NO_ID;
    akv_free(seq->cache->context, seq->table);
    seq->table = table;
    seq->table_capacity = capacity;
    return ANYKV_OK;
}

static anykv_status grow_array(anykv_seq *seq, uint32_t **array, uint32_t *capacity, uint32_t need)
{
    if (need <= *capacity)
        return ANYKV_OK;
    const uint32_t more = grown(*capacity, need);
    uint32_t *larger = akv_resize(seq->cache->context, *array, *capacity, more, sizeof *larger);
    if (!larger)
        return ANYKV_E_MEMORY;
    *array = larger;
    *capacity = more;
    return ANYKV_OK;
}

anykv_status akv_seq_reserve(anykv_seq *seq, uint32_t tokens)
{
    const uint32_t blocks = akv_blocks_for(seq->cache, tokens);
    anykv_status status = grow_table(seq, blocks);
    if (!status && !seq->private_)
        status = grow_array(seq, &seq->tokens, &seq->token_capacity, tokens);
    if (!status && !seq->private_)
        status = grow_array(seq, &seq->nodes, &seq->node_capacity, blocks);
    return status;
}

anykv_status akv_seq_room(anykv_context *context, const anykv_cache *cache, uint32_t blocks,
                          struct akv_seq_room *room)
{
    const size_t entries = (size_t)blocks * cache->layout->group_count;
    room->blocks = blocks;
    room->table = akv_alloc(context, entries, sizeof *room->table);
    room->nodes = akv_alloc(context, blocks, sizeof *room->nodes);
    room->tokens = akv_alloc(context, (size_t)blocks * akv_block_tokens(cache), sizeof *room->tokens);
    for (size_t i = 0; room->table && i < entries; i++)
        room->table[i] = AKV_NO_ID;
    return room->table && room->nodes && room->tokens ? ANYKV_OK : ANYKV_E_MEMORY;
}

static void swap_arrays(uint32_t **a, uint32_t **b)
{
    uint32_t *const kept = *a;
    *a = *b;
    *b = kept;
}

void akv_seq_move_in(anykv_seq *seq, struct akv_seq_room *room)
{
    if (room->blocks <= seq->table_capacity || seq->length)
        return;
    const uint32_t tokens = room->blocks * akv_block_tokens(seq->cache);
    swap_arrays(&seq->table, &room->table);
    seq->table_capacity = room->blocks;
    if (seq->node_capacity < room->blocks) {
        swap_arrays(&seq->nodes, &room->nodes);
        seq->node_capacity = room->blocks;
    }
    if (seq->token_capacity < tokens) {
        swap_arrays(&seq->tokens, &room->tokens);
        seq->token_capacity = tokens;
    }
}

void akv_seq_room_free(anykv_context *context, struct akv_seq_room *room)
{
    akv_free(context, room->table);
    akv_free(context, room->nodes);
    akv_free(context, room->tokens);
}

/* ---- descriptors ---- */

static uint32_t pad4(uint32_t count)
{
    return (count + 3u) & ~3u;
}

/* Table entries of one sequence; returns their number. */
static uint32_t write_table(const anykv_step *step, uint32_t i, uint32_t group, uint32_t *entries,
                            akv_step_seq *record)
{
    const anykv_cache *cache = step->cache;
    const anykv_seq *seq = step->seqs[i];
    const uint32_t from = akv_first_visible(cache, group, seq->length);
    const uint32_t to = akv_blocks_for(cache, seq->length + step->counts[i]);
    const uint32_t *table = akv_seq_table(seq, group);
    record->tokens = step->counts[i];
    record->length = seq->length;
    record->first_block = from;
    if (step->counts[i] == 0)
        return 0;
    for (uint32_t b = from; b < to; b++) {
        entries[b - from] = AKV_NO_BLOCK;
        if (table[b] == AKV_NO_ID)
            continue;
        entries[b - from] = cache->pool.blocks[table[b]].entry;
        step->kinds[group] |= 1u << (entries[b - from] >> 28);
    }
    return to - from;
}

static uint64_t write_descriptor(const anykv_step *step, uint32_t group, uint8_t *image)
{
    akv_step_head head;
    memset(&head, 0, sizeof head);
    head.sequences = step->n;
    head.tokens = step->tokens;
    head.block_tokens = akv_block_tokens(step->cache);
    head.seq_offset = sizeof head;
    head.token_offset = head.seq_offset + step->n * (uint32_t)sizeof(akv_step_seq);
    head.table_offset = head.token_offset + pad4(step->tokens) * 4;
    head.max_tokens = step->most_tokens;
    akv_step_seq *records = (akv_step_seq *)(void *)(image + head.seq_offset);
    uint32_t *tokens = (uint32_t *)(void *)(image + head.token_offset);
    uint32_t *entries = (uint32_t *)(void *)(image + head.table_offset);
    uint32_t token = 0;
    step->kinds[group] = 0;
    for (uint32_t i = 0; i < step->n; i++) {
        akv_step_seq record;
        memset(&record, 0, sizeof record);
        record.first_token = token;
        record.table_first = head.table_entries;
        record.table_count = write_table(step, i, group, entries + head.table_entries, &record);
        head.table_entries += record.table_count;
        records[i] = record;
        for (uint32_t t = 0; t < step->counts[i]; t++)
            tokens[token++] = i;
    }
    memcpy(image, &head, sizeof head);
    return head.table_offset + (uint64_t)pad4(head.table_entries) * 4;
}

anykv_status akv_step_describe(anykv_step *step)
{
    anykv_cache *cache = step->cache;
    anykv_status status = ANYKV_OK;
    for (uint32_t g = 0; g < cache->layout->group_count && !status; g++) {
        const uint64_t at = akv_step_image_at(cache, g);
        const uint64_t bytes = write_descriptor(step, g, step->image + at);
        assert(bytes <= akv_plan_step_bytes(&cache->plan, cache->layout, g));
        status =
            akv_queue_put(cache->device->queue,
                          akv_fixed_span(cache, step->slot * cache->plan.step_bytes + at, bytes),
                          step->image + at);
    }
    return status;
}
