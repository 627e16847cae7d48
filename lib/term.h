/* SPDX-License-Identifier: Apache-2.0 */
/* Terms: what holds for a node of the prefix index until a time: a priority, a lease, an
 * expectation. */
#ifndef AKV_TERM_H
#define AKV_TERM_H
#include "evict.h"

enum akv_term_kind { AKV_TERM_BAND, AKV_TERM_LEASE, AKV_TERM_EXPECT, AKV_TERM_KINDS };

struct akv_term {
    double until[AKV_TERM_KINDS]; /* seconds; 0: none */
    double due;                   /* the first of them, if it is in the heap */
    uint32_t place;               /* + 1; 0: not in the heap */
    uint32_t pad;
};
struct akv_terms {
    anykv_context *context;
    struct akv_term *term; /* [capacity] */
    uint32_t *heap;        /* [capacity]: nodes, the first that is due on top */
    uint32_t capacity, count;
};

anykv_status akv_terms_reserve(struct akv_terms *terms, anykv_context *context, uint32_t capacity);
void akv_terms_finish(struct akv_terms *terms);
/* until 0: none, infinity: for ever. */
void akv_terms_set(struct akv_terms *terms, uint32_t node, enum akv_term_kind kind, double until);
static inline double akv_terms_get(const struct akv_terms *terms, uint32_t node,
                                   enum akv_term_kind kind)
{
    return terms->term[node].until[kind];
}
/* Takes the first term that is over at `now` out; false: none. */
bool akv_terms_over(struct akv_terms *terms, double now, uint32_t *node_out,
                    enum akv_term_kind *kind_out);

#endif
