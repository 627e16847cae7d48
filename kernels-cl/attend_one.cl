/* SPDX-License-Identifier: Apache-2.0 */
/* Shell of the attend family for decoding, GPU shape: one part of a sequence with a single new token, for
 * up to R q heads of a kv head.  The general kernel leaves such sequences alone where this one runs.
 *
 * A chunk is CHUNK positions.  For scores a work-item multiplies a slice of 8 dimensions of every KP-th key
 * with all R queries; the products meet in local memory.  For values it owns 8 dimensions of the sums, for
 * every VP-th row (16-bit rows) or for every unit that falls to it (quantised rows, format.h).  Rows of kind 0
 * and of kind 1 have sums of their own, since only those of kind 1 may be rotated; blocks change kind a few
 * times in a sequence, so that sums wait in local memory.
 * The reference m of the weights e^(s - m) need not be the maximum, only near it: it moves when a score is
 * FAR above it, so that a chunk costs two barriers.
 *
 * AKV_DOT: slices are of 32 dimensions, and chunks that are wholly of kind 1 go by integer products (attend_dot.cl);
 * with AKV_MAP too, rows of kind 1 were stored by maps.
 *
 * Options: AKV_ATTEND_ONE, and those of attend.cl with K0, K1, V0, V1 (raw ones of 16 bits); AKV_TOKENS, tokens
 * of a block where the host knows them.  Head sizes 64, 128, 256. */
#if defined(AKV_ATTEND_ONE) && !defined(AKV_CPU_SHAPE)
#ifndef AKV_DOT
#define weight_of(x) akv_exp(x)
#endif
/* The first row of a run in its block: none where a block is a run. */
#if defined(AKV_TOKENS) && AKV_TOKENS == 16
#define TOKENS_OR(runtime) AKV_TOKENS
#define FROM(info)         0u
#else
#define TOKENS_OR(runtime) (runtime)
#define FROM(info)         ((info) >> 8 & 0xFFFFu)
#endif

