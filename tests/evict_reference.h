/* SPDX-License-Identifier: Apache-2.0 */
/* The rules of LRU and ADAPTIVE once more, as plainly as they can be put: linear searches, exact
 * FIFOs, nothing shared with the library. */
#ifndef TESTS_EVICT_REFERENCE_H
#define TESTS_EVICT_REFERENCE_H
#include "tools/trace.h"

uint64_t reference_hits(const struct akv_trace *trace, uint32_t capacity, bool adaptive, bool done);

#endif
