/* SPDX-License-Identifier: Apache-2.0 */
/* Events of named blocks, kept in a ring until they are drained. */
#include "cache.h"

anykv_status akv_events_init(struct akv_block_events *events, anykv_context *context,
                             uint32_t capacity, uint32_t block_tokens)
{
    events->next = events->drained = 1;
    if (capacity == 0)
        return ANYKV_OK;
    events->ring = akv_alloc(context, capacity, sizeof *events->ring);
    events->tokens = akv_alloc(context, (size_t)capacity * block_tokens, sizeof *events->tokens);
    if (!events->ring || !events->tokens)
        return ANYKV_E_MEMORY;
    events->capacity = capacity;
    events->block_tokens = block_tokens;
    return ANYKV_OK;
}

void akv_events_finish(struct akv_block_events *events, anykv_context *context)
{
    akv_free(context, events->ring);
    akv_free(context, events->tokens);
}

void akv_events_add(struct akv_block_events *events, anykv_block_event_type type, uint32_t kind,
                    const akv_digest *key, const akv_digest *parent, const uint32_t *tokens,
                    int64_t lora_id, const char *medium)
{
    if (events->capacity == 0)
        return;
    const uint32_t at = (uint32_t)(events->next % events->capacity);
    anykv_block_event *event = &events->ring[at];
    memset(event, 0, sizeof *event);
    event->sequence_number = events->next++;
    event->time_ns = akv_now_ns();
    event->type = type;
    event->block_size = events->block_tokens;
    event->kind = kind;
    event->lora_id = lora_id;
    strncpy(event->medium, medium, sizeof event->medium - 1);
    if (key)
        memcpy(event->block_hash, key->byte, sizeof event->block_hash);
    event->has_parent = parent != NULL;
    if (parent)
        memcpy(event->parent_block_hash, parent->byte, sizeof event->parent_block_hash);
    if (tokens) {
        event->token_count = events->block_tokens;
        memcpy(events->tokens + (size_t)at * events->block_tokens, tokens,
               events->block_tokens * sizeof *tokens);
    }
}

void akv_cache_event(anykv_cache *cache, anykv_block_event_type type, uint32_t node, uint32_t kind,
                     const anykv_seq *seq)
{
    if (cache->events.capacity == 0)
        return;
    const struct akv_node *n = node == AKV_NO_ID ? NULL : &cache->prefix.nodes[node];
    const bool stored = type == ANYKV_BLOCK_STORED;
    const struct akv_find *find = &cache->prefix.find;
    akv_digest key, parent;
    const bool has_parent = stored && n && n->parent != AKV_NO_ID;
    if (n)
        key = akv_find_key(find, node);
    if (has_parent)
        parent = akv_find_key(find, n->parent);
    const uint32_t *tokens =
        stored && n ? seq->tokens + (size_t)n->depth * akv_block_tokens(cache) : NULL;
    akv_events_add(&cache->events, type, kind, n ? &key : NULL, has_parent ? &parent : NULL, tokens,
                   seq ? seq->lora_id : -1,
                   strcmp(cache->device->device->info.backend, "cpu") == 0 ? "CPU" : "GPU");
}

anykv_status anykv_cache_events(anykv_cache *cache, anykv_block_event *events, uint32_t *token_ids,
                                uint64_t *count_in_out, uint64_t *lost_out)
{
    if (!cache || !count_in_out || !lost_out || (!events && *count_in_out))
        return akv_fail(cache ? cache->context : NULL, ANYKV_E_ARG, "%s: NULL",
                        !cache          ? "cache"
                        : !count_in_out ? "count_in_out"
                        : !lost_out     ? "lost_out"
                                        : "events");
    struct akv_block_events *ring = &cache->events;
    akv_mutex_lock(&cache->lock);
    const uint64_t kept = ring->next - 1 < ring->capacity ? 1 : ring->next - ring->capacity;
    *lost_out = ring->drained < kept ? kept - ring->drained : 0;
    if (ring->drained < kept)
        ring->drained = kept;
    uint64_t count = 0;
    while (count < *count_in_out && ring->drained < ring->next) {
        const uint32_t at = (uint32_t)(ring->drained++ % ring->capacity);
        events[count] = ring->ring[at];
        if (token_ids)
            memcpy(token_ids + count * ring->block_tokens,
                   ring->tokens + (size_t)at * ring->block_tokens,
                   ring->block_tokens * sizeof *token_ids);
        count++;
    }
    *count_in_out = count;
    akv_mutex_unlock(&cache->lock);
    return ANYKV_OK;
}