/* 8 elements of a row of 16-bit numbers. */
static inline void raw_of(float *x, const akv_u32 *w, akv_u32 format)
{
    akv_u32 i;
#pragma unroll
    for (i = 0u; i < 4u; i++) {
        x[i * 2u] = format == AKV_F16 ? half_of(w[i] & 0xFFFFu) : akv_as_f32(w[i] << 16);
        x[i * 2u + 1u] = format == AKV_F16 ? half_of(w[i] >> 16) : akv_as_f32(w[i] & 0xFFFF0000u);
    }
}
/* An int8 code as a float: 2^23 + code + 128 has it in its low bits. */
static inline float byte_of(akv_u32 w, akv_u32 i)
{
    w ^= 0x80808080u;
#ifdef __NV_CL_C_VERSION
    akv_u32 x;
    __asm("prmt.b32 %0, %1, 0x4B000000, %2;" : "=r"(x) : "r"(w), "r"(0x7540u + i));
    return akv_as_f32(x) - 8388736.0f;
#else
    return akv_as_f32(0x4B000000u | ((w >> (i * 8u)) & 255u)) - 8388736.0f;
#endif
}
/* Dimension of element i of slice s: what one wide load of a row brings. */
static inline akv_u32 slice_dim(akv_u32 format, akv_u32 s, akv_u32 i)
{
    if (akv_format_raw(format) || format == AKV_I8)
        return s * 8u + i;
    return s % GROUPS * 32u + s / GROUPS * 8u + i;
}
/* What a work-item holds of one key or value as stored. */
typedef struct stored {
    akv_u32 low[8], high[2], scale[2];
} stored;
/* Slice s of key t. */
static inline void load_key(stored *x, __global const uchar *tile, akv_u32 format, akv_u32 tokens, akv_u32 t,
                            akv_u32 s)
{
    const akv_u32 j = s / GROUPS, g = s % GROUPS, b0 = akv_format_plane0(format), b1 = akv_format_plane1(format);
    __global const uchar *high = tile + akv_plane1_offset(format, tokens, KD);
    __global const uchar *scales = tile + akv_scale_offset(format, tokens, KD);
    if (akv_format_raw(format)) {
        uint4 a = *(__global const uint4 *)(tile + (t * KD + s * 8u) * 2u);
        x->low[0] = a.x, x->low[1] = a.y, x->low[2] = a.z, x->low[3] = a.w;
        return;
    }
    if (format == AKV_I8) {
        uint2 a = *(__global const uint2 *)(tile + t * KD + s * 8u);
        x->low[0] = a.x, x->low[1] = a.y;
        x->scale[0] = akv_load_u16(scales + 2u * (t * ((KD + 127) / 128) + s * 8u / 128u));
        return;
    }
    x->low[0] = b0 == 4u ? akv_load_u32(tile + 4u * (t * GROUPS * 4u + s))
                         : akv_load_u32(tile + 4u * (t * GROUPS * 2u + j / 2u * GROUPS + g));
    if (b1)
        x->high[0] = b1 == 1u ? akv_load_u32(high + 4u * (t * GROUPS + g))
                              : akv_load_u32(high + 4u * (t * GROUPS * 2u + j / 2u * GROUPS + g));
    x->scale[0] = format == AKV_N6 ? akv_load_u16(scales + 2u * (t * (GROUPS / 2) + g / 2u))
                                   : (akv_u32)scales[t * GROUPS + g];
}
/* Codes of slice s of a key; the unit is to be multiplied to the products. */
static inline float key_slice(float *x, const stored *k, akv_u32 format, akv_u32 s, __local const float *book)
{
    const akv_u32 j = s / GROUPS, b0 = akv_format_plane0(format), b1 = akv_format_plane1(format);
    akv_u32 i, low = k->low[0], high = k->high[0];
    if (akv_format_raw(format)) {
        raw_of(x, k->low, format);
        return 1.0f;
    }
    if (format == AKV_I8) {
#pragma unroll
        for (i = 0u; i < 8u; i++)
            x[i] = byte_of(k->low[i / 4u], i % 4u);
        return akv_code_unit(format, k->scale[0]);
    }
    low = b0 == 4u ? low : low >> (j % 2u * 16u);
    high = b1 == 1u ? high >> (j * 8u) : high >> (j % 2u * 16u);
#pragma unroll
    for (i = 0u; i < 8u; i++) {
        akv_u32 code = (low >> (i * b0)) & ((1u << b0) - 1u);
        if (b1)
            code |= ((high >> (i * b1)) & ((1u << b1) - 1u)) << b0;
        x[i] = code_float(format, code, book);
    }
    return akv_code_unit(format, k->scale[0]);
}
/* 8 dimensions of a row, or a unit of a quad and its scales. */
static inline void load_values(stored *x, __global const uchar *tile, akv_u32 format, akv_u32 tokens, akv_u32 at,
                               akv_u32 u)
{
    if (akv_format_raw(format)) {
        uint4 a = *(__global const uint4 *)(tile + (at * VD + u * 8u) * 2u);
        x->low[0] = a.x, x->low[1] = a.y, x->low[2] = a.z, x->low[3] = a.w;
        return;
    }
    const akv_u32 b0 = akv_format_plane0(format), b1 = akv_format_plane1(format);
    const akv_u32 scale = at * akv_scale_count(format, VD) + u * 8u / akv_scale_width(format);
    __global const uchar *plane = tile + akv_scale_offset(format, tokens, VD);
    unit_words(x->low, tile, b0, tokens, at, u);
    if (b1)
        unit_words(x->high, tile + akv_plane1_offset(format, tokens, VD), b1, tokens, at, u);
    x->scale[0] = akv_load_u32(plane + scale * 4u * akv_scale_bytes(format));
    if (akv_scale_bytes(format) == 2u)
        x->scale[1] = akv_load_u32(plane + scale * 8u + 4u);
}
/* sum[r][8] += weight[r] * x, without rows that are not seen: those may hold anything. */
static inline void add_row(float *sum, __local const float *weight, const float *x, float unit, bool careful)
{
    akv_u32 r, i;
#pragma unroll
    for (r = 0u; r < R; r++) {
        float w = weight[r];
        if (careful && w == 0.0f)
            continue;
        w *= unit;
#pragma unroll
        for (i = 0u; i < 8u; i++)
            sum[r * 8u + i] = MULTIPLY_ADD(w, x[i], sum[r * 8u + i]);
    }
}
/* weight: [R] of the row, or [4][R] of the quad. */
static inline void add_values(float *sum, __local const float *weight, const stored *v, akv_u32 format,
                              bool careful, __local const float *book)
{
    const akv_u32 b0 = akv_format_plane0(format), b1 = akv_format_plane1(format);
    akv_u32 i, n;
    float x[8];
    if (akv_format_raw(format)) {
        raw_of(x, v->low, format);
        add_row(sum, weight, x, 1.0f, careful);
        return;
    }
#pragma unroll
    for (n = 0u; n < 4u; n++) {
        const akv_u32 scale = akv_scale_bytes(format) == 1u ? v->scale[0] >> (n * 8u) & 255u
                                                            : v->scale[n / 2u] >> (n % 2u * 16u) & 0xFFFFu;
#pragma unroll
        for (i = 0u; i < 8u; i++) {
            const akv_u32 e = i * 4u + n;
            if (format == AKV_I8) {
                x[i] = byte_of(v->low[i], n);
            } else {
                akv_u32 code = (v->low[e * b0 / 32u] >> (e * b0 % 32u)) & ((1u << b0) - 1u);
                if (b1)
                    code |= ((v->high[e * b1 / 32u] >> (e * b1 % 32u)) & ((1u << b1) - 1u)) << b0;
                x[i] = code_float(format, code, book);
            }
        }
        add_row(sum, weight + n * R, x, akv_code_unit(format, scale), careful);
    }
}


#define IS_SCORE(at) (R * CHUNK % WG == 0 || (at) < R * CHUNK)
/* Steps of a chunk for one kind, whose format is a constant: work-items that would differ in what they do
 * leave loops where loads can be issued together. */
#define UNROLL    _Pragma("unroll")
#define NO_UNROLL _Pragma("unroll 1")
#define KEY_INFO(n) run_info[at_run + KEY_AT(n) / RUN]
#define LOAD_KEY(to, n, of_kind, format)                                                                \
    load_key(to, run_at[at_run + KEY_AT(n) / RUN] + k_at[of_kind], format,                              \
             tokens, FROM(KEY_INFO(n)) + KEY_AT(n) % RUN, slice);
