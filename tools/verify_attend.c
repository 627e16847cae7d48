/* SPDX-License-Identifier: Apache-2.0 */
/* verify: the cases of attend.  Results must lie within the published bound of a double-precision
 * reference, and have the same bits whatever the threads, strides and other sequences of the batch.
 */
#include "verify_attend.h"
#include <inttypes.h>
#include <math.h>
#include <stdio.h>

/* A launch on some of the sequences, in some order. */
struct batch {
    uint32_t order[ATTEND_SEQUENCES], sequences, tokens;
    uint32_t token[ATTEND_SEQUENCES]; /* first new token of each in the batch */
    uint8_t *descriptor, *q, *mask, *out_image, *out;
    float *lse;
    uint32_t bytes;
    akv_attend_params params;
};

static uint32_t first_token(const struct attend_case *c, uint32_t s)
{
    uint32_t token = 0;
    for (uint32_t i = 0; i < s; i++)
        token += c->count[i];
    return token;
}

static bool describe(struct verify *v, const struct attend_case *c, struct batch *batch)
{
    akv_step_head head = {batch->sequences, 0, c->block_tokens, 0, 0, 0, 0, 0, {0}};
    for (uint32_t i = 0; i < batch->sequences; i++) {
        uint32_t s = batch->order[i];
        batch->token[i] = head.tokens;
        head.tokens += c->count[s];
        head.table_entries += attend_blocks_of(c, s);
        head.max_tokens = AKV_MAX(head.max_tokens, c->count[s]);
    }
    batch->tokens = head.tokens;
    head.seq_offset = sizeof head;
    head.token_offset = head.seq_offset + batch->sequences * (uint32_t)sizeof(akv_step_seq);
    head.table_offset = akv_pad16(head.token_offset + head.tokens * 4u);
    batch->bytes = head.table_offset + head.table_entries * 4u;
    batch->descriptor = verify_alloc(v, batch->bytes);
    if (!batch->descriptor)
        return false;
    akv_step_seq *seq = (akv_step_seq *)(void *)(batch->descriptor + head.seq_offset);
    uint32_t *owner = (uint32_t *)(void *)(batch->descriptor + head.token_offset);
    uint32_t *table = (uint32_t *)(void *)(batch->descriptor + head.table_offset), entries = 0;
    for (uint32_t i = 0; i < batch->sequences; i++) {
        uint32_t s = batch->order[i], gone = 0, blocks = attend_blocks_of(c, s);
        while (gone < c->length[s] / c->block_tokens &&
               c->entry[c->first_block[s] + gone] == AKV_NO_BLOCK)
            gone++;
        seq[i] = (akv_step_seq){batch->token[i], c->count[s],   c->length[s], gone,
                                entries,         blocks - gone, {0}};
        for (uint32_t b = gone; b < blocks; b++)
            table[entries++] = c->entry[c->first_block[s] + b];
        for (uint32_t t = 0; t < c->count[s]; t++)
            owner[batch->token[i] + t] = i;
    }
    memcpy(batch->descriptor, &head, sizeof head);
    return true;
}

