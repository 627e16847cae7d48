/* SPDX-License-Identifier: Apache-2.0 */
/* Request traces of kinds that the published ones are not, made up from a seed. */
#ifndef TESTS_MADE_TRACES_H
#define TESTS_MADE_TRACES_H
#include "tools/trace.h"

struct made_trace {
    const char *name;
    void (*make)(void *maker);
};
extern const struct made_trace made_traces[];
extern const uint32_t made_trace_count;

/* Fails the test if it cannot. */
void made_trace_load(uint32_t which, struct akv_trace *trace);

#endif
