/* SPDX-License-Identifier: Apache-2.0 */
/* Request traces: JSON lines with timestamp, input_length, output_length, hash_ids. */
#ifndef AKV_TOOLS_TRACE_H
#define AKV_TOOLS_TRACE_H
#include "internal.h"

#define AKV_NEVER 0xFFFFFFFFu

/* Block ids are prefix-chained: an id stands always behind the same id.  They are renumbered 0 …
 * ids-1 here; `parent` of a first block is AKV_NEVER. */
struct akv_trace {
    uint32_t requests, ids;
    uint64_t blocks;  /* ids of all requests together */
    double *seconds;  /* [requests], not descending */
    uint64_t *first;  /* [requests + 1]: where a request's ids begin in `id` */
    uint32_t *id;     /* [blocks] */
    uint32_t *parent; /* [ids] */
    uint32_t *depth;  /* [ids]: 0 for a first block */
    bool *partial;    /* [requests]: the last id covers fewer than block_tokens tokens */
    uint32_t *again;  /* [blocks]: next request that has the same id, or AKV_NEVER */
};

/* E_IO: cannot be read; E_DATA: the detail names line and field.  free in either case. */
anykv_status akv_trace_load(const char *path, uint32_t block_tokens, struct akv_trace *trace);
void akv_trace_free(struct akv_trace *trace);

#endif
