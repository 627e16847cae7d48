/* SPDX-License-Identifier: Apache-2.0 */
/* Attention in double precision over exact rows, and over rows that have been through a format. */
#ifndef AKV_TOOLS_EVAL_REFERENCE_H
#define AKV_TOOLS_EVAL_REFERENCE_H
#include "dump.h"

/* Row-major matrix of one kv head, regrouped so that eight columns lie together: the operand that
 * the reference multiplies with.  For keys the columns are tokens, for values they are dimensions.
 */
struct akv_panels {
    double *data; /* [columns / 8 rounded up][rows][8], zero padded */
    uint32_t rows, columns;
};

struct akv_eval_pair {
    uint32_t k, v; /* numbers of a key variant and a value variant */
};
struct akv_eval_problem {
    uint32_t tokens, q_first, q_heads, kv_heads, dim;
    uint32_t window; /* 0: global */
    uint32_t sinks,
        recent; /* exact rows: of tokens < sinks, and of tokens less than `recent` before */
    double scale;
    const double *q;     /* [tokens - q_first][q_heads][dim] */
    const double *k, *v; /* exact rows [tokens][kv_heads][dim] */
    uint32_t k_variants, v_variants;
    const double *const *k_variant, *const *v_variant; /* the same after a format */
    const uint8_t *const *kept; /* of key variants, or NULL: [kv_heads][tokens], 0 is not attended to; NULL: all are */
    uint32_t pairs;
    const struct akv_eval_pair *pair;
};
/* Means over queries and q heads of one layer, as COMMAND's `eval` defines them. */
struct akv_eval_result {
    double attention_tv, output_error, output_error_999, top1;
};

/* Compares every pair with exact attention; works on `threads` threads (at least 1), the result
 * does not depend on how many.  result_out: one for each pair. */
anykv_status akv_eval_compare(const struct akv_eval_problem *problem, uint32_t threads,
                              struct akv_eval_result *result_out);
/* Exact outputs alone: out [tokens - q_first][q_heads][dim]. */
anykv_status akv_eval_attend(const struct akv_eval_problem *problem, uint32_t threads, double *out);
/* The same for layer `index` of a dump, whose rows `layer` are; *out is the caller's to free, also
 * after an error. */
anykv_status akv_eval_exact(const struct akv_dump *dump, uint32_t index,
                            const struct akv_dump_layer *layer, double **out);
/* |a - b| / |b|; 0 where both are zero, 1 where only b is. */
double akv_relative_error(const double *a, const double *b, uint32_t count);
/* The smallest element that at least `share` of all do not exceed; sorts values. */
double akv_quantile(double *values, size_t count, double share);

#endif
