/* SPDX-License-Identifier: Apache-2.0 */
/* Miniature caches: which of ADAPTIVE's rules would hit most. */
#include "duel.h"
#include <math.h>

#define WINDOW 4096.0 /* blocks asked for, after which the old are halved */
#define LEAST  256.0  /* blocks asked for before anything is decided */
#define SIGMAS 2.0

/* ---- a cache's blocks, by tag ---- */

static uint16_t *chain_of(struct akv_duel_cache *cache, uint32_t tag)
{
    return &cache->chain[tag >> 8 &
                         (AKV_DUEL_CHAINS - 1)]; /* the bits below choose who takes part */
}

static struct akv_duel_block *find(struct akv_duel_cache *cache, uint32_t tag)
{
    uint32_t at = *chain_of(cache, tag);
    while (at && cache->block[at - 1].tag != tag)
        at = cache->block[at - 1].next;
    return at ? &cache->block[at - 1] : NULL;
}

static void put(struct akv_duel_cache *cache, uint32_t at, const struct akv_duel_block *block)
{
    uint16_t *chain = chain_of(cache, block->tag);
    cache->block[at] = *block;
    cache->block[at].next = *chain;
    *chain = (uint16_t)(at + 1);
}

static void take(struct akv_duel_cache *cache, uint32_t at)
{
    uint16_t *link = chain_of(cache, cache->block[at].tag);
    while (*link != at + 1)
        link = &cache->block[*link - 1].next;
    *link = cache->block[at].next;
}

/* Takes a block out and closes the gap. */
static void drop(struct akv_duel_cache *cache, uint32_t at)
{
    const uint32_t last = --cache->count;
    take(cache, at);
    if (at == last)
        return;
    const struct akv_duel_block moved = cache->block[last];
    take(cache, last);
    put(cache, at, &moved);
}

/* ---- victims ---- */

static double key_of(const struct akv_duel_block *block, enum akv_duel_rule rule, double now,
                     double rate, const struct akv_gittins *learned)
{
    if (rule == AKV_RULE_LEARNED)
        return (double)akv_gittins_index(learned, block->class_, now - block->t);
    return (double)block->weight + block->t * rate;
}

static bool before(const struct akv_duel_victim *a, const struct akv_duel_victim *b)
{
    return a->key < b->key || (a->key == b->key && a->order < b->order);
}

/* The next few at once: a look at all blocks serves for one in 16. */
static void find_victims(struct akv_duel_cache *cache, enum akv_duel_rule rule, double now,
                         double rate, const struct akv_gittins *learned)
{
    const uint32_t share = cache->count / 16;
    const uint32_t most = share < 1 ? 1 : share < AKV_DUEL_VICTIMS ? share : AKV_DUEL_VICTIMS;
    struct akv_duel_victim *victim = cache->victim;
    uint32_t count = 0;
    for (uint32_t i = 0; i < cache->count; i++) {
        const struct akv_duel_block *block = &cache->block[i];
        if (block->t >= now) /* the request's own */
            continue;
        const struct akv_duel_victim one = {key_of(block, rule, now, rate, learned), block->order,
                                            (uint16_t)i};
        if (count == most && !before(&one, &victim[0]))
            continue;
        uint32_t at = count < most ? count : 0; /* descending: the next one stands last */
        if (count < most) {
            for (; at > 0 && before(&victim[at - 1], &one); at--)
                victim[at] = victim[at - 1];
            count++;
        } else {
            for (; at + 1 < count && before(&one, &victim[at + 1]); at++)
                victim[at] = victim[at + 1];
        }
        victim[at] = one;
    }
    cache->victims = count;
}

/* Place of the next victim; cache->count if all blocks are the request's own. */
static uint32_t next_victim(struct akv_duel_cache *cache, enum akv_duel_rule rule, double now,
                            double rate, const struct akv_gittins *learned)
{
    for (int again = 0; again < 2; again++) {
        while (cache->victims) {
            const struct akv_duel_victim *victim = &cache->victim[--cache->victims];
            if (victim->at < cache->count && cache->block[victim->at].order == victim->order)
                return victim->at;
        }
        find_victims(cache, rule, now, rate, learned);
    }
    return cache->count;
}

