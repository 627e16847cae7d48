/* SPDX-License-Identifier: Apache-2.0 */
/* Eviction: which of the candidates goes next.  Knows ids only, so it is used by the cache and,
 * without one, by `anykv replay`.
 *
 * Candidates (the prefix index enters its idle leaves) belong to parts: part 0, and one for each
 * tenant that was declared, so that one tenant's requests push out neither another's ghosts nor
 * change its half-life.  Within a part the order is: band (priority), then the line of those that
 * are done, oldest first, then the policy.
 *
 * Time is the caller's, in seconds; the owner sets it with akv_evict_clock before other calls.
 * Nothing here takes longer than O(log n): what a change of a policy's parameters asks for is done
 * a few blocks at a time, during later calls.  Not thread-safe: the owner locks. */
#ifndef AKV_EVICT_H
#define AKV_EVICT_H
#include "ghost.h"

#define AKV_NO_ID         0xFFFFFFFFu
#define AKV_BAND_MAX      100u
#define AKV_BAND_DEFAULT  35u
#define AKV_PARTS         64u
#define AKV_KEY_BITS      56u /* of what a policy orders by */
#define AKV_EVICT_KNOWN   1u  /* touched before, or remembered by a ghost: `t` and `v` count */
#define AKV_EVICT_PARTIAL 2u  /* holds fewer tokens than a block */
#define AKV_EVICT_LINE    4u  /* done: in the line of first victims */
#define AKV_EVICT_RATED   8u  /* CALLER: has a score */

struct akv_evict_entry {
    double t;                           /* seconds of the last touch */
    uint64_t stamp;                     /* counts touches, or places in the line */
    float v;                            /* policy's: a count */
    uint32_t word;                      /* policy's */
    uint8_t part, band, flags, fan_out; /* fan_out: saturating */
};

struct akv_evict_item {
    uint64_t key;
    uint32_t id;
    uint32_t pad;
};
/* Four children a node.  Two heaps share an array, from its two ends.  Where the first item was
 * taken out a hole may stay until the next change: after an eviction that is mostly its parent,
 * which belongs near there. */
struct akv_heap {
    struct akv_evict_item *base;
    int32_t step;
    uint32_t count; /* the hole included */
    bool hole;
    uint32_t mark; /* bit 31 of `place` */
};

struct akv_evict_part {
    struct akv_evict_item *items; /* [capacity] */
    struct akv_heap heap[2];      /* candidates by key; by keys of before, being moved over */
    uint32_t now;                 /* which of the two is current */
    uint32_t room;                /* of items */
    uint64_t share;               /* blocks the ghosts are made for; 0: all */
    uint32_t live;                /* blocks that are cached, candidates or not */
    uint32_t listed;              /* candidates in the policy's own order */
    bool lists;                   /* plain candidates belong there, not into the heap */
    struct akv_ghosts ghosts;
    void *state; /* policy's */
};

struct akv_policy;
struct akv_evict {
    anykv_context *context;
    const struct akv_policy *policy;
    double now, epoch; /* seconds; epoch: the first ones */
    bool started;
    uint64_t stamp;
    uint32_t capacity, count; /* ids 0 … capacity-1; candidates */
    struct akv_evict_entry *entry;
    uint32_t *place; /* [capacity]: where it stands among the candidates; 0: it is none */
    void *links;     /* [capacity * policy->id_bytes] */
    struct akv_evict_part *part[AKV_PARTS];
    uint32_t parts;
    uint64_t changes; /* of rule, by ADAPTIVE */
};

/* ---- evict_heap.c ---- */
#define AKV_HEAP_MARK 0x80000000u
static inline struct akv_evict_item *akv_heap_at(const struct akv_heap *heap, uint32_t at)
{
    return heap->base + (ptrdiff_t)at * heap->step;
}
void akv_heap_repair(struct akv_evict *evict, struct akv_heap *heap); /* closes the hole */
void akv_heap_add(struct akv_evict *evict, struct akv_heap *heap, uint64_t key, uint32_t id);
void akv_heap_remove(struct akv_evict *evict, struct akv_heap *heap, uint32_t id);
/* The first `most` ids with keys below `below`, in order; the heap has no hole. */
uint32_t akv_heap_first(const struct akv_heap *heap, uint64_t below, uint32_t most, uint32_t *ids);

