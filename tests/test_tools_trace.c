/* SPDX-License-Identifier: Apache-2.0 */
/* Request traces: what is refused; and the offline optimum against exhaustive search. */
#include "tools/replay_optimum.h"
#include <criterion/criterion.h>
#include <inttypes.h>
#include <stdio.h>
#include <unistd.h>

static char path[64];

static void make_path(void)
{
    snprintf(path, sizeof path, "anykv-trace.%ld.tmp", (long)getpid());
}
static void remove_path(void)
{
    unlink(path);
}
TestSuite(trace, .init = make_path, .fini = remove_path);

static anykv_status load(const char *text, struct akv_trace *trace)
{
    FILE *file = fopen(path, "wb");
    cr_assert(file != NULL);
    fputs(text, file);
    fclose(file);
    return akv_trace_load(path, 512, trace);
}

static void refused(const char *text, const char *detail)
{
    struct akv_trace trace;
    anykv_status status = load(text, &trace);
    cr_expect(status == ANYKV_E_DATA && strstr(anykv_error_detail(), detail) != NULL,
              "%s: \"%s\" does not say \"%s\"", anykv_status_name(status), anykv_error_detail(),
              detail);
    akv_trace_free(&trace);
    cr_expect(akv_alloc_live() == 0);
}

#define LINE(time, ids)                                                                            \
    "{\"timestamp\":" time ",\"input_length\":700,\"output_length\":3,\"hash_ids\":" ids "}\n"

Test(trace, reads)
{
    struct akv_trace trace;
    cr_assert(
        load(LINE("0", "[7,900000000000]") "\n"
                                           "{\"hash_ids\":[7],\"input_length\":512,\"timestamp\":"
                                           "1500.5,\"x\":[{}]}\n" LINE("1501", "[7,3,2]"),
             &trace) == ANYKV_OK,
        "%s", anykv_error_detail());
    cr_expect(trace.requests == 3 && trace.ids == 4 && trace.blocks == 6);
    cr_expect(trace.id[0] == trace.id[2] && trace.id[2] == trace.id[3]);
    cr_expect(trace.parent[trace.id[5]] == trace.id[4] && trace.depth[trace.id[5]] == 2);
    cr_expect(trace.parent[trace.id[0]] == AKV_NEVER);
    cr_expect(trace.again[0] == 1 && trace.again[1] == AKV_NEVER && trace.again[2] == 2);
    cr_expect(trace.partial[0] && !(trace.partial[1]));
    cr_expect(trace.seconds[1] == 1.5005);
    akv_trace_free(&trace);
    cr_expect(akv_alloc_live() == 0);
}

Test(trace, refuses)
{
    struct akv_trace trace;
    cr_expect(akv_trace_load("no/such/file", 512, &trace) == ANYKV_E_IO);
    akv_trace_free(&trace);
    refused("", "no request");
    refused("x\n", "line 1: request: an object is expected");
    refused(LINE("0", "[1]") "{\"timestamp\":1}\n", "line 2: input_length: is missing");
    refused("{\"timestamp\":1,\"input_length\":2}\n", "hash_ids: is missing");
    refused("{\"timestamp\":1,\"timestamp\":2}\n", "timestamp: is there twice");
    refused(LINE("5", "[1]") LINE("4", "[1]"), "line 2: timestamp: is before the one above");
    refused(LINE("0", "[-1]"), "hash_ids: a whole number is expected");
    refused(LINE("0", "[1.5]"), "hash_ids: a whole number is expected");
    refused(LINE("0", "7"), "hash_ids: an array is expected");
    refused("{\"timestamp\":0,\"input_length\":-3,\"hash_ids\":[]}\n", "input_length");
    refused(LINE("0", "[1,2,1]"), "hash_ids: 1 stands behind another id");
    refused(LINE("0", "[1,2]") LINE("1", "[3,2]"), "hash_ids: 2 stands behind another id");
    refused(LINE("0", "[1]") "{\"timestamp\":0} x\n", "something follows the end");
}

/* Most hits from request `r` on when the blocks of `cached` (bits) are there: every way to keep at
 * most `capacity` of them and the request's own blocks is tried. */
static int8_t memory[16][256];
static int most(const struct akv_trace *trace, uint32_t capacity, uint32_t r, uint32_t cached)
{
    if (r == trace->requests)
        return 0;
    if (memory[r][cached] >= 0)
        return memory[r][cached];
    uint32_t reach = cached;
    int hits = 0, best = 0;
    bool run = true;
    for (uint64_t i = trace->first[r]; i < trace->first[r + 1]; i++) {
        run = run && (cached >> trace->id[i] & 1u);
        hits += run;
        reach |= 1u << trace->id[i];
    }
    for (uint32_t keep = reach;; keep = (keep - 1) & reach) {
        if ((uint32_t)__builtin_popcount(keep) <= capacity) {
            int later = most(trace, capacity, r + 1, keep);
            best = later > best ? later : best;
        }
        if (keep == 0)
            break;
    }
    memory[r][cached] = (int8_t)(hits + best);
    return hits + best;
}

/* A tree of 8 ids; a request is the way to a random one. */
Test(trace, optimum_against_exhaustive_search)
{
    uint64_t state = 20240711; /* the seed */
    for (int round = 0; round < 60; round++) {
        uint32_t parent[8];
        char text[4096];
        size_t used = 0;
        for (uint32_t id = 0; id < 8; id++) {
            state = state * 6364136223846793005u + 1442695040888963407u;
            parent[id] = (state >> 61) < 2 || id == 0 ? 8 : (uint32_t)(state >> 33) % id;
        }
        for (int r = 0; r < 12; r++) {
            uint32_t way[8], length = 0;
            state = state * 6364136223846793005u + 1442695040888963407u;
            for (uint32_t id = (uint32_t)(state >> 61); id != 8; id = parent[id])
                way[length++] = id;
            used += (size_t)snprintf(text + used, sizeof text - used,
                                     "{\"timestamp\":%d,\"input_length\":1,\"hash_ids\":[", r);
            while (length-- > 0)
                used += (size_t)snprintf(text + used, sizeof text - used, "%" PRIu32 "%s",
                                         way[length], length > 0 ? "," : "]}\n");
        }
        struct akv_trace trace;
        cr_assert(load(text, &trace) == ANYKV_OK, "%s", anykv_error_detail());
        for (uint32_t capacity = 1; capacity < 7; capacity++) {
            uint64_t hits = 0;
            memset(memory, -1, sizeof memory);
            cr_assert(akv_replay_optimum(&trace, capacity, &hits) == ANYKV_OK);
            int best = most(&trace, capacity, 0, 0);
            cr_expect(hits == (uint64_t)best,
                      "round %d capacity %u: %" PRIu64 " hits, exhaustive %d\n%s", round, capacity,
                      hits, best, text);
        }
        akv_trace_free(&trace);
    }
}
