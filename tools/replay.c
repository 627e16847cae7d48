/* SPDX-License-Identifier: Apache-2.0 */
/* `anykv replay`: a request trace through the library's prefix index, block pool and eviction
 * policy. */
#include "device_option.h"
#include "pool.h"
#include "prefix.h"
#include "progress.h"
#include "replay_optimum.h"
#include "report.h"
#include "tools.h"
#include <inttypes.h>
#include <strings.h>

/* A block here is bookkeeping: the pool's smallest block, a chunk of its own. */
#define BLOCK_BYTES 16u
#define POLICIES    16

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

struct replay {
    struct akv_trace trace;
    struct akv_prefix prefix;
    struct akv_pool pool;
    uint32_t *nodes; /* of the request under way */
    uint64_t capacity;
    uint64_t hits, evictions, touches, touch_ns, eviction_ns;
    bool done_hints;
};

/* ---- one run ---- */

static anykv_status open_run(struct replay *replay, anykv_policy policy)
{
    const uint32_t block_bytes[AKV_POOL_KINDS] = {BLOCK_BYTES, 0};
    const struct akv_pool_shape shape = {BLOCK_BYTES, (uint32_t)replay->capacity, 1, block_bytes};
    anykv_status status = akv_prefix_init(&replay->prefix, NULL, 1, policy);
    if (status != ANYKV_OK)
        return status;
    status = akv_pool_init(&replay->pool, NULL, &shape);
    if (status != ANYKV_OK) {
        akv_prefix_finish(&replay->prefix);
        return status;
    }
    status = akv_pool_add_slab(&replay->pool, 0, (uint32_t)replay->capacity);
    if (status == ANYKV_OK)
        status = akv_prefix_reserve(&replay->prefix, (uint32_t)replay->capacity);
    if (status != ANYKV_OK) {
        akv_pool_finish(&replay->pool);
        akv_prefix_finish(&replay->prefix);
    }
    return status;
}

static void close_run(struct replay *replay)
{
    akv_pool_finish(&replay->pool);
    akv_prefix_finish(&replay->prefix);
}

static void evict(struct replay *replay, uint64_t count)
{
    uint64_t start = akv_now_ns();
    for (uint64_t i = 0; i < count; i++) {
        uint32_t victim = akv_prefix_victim(&replay->prefix);
        assert(victim != AKV_NO_ID); /* what is held is less than the capacity */
        akv_pool_release(&replay->pool, *akv_prefix_blocks(&replay->prefix, victim));
        akv_prefix_remove(&replay->prefix, victim);
    }
    replay->eviction_ns += akv_now_ns() - start;
    replay->evictions += count;
}

/* The leading run of cached blocks, held; returns its length. */
static uint32_t look_up(struct replay *replay, const uint32_t *ids, uint32_t count)
{
    uint32_t found = 0;
    for (; found < count; found++) {
        akv_digest key = akv_prefix_key_of(ids[found]);
        uint32_t node = akv_prefix_find(&replay->prefix, &key);
        if (node == AKV_NO_ID)
            break;
        akv_prefix_hold(&replay->prefix, node);
        replay->nodes[found] = node;
    }
    return found;
}

/* `partial`: the last of them is. */
static anykv_status insert(struct replay *replay, const uint32_t *ids, uint32_t first,
                           uint32_t count, bool partial)
{
    for (uint32_t i = first; i < count; i++) {
        akv_digest key = akv_prefix_key_of(ids[i]);
        bool scrub;
        uint32_t block = akv_pool_alloc(&replay->pool, 0, AKV_KIND_HOT, 1, &scrub);
        if (block == AKV_NO_ID)
            return akv_fail(NULL, ANYKV_E_INTERNAL, "pool: full after eviction");
        replay->nodes[i] =
            akv_prefix_insert(&replay->prefix, &key, i == 0 ? AKV_NO_ID : replay->nodes[i - 1], 0,
                              partial && i + 1 == count);
        if (replay->nodes[i] == AKV_NO_ID) {
            akv_pool_release(&replay->pool, block);
            return ANYKV_E_MEMORY;
        }
        *akv_prefix_blocks(&replay->prefix, replay->nodes[i]) = block;
    }
    return ANYKV_OK;
}

/* The request's conversation is over when the id before its last never comes again. */
static void hint_done(struct replay *replay, uint32_t request, uint32_t held)
{
    uint64_t first = replay->trace.first[request], last = replay->trace.first[request + 1];
    if (last - first < 2 || replay->trace.again[last - 2] != AKV_NEVER)
        return;
    for (uint32_t i = held; i-- > 0;) {
        if (replay->prefix.nodes[replay->nodes[i]].fan_out > 4)
            return;
        akv_prefix_demote(&replay->prefix, replay->nodes[i]);
    }
}