/* ---- the table of policies ---- */
struct akv_policy {
    anykv_policy id;
    const char *name; /* lower case, as `anykv replay --policy` takes it */
    bool ghosts;
    uint32_t state_bytes, id_bytes;
    /* A new part's state is zeroed; NULL: nothing further. */
    anykv_status (*open)(struct akv_evict *evict, struct akv_evict_part *part);
    void (*close)(struct akv_evict *evict, struct akv_evict_part *part);
    /* The id is new: what its ghost (or NULL) says.  NULL: nothing. */
    void (*recall)(struct akv_evict *evict, uint32_t id, const struct akv_ghost *ghost);
    uint32_t (*remember)(struct akv_evict *evict, uint32_t id); /* a ghost's data */
    /* The id is used now; e->t is still the time before.  `tag` is of its key. */
    void (*touch)(struct akv_evict *evict, uint32_t id, uint64_t tag);
    /* The use lasts until now.  NULL: makes no difference. */
    void (*renew)(struct akv_evict *evict, uint32_t id);
    /* AKV_KEY_BITS bits; the smallest goes first. */
    uint64_t (*key)(struct akv_evict *evict, const struct akv_evict_part *part, uint32_t id);
    /* The id is done, and in the line until its next touch.  NULL: nothing. */
    void (*done)(struct akv_evict *evict, uint32_t id, uint64_t tag);
    /* The id went by eviction with this key.  NULL: nothing. */
    void (*went)(struct akv_evict *evict, uint32_t id);
    /* A return gap was seen; a request is over; a few blocks' worth of what is left to do.  NULL.
     */
    void (*gap)(struct akv_evict *evict, struct akv_evict_part *part, double seconds);
    void (*request)(struct akv_evict *evict, struct akv_evict_part *part);
    void (*work)(struct akv_evict *evict, struct akv_evict_part *part);
    /* An order of its own for candidates of the default band that are not done, where the part's
     * `lists` says so.  NULL: the heap. */
    void (*enter)(struct akv_evict *evict, struct akv_evict_part *part, uint32_t id);
    void (*leave)(struct akv_evict *evict, struct akv_evict_part *part, uint32_t id);
    uint32_t (*first)(struct akv_evict *evict, struct akv_evict_part *part);
    uint32_t (*coldest)(const struct akv_evict *evict, const struct akv_evict_part *part,
                        uint32_t most, uint32_t *ids);
    /* Seconds for which a block stays warm after its use.  NULL: no such time. */
    double (*horizon)(const struct akv_evict_part *part);
    /* The rule that the part goes by at present, if there are several.  NULL: there is one. */
    const char *(*rule)(const struct akv_evict_part *part);
    /* How hot: comparable between parts. */
    double (*heat)(const struct akv_evict *evict, const struct akv_evict_part *part, uint32_t id);
};
extern const struct akv_policy akv_policy_lru, akv_policy_lfu, akv_policy_fifo, akv_policy_adaptive,
    akv_policy_gittins, akv_policy_caller;
/* NULL for an unknown one. */
const struct akv_policy *akv_policy_find(anykv_policy id);
const struct akv_policy *akv_policy_parse(const char *name);
/* A real number as a key, order kept (not a NaN). */
uint64_t akv_policy_real(double value);
/* The other heap becomes the current one, `work` moves the candidates over, to the lists or out of
 * them if that has changed. */
void akv_evict_rekey(struct akv_evict *evict, struct akv_evict_part *part);
static inline bool akv_evict_rekeying(const struct akv_evict_part *part)
{
    return part->heap[!part->now].count != 0 || (!part->lists && part->listed != 0);
}

