/* SPDX-License-Identifier: Apache-2.0 */
/* The offline optimum: how many lookups of a trace any policy could turn into hits. */
#ifndef AKV_TOOLS_REPLAY_OPTIMUM_H
#define AKV_TOOLS_REPLAY_OPTIMUM_H
#include "trace.h"

/* Hits with `capacity` blocks when the future is known. */
anykv_status akv_replay_optimum(const struct akv_trace *trace, uint64_t capacity,
                                uint64_t *hits_out);

#endif
