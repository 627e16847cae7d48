/* SPDX-License-Identifier: Apache-2.0 */
/* The CPU kernels of the quantize family: against the definition, the golden bytes and each other.
 */
#include <criterion/criterion.h>
#include "../backends/cpu/device.h"
#include "../lib/kernel/fp.h"
#include "codec_reference.h"
#include "conform_inputs.h"
#include <stdio.h>
#include <stdlib.h>

static const uint32_t dims[] = {64, 80, 96, 112, 128, 192, 256, 512, 576};
#define DIMS (sizeof dims / sizeof *dims)
static const char *const names[] = {"", "F32", "F16", "BF16", "I8", "N6", "N5", "N4", "N3", "N2"};
static const char *const isa_names[] = {"scalar", "avx2", "avx512", "neon"};

#define GUARD 64u
#define FILL  0xC5

/* Runs all items, in pieces of changing size when `pieces` is set. */
static void run(const struct akv_cpu_kernel *kernel, const struct akv_cpu_args *args, int pieces)
{
    uint64_t items = kernel->items(args, 0), step = 5;
    cr_assert_eq(kernel->phases, 1u);
    for (uint64_t i = 0; i < items;) {
        uint64_t n = pieces && step < items - i ? step : items - i;
        kernel->run(args, 0, i, n);
        i += n;
        step = step * 3u % 11u + 1u;
    }
}

struct buffer {
    uint8_t *bytes;
    size_t size;
};
static struct buffer filled(size_t size)
{
    struct buffer b = {malloc(size + GUARD), size};
    cr_assert_not_null(b.bytes);
    memset(b.bytes, FILL, size + GUARD);
    return b;
}
static int guarded(struct buffer b)
{
    for (size_t i = 0; i < GUARD; i++)
        if (b.bytes[b.size + i] != FILL)
            return 0;
    return 1;
}

static akv_encode_params dense(uint32_t tokens, uint32_t heads, uint32_t dim, uint32_t dtype,
                               uint32_t format, uint32_t flags)
{
    akv_encode_params p = {{(uint64_t)heads * dim, dim, dtype, heads}, tokens, dim, format, flags,
                           0, 0};
    return p;
}
static uint32_t encode(const struct akv_cpu_kernel *kernel, const akv_encode_params *p, void *rows,
                       uint8_t *tile, int pieces)
{
    uint32_t saw = 0;
    struct akv_cpu_args args = {.params = p, .arg = {rows, tile, (uint8_t *)&saw}};
    run(kernel, &args, pieces);
    return saw;
}
static void decode(const struct akv_cpu_kernel *kernel, const akv_decode_params *p, uint8_t *tile,
                   void *rows, int pieces)
{
    struct akv_cpu_args args = {.params = p, .arg = {tile, rows}};
    run(kernel, &args, pieces);
}

/* ---- the scalar kernels against the definition ---- */

Test(codec_kernels, encode_and_decode_match_the_definition)
{
    uint32_t heads = 2, tokens = AKV_INPUT_KINDS;
    for (size_t d = 0; d < DIMS; d++)
        for (uint32_t format = AKV_I8; format <= AKV_N2; format++)
            for (uint32_t flags = 0; flags < 4u; flags++) {
                uint32_t dim = dims[d], rows = tokens * heads, want_saw = 0, saw;
                akv_encode_params p = dense(tokens, heads, dim, AKV_F32, format, flags);
                struct buffer tile = filled(akv_tile_bytes(format, rows, dim));
                struct buffer back = filled((size_t)rows * dim * 4u);
                uint8_t *want = calloc(tile.size, 1);
                float *in = malloc(back.size), row[576];
                struct ref_row ref;
                akv_input_rows(21, format, flags & 1u, AKV_F32, 0, rows, dim, in);
                saw = encode(&akv_cpu_encode_scalar, &p, in, tile.bytes, 1);
                decode(&akv_cpu_decode_scalar, &p, tile.bytes, back.bytes, 1);
                for (uint32_t t = 0; t < rows; t++) {
                    want_saw |= ref_encode_row(in + t * dim, dim, format, flags & AKV_FLAG_ROTATE,
                                               flags & AKV_FLAG_SEARCH, &ref);
                    ref_place_row(want, &ref, format, 0, rows, dim, t);
                    ref_decode_row(&ref, dim, format, flags & AKV_FLAG_ROTATE, row);
                    cr_assert_arr_eq(back.bytes + (size_t)t * dim * 4u, row, dim * 4u,
                                     "%s dim %u flags %u row %u (%s)", names[format], dim, flags, t,
                                     akv_input_name(t % AKV_INPUT_KINDS));
                }
                cr_assert_arr_eq(tile.bytes, want, tile.size, "%s dim %u flags %u", names[format],
                                 dim, flags);
                cr_assert_eq(saw, want_saw, "%s dim %u: saw %u, not %u", names[format], dim, saw,
                             want_saw);
                cr_assert(guarded(tile) && guarded(back), "%s dim %u writes beyond", names[format],
                          dim);
                free(tile.bytes);
                free(back.bytes);
                free(want);
                free(in);
            }
}

