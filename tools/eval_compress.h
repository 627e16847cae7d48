/* SPDX-License-Identifier: Apache-2.0 */
/* `anykv eval --compress`: ways of compressing rows, beside the formats. */
#ifndef AKV_TOOLS_EVAL_COMPRESS_H
#define AKV_TOOLS_EVAL_COMPRESS_H
#include "cli.h"
#include "eval_variant.h"

struct akv_eval_method {
    char name[AKV_ITEM_MAX]; /* as given */
    anykv_compression compression;
    anykv_axis axis; /* SPARSE */
    double keep;     /* share of the tokens or channels */
    float step[2];   /* LOWRANK: keys, values */
};

/* METHOD[:PARAMETER].  AKV_CLI_GO, or the exit status after a message. */
int akv_eval_method_parse(const char *text, struct akv_eval_method *method);
/* Does the method's choice depend on queries?  Then it sees the first half of the file's. */
static inline bool akv_eval_method_scores(const struct akv_eval_method *method)
{
    return method->compression == ANYKV_COMPRESS_SPARSE;
}
/* Sends rows through compression and back; bytes_out: header included.  Tokens: those before the cut of
 * rows->seen, later ones stay at 16 bit; kept_out as in akv_eval_pass. */
anykv_status akv_eval_compress(const struct akv_eval_rows *rows, const struct akv_eval_method *method,
                               double *stored, uint64_t *bytes_out, uint8_t **kept_out);

#endif
