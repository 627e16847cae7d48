/* SPDX-License-Identifier: Apache-2.0 */
/* Request traces of kinds that the published ones are not, made up from a seed. */
#include "made_traces.h"
#include "house.h"
#include <stdio.h>
#include <stdlib.h>

#define SYSTEMS 8u   /* prompts that many requests begin with */
#define LONGEST 400u /* blocks of a request */

struct maker {
    FILE *file;
    uint64_t random;
    uint32_t next_id;
    double ms;
    uint32_t path[LONGEST], count;
};

static uint32_t below(struct maker *m, uint32_t end)
{
    return house_random(&m->random) % end;
}

/* 1 … end, small numbers more often: density 1/x. */
static uint32_t skewed(struct maker *m, uint32_t end)
{
    uint32_t x = end;
    while (x > 1 && below(m, 4) != 0)
        x = x * 3 / 5;
    return 1 + below(m, x < 1 ? 1 : x);
}

static void request(struct maker *m, const uint32_t *id, uint32_t count, bool partial)
{
    fprintf(m->file, "{\"timestamp\":%.0f,\"input_length\":%u,\"output_length\":1,\"hash_ids\":[",
            m->ms, count * 512 - (partial ? 100 : 0));
    for (uint32_t i = 0; i < count; i++)
        fprintf(m->file, "%s%u", i ? "," : "", id[i]);
    fprintf(m->file, "]}\n");
}

/* Builds a request in m->path: a run of ids that is always the same, then new ones. */
static void begin(struct maker *m, uint32_t first, uint32_t count)
{
    for (m->count = 0; m->count < count; m->count++)
        m->path[m->count] = first + m->count;
}

static void finish(struct maker *m, uint32_t more, bool partial)
{
    while (more-- && m->count < LONGEST)
        m->path[m->count++] = m->next_id++;
    request(m, m->path, m->count, partial);
}

/* Conversations that take turns: a few hot system prompts, each turn adds blocks, popular ones come
 * back sooner. */
static void zipf_turns(void *maker)
{
    enum { SESSIONS = 400, DEPTH = 40 };
    static uint32_t id[SESSIONS][DEPTH], length[SESSIONS];
    struct maker *m = maker;
    memset(length, 0, sizeof length);
    for (uint32_t r = 0; r < 4000; r++) {
        const uint32_t s = skewed(m, SESSIONS) - 1;
        uint32_t *path = id[s];
        m->ms += below(m, 1000);
        if (length[s] == 0 || length[s] + 4 > DEPTH) { /* a new one under one of five prompts */
            const uint32_t prompt = below(m, 5);
            for (length[s] = 0; length[s] < 4; length[s]++)
                path[length[s]] = 1 + prompt * 4 + length[s];
        }
        for (uint32_t more = 1 + below(m, 3); more > 0; more--)
            path[length[s]++] = m->next_id++;
        request(m, path, length[s], below(m, 2));
        if (below(m, 2)) /* its partial block does not come again */
            length[s]--;
    }
}

/* Agents: few deep sessions, each with a request every few seconds until it is done. */
static void deep_sessions(void *maker)
{
    enum { SESSIONS = 12, DEPTH = 120 };
    static uint32_t id[SESSIONS][DEPTH], length[SESSIONS];
    struct maker *m = maker;
    memset(length, 0, sizeof length);
    for (uint32_t r = 0; r < 3000; r++) {
        const uint32_t s = below(m, SESSIONS);
        m->ms += below(m, 3000);
        if (length[s] == 0 || length[s] + 3 > DEPTH || below(m, 60) == 0)
            for (length[s] = 0; length[s] < 6; length[s]++)
                id[s][length[s]] = 1 + length[s];
        for (uint32_t more = 1 + below(m, 2); more > 0; more--)
            id[s][length[s]++] = m->next_id++;
        request(m, id[s], length[s], false);
    }
}

/* Conversations among many requests that never come back, some of them long. */
static void scan(void *maker)
{
    enum { SESSIONS = 60, DEPTH = 30 };
    static uint32_t id[SESSIONS][DEPTH], length[SESSIONS], once[64];
    struct maker *m = maker;
    memset(length, 0, sizeof length);
    for (uint32_t r = 0; r < 4000; r++) {
        m->ms += below(m, 500);
        if (below(m, 3)) {
            const uint32_t count = 1 + below(m, below(m, 20) ? 12 : 60);
            for (uint32_t i = 0; i < count; i++)
                once[i] = m->next_id++;
            request(m, once, count, true);
            continue;
        }
        const uint32_t s = below(m, SESSIONS);
        if (length[s] + 2 > DEPTH)
            length[s] = 0;
        for (uint32_t more = 1 + below(m, 2); more > 0; more--)
            id[s][length[s]++] = m->next_id++;
        request(m, id[s], length[s], false);
    }
}

