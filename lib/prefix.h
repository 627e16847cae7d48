/* SPDX-License-Identifier: Apache-2.0 */
/* Prefix index: key of a whole block → node, in a tree; counts users and pins, and feeds the
 * eviction policy with the leaves that nobody uses.
 *
 * A node names one block position of a chain: its key, its parent's node, and one block id for each
 * layer group (AKV_NO_ID where that group's block is not held).  Block ids are opaque here, so the
 * index works without a cache: `anykv replay` uses it with groups = 0 or 1 and keys of its own
 * (akv_prefix_key_of).  A request of replay is:
 *
 *     akv_prefix_clock()
 *     for each id in order    node = akv_prefix_find(); hit while found, then akv_prefix_hold()
 *     for each further id     evict while full: akv_prefix_victim(), akv_prefix_remove();
 *                             akv_prefix_insert(), which holds the new node
 *     for the whole path      akv_prefix_request(), which touches deepest first
 *     deepest first           akv_prefix_drop()
 *
 * A node is busy while it has a user, a pin or a busy child; a node that is not busy is idle.  The
 * policy's candidates are the idle nodes without children: leaves go before their parents, and
 * every idle node can be reached by evicting idle nodes only.
 *
 * Not thread-safe: the owner locks; only akv_find_prefetch and akv_find_peek need no lock. */
#ifndef AKV_PREFIX_H
#define AKV_PREFIX_H
#include "find.h"
#include "term.h"

struct akv_node {
    uint32_t parent;   /* AKV_NO_ID: first block of a chain; next free node while unused */
    uint32_t children; /* in the index now */
    uint32_t depth;    /* 0: first block of a chain */
    uint32_t fan_out;  /* children ever seen, saturating; for `done` hints */
    uint32_t users;    /* sequences, or requests of replay */
    uint32_t pins;
    uint32_t busy_children;
    bool used;      /* false: on the free list */
    bool withdrawn; /* no longer found by its key */
};

/* Uses of whole paths that the policy has not been told of yet. */
#define AKV_LATE 8u
struct akv_late {
    uint32_t node; /* the deepest */
    bool over;     /* the use ends */
    double time;
};

struct akv_prefix {
    anykv_context *context;
    uint32_t groups;
    struct akv_node *nodes; /* [capacity] */
    uint32_t *blocks;       /* [capacity * groups] */
    uint32_t capacity, count, free_node;
    struct akv_find find; /* keys, and which node has one */
    struct akv_evict evict;
    struct akv_terms terms;
    uint64_t spared; /* bit p: no victims from part p */
    struct akv_late late[AKV_LATE];
    uint32_t lates;
    /* Called when a node becomes idle or busy; NULL: nobody asks. */
    void (*on_idle)(void *user, uint32_t node, bool idle);
    void *user;
};

anykv_status akv_prefix_init(struct akv_prefix *prefix, anykv_context *context, uint32_t groups,
                             anykv_policy policy);
void akv_prefix_finish(struct akv_prefix *prefix);
/* Room for `more` further nodes: the next `more` inserts cannot fail.  E_MEMORY: nothing changed.
 */
anykv_status akv_prefix_reserve(struct akv_prefix *prefix, uint32_t more);

/* ---- keys (docs/format.md, "Keys and identity") ---- */
/* Root of a chain: identity of the layout, salt of the tenant, extra bytes of the sequence. */
akv_digest akv_prefix_root(const uint8_t identity[32], const void *tenant, uint32_t tenant_bytes,
                           const void *extra, uint32_t extra_bytes);
akv_digest akv_prefix_key(const akv_digest *parent, const uint32_t *tokens, uint32_t count);
/* A made-up key for a block id of a trace. */
akv_digest akv_prefix_key_of(uint64_t id);

/* ---- lookup and change ---- */
uint32_t akv_prefix_find(const struct akv_prefix *prefix,
                         const akv_digest *key); /* AKV_NO_ID: a miss */
