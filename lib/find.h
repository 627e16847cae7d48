/* SPDX-License-Identifier: Apache-2.0 */
/* From key to node: the part of the prefix index that is searched without a lock.
 *
 * One thread at a time changes it (the cache's lock sees to that); any number search it meanwhile,
 * and none waits for another.  Every change is between two steps of `version`, which is odd inside;
 * a search that began at an even version and ends at the same one saw no change.  All words are
 * atomic: searches load with acquire, changes store with release, so what a search read lies between
 * its two looks at `version`.  A table that became too small is kept until the end, because a search
 * may still be in it: together they are smaller than the one in use. */
#ifndef AKV_FIND_H
#define AKV_FIND_H
#include "internal.h"
#include <stdatomic.h>

#define AKV_KIND_NONE 0xFFu /* the node holds no block of the group */

struct akv_find_table {
    struct akv_find_table *older;
    uint32_t mask, capacity;
    _Atomic uint64_t *slots;  /* [mask + 1]: part of the key, then the node; at most half full */
    _Atomic uint64_t *keys;   /* [capacity][4] */
    _Atomic uint32_t *births; /* [capacity]: 0, or another number whenever the node gets a key */
    _Atomic uint8_t *kinds;   /* [capacity][groups]: of the node's block, or AKV_KIND_NONE */
};

struct akv_find {
    anykv_context *context;
    uint32_t groups, births;
    _Atomic(struct akv_find_table *) table;
    _Atomic uint32_t version, shown; /* shown: calls of akv_find_show */
};

/* What a search saw of a node. */
struct akv_found {
    uint32_t node, birth;
};

/* Room for nodes below `nodes`; finds nothing else before the first call.  E_MEMORY: unchanged. */
anykv_status akv_find_reserve(struct akv_find *find, uint32_t nodes);
void akv_find_finish(struct akv_find *find);

/* ---- one thread at a time ---- */
void akv_find_add(struct akv_find *find, const akv_digest *key, uint32_t node);
void akv_find_remove(struct akv_find *find, uint32_t node);
void akv_find_show(struct akv_find *find, uint32_t node, uint32_t group, uint32_t kind);
uint32_t akv_find_node(const struct akv_find *find, const akv_digest *key); /* AKV_NO_ID: none */
akv_digest akv_find_key(const struct akv_find *find, uint32_t node);
uint64_t akv_find_tag(const struct akv_find *find, uint32_t node); /* eight bytes of the key */
uint32_t akv_find_birth(const struct akv_find *find, uint32_t node);
const _Atomic uint8_t *akv_find_kinds(const struct akv_find *find, uint32_t node);

/* ---- any thread ---- */
/* A number that every change makes another one: if it is even, and is the same under the owner's
 * lock, what was searched since then holds. */
uint64_t akv_find_state(const struct akv_find *find);
/* Starts the memory access that a search will need. */
void akv_find_prefetch(const struct akv_find *find, const akv_digest *key);
/* Searches; kinds_out[groups] receives the kinds of the node's blocks.  False: changes came in
 * between every time; nothing was found out. */
bool akv_find_peek(const struct akv_find *find, const akv_digest *key, struct akv_found *found,
                   uint8_t *kinds_out);

#endif
