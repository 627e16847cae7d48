/* SPDX-License-Identifier: Apache-2.0 */
/* The engine's own objects: cache, sequence, step, and what their files call of each other.
 *
 * Locks, in the order in which they are taken:
 *   io    one transfer between caller's memory and device at a time: the staging area, the gather
 *         table, and every wait for the queue.  Held while waiting; that is what it is for.  A wait
 * that reports a failure marks what was lost before it lets the lock go, so no other waiter can
 * take bad rows for good ones. lock  everything else in the cache: pool, prefix index, lists,
 * counters, the sequences' tables and the lists of moves on the device.  Kernels that name pool
 * blocks are enqueued under it, so that the queue sees relocations and reads in one order.  Never
 * held while waiting.
 *
 * Lookups take none of them (find.h); matches take `lock` once, after theirs. */
#ifndef AKV_CACHE_H
#define AKV_CACHE_H
#include "cold.h"
#include "events.h"
#include "ladder.h"
#include "layout.h"
#include "objects.h"
#include "pool.h"
#include "prefix.h"

#define AKV_OPEN_STEPS    4u   /* steps of one cache that can be open at the same time */
#define AKV_MOVES         256u /* blocks in one launch of seal or copy */
#define AKV_GATHER_BLOCKS 256u /* blocks in one launch of gather */

/* What a cache takes and where it stands; the same for anykv_cache_estimate and anykv_cache_create.
 */
struct akv_plan {
    anykv_cache_options options;
    uint64_t chunk_bytes;
    uint32_t chunks; /* of the pool at creation */
    uint32_t chunks_per_slab;
    uint32_t minimum_chunks;
    uint32_t reserve_chunks; /* kept free, so that there is a place to step down to */
    uint32_t max_blocks; /* positions' blocks of one sequence */
    bool staged;         /* host rows go through the staging area */
    /* The fixed device memory: offsets of its parts. */
    uint64_t step_bytes; /* descriptors of one open step, all layer groups */
    uint64_t moves_at, seal_at, lower_at, gather_at, flags_at, shift_at, evict_at, cold_at, maps_at, scratch_at,
        staging_at;
    uint64_t maps_bytes; /* means, matrices and angles; 0: no layer has any */
    uint64_t scratch_bytes, staging_bytes;
    uint64_t device_bytes; /* sum of the above */
    uint64_t fixed_bytes;  /* with the pinned staging area */
};
/* Lays the rungs of the ladder into `layout`, which is the caller's own copy. */
anykv_status akv_plan_make(anykv_device *device, anykv_layout *layout,
                           const anykv_cache_options *options, struct akv_plan *plan_out);
/* The least budget that a cache can be made with. */
/* E_MEMORY that says what was wanted and what the device has; `why` is the detail so far. */
anykv_status akv_device_short(anykv_cache *cache, uint64_t bytes);
uint64_t akv_plan_minimum(const struct akv_plan *plan, const anykv_layout *layout);
/* Bytes of one step's descriptor of a group at the declared maxima, and most entries of its tables.
 */
uint64_t akv_plan_step_bytes(const struct akv_plan *plan, const anykv_layout *layout,
                             uint32_t group);
/* Where a group's descriptor stands in a step's. */
uint64_t akv_step_image_at(const anykv_cache *cache, uint32_t group);

/* A tenant that was set: part p of the policy is its. */
struct akv_tenant {
    uint64_t digest;
    uint64_t guaranteed, limit; /* bytes of blocks; limit 0: none */
    uint64_t need;              /* scratch of begin */
};

#define AKV_RETAINS 8u /* ranges of a sequence whose priorities hold at the same time */
struct akv_retain {
    uint32_t first, end; /* blocks */
    uint32_t band;
    double until;
};