#define KEY_PRODUCT(from, n, format)                                                                    \
    {                                                                                                   \
        float x[8], unit = key_slice(x, from, format, slice, book);                                     \
        UNROLL for (r = 0u; r < R; r++)                                                                 \
        {                                                                                               \
            float a = 0.0f;                                                                             \
            UNROLL for (d = 0u; d < 8u; d++) a = MULTIPLY_ADD(mine[r * 8u + d], x[d], a);               \
            product[(r * CHUNK + KEY_AT(n)) * (SLICES + 1) + slice] = a * unit;                         \
        }                                                                                               \
    }
#define KEY_PRODUCTS(of_kind, format)                                                                   \
    UNROLL for (n = 0u; n < KEYS; n += TOGETHER)                                                        \
    {                                                                                                   \
        stored keys[TOGETHER];                                                                          \
        UNROLL for (i = 0u; i < TOGETHER; i++) LOAD_KEY(&keys[i], n + i, of_kind, format)               \
        UNROLL for (i = 0u; i < TOGETHER; i++) KEY_PRODUCT(&keys[i], n + i, format)                     \
    }
#ifdef AKV_DOT
/* Slices of 8 dimensions, one after the other. */
#define SLICE_OF(format, part)                                                                          \
    (akv_format_raw(format) || (format) == AKV_I8 ? slice * 4u + (part) : (part) * GROUPS + slice)
#define TAKE_KEYS(of_kind, format)                                                                      \
    NO_UNROLL for (n = 0u; n < KEYS; n++)                                                               \
    {                                                                                                   \
        const akv_u32 info = KEY_INFO(n);                                                               \
        float dot[R];                                                                                   \
        if (!(info & HELD) || (info & 1u) != (of_kind))                                                 \
            continue;                                                                                   \
        UNROLL for (r = 0u; r < R; r++) dot[r] = REGAINED(n, r);                                        \
        NO_UNROLL for (i = 0u; i < 4u; i++)                                                             \
        {                                                                                               \
            const akv_u32 s = SLICE_OF(format, i);                                                      \
            stored one;                                                                                 \
            float x[8];                                                                                 \
            load_key(&one, run_at[at_run + KEY_AT(n) / RUN] + k_at[of_kind],                            \
                     format, tokens, FROM(info) + KEY_AT(n) % RUN, s);                                  \
            float unit = key_slice(x, &one, format, s, book);                                           \
            UNROLL for (r = 0u; r < R; r++)                                                             \
            {                                                                                           \
                float a = 0.0f;                                                                         \
                UNROLL for (d = 0u; d < 8u; d++)                                                        \
                    a = MULTIPLY_ADD(asked[r * KD + slice_dim(format, s, d)], x[d], a);                 \
                dot[r] = MULTIPLY_ADD(a, unit, dot[r]);                                                 \
            }                                                                                           \
        }                                                                                               \
        UNROLL for (r = 0u; r < R; r++)                                                                 \
            product[(r * CHUNK + KEY_AT(n)) * (SLICES + 1) + slice] = dot[r];                           \
    }
#else
#define TAKE_KEYS(of_kind, format)                                                                      \
    NO_UNROLL for (n = 0u; n < KEYS; n++)                                                               \
    {                                                                                                   \
        const akv_u32 info = KEY_INFO(n);                                                               \
        stored one;                                                                                     \
        if (!(info & HELD) || (info & 1u) != (of_kind))                                                 \
            continue;                                                                                   \
        LOAD_KEY(&one, n, of_kind, format)                                                              \
        KEY_PRODUCT(&one, n, format)                                                                    \
    }
#endif
/* Where value n of the work-item stands: its run, its row or quad in the block, its unit, its weights. */
#define PLACE(format)                                                                                   \
    const bool raw = akv_format_raw(format);                                                            \
    const akv_u32 flat = item + n * WG, run = raw ? (n * VP + row) / RUN : flat / (4u * UNITS);         \
    const akv_u32 info = run_info[at_run + run], from = FROM(info);                                     \
    const akv_u32 at = raw ? from + (n * VP + row) % RUN : from / 4u + item % 4u;                       \
    const akv_u32 u = raw ? column : flat / 4u % UNITS;
#define WEIGHT_OF(format)                                                                               \
    (weight + R * (akv_format_raw(format) ? n * VP + row : (item + n * WG) / (4u * UNITS) * RUN + item % 4u * 4u))
#define LOAD_VALUES(of_kind, format)                                                                    \
    UNROLL for (n = 0u; n < (akv_format_raw(format) ? ROWS : QUADS); n++)                               \
    {                                                                                                   \
        PLACE(format)                                                                                   \
        load_values(&values[n], run_at[at_run + run] + v_at[of_kind], format,                           \
                    tokens, at, u);                                                                     \
    }
#define ADD_VALUES(format)                                                                              \
    UNROLL for (n = 0u; n < (akv_format_raw(format) ? ROWS : QUADS); n++)                               \
        add_values(sum, WEIGHT_OF(format), &values[n], format, false, book);
#define TAKE_VALUES(of_kind, format, one)                                                               \
    NO_UNROLL for (n = 0u; n < (akv_format_raw(format) ? ROWS : QUADS); n++)                            \
    {                                                                                                   \
        PLACE(format)                                                                                   \
        if (!(info & HELD) || (info & 1u) != (of_kind))                                                 \
            continue;                                                                                   \
        load_values(&one[0], run_at[at_run + run] + v_at[of_kind], format,                              \
                    tokens, at, u);                                                                     \
        add_values(sum, WEIGHT_OF(format), &one[0], format, true, book);                                \
    }

