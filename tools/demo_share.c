/* SPDX-License-Identifier: Apache-2.0 */
/* Section of `anykv demo`: conversations that share a prefix, in a cache too small for all of them.
 *
 * Every conversation has the rows of the dump, so exact outputs are known for each; what differs
 * are the token ids behind the common beginning, and with them the blocks' names. */
#include "demo.h"
#include "eval_reference.h"

#define CONVERSATIONS 8u
#define REQUESTS      32u
#define STEP_TOKENS   128u

/* Fields of `replay`, then those that the cache adds. */
static const struct akv_column columns[] = {
    {"policy", "policy", 0},
    {"blocks", NULL, 0},
    {"requests", "requests", 0},
    {"lookups", "blocks asked", 0},
    {"hits", "found", 0},
    {"hit_share", NULL, 0},
    {NULL, "%", 1},
    {"optimum", NULL, 0},
    {"share_of_optimum", NULL, 0},
    {"evictions", "evicted", 0},
    {"ns_per_touch", NULL, 0},
    {"ns_per_eviction", NULL, 0},
    {"section", NULL, 0},
    {"device", NULL, 0},
    {"budget_bytes", "budget bytes", 0},
    {"peak_bytes", "peak bytes", 0},
    {"within_budget", "within", 0},
    {"output_error", "output error", -3},
};
enum { COLUMNS = sizeof columns / sizeof columns[0] };

struct share {
    struct akv_demo *demo;
    anykv_cache *cache;
    uint32_t length[CONVERSATIONS]; /* tokens at its last request */
    uint32_t *ids;                  /* of the request under way */
    double *errors;                 /* of the request under way */
    double error_sum;
    uint64_t error_count, lookups, hits;
    uint64_t requests;
};

/* The conversation's tokens: the first half is common, the rest its own. */
static void write_ids(struct share *share, uint32_t conversation, uint32_t length)
{
    const struct akv_demo *demo = share->demo;
    for (uint32_t t = 0; t < length; t++)
        share->ids[t] =
            t < demo->dump.tokens / 2 ? demo->ids[t] : demo->ids[t] + (conversation + 1) * 1000000u;
}

/* Rows behind the matched ones, in steps that do not cross q_first. */
static anykv_status compute(struct share *share, anykv_seq *seq, uint32_t from, uint32_t length)
{
    struct akv_demo *demo = share->demo;
    struct akv_demo_times times = {0, 0};
    size_t count = 0;
    anykv_status status = ANYKV_OK;
    for (uint32_t t = from; t < length && status == ANYKV_OK;) {
        bool queries = t >= demo->dump.q_first;
        uint32_t stop = queries || length < demo->dump.q_first ? length : demo->dump.q_first;
        uint32_t n = stop - t < STEP_TOKENS ? stop - t : STEP_TOKENS;
        status = akv_demo_step(demo, share->cache, seq, t, n, share->ids + t,
                               queries ? share->errors : NULL, &count, &times);
        t += n;
    }
    for (size_t i = 0; i < count; i++)
        share->error_sum += share->errors[i];
    share->error_count += count;
    return status;
}

static anykv_status request(struct share *share, uint32_t conversation)
{
    const uint32_t tokens = share->demo->dump.tokens, block_tokens = 16;
    uint32_t length = share->length[conversation];
    uint64_t matched = 0;
    anykv_seq *seq = NULL;
    anykv_seq_options options = ANYKV_SEQ_OPTIONS_INIT;
    length = length == 0 ? tokens / 2 + tokens / 8 : length + tokens / 8;
    length = length > tokens ? tokens : length;
    share->length[conversation] = length;
    write_ids(share, conversation, length);
    options.flags = ANYKV_SEQ_PUBLIC;
    anykv_status status = anykv_seq_create(share->cache, &options, &seq);
    if (status == ANYKV_OK)
        status = anykv_seq_match(seq, share->ids, length, &matched);
    share->requests++;
    share->lookups += length / block_tokens;
    share->hits += matched / block_tokens;
    if (status == ANYKV_OK)
        status = compute(share, seq, (uint32_t)matched, length);
    anykv_seq_destroy(seq);
    return status;
}

static anykv_status all_requests(struct share *share)
{
    uint64_t state = 1; /* seeded: the same requests on every run */
    anykv_status status = ANYKV_OK;
    for (uint32_t i = 0; i < REQUESTS && status == ANYKV_OK; i++) {
        state = state * 6364136223846793005u + 1442695040888963407u;
        status = request(share, (uint32_t)(state >> 60) % CONVERSATIONS);
    }
    return status;
}

static anykv_status add_row(const struct share *share, struct akv_report *report)
{
    anykv_stats stats;
    memset(&stats, 0, sizeof stats);
    stats.size = sizeof stats;
    anykv_status status = anykv_cache_stats(share->cache, &stats);
    if (status != ANYKV_OK)
        return status;
    double part = (double)share->hits / (double)(share->lookups > 0 ? share->lookups : 1);
    struct akv_value row[COLUMNS] = {
        akv_text("lru"),
        akv_none(),
        akv_whole(share->requests),
        akv_whole(share->lookups),
        akv_whole(share->hits),
        akv_real(part),
        akv_real(100.0 * part),
        akv_none(),
        akv_none(),
        akv_whole(stats.blocks_evicted),
        akv_none(),
        akv_none(),
        akv_text("sharing"),
        akv_text(share->demo->tool.label),
        akv_whole(stats.budget_bytes),
        akv_whole(stats.peak_bytes),
        akv_bool(stats.peak_bytes <= stats.budget_bytes),
        share->error_count > 0 ? akv_real(share->error_sum / (double)share->error_count)
                               : akv_none(),
    };
    akv_report_row(report, row);
    return ANYKV_OK;
}

/* One cache of `sequences` whole conversations at N4; a row of the table. */
static anykv_status one_budget(struct akv_demo *demo, uint32_t sequences, struct akv_report *report)
{
    const struct akv_dump *dump = &demo->dump;
    struct share share;
    struct akv_demo_cache cache;
    memset(&share, 0, sizeof share);
    anykv_status status = akv_demo_open_cache(demo, ANYKV_N4, ANYKV_N4, sequences, 0, &cache);
    if (status != ANYKV_OK)
        return status;
    share.demo = demo;
    share.cache = cache.cache;
    share.ids = akv_alloc(NULL, dump->tokens, sizeof *share.ids);
    share.errors =
        akv_alloc(NULL, (size_t)(dump->tokens - dump->q_first) * dump->q_heads * dump->layers,
                  sizeof *share.errors);
    status = share.ids == NULL || share.errors == NULL ? ANYKV_E_MEMORY : all_requests(&share);
    if (status == ANYKV_OK)
        status = add_row(&share, report);
    akv_free(NULL, share.ids);
    akv_free(NULL, share.errors);
    akv_demo_close_cache(&cache);
    return status;
}

anykv_status akv_demo_share(struct akv_demo *demo)
{
    static const uint32_t sequences[] = {1, 2, 4};
    struct akv_report *report = akv_report_begin(stdout, demo->json, columns, COLUMNS);
    anykv_status status = report == NULL ? ANYKV_E_MEMORY : ANYKV_OK;
    for (size_t i = 0; i < sizeof sequences / sizeof sequences[0] && status == ANYKV_OK; i++)
        status = one_budget(demo, sequences[i], report);
    anykv_status end = report == NULL ? ANYKV_E_MEMORY : akv_report_end(report);
    return status != ANYKV_OK ? status : end;
}