static anykv_status one_request(struct replay *replay, uint32_t request)
{
    const uint32_t *ids = replay->trace.id + replay->trace.first[request];
    uint32_t count = (uint32_t)(replay->trace.first[request + 1] - replay->trace.first[request]);
    akv_evict_clock(&replay->prefix.evict, replay->trace.seconds[request]);
    uint32_t found = look_up(replay, ids, count);
    replay->hits += found;
    uint32_t held = count > replay->capacity ? (uint32_t)replay->capacity : count;
    uint64_t room = replay->capacity - replay->prefix.count;
    if (held - found > room)
        evict(replay, held - found - room);
    anykv_status status = insert(replay, ids, found, held, held == count && replay->trace.partial[request]);
    if (status != ANYKV_OK)
        return status;
    uint64_t start = akv_now_ns();
    akv_prefix_request(&replay->prefix, replay->nodes, held);
    replay->touch_ns += akv_now_ns() - start;
    replay->touches += held;
    if (replay->done_hints)
        hint_done(replay, request, held);
    for (uint32_t i = held; i-- > 0;)
        akv_prefix_drop(&replay->prefix, replay->nodes[i]);
    return ANYKV_OK;
}

static anykv_status one_run(struct replay *replay, anykv_policy policy,
                            struct akv_progress *progress)
{
    replay->hits = replay->evictions = replay->touches = replay->touch_ns = replay->eviction_ns = 0;
    anykv_status status = open_run(replay, policy);
    if (status != ANYKV_OK)
        return status;
    for (uint32_t r = 0; r < replay->trace.requests && status == ANYKV_OK; r++) {
        status = one_request(replay, r);
        if (r % 1024 == 0)
            akv_progress_step(progress, r, NULL);
    }
    close_run(replay);
    return status;
}

/* ---- rows ---- */

static double share(uint64_t part, uint64_t whole)
{
    return whole == 0 ? 0.0 : (double)part / (double)whole;
}

static struct akv_value per(uint64_t ns, uint64_t count)
{
    return count == 0 ? akv_none() : akv_real((double)ns / (double)count);
}

static void add_row(const struct replay *replay, struct akv_report *report, const char *policy,
                    bool asked, uint64_t optimum)
{
    uint64_t lookups = replay->trace.blocks;
    double best = share(optimum, lookups);
    struct akv_value row[COLUMNS] = {
        akv_text(policy),
        akv_whole(replay->capacity),
        akv_whole(replay->trace.requests),
        akv_whole(lookups),
        akv_whole(replay->hits),
        akv_real(share(replay->hits, lookups)),
        akv_real(100.0 * share(replay->hits, lookups)),
        asked ? akv_real(best) : akv_none(),
        asked ? akv_real(100.0 * best) : akv_none(),
        asked && optimum > 0 ? akv_real(share(replay->hits, optimum)) : akv_none(),
        akv_whole(replay->evictions),
        per(replay->touch_ns, replay->touches),
        per(replay->eviction_ns, replay->evictions),
    };
    akv_report_row(report, row);
}

/* Room for the nodes of the longest request. */
static anykv_status make_nodes(struct replay *replay)
{
    uint64_t longest = 1;
    for (uint32_t r = 0; r < replay->trace.requests; r++)
        if (replay->trace.first[r + 1] - replay->trace.first[r] > longest)
            longest = replay->trace.first[r + 1] - replay->trace.first[r];
    replay->nodes = akv_alloc(NULL, (size_t)longest, sizeof *replay->nodes);
    return replay->nodes == NULL ? ANYKV_E_MEMORY : ANYKV_OK;
}

static anykv_status all_runs(struct replay *replay, const anykv_policy *policies,
                             uint32_t policy_count, const struct akv_u64_list *blocks, bool optimum,
                             bool json)
{
    struct akv_report *report = akv_report_begin(stdout, json, columns, COLUMNS);
    struct akv_progress progress;
    if (report == NULL)
        return ANYKV_E_MEMORY;
    anykv_status status = make_nodes(replay);
    for (uint32_t b = 0; b < blocks->count && status == ANYKV_OK; b++) {
        uint64_t best = 0;
        replay->capacity = blocks->item[b];
        if (optimum)
            status = akv_replay_optimum(&replay->trace, replay->capacity, &best);
        for (uint32_t n = 0; n < policy_count && status == ANYKV_OK; n++) {
            akv_progress_begin(&progress, "replay", replay->trace.requests);
            status = one_run(replay, policies[n], &progress);
            akv_progress_end(&progress);
            if (status == ANYKV_OK)
                add_row(replay, report, akv_policy_find(policies[n])->name, optimum, best);
        }
    }
    anykv_status end = akv_report_end(report);
    return status != ANYKV_OK ? status : end;
}

/* ---- options ---- */

