/* SPDX-License-Identifier: Apache-2.0 */
/* `prefix`: what asking again and forking cost.  `speed`: decode time beside plain arrays; with one
 * thread it is processor time. */
#include "dense.h"
#include "program.h"
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { STEP = 256 };

/* Tokens [at, at + count) of one sequence through one store. */
static int feed(struct program *p, struct store *store, anykv_seq *seq, const uint32_t *ids,
                uint32_t at, uint32_t count, float *logits)
{
    uint32_t positions[STEP], last = 0;
    for (uint32_t part; count > 0; at += part, count -= part) {
        part = count < STEP ? count : STEP;
        last = part - 1;
        for (uint32_t i = 0; i < part; i++)
            positions[i] = at + i;
        if (store_begin(store, &seq, &part, 1) != 0 ||
            model_forward(&p->model, ids + at, positions, &store, &part, 1, &last,
                          logits && part == count ? 1 : 0, logits, NULL) != 0 ||
            store_end(store, ids + at) != 0)
            return -1;
    }
    return 0;
}

/* ---- prefix
 * ------------------------------------------------------------------------------------------- */

static int ask(struct program *p, struct store *store, const uint32_t *ids, uint32_t count,
               float *logits, const char *what, anykv_seq **seq_out)
{
    uint64_t matched;
    double start = seconds();
    if (!(*seq_out = store_sequence(store, 1)) ||
        check(anykv_seq_match(*seq_out, ids, count, &matched), "match") != 0 ||
        feed(p, store, *seq_out, ids, (uint32_t)matched, count - (uint32_t)matched, logits) != 0)
        return -1;
    printf("%-14s %5u tokens, %5llu from the cache, %4u computed, %8.1f ms\n", what, count,
           (unsigned long long)matched, count - (uint32_t)matched, 1e3 * (seconds() - start));
    return 0;
}

static int block_bytes(struct store *store, const char *what, uint64_t *bytes_out)
{
    anykv_stats stats;
    if (store_stats(store, &stats) != 0)
        return -1;
    *bytes_out = store_row_bytes(&stats);
    printf("%-14s %10llu bytes in %llu blocks\n", what, (unsigned long long)*bytes_out,
           (unsigned long long)(stats.hot_blocks + stats.sealed_blocks));
    return 0;
}

static int prefix(struct program *p, struct store *store, const uint32_t *ids, uint32_t count,
                  float *logits)
{
    uint32_t n = p->model.vocabulary, differ = 0;
    anykv_seq *first = NULL, *second = NULL, *forks[2] = {NULL, NULL};
    uint64_t alone, again, forked, grown;
    int status = ask(p, store, ids, count, logits, "first time", &first);
    if (status == 0)
        status = block_bytes(store, "  holds", &alone);
    if (status == 0)
        status = ask(p, store, ids, count, logits + n, "second time", &second);
    if (status == 0)
        status = block_bytes(store, "  both hold", &again);
    double most = 0.0;
    for (uint32_t i = 0; status == 0 && i < n; i++) {
        double d = fabs((double)logits[i] - (double)logits[n + i]);
        most = d > most ? d : most;
        differ += logits[i] != logits[n + i];
    }
    if (status == 0)
        printf("logits         largest difference %.2e, %u of %u differ in a bit\n", most, differ,
               n);
    for (int i = 0; status == 0 && i < 2; i++)
        status = check(anykv_seq_fork(second, &forks[i]), "fork");
    if (status == 0)
        status = block_bytes(store, "  with 2 forks", &forked);
    for (int i = 0; status == 0 && i < 2; i++)
        status = feed(p, store, forks[i], ids, count, 16,
                      NULL); /* the positions go on, whatever the text */
    if (status == 0)
        status = block_bytes(store, "  16 more each", &grown);
    if (status == 0)
        printf("four copies of their own would be %llu bytes\n", (unsigned long long)(4 * alone));
    anykv_seq_destroy(forks[0]);
    anykv_seq_destroy(forks[1]);
    anykv_seq_destroy(second);
    anykv_seq_destroy(first);
    return status;
}

int command_prefix(struct program *p)
{
    uint32_t *ids = NULL, count = 0, wanted = p->options.tokens ? p->options.tokens : 2000;
    struct store store = {0};
    float *logits = NULL;
    int status = program_tokens(p, &ids, &count);
    if (status == 0 && count < wanted + 16)
        status = fail("the text has %u tokens, %u are needed", count, wanted + 16);
    if (status == 0)
        status = program_model(p, STEP);
    if (status == 0 && !(logits = grab(UINT64_C(2) * p->model.vocabulary, sizeof *logits)))
        status = -1;
    if (status == 0) {
        struct store_options options = program_store(p, p->options.kv, wanted + 32, STEP);
        options.sequences = 4;
        status = store_open(&store, &p->machine, &p->model, &options);
    }
    if (status == 0)
        status = prefix(p, &store, ids, wanted, logits);
    store_close(&store);
    free(logits);
    free(ids);
    return status;
}