/* ---- use ---- */

/* As many blocks take part as fit, and so many that a block of the real cache costs about
 * 3 * 16 / 2^shift steps. */
static void adjust(struct akv_duel *duel, uint32_t live)
{
    const uint32_t shift = duel->shift;
    while (live >> duel->shift > AKV_DUEL_BLOCKS || (uint64_t)live >> 2 * duel->shift > 128)
        duel->shift++;
    for (uint32_t r = 0; r < AKV_RULES && duel->shift != shift; r++) {
        struct akv_duel_cache *cache = &duel->cache[r];
        for (uint32_t i = cache->count; i-- > 0;)
            if (!akv_duel_takes(duel, (uint64_t)cache->block[i].tag << 24))
                drop(cache, i);
    }
}

/* Puts the block in, in place of one that goes; true: it was there. */
static bool use(struct akv_duel_cache *cache, const struct akv_duel_block *block, uint32_t room,
                enum akv_duel_rule rule, double rate, const struct akv_gittins *learned)
{
    struct akv_duel_block *there = find(cache, block->tag);
    if (there) {
        const uint16_t next = there->next;
        *there = *block;
        there->next = next;
        return true;
    }
    while (cache->count && cache->count >= room) {
        const uint32_t victim = next_victim(cache, rule, block->t, rate, learned);
        if (victim == cache->count)
            return false;
        if (cache->count == room) {
            take(cache, victim);
            put(cache, victim, block);
            return false;
        }
        drop(cache, victim);
    }
    if (cache->count < room)
        put(cache, cache->count++, block);
    return false;
}

void akv_duel_touch(struct akv_duel *duel, const struct akv_duel_block *block, uint32_t live,
                    double half, const struct akv_gittins *learned)
{
    adjust(duel, live);
    const uint32_t room = live >> duel->shift;
    duel->asked++;
    for (int r = 0; r < AKV_RULES; r++) {
        const bool there = use(&duel->cache[r], block, room, (enum akv_duel_rule)r,
                               (r == AKV_RULE_RECENT ? AKV_RECENT : 1.0) / half, learned);
        /* What is behind a block that is not there is no hit. */
        duel->hit[r] = there ? duel->hit[r] + 1 : 0;
    }
}

void akv_duel_done(struct akv_duel *duel, uint32_t tag)
{
    for (int r = 0; r < AKV_RULES; r++) {
        const struct akv_duel_block *block = find(&duel->cache[r], tag);
        if (block)
            drop(&duel->cache[r], (uint32_t)(block - duel->cache[r].block));
    }
}

enum akv_duel_rule akv_duel_request(struct akv_duel *duel, enum akv_duel_rule used, bool counts,
                                    double clear)
{
    enum akv_duel_rule best = used;
    if (counts) {
        duel->total += duel->asked;
        for (int r = 0; r < AKV_RULES; r++) {
            const double more = (double)duel->hit[r] - (double)duel->hit[used];
            duel->more[r] += more;
            duel->square[r] += more * more;
            const double least = duel->more[r] - SIGMAS * sqrt(duel->square[r]);
            if (duel->total >= LEAST && duel->more[r] > duel->more[best] &&
                least > clear * duel->total)
                best = (enum akv_duel_rule)r;
        }
    }
    const bool halve = duel->total > WINDOW;
    for (int r = 0; r < AKV_RULES; r++) {
        duel->hit[r] = 0;
        duel->more[r] = best != used ? 0.0 : halve ? 0.5 * duel->more[r] : duel->more[r];
        duel->square[r] = best != used ? 0.0 : halve ? 0.5 * duel->square[r] : duel->square[r];
    }
    duel->asked = 0;
    duel->total = best != used ? 0.0 : halve ? 0.5 * duel->total : duel->total;
    return best;
}
