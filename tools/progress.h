/* SPDX-License-Identifier: Apache-2.0 */
/* Progress on a terminal: one line on standard error, after one second, never into a pipe. */
#ifndef AKV_TOOLS_PROGRESS_H
#define AKV_TOOLS_PROGRESS_H
#include "internal.h"

struct akv_progress {
    const char *title;
    uint64_t total, start_ns, last_ns;
    bool terminal, shown;
};
void akv_progress_begin(struct akv_progress *progress, const char *title, uint64_t total);
/* done of total; detail may be NULL. */
void akv_progress_step(struct akv_progress *progress, uint64_t done, const char *detail);
/* Wipes the line; also before any other output in between (the next step shows it again). */
void akv_progress_hide(struct akv_progress *progress);
void akv_progress_end(struct akv_progress *progress);

#endif