/* ---- speed
 * ---------------------------------------------------------------------------------------------- */

enum { ROUNDS = 9, MAX_STORES = MAX_SETTINGS + 1 };

static int by_size(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* One token at a time through each store in turn; medians. */
static int decode(struct program *p, struct store *stores, anykv_seq **seqs, uint32_t count,
                  const uint32_t *ids, uint32_t at, float *logits)
{
    double whole[MAX_STORES][ROUNDS], inside[MAX_STORES][ROUNDS];
    for (uint32_t round = 0; round < ROUNDS; round++) {
        for (uint32_t i = 0; i < count; i++) {
            double start = seconds(), before = stores[i].time;
            if (feed(p, &stores[i], seqs[i], ids, at + round, 1, logits) != 0)
                return -1;
            whole[i][round] = seconds() - start;
            inside[i][round] = stores[i].time - before;
        }
    }
    for (uint32_t i = 0; i < count; i++) {
        qsort(whole[i], ROUNDS, sizeof(double), by_size);
        qsort(inside[i], ROUNDS, sizeof(double), by_size);
        double mine = inside[i][ROUNDS / 2], plain = inside[0][ROUNDS / 2];
        double share = mine / whole[i][ROUNDS / 2], spread = inside[i][ROUNDS - 2] / inside[i][1];
        if (p->options.json)
            printf("{\"tokens\":%u,\"kv\":\"%s\",\"ms_per_token\":%.3f,\"cache_ms\":%.3f,\"cache_"
                   "share\":%.4f,"
                   "\"ratio_plain\":%.4f,\"spread\":%.3f}\n",
                   at, stores[i].name, 1e3 * whole[i][ROUNDS / 2], 1e3 * mine, share, mine / plain,
                   spread);
        else
            printf("%6u  %-10s %10.2f %10.2f %8.1f %12.2f %8.2f\n", at, stores[i].name,
                   1e3 * whole[i][ROUNDS / 2], 1e3 * mine, 100.0 * share, mine / plain, spread);
    }
    return 0;
}

static int speed(struct program *p, struct store *stores, anykv_seq **seqs, uint32_t count,
                 const uint32_t *ids, uint32_t tokens, float *logits)
{
    uint32_t at = 0;
    if (!p->options.json)
        printf("%6s  %-10s %10s %10s %8s %12s %8s\n", "tokens", "K/V", "ms/token", "in cache",
               "share %", "over plain", "spread");
    for (uint32_t mark = 256; mark <= tokens; mark *= 2) {
        for (uint32_t i = 0; i < count; i++)
            if (feed(p, &stores[i], seqs[i], ids, at, mark - at, NULL) != 0)
                return -1;
        if (decode(p, stores, seqs, count, ids, mark, logits) != 0)
            return -1;
        at = mark + ROUNDS;
    }
    return 0;
}

int command_speed(struct program *p)
{
    static struct store stores[MAX_STORES];
    static anykv_seq *seqs[MAX_STORES];
    static char copy[512];
    const char *formats[MAX_STORES] = {"plain"};
    uint32_t *ids = NULL, have = 0, count, tokens = p->options.tokens ? p->options.tokens : 4096;
    float *logits = NULL;
    if (p->options.threads == 1)
        seconds_of_thread();
    int status = split_list(p->options.kv, copy, sizeof copy, formats + 1, MAX_STORES - 1, &count);
    if (status == 0)
        status = program_tokens(p, &ids, &have);
    count++;
    if (status == 0 && have < tokens + ROUNDS)
        status = fail("the text has %u tokens, %u are needed", have, tokens + ROUNDS);
    if (status == 0)
        status = program_model(p, STEP);
    if (status == 0 && !(logits = grab(p->model.vocabulary, sizeof *logits)))
        status = -1;
    for (uint32_t i = 0; status == 0 && i < count; i++) {
        struct store_options options = program_store(p, formats[i], tokens + ROUNDS, STEP);
        status = store_open(&stores[i], &p->machine, &p->model, &options);
        if (status == 0 && i > 0 && !(seqs[i] = store_sequence(&stores[i], 0)))
            status = -1;
    }
    if (status == 0)
        status = speed(p, stores, seqs, count, ids, tokens, logits);
    for (uint32_t i = 0; i < count; i++) {
        store_cancel(&stores[i]);
        anykv_seq_destroy(seqs[i]);
        store_close(&stores[i]);
    }
    free(logits);
    free(ids);
    return status;
}
