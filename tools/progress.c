/* SPDX-License-Identifier: Apache-2.0 */
/* Progress on a terminal: one line on standard error, after one second, never into a pipe. */
#include "progress.h"
#include <stdio.h>
#include <unistd.h>

#define SECOND_NS 1000000000u

void akv_progress_begin(struct akv_progress *progress, const char *title, uint64_t total)
{
    progress->title = title;
    progress->total = total;
    progress->start_ns = akv_now_ns();
    progress->last_ns = 0;
    progress->terminal = isatty(STDERR_FILENO) == 1;
    progress->shown = false;
}

void akv_progress_step(struct akv_progress *progress, uint64_t done, const char *detail)
{
    if (!progress->terminal)
        return;
    uint64_t now = akv_now_ns();
    if (now - progress->start_ns < SECOND_NS || now - progress->last_ns < SECOND_NS / 10)
        return;
    double share = progress->total == 0 ? 0.0 : 100.0 * (double)done / (double)progress->total;
    fprintf(stderr, "\r\033[K%s %3.0f %%  %.0f s%s%s", progress->title, share,
            (double)(now - progress->start_ns) / SECOND_NS, detail ? "  " : "",
            detail ? detail : "");
    fflush(stderr);
    progress->last_ns = now;
    progress->shown = true;
}

void akv_progress_hide(struct akv_progress *progress)
{
    if (progress->shown)
        fputs("\r\033[K", stderr);
    progress->shown = false;
}

void akv_progress_end(struct akv_progress *progress)
{
    akv_progress_hide(progress);
}