/* Queries and mask in the batch's order of tokens; the output's image is the pattern. */
static bool batch_create(struct verify *v, const struct attend_case *c,
                         const struct verify_pool *pool, const akv_tile_map *tiles, uint32_t shape,
                         struct batch *batch)
{
    batch->sequences = shape == 0 || c->sequences == 1 ? c->sequences : c->sequences - 1;
    for (uint32_t i = 0; i < batch->sequences; i++)
        batch->order[i] = shape == 0 ? i : c->sequences - 1 - i;
    if (!describe(v, c, batch))
        return false;
    uint32_t q_row = c->q_heads * c->dim[0] * akv_raw_bytes(c->q_dtype),
             mask_row = c->mask_stride * 4u;
    uint32_t gap = shape * 3u;
    akv_attend_params *p = &batch->params;
    *p = (akv_attend_params){.pool = pool->map,
                             .tiles = *tiles,
                             .kv_heads = c->kv_heads,
                             .q_heads = c->q_heads,
                             .k_dim = c->dim[0],
                             .v_dim = c->dim[1],
                             .k_flags = c->rotate[0],
                             .v_flags = c->rotate[1],
                             .flags = c->flags,
                             .window = c->window,
                             .mask_stride = c->mask_stride,
                             .scale = c->scale,
                             .cap = c->cap};
    if (c->map) {
        p->k_flags = p->v_flags = AKV_FLAG_MAP;
        p->v_map = sizeof(akv_map);
    }
    p->q = (akv_rows){c->q_heads * c->dim[0], c->dim[0], c->q_dtype, c->q_heads};
    p->out = (akv_rows){c->q_heads * (c->dim[1] + gap) + 2u * gap, c->dim[1] + gap, c->out_dtype,
                        c->q_heads};
    p->max_tokens = c->tokens; /* the declared maxima are the same for every batch */
    p->max_sequences = c->sequences;
    p->block_tokens = c->block_tokens;
    for (uint32_t s = 0; s < c->sequences; s++)
        p->max_length = AKV_MAX(p->max_length, c->length[s] + c->count[s]);
    uint64_t extent = verify_extent(&p->out, batch->tokens, c->dim[1]);
    batch->q = verify_alloc(v, (uint64_t)batch->tokens * q_row);
    batch->mask = verify_alloc(v, (uint64_t)batch->tokens * mask_row);
    batch->out_image = verify_alloc(v, extent);
    batch->out = verify_alloc(v, extent);
    batch->lse = verify_alloc(v, 4ull * batch->tokens * c->q_heads);
    if (!batch->q || !batch->mask || !batch->out_image || !batch->out || !batch->lse)
        return false;
    verify_fill_pattern(batch->out_image, extent);
    for (uint32_t i = 0; i < batch->sequences; i++) {
        uint32_t s = batch->order[i], from = first_token(c, s);
        memcpy(batch->q + (uint64_t)batch->token[i] * q_row,
               (uint8_t *)c->q_raw + (uint64_t)from * q_row, (uint64_t)c->count[s] * q_row);
        memcpy(batch->mask + (uint64_t)batch->token[i] * mask_row,
               (uint8_t *)c->mask + (uint64_t)from * mask_row, (uint64_t)c->count[s] * mask_row);
    }
    return true;
}

static void batch_destroy(struct verify *v, struct batch *batch)
{
    void *const memory[] = {batch->descriptor, batch->q,   batch->mask,
                            batch->out_image,  batch->out, batch->lse};
    for (size_t i = 0; i < sizeof memory / sizeof memory[0]; i++)
        akv_free(v->context, memory[i]);
}

static anykv_status run_batch(struct verify *v, const struct attend_case *c,
                              const struct verify_pool *pool, struct verify_side *side,
                              uint32_t shape, uint32_t t, struct batch *batch)
{
    struct verify_launch launch = {.params = &batch->params};
    struct akv_check check = {0};
    uint64_t differ = 0;
    akv_kernel_check(side->device, AKV_K_ATTEND, &batch->params, &check);
    launch.span[0] = (struct verify_span){batch->descriptor, NULL, batch->bytes};
    launch.span[1] = (struct verify_span){batch->q, NULL,
                                          (uint64_t)batch->tokens * c->q_heads * c->dim[0] *
                                              akv_raw_bytes(c->q_dtype)};
    launch.span[2] = (struct verify_span){
        NULL, verify_any, verify_extent(&batch->params.out, batch->tokens, c->dim[1])};
    launch.result[2] = batch->out;
    if (c->flags & AKV_ATTEND_LSE)
        launch.span[3] = (struct verify_span){NULL, verify_any, 4ull * batch->tokens * c->q_heads};
    launch.result[3] = batch->lse;
    if (c->flags & AKV_ATTEND_MASK)
        launch.span[4] =
            (struct verify_span){batch->mask, NULL, 4ull * batch->tokens * c->mask_stride};
    if (c->flags & AKV_ATTEND_SINKS)
        launch.span[5] = (struct verify_span){c->sinks, NULL, 4ull * c->q_heads};
    launch.span[6] = (struct verify_span){NULL, verify_any, check.scratch_bytes};
    if (c->map)
        launch.span[7] = (struct verify_span){c->maps, NULL, c->maps_bytes};
    verify_pool_bind(pool, &launch);
    anykv_status status = verify_launch_on(v, side, shape, &v->target[t], AKV_K_ATTEND, &launch,
                                           v->row[t].differ == 0, &differ);
    v->row[t].differ += differ;
    return status;
}