/* ---- use ---- */
anykv_status akv_evict_init(struct akv_evict *evict, anykv_context *context, anykv_policy policy);
void akv_evict_finish(struct akv_evict *evict);
/* Room for ids below `capacity`; E_MEMORY: nothing changed.  Nothing else but add_part allocates.
 */
anykv_status akv_evict_reserve(struct akv_evict *evict, uint32_t capacity);
/* A further part, with ghosts for `share` blocks (0: for all). */
anykv_status akv_evict_add_part(struct akv_evict *evict, uint64_t share, uint32_t *part_out);
/* Host bytes held: entries, heaps, ghosts, the policy's state. */
uint64_t akv_evict_host_bytes(const struct akv_evict *evict);
void akv_evict_clock(struct akv_evict *evict, double seconds); /* an earlier time: no change */

/* A block enters the cache under this id, not yet touched; `tag`: eight bytes of its key. */
void akv_evict_born(struct akv_evict *evict, uint32_t id, uint32_t part, uint64_t tag,
                    bool partial);
/* It leaves; evicted: remembered.  It is no candidate any more. */
void akv_evict_gone(struct akv_evict *evict, uint32_t id, uint64_t tag, bool evicted);
/* The id is used now; works for candidates and others. */
void akv_evict_touch(struct akv_evict *evict, uint32_t id, uint64_t tag);
/* The use that the last touch began has lasted until now. */
void akv_evict_renew(struct akv_evict *evict, uint32_t id);
/* Seconds for which the policy holds an id warm after its use; infinite if it does not ask for the
 * time. */
double akv_evict_horizon(const struct akv_evict *evict, uint32_t id);
/* The id is expected to be used at `when`, within the horizon: as if it had been used then. */
void akv_evict_expect(struct akv_evict *evict, uint32_t id, double when);
/* The id will not be used again: it goes before others of its band, oldest demotion first.  A later
 * touch undoes it. */
void akv_evict_demote(struct akv_evict *evict, uint32_t id, uint64_t tag);
/* CALLER: its score, until the next touch; a NaN is the largest. */
void akv_evict_rate(struct akv_evict *evict, uint32_t id, float score);
void akv_evict_band(struct akv_evict *evict, uint32_t id, uint32_t band);
void akv_evict_fan_out(struct akv_evict *evict, uint32_t id, uint32_t fan_out);
/* The id becomes a candidate, or stops being one; both may be called again. */
void akv_evict_enter(struct akv_evict *evict, uint32_t id);
void akv_evict_leave(struct akv_evict *evict, uint32_t id);

/* A request of the part: its return gap if it came back after one, and where it ends. */
void akv_evict_request(struct akv_evict *evict, uint32_t part);
void akv_evict_gap(struct akv_evict *evict, uint32_t part, double seconds);
void akv_evict_end(struct akv_evict *evict, uint32_t part, uint64_t tag);
/* Seconds since the last touch, ghosts' and ends' memory included; negative: never seen. */
double akv_evict_age(const struct akv_evict *evict, uint32_t id);

/* Starts the memory accesses that `gone` will need. */
void akv_evict_prefetch(const struct akv_evict *evict, uint32_t id, uint64_t tag);
/* The candidate of a part to go next, AKV_NO_ID if there is none; it stays a candidate. */
uint32_t akv_evict_first(struct akv_evict *evict, uint32_t part);
/* The same over all parts whose bit in `spared` is not set. */
uint32_t akv_evict_victim(struct akv_evict *evict, uint64_t spared);
/* Candidates of a part that go first, in their order, at most `most` (up to AKV_COLDEST); returns
 * how many. */
#define AKV_COLDEST 256u
uint32_t akv_evict_coldest(struct akv_evict *evict, uint32_t part, uint32_t most, uint32_t *ids);
/* Why a block of the id's part goes: the policy's name, or its rule's. */
const char *akv_evict_reason(const struct akv_evict *evict, uint32_t id);
/* How hot the policy holds an id, whether or not it is a candidate: band, line and policy. */
double akv_evict_heat(const struct akv_evict *evict, uint32_t id);

#endif