Test(codec_kernels, rotate_matches_the_definition_and_comes_back)
{
    for (size_t d = 0; d < DIMS; d++) {
        uint32_t dim = dims[d], rows = 9, n = dim & (0u - dim);
        float in[9 * 576], out[9 * 576], back[9 * 576];
        akv_rotate_params p = {rows, dim, AKV_FLAG_ROTATE, 0};
        struct akv_cpu_args args = {.params = &p, .arg = {(uint8_t *)in, (uint8_t *)out}};
        n = n > 512u ? 512u : n;
        int k = (int)lround(log2(n));
        for (uint32_t r = 0; r < rows; r++)
            akv_input_row(6, AKV_INPUT_GAUSSIAN, r, AKV_N4, 0, dim, in + r * dim);
        run(&akv_cpu_rotate_scalar, &args, 1);
        p.flags = 0;
        args.arg[0] = (uint8_t *)out;
        args.arg[1] = (uint8_t *)back;
        run(&akv_cpu_rotate_scalar, &args, 1);
        for (uint32_t r = 0; r < rows; r++) {
            float *x = in + r * dim, largest = 0.0f;
            for (uint32_t i = 0; i < dim; i++)
                largest = fmaxf(largest, fabsf(x[i]));
            for (uint32_t i = 0; i < dim; i++)
                cr_assert(fabsf(back[r * dim + i] - x[i]) <= largest * 0x1p-20f, "dim %u (%u, %u)",
                          dim, r, i);
            for (uint32_t i = 0; i < dim; i += n)
                ref_hadamard(x + i, n);
            for (uint32_t i = 0; i < dim; i++)
                cr_assert_eq(out[r * dim + i], (float)ldexp(x[i], -(k / 2)), "dim %u (%u, %u)", dim,
                             r, i);
        }
    }
}

Test(codec_kernels, special_rows)
{
    for (uint32_t format = AKV_I8; format <= AKV_N2; format++) {
        akv_encode_params p = dense(1, 1, 128, AKV_F32, format, AKV_FLAG_SEARCH);
        uint8_t tile[512];
        float x[128], y[128];
        for (int i = 0; i < 128; i++)
            x[i] = i % 2 ? NAN : -0.0f;
        cr_assert_eq(encode(&akv_cpu_encode_scalar, &p, x, tile, 0), AKV_SAW_NAN);
        decode(&akv_cpu_decode_scalar, &p, tile, y, 0);
        for (int i = 0; i < 128; i++)
            cr_assert(y[i] == 0.0f && !signbit(y[i]), "%s: NaN and -0 read as +0", names[format]);
        for (int i = 0; i < 128; i++)
            x[i] = i % 2 ? 0x1p-140f : 0.0f;
        cr_assert_eq(encode(&akv_cpu_encode_scalar, &p, x, tile, 0), 0u);
        decode(&akv_cpu_decode_scalar, &p, tile, y, 0);
        cr_assert_eq(y[1], 0.0f, "%s: denormals are zero", names[format]);
        for (int i = 0; i < 128; i++)
            x[i] = i == 5 ? -1e30f : i == 7 ? INFINITY : 1.0f;
        cr_assert_eq(encode(&akv_cpu_encode_scalar, &p, x, tile, 0), AKV_SAW_HUGE);
        decode(&akv_cpu_decode_scalar, &p, tile, y, 0);
        double top = format == AKV_I8   ? 127 * 65504.0
                     : format == AKV_N6 ? 31 * 65504.0
                                        : 61440.0 * 127 / 128;
        cr_assert(y[5] == (float)-top && y[7] == (float)top, "%s saturates: %g %g", names[format],
                  (double)y[5], (double)y[7]);
        for (int i = 0; i < 128; i++)
            x[i] = -3.0f;
        encode(&akv_cpu_encode_scalar, &p, x, tile, 0);
        decode(&akv_cpu_decode_scalar, &p, tile, y, 0);
        for (int i = 0; i < 128; i++)
            cr_assert(fabsf(y[i] + 3.0f) < 0.2f && y[i] == y[0], "%s: equal stays equal",
                      names[format]);
    }
}