static uint64_t out_at(const struct batch *batch, uint32_t token, uint32_t head)
{
    return (token * batch->params.out.token_stride + head * batch->params.out.head_stride) *
           akv_raw_bytes(batch->params.out.dtype);
}

static double out_value(const struct attend_case *c, const uint8_t *at, uint32_t i)
{
    uint16_t half;
    if (c->out_dtype == AKV_F32) {
        float f;
        memcpy(&f, at + 4ull * i, 4);
        return (double)f;
    }
    memcpy(&half, at + 2ull * i, 2);
    if (c->out_dtype == AKV_BF16)
        return (double)akv_as_f32((uint32_t)half << 16);
    int exponent = half >> 10 & 31;
    double m = half & 1023;
    m = exponent == 31  ? (m != 0.0 ? (double)NAN : (double)INFINITY)
        : exponent == 0 ? ldexp(m, -24)
                        : ldexp(m + 1024.0, exponent - 25);
    return half & 0x8000 ? -m : m;
}

/* Error of one query's row as a share of the largest value it can see; false when it is too large.
 */
static bool row_error(const struct attend_case *c, const uint8_t *at, uint64_t number, double bound,
                      double *error_out)
{
    static const double rounding[] = {0.0, 0x1p-24, 0x1p-11, 0x1p-8};
    double error = 0.0;
    bool good = true;
    for (uint32_t i = 0; i < c->dim[1]; i++) {
        double expected = c->out[number * c->dim[1] + i], got = out_value(c, at, i);
        double off = fabs(got - expected) - fabs(expected) * rounding[c->out_dtype] -
                     (c->out_dtype == AKV_F16 ? 0x1p-25 : 0.0);
        if (!(off <= bound * c->worth[number]))
            good = false;
        if (c->worth[number] > 0.0)
            error = fmax(error, isnan(off) ? INFINITY : off / c->worth[number]);
    }
    *error_out = error;
    return good;
}

static void check_values(struct verify *v, struct attend_case *c, uint32_t t,
                         const struct batch *batch)
{
    bool gpu = (v->target[t].side[0].device->info.caps & AKV_CAP_GPU) != 0;
    double bound = attend_bound(c, gpu), lse_bound = attend_lse_bound(c, gpu);
    for (uint32_t i = 0; i < batch->sequences; i++) {
        uint32_t s = batch->order[i], from = first_token(c, s);
        for (uint32_t n = 0; n < c->count[s] * c->q_heads; n++) {
            uint32_t token = n / c->q_heads, head = n % c->q_heads;
            uint64_t number = (uint64_t)(from + token) * c->q_heads + head;
            double error;
            if (!row_error(c, batch->out + out_at(batch, batch->token[i] + token, head), number,
                           bound, &error))
                verify_failed(v, t,
                              "sequence %" PRIu32 " (%" PRIu32 "+%" PRIu32 "), token %" PRIu32
                              ", q head %" PRIu32 ": error %.3g of the largest value, bound %.3g",
                              s, c->length[s], c->count[s], token, head, error, bound);
            v->row[t].max_error = fmax(v->row[t].max_error, error);
            if (!(c->flags & AKV_ATTEND_LSE))
                continue;
            double lse =
                (double)batch->lse[(uint64_t)(batch->token[i] + token) * c->q_heads + head];
            double want = c->lse[number], off = lse == want ? 0.0 : fabs(lse - want);
            if (!(off <= lse_bound))
                verify_failed(v, t,
                              "sequence %" PRIu32 ", token %" PRIu32 ", q head %" PRIu32
                              ": log-sum-exp %.7g, expected %.7g, bound %.3g",
                              s, token, head, lse, want, lse_bound);
        }
    }
}

/* Bytes between rows must be as they were. */
static void check_gaps(struct verify *v, const struct attend_case *c, uint32_t t,
                       struct batch *batch)
{
    uint64_t row = (uint64_t)c->dim[1] * akv_raw_bytes(c->out_dtype);
    for (uint32_t token = 0; token < batch->tokens; token++)
        for (uint32_t h = 0; h < c->q_heads; h++)
            memcpy(batch->out_image + out_at(batch, token, h), batch->out + out_at(batch, token, h),
                   row);
    uint64_t extent = verify_extent(&batch->params.out, batch->tokens, c->dim[1]);
    for (uint64_t i = 0; i < extent; i++)
        if (batch->out_image[i] != batch->out[i]) {
            v->row[t].differ++;
            verify_failed(v, t, "output byte %" PRIu64 " lies between rows and was written", i);
            return;
        }
}

