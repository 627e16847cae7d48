/* SPDX-License-Identifier: Apache-2.0 */
/* `anykv eval --compress`: ways of compressing rows, beside the formats. */
#ifndef AKV_TOOLS_EVAL_COMPRESS_H
#define AKV_TOOLS_EVAL_COMPRESS_H
#include "cli.h"
#include "eval_variant.h"

struct akv_eval_method {
    char name[AKV_ITEM_MAX]; /* as given */
    anykv_compression compression;
};

/* METHOD[:PARAMETER].  AKV_CLI_GO, or the exit status after a message. */
int akv_eval_method_parse(const char *text, struct akv_eval_method *method);
/* Sends rows through compression and back; bytes_out: header included. */
anykv_status akv_eval_compress(const struct akv_eval_rows *rows, const struct akv_eval_method *method,
                               double *stored, uint64_t *bytes_out);

#endif
