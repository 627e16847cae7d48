/* SPDX-License-Identifier: Apache-2.0 */
/* What a policy costs in an index of a million blocks. */
#ifndef AKV_BENCH_POLICY_H
#define AKV_BENCH_POLICY_H
#include "bench.h"

/* Nanoseconds of an eviction, or of a touch, in each of the repeats. */
anykv_status bench_policy(struct bench *b, anykv_policy policy, bool evictions, double *ns,
                          uint32_t repeats);

#endif