/* The same bits in both launches, for the sequences that both have. */
static void check_repeats(struct verify *v, const struct attend_case *c, uint32_t t,
                          const struct batch *one, const struct batch *other)
{
    uint64_t row = (uint64_t)c->dim[1] * akv_raw_bytes(c->out_dtype);
    for (uint32_t i = 0; i < other->sequences; i++) {
        uint32_t s = other->order[i];
        for (uint32_t n = 0; n < c->count[s] * c->q_heads; n++) {
            uint32_t token = n / c->q_heads, head = n % c->q_heads;
            const uint8_t *a = one->out + out_at(one, one->token[s] + token, head);
            const uint8_t *b = other->out + out_at(other, other->token[i] + token, head);
            if (memcmp(a, b, row) == 0)
                continue;
            for (uint64_t k = 0; k < row; k++)
                v->row[t].differ += a[k] != b[k];
            verify_failed(v, t,
                          "sequence %" PRIu32 ", token %" PRIu32 ", q head %" PRIu32
                          ": other bits with other threads, strides and batch",
                          s, token, head);
        }
    }
}

/* Cheaper than the data of a case: has the target refused the first one already? */
static bool attend_wanted(const struct verify *v, uint32_t t)
{
    return v->row[t].skipped[0] == '\0' || v->row[t].cases != 0;
}

static void run_case(struct verify *v, struct attend_case *c)
{
    struct verify_pool pool = {0};
    struct batch batch[VERIFY_SHAPES] = {0};
    akv_tile_map tiles;
    bool any = false;
    for (uint32_t t = 0; t < v->targets; t++)
        any = any || attend_wanted(v, t);
    if (!any)
        return;
    bool good = attend_data(v, c, &pool, &tiles);
    for (uint32_t s = 0; good && s < VERIFY_SHAPES; s++)
        good = batch_create(v, c, &pool, &tiles, s, &batch[s]);
    for (uint32_t t = 0; good && t < v->targets; t++) {
        struct verify_row *row = &v->row[t];
        if (!verify_target_runs(v, t, &batch[0].params))
            continue;
        uint64_t start = akv_now_ns();
        anykv_status status = ANYKV_OK;
        for (uint32_t s = 0; s < VERIFY_SHAPES && status == ANYKV_OK; s++)
            status = run_batch(v, c, &pool, &v->target[t].side[s], s, t, &batch[s]);
        row->nanoseconds += akv_now_ns() - start;
        row->cases++;
        if (status != ANYKV_OK) {
            verify_failed(v, t, "%s: %s", anykv_status_name(status), anykv_error_detail());
            continue;
        }
        for (uint32_t s = 0; s < c->sequences; s++)
            row->elements +=
                (uint64_t)(c->length[s] + c->count[s]) * c->kv_heads * (c->dim[0] + c->dim[1]);
        for (uint32_t s = 0; s < VERIFY_SHAPES; s++) {
            check_values(v, c, t, &batch[s]);
            verify_fill_pattern(batch[s].out_image,
                                verify_extent(&batch[s].params.out, batch[s].tokens, c->dim[1]));
            check_gaps(v, c, t, &batch[s]);
        }
        check_repeats(v, c, t, &batch[0], &batch[1]);
    }
    batch_destroy(v, &batch[0]);
    batch_destroy(v, &batch[1]);
    attend_data_free(v, c, &pool);
}

/* ---- which cases ---- */

static const struct feature {
    const char *name;
    uint32_t flags, window;
    float cap;
    bool holes, prefill;
} features[] = {
    {"decode", AKV_ATTEND_LSE, 0, 0.0f, false, false},
    {"prefill", 0, 0, 0.0f, false, true},
    {"decode-sinks", AKV_ATTEND_SINKS | AKV_ATTEND_LSE, 0, 0.0f, false, false},
    {"bidirectional", AKV_ATTEND_BIDIRECTIONAL | AKV_ATTEND_LSE, 0, 0.0f, false, true},
    {"decode-window-cap", AKV_ATTEND_LSE, 53, 7.0f, false, false},
    {"mask", AKV_ATTEND_MASK | AKV_ATTEND_LSE, 0, 0.0f, false, true},
    {"decode-holes", AKV_ATTEND_LSE, 0, 0.0f, true, false},
    {"prefill-window-sinks", AKV_ATTEND_SINKS, 31, 0.0f, false, true},
    {"decode-long", 0, 0, 0.0f, false, false},
    {"prefill-cap-holes", AKV_ATTEND_LSE, 0, 20.0f, true, true},
};
#define FEATURES (sizeof features / sizeof features[0])

