/* SPDX-License-Identifier: Apache-2.0 */
/* Section of `anykv demo`: one sequence through the cache for each pair of formats. */
#include "demo.h"
#include "eval_reference.h"

/* Fields of `eval`, then those that the cache adds. */
static const struct akv_column columns[] = {
    {"k", "K", 0},
    {"v", "V", 0},
    {"transform", NULL, 0},
    {"bits", "bits", 2},
    {"layer", NULL, 0},
    {"sqnr_k_db", NULL, 0},
    {"sqnr_v_db", NULL, 0},
    {"attention_tv", NULL, 0},
    {"output_error", "output error", -3},
    {"output_error_999", "99.9 %", -3},
    {"output_error_precise", "precise", -3},
    {"top1", NULL, 0},
    {"section", NULL, 0},
    {"device", NULL, 0},
    {"tokens", "tokens", 0},
    {"packed_bytes", "packed bytes", 0},
    {"hot_bytes", "16-bit bytes", 0},
    {"share_of_f16", "of F16", 3},
    {"append_us", "append us/token", 2},
    {"attend_us", "attend us/token", 2},
};
enum { COLUMNS = sizeof columns / sizeof columns[0] };

struct measured {
    double error, error_999;
    anykv_stats stats;
    uint64_t append_ns; /* of the prompt */
    double attend_ns;   /* of a token, all layers: median */
};

/* samples: room for a time of each query position. */
static anykv_status through(struct akv_demo *demo, struct akv_demo_cache *cache, double *errors,
                            double *samples, struct measured *m)
{
    const struct akv_dump *dump = &demo->dump;
    struct akv_demo_times times = {0, 0};
    anykv_seq_options options = ANYKV_SEQ_OPTIONS_INIT;
    anykv_seq *seq = NULL;
    size_t count = 0;
    options.flags = ANYKV_SEQ_PUBLIC;
    anykv_status status = anykv_seq_create(cache->cache, &options, &seq);
    for (uint32_t t = 0; t < dump->q_first && status == ANYKV_OK;) {
        uint32_t n = dump->q_first - t < 128 ? dump->q_first - t : 128;
        status = akv_demo_step(demo, cache->cache, seq, t, n, demo->ids + t, NULL, NULL, &times);
        t += n;
    }
    m->append_ns = times.append_ns;
    for (uint32_t t = dump->q_first; t < dump->tokens && status == ANYKV_OK; t++) {
        times.attend_ns = 0;
        status =
            akv_demo_step(demo, cache->cache, seq, t, 1, demo->ids + t, errors, &count, &times);
        samples[t - dump->q_first] = (double)times.attend_ns;
    }
    if (status == ANYKV_OK)
        status = anykv_cache_wait(cache->cache, UINT64_MAX);
    m->stats.size = sizeof m->stats;
    if (status == ANYKV_OK)
        status = anykv_cache_stats(cache->cache, &m->stats);
    anykv_seq_destroy(seq);
    if (status != ANYKV_OK)
        return status;
    for (size_t i = 0; i < count; i++)
        m->error += errors[i] / (double)count;
    m->error_999 = akv_quantile(errors, count, 0.999);
    m->attend_ns = akv_quantile(samples, dump->tokens - dump->q_first, 0.5);
    return ANYKV_OK;
}

/* One sequence through a fresh cache. */
static anykv_status measure(struct akv_demo *demo, anykv_format k, anykv_format v, uint32_t flags,
                            double *errors, double *samples, struct measured *m)
{
    struct akv_demo_cache cache;
    memset(m, 0, sizeof *m);
    anykv_status status = akv_demo_open_cache(demo, k, v, 1, flags, &cache);
    if (status != ANYKV_OK)
        return status;
    status = through(demo, &cache, errors, samples, m);
    akv_demo_close_cache(&cache);
    return status;
}

static anykv_status one_pair(struct akv_demo *demo, const char *name, double *errors,
                             double *samples, struct akv_report *report)
{
    const struct akv_dump *dump = &demo->dump;
    struct measured m, precise;
    anykv_format k, v;
    anykv_status status = anykv_format_pair_parse(name, &k, &v);
    if (status == ANYKV_OK)
        status = measure(demo, k, v, ANYKV_CACHE_PRECISE, errors, samples, &precise);
    if (status == ANYKV_OK)
        status = measure(demo, k, v, 0, errors, samples, &m);
    if (status != ANYKV_OK)
        return status;
    double bytes = (double)(m.stats.hot_bytes + m.stats.sealed_bytes);
    double elements = 2.0 * dump->tokens * dump->layers * dump->kv_heads * dump->head_dim;
    struct akv_value row[COLUMNS] = {
        akv_text(anykv_format_name(k)),
        akv_text(anykv_format_name(v)),
        akv_text(k <= ANYKV_BF16 && v <= ANYKV_BF16 ? "none" : "rotate"),
        akv_real(8.0 * bytes / elements),
        akv_text("all"),
        akv_none(),
        akv_none(),
        akv_none(),
        akv_real(m.error),
        akv_real(m.error_999),
        akv_real(precise.error),
        akv_none(),
        akv_text("pages"),
        akv_text(demo->tool.label),
        akv_whole(dump->tokens),
        akv_whole(m.stats.sealed_bytes),
        akv_whole(m.stats.hot_bytes),
        akv_real(bytes / (2.0 * elements)),
        dump->q_first > 0 ? akv_real((double)m.append_ns / 1000.0 / dump->q_first) : akv_none(),
        akv_real(m.attend_ns / 1000.0),
    };
    akv_report_row(report, row);
    return ANYKV_OK;
}

anykv_status akv_demo_pages(struct akv_demo *demo)
{
    static const char *const pairs[] = {"F16/F16", "q8", "q6", "q5", "q4", "q3", "q2"};
    const struct akv_dump *dump = &demo->dump;
    size_t errors_count = (size_t)(dump->tokens - dump->q_first) * dump->q_heads * dump->layers;
    double *errors = akv_alloc(NULL, errors_count, sizeof *errors);
    double *samples = akv_alloc(NULL, dump->tokens - dump->q_first, sizeof *samples);
    struct akv_report *report = akv_report_begin(stdout, demo->json, columns, COLUMNS);
    anykv_status status =
        errors == NULL || samples == NULL || report == NULL ? ANYKV_E_MEMORY : ANYKV_OK;
    for (size_t i = 0; i < sizeof pairs / sizeof pairs[0] && status == ANYKV_OK; i++)
        status = one_pair(demo, pairs[i], errors, samples, report);
    anykv_status end = report == NULL ? ANYKV_E_MEMORY : akv_report_end(report);
    akv_free(NULL, errors);
    akv_free(NULL, samples);
    return status != ANYKV_OK ? status : end;
}
