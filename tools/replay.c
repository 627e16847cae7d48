/* SPDX-License-Identifier: Apache-2.0 */
/* `anykv replay`: a request trace through the library's prefix index, block pool and eviction
 * policy. */
#include "device_option.h"
#include "evict.h"
#include "replay.h"
#include "replay_optimum.h"
#include "report.h"
#include "tools.h"
#include <inttypes.h>
#include <strings.h>

#define POLICIES 16

/* The library's policies, and those for comparison. */
struct chosen {
    const char *name;
    anykv_policy policy; /* 0: for comparison */
    anykv_status (*run)(const struct akv_trace *trace, uint64_t capacity,
                        struct akv_replay_run *run);
};
static const struct chosen rivals[] = {{"arc", (anykv_policy)0, akv_replay_arc},
                                       {"s3fifo", (anykv_policy)0, akv_replay_s3fifo}};
enum { RIVALS = sizeof rivals / sizeof rivals[0] };

struct request {
    struct akv_trace trace;
    const char *path, *svg;
    struct chosen policies[POLICIES];
    uint32_t policy_count;
    struct akv_u64_list blocks;
    bool optimum, done_hints, json;
};

static const struct akv_column columns[] = {
    {"policy", "policy", 0},
    {"blocks", "blocks", 0},
    {"requests", "requests", 0},
    {"lookups", "lookups", 0},
    {"hits", "hits", 0},
    {"hit_share", NULL, 0},
    {NULL, "hit %", 2},
    {"optimum", NULL, 0},
    {NULL, "optimum %", 2},
    {"share_of_optimum", "share", 3},
    {"evictions", "evictions", 0},
    {"ns_per_touch", "ns/touch", 1},
    {"ns_per_eviction", "ns/eviction", 1},
};
enum { COLUMNS = sizeof columns / sizeof columns[0] };

/* ---- rows ---- */

static double share(uint64_t part, uint64_t whole)
{
    return whole == 0 ? 0.0 : (double)part / (double)whole;
}

static struct akv_value per(uint64_t ns, uint64_t count)
{
    return count == 0 ? akv_none() : akv_real((double)ns / (double)count);
}

static void add_row(const struct request *request, struct akv_report *report, const char *policy,
                    uint64_t blocks, const struct akv_replay_run *run, uint64_t optimum)
{
    uint64_t lookups = request->trace.blocks;
    double best = share(optimum, lookups);
    bool asked = request->optimum;
    struct akv_value row[COLUMNS] = {
        akv_text(policy),
        akv_whole(blocks),
        akv_whole(request->trace.requests),
        akv_whole(lookups),
        akv_whole(run->hits),
        akv_real(share(run->hits, lookups)),
        akv_real(100.0 * share(run->hits, lookups)),
        asked ? akv_real(best) : akv_none(),
        asked ? akv_real(100.0 * best) : akv_none(),
        asked && optimum > 0 ? akv_real(share(run->hits, optimum)) : akv_none(),
        akv_whole(run->evictions),
        per(run->touch_ns, run->touches),
        per(run->eviction_ns, run->touches ? run->evictions : 0),
    };
    akv_report_row(report, row);
}

static anykv_status one_run(const struct request *request, const struct chosen *chosen,
                            uint64_t blocks, struct akv_replay_run *run)
{
    struct akv_progress progress;
    if (chosen->run != NULL)
        return chosen->run(&request->trace, blocks, run);
    akv_progress_begin(&progress, "replay", request->trace.requests);
    anykv_status status = akv_replay_policy(&request->trace, blocks, chosen->policy,
                                            request->done_hints, &progress, run);
    akv_progress_end(&progress);
    return status;
}

/* All policies at one capacity; the shares go into the curves, the optimum's first if asked. */
static anykv_status one_capacity(const struct request *request, uint32_t b,
                                 struct akv_report *report, struct akv_curve *curves)
{
    const uint64_t blocks = request->blocks.item[b], lookups = request->trace.blocks;
    uint64_t best = 0;
    anykv_status status = ANYKV_OK;
    if (request->optimum) {
        status = akv_replay_optimum(&request->trace, blocks, &best);
        (curves++)->share[b] = share(best, lookups);
    }
    for (uint32_t n = 0; n < request->policy_count && status == ANYKV_OK; n++) {
        struct akv_replay_run run;
        status = one_run(request, &request->policies[n], blocks, &run);
        if (status != ANYKV_OK)
            break;
        curves[n].share[b] = share(run.hits, lookups);
        add_row(request, report, request->policies[n].name, blocks, &run, best);
    }
    return status;
}

/* Capacities in ascending order for the plot. */
static anykv_status plot(const struct request *request, const struct akv_curve *curves,
                         uint32_t count)
{
    for (uint32_t b = 1; b < request->blocks.count; b++)
        if (request->blocks.item[b] <= request->blocks.item[b - 1])
            return akv_fail(NULL, ANYKV_E_ARG, "svg: --blocks must be in ascending order");
    return akv_replay_svg(request->svg, request->path, request->blocks.item, request->blocks.count,
                          curves, count);
}