static void make_case(struct attend_case *c, uint32_t dim, uint32_t variant,
                      const struct feature *f)
{
    static const uint32_t groups[] = {4, 1, 8, 3, 7, 2};
    uint64_t state = c->seed;
    c->dim[0] = verify_dims[dim];
    c->dim[1] = verify_dims[variant % 5 == 4 ? (dim + 3) % VERIFY_DIMS : dim];
    c->rotate[0] = variant % 4 == 3 ? 0 : AKV_FLAG_ROTATE;
    c->rotate[1] = variant % 6 == 2 ? 0 : AKV_FLAG_ROTATE;
    c->hot = variant % 7 == 3 ? AKV_F32 : variant % 3 == 1 ? AKV_BF16 : AKV_F16;
    c->lower = variant % 5 == 2 ? (variant % 2 ? AKV_N2 : AKV_N4) : 0;
    c->kv_heads = 1 + variant % 2;
    c->q_heads = c->kv_heads * groups[variant % 6];
    c->block_tokens = variant % 4 == 1 ? 32 : variant % 11 == 7 ? 128 : 16;
    c->flags = f->flags | (variant / 2 % 2 ? AKV_ATTEND_PRECISE : 0u);
    c->window = f->window;
    c->cap = f->cap;
    c->holes = f->holes;
    c->scale = 1.0f / sqrtf((float)c->dim[0]);
    c->q_dtype = AKV_F32 + variant % 3;
    c->out_dtype = variant % 5 == 3 ? AKV_F16 : variant % 9 == 5 ? AKV_BF16 : AKV_F32;
    bool length = strcmp(f->name, "decode-long") == 0;
    c->sequences = length ? 2 : 1 + verify_below(&state, ATTEND_SEQUENCES);
    for (uint32_t s = 0; s < c->sequences; s++) {
        c->length[s] =
            length && s == 0 ? 3000 + verify_below(&state, 900) : verify_below(&state, 280);
        c->count[s] = f->prefill ? 1 + verify_below(&state, 11) : 1;
    }
    if (c->sequences > 2)
        c->count[1] = 0; /* a sequence without new tokens is skipped */
    if (c->sequences > 1 && f->prefill)
        c->length[c->sequences - 1] = 0;
}

static void offer_case(struct verify *v, struct attend_case *c, const struct feature *f, const char *kind,
                       uint32_t variant)
{
    if (verify_case(v, v->elements / 60,
                    "d%" PRIu32 "-d%" PRIu32 "-%s-g%" PRIu32 "-t%" PRIu32 "-%s%s%s-%" PRIu32, c->dim[0],
                    c->dim[1], f->name, c->q_heads / c->kv_heads, c->block_tokens,
                    verify_format_name(c->hot), c->flags & AKV_ATTEND_PRECISE ? "-precise" : "", kind,
                    variant))
        run_case(v, c);
}

/* What backends have fast kernels for: head sizes 64, 128, 256, hot rows of F16, blocks of 16. */
static void make_common(struct attend_case *c, uint32_t dim, const struct feature *f)
{
    uint64_t state = c->seed + 1;
    c->dim[1] = c->dim[0] = verify_dims[dim];
    c->rotate[0] = c->rotate[1] = AKV_FLAG_ROTATE;
    c->hot = AKV_F16;
    c->block_tokens = 16;
    c->flags = f->flags;
    for (uint32_t s = 0; f->prefill && s < c->sequences; s++)
        if (c->count[s])
            c->count[s] = 1 + verify_below(&state, 40);
}

