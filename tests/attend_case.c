/* SPDX-License-Identifier: Apache-2.0 */
/* A made-up cache for attend kernels, and the answer in double precision. */
#include "attend_case.h"
#include "../lib/kernel/attend.h"
#include "../lib/kernel/ggml.h"
#include "../lib/kernel/pack.h"
#include "../lib/kernel/quant.h"
#include "../lib/kernel/rotate.h"
#include <math.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>

static uint64_t next(uint64_t *state)
{
    uint64_t z = (*state += 0x9E3779B97F4A7C15u);
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
    return z ^ (z >> 31);
}
float attend_case_gauss(uint64_t *state)
{
    double a = (double)((next(state) >> 11) + 1u) * 0x1p-53,
           b = (double)(next(state) >> 11) * 0x1p-53;
    return (float)(sqrt(-2.0 * log(a)) * cos(6.283185307179586 * b));
}
static void *get(size_t count, size_t each)
{
    size_t bytes = (count * each + 4095u) & ~(size_t)4095u;
    size_t align = bytes >= (size_t)4 << 20 ? (size_t)2 << 20 : 4096;
    bytes = (bytes + align - 1u) & ~(align - 1u);
    void *p = aligned_alloc(align, bytes ? bytes : 4096);
    if (!p)
        abort();
#if defined(MADV_HUGEPAGE)
    if (align > 4096)
        (void)madvise(p, bytes, MADV_HUGEPAGE);
#endif
    memset(p, 0, bytes ? bytes : 4096);
    return p;
}

void attend_case_default(struct attend_case *c)
{
    memset(c, 0, sizeof *c);
    c->kinds = 2;
    c->k_format[0] = c->v_format[0] = AKV_F16;
    c->k_format[1] = c->v_format[1] = AKV_N4;
    c->kv_heads = 2;
    c->group = 4;
    c->k_dim = c->v_dim = 128;
    c->block_tokens = 16;
    c->seqs = 1;
    c->length[0] = 200;
    c->count[0] = 1;
    c->hot_first = 16;
    c->hot_last = 48;
    c->dtype = AKV_F32;
    c->rotate = 1;
    c->spread = 1.0f;
    c->seed = 1;
    c->slabs = 1;
}

/* One row as a tile stores it, and as it decodes in the caller's domain. */
static void put_row(const struct attend_case *c, uint8_t *tile, uint32_t format, uint32_t order,
                    uint32_t dim, uint32_t t, const float *row, double *back)
{
    float x[AKV_MAX_HEAD_DIM + 32] = {0};
    uint8_t code[32];
    memcpy(x, row, dim * sizeof(float));
    if (akv_format_raw(format)) {
        for (uint32_t i = 0; i < dim; i++) {
            akv_store_bits(tile, (uint64_t)t * dim + i, format, akv_as_u32(x[i]));
            if (back)
                back[i] = (double)akv_as_f32(akv_load_bits(tile, (uint64_t)t * dim + i, format));
        }
        return;
    }
    for (uint32_t i = 0; i < dim; i++)
        x[i] = akv_as_f32(akv_sane(akv_as_u32(x[i])));
    if (c->rotate)
        akv_rotate_store(x, dim);
    uint32_t pad = akv_padded_dim(dim), width = akv_scale_width(format), scale = 0;
    double y[AKV_MAX_HEAD_DIM + 32] = {0};
    for (uint32_t i = dim; i < pad; i++)
        x[i] = 0.0f;
    for (uint32_t g = 0; g < pad / 32u; g++) {
        if (akv_format_blocks(format)) {
            uint32_t scales = akv_block_quantise(x + g * 32u, format, code);
            akv_block_put(tile, format, dim, t, g, code, scales);
            for (uint32_t i = 0; i < 32; i++)
                y[g * 32u + i] = (double)akv_block_element(tile, format, dim, t, g, i);
            continue;
        }
        if (g * 32u % width == 0) {
            uint32_t n = AKV_MIN(width, pad - g * 32u);
            scale = akv_scale_of(x + g * 32u, akv_amax(x + g * 32u, n, 0), format, c->search);
            akv_scale_put(tile, format, order, c->block_tokens, dim, t, g * 32u / width, scale);
        }
        akv_group_codes(x + g * 32u, scale, format, code);
        for (uint32_t i = 0; i < 32; i++) {
            y[g * 32u + i] = (double)akv_code_value(format, code[i], akv_code_unit(format, scale));
            uint32_t b0 = akv_format_plane0(format), b1 = akv_format_plane1(format),
                     e = g * 32u + i;
            for (uint32_t plane = 0; plane < (b1 ? 2u : 1u); plane++) {
                uint32_t bits = plane ? b1 : b0;
                uint8_t *at = tile + (plane ? akv_plane1_offset(format, c->block_tokens, dim) : 0) +
                              4u * akv_code_word(order, bits, c->block_tokens, dim, t, e);
                uint32_t shift = akv_code_bit(order, bits, t, e), mask = (1u << bits) - 1u;
                uint32_t value = ((uint32_t)code[i] >> (plane ? b0 : 0)) & mask;
                akv_store_u32(at, (akv_load_u32(at) & ~(mask << shift)) | value << shift);
            }
        }
    }
    if (!back)
        return;
    if (c->rotate) {
        uint32_t n = akv_rotate_block(dim);
        for (uint32_t s = 1; s < n; s *= 2)
            for (uint32_t j = 0; j < dim; j++)
                if (!(j & s)) {
                    double a = y[j], b = y[j + s];
                    y[j] = a + b;
                    y[j + s] = a - b;
                }
        for (uint32_t i = 0; i < dim; i++)
            y[i] *= (double)akv_rotate_read_factor(dim);
    }
    memcpy(back, y, dim * sizeof(double));
}