/* Rows need not be dense, and raw formats copy or convert. */
Test(codec_kernels, strides_and_raw_formats)
{
    enum { TOKENS = 5, HEADS = 3, DIM = 80 };
    for (uint32_t format = AKV_F32; format <= AKV_N2; format++)
        for (uint32_t dtype = AKV_F32; dtype <= AKV_BF16; dtype++) {
            uint32_t rows = TOKENS * HEADS, size = akv_raw_bytes(dtype);
            uint8_t dense_rows[TOKENS * HEADS * DIM * 4], wide[TOKENS * 500 * 4];
            struct buffer a = filled(akv_tile_bytes(format, rows, DIM)), b = filled(a.size);
            akv_encode_params p = dense(TOKENS, HEADS, DIM, dtype, format, 0), q = p;
            akv_input_rows(3, format < AKV_I8 ? AKV_N4 : format, 0, dtype, 0, rows, DIM,
                           dense_rows);
            q.rows.token_stride = 490;
            q.rows.head_stride = 100;
            memset(wide, 0x7F, sizeof wide);
            for (uint32_t r = 0; r < rows; r++)
                memcpy(wide + (r / HEADS * 490u + r % HEADS * 100u) * size,
                       dense_rows + r * DIM * size, DIM * size);
            encode(&akv_cpu_encode_scalar, &p, dense_rows, a.bytes, 0);
            encode(&akv_cpu_encode_scalar, &q, wide, b.bytes, 0);
            cr_assert_arr_eq(a.bytes, b.bytes, a.size, "%s from %s", names[format], names[dtype]);
            memset(wide, 0x11, sizeof wide);
            uint8_t out[sizeof dense_rows];
            decode(&akv_cpu_decode_scalar, &p, a.bytes, out, 0);
            decode(&akv_cpu_decode_scalar, &q, a.bytes, wide, 0);
            for (uint32_t r = 0; r < rows; r++)
                cr_assert_arr_eq(wide + (r / HEADS * 490u + r % HEADS * 100u) * size,
                                 out + r * DIM * size, DIM * size);
            cr_assert_eq(wide[80 * size], 0x11, "the gap between rows is left alone");
            if (format == dtype)
                cr_assert_arr_eq(a.bytes, dense_rows, rows * DIM * size, "raw bits are kept");
            free(a.bytes);
            free(b.bytes);
        }
}

/* ---- seal and gather ---- */

struct sealed {
    struct buffer hot, packed, spare; /* two slabs, and where nothing may be written */
    akv_seal_params p;
    akv_seal_layer layer[2];
    akv_move move[2];
    uint32_t hot_tile, tile, saw;
};
enum { LAYERS = 2, MOVES = 2, HEADS = 2, TOKENS = 16 };

