/* SPDX-License-Identifier: Apache-2.0 */
/* Ring of what happened to named blocks. */
#ifndef AKV_EVENTS_H
#define AKV_EVENTS_H
#include "internal.h"

struct akv_block_events {
    anykv_block_event *ring; /* [capacity] */
    uint32_t *tokens;        /* [capacity * block_tokens] */
    uint32_t capacity, block_tokens;
    uint64_t next;    /* number of the next event; the first is 1 */
    uint64_t drained; /* number of the first that was not drained */
};

anykv_status akv_events_init(struct akv_block_events *events, anykv_context *context,
                             uint32_t capacity, uint32_t block_tokens);
void akv_events_finish(struct akv_block_events *events, anykv_context *context);
/* Writes one event, over the oldest where the ring is full.  Nothing with capacity 0.  parent and
 * tokens may be NULL. */
void akv_events_add(struct akv_block_events *events, anykv_block_event_type type, uint32_t kind,
                    const akv_digest *key, const akv_digest *parent, const uint32_t *tokens,
                    int64_t lora_id, const char *medium);

#endif
