/* SPDX-License-Identifier: Apache-2.0 */
/* Low-rank compression, as the calls for any method see it. */
#ifndef AKV_LOWRANK_H
#define AKV_LOWRANK_H
#include "compress.h"

/* The header of a low-rank body of so many bytes.  E_DATA. */
anykv_status akv_lowrank_check(anykv_context *context, const struct akv_compress_header *header, uint64_t bytes);

#endif