struct anykv_seq {
    anykv_cache *cache;
    anykv_seq *prev, *next; /* all sequences of the cache */
    anykv_step *step;       /* the open step it is in, or NULL */
    uint64_t tenant;        /* digest of the salt; whose bytes its blocks hold */
    akv_digest root;
    uint32_t length; /* positions */
    uint32_t used_at; /* serial of its last step; its blocks get it when someone asks */
    bool private_;   /* names and matches nothing */
    bool closed;     /* blocks were removed: names nothing further */
    bool dead;       /* a device failure hit its rows */
    uint8_t rungs;   /* that it accepts below the layout's formats */
    int64_t lora_id; /* for events; -1: no extra bytes */
    bool done, pinned;
    bool destroyed;   /* by the caller, while in a step */
    bool told;        /* the policy knows of its request */
    uint32_t part;    /* of the policy; 0 where the tenant is not set */
    uint32_t retains; /* in retain[] */
    struct akv_retain retain[AKV_RETAINS];
    bool leased;
    double lease_until;
    double gap;       /* seconds after which it came back; negative: it is new */
    bool tail_held;   /* its last, partial blocks count it in `holds` */
    uint32_t *tokens; /* [token_capacity]: ids of positions below named */
    uint32_t named, token_capacity;
    uint32_t *nodes; /* [node_capacity]: prefix nodes of its named whole blocks */
    uint32_t node_count, node_capacity;
    uint32_t *table; /* [groups][table_capacity]: block ids by logical number, or AKV_NO_ID */
    uint32_t table_capacity;
    /* After an eviction of tokens `length` counts rows; positions are `dropped` more.  Rows kept_first to
     * kept_first + kept_rows have the positions kept[all kv heads of all layers][kept_rows]. */
    uint32_t dropped, kept_first, kept_rows;
    uint32_t *kept;
    uint32_t token_budget; /* rows beyond which it loses tokens; 0: none */
    uint32_t *first;  /* [groups]: blocks below were freed behind the window */
    uint32_t *sealed; /* [groups]: blocks below need no sealing any more */
};

struct akv_id_list {
    uint32_t *id;
    uint32_t count, capacity;
};

/* One of the cache's AKV_OPEN_STEPS; everything it needs is made with the cache or at begin. */
struct anykv_step {
    anykv_cache *cache;
    bool open;
    bool running; /* from the end of begin on */
    bool locked;  /* its blocks are: akv_steps_lock */
    uint32_t slot;
    uint32_t serial;
    uint32_t n, tokens;
    uint32_t most_tokens; /* of one sequence */
    uint32_t longest;     /* positions of one sequence, new ones included */
    uint32_t missing;     /* layers not yet appended */
    anykv_seq **seqs;     /* [max_sequences] */
    uint32_t *counts;
    uint32_t *old_tails; /* [max_sequences * groups]: shared block that was copied, or AKV_NO_ID */
    struct akv_id_list *spare; /* [groups]: packed blocks reserved for the end */
    uint32_t *kinds;           /* [groups]: bit k: its tables name blocks of kind k */
    uint8_t *appended;         /* [layers] */
    uint8_t *image;            /* the descriptors as put on the device */
};

/* Lookups are counted without the lock, by threads in turn at different places. */
#define AKV_COUNTERS 16u
struct akv_lookups {
    atomic_uint_fast64_t calls, tokens, hit_tokens, precision_misses;
    char apart[128 - 4 * sizeof(atomic_uint_fast64_t)];
};