static int add_policy(const char *name, anykv_policy *policies, uint32_t *count)
{
    static const char *const later[] = {"arc", "s3fifo", "caller"};
    const struct akv_policy *policy = akv_policy_parse(name);
    if (policy == &akv_policy_caller) /* its scores come from a program */
        policy = NULL;
    if (strcmp(name, "default") == 0) {
        anykv_cache_options options = ANYKV_CACHE_OPTIONS_INIT;
        policy = akv_policy_find(options.policy);
    }
    for (size_t i = 0; i < sizeof later / sizeof later[0] && policy == NULL; i++)
        if (strcmp(name, later[i]) == 0)
            return akv_cli_wrong("replay", "--policy: this version does not have \"%s\"", name);
    if (policy == NULL)
        return akv_cli_wrong("replay", "--policy: unknown policy \"%s\"", name);
    for (uint32_t i = 0; i < *count; i++)
        if (policies[i] == policy->id)
            return AKV_CLI_GO;
    policies[(*count)++] = policy->id;
    return AKV_CLI_GO;
}

static int choose_policies(const struct akv_text_list *names, anykv_policy *policies,
                           uint32_t *count)
{
    int go = AKV_CLI_GO;
    *count = 0;
    for (uint32_t i = 0; i < names->count && go == AKV_CLI_GO; i++) {
        if (strcmp(names->item[i], "all") != 0) {
            go = add_policy(names->item[i], policies, count);
            continue;
        }
        for (int id = 1; id < POLICIES && go == AKV_CLI_GO; id++)
            if (akv_policy_find((anykv_policy)id) != NULL && id != ANYKV_POLICY_CALLER)
                go = add_policy(akv_policy_find((anykv_policy)id)->name, policies, count);
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
    struct akv_u64_list blocks = {4, {1000, 3000, 10000, 30000}};
    uint64_t block_tokens = 512;
    const char *device = NULL, *svg = NULL, *path = NULL;
    bool json = false, optimum = false, done_hints = false;
    const struct akv_cli_option options[] = {
        {"policy", AKV_CLI_TEXT_LIST, &names, 0, 0, "LIST",
         "lru, lfu, fifo, adaptive, gittins; default, all (default: default)"},
        {"blocks", AKV_CLI_U64_LIST, &blocks, 1, 1u << 28, "LIST",
         "capacities in blocks (default: 1000,3000,10000,30000)"},
        {"block-tokens", AKV_CLI_U64, &block_tokens, 1, 1u << 20, "N",
         "tokens that an id of the trace stands for (default: 512)"},
        {"optimum", AKV_CLI_FLAG, &optimum, 0, 0, NULL,
         "also compute what could be reached if the future were known"},
        {"done-hints", AKV_CLI_FLAG, &done_hints, 0, 0, NULL,
         "requests say when a conversation is over"},
        {"svg", AKV_CLI_TEXT, &svg, 0, 0, "FILE", NULL},
        {"device", AKV_CLI_TEXT, &device, 0, 0, "NAME",
         "checked to be there; replay itself stores no rows"},
        AKV_JSON_OPTION(json),
        {NULL, AKV_CLI_FLAG, NULL, 0, 0, NULL, NULL},
    };
    const struct akv_cli cli = {
        "replay",
        "[OPTION]... TRACE",
        "Sends the requests of TRACE (JSON lines: timestamp in ms, input_length, output_length,\n"
        "hash_ids) through the library's prefix index and block pool and reports how many blocks "
        "were\n"
        "found in the cache.  A block is a hit if all earlier blocks of its request are.",
        "anykv replay conversation.jsonl --policy lru --blocks 1000,3000,10000 --optimum",
        options,
        1,
        1};
    names.count = 0;
    int go = akv_cli_parse(&cli, argc, argv, &path, NULL);
    if (go != AKV_CLI_GO)
        return go;
    if (svg != NULL)
        return akv_cli_wrong("replay", "--svg: this version does not have it");
    if (names.count == 0)
        snprintf(names.item[names.count++], AKV_ITEM_MAX, "default");
    anykv_policy policies[POLICIES];
    uint32_t policy_count;
    go = choose_policies(&names, policies, &policy_count);
    if (go == AKV_CLI_GO)
        go = check_device(device);
    if (go != AKV_CLI_GO)
        return go;
    struct replay replay;
    memset(&replay, 0, sizeof replay);
    replay.done_hints = done_hints;
    anykv_status status = akv_trace_load(path, (uint32_t)block_tokens, &replay.trace);
    if (status == ANYKV_OK)
        status = all_runs(&replay, policies, policy_count, &blocks, optimum, json);
    akv_free(NULL, replay.nodes);
    akv_trace_free(&replay.trace);
    return status == ANYKV_OK ? AKV_EXIT_GOOD : akv_cli_status("replay", path, status);
}
