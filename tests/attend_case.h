/* SPDX-License-Identifier: Apache-2.0 */
/* A made-up cache for attend kernels: sequences, blocks of several kinds in random places, one
 * layer; and the answer in double precision over the rows as they decode. */
#ifndef ATTEND_CASE_H
#define ATTEND_CASE_H
#include "../backends/cpu/cpu.h"

#define CASE_SEQS 8u
/* Kind of a block: the first `hot_first` and the last `hot_last` tokens of a sequence are kind 0,
 * of the others kind 1 … kinds-1 in turn. */
struct attend_case {
    /* Set by the caller, see attend_case_default. */
    uint32_t kinds, k_format[4], v_format[4];
    uint32_t kv_heads, group, k_dim, v_dim, block_tokens;
    uint32_t seqs, length[CASE_SEQS], count[CASE_SEQS];
    uint32_t hot_first, hot_last;
    uint32_t remove_every; /* every n-th block is not held; 0: none */
    uint32_t gone;         /* leading blocks that are gone from the tables */
    uint32_t flags, window, dtype, rotate;
    float scale, cap, spread; /* spread: size of keys and queries */
    uint64_t seed;
    const double *rows_in[2], *q_in; /* of sequence 0 and its new tokens; NULL: random */
    uint32_t search;                 /* encoder's scale search */
    uint32_t sizes_only;             /* benchmarks: no reference rows, packed bytes made quickly */
    uint32_t slabs;
    /* Built. */
    akv_attend_params params;
    struct akv_cpu_args args;
    uint64_t tokens, scratch_bytes, pool_bytes;
    uint8_t *descriptor, *pool;
    float *q, *mask, *sinks, *lse;
    uint8_t *out;
    double *rows[CASE_SEQS][2]; /* decoded and turned back, [position][kv head][dim] */
    uint8_t *held[CASE_SEQS];   /* by block */
    double *want, *want_lse;    /* [token][q head][v_dim] */
};

void attend_case_default(struct attend_case *c);
void attend_case_build(struct attend_case *c);
void attend_case_reference(struct attend_case *c);
/* Runs all phases, in ranges of `range` items; backwards: the last range first. */
void attend_case_run(struct attend_case *c, const struct akv_cpu_kernel *kernel, uint64_t range,
                     bool backwards);
void attend_case_threads(struct attend_case *c, const struct akv_cpu_kernel *kernel,
                         uint32_t threads);
float attend_case_out(const struct attend_case *c, uint64_t index);
/* Root of the mean square of the difference to `want`, over that of `want`. */
double attend_case_error(const struct attend_case *c);
void attend_case_free(struct attend_case *c);
/* Kernel of a level (0 scalar, 1 avx2, 2 avx512), NULL: not here. */
const struct akv_cpu_kernel *attend_case_kernel(uint32_t level);
float attend_case_gauss(uint64_t *state);

#endif