static void seal(struct sealed *s, const struct akv_cpu_kernel *kernel, uint32_t dim,
                 uint32_t dtype, uint32_t format, uint32_t flags)
{
    memset(s, 0, sizeof *s);
    s->hot_tile = akv_tile_bytes(dtype, TOKENS, dim);
    s->tile = akv_tile_bytes(format, TOKENS, dim);
    for (uint32_t i = 0; i < LAYERS; i++) { /* values first in the packed block, to have an order */
        s->layer[i].src_k = 4u * i * s->hot_tile;
        s->layer[i].src_v = (4u * i + 2u) * s->hot_tile;
        s->layer[i].dst_v = 4u * i * s->tile;
        s->layer[i].dst_k = (4u * i + 2u) * s->tile;
    }
    uint32_t hot_block = 8u * s->hot_tile, block = 8u * s->tile;
    s->hot = filled(2u * hot_block);
    s->packed = filled(2u * block);
    akv_input_rows(31, format < AKV_I8 ? AKV_N4 : format, flags & 1u, dtype, 0, 16u * TOKENS, dim,
                   s->hot.bytes);
    for (uint32_t i = 0; i < MOVES; i++) {
        s->move[i].src = (uint64_t)i * hot_block;
        s->move[i].dst = UINT64_C(1) << 56 | (uint64_t)(1u - i) * block;
    }
    akv_seal_params p = {.moves = MOVES,
                         .layers = LAYERS,
                         .kv_heads = HEADS,
                         .block_tokens = TOKENS,
                         .k_dim = dim,
                         .v_dim = dim,
                         .hot_type = dtype,
                         .k_format = format,
                         .v_format = format,
                         .k_flags = flags,
                         .v_flags = flags};
    p.pool.chunk_bytes = UINT64_C(1) << 30;
    p.pool.chunks_per_slab = 1;
    p.pool.slabs = 2;
    s->p = p;
    struct akv_cpu_args args = {
        .params = &s->p,
        .arg = {(uint8_t *)s->layer, (uint8_t *)s->move, (uint8_t *)&s->saw},
        .slab = {s->hot.bytes, s->packed.bytes}};
    run(kernel, &args, 1);
    cr_assert(guarded(s->packed), "%s dim %u writes beyond the pool", names[format], dim);
}
static void unseal(struct sealed *s)
{
    free(s->hot.bytes);
    free(s->packed.bytes);
}

Test(codec_kernels, seal_matches_the_definition)
{
    for (size_t d = 0; d < DIMS; d++)
        for (uint32_t format = AKV_I8; format <= AKV_N2; format++)
            for (uint32_t dtype = AKV_F32; dtype <= AKV_BF16; dtype++) {
                struct sealed s;
                uint32_t dim = dims[d], flags = AKV_FLAG_SEARCH | (dtype == AKV_F16), saw = 0;
                seal(&s, &akv_cpu_seal_scalar, dim, dtype, format, flags);
                uint8_t *want = malloc(s.tile);
                for (uint32_t tile = 0; tile < 8u * MOVES; tile++) {
                    uint32_t head = tile % 2u, value = tile / 2u % 2u, layer = tile / 4u % 2u;
                    uint32_t move = tile / 8u;
                    memset(want, 0, s.tile);
                    for (uint32_t t = 0; t < TOKENS; t++) {
                        float x[576];
                        struct ref_row ref;
                        for (uint32_t i = 0; i < dim; i++)
                            x[i] = akv_as_f32(akv_load_bits(s.hot.bytes + tile * s.hot_tile,
                                                            (uint64_t)t * dim + i, dtype));
                        saw |= ref_encode_row(x, dim, format, flags & AKV_FLAG_ROTATE, 1, &ref);
                        ref_place_row(want, &ref, format, (int)value, TOKENS, dim, t);
                    }
                    uint32_t at =
                        (value ? s.layer[layer].dst_v : s.layer[layer].dst_k) + head * s.tile;
                    cr_assert_arr_eq(s.packed.bytes + (1u - move) * 8u * s.tile + at, want, s.tile,
                                     "%s dim %u from %s: tile %u", names[format], dim, names[dtype],
                                     tile);
                }
                cr_assert_eq(s.saw, saw);
                free(want);
                unseal(&s);
            }
}