#ifdef AKV_DOT
/* The two keys of a work-item in the chunk whose first run is `first`, where they are of kind 1. */
#define LOAD_PACKED_KEYS(first)                                                                         \
    UNROLL for (n = 0u; n < KEYS; n++)                                                                  \
    {                                                                                                   \
        const akv_u32 info = run_info[(first) + KEY_AT(n) / RUN];                                       \
        if ((info & (HELD | 1u)) == (HELD | 1u)) {                                                      \
            __global const uchar *tile = run_at[(first) + KEY_AT(n) / RUN] + k_at[1];                   \
            const akv_u32 t = FROM(info) + KEY_AT(n) % RUN;                                             \
            load_packed_key(&keys[n], tile, K1, tokens, t, slice);                                      \
            scale[n] = akv_scale_get(tile, K1, AKV_ORDER_ROW, tokens, KD, t, slice * 32u / akv_scale_width(K1)); \
        }                                                                                               \
    }
/* Its two quads, and the scales of what it makes codes of. */
#define LOAD_PACKED_VALUES                                                                              \
    UNROLL for (n = 0u; n < 2u; n++)                                                                    \
    {                                                                                                   \
        PLACE(V1)                                                                                       \
        const akv_u32 run_of = item % SEGMENTS / 4u + n * SEGMENT_RUNS;                                 \
        load_packed_values(&values[n], run_at[at_run + run] + v_at[1], V1,                              \
                           tokens, at, u);                                                              \
        load_quad_scales(&scales[n], run_at[at_run + run_of] + v_at[1], tokens,                         \
                         FROM(run_info[at_run + run_of]) / 4u + item % 4u, item / SEGMENTS % SCALES);   \
    }
#define PACKED_PRODUCTS                                                                                 \
    {                                                                                                   \
        akv_u32 x[KEYS][8];                                                                             \
        float unit[KEYS];                                                                               \
        UNROLL for (n = 0u; n < KEYS; n++)                                                              \
        {                                                                                               \
            UNROLL for (d = 0u; d < 8u; d++) x[n][d] = packed_bytes(&keys[n], K1, d, k_pairs);          \
            unit[n] = unit_of(K1, scale[n]);                                                            \
        }                                                                                               \
        UNROLL for (r = 0u; r < R; r++)                                                                 \
        {                                                                                               \
            __local const akv_u32 *query = codes + (r * GROUPS + slice) * ASK_STEP;                     \
            const float factor = akv_as_f32(query[ASK_WORDS]);                                          \
            int dots[KEYS];                                                                             \
            UNROLL for (n = 0u; n < KEYS; n++) dots[n] = ASK_WIDE ? 0 : AS_FLOAT;                       \
            UNROLL for (d = 0u; d < ASK_WORDS / 4; d++)                                                 \
            {                                                                                           \
                const uint4 a = ((__local const uint4 *)query)[d];                                      \
                UNROLL for (n = 0u; n < KEYS; n++)                                                      \
                    dots[n] = ASK_WIDE ? dot_16(a.zw, x[n][d * 2u + 1u], dot_16(a.xy, x[n][d * 2u], dots[n])) \
                                       : dot_32(a, x[n] + d % 2u * 4u, dots[n]);                        \
            }                                                                                           \
            UNROLL for (n = 0u; n < KEYS; n++)                                                          \
                (n ? product_1 : product_0)[r * CHUNK * (SLICES + 1)] =                                 \
                    MULTIPLY_ADD(ASK_WIDE ? (float)dots[n] : sum_of(dots[n]), factor * unit[n],         \
                                 REGAINED(n, r));                                                       \
        }                                                                                               \
    }
#define ADD_PACKED                                                                                      \
    {                                                                                                   \
        const akv_u32 at = item / 4u % UNITS * 8u / akv_scale_width(V1) * SEGMENTS +                    \
                           item / (4u * UNITS) * 4u + item % 4u;                                        \
        akv_u32 x[2][8];                                                                                \
        UNROLL for (n = 0u; n < 2u; n++)                                                                \
            UNROLL for (d = 0u; d < 8u; d++) x[n][d] = packed_bytes(&values[n], V1, d, v_pairs);        \
        UNROLL for (r = 0u; r < R; r++)                                                                 \
        {                                                                                               \
            const coded_weights w = coded[r * SCALES * SEGMENTS + at];                                  \
            const float factor = coded_scale[r * SCALES * SEGMENTS + at];                               \
            UNROLL for (d = 0u; d < 8u; d++)                                                            \
                sum[r * 8u + d] = MULTIPLY_ADD(dot_weights(w, x[0][d], x[1][d]), factor, sum[r * 8u + d]); \
        }                                                                                               \
    }
#endif

