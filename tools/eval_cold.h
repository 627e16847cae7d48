/* SPDX-License-Identifier: Apache-2.0 */
/* `anykv eval --cold`: blocks of real rows compressed in place in a cache, and read back. */
#ifndef AKV_TOOLS_EVAL_COLD_H
#define AKV_TOOLS_EVAL_COLD_H
#include "device_option.h"

/* Puts the file's rows into a cache of BF16 rows, compresses its blocks and reads them back a few times,
 * and prints bytes and times.  E_DATA, E_MEMORY …: as the calls it makes.  good_out: every row came back
 * bit for bit, and the blocks became smaller. */
anykv_status akv_eval_cold(struct akv_tool *tool, const char *path, bool json, bool *good_out);

#endif
