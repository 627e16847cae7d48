/* SPDX-License-Identifier: Apache-2.0 */
/* A dump of real keys, values and queries of a model: a safetensors file read by its metadata. */
#ifndef AKV_TOOLS_DUMP_H
#define AKV_TOOLS_DUMP_H
#include "safetensors.h"

#define AKV_DUMP_LAYERS 512

struct akv_dump {
    struct akv_safetensors *file;
    uint32_t tokens, q_first; /* queries belong to the positions q_first … tokens-1 */
    uint32_t q_heads, kv_heads, head_dim;
    uint32_t layers;                    /* how many are present */
    uint32_t layer[AKV_DUMP_LAYERS];    /* their numbers in the model */
    uint32_t window[AKV_DUMP_LAYERS];   /* sliding window in tokens; 0: global */
    double scale;                       /* of q.k */
    const char *model, *text, *license; /* may be NULL; live as long as the file */
};
/* Rows of one layer as the file has them: k, v [tokens][kv_heads][head_dim], q
 * [queries][q_heads][head_dim]. */
struct akv_dump_layer {
    void *k, *v, *q;
    anykv_dtype k_dtype, v_dtype, q_dtype;
};

/* Opens path, checks that every tensor named by the metadata is there with its shape.  E_DATA names
 * the metadata field or tensor.  close in either case. */
anykv_status akv_dump_open(struct akv_dump *dump, const char *path);
void akv_dump_close(struct akv_dump *dump);
/* Token ids [tokens] (I32 in the file, not negative). */
anykv_status akv_dump_tokens(const struct akv_dump *dump, uint32_t *ids);
/* Reads layer number `index` of those present; free in either case. */
anykv_status akv_dump_load(const struct akv_dump *dump, uint32_t index,
                           struct akv_dump_layer *layer);
void akv_dump_free(struct akv_dump_layer *layer);
/* Elements as double. */
void akv_rows_to_double(const void *rows, anykv_dtype dtype, size_t count, double *out);

#endif