void verify_attend(struct verify *v, uint32_t k_format, uint32_t v_format)
{
    for (uint32_t dim = 0; dim < VERIFY_DIMS; dim++)
        for (uint32_t i = 0; i < 5; i++) {
            uint32_t variant = dim * 5 + i + k_format + 3 * v_format;
            const struct feature *f = &features[variant % FEATURES];
            struct attend_case c = {.format = {k_format, v_format}};
            c.seed = verify_mix(v->seed, 7000u + variant);
            make_case(&c, dim, variant, f);
            offer_case(v, &c, f, "", variant);
        }
    for (uint32_t dim = 0; dim < VERIFY_DIMS; dim++)
        for (uint32_t i = 0; i < 3; i++) {
            uint32_t size = verify_dims[dim], variant = dim + 3 * i + k_format + 2 * v_format;
            const struct feature *f = &features[variant % FEATURES];
            struct attend_case c = {.format = {k_format, v_format}};
            if ((size != 64 && size != 128 && size != 256) || (f->flags & AKV_ATTEND_MASK))
                continue;
            c.seed = verify_mix(v->seed, 8000u + variant);
            make_case(&c, dim, variant, f);
            make_common(&c, dim, f);
            offer_case(v, &c, f, "-common", variant);
        }
    /* Many queries over a long sequence, which kernels walk over in windows. */
    static const struct feature walk = {"prefill-walk", AKV_ATTEND_LSE, 0, 0.0f, false, true};
    for (uint32_t dim = 0; dim < VERIFY_DIMS; dim++) {
        uint32_t size = verify_dims[dim], variant = k_format + 2 * v_format;
        struct attend_case c = {.format = {k_format, v_format}};
        if (size != 64 && size != 128 && size != 256)
            continue;
        c.seed = verify_mix(v->seed, 9000u + variant);
        make_case(&c, dim, variant, &walk);
        make_common(&c, dim, &walk);
        c.sequences = 2;
        c.length[0] = 1000 + variant * 16;
        c.count[0] = 30 + variant;
        c.length[1] = 40;
        c.count[1] = 3;
        offer_case(v, &c, &walk, "-common", variant);
    }
    for (uint32_t dim = 0; dim < VERIFY_DIMS && !akv_format_raw(k_format) && !akv_format_raw(v_format); dim++)
        for (uint32_t map = 1; map < ATTEND_MAPS; map++) {
            static const char *const names[] = {"", "-centre", "-matrix", "-part", "-still"};
            uint32_t size = verify_dims[dim], variant = dim + 3 * map + k_format + 2 * v_format;
            const struct feature *f = &features[variant % FEATURES];
            struct attend_case c = {.format = {k_format, v_format}};
            if ((size != 64 && size != 128 && size != 256) || (f->flags & AKV_ATTEND_MASK))
                continue;
            c.seed = verify_mix(v->seed, 9500u + variant);
            make_case(&c, dim, variant, f);
            make_common(&c, dim, f);
            c.map = map;
            c.scale *= 0.5f; /* matrices and means make scores larger; bounds of log-sum-exp are absolute */
            for (uint32_t s = 0; s < c.sequences && map != ATTEND_MAP_CENTRE; s++) /* products with a matrix are slow */
                c.length[s] = AKV_MIN(c.length[s], 300 + s);
            offer_case(v, &c, f, names[map], variant);
        }
    /* A mean over so many positions that kernels which work on runs of them take their longest. */
    for (uint32_t dim = 0; dim < VERIFY_DIMS && !akv_format_raw(k_format) && !akv_format_raw(v_format); dim++) {
        static const struct feature runs = {"decode-runs", AKV_ATTEND_LSE, 0, 0.0f, false, false};
        uint32_t size = verify_dims[dim], variant = k_format + 2 * v_format;
        struct attend_case c = {.format = {k_format, v_format}};
        if (size != 64 && size != 128 && size != 256)
            continue;
        c.seed = verify_mix(v->seed, 9700u + variant);
        make_case(&c, dim, variant, &runs);
        make_common(&c, dim, &runs);
        c.map = ATTEND_MAP_CENTRE;
        c.scale *= 0.5f;
        c.holes = variant % 2;
        c.sequences = 2;
        c.length[0] = 2047 - variant % 3; /* one position less than runs of 8 tiles of 16 warps, and about that */
        c.length[1] = 1024;
        c.count[0] = c.count[1] = 1;
        c.kv_heads = 1;
        c.q_heads = 4 + variant % 3;
        offer_case(v, &c, &runs, "-centre", variant);
    }
}