static void make_map(struct attend_case *c, uint32_t blocks)
{
    akv_pool_map *map = &c->params.pool;
    uint32_t largest = 0;
    for (uint32_t kind = 0; kind < c->kinds; kind++) {
        uint32_t k = akv_tile_bytes(c->k_format[kind], c->block_tokens, c->k_dim) * c->kv_heads;
        uint32_t v = akv_tile_bytes(c->v_format[kind], c->block_tokens, c->v_dim) * c->kv_heads;
        c->params.tiles.k_format[kind] = c->k_format[kind];
        c->params.tiles.v_format[kind] = c->v_format[kind];
        c->params.tiles.k_offset[kind] = 0;
        c->params.tiles.v_offset[kind] = k;
        map->block_bytes[kind] = k + v;
        largest = AKV_MAX(largest, k + v);
    }
    map->chunk_bytes = (uint64_t)largest * 4u;
    for (uint32_t kind = 0; kind < c->kinds; kind++)
        map->blocks_per_chunk[kind] = (uint32_t)(map->chunk_bytes / map->block_bytes[kind]);
    map->slabs = c->slabs;
    /* Chunks in turn belong to the kinds, each kind has room for all blocks. */
    uint64_t chunks = 0;
    for (uint32_t kind = 0; kind < c->kinds; kind++)
        chunks += blocks / map->blocks_per_chunk[kind] + 1u;
    map->chunks_per_slab = (uint32_t)((chunks + c->slabs - 1u) / c->slabs);
    c->pool_bytes = map->chunk_bytes * map->chunks_per_slab * c->slabs;
    c->pool = get(c->pool_bytes, 1);
    memset(c->pool, 0xFF, c->pool_bytes); /* raw rows that were never written are NaN */
    for (uint32_t s = 0; s < c->slabs; s++)
        c->args.slab[s] = c->pool + map->chunk_bytes * map->chunks_per_slab * s;
}

static uint32_t kind_of(const struct attend_case *c, uint32_t seq, uint32_t block)
{
    uint32_t total = c->length[seq] + c->count[seq], end = (block + 1u) * c->block_tokens;
    if (c->kinds == 1 || block * c->block_tokens < c->hot_first || end + c->hot_last > total ||
        end > c->length[seq])
        return 0;
    return 1u + block % (c->kinds - 1u);
}

static void fill_block(struct attend_case *c, uint32_t seq, uint32_t block, uint32_t entry,
                       uint64_t *state)
{
    uint32_t kind = entry >> 28, total = c->length[seq] + c->count[seq];
    uint8_t *at = akv_cpu_at(&c->args, akv_block_address(&c->params.pool, entry));
    if (c->sizes_only) { /* any codes, scales of middling size */
        for (uint32_t i = 0; i < c->params.pool.block_bytes[kind]; i++)
            at[i] = (uint8_t)(0x20u + (next(state) & 0x1Fu));
        return;
    }
    for (uint32_t side = 0; side < 2; side++) {
        uint32_t dim = side ? c->v_dim : c->k_dim;
        uint32_t format = side ? c->v_format[kind] : c->k_format[kind];
        uint8_t *tile = at + (side ? c->params.tiles.v_offset[kind] : 0);
        for (uint32_t h = 0; h < c->kv_heads; h++)
            for (uint32_t t = 0; t < c->block_tokens; t++) {
                uint32_t p = block * c->block_tokens + t;
                float row[AKV_MAX_HEAD_DIM];
                for (uint32_t i = 0; i < dim; i++)
                    row[i] = attend_case_gauss(state) * (side ? 1.0f : c->spread);
                if (c->rows_in[side] && p < total)
                    for (uint32_t i = 0; i < dim; i++)
                        row[i] = (float)c->rows_in[side][((size_t)p * c->kv_heads + h) * dim + i];
                if (p < total)
                    put_row(c, tile + h * akv_tile_bytes(format, c->block_tokens, dim), format,
                            side ? AKV_ORDER_QUAD : AKV_ORDER_ROW, dim, t, row,
                            c->rows[seq][side] + ((size_t)p * c->kv_heads + h) * dim);
            }
    }
}

