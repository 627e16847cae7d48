/* SPDX-License-Identifier: Apache-2.0 */
/* `anykv eval --budget`: the precision ladder against plain eviction at the same bytes. */
#ifndef AKV_TOOLS_EVAL_BUDGET_H
#define AKV_TOOLS_EVAL_BUDGET_H
#include "device_option.h"

/* Runs the file's rows through two caches whose pools hold `percent` of the F16 bytes of all rows,
 * one with the ladder, one that drops the oldest blocks, and prints the errors of the outputs.
 * E_DATA, E_MEMORY …: as the calls it makes.  good_out: the ladder's mean error is the
 * smaller, and in no layer above its error budget. */
anykv_status akv_eval_budget(struct akv_tool *tool, const char *path, uint32_t percent,
                             uint32_t sinks, uint32_t recent, bool layers, bool json,
                             bool *good_out);

#endif
