/* SPDX-License-Identifier: Apache-2.0 */
/* Terms: what holds for a node of the prefix index until a time. */
#include "term.h"
#include <math.h>

static void put(struct akv_terms *terms, uint32_t at, uint32_t node)
{
    terms->heap[at] = node;
    terms->term[node].place = at + 1;
}

static void up(struct akv_terms *terms, uint32_t at, uint32_t node)
{
    for (; at > 0 && terms->term[terms->heap[(at - 1) / 2]].due > terms->term[node].due;
         at = (at - 1) / 2)
        put(terms, at, terms->heap[(at - 1) / 2]);
    put(terms, at, node);
}

static void down(struct akv_terms *terms, uint32_t at, uint32_t node)
{
    for (;;) {
        uint64_t child = (uint64_t)at * 2 + 1;
        if (child >= terms->count)
            break;
        if (child + 1 < terms->count &&
            terms->term[terms->heap[child + 1]].due < terms->term[terms->heap[child]].due)
            child++;
        if (terms->term[terms->heap[child]].due >= terms->term[node].due)
            break;
        put(terms, at, terms->heap[child]);
        at = (uint32_t)child;
    }
    put(terms, at, node);
}

static void leave(struct akv_terms *terms, uint32_t node)
{
    const uint32_t at = terms->term[node].place - 1, last = terms->heap[--terms->count];
    terms->term[node].place = 0;
    if (last == node)
        return;
    if (at > 0 && terms->term[last].due < terms->term[terms->heap[(at - 1) / 2]].due)
        up(terms, at, last);
    else
        down(terms, at, last);
}

anykv_status akv_terms_reserve(struct akv_terms *terms, anykv_context *context, uint32_t capacity)
{
    const uint32_t old = terms->capacity;
    terms->context = context;
    if (capacity <= old)
        return ANYKV_OK;
    struct akv_term *term = akv_resize(context, terms->term, old, capacity, sizeof *term);
    if (!term)
        return ANYKV_E_MEMORY;
    terms->term = term;
    uint32_t *heap = akv_resize(context, terms->heap, old, capacity, sizeof *heap);
    if (!heap)
        return ANYKV_E_MEMORY;
    terms->heap = heap;
    terms->capacity = capacity;
    return ANYKV_OK;
}

void akv_terms_finish(struct akv_terms *terms)
{
    akv_free(terms->context, terms->term);
    akv_free(terms->context, terms->heap);
    memset(terms, 0, sizeof *terms);
}

void akv_terms_set(struct akv_terms *terms, uint32_t node, enum akv_term_kind kind, double until)
{
    struct akv_term *term = &terms->term[node];
    if (term->until[kind] == until)
        return;
    term->until[kind] = until;
    if (term->place)
        leave(terms, node);
    term->due = INFINITY;
    for (uint32_t k = 0; k < AKV_TERM_KINDS; k++)
        if (term->until[k] != 0.0 && term->until[k] < term->due)
            term->due = term->until[k];
    if (term->due < INFINITY) /* what holds for ever is never due */
        up(terms, terms->count++, node);
}

bool akv_terms_over(struct akv_terms *terms, double now, uint32_t *node_out,
                    enum akv_term_kind *kind_out)
{
    if (terms->count == 0 || terms->term[terms->heap[0]].due > now)
        return false;
    const uint32_t node = terms->heap[0];
    uint32_t kind = 0;
    while (terms->term[node].until[kind] != terms->term[node].due)
        kind++;
    akv_terms_set(terms, node, (enum akv_term_kind)kind, 0.0);
    *node_out = node;
    *kind_out = (enum akv_term_kind)kind;
    return true;
}