void attend_case_build(struct attend_case *c)
{
    akv_attend_params *p = &c->params;
    uint64_t state = c->seed;
    uint32_t blocks = 0, tokens = 0, max_length = 0, used[4] = {0};
    for (uint32_t s = 0; s < c->seqs; s++) {
        blocks += (c->length[s] + c->count[s] + c->block_tokens - 1u) / c->block_tokens;
        tokens += c->count[s];
        max_length = AKV_MAX(max_length, c->length[s] + c->count[s]);
    }
    c->tokens = tokens;
    make_map(c, blocks);
    akv_pool_map *map = &p->pool;
    /* Indices of each kind in random order, over the chunks kind, kind + kinds, … as they come. */
    uint32_t *index[4], first_chunk = 0;
    for (uint32_t kind = 0; kind < c->kinds; kind++) {
        uint32_t per = map->blocks_per_chunk[kind];
        index[kind] = get(blocks + 1u, sizeof(uint32_t));
        for (uint32_t i = 0; i < blocks; i++)
            index[kind][i] = first_chunk * per + i;
        for (uint32_t i = blocks; i > 1; i--) {
            uint32_t j = (uint32_t)(next(&state) % i), x = index[kind][i - 1];
            index[kind][i - 1] = index[kind][j];
            index[kind][j] = x;
        }
        first_chunk += blocks / per + 1u;
    }
    akv_step_head head = {0};
    head.sequences = c->seqs;
    head.tokens = tokens;
    head.block_tokens = c->block_tokens;
    head.table_entries = blocks;
    head.seq_offset = sizeof head;
    head.token_offset = head.seq_offset + c->seqs * (uint32_t)sizeof(akv_step_seq);
    head.table_offset = head.token_offset + tokens * 4u;
    c->descriptor = get(head.table_offset + blocks * 4u, 1);
    uint32_t *table = (uint32_t *)(void *)(c->descriptor + head.table_offset), at = 0, token = 0;
    for (uint32_t s = 0; s < c->seqs; s++) {
        uint32_t total = c->length[s] + c->count[s];
        uint32_t n = (total + c->block_tokens - 1u) / c->block_tokens;
        akv_step_seq seq = {token, c->count[s], c->length[s], 0, at, 0, {0, 0}};
        seq.first_block = AKV_MIN(c->gone, n);
        seq.table_count = n - seq.first_block;
        head.max_tokens = AKV_MAX(head.max_tokens, c->count[s]);
        c->held[s] = get(n + 1u, 1);
        if (!c->sizes_only) {
            c->rows[s][0] = get((size_t)total * c->kv_heads * c->k_dim, sizeof(double));
            c->rows[s][1] = get((size_t)total * c->kv_heads * c->v_dim, sizeof(double));
        }
        for (uint32_t b = seq.first_block; b < n; b++) {
            uint32_t kind = kind_of(c, s, b), entry = kind << 28 | index[kind][used[kind]++];
            /* Blocks that new tokens stand in are always held. */
            c->held[s][b] = !(c->remove_every && b % c->remove_every == c->remove_every - 1u &&
                              (b + 1u) * c->block_tokens <= c->length[s]);
            if (c->held[s][b])
                fill_block(c, s, b, entry, &state);
            table[at++] = c->held[s][b] ? entry : AKV_NO_BLOCK;
        }
        memcpy(c->descriptor + head.seq_offset + s * sizeof seq, &seq, sizeof seq);
        token += c->count[s];
    }
    memcpy(c->descriptor, &head, sizeof head);
    for (uint32_t kind = 0; kind < c->kinds; kind++)
        free(index[kind]);

    p->q.heads = p->out.heads = p->q_heads = c->kv_heads * c->group;
    p->kv_heads = c->kv_heads;
    p->k_dim = c->k_dim;
    p->v_dim = c->v_dim;
    p->q.dtype = AKV_F32;
    p->out.dtype = c->dtype;
    p->q.head_stride = c->k_dim;
    p->q.token_stride = (uint64_t)c->k_dim * p->q_heads;
    p->out.head_stride = c->v_dim;
    p->out.token_stride = (uint64_t)c->v_dim * p->q_heads;
    p->k_flags = p->v_flags = c->rotate ? AKV_FLAG_ROTATE : 0u;
    p->flags = c->flags;
    p->window = c->window;
    p->mask_stride = head.max_tokens;
    p->scale = c->scale != 0.0f ? c->scale : 1.0f / sqrtf((float)c->k_dim);
    p->cap = c->cap;
    p->max_tokens = AKV_MAX(tokens, 1u);
    p->max_sequences = c->seqs;
    p->max_length = max_length;
    size_t outputs = (size_t)tokens * p->q_heads;
    c->q = get(outputs * c->k_dim, sizeof(float));
    c->out = get(outputs * c->v_dim, sizeof(float));
    c->lse = get(outputs, sizeof(float));
    c->mask = get((size_t)tokens * head.max_tokens, sizeof(float));
    c->sinks = get(p->q_heads, sizeof(float));
    for (size_t i = 0; i < outputs * c->k_dim; i++)
        c->q[i] = c->q_in ? (float)c->q_in[i] : attend_case_gauss(&state) * c->spread;
    for (size_t i = 0; i < (size_t)tokens * head.max_tokens; i++)
        c->mask[i] = next(&state) % 4u == 0 ? -INFINITY : attend_case_gauss(&state);
    for (uint32_t i = 0; i < p->q_heads; i++)
        c->sinks[i] = attend_case_gauss(&state) * 2.0f;
    c->scratch_bytes = akv_cpu_attend_scalar.scratch(p);
    void *const args[7] = {c->descriptor,           c->q, c->out, c->lse, c->mask, c->sinks,
                           get(c->scratch_bytes, 1)};
    for (uint32_t i = 0; i < 7; i++)
        c->args.arg[i] = args[i];
    c->args.arg_bytes[6] = c->scratch_bytes;
    c->args.params = p;
    c->args.workers = 1;
}

