/* SPDX-License-Identifier: Apache-2.0 */
/* Exact attention of a dump's layer: what a cache's outputs are compared with. */
#include "eval_reference.h"

anykv_status akv_eval_exact(const struct akv_dump *dump, uint32_t index,
                            const struct akv_dump_layer *layer, double **out)
{
    const size_t rows = (size_t)dump->tokens * dump->kv_heads * dump->head_dim;
    const size_t queries = (size_t)(dump->tokens - dump->q_first) * dump->q_heads * dump->head_dim;
    double *q = akv_alloc(NULL, queries, sizeof *q), *k = akv_alloc(NULL, rows, sizeof *k),
           *v = akv_alloc(NULL, rows, sizeof *v);
    *out = akv_alloc(NULL, queries, sizeof **out);
    anykv_status status = ANYKV_E_MEMORY;
    if (q && k && v && *out) {
        akv_rows_to_double(layer->q, layer->q_dtype, queries, q);
        akv_rows_to_double(layer->k, layer->k_dtype, rows, k);
        akv_rows_to_double(layer->v, layer->v_dtype, rows, v);
        const struct akv_eval_problem problem = {
            .tokens = dump->tokens,
            .q_first = dump->q_first,
            .q_heads = dump->q_heads,
            .kv_heads = dump->kv_heads,
            .dim = dump->head_dim,
            .window = dump->window[index],
            .scale = dump->scale,
            .q = q,
            .k = k,
            .v = v,
        };
        status = akv_eval_attend(&problem, akv_cpu_count(), *out);
    }
    akv_free(NULL, q);
    akv_free(NULL, k);
    akv_free(NULL, v);
    return status;
}
