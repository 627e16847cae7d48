/* SPDX-License-Identifier: Apache-2.0 */
/* Miniature caches: which of ADAPTIVE's rules would hit most (Waldspurger and others, 2017).
 *
 * One block of so many, by its tag, also goes through a small cache of each rule, so many times
 * smaller than the real one; the rule in use is left for another that hits clearly more there. */
#ifndef AKV_DUEL_H
#define AKV_DUEL_H
#include "policy_gittins.h"

enum akv_duel_rule { AKV_RULE_EVEN, AKV_RULE_RECENT, AKV_RULE_LEARNED, AKV_RULES };
#define AKV_RECENT       16.0 /* RECENT's age counts so many times as much */
#define AKV_DUEL_BLOCKS  512u /* of a miniature cache at most */
#define AKV_DUEL_CHAINS  512u
#define AKV_DUEL_VICTIMS 32u

struct akv_duel_block {
    double t;
    float weight;   /* log2 v */
    uint32_t tag;   /* bits 24 to 55 of it */
    uint32_t order; /* of touches */
    uint16_t class_, next;
};
struct akv_duel_victim {
    double key;
    uint32_t order;
    uint16_t at;
};
struct akv_duel_cache {
    uint32_t count, victims;
    struct akv_duel_victim victim[AKV_DUEL_VICTIMS]; /* the next last; found together */
    uint16_t chain[AKV_DUEL_CHAINS];                 /* by tag: place + 1 of its first block */
    struct akv_duel_block block[AKV_DUEL_BLOCKS];
};
struct akv_duel {
    struct akv_duel_cache cache[AKV_RULES];
    uint32_t shift;                 /* one block of 2^shift takes part */
    uint32_t asked, hit[AKV_RULES]; /* of the request under way */
    /* Since the last change, the old halved again and again: blocks asked for, hits more than the
     * rule in use had, and the same by request, squared. */
    double total, more[AKV_RULES], square[AKV_RULES];
};

static inline bool akv_duel_takes(const struct akv_duel *duel, uint64_t tag)
{
    return (tag >> 24 & (((uint64_t)1 << duel->shift) - 1)) == 0;
}
/* A block that takes part is used at block->t; the real cache holds `live` blocks.  The blocks of a
 * request come deepest first. */
void akv_duel_touch(struct akv_duel *duel, const struct akv_duel_block *block, uint32_t live,
                    double half, const struct akv_gittins *learned);
/* A block that takes part is done: it goes first, whatever the rule. */
void akv_duel_done(struct akv_duel *duel, uint32_t tag);
/* A request is over.  counts: the real cache is full, so that its hits say something.
 * clear: share of the blocks asked for that must be hit more, sure as two deviations.  Returns the
 * rule to use from now on. */
enum akv_duel_rule akv_duel_request(struct akv_duel *duel, enum akv_duel_rule used, bool counts,
                                    double clear);

#endif