static struct buffer gather(const struct sealed *s, const struct akv_cpu_kernel *kernel,
                            uint32_t layer, uint32_t value, uint32_t first, uint32_t tokens,
                            uint32_t dtype)
{
    uint32_t dim = s->p.k_dim, table[] = {1u << 28 | 1u, 0, AKV_NO_BLOCK, 1u << 28};
    akv_gather_params p = {.offset = {value ? s->layer[layer].src_v : s->layer[layer].src_k,
                                      value ? s->layer[layer].dst_v : s->layer[layer].dst_k},
                           .format = {s->p.hot_type, s->p.k_format},
                           .order = value ? AKV_ORDER_QUAD : AKV_ORDER_ROW,
                           .flags = s->p.k_flags & AKV_FLAG_ROTATE,
                           .dim = dim,
                           .blocks = 4,
                           .block_tokens = TOKENS,
                           .first_row = first,
                           .tokens = tokens};
    struct buffer out = filled((size_t)tokens * HEADS * dim * akv_raw_bytes(dtype));
    akv_rows rows = {(uint64_t)HEADS * dim, dim, dtype, HEADS};
    p.rows = rows;
    p.pool = s->p.pool;
    p.pool.block_bytes[0] = 8u * s->hot_tile;
    p.pool.block_bytes[1] = 8u * s->tile;
    p.pool.blocks_per_chunk[0] = 2;
    p.pool.blocks_per_chunk[1] = 2;
    uint8_t *slab = s->packed.bytes; /* kind 1 blocks: chunk 0 of a pool of their own */
    struct akv_cpu_args args = {.params = &p, .arg = {(uint8_t *)table, out.bytes}, .slab = {slab}};
    p.pool.chunks_per_slab = 1;
    table[1] = AKV_NO_BLOCK; /* the hot block is another pool's */
    run(kernel, &args, 1);
    cr_assert(guarded(out));
    return out;
}

Test(codec_kernels, gather_reads_what_seal_wrote)
{
    for (size_t d = 0; d < DIMS; d++)
        for (uint32_t format = AKV_F32; format <= AKV_N2; format++)
            for (uint32_t value = 0; value < 2u; value++)
                for (uint32_t first = 0; first < 16u; first += 5u) {
                    struct sealed s;
                    uint32_t dim = dims[d], tokens = 64u - first - 3u;
                    seal(&s, &akv_cpu_seal_scalar, dim, AKV_F16, format, AKV_FLAG_ROTATE);
                    struct buffer out =
                        gather(&s, &akv_cpu_gather_scalar, 1, value, first, tokens, AKV_F32);
                    for (uint32_t r = 0; r < tokens; r++)
                        for (uint32_t head = 0; head < HEADS; head++) {
                            uint32_t b = (first + r) / TOKENS, t = (first + r) % TOKENS;
                            float want[576] = {0}, x[576];
                            uint32_t move = b == 0 ? 0 : 1; /* block 1 of kind 1 came from move 0 */
                            const uint8_t *src =
                                s.hot.bytes + (move * 8u + 4u + value * 2u + head) * s.hot_tile;
                            struct ref_row ref;
                            for (uint32_t i = 0; i < dim; i++)
                                x[i] = akv_as_f32(akv_load_bits(src, t * dim + i, AKV_F16));
                            if (b != 0 && b != 3u) {
                                memset(want, 0, sizeof want);
                            } else if (format >= AKV_I8) {
                                ref_encode_row(x, dim, format, 1, 0, &ref);
                                ref_decode_row(&ref, dim, format, 1, want);
                            } else {
                                for (uint32_t i = 0; i < dim; i++) {
                                    uint32_t u = akv_as_u32(x[i]);
                                    want[i] = format == AKV_BF16
                                                  ? akv_as_f32(akv_bf16_from_f32(u) << 16)
                                                  : x[i];
                                }
                            }
                            cr_assert_arr_eq(out.bytes + (r * HEADS + head) * dim * 4u, want,
                                             dim * 4u, "%s dim %u side %u row %u head %u",
                                             names[format], dim, value, r, head);
                        }
                    free(out.bytes);
                    unseal(&s);
                }
}

/* ---- reencode ---- */

