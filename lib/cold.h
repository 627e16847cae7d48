/* SPDX-License-Identifier: Apache-2.0 */
/* Compressed blocks of a cache: their place is some pages of the pool, their rows come back before use.
 *
 * A compressed block keeps its id, its references and its name.  Its bytes stand in pages, small blocks of
 * kind AKV_KIND_COLD, so that they are under the budget like all others.  Compressing and reading back
 * hold io throughout, so a call that holds it sees no block change sides but by its own doing. */
#ifndef AKV_COLD_H
#define AKV_COLD_H
#include "kernel/params.h"
#include "layout.h"

#define AKV_COLD_BATCH 32u /* blocks between two waits */
#define AKV_COLD_PAGES 64u /* that the rows of a 16-bit block would take */

/* What the way back needs to know, by block id; grows as the pool does. */
struct akv_cold {
    akv_bx16_params *params; /* [capacity]; NULL until something is compressed */
    uint32_t capacity;
    uint32_t skip; /* begins to come that do not look for cached blocks: there were none */
};

/* Fixed device memory: counts of exponents, words that say damaged, one block's body in whole pages. */
struct akv_cold_room {
    uint64_t counts, words, body, bytes;
};
struct akv_cold_room akv_cold_room(const anykv_layout *layout);
/* Lays the pages into a layout. */
void akv_cold_lay(anykv_layout *layout);
/* Does the method take blocks of this kind? */
bool akv_cold_takes(const struct akv_group *group, uint32_t kind, anykv_compression method);

#endif