struct anykv_cache {
    anykv_context *context;
    anykv_device *device;
    anykv_layout *layout;
    struct akv_plan plan;
    struct akv_mem *fixed, *pinned;
    struct akv_mem *slab[AKV_MAX_SLABS];
    uint64_t slab_bytes[AKV_MAX_SLABS];
    uint32_t slabs;
    uint64_t budget_bytes;
    akv_mutex io, lock;
    struct akv_pool pool;
    struct akv_prefix prefix;
    struct akv_ladder ladder;
    struct akv_cold cold;
    struct akv_block_events events;
    uint32_t loose_first, loose_last; /* cached blocks that go before any node */
    anykv_seq *seqs;
    uint64_t sequences, sequences_made; /* live, ever */
    struct akv_tenant tenant[AKV_PARTS]; /* 1 … tenants-1 are set */
    uint32_t tenants;
    uint64_t asking; /* bit p: of part p are the sequences of the step that needs room */
    struct anykv_step steps[AKV_OPEN_STEPS];
    uint32_t serial;
    uint32_t *need; /* [classes]: scratch of begin */
    akv_move moves[AKV_MOVES];
    uint32_t move_from[AKV_MOVES], move_to[AKV_MOVES];
    uint64_t epoch, clean_epoch; /* of enqueued writes; of those known to be complete */
    anykv_status failure;        /* for anykv_cache_wait */
    uint64_t device_failures;    /* io's: of the device, those that are dealt with */
    uint32_t saw;                /* sticky, as of the last wait */
    uint32_t saw_read;           /* io's: where the device's flags arrive */
    bool sealed_since_wait;
    anykv_stats count; /* the counters among its fields */
    struct akv_lookups lookups[AKV_COUNTERS];
    akv_mutex reason_lock; /* a leaf */
    /* A leaf too: guards the list of sequences, how many there are and were, and the tenants' names, so that a
     * sequence is made without the cache's lock.  They shrink and tenants come under both locks. */
    akv_mutex list_lock;
    char reason[256];
};

/* ---- small helpers ---- */
static inline uint32_t akv_block_tokens(const anykv_cache *cache)
{
    return cache->layout->options.block_tokens;
}
/* Blocks that hold `tokens` positions. */
static inline uint32_t akv_blocks_for(const anykv_cache *cache, uint32_t tokens)
{
    return tokens / akv_block_tokens(cache) + (tokens % akv_block_tokens(cache) != 0);
}
/* First block that the next position of a sequence of `length` can see in a group. */
static inline uint32_t akv_first_visible(const anykv_cache *cache, uint32_t group, uint32_t length)
{
    const uint32_t window = cache->layout->groups[group].window;
    return window == 0 || length < window ? 0 : (length - window + 1) / akv_block_tokens(cache);
}
/* Blocks of a sequence of `length` from this number on are in its recent window. */
static inline uint32_t akv_recent_block(const anykv_cache *cache, uint32_t length)
{
    const uint32_t recent = cache->plan.options.recent;
    return length > recent ? (length - recent) / akv_block_tokens(cache) : 0;
}
static inline uint32_t *akv_seq_table(const anykv_seq *seq, uint32_t group)
{
    return seq->table + (size_t)group * seq->table_capacity;
}
static inline struct akv_span akv_fixed_span(const anykv_cache *cache, uint64_t at, uint64_t bytes)
{
    struct akv_span span = {cache->fixed, at, bytes};
    return span;
}
/* Takes the lock for a call that uses or evicts blocks; the policy's time is read before. */
void akv_cache_enter(anykv_cache *cache);
/* For one that only takes or leaves blocks: the policy is not told of late uses (prefix.h). */
void akv_cache_enter_short(anykv_cache *cache);
/* The argument `maps` of a launch; absent where no layer has any. */
static inline struct akv_span akv_maps_span(const anykv_cache *cache)
{
    const struct akv_span none = {NULL, 0, 0};
    return cache->plan.maps_bytes
               ? akv_fixed_span(cache, cache->plan.maps_at, cache->plan.maps_bytes)
               : none;
}
AKV_PRINTF(2, 3) void akv_explain(anykv_cache *cache, const char *format, ...);
/* The sums of the lookups' counters, added to those of `stats`. */
void akv_lookups_count(const anykv_cache *cache, anykv_stats *stats);

