/* SPDX-License-Identifier: Apache-2.0 */
/* What the attend kernels of the CPU share: one piece of work, and the operations that an ISA level
 * puts in.  A piece is the queries (rows) of some new tokens and of the whole query group of one kv
 * head, against one part of a sequence; it walks the part in strips of 16 tokens. */
#ifndef AKV_K_ATTEND_H
#define AKV_K_ATTEND_H
#include "../../lib/kernel/attend.h"
#include "../../lib/kernel/ggml.h"
#include "../../lib/kernel/map.h"
#include "../../lib/kernel/pack.h"
#include "../../lib/kernel/quant.h"
#include "../../lib/kernel/rotate.h"
#include "cpu.h"

/* Before a loop of constant count over vectors: they must become registers. */
#if defined(__GNUC__) && !defined(__clang__)
#define UNROLL _Pragma("GCC unroll 16")
#elif defined(__clang__)
#define UNROLL _Pragma("clang loop unroll(full)")
#else
#define UNROLL
#endif

#define AKV_STRIP       16u   /* tokens; divides every block size */
#define AKV_SPAN        32u   /* two strips, which share a round of softmax */
#define AKV_WORK_ROWS   64u   /* rows of a piece at most */
#define AKV_WORK_FLOATS 8192u /* rows * padded dimension of a piece at most */
#define AKV_WORK_GROUPS (AKV_WORK_FLOATS / 32u)

/* 16 tokens of a block, as one kv head sees them. */
struct akv_strip {
    const uint8_t *k, *v; /* tiles */
    uint32_t k_format, v_format;
    uint32_t first;  /* token within the tile, multiple of 16 */
    uint32_t tokens; /* that exist, 1 to 16 */
    bool careful;    /* some row may not see some token of it */
};

/* Codes of the queries as integer kernels want them, per group of 32 elements; made when a format
 * first needs them.  The order inside a group is that in which the keys' codes unpack. */
enum akv_query_order {
    AKV_QUERY_BYTE,
    AKV_QUERY_NIBBLE,
    AKV_QUERY_PAIR,
    AKV_QUERY_WIDE, /* nibbles, for codes widened to 16 bits */
    AKV_QUERY_ORDERS
};
struct akv_query_codes {
    _Alignas(64) int8_t code[AKV_WORK_FLOATS * 2u]; /* one or two bytes each, or two planes */
    float scale[AKV_WORK_GROUPS];
    int32_t bias[AKV_WORK_GROUPS];
    bool ready, usable;
};

struct akv_attend_work {
    const akv_attend_params *params;
    uint32_t rows, k_dim, v_dim, k_pad, v_pad, block_tokens;
    bool used[2];                 /* which sums have been added to */
    const uint8_t *ask, *ask_end; /* bytes that are coming, to be asked for along the way */
    /* [0] as the rows came (raw formats), [1] in the stored domain; times scale; [row][k_pad] */
    _Alignas(64) float q[2][AKV_WORK_FLOATS];
    _Alignas(64) float sum[2][AKV_WORK_FLOATS];    /* [row][v_pad] */
    _Alignas(64) float s[AKV_WORK_ROWS][AKV_SPAN]; /* scores, then e^(score - strip maximum) */
    uint32_t at; /* place of the strip in hand within the span, 0 or 16 */
    _Alignas(64) float m[AKV_WORK_ROWS], l[AKV_WORK_ROWS];
    _Alignas(64) float factors[AKV_SPAN / AKV_STRIP][AKV_WORK_ROWS]; /* e^(strip maximum - m) */
    const float *factor;                                             /* of the strip in hand */
    _Alignas(64) float tile[AKV_STRIP * AKV_MAX_HEAD_DIM]; /* decoded rows, [token][padded dim] */
    struct akv_query_codes codes[AKV_QUERY_ORDERS];
    /* Keys less their mean: what a score regains, k_mean.  Query times mean, pair by pair, of row r:
     * conj[r * k_pad + i] goes with cos, [r * k_pad + k_pad/2 + i] with sin; `about` is the same turned
     * to the positions from `origin` on; rest: components that are not turned. */
    const uint8_t *maps;
    const akv_map *k_mean; /* NULL: keys are whole */
    uint32_t origin, span; /* of `about`, of `regained`; UINT32_MAX: nothing there yet */
    _Alignas(64) float conj[AKV_WORK_FLOATS];
    _Alignas(64) float about[AKV_WORK_FLOATS];
    _Alignas(64) float waves[AKV_WORK_ROWS][16]; /* of slow pairs: coefficients over the 256 positions */
    float rest[AKV_WORK_ROWS];
    float code_scale[AKV_WORK_ROWS]; /* of integer codes of `about` and `waves` */
    uint32_t scaled;                 /* the `origin` that they belong to */
    bool scalable;                   /* or are the numbers too large? */
    const float *more; /* NULL, or what `shape` adds to the scores: 16 of each AKV_MAP_SPAN */
    _Alignas(64) float regained[AKV_WORK_ROWS][AKV_MAP_SPAN]; /* at the positions from `span` on */
    _Alignas(64) float scaled_about[AKV_WORK_FLOATS]; /* `about` of fast pairs, times code_scale */
};
_Static_assert(sizeof(struct akv_attend_work) <= AKV_CPU_WORK_BYTES, "a worker has less memory");
#define AKV_ABOUT 256u /* positions for which `about` serves, a multiple of the steps' reach */

