/* SPDX-License-Identifier: Apache-2.0 */
/* Where the keys and values live: an anykv cache, or for comparison plain F32 arrays.
 * This is the whole of what an engine does with anykv: open, begin, append, attend, end. */
#ifndef LLAMA_STORE_H
#define LLAMA_STORE_H
#include "common.h"
#include <anykv.h>

struct model;

/* What all stores of the program share. */
struct machine {
    anykv_context *context;
    anykv_device *device;
    anykv_calibration *calibration; /* or NULL */
    char device_name[160];
};

/* The device by its name as in anykv_device_open; threads: of a CPU, 0: all, 1: the calling one;
 * calibration: a file, or NULL. */
int machine_open(struct machine *machine, const char *device, uint32_t threads,
                 const char *calibration);
void machine_close(struct machine *machine);

struct store_options {
    const char *formats; /* "N4/N4", a profile, or "plain": no anykv, one sequence */
    uint64_t budget;     /* 0: what the sequences can need */
    double budget_share; /* with budget 0: this part of what F16 would need; 0: all */
    uint32_t sequences, tokens, step_tokens; /* at most */
    uint32_t sinks, recent;
    anykv_transform transform;
    float error_budget; /* of the precision ladder; 0: none */
    int exact;          /* the newest tokens in F32, attention without approximations */
    const struct eviction *eviction; /* that store_evict will do, or NULL */
};

enum share { SHARE_EQUAL, SHARE_HEADS, SHARE_ALL };
/* Which tokens store_evict keeps, and who competes for them: nobody, the heads of a layer, all
 * heads. */
struct eviction {
    const char *name;
    anykv_token_policy policy;
    uint32_t pool; /* of MASS, by the last EVICT_QUERIES tokens */
    enum share share;
};
enum { EVICT_QUERIES = 64 };

struct store {
    const struct model *model;
    anykv_layout *layout;
    anykv_cache *cache;
    anykv_step *step;
    uint32_t step_tokens; /* of the open step */
    anykv_format k, v;
    char name[48]; /* "N4/N4", "F16/F16 knorm" */
    float *plain;  /* [layer][k, v][kv head][token][head_dim] */
    uint64_t plain_tokens, plain_length;
    uint32_t plain_count; /* of the open step */
    float *scores;
    const struct eviction *eviction;
    int apart;            /* every kv head is a layer of its own */
    float *queries, *lse; /* of the last tokens: [layer][EVICT_QUERIES][heads][head_dim], of anykv's
                           * layers [EVICT_QUERIES][query heads] */
    int refused;          /* the last begin failed: the budget has no room */
    double time;          /* spent in the calls below */
};

int store_open(struct store *store, const struct machine *machine, const struct model *model,
               const struct store_options *options);
void store_close(struct store *store);
/* What the rows of so many tokens take at 16 bits an element. */
uint64_t store_f16_bytes(const struct model *model, uint64_t tokens);

/* A step of the store.  Plain arrays: seqs is ignored, n is 1. */
int store_begin(struct store *store, anykv_seq *const *seqs, const uint32_t *counts, uint32_t n);
int store_layer(struct store *store, uint32_t layer, const float *q, const float *k, const float *v,
                float *out);
int store_end(struct store *store, const uint32_t *tokens);
void store_cancel(struct store *store);

anykv_seq *store_sequence(struct store *store, int shared);
/* Leaves the sequence so many rows, by the eviction that the store was opened with. */
int store_evict(struct store *store, anykv_seq *seq, uint64_t keep);
/* One consistent snapshot; -1 for plain arrays. */
int store_stats(struct store *store, anykv_stats *stats);
/* Bytes of the blocks that hold rows, whatever their precision. */
uint64_t store_row_bytes(const anykv_stats *stats);
/* Bits an element at `tokens` tokens of one sequence that alone is in the cache, and in the limit.
 */
double store_bits(struct store *store, uint64_t tokens);
double store_bits_limit(const struct store *store);

#endif