/* ---- call.c: what a call did; under lock ---- */
struct akv_call {
    const char *name;
    uint64_t start_ns;
    anykv_stats before;
};
void akv_call_begin(const anykv_cache *cache, struct akv_call *call, const char *name);
void akv_call_end(const anykv_cache *cache, const struct akv_call *call, anykv_status status);
/* Adds to the last call what it looked up. */
void akv_call_matched(uint64_t asked, uint64_t matched);
/* akv_call_end of a call that takes no lock and changes nothing. */
void akv_call_looked(const char *name, uint64_t start_ns, uint64_t asked, uint64_t matched);

/* An event about a node's block; under lock. */
void akv_cache_event(anykv_cache *cache, anykv_block_event_type type, uint32_t node,
                     uint32_t kind, const anykv_seq *seq);

/* ---- launch.c: the engine's launches, parameters filled in ---- */
void akv_launch_init(const anykv_cache *cache, struct akv_launch *launch, enum akv_kernel_id kernel,
                     const void *params);
void akv_fill_append(const struct akv_plan *plan, const anykv_layout *layout, uint32_t layer,
                     akv_append_params *params);
void akv_fill_attend(const struct akv_plan *plan, const anykv_layout *layout, uint32_t layer,
                     akv_attend_params *params);
/* Takes the ladder's rungs out of the parameters; false: there were none. */
bool akv_attend_two_kinds(akv_attend_params *params);
void akv_fill_seal(const anykv_layout *layout, uint32_t group, akv_seal_params *params);
void akv_fill_gather(const anykv_layout *layout, uint32_t layer, uint32_t side,
                     akv_gather_params *params);
/* A group's pool map before any pool exists. */
akv_pool_map akv_plan_map(const struct akv_plan *plan, const anykv_layout *layout, uint32_t group);
/* Copies or seals cache->moves[0 … count) of a group; under lock. */
anykv_status akv_enqueue_copy(anykv_cache *cache, uint32_t group, uint32_t kind, uint32_t count);
anykv_status akv_enqueue_seal(anykv_cache *cache, uint32_t group, uint32_t count);
/* One step down of the ladder, from that kind to the one below. */
anykv_status akv_enqueue_lower(anykv_cache *cache, uint32_t group, uint32_t from, uint32_t count);
/* Every launch that the steps down can need, as the check and the preparation of kernels see it. */
anykv_status akv_lower_prepare(anykv_cache *cache);
anykv_status akv_enqueue_scrub(anykv_cache *cache, uint32_t block);
/* Copies pages of a group to the room for one body or back. */
anykv_status akv_enqueue_pages(anykv_cache *cache, uint32_t group, const uint32_t *pages, uint32_t count,
                               uint32_t direction);

/* ---- wait.c: waiting and device failures ---- */
/* Waits for the queue; io is held, lock is not.  A failure marks what it may have hit. */
anykv_status akv_cache_drain(anykv_cache *cache, uint64_t timeout_ns);
/* Marks the sequence dead and withdraws its names; under lock. */
void akv_seq_kill(anykv_seq *seq);
anykv_status akv_seq_alive(const anykv_seq *seq);

/* ---- budget.c: blocks in and out; under lock ---- */
uint32_t akv_cache_alloc(anykv_cache *cache, uint32_t group, uint32_t kind, uint64_t tenant,
                         anykv_status *status_out);