static anykv_status all_runs(const struct request *request)
{
    struct akv_curve curves[POLICIES + 1];
    const uint32_t points = request->blocks.count;
    const uint32_t count = request->policy_count + (request->optimum ? 1u : 0u);
    double *shares = akv_alloc(NULL, (size_t)points * count, sizeof *shares);
    struct akv_report *report =
        shares ? akv_report_begin(stdout, request->json, columns, COLUMNS) : NULL;
    if (report == NULL) {
        akv_free(NULL, shares);
        return ANYKV_E_MEMORY;
    }
    for (uint32_t c = 0; c < count; c++) {
        const uint32_t n = c - (request->optimum ? 1u : 0u);
        curves[c].share = shares + (size_t)c * points;
        curves[c].name = c == 0 && request->optimum ? "optimum" : request->policies[n].name;
    }
    anykv_status status = ANYKV_OK;
    for (uint32_t b = 0; b < points && status == ANYKV_OK; b++)
        status = one_capacity(request, b, report, curves);
    anykv_status end = akv_report_end(report);
    if (status == ANYKV_OK && end == ANYKV_OK && request->svg != NULL)
        status = plot(request, curves, count);
    akv_free(NULL, shares);
    return status != ANYKV_OK ? status : end;
}

/* ---- options ---- */

static int add_policy(struct request *request, struct chosen chosen)
{
    for (uint32_t i = 0; i < request->policy_count; i++)
        if (strcmp(request->policies[i].name, chosen.name) == 0)
            return AKV_CLI_GO;
    request->policies[request->policy_count++] = chosen;
    return AKV_CLI_GO;
}

static struct chosen own(const struct akv_policy *policy)
{
    const struct chosen chosen = {policy->name, policy->id, NULL};
    return chosen;
}

static int add_name(struct request *request, const char *name)
{
    const struct akv_policy *policy = akv_policy_parse(name);
    if (strcmp(name, "default") == 0) {
        anykv_cache_options options = ANYKV_CACHE_OPTIONS_INIT;
        policy = akv_policy_find(options.policy);
    }
    if (policy == &akv_policy_caller)
        return akv_cli_wrong("replay", "--policy: the scores of \"caller\" come from a program");
    if (policy != NULL)
        return add_policy(request, own(policy));
    for (uint32_t i = 0; i < RIVALS; i++)
        if (strcmp(name, rivals[i].name) == 0)
            return add_policy(request, rivals[i]);
    return akv_cli_wrong("replay", "--policy: unknown policy \"%s\"", name);
}

static int choose_policies(const struct akv_text_list *names, struct request *request)
{
    int go = AKV_CLI_GO;
    for (uint32_t i = 0; i < names->count && go == AKV_CLI_GO; i++) {
        if (strcmp(names->item[i], "all") != 0) {
            go = add_name(request, names->item[i]);
            continue;
        }
        for (int id = ANYKV_POLICY_LRU; id < ANYKV_POLICY_CALLER; id++)
            add_policy(request, own(akv_policy_find((anykv_policy)id)));
        for (uint32_t n = 0; n < RIVALS; n++)
            add_policy(request, rivals[n]);
    }
    return go;
}

/* replay needs no device; one that is named must be there all the same. */
static int check_device(const char *device)
{
    struct akv_tool tool;
    if (device == NULL)
        return AKV_CLI_GO;
    int go = akv_tool_open(&tool, "replay", device, NULL);
    akv_tool_close(&tool);
    return go;
}

int akv_tool_replay(int argc, char **argv)
{
    static struct akv_text_list names;
    static struct request request;
    uint64_t block_tokens = 512;
    const char *device = NULL;
    memset(&request, 0, sizeof request);
    request.blocks = (struct akv_u64_list){4, {1000, 3000, 10000, 30000}};
    const struct akv_cli_option options[] = {
        {"policy", AKV_CLI_TEXT_LIST, &names, 0, 0, "LIST",
         "lru, lfu, fifo, adaptive, gittins; arc, s3fifo for comparison; default, all\n"
         "(default: default)"},
        {"blocks", AKV_CLI_U64_LIST, &request.blocks, 1, 1u << 28, "LIST",
         "capacities in blocks (default: 1000,3000,10000,30000)"},
        {"block-tokens", AKV_CLI_U64, &block_tokens, 1, 1u << 20, "N",
         "tokens that an id of the trace stands for (default: 512)"},
        {"optimum", AKV_CLI_FLAG, &request.optimum, 0, 0, NULL,
         "also compute what could be reached if the future were known"},
        {"done-hints", AKV_CLI_FLAG, &request.done_hints, 0, 0, NULL,
         "requests say when a conversation is over (not to arc and s3fifo)"},
        {"svg", AKV_CLI_TEXT, &request.svg, 0, 0, "FILE", "plot the hit shares"},
        {"device", AKV_CLI_TEXT, &device, 0, 0, "NAME",
         "checked to be there; replay itself stores no rows"},
        AKV_JSON_OPTION(request.json),
        {NULL, AKV_CLI_FLAG, NULL, 0, 0, NULL, NULL},
    };
    const struct akv_cli cli = {
        "replay",
        "[OPTION]... TRACE",
        "Sends the requests of TRACE (JSON lines: timestamp in ms, input_length, output_length,\n"
        "hash_ids) through the library's prefix index and block pool and reports how many blocks "
        "were\n"
        "found in the cache.  A block is a hit if all earlier blocks of its request are.",
        "anykv replay conversation.jsonl --policy all --blocks 1000,3000,10000 --optimum",
        options,
        1,
        1};
    names.count = 0;
    int go = akv_cli_parse(&cli, argc, argv, &request.path, NULL);
    if (go != AKV_CLI_GO)
        return go;
    if (names.count == 0)
        snprintf(names.item[names.count++], AKV_ITEM_MAX, "default");
    go = choose_policies(&names, &request);
    if (go == AKV_CLI_GO)
        go = check_device(device);
    if (go != AKV_CLI_GO)
        return go;
    anykv_status status = akv_trace_load(request.path, (uint32_t)block_tokens, &request.trace);
    if (status == ANYKV_OK)
        status = all_runs(&request);
    akv_trace_free(&request.trace);
    return status == ANYKV_OK ? AKV_EXIT_GOOD : akv_cli_status("replay", request.path, status);
}
