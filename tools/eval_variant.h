/* SPDX-License-Identifier: Apache-2.0 */
/* A side's way through a format, there and back, as `anykv eval` sends rows. */
#ifndef AKV_TOOLS_EVAL_VARIANT_H
#define AKV_TOOLS_EVAL_VARIANT_H
#include "calibration.h"

struct akv_evict_layer;

#define AKV_EVAL_AUTO ((anykv_transform)4) /* what a cache with this calibration does */

struct akv_eval_variant {
    anykv_format format;
    uint32_t kivi; /* code bits of KIVI, and then format and transform mean nothing; 0: not KIVI */
    anykv_transform transform;
    const struct akv_eval_method *method; /* a way of compressing, and then nothing else counts; or NULL */
};
/* Rows [tokens][heads][dim] of one layer. */
struct akv_eval_rows {
    anykv_device *device;
    const anykv_calibration *calibration; /* NULL: none */
    const void *data;    /* as the file has them */
    const double *exact; /* the same */
    anykv_dtype dtype;
    uint32_t layer; /* its number in the model */
    uint32_t side, tokens, heads, dim;
    bool search; /* of scales */
    const struct akv_evict_layer *seen; /* what scores may look at: tokens before its cut, queries before it */
    enum akv_eval_scales { AKV_SCALES_ONE, AKV_SCALES_TENSOR, AKV_SCALES_HEAD } scales; /* of E4M3G */
};
#define AKV_EVAL_OWN_TOKENS 512u /* of a file that its own means and scales are taken from */

/* "N4", "KIVI4", "bx16". */
const char *akv_eval_format_name(const struct akv_eval_variant *variant);
/* stored_out receives the rows after the variant, kept_out [heads][tokens] of keys of which some are left out
 * (else NULL), free both in either case; bits_out: an element's share of what they take in between.  E_DATA: the variant needs a calibration of this layer. */
anykv_status akv_eval_pass(const struct akv_eval_rows *rows, const struct akv_eval_variant *variant,
                           double **stored_out, double *bits_out, uint8_t **kept_out);

#endif