/* One block of one layer and head: keys from one format, values from another. */
struct reencoded {
    uint8_t *from, *to;
    uint32_t from_bytes, to_bytes;
};
static struct reencoded reencode(const struct akv_cpu_kernel *kernel, uint32_t dim, uint32_t source,
                                 uint32_t format, uint32_t flags, struct ref_row row[2][TOKENS])
{
    uint32_t tile = akv_tile_bytes(source, TOKENS, dim), saw = 0;
    struct reencoded r = {.from_bytes = 2u * tile,
                          .to_bytes = 2u * akv_tile_bytes(format, TOKENS, dim)};
    akv_seal_layer layer = {.src_v = tile, .dst_k = r.to_bytes / 2u};
    akv_move move = {.dst = UINT64_C(1) << 56};
    akv_reencode_params p = {.moves = 1,
                             .layers = 1,
                             .kv_heads = 1,
                             .block_tokens = TOKENS,
                             .k_dim = dim,
                             .v_dim = dim,
                             .k_source = source,
                             .v_source = source,
                             .k_format = format,
                             .v_format = format,
                             .k_flags = flags,
                             .v_flags = flags};
    r.from = calloc(r.from_bytes, 1);
    struct buffer to = filled(r.to_bytes);
    r.to = to.bytes;
    for (uint32_t side = 0; side < 2u; side++)
        for (uint32_t t = 0; t < TOKENS; t++) {
            float x[576];
            akv_input_row(61, (side * TOKENS + t) % AKV_INPUT_KINDS, t, source, 0, dim, x);
            ref_encode_row(x, dim, source, 0, 1, &row[side][t]);
            ref_place_row(r.from + side * tile, &row[side][t], source, (int)side, TOKENS, dim, t);
        }
    struct akv_cpu_args args = {
        .params = &p,
        .arg = {(uint8_t *)&layer, (uint8_t *)&move, (uint8_t *)&saw},
        .slab = {r.from, r.to}};
    run(kernel, &args, 1);
    cr_assert(guarded(to) && saw == 0);
    return r;
}

Test(codec_kernels, reencode_decodes_and_encodes_by_the_definition)
{
    static struct ref_row row[2][TOKENS];
    for (size_t d = 0; d < DIMS; d += 2)
        for (uint32_t source = AKV_I8; source <= AKV_N2; source++)
            for (uint32_t format = AKV_I8; format <= AKV_N2; format++) {
                uint32_t dim = dims[d], flags = (source + format) % 2u ? AKV_FLAG_SEARCH : 0u;
                struct reencoded r =
                    reencode(&akv_cpu_reencode_scalar, dim, source, format, flags, row);
                uint8_t *want = calloc(r.to_bytes, 1);
                for (uint32_t side = 0; side < 2u; side++) /* values stand first */
                    for (uint32_t t = 0; t < TOKENS; t++) {
                        float x[576];
                        struct ref_row ref = row[side][t];
                        ref_decode_row(&ref, dim, source, 0, x);
                        if (format != source)
                            ref_encode_row(x, dim, format, 0, flags != 0, &ref);
                        ref_place_row(want + (1u - side) * r.to_bytes / 2u, &ref, format, (int)side,
                                      TOKENS, dim, t);
                    }
                cr_assert_arr_eq(r.to, want, r.to_bytes, "%s to %s, dim %u", names[source],
                                 names[format], dim);
                for (int level = AKV_ISA_SCALAR + 1; level < AKV_ISA_COUNT; level++) {
                    const struct akv_cpu_kernel *kernel = akv_cpu_kernels[level][AKV_K_REENCODE];
                    if (!(akv_cpu_isa_levels(ANYKV_ISA_ALL) >> level & 1u) || kernel == NULL)
                        continue;
                    struct reencoded other = reencode(kernel, dim, source, format, flags, row);
                    cr_assert_arr_eq(other.to, want, r.to_bytes, "%s: %s to %s, dim %u",
                                     isa_names[level], names[source], names[format], dim);
                    free(other.from);
                    free(other.to);
                }
                free(want);
                free(r.from);
                free(r.to);
            }
}

/* ---- instruction sets ---- */

static const struct akv_cpu_kernel *at_level(int level, enum akv_kernel_id kernel)
{
    if (!(akv_cpu_isa_levels(ANYKV_ISA_ALL) >> level & 1u))
        return NULL;
    return akv_cpu_kernels[level][kernel];
}