void attend_case_reference(struct attend_case *c)
{
    const akv_attend_params *p = &c->params;
    size_t outputs = (size_t)c->tokens * p->q_heads, token = 0;
    c->want = get(outputs * c->v_dim, sizeof(double));
    c->want_lse = get(outputs, sizeof(double));
    for (uint32_t s = 0; s < c->seqs; s++) {
        uint32_t total = c->length[s] + c->count[s];
        double *score = get(total, sizeof(double));
        for (uint32_t i = 0; i < c->count[s]; i++, token++)
            for (uint32_t h = 0; h < p->q_heads; h++) {
                const float *q = c->q + (token * p->q_heads + h) * c->k_dim;
                double m = p->flags & AKV_ATTEND_SINKS ? (double)c->sinks[h] : -INFINITY, l = 0;
                uint32_t position = c->length[s] + i;
                for (uint32_t j = 0; j < total; j++) {
                    double x = 0;
                    const double *k =
                        c->rows[s][0] + ((size_t)j * p->kv_heads + h / c->group) * c->k_dim;
                    bool all = p->flags & (AKV_ATTEND_BIDIRECTIONAL | AKV_ATTEND_MASK);
                    score[j] = -INFINITY;
                    if (!c->held[s][j / c->block_tokens] || (!all && j > position) ||
                        (p->window && (uint64_t)j + p->window <= position))
                        continue;
                    for (uint32_t e = 0; e < c->k_dim; e++)
                        x += (double)q[e] * k[e];
                    x *= (double)p->scale;
                    if (p->cap > 0)
                        x = (double)p->cap * tanh(x / (double)p->cap);
                    if ((p->flags & AKV_ATTEND_MASK) && j >= c->length[s])
                        x += (double)c->mask[token * p->mask_stride + j - c->length[s]];
                    score[j] = x;
                    m = x > m ? x : m;
                }
                double *out = c->want + (token * p->q_heads + h) * c->v_dim;
                if (p->flags & AKV_ATTEND_SINKS)
                    l = exp((double)c->sinks[h] - m);
                for (uint32_t j = 0; j < total; j++) {
                    if (score[j] == -INFINITY)
                        continue;
                    double w = exp(score[j] - m);
                    const double *v =
                        c->rows[s][1] + ((size_t)j * p->kv_heads + h / c->group) * c->v_dim;
                    l += w;
                    for (uint32_t e = 0; e < c->v_dim; e++)
                        out[e] += w * v[e];
                }
                for (uint32_t e = 0; e < c->v_dim; e++)
                    out[e] = l > 0 ? out[e] / l : 0;
                c->want_lse[token * p->q_heads + h] = l > 0 ? m + log(l) : -INFINITY;
            }
        free(score);
    }
}

