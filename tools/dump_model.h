/* SPDX-License-Identifier: Apache-2.0 */
/* The model behind a dump: its layers as the library takes them, and moments of its rows. */
#ifndef AKV_TOOLS_DUMP_MODEL_H
#define AKV_TOOLS_DUMP_MODEL_H
#include "dump.h"

struct akv_dump_model {
    uint32_t count;      /* layers up to the dump's last one at least, by their numbers in the model */
    anykv_layer *layers; /* those that the dump lacks are like its first */
    uint64_t *turns;     /* [2][pairs]: of global layers, of local ones */
};

/* From the metadata rope, rope_base, rope_dim, rope_base_sliding; no rope at all: no rotary pairs.  At
 * least `least` layers.  E_DATA names the field.  close in either case. */
anykv_status akv_dump_model_open(struct akv_dump_model *model, const struct akv_dump *dump,
                                 uint32_t least);
void akv_dump_model_close(struct akv_dump_model *model);
/* E_DATA, naming the field, unless the rows of both have one geometry and rotary embedding. */
anykv_status akv_dump_model_same(const struct akv_dump_model *a, const struct akv_dump_model *b);
/* Adds one layer's rows of the first `tokens` positions (at most all), the queries as wanted. */
anykv_status akv_dump_add_moments(const struct akv_dump *dump, uint32_t index, uint32_t tokens,
                                  bool queries, anykv_moments *moments);

#endif
