/* SPDX-License-Identifier: Apache-2.0 */
/* `anykv eval --evict`: what token policies do to a real model's attention. */
#ifndef AKV_TOOLS_EVAL_EVICT_H
#define AKV_TOOLS_EVAL_EVICT_H
#include "cli.h"
#include "dump_model.h"

/* One layer at the cut: tokens 0 … cut-1 are cached, queries of the positions q_first … cut-1 are
 * known, later ones are not looked at by any score. */
struct akv_evict_layer {
    uint32_t tokens, q_first, cut, q_heads, kv_heads, dim;
    double scale;
    const double *q, *k, *v; /* [tokens - q_first][q_heads][dim], [tokens][kv_heads][dim] */
    const anykv_layer *model; /* rotary embedding */
    uint32_t number;          /* in the model */
    struct akv_safetensors *scores; /* the caller's, or NULL */
};

struct akv_evict_method {
    const char *name, *about;
    uint32_t unit; /* tokens that go together */
    bool shared;   /* all heads keep the same tokens */
    /* scores [kv_heads][cut], the largest stay. */
    anykv_status (*score)(const struct akv_evict_layer *layer, double *scores);
};
extern const struct akv_evict_method akv_evict_methods[]; /* the last has no name */

/* The whole of `anykv eval --evict`; an exit status. */
int akv_eval_evict(const char *path, const struct akv_text_list *methods,
                   const struct akv_text_list *keep, uint32_t sinks, uint32_t recent, bool layers,
                   bool json);

#endif