/* NVIDIA's compiler heeds a limit of registers only where the size of a work-group is open. */
#ifdef __NV_CL_C_VERSION
#define ONE_SHAPE
#else
#define ONE_SHAPE SHAPE
#endif
__kernel ONE_SHAPE void akv_k_attend_one(__global const uchar *step, ulong step_at, __global const uchar *q,
                                     ulong q_at, __global uchar *out, ulong out_at, __global uchar *lse,
                                     ulong lse_at, __global const uchar *mask, ulong mask_at,
                                     __global const uchar *sinks, ulong sinks_at, __global uchar *scratch,
                                     ulong scratch_at, __global const uchar *maps, ulong maps_at,
                                     const akv_attend_params p, uint least, uint most, uint slots, SLABS)
{
    /* Used in pieces of 16 bytes: arrays of a type that is aligned by itself. */
    __local float4 product_room[ROOM_ONE / 4]; /* products of slices; queries and sums on their way */
    __local float *const product = (__local float *)product_room;
    __local float total[2 * R * VD]; /* sums of kind 0 and of kind 1 that are not in registers */
    __local float4 score_room[R * CHUNK / 4];
    __local float *const score = (__local float *)score_room;
    __local float weight[CHUNK * R];
    __local float top[R], keep[R], kind_m[2 * R], kind_l[2 * R];
    __local uint far;
    __local float book[64];
    __global const uchar *__local run_at[HELD_RUNS]; /* blocks */
    __local uint run_info[HELD_RUNS];
#ifdef AKV_DOT
    __local float4 asked_room[R * KD / 4];            /* queries of the open kind */
    __local uint4 codes_room[R * GROUPS * ASK_STEP / 4]; /* the same as integers, for kind 1 */
    __local coded_weights coded[CODED];               /* weights of a chunk as integers */
    __local float *const asked = (__local float *)asked_room;
    __local akv_u32 *const codes = (__local akv_u32 *)codes_room;
    __local float coded_scale[CODED];
    __local ushort k_pairs[PAIRS(K1)], v_pairs[PAIRS(V1)];
    __local uint inexact; /* queries that codes cannot stand for */
#define QUERIES asked
#else
#define QUERIES product
#endif
#ifdef AKV_MAP
    __local float met[R * KD], rest[R];                      /* queries times the keys' mean, for position 0 */
    __local float4 turned_room[R * GROUPS * TURNED_STEP / 4]; /* the same for the middle of a chunk */
    __local float4 angles[8 * WG];
    __local float *const turned = (__local float *)turned_room;
#endif
    const akv_u32 item = (akv_u32)get_local_id(0), number = (akv_u32)get_group_id(2);
    const akv_u32 kv = (akv_u32)get_group_id(1);
    akv_u32 r, d, i, n, kind;
    step += step_at;
    if (number >= ((__global const akv_step_head *)step)->sequences)
        return;
    const cut c = cut_of(step, &p, number, least, most);
    const akv_u32 tokens = TOKENS_OR(((__global const akv_step_head *)step)->block_tokens);
    if (c.count != 1u || (akv_u32)get_group_id(0) / c.parts * R >= c.repeat)
        return;
    const akv_u32 part = (akv_u32)get_group_id(0) % c.parts;
    const akv_u32 first_row = (akv_u32)get_group_id(0) / c.parts * R;
    const akv_u32 rows = AKV_MIN(c.repeat - first_row, (akv_u32)R);

    /* Scaled queries: on their way while blocks are looked up. */
    float mine_q[OWN_QUERIES];
#pragma unroll
    for (i = 0u; i < OWN_QUERIES; i++) {
        const akv_u32 at = item + i * WG, head = kv * c.repeat + first_row + at / KD;
        mine_q[i] = 0.0f;
        if (at / KD < rows)
            mine_q[i] = p.scale * akv_as_f32(akv_load_bits(q + q_at,
                                                           akv_page_source(&p.q, c.first_token, head) + at % KD,
                                                           p.q.dtype));
    }
    for (i = item; i < 2 * R * VD; i += WG)
        total[i] = 0.0f;
    if (item < 2 * R) {
        kind_m[item] = akv_minus_infinity();
        kind_l[item] = 0.0f;
    }
    if (item == 0u)
        far = 0u;
    fill_books(book, item);
#ifdef AKV_DOT
    FILL_PAIRS(k_pairs, K1)
    FILL_PAIRS(v_pairs, V1)
    if (item == 0u)
        inexact = 0u;
#endif
    barrier(CLK_LOCAL_MEM_FENCE);
    const akv_u32 first_seen = akv_attend_first(c.length, p.window);
    const akv_u32 begin = AKV_MAX(first_seen, part * c.each);
    const akv_u32 end = AKV_MIN(c.total, (part + 1u) * c.each);
    const akv_u32 slice = item % SLICES, key = item / SLICES, column = item % UNITS, row = item / UNITS;
    akv_u32 k_at[2], v_at[2]; /* tile of this kv head in a block */
    k_at[0] = p.tiles.k_offset[0] + kv * akv_tile_bytes(K0, tokens, KD);
    k_at[1] = p.tiles.k_offset[1] + kv * akv_tile_bytes(K1, tokens, KD);
    v_at[0] = p.tiles.v_offset[0] + kv * akv_tile_bytes(V0, tokens, VD);
    v_at[1] = p.tiles.v_offset[1] + kv * akv_tile_bytes(V1, tokens, VD);
#ifdef AKV_DOT
    codes_32 keys[KEYS];
    akv_u32 scale[KEYS], keys_of = 0xFFFFFFFFu; /* chunk */
    __local float *const product_0 = product + KEY_AT(0) * (SLICES + 1) + slice;
    __local float *const product_1 = product + KEY_AT(1) * (SLICES + 1) + slice;
#else
    float mine[R * 8];
#endif
    float sum[R * 8], part_l[WEIGHTS];
#ifdef AKV_MAP
    maps += maps_at;
    __global const akv_map *k_map = akv_map_at(maps, p.k_map), *v_map = akv_map_at(maps, p.v_map);
    const bool has_mean = (p.k_flags & AKV_FLAG_MAP) && k_map->mean;
    const bool k_matrix = (p.k_flags & AKV_FLAG_MAP) && k_map->transform == AKV_TRANSFORM_MATRIX;
    const bool k_rotates = p.k_flags & AKV_FLAG_MAP ? akv_map_rotates(k_map) : (p.k_flags & AKV_FLAG_ROTATE) != 0u;
    const float k_factor = (p.k_flags & AKV_FLAG_MAP) && k_map->scales ? akv_map_scale(maps, k_map, kv, 1u) : 1.0f;
    const akv_u64 turn = has_mean && item % TURNS < k_map->pairs ? akv_map_turns(maps, k_map, item % TURNS) : 0u;
    const akv_turn forward = akv_rope_at(turn, CHUNK); /* of this work-item's pair, a chunk on */
    akv_u32 turned_to = 0xFFFFFFFFu;                   /* chunk */
    if (has_mean)
        fill_angles(angles + item, maps, k_map, slice, key);
#endif
    akv_u32 open = 2u, chunk, batch = 0xFFFFFFFFu; /* open: the kind whose sums are in registers; 2: none */
    for (chunk = begin / CHUNK; chunk * CHUNK < end || open < 2u; chunk++) {
        const bool last = chunk * CHUNK >= end; /* one more turn hands over what is open */
        const akv_u32 at_run = chunk * CHUNK_RUNS % HELD_RUNS;
        akv_u32 kinds = 0u, held = 0u;
        if (!last && chunk * CHUNK_RUNS / HELD_RUNS != batch) {
            batch = chunk * CHUNK_RUNS / HELD_RUNS;
            barrier(CLK_LOCAL_MEM_FENCE); /* the old ones are still read */
            if (item < HELD_RUNS) {
                akv_u32 position = (batch * HELD_RUNS + item) * RUN, info = 0u;
                akv_u32 entry = position < end && position + RUN > begin
                                    ? entry_of(step, &p, number, position)
                                    : AKV_NO_BLOCK;
                if (entry != AKV_NO_BLOCK) {
                    info = HELD | entry >> 28 | position % tokens << 8;
                    run_at[item] = slab_at(block_at(&p.pool, entry), SLAB_NAMES);
                }
                run_info[item] = info;
            }
            barrier(CLK_LOCAL_MEM_FENCE);
        }
        for (i = 0u; i < CHUNK_RUNS && !last; i++)
            if (run_info[at_run + i] & HELD) {
                kinds |= 1u << (run_info[at_run + i] & 1u);
                held++;
            }
        for (kind = 0u; kind < 2u; kind++) {
            if (open < 2u && (last ? kind == 0u : (kinds >> kind & 1u) && open != kind)) {
                /* Hand over: kind_m, kind_l and total take in top, part_l and sum. */
                const bool packed = !akv_format_raw(open ? V1 : V0);
                const akv_u32 at = packed ? item / 4u % UNITS : column;
                const akv_u32 lane = packed ? item % 4u + item / (4u * UNITS) * 4u : row;
                barrier(CLK_LOCAL_MEM_FENCE); /* `keep` is still read */
                if (item < R) {
                    float m = kind_m[open * R + item];
                    akv_softmax_factors f = akv_softmax_between(m, top[item]);
                    kind_m[open * R + item] = AKV_MAX(m, top[item]);
                    kind_l[open * R + item] *= f.keep;
                    keep[item] = f.keep;
                    top[item] = f.take;
                }
                barrier(CLK_LOCAL_MEM_FENCE);
                for (i = item; i < R * VD; i += WG)
                    total[open * R * VD + i] *= keep[i / VD];
#pragma unroll
                for (i = 0u; i < WEIGHTS; i++)
                    if (IS_SCORE(item + i * WG))
                        score[item + i * WG] = part_l[i];
                barrier(CLK_LOCAL_MEM_FENCE);
                if (item < R) {
                    float4 four = score_room[item * (CHUNK / 4)];
                    float l;
#pragma unroll
                    for (i = 1u; i < CHUNK / 4; i++)
                        four += score_room[item * (CHUNK / 4) + i];
                    l = four.x + four.y + (four.z + four.w);
                    if (top[item] != 0.0f)
                        kind_l[open * R + item] += l * top[item];
                }
#pragma unroll
                for (r = 0u; r < R; r++) {
                    __local float4 *to = (__local float4 *)(product + lane * VD + at * 8u);
                    to[0] = (float4)(sum[r * 8u], sum[r * 8u + 1u], sum[r * 8u + 2u], sum[r * 8u + 3u]);
                    to[1] = (float4)(sum[r * 8u + 4u], sum[r * 8u + 5u], sum[r * 8u + 6u], sum[r * 8u + 7u]);
                    barrier(CLK_LOCAL_MEM_FENCE);
                    for (i = item; i < VD && top[r] != 0.0f; i += WG) {
                        float x = 0.0f;
#pragma unroll
                        for (n = 0u; n < VP; n++)
                            x += product[n * VD + i];
                        total[(open * R + r) * VD + i] += x * top[r];
                    }
                    barrier(CLK_LOCAL_MEM_FENCE);
                }
                open = 2u;
            }
            if (last || !(kinds >> kind & 1u))
                continue;
            if (open == 2u) {
                open = kind;
                /* Scaled queries, as stored keys of this kind want them. */
                barrier(CLK_LOCAL_MEM_FENCE);
#pragma unroll
                for (i = 0u; i < OWN_QUERIES; i++)
                    if (R * KD % WG == 0 || item + i * WG < R * KD)
                        QUERIES[item + i * WG] = mine_q[i];
                barrier(CLK_LOCAL_MEM_FENCE);
#ifdef AKV_MAP
                if (kind && has_mean) {
                    meet_mean(met, rest, asked, maps, k_map, kv, item);
                    turned_to = 0xFFFFFFFFu;
                }
                barrier(CLK_LOCAL_MEM_FENCE);
                if (kind && k_matrix)
                    multiply_queries(asked, product, inverse_of(maps, k_map, kv), item);
                if (kind && k_rotates)
                    rotate_local(asked, KD, item);
                for (i = item; i < R * KD; i += WG)
                    asked[i] *= kind ? k_factor : 1.0f;
                barrier(CLK_LOCAL_MEM_FENCE);
#else
                if (kind && (p.k_flags & AKV_FLAG_ROTATE) && !akv_format_raw(K1))
                    rotate_local(QUERIES, KD, item);
#endif
#ifdef AKV_DOT
                code_queries(codes, &inexact, product, asked, item);
#else
#pragma unroll
                for (r = 0u; r < R; r++)
#pragma unroll
                    for (d = 0u; d < 8u; d++)
                        mine[r * 8u + d] =
                            product[r * KD + (kind ? slice_dim(K1, slice, d) : slice_dim(K0, slice, d))];
#endif
                barrier(CLK_LOCAL_MEM_FENCE);
#pragma unroll
                for (i = 0u; i < R * 8; i++)
                    sum[i] = 0.0f;
#pragma unroll
                for (i = 0u; i < WEIGHTS; i++)
                    part_l[i] = 0.0f;
                if (item < R)
                    top[item] = akv_minus_infinity();
            }
            /* plain: every row of the chunk is of this kind and seen. */
            const bool plain = held == CHUNK_RUNS && kinds == 1u << kind && chunk * CHUNK >= begin &&
                               chunk * CHUNK + CHUNK <= end;
#ifdef AKV_DOT
            const bool dot = plain && kind && !inexact;
            codes_32 values[2];
            quad_scales scales[2];
            stored other[1];
#ifdef AKV_MAP
            float regain[KEYS * R];
#pragma unroll
            for (i = 0u; i < KEYS * R; i++)
                regain[i] = 0.0f;
            if (kind && has_mean) {
                if (turned_to != chunk) {
                    barrier(CLK_LOCAL_MEM_FENCE);
                    turn_means(turned, met, turn, chunk, item);
                    turned_to = chunk;
                    barrier(CLK_LOCAL_MEM_FENCE);
                }
                regain_means(regain, turned, angles + item, rest, slice);
            }
#endif
            if (dot) {
                if (keys_of != chunk)
                    LOAD_PACKED_KEYS(at_run)
                LOAD_PACKED_VALUES
                PACKED_PRODUCTS
                if ((chunk + 1u) * CHUNK_RUNS / HELD_RUNS == batch) { /* the next ones are on their way meanwhile */
                    LOAD_PACKED_KEYS(at_run + CHUNK_RUNS)
                    keys_of = chunk + 1u;
                }
            } else if (kind) {
                TAKE_KEYS(1u, K1)
            } else {
                TAKE_KEYS(0u, K0)
            }
#else
            stored values[VALUES];
            if (plain && kind) {
                KEY_PRODUCTS(1u, K1)
                LOAD_VALUES(1u, V1)
            } else if (plain) {
                KEY_PRODUCTS(0u, K0)
                LOAD_VALUES(0u, V0)
            } else if (kind) {
                TAKE_KEYS(1u, K1)
            } else {
                TAKE_KEYS(0u, K0)
            }
#endif
            barrier(CLK_LOCAL_MEM_FENCE);
#ifdef AKV_MAP
            if (kind && has_mean) { /* all have read them: on to the next chunk */
                advance_means(turned, forward, item);
                turned_to = chunk + 1u;
            }
#endif
            /* Scores, and weights in case the reference stays. */
            float s[WEIGHTS], factor = 1.0f;
#pragma unroll
            for (i = 0u; i < WEIGHTS; i++) {
                const akv_u32 at = item + i * WG, position = chunk * CHUNK + at % CHUNK;
                s[i] = akv_minus_infinity();
                if (IS_SCORE(at)) {
                    const akv_u32 info = run_info[at_run + at % CHUNK / RUN];
                    if (plain || (position >= begin && position < end && info & HELD && (info & 1u) == kind)) {
                        float x = 0.0f;
#pragma unroll
                        for (d = 0u; d < SLICES; d++)
                            x += product[at * (SLICES + 1) + d];
                        s[i] = at / CHUNK < rows ? akv_attend_score(x, p.cap) : 0.0f;
                    }
                    if (s[i] > top[at / CHUNK] + FAR)
                        far = 1u;
                    weight[at % CHUNK * R + at / CHUNK] = weight_of(s[i] - top[at / CHUNK]);
                }
            }
            barrier(CLK_LOCAL_MEM_FENCE);
            if (far) { /* the reference moves to the maximum */
#pragma unroll
                for (i = 0u; i < WEIGHTS; i++)
                    if (IS_SCORE(item + i * WG))
                        score[item + i * WG] = s[i];
                barrier(CLK_LOCAL_MEM_FENCE);
                if (item == 0u)
                    far = 0u;
                if (item < R) {
                    float m = top[item];
                    for (d = 0u; d < CHUNK; d++)
                        m = fmax(m, score[item * CHUNK + d]);
                    keep[item] = top[item] >= m ? 1.0f : akv_exp(top[item] - m);
                    top[item] = m;
                }
                barrier(CLK_LOCAL_MEM_FENCE);
#pragma unroll
                for (i = 0u; i < WEIGHTS; i++) {
                    const akv_u32 at = item + i * WG;
                    if (IS_SCORE(at)) {
                        part_l[i] *= keep[at / CHUNK];
                        weight[at % CHUNK * R + at / CHUNK] = weight_of(s[i] - top[at / CHUNK]);
                    }
                }
#pragma unroll
                for (r = 0u; r < R; r++) {
                    factor = keep[r];
#pragma unroll
                    for (d = 0u; d < 8u; d++)
                        sum[r * 8u + d] *= factor;
                }
                barrier(CLK_LOCAL_MEM_FENCE);
            }
#pragma unroll
            for (i = 0u; i < WEIGHTS; i++)
                if (IS_SCORE(item + i * WG))
                    part_l[i] += weight[(item + i * WG) % CHUNK * R + (item + i * WG) / CHUNK];
            /* Values. */
#ifdef AKV_DOT
            if (dot) {
                if (item < CODED)
                    coded_scale[item] = code_weights(coded + item, weight, scales, item % SEGMENTS,
                                                     item / (SEGMENTS * SCALES));
                barrier(CLK_LOCAL_MEM_FENCE);
                ADD_PACKED
            } else if (kind) {
                TAKE_VALUES(1u, V1, other)
            } else {
                TAKE_VALUES(0u, V0, other)
            }
#else
            if (plain && kind) {
                ADD_VALUES(V1)
            } else if (plain) {
                ADD_VALUES(V0)
            } else if (kind) {
                TAKE_VALUES(1u, V1, values)
            } else {
                TAKE_VALUES(0u, V0, values)
            }
#endif
        }
    }

    /* The two kinds meet. */
    barrier(CLK_LOCAL_MEM_FENCE);
#ifdef AKV_MAP
    if ((p.v_flags & AKV_FLAG_MAP) && v_map->transform == AKV_TRANSFORM_MATRIX)
        multiply_sums(total + R * VD, product, inverse_of(maps, v_map, kv), item);
    if (p.v_flags & AKV_FLAG_MAP ? akv_map_rotates(v_map) : p.v_flags & AKV_FLAG_ROTATE)
        rotate_local(total + R * VD, VD, item);
    if ((p.v_flags & AKV_FLAG_MAP) && v_map->scales) {
        for (i = item; i < R * VD; i += WG)
            total[R * VD + i] *= akv_map_scale(maps, v_map, kv, 1u);
        barrier(CLK_LOCAL_MEM_FENCE);
    }
#else
    if ((p.v_flags & AKV_FLAG_ROTATE) && !akv_format_raw(V1))
        rotate_local(total + R * VD, VD, item);
#endif
    for (i = item; i < rows * VD; i += WG) {
        const akv_u32 head = kv * c.repeat + first_row + i / VD;
        akv_softmax all;
        all.m = kind_m[i / VD];
        all.l = kind_l[i / VD];
        akv_softmax_factors f = akv_softmax_merge(&all, kind_m[R + i / VD], kind_l[R + i / VD]);
        float x = total[i] * f.keep + (f.take != 0.0f ? total[R * VD + i] * f.take : 0.0f);
        if (c.parts > 1u) {
            __global float *to = slot_of(scratch + scratch_at, &p, &c, 0u, head, part, slots);
            to[2u + i % VD] = x;
            if (i % VD == 0u) {
                to[0] = all.m;
                to[1] = all.l;
            }
        } else {
            float factor = finish(&all, &p, sinks + sinks_at, head);
            akv_u64 to = akv_page_source(&p.out, c.first_token, head) + i % VD;
            akv_store_bits(out + out_at, to, p.out.dtype, akv_as_u32(x * factor));
            if (i % VD == 0u)
                store_lse(&all, &p, lse + lse_at, c.first_token, head);
        }
    }
#ifdef AKV_SCRUB
    barrier(CLK_LOCAL_MEM_FENCE);
    for (i = item; i < ROOM_ONE; i += WG)
        product[i] = 0.0f;
    for (i = item; i < 2 * R * VD; i += WG)
        total[i] = 0.0f;
    for (i = item; i < R * CHUNK; i += WG)
        score[i] = weight[i] = 0.0f;
#ifdef AKV_DOT
    for (i = item; i < R * KD; i += WG)
        asked[i] = 0.0f;
    for (i = item; i < R * GROUPS * ASK_STEP; i += WG)
        codes[i] = 0u;
    for (i = item; i < CODED; i += WG)
        coded[i] = 0u;
#endif
#ifdef AKV_MAP
    for (i = item; i < R * KD; i += WG)
        met[i] = 0.0f;
    for (i = item; i < R * GROUPS * TURNED_STEP; i += WG)
        turned[i] = 0.0f;
#endif
#endif
}
#endif
