/* SPDX-License-Identifier: Apache-2.0 */
/* The rules of LRU and ADAPTIVE once more, as plainly as they can be put. */
#include "evict_reference.h"
#include <math.h>
#include <stdlib.h>

struct rblock {
    bool cached, known, partial, end; /* known: cached, or a ghost */
    double v, t, end_time;
    uint64_t used, line; /* order of touches; place in the line of those that are done, 0: none */
    uint32_t children, ever, busy;
    double score;
};
struct reference {
    const struct akv_trace *trace;
    struct rblock *block;
    uint32_t *leaf, leaves; /* cached blocks, in any order; those with children are passed over */
    uint32_t *ghost, *end;  /* exact FIFOs */
    uint64_t ghost_first, ghost_last, end_first, end_last, order, line;
    uint32_t capacity, cached;
    bool adaptive;
    double half, gap[2048];
    uint64_t gaps;
};

static double log2_score(const struct reference *r, const struct rblock *b)
{
    return r->adaptive ? log2(b->v) + b->t / r->half : (double)b->used;
}

static void evict_one(struct reference *r, uint32_t request)
{
    uint32_t best = UINT32_MAX;
    for (uint32_t i = 0; i < r->leaves; i++) {
        const struct rblock *b = &r->block[r->leaf[i]];
        if (b->children || b->busy == request + 1)
            continue;
        const struct rblock *least = best == UINT32_MAX ? NULL : &r->block[r->leaf[best]];
        bool before = !least;
        if (least && (b->line || least->line))
            before = b->line && (!least->line || b->line < least->line);
        else if (least)
            before = b->score < least->score || (b->score == least->score && b->used < least->used);
        if (before)
            best = i;
    }
    const uint32_t id = r->leaf[best];
    struct rblock *b = &r->block[id];
    r->leaf[best] = r->leaf[--r->leaves];
    b->cached = false;
    r->cached--;
    if (r->trace->parent[id] != AKV_NEVER)
        r->block[r->trace->parent[id]].children--;
    r->ghost[r->ghost_last++] = id;
    while (r->ghost_last - r->ghost_first > 12u * (uint64_t)r->capacity) {
        struct rblock *old = &r->block[r->ghost[r->ghost_first++]];
        if (!old->cached)
            old->known = false;
    }
}

/* How long after its last use the request came back: of its deepest block seen before. */
static void note_gap(struct reference *r, const uint32_t *id, uint32_t count, double now)
{
    for (uint32_t i = count; i-- > 0;) {
        const struct rblock *b = &r->block[id[i]];
        if (b->known || b->end) {
            if (b->ever <= 2)
                r->gap[r->gaps++ % 2048] = now - (b->known ? b->t : b->end_time);
            return;
        }
    }
}

static void note_end(struct reference *r, const uint32_t *id, uint32_t count, bool partial,
                     double now)
{
    const uint32_t last = count - (partial ? 1 : 0);
    if (last == 0)
        return;
    struct rblock *b = &r->block[id[last - 1]];
    b->end = true;
    b->end_time = now;
    r->end[r->end_last++] = id[last - 1];
    if (r->end_last - r->end_first > 4u * (uint64_t)r->capacity) {
        const uint32_t old = r->end[r->end_first++];
        for (uint64_t i = r->end_first; i < r->end_last; i++)
            if (r->end[i] == old)
                return; /* ended there again since */
        r->block[old].end = false;
    }
}

static int ascending(const void *a, const void *b)
{
    const double x = *(const double *)a, y = *(const double *)b;
    return x < y ? -1 : x > y;
}

static void set_half(struct reference *r, uint32_t request)
{
    static double sorted[2048];
    const uint64_t count = r->gaps < 2048 ? r->gaps : 2048;
    if ((request + 1) % 500 || count < 64)
        return;
    memcpy(sorted, r->gap, count * sizeof *sorted);
    qsort(sorted, count, sizeof *sorted, ascending);
    double half = 2.0 * sorted[count / 2];
    half = half < 1.0 ? 1.0 : half;
    if (half <= 1.25 * r->half && half >= r->half / 1.25)
        return;
    r->half = half;
    for (uint32_t i = 0; i < r->leaves; i++)
        r->block[r->leaf[i]].score = log2_score(r, &r->block[r->leaf[i]]);
}

static uint32_t one_request(struct reference *r, uint32_t request, bool done)
{
    const struct akv_trace *trace = r->trace;
    const uint32_t *id = trace->id + trace->first[request];
    const uint32_t count = (uint32_t)(trace->first[request + 1] - trace->first[request]);
    const uint32_t held = count < r->capacity ? count : r->capacity;
    const double now = trace->seconds[request];
    uint32_t hits = 0;
    while (hits < count && r->block[id[hits]].cached)
        hits++;
    note_gap(r, id, count, now);
    for (uint32_t i = 0; i < held; i++)
        r->block[id[i]].busy = request + 1;
    for (uint32_t i = hits; i < held; i++) {
        if (r->cached == r->capacity)
            evict_one(r, request);
        struct rblock *b = &r->block[id[i]];
        b->cached = true;
        r->cached++;
        r->leaf[r->leaves++] = id[i];
        b->partial = trace->partial[request] && i + 1 == count;
        if (i) {
            r->block[id[i - 1]].children++;
            r->block[id[i - 1]].ever += !b->used; /* never cached before: another child */
        }
    }
    for (uint32_t i = held; i-- > 0;) {
        struct rblock *b = &r->block[id[i]];
        const double before = b->known ? b->v * exp2((b->t - now) / r->half) : 0.0;
        b->v = b->partial ? 1e-6 : 1.0 + before;
        b->t = now;
        b->known = true;
        b->line = 0;
        b->used = ++r->order;
        b->score = log2_score(r, b);
    }
    if (held)
        note_end(r, id, held, held == count && trace->partial[request], now);
    if (done && count >= 2 && trace->again[trace->first[request] + count - 2] == AKV_NEVER)
        for (uint32_t i = held; i-- > 0 && r->block[id[i]].ever <= 4;)
            r->block[id[i]].line = ++r->line;
    set_half(r, request);
    return hits;
}

uint64_t reference_hits(const struct akv_trace *trace, uint32_t capacity, bool adaptive, bool done)
{
    struct reference r = {.trace = trace, .capacity = capacity, .adaptive = adaptive};
    uint64_t hits = 0;
    r.half = 60.0;
    r.block = calloc(trace->ids + 1, sizeof *r.block);
    r.leaf = calloc((size_t)capacity + 1, sizeof *r.leaf);
    r.ghost = calloc(trace->blocks + 1, sizeof *r.ghost);
    r.end = calloc((size_t)trace->requests + 1, sizeof *r.end);
    for (uint32_t i = 0; i < trace->requests; i++)
        hits += one_request(&r, i, done);
    free(r.block);
    free(r.leaf);
    free(r.ghost);
    free(r.end);
    return hits;
}