void akv_cache_acquire_idle(anykv_cache *cache, uint32_t block);
void akv_cache_release_last(anykv_cache *cache, uint32_t block);
/* A block that two hold is neither idle nor loose: a third changes nothing but the count. */
static inline void akv_cache_acquire(anykv_cache *cache, uint32_t id)
{
    struct akv_block *block = akv_pool_block(&cache->pool, id);
    if (block->refs < 2) {
        akv_cache_acquire_idle(cache, id);
        return;
    }
    assert(!block->idle && !block->loose);
    block->refs++;
}
static inline void akv_cache_release(anykv_cache *cache, uint32_t id)
{
    struct akv_block *block = akv_pool_block(&cache->pool, id);
    if (block->refs > 2)
        block->refs--;
    else
        akv_cache_release_last(cache, id);
}
/* Recomputes whether a block can be evicted. */
void akv_cache_settle(anykv_cache *cache, uint32_t block);
/* After a change of a block's kind: tells those who look without the lock. */
void akv_cache_show(anykv_cache *cache, uint32_t block);
/* Puts a sequence's block under a node, or takes a node's block away. */
void akv_node_give(anykv_cache *cache, uint32_t node, uint32_t group, uint32_t block);
void akv_node_take(anykv_cache *cache, uint32_t node, uint32_t group);
/* Evicts an idle node without children. */
void akv_cache_evict(anykv_cache *cache, uint32_t node);
/* Evicts and relocates until need[class] further blocks fit. */
anykv_status akv_cache_make_room(anykv_cache *cache, const uint32_t *need);
/* Relocates the blocks of the chunk that costs least; emptied_out: one more chunk is free. */
anykv_status akv_cache_pack(anykv_cache *cache, bool *emptied_out);
/* prefix.on_idle */
void akv_cache_on_idle(void *user, uint32_t node, bool idle);

/* ---- tenant.c; under lock ---- */
uint32_t akv_tenant_part(const anykv_cache *cache, uint64_t tenant); /* 0: it is not set */
/* Spares the parts that hold no more than what they are guaranteed, except those that ask. */
void akv_tenants_spare(anykv_cache *cache, uint64_t asking);
/* Blocks that a sequence of the part needs are added up; then the step is let in, evicting its
 * tenants' own blocks, or not. */
void akv_tenants_need_none(anykv_cache *cache);
void akv_tenants_need(anykv_cache *cache, uint32_t part, uint32_t group, uint32_t hot,
                      uint32_t sealed);
anykv_status akv_tenants_admit(anykv_cache *cache, uint64_t asking); /* bit p: part p needs them */

/* ---- rate.c: the caller's scores; no lock is held ---- */
/* Asks for scores until the `wanted` candidates that go first have one; nothing without
 * ANYKV_POLICY_CALLER. */
anykv_status akv_cache_rate(anykv_cache *cache, uint64_t wanted);
/* ---- lower.c: the precision ladder; under lock ---- */
/* One launch: steps up to `most` blocks down, until need[class] further ones would fit into `limit`
 * chunks. */
anykv_status akv_lower_blocks(anykv_cache *cache, const uint32_t *need, uint32_t limit,
                              uint32_t most, uint32_t *lowered_out);
/* The fewest chunks that need[] and what must stay can take. */
uint64_t akv_lower_least(anykv_cache *cache, const uint32_t *need);
/* At the end of a step: lowers ahead of need, as the watermarks say. */
void akv_lower_ahead(anykv_cache *cache);

/* ---- cold.c, cold_read.c: compressed blocks ---- */
anykv_status akv_cold_prepare(anykv_cache *cache);
void akv_cold_finish(anykv_cache *cache);
/* A part of the cold room; a block's place. */
struct akv_span akv_cold_span(const anykv_cache *cache, uint64_t at, uint64_t bytes);
struct akv_span akv_block_span(const anykv_cache *cache, uint32_t block);
/* With ANYKV_CACHE_COMPRESS_CACHED: compresses cached blocks until so many new ones of each layer group fit
 * without an eviction, or none is left.  No lock is held; it waits only where it compresses. */
void akv_cold_ahead(anykv_cache *cache, uint64_t blocks);
/* Does one of the sequences hold a compressed block?  Those whose count is 0 do not matter (counts NULL:
 * all do).  Under lock. */
bool akv_cold_any(const anykv_cache *cache, const anykv_seq *const *seqs, const uint32_t *counts, uint32_t n);
/* Reads those of block numbers [from, to) back; io is held, lock is not.  E_BUDGET, E_MEMORY, E_DEVICE:
 * they stay as they are; E_DATA: one is damaged, and its name is withdrawn. */