/* Hot prompts of 20 to 55 blocks; every 400 requests a job reads 60 documents once. */
static void hot_prompts(void *maker)
{
    struct maker *m = maker;
    for (uint32_t r = 0; r < 5000; r++) {
        const uint32_t which = skewed(m, SYSTEMS) - 1;
        m->ms += below(m, 600);
        if (r % 400 >= 340) {
            begin(m, 0, 0);
            finish(m, 20 + below(m, 60), true);
        } else {
            begin(m, 1 + which * 60, 20 + which * 5);
            finish(m, 1 + below(m, 8), below(m, 2));
        }
    }
}

/* Documents of 20 blocks, one after the other, again and again: a batch job's beat.  First so many
 * that they do not quite fit into 100 blocks, then 300, then 1,000. */
static void loops(void *maker)
{
    static const uint32_t documents[3] = {6, 17, 58};
    struct maker *m = maker;
    for (uint32_t phase = 0; phase < 3; phase++)
        for (uint32_t r = 0; r < 2000; r++) {
            m->ms += 400 + below(m, 200);
            begin(m, 1 + phase * 2000 + r % documents[phase] * 20, 20);
            finish(m, 1, true);
        }
}

/* 200 documents of 5 to 24 blocks; which of them are popular changes every 1,200 requests. */
static void shifting(void *maker)
{
    enum { DOCUMENTS = 200 };
    struct maker *m = maker;
    for (uint32_t r = 0; r < 6000; r++) {
        const uint32_t which = (skewed(m, DOCUMENTS) - 1 + r / 1200 * 67) % DOCUMENTS;
        m->ms += below(m, 800);
        begin(m, 1 + which * 24, 5 + which % 20);
        finish(m, 1 + below(m, 2), true);
    }
}

/* Sessions come, grow turn by turn with pauses of seconds to minutes, and end without a word. */
static void growing(void *maker)
{
    enum { SESSIONS = 40, DEPTH = 90 };
    static uint32_t id[SESSIONS][DEPTH], length[SESSIONS], turns[SESSIONS];
    static double next[SESSIONS];
    struct maker *m = maker;
    memset(turns, 0, sizeof turns);
    for (uint32_t s = 0; s < SESSIONS; s++)
        next[s] = below(m, 60000);
    for (uint32_t r = 0; r < 5000; r++) {
        uint32_t s = 0;
        for (uint32_t i = 1; i < SESSIONS; i++)
            s = next[i] < next[s] ? i : s;
        m->ms = next[s];
        if (turns[s] == 0) { /* somebody new, under one of three prompts; most say little */
            const uint32_t prompt = below(m, 3);
            turns[s] = skewed(m, 25);
            for (length[s] = 0; length[s] < 5; length[s]++)
                id[s][length[s]] = 1 + prompt * 5 + length[s];
        }
        for (uint32_t more = 1 + below(m, 4); more > 0 && length[s] < DEPTH; more--)
            id[s][length[s]++] = m->next_id++;
        request(m, id[s], length[s], false);
        turns[s]--;
        next[s] += 2000.0 * skewed(m, 120);
    }
}

/* A quiet base of returning documents; now and then one that is new is asked for thirty times
 * within seconds and never again. */
static void bursts(void *maker)
{
    enum { DOCUMENTS = 60 };
    struct maker *m = maker;
    for (uint32_t r = 0; r < 600; r++) {
        const uint32_t which = below(m, DOCUMENTS);
        m->ms += 2000 + below(m, 6000);
        begin(m, 1 + which * 16, 16);
        finish(m, 1, true);
        if (below(m, 5) == 0) {
            const uint32_t first = m->next_id, count = 10 + below(m, 40);
            m->next_id += count;
            for (uint32_t i = 0; i < 30; i++) {
                m->ms += below(m, 200);
                begin(m, first, count);
                finish(m, 1, true);
            }
        }
    }
}

const struct made_trace made_traces[] = {
    {"zipf turns", zipf_turns},
    {"deep sessions", deep_sessions},
    {"scan", scan},
    {"hot prompts", hot_prompts},
    {"loops", loops},
    {"shifting", shifting},
    {"growing", growing},
    {"bursts", bursts},
};
const uint32_t made_trace_count = sizeof made_traces / sizeof made_traces[0];

void made_trace_load(uint32_t which, struct akv_trace *trace)
{
    char path[] = "policy-trace-XXXXXX";
    const int file = mkstemp(path);
    cr_assert(file >= 0, "no temporary file");
    struct maker m = {.file = fdopen(file, "w"), .random = 20260101 + which, .next_id = 10000};
    made_traces[which].make(&m);
    fclose(m.file);
    const anykv_status status = akv_trace_load(path, 512, trace);
    remove(path);
    cr_assert(status == ANYKV_OK, "%s: %s", made_traces[which].name, anykv_error_detail());
}
