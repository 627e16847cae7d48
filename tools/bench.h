/* SPDX-License-Identifier: Apache-2.0 */
/* What the files of `anykv bench` share: options, devices with their clocks, medians.
 *
 * Every figure is the median of runs that alternate with its peer's (A B A B …), and every ratio
 * the median of the ratios of neighbours: a machine that is busy for a while then moves both. */
#ifndef AKV_BENCH_H
#define AKV_BENCH_H
#include "../backends/backend.h"
#include "cli.h"
#include "progress.h"
#include "report.h"

#define BENCH_REPEATS_MAX 101u

struct bench_options {
    const char *what;   /* codec, attend, cache */
    const char *device; /* as --device takes it */
    const char *filter, *peer, *isa;
    uint64_t repeats, q_heads, new_tokens;
    struct akv_u64_list threads, head_dim, tokens, gqa, batch;
    struct akv_text_list formats, phase, transforms;
    bool json, precise, busy;
};

struct bench {
    struct bench_options options;
    anykv_context *context;
    char label[16];
    bool gpu; /* larger working sets */
    struct akv_report *report;
    struct akv_progress progress;
    uint64_t rows_done;
};

/* One device with a number of threads, its queue and its clock. */
struct bench_device {
    struct akv_device *device;
    struct akv_queue *queue;
    struct akv_event *from, *to;
    bool remote; /* its memory is not the host's: events are the clock, copies are the device's */
    bool busy;   /* the clock is the calling thread's processor time */
    uint32_t threads;
};
anykv_status bench_open(struct bench *b, uint32_t threads, struct bench_device *device);
void bench_close(struct bench_device *device);

/* Nanoseconds of one call of `work`, from `loops` calls in a row. */
typedef anykv_status bench_work(void *user, uint32_t loop);
anykv_status bench_time(struct bench_device *device, bench_work *work, void *user, uint32_t loops,
                        double *ns_out);
/* So many loops that a run lasts about `target_ns`; the work is warm afterwards. */
anykv_status bench_loops(struct bench_device *device, bench_work *work, void *user,
                         double target_ns, uint32_t *loops_out);

/* A copy of `bytes` from one buffer to another: by as many threads as the device has, or by the
 * GPU. */
struct bench_copy {
    struct bench_device *device;
    uint64_t bytes;
    struct akv_mem *from, *to;
};
anykv_status bench_copy_create(struct bench_device *device, uint64_t bytes,
                               struct bench_copy *copy);
void bench_copy_destroy(struct bench_copy *copy);
anykv_status bench_copy_time(struct bench_copy *copy, uint32_t loops, double *ns_out);
/* The same, only reading `from`: what memory gives at best.  CPU only. */
anykv_status bench_read_time(struct bench_copy *copy, uint32_t loops, double *ns_out);

double bench_median(const double *values, uint32_t count);
/* Median of a[i] / b[i]. */
double bench_ratio(const double *a, const double *b, uint32_t count);
double bench_spread(const double *values, uint32_t count); /* largest / least */
/* Does --filter take a row of this name? */
bool bench_chosen(const struct bench *b, const char *name);
void bench_progress(struct bench *b, const char *name);

anykv_status bench_codec(struct bench *b);
anykv_status bench_attend(struct bench *b);
anykv_status bench_cache(struct bench *b);
anykv_status bench_evict(struct bench *b);
anykv_status bench_compress(struct bench *b);
anykv_status bench_page(struct bench *b);

#endif
