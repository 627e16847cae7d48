/* SPDX-License-Identifier: Apache-2.0 */
/* Layout as the engine sees it: layer groups and the geometry of their blocks. */
#ifndef AKV_LAYOUT_H
#define AKV_LAYOUT_H
#include "internal.h"
#include "kernel/params.h"
#include "pool.h"

#define AKV_MAX_LAYERS  1024u
#define AKV_LAYER_HEADS 1024u

/* Layers with equal records (q heads aside) that own their rows: one block holds a run of positions
 * of all of them.  Layer j of the group has its tiles layer_bytes[kind]*j behind the block's start.
 */
struct akv_group {
    uint32_t layers;
    uint32_t window; /* 0: global */
    uint32_t kv_heads, k_dim, v_dim;
    uint32_t format[2]; /* of sealed tiles: keys, values */
    uint32_t hot_type;
    uint32_t rotate[2];        /* of sealed tiles: AKV_FLAG_ROTATE, AKV_FLAG_MAP or 0 */
    bool sealable;             /* sealing changes something */
    uint32_t tile_bytes[2][2]; /* [kind][side] */
    uint32_t layer_bytes[2];   /* [kind] */
    uint32_t block_bytes[AKV_POOL_KINDS]; /* a multiple of 16; 0: the kind is not used */
    float error[AKV_POOL_KINDS];          /* ladder.c: estimated error of the worst layer there */
};

/* Where a layer's rows stand; a layer that reads another's rows has that one's place. */
struct akv_place {
    uint32_t group;
    uint32_t offset[AKV_POOL_KINDS][2]; /* [kind][side] of head 0's tile in the block */
    uint32_t format[AKV_POOL_KINDS][2]; /* 0: the group does not use the kind */
    uint32_t map[2];                      /* of AKV_FLAG_MAP: where its record stands (maps.h) */
    bool owner;
};

struct anykv_layout {
    anykv_context *context;
    anykv_layer *layers; /* copies; their rope_turns point into turns, their scales into scales */
    uint64_t *turns;
    float *scales; /* k_scales and v_scales of the layers point into it */
    uint32_t count;
    anykv_layout_options options; /* weights points to a copy */
    uint8_t weights[256];
    akv_digest identity;
    struct akv_group *groups;
    uint32_t group_count;
    struct akv_place *places; /* [count] */
    uint32_t map_count;       /* records of maps */
};

/* Sets the transform of quantised kinds in a group whose sealed formats are raw. */
void akv_layout_transform(anykv_layout *layout, uint32_t group);
/* Where a layer's tiles stand in blocks of two kinds, as kernels that go from one to the other want
 * it. */
void akv_layout_tiles(const anykv_layout *layout, uint32_t layer, uint32_t from, uint32_t to,
                      akv_seal_layer *tiles);
anykv_status akv_layout_copy(const anykv_layout *layout, anykv_layout **copy_out);

#endif
