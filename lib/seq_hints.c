/* SPDX-License-Identifier: Apache-2.0 */
/* Sequences: what the caller says of their future: done, expected, priorities, pins, leases. */
#include "seq.h"
#include <math.h>

anykv_status anykv_seq_done(anykv_seq *seq)
{
    anykv_status status = akv_seq_enter(seq, false);
    if (status)
        return status;
    seq->done = true;
    return akv_seq_leave(seq, ANYKV_OK);
}

anykv_status anykv_seq_pin(anykv_seq *seq, int pinned)
{
    anykv_status status = akv_seq_enter(seq, false);
    if (status)
        return status;
    anykv_cache *cache = seq->cache;
    if (!pinned || !seq->pinned)
        for (uint32_t i = 0; i < seq->node_count; i++) {
            if (pinned)
                akv_prefix_pin(&cache->prefix, seq->nodes[i]);
            else
                akv_prefix_unpin(&cache->prefix, seq->nodes[i]);
            akv_cache_on_idle(cache, seq->nodes[i], false);
        }
    seq->pinned = pinned != 0;
    return akv_seq_leave(seq, ANYKV_OK);
}

/* The time at which `seconds` from now are over. */
static double from_now(const anykv_seq *seq, double seconds)
{
    return seq->cache->prefix.evict.now + seconds;
}

/* Applies one range to a named block. */
static void retain_block(anykv_seq *seq, const struct akv_retain *retain, uint32_t i)
{
    if (i >= retain->first && i < retain->end)
        akv_prefix_retain(&seq->cache->prefix, seq->nodes[i], retain->band, retain->until);
}

void akv_seq_hint_node(anykv_seq *seq, uint32_t i)
{
    if (seq->pinned)
        akv_prefix_pin(&seq->cache->prefix, seq->nodes[i]);
    for (uint32_t r = 0; r < seq->retains; r++)
        retain_block(seq, &seq->retain[r], i);
    if (seq->leased)
        akv_prefix_lease(&seq->cache->prefix, seq->nodes[i], seq->lease_until);
}

/* A place for a range: the same one's, one that is over, or a new one; NULL: all are taken. */
static struct akv_retain *place_for(anykv_seq *seq, uint32_t first, uint32_t end)
{
    const double now = seq->cache->prefix.evict.now;
    for (uint32_t r = 0; r < seq->retains; r++)
        if (seq->retain[r].until <= now ||
            (seq->retain[r].first == first && seq->retain[r].end == end))
            return &seq->retain[r];
    return seq->retains < AKV_RETAINS ? &seq->retain[seq->retains++] : NULL;
}

anykv_status anykv_seq_retain(anykv_seq *seq, uint64_t first, uint64_t count, uint32_t priority,
                              double seconds)
{
    anykv_status status = akv_seq_enter(seq, false);
    if (status)
        return status;
    anykv_context *context = seq->cache->context;
    const uint64_t size = akv_block_tokens(seq->cache),
                   most = seq->cache->plan.options.max_seq_tokens;
    if (priority > AKV_BAND_MAX)
        status = akv_fail(context, ANYKV_E_ARG, "priority: %u is above %u", priority, AKV_BAND_MAX);
    else if (!(seconds > 0.0))
        status = akv_fail(context, ANYKV_E_ARG, "seconds: %g is not above 0", seconds);
    else if (first >= most || count > most - first)
        status = akv_fail(
            context, ANYKV_E_ARG, "first, count: %llu and %llu go beyond max_seq_tokens, %llu",
            (unsigned long long)first, (unsigned long long)count, (unsigned long long)most);
    if (status || count == 0)
        return akv_seq_leave(seq, status);
    const uint32_t from = (uint32_t)(first / size),
                   end = (uint32_t)((first + count - 1) / size) + 1;
    struct akv_retain *retain = place_for(seq, from, end);
    if (!retain)
        return akv_seq_leave(seq, akv_fail(context, ANYKV_E_ARG,
                                           "first, count: %u ranges of the sequence hold already",
                                           AKV_RETAINS));
    *retain = (struct akv_retain){from, end, priority, from_now(seq, seconds)};
    for (uint32_t i = 0; i < seq->node_count; i++)
        retain_block(seq, retain, i);
    return akv_seq_leave(seq, ANYKV_OK);
}

anykv_status anykv_seq_lease(anykv_seq *seq, double seconds)
{
    anykv_status status = akv_seq_enter(seq, false);
    if (status)
        return status;
    if (!(seconds > 0.0) || isinf(seconds))
        return akv_seq_leave(seq, akv_fail(seq->cache->context, ANYKV_E_ARG,
                                           "seconds: %g is not above 0 and finite", seconds));
    const double until = from_now(seq, seconds);
    if (!seq->leased || until > seq->lease_until)
        seq->lease_until = until;
    seq->leased = true;
    for (uint32_t i = 0; i < seq->node_count; i++)
        akv_prefix_lease(&seq->cache->prefix, seq->nodes[i], seq->lease_until);
    return akv_seq_leave(seq, ANYKV_OK);
}

anykv_status anykv_seq_expect(anykv_seq *seq, double seconds)
{
    anykv_status status = akv_seq_enter(seq, false);
    if (status)
        return status;
    if (!(seconds >= 0.0) || isinf(seconds))
        return akv_seq_leave(seq, akv_fail(seq->cache->context, ANYKV_E_ARG,
                                           "seconds: %g is not at least 0 and finite", seconds));
    const double when = from_now(seq, seconds);
    seq->done = false;
    for (uint32_t i = seq->node_count; i-- > 0;)
        akv_prefix_expect(&seq->cache->prefix, seq->nodes[i], when);
    return akv_seq_leave(seq, ANYKV_OK);
}