/* Memory of one worker, with what another launch might have left there. */
static void *worker_memory(void)
{
    void *memory = aligned_alloc(64, AKV_CPU_WORK_BYTES);
    if (!memory)
        abort();
    return memset(memory, 0xA5, AKV_CPU_WORK_BYTES);
}

void attend_case_run(struct attend_case *c, const struct akv_cpu_kernel *kernel, uint64_t range,
                     bool backwards)
{
    struct akv_cpu_args args = c->args;
    args.work = worker_memory();
    for (uint32_t phase = 0; phase < kernel->phases; phase++) {
        uint64_t items = kernel->items(&args, phase), ranges = (items + range - 1u) / range;
        for (uint64_t i = 0; i < ranges; i++) {
            uint64_t first = (backwards ? ranges - 1u - i : i) * range;
            kernel->run(&args, phase, first, AKV_MIN(range, items - first));
        }
    }
    free(args.work);
}

struct crew {
    struct attend_case *c;
    const struct akv_cpu_kernel *kernel;
    pthread_barrier_t barrier;
    atomic_uint_fast64_t next[3];
};
static void *work(void *user)
{
    struct crew *crew = user;
    struct akv_cpu_args args = crew->c->args;
    args.work = worker_memory();
    for (uint32_t phase = 0; phase < crew->kernel->phases; phase++) {
        uint64_t items = crew->kernel->items(&args, phase), i;
        while ((i = atomic_fetch_add(&crew->next[phase], 1)) < items)
            crew->kernel->run(&args, phase, i, 1);
        pthread_barrier_wait(&crew->barrier);
    }
    free(args.work);
    return NULL;
}
void attend_case_threads(struct attend_case *c, const struct akv_cpu_kernel *kernel,
                         uint32_t threads)
{
    struct crew crew = {.c = c, .kernel = kernel};
    pthread_t id[16];
    pthread_barrier_init(&crew.barrier, NULL, threads);
    for (uint32_t i = 1; i < threads; i++)
        if (pthread_create(&id[i], NULL, work, &crew) != 0)
            abort();
    work(&crew);
    for (uint32_t i = 1; i < threads; i++)
        pthread_join(id[i], NULL);
    pthread_barrier_destroy(&crew.barrier);
}

float attend_case_out(const struct attend_case *c, uint64_t index)
{
    return akv_as_f32(akv_load_bits(c->out, index, c->dtype));
}
double attend_case_error(const struct attend_case *c)
{
    double error = 0, size = 0;
    for (size_t i = 0; i < (size_t)c->tokens * c->params.q_heads * c->v_dim; i++) {
        double d = (double)attend_case_out(c, i) - c->want[i];
        error += d * d;
        size += c->want[i] * c->want[i];
    }
    return sqrt(error) / (size > 0 ? sqrt(size) : 1.0);
}
void attend_case_free(struct attend_case *c)
{
    for (uint32_t s = 0; s < CASE_SEQS; s++) {
        free(c->rows[s][0]);
        free(c->rows[s][1]);
        free(c->held[s]);
    }
    void *const all[] = {c->descriptor, c->pool, c->q,    c->mask,     c->sinks,
                         c->lse,        c->out,  c->want, c->want_lse, c->args.arg[6]};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        free(all[i]);
}

const struct akv_cpu_kernel *attend_case_kernel(uint32_t level)
{
    if (level == 0)
        return &akv_cpu_attend_scalar;
#if defined(AKV_HAVE_AVX2)
    if (level == 1 && __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
        __builtin_cpu_supports("f16c") && __builtin_cpu_supports("bmi2"))
        return &akv_cpu_attend_avx2;
#endif
#if defined(AKV_HAVE_AVX512)
    if (level == 2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
        __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq") &&
        __builtin_cpu_supports("avx512vbmi") && __builtin_cpu_supports("avx512vnni"))
        return &akv_cpu_attend_avx512;
#endif
    return NULL;
}