/* Asks the second-level cache for the next `lines` lines of what is coming.  (Not the first level:
 * its few miss buffers would hold up the loads.) */
static inline void akv_attend_ask(struct akv_attend_work *work, uint32_t lines)
{
#if defined(__GNUC__)
    for (; lines > 0 && work->ask < work->ask_end; lines--, work->ask += 64)
        __builtin_prefetch(work->ask, 0, 2);
#else
    (void)work, (void)lines;
#endif
}

struct akv_attend_ops {
    /* Rows first .. first+tokens-1 of a tile to work->tile, padded with zeros. */
    void (*decode)(struct akv_attend_work *work, const uint8_t *tile, uint32_t format,
                   uint32_t order, uint32_t dim, uint32_t first, uint32_t tokens);
    /* s[row][at + token] from q[domain] and work->tile. */
    void (*scores)(struct akv_attend_work *work, uint32_t domain, uint32_t tokens);
    /* Adds `more`; clamp and soft cap of a strip's scores. */
    void (*shape)(struct akv_attend_work *work);
    /* Maxima, weights, m, l, factors; turns the sums down where m grew. */
    void (*softmax)(struct akv_attend_work *work);
    /* sum[domain] += factor * s[row][at + token] * work->tile. */
    void (*values)(struct akv_attend_work *work, uint32_t domain, const struct akv_strip *strip);
    /* Turns a row of the stored domain back (akv_rotate_read). */
    void (*turn)(float *row, uint32_t dim);
    /* Products of all query rows with their head's mean (f16): conj and rest. */
    void (*meet)(struct akv_attend_work *work, const uint8_t *mean);
    /* s[row][at + token] += what the strip at `position` regains of the keys' mean, or leaves that
     * to shape; coarse: about as exactly as the integer kernels. */
    void (*regain)(struct akv_attend_work *work, uint32_t position, bool coarse);
    /* y = W x and y = x W for a dim * dim matrix of rows W. */
    void (*forward)(float *y, const float *x, const float *w, uint32_t dim);
    void (*back)(float *y, const float *x, const float *w, uint32_t dim);
    /* Straight from the tile; false: not in this case.  May be NULL. */
    bool (*direct_scores)(struct akv_attend_work *work, const struct akv_strip *strip);
    bool (*direct_values)(struct akv_attend_work *work, const struct akv_strip *strip);
};

/* The phases of an attend launch, with the operations of a level (k_attend.c). */
uint64_t akv_attend_items(const struct akv_cpu_args *args, uint32_t phase);
void akv_attend_run(const struct akv_attend_ops *ops, const struct akv_cpu_args *args,
                    uint32_t phase, uint64_t first, uint64_t count);
uint64_t akv_attend_scratch(const void *params);
const char *akv_attend_refuse(const void *params);
/* Integer kernels: false where the format or the flags do not allow them. */
bool akv_attend_code_scores_avx2(struct akv_attend_work *work, const struct akv_strip *strip);
bool akv_attend_code_values_avx2(struct akv_attend_work *work, const struct akv_strip *strip);
bool akv_attend_code_scores_avx512(struct akv_attend_work *work, const struct akv_strip *strip);
bool akv_attend_code_values_avx512(struct akv_attend_work *work, const struct akv_strip *strip);
/* Portable decoding, for formats that a level has no own code for. */
void akv_attend_decode(struct akv_attend_work *work, const uint8_t *tile, uint32_t format,
                       uint32_t order, uint32_t dim, uint32_t first, uint32_t tokens);

#endif
