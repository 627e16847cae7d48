/* SPDX-License-Identifier: Apache-2.0 */
/* Precision ladder: kinds below the sealed one, and which block steps down next. */
#ifndef AKV_LADDER_H
#define AKV_LADDER_H
#include "layout.h"

#define AKV_LADDER_CANDIDATES 256u

/* Layers of a group that change the same way in one step down; one launch each. */
struct akv_rung_run {
    uint32_t first, count; /* of the list of tiles on the device */
    uint32_t source[2], format[2];
};
struct akv_rung_step {
    uint32_t first, count; /* runs */
};

struct akv_ladder_candidate {
    uint64_t key; /* smallest first */
    uint32_t id;
};

/* A cache's ladder; `on` only where some group has a rung. */
struct akv_ladder {
    bool on;
    bool lowering;              /* above the high watermark, and not yet below the low one */
    struct akv_rung_step *step; /* [groups * AKV_POOL_KINDS]: from that kind */
    struct akv_rung_run *run;
    uint32_t next, count; /* of the candidates */
    uint32_t collected;   /* the cache's serial then */
    uint32_t skip;        /* calls to come that do not look again: there was nothing to lower */
    struct akv_ladder_candidate candidate[AKV_LADDER_CANDIDATES];
};

anykv_status akv_ladder_check(anykv_context *context, const anykv_cache_options *options,
                              uint32_t layers);
/* Lays the rungs of the options into a layout: formats, offsets, sizes and estimated errors. */
void akv_ladder_lay(anykv_layout *layout, const anykv_cache_options *options);
/* The kind one step below, 0: there is none. */
uint32_t akv_ladder_below(const struct akv_group *group, uint32_t kind);
/* Number of tile records that the steps of all groups need. */
uint32_t akv_ladder_tiles(const anykv_layout *layout);
/* Fills runs and the list of tiles; tiles of akv_ladder_tiles. */
anykv_status akv_ladder_plan(const anykv_layout *layout, struct akv_ladder *ladder,
                             akv_seal_layer *tiles);
void akv_ladder_finish(anykv_context *context, struct akv_ladder *ladder);

#endif
