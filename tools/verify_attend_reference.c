/* SPDX-License-Identifier: Apache-2.0 */
/* verify: attention in double precision on decoded rows, and the error that is allowed. */
#include "verify_attend.h"
#include <math.h>

/* Keys that token i of sequence s sees: positions [first, end) of held blocks. */
static void sees(const struct attend_case *c, uint32_t s, uint32_t i, uint32_t *first,
                 uint32_t *end)
{
    uint32_t position = c->length[s] + i;
    bool all_new = (c->flags & (AKV_ATTEND_BIDIRECTIONAL | AKV_ATTEND_MASK)) != 0;
    *first = c->window != 0 && position >= c->window ? position - c->window + 1 : 0;
    *end = all_new ? c->length[s] + c->count[s] : position + 1;
}

static bool held(const struct attend_case *c, uint32_t s, uint32_t position)
{
    return c->entry[c->first_block[s] + position / c->block_tokens] != AKV_NO_BLOCK;
}

static double score_of(struct attend_case *c, const float *q, const float *k)
{
    double part[8] = {0.0}, sum = 0.0;
    for (uint32_t i = 0; i < c->dim[0]; i += 8) /* head sizes are multiples of 16 */
        for (uint32_t l = 0; l < 8; l++)
            part[l] += (double)q[i + l] * (double)k[i + l];
    for (uint32_t l = 0; l < 8; l++)
        sum += part[l];
    sum *= (double)c->scale;
    c->largest_score = fmax(c->largest_score, fabs(sum));
    return c->cap > 0.0f ? (double)c->cap * tanh(sum / (double)c->cap) : sum;
}

static void one_query(struct attend_case *c, uint32_t s, uint32_t i, uint32_t token, uint32_t head,
                      const double *largest, double *weights)
{
    uint32_t first, end, kv = head / (c->q_heads / c->kv_heads);
    uint64_t number = (uint64_t)token * c->q_heads + head;
    double *out = c->out + number * c->dim[1], most = -INFINITY, sum = 0.0;
    sees(c, s, i, &first, &end);
    for (uint32_t j = first; j < end; j++) {
        weights[j] = -INFINITY;
        if (!held(c, s, j))
            continue;
        weights[j] = score_of(c, c->q + number * c->dim[0], attend_row(c, 0, s, j, kv));
        if ((c->flags & AKV_ATTEND_MASK) && j >= c->length[s])
            weights[j] += (double)c->mask[(uint64_t)token * c->mask_stride + j - c->length[s]];
        most = fmax(most, weights[j]);
    }
    double sink = c->flags & AKV_ATTEND_SINKS ? (double)c->sinks[head] : -INFINITY;
    most = fmax(most, sink);
    memset(out, 0, c->dim[1] * sizeof *out);
    c->lse[number] = -INFINITY;
    c->worth[number] = 0.0;
    if (most == -INFINITY)
        return;
    for (uint32_t j = first; j < end; j++) {
        double w = exp(weights[j] - most);
        if (w == 0.0)
            continue;
        const float *value = attend_row(c, 1, s, j, kv);
        for (uint32_t d = 0; d < c->dim[1]; d++)
            out[d] += w * (double)value[d];
        c->worth[number] = fmax(c->worth[number], largest[attend_row_number(c, s, j, kv)]);
        sum += w;
    }
    sum += exp(sink - most);
    for (uint32_t d = 0; d < c->dim[1]; d++)
        out[d] /= sum;
    c->lse[number] = most + log(sum);
}

/* The largest |value| of each row of values. */
static double *largest_values(struct verify *v, const struct attend_case *c)
{
    uint64_t rows = (uint64_t)c->blocks * c->kv_heads * c->block_tokens;
    double *largest = verify_alloc(v, rows * sizeof(double));
    for (uint64_t r = 0; largest && r < rows; r++)
        for (uint32_t d = 0; d < c->dim[1]; d++) {
            double value = fabs((double)c->row[1][r * c->dim[1] + d]);
            largest[r] = value > largest[r] ? value : largest[r];
        }
    return largest;
}

bool attend_reference(struct verify *v, struct attend_case *c)
{
    uint32_t longest = 0, token = 0;
    uint64_t queries = (uint64_t)c->tokens * c->q_heads;
    for (uint32_t s = 0; s < c->sequences; s++)
        longest = AKV_MAX(longest, c->length[s] + c->count[s]);
    double *weights = verify_alloc(v, longest * sizeof(double));
    c->out = verify_alloc(v, queries * c->dim[1] * sizeof(double));
    c->lse = verify_alloc(v, queries * sizeof(double));
    c->worth = verify_alloc(v, queries * sizeof(double));
    double *largest = largest_values(v, c);
    bool good = weights && largest && c->out && c->lse && c->worth;
    for (uint32_t s = 0; good && s < c->sequences; s++)
        for (uint32_t i = 0; i < c->count[s]; i++, token++)
            for (uint32_t h = 0; h < c->q_heads; h++)
                one_query(c, s, i, token, h, largest, weights);
    akv_free(v->context, weights);
    akv_free(v->context, largest);
    return good;
}

/* Formats whose codes meet integer queries and weights; the others are always decoded. */
static bool integer_codes(uint32_t format)
{
    return format == AKV_I8 || akv_format_codebook(format);
}

/* What a device may be off by without AKV_ATTEND_PRECISE: integer queries and weights where the
 * formats allow it; a GPU may take both as f16 whatever the rows are. */
static double approximation(const struct attend_case *c, bool gpu)
{
    if (c->flags & AKV_ATTEND_PRECISE)
        return 0.0;
    if (integer_codes(c->format[0]) || integer_codes(c->format[1]) ||
        (c->lower && integer_codes(c->lower)))
        return 0.03;
    return gpu ? 0x1p-9 : 0.0;
}

double attend_bound(const struct attend_case *c, bool gpu)
{
    return approximation(c, gpu) + 0x1p-22 * (8.0 + c->largest_score);
}

/* What rounds a query is off by a share of the scores: with AVX2, where queries of N4, N3, N2 have 6 to 7
 * bits, by up to 0.007 of the largest. */
double attend_lse_bound(const struct attend_case *c, bool gpu)
{
    return approximation(c, gpu) * fmax(2.0, 0.3 * c->largest_score) +
           0x1p-22 * (8.0 + c->largest_score);
}