/* New node below parent (AKV_NO_ID: a first block), with no blocks, held once, not yet touched; it
 * belongs to a part of the policy.  The key must not be in the index.  Allocates unless reserved:
 * AKV_NO_ID means E_MEMORY (detail recorded). */
uint32_t akv_prefix_insert(struct akv_prefix *prefix, const akv_digest *key, uint32_t parent,
                           uint32_t part, bool partial);
void akv_prefix_hold(struct akv_prefix *prefix, uint32_t node);
void akv_prefix_drop(struct akv_prefix *prefix, uint32_t node);
void akv_prefix_pin(struct akv_prefix *prefix, uint32_t node);
void akv_prefix_unpin(struct akv_prefix *prefix, uint32_t node); /* without a pin: nothing */
/* A request uses these nodes, a path from its first block on: touches them, deepest first, and
 * tells the policy after what gap it came and where it ends. */
void akv_prefix_request(struct akv_prefix *prefix, const uint32_t *nodes, uint32_t count);
void akv_prefix_touch(struct akv_prefix *prefix, uint32_t node); /* one of them */
void akv_prefix_end(struct akv_prefix *prefix, uint32_t node);   /* the deepest of them */
void akv_prefix_renew(struct akv_prefix *prefix, uint32_t node); /* its use ends now */
void akv_prefix_demote(struct akv_prefix *prefix, uint32_t node);
/* The same for a node and all before it, deepest first: touched, or `over`: renewed.  The policy is
 * told later, with the time of now: by akv_prefix_catch_up, or by the next of these functions that
 * goes by it.  Uses of one path that follow each other within AKV_BURST seconds become one. */
#define AKV_BURST 1e-3
void akv_prefix_use_path(struct akv_prefix *prefix, uint32_t node, bool over);
void akv_prefix_catch_up(struct akv_prefix *prefix);
/* Seconds since the node was used, late uses that end there included; below 0: never before. */
double akv_prefix_age(const struct akv_prefix *prefix, uint32_t node);
/* The policy's time; what was to hold until then ends, some of it at once and all of it within the
 * next calls. */
void akv_prefix_clock(struct akv_prefix *prefix, double seconds);
/* Ends all that is over by that time, however much it is; whether there was something. */
bool akv_prefix_end_terms(struct akv_prefix *prefix);
/* Priority until a time (infinity: for ever).  While two hold, the higher counts; of equal ones the
 * longer. */
void akv_prefix_retain(struct akv_prefix *prefix, uint32_t node, uint32_t band, double until);
/* A pin until a time; the longest counts. */
void akv_prefix_lease(struct akv_prefix *prefix, uint32_t node, double until);
/* The node is expected to be used at `when`; the last one counts. */
void akv_prefix_expect(struct akv_prefix *prefix, uint32_t node, double when);
/* The node to evict next, AKV_NO_ID: every node is busy. */
uint32_t akv_prefix_victim(struct akv_prefix *prefix);
/* Removes an idle node without children. */
void akv_prefix_remove(struct akv_prefix *prefix, uint32_t node);
/* Takes the node's key out of the index; the node itself goes like any other, by eviction. */
void akv_prefix_withdraw(struct akv_prefix *prefix, uint32_t node);

static inline bool akv_prefix_busy(const struct akv_prefix *prefix, uint32_t node)
{
    const struct akv_node *n = &prefix->nodes[node];
    return n->users != 0 || n->pins != 0 || n->busy_children != 0;
}
/* Drops a node that has another user: nothing else changes. */
static inline void akv_prefix_drop_shared(struct akv_prefix *prefix, uint32_t node)
{
    assert(prefix->nodes[node].users > 1);
    prefix->nodes[node].users--;
}
static inline uint32_t *akv_prefix_blocks(const struct akv_prefix *prefix, uint32_t node)
{
    return prefix->blocks + (size_t)node * prefix->groups;
}

#endif