Test(codec_kernels, every_instruction_set_writes_the_same_bytes)
{
    uint32_t tokens = 19, heads = 3, compared = 0;
    for (int level = AKV_ISA_SCALAR + 1; level < AKV_ISA_COUNT; level++)
        for (size_t d = 0; d < DIMS; d++)
            for (uint32_t format = AKV_F32; format <= AKV_N2; format++)
                for (uint32_t flags = 0; flags < 4u; flags++)
                    for (uint32_t dtype = AKV_F32; dtype <= AKV_BF16; dtype++) {
                        const struct akv_cpu_kernel *e = at_level(level, AKV_K_ENCODE);
                        const struct akv_cpu_kernel *f = at_level(level, AKV_K_DECODE);
                        uint32_t dim = dims[d], rows = tokens * heads;
                        if (e == NULL || f == NULL)
                            continue;
                        akv_encode_params p = dense(tokens, heads, dim, dtype, format, flags);
                        struct buffer a = filled(akv_tile_bytes(format, rows, dim)),
                                      b = filled(a.size);
                        struct buffer x = filled((size_t)rows * dim * akv_raw_bytes(dtype));
                        struct buffer y = filled(x.size), z = filled(x.size);
                        akv_input_rows(50u + flags, format < AKV_I8 ? AKV_N4 : format, flags & 1u,
                                       dtype, 0, rows, dim, x.bytes);
                        uint32_t s = encode(&akv_cpu_encode_scalar, &p, x.bytes, a.bytes, 0);
                        uint32_t t = encode(e, &p, x.bytes, b.bytes, 1);
                        cr_assert(s == t && !memcmp(a.bytes, b.bytes, a.size + GUARD),
                                  "encode %s %s dim %u flags %u from %s", isa_names[level],
                                  names[format], dim, flags, names[dtype]);
                        decode(&akv_cpu_decode_scalar, &p, a.bytes, y.bytes, 0);
                        decode(f, &p, a.bytes, z.bytes, 1);
                        cr_assert(!memcmp(y.bytes, z.bytes, y.size + GUARD),
                                  "decode %s %s dim %u flags %u to %s", isa_names[level],
                                  names[format], dim, flags, names[dtype]);
                        compared++;
                        free(a.bytes);
                        free(b.bytes);
                        free(x.bytes);
                        free(y.bytes);
                        free(z.bytes);
                    }
    if (compared == 0)
        cr_skip_test("this processor or build has no instruction-set overrides");
}

Test(codec_kernels, every_instruction_set_seals_and_gathers_the_same)
{
    uint32_t compared = 0;
    for (int level = AKV_ISA_SCALAR + 1; level < AKV_ISA_COUNT; level++)
        for (size_t d = 0; d < DIMS; d++)
            for (uint32_t format = AKV_F32; format <= AKV_N2; format++)
                for (uint32_t dtype = AKV_F32; dtype <= AKV_BF16; dtype++) {
                    const struct akv_cpu_kernel *sealer = at_level(level, AKV_K_SEAL);
                    const struct akv_cpu_kernel *gatherer = at_level(level, AKV_K_GATHER);
                    struct sealed a, b;
                    if (sealer == NULL || gatherer == NULL)
                        continue;
                    seal(&a, &akv_cpu_seal_scalar, dims[d], dtype, format, dtype);
                    seal(&b, sealer, dims[d], dtype, format, dtype);
                    cr_assert(a.saw == b.saw &&
                                  !memcmp(a.packed.bytes, b.packed.bytes, a.packed.size),
                              "seal %s %s dim %u from %s", isa_names[level], names[format], dims[d],
                              names[dtype]);
                    for (uint32_t value = 0; value < 2u; value++) {
                        struct buffer x =
                            gather(&a, &akv_cpu_gather_scalar, 1, value, 6, 55, dtype);
                        struct buffer y = gather(&a, gatherer, 1, value, 6, 55, dtype);
                        cr_assert(!memcmp(x.bytes, y.bytes, x.size), "gather %s %s dim %u to %s",
                                  isa_names[level], names[format], dims[d], names[dtype]);
                        free(x.bytes);
                        free(y.bytes);
                    }
                    unseal(&a);
                    unseal(&b);
                    compared++;
                }
    if (compared == 0)
        cr_skip_test("this processor or build has no instruction-set overrides");
}