anykv_status akv_cold_read(anykv_cache *cache, const anykv_seq *const *seqs, const uint32_t *counts, uint32_t n,
                           uint32_t from, uint32_t to);

/* ---- step.c; under lock ---- */
/* Locks the blocks of the open steps, which begin leaves for later: whoever is about to look at the
 * locks of blocks or chunks calls this first. */
void akv_steps_lock(anykv_cache *cache);

/* ---- table.c: tables of sequences, descriptors of steps ---- */
anykv_status akv_seq_reserve(anykv_seq *seq, uint32_t tokens);
/* The same in two parts, the first without the lock: memory for that many blocks, then, of an empty
 * sequence, its arrays against smaller ones.  What is in `room` after it is freed without the lock. */
struct akv_seq_room {
    uint32_t blocks;
    uint32_t *table, *nodes, *tokens;
};
anykv_status akv_seq_room(anykv_context *context, const anykv_cache *cache, uint32_t blocks,
                          struct akv_seq_room *room);
void akv_seq_move_in(anykv_seq *seq, struct akv_seq_room *room);
void akv_seq_room_free(anykv_context *context, struct akv_seq_room *room);
anykv_status akv_step_describe(anykv_step *step);

/* ---- seq.c, seq_prefix.c ---- */
/* Tells a sequence's blocks of a group when it used them. */
void akv_seq_show_use(anykv_seq *seq, uint32_t group, uint32_t from, uint32_t to);
/* Releases the blocks of logical numbers [from, to) of a group. */
void akv_seq_drop_blocks(anykv_seq *seq, uint32_t group, uint32_t from, uint32_t to);
/* Releases nodes from `count` on, deepest first. */
void akv_seq_drop_nodes(anykv_seq *seq, uint32_t count);
/* Keeps the partial last block, shared with others for whom it is whole, from being sealed. */
void akv_seq_hold_tail(anykv_seq *seq, bool hold);
void akv_seq_free(anykv_seq *seq); /* under lock; frees the handle */
/* Names the whole blocks of positions below `named` that have no node yet; the index has room. */
void akv_seq_publish(anykv_seq *seq);
/* Frees the blocks that fell wholly behind the windows. */
void akv_seq_slide(anykv_seq *seq);

/* ---- seal.c ---- */
/* Number of blocks of a group that the end of a step can want to seal at most. */
uint32_t akv_seal_count(const anykv_seq *seq, uint32_t group, uint32_t length, uint32_t serial);
/* Seals what the step's sequences want, into its spare blocks. */
anykv_status akv_seal_step(anykv_step *step);

/* ---- rows.c: rows and plain bytes between caller and device ---- */
struct akv_stage_out {
    const anykv_view *view; /* or NULL: plain bytes */
    void *bytes;
    uint64_t count; /* bytes on the device */
    uint32_t tokens, heads, dim;
    uint64_t at; /* in the staging area */
};
/* One call's host rows; io is held. */
struct akv_stage {
    anykv_cache *cache;
    uint64_t used; /* bytes of the staging area */
    bool host;     /* host memory takes part: wait before returning */
    uint32_t outs;
    struct akv_stage_out out[3];
};
/* A view as kernels get it; `write`: it receives rows, complete after akv_stage_finish. */
anykv_status akv_stage_rows(struct akv_stage *stage, const char *what, const anykv_view *view,
                            uint32_t tokens, uint32_t heads, uint32_t dim, bool write,
                            struct akv_span *span_out, akv_rows *rows_out);
/* The same for dense host memory. */
anykv_status akv_stage_bytes(struct akv_stage *stage, const void *bytes, uint64_t count, bool write,
                             struct akv_span *span_out);
/* After the launch: waits where host memory takes part and hands received rows out.  `status` is
 * the launch's; what was enqueued is waited for all the same. */
anykv_status akv_stage_finish(struct akv_stage *stage, anykv_status status);

#endif
