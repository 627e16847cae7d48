/* SPDX-License-Identifier: Apache-2.0 */
/* Integer products of attend_one.cl (AKV_DOT): chunks of packed rows are not decoded to floats.  Queries become
 * integer codes with a scale for 32 dimensions, weights times the values' scales integer codes with a scale for what
 * a work-item sums; both meet the stored codes as signed bytes, which the codebooks' entries are.  BOUNDED.
 *
 * Queries are of 16 bits where keys are I8, of 8 bits elsewhere; weights are of 14 bits where values are I8, of 8
 * elsewhere. */
#if defined(AKV_DOT) && defined(AKV_ATTEND_ONE) && !defined(AKV_CPU_SHAPE)

/* sum + the products of four signed bytes. */
static inline int dot_8(akv_u32 a, akv_u32 b, int sum)
{
#if defined(__NV_CL_C_VERSION)
    int x;
    __asm("dp4a.s32.s32 %0, %1, %2, %3;" : "=r"(x) : "r"(a), "r"(b), "r"(sum));
    return x;
#elif defined(__opencl_c_integer_dot_product_input_4x8bit_packed)
    return sum + dot_4x8packed_ss_int(a, b);
#else
    char4 x = as_char4(a), y = as_char4(b);
    return sum + x.x * y.x + x.y * y.y + x.z * y.z + x.w * y.w;
#endif
}
/* The same where a is of unsigned bytes. */
static inline int dot_unsigned(akv_u32 a, akv_u32 b, int sum)
{
#if defined(__NV_CL_C_VERSION)
    int x;
    __asm("dp4a.u32.s32 %0, %1, %2, %3;" : "=r"(x) : "r"(a), "r"(b), "r"(sum));
    return x;
#elif defined(__opencl_c_integer_dot_product_input_4x8bit_packed)
    return sum + dot_4x8packed_us_int(a, b);
#else
    uchar4 x = as_uchar4(a);
    char4 y = as_char4(b);
    return sum + x.x * y.x + x.y * y.y + x.z * y.z + x.w * y.w;
#endif
}
/* Four signed codes, at most 32,000, as dot_16 wants them: in order, or low bytes and high bytes. */
static inline uint2 wide_codes(int a, int b, int c, int d)
{
#if defined(__NV_CL_C_VERSION)
    return (uint2)(((akv_u32)a & 0xFFFFu) | (akv_u32)b << 16, ((akv_u32)c & 0xFFFFu) | (akv_u32)d << 16);
#else
    int4 x = (int4)(a, b, c, d), low = x << 24 >> 24;
    return (uint2)(as_uint(convert_char4(low)), as_uint(convert_char4((x - low) >> 8)));
#endif
}
/* sum + the products of four such codes with four signed bytes. */
static inline int dot_16(uint2 a, akv_u32 b, int sum)
{
#if defined(__NV_CL_C_VERSION)
    int x, y;
    __asm("dp2a.lo.s32.s32 %0, %1, %2, %3;" : "=r"(x) : "r"(a.x), "r"(b), "r"(sum));
    __asm("dp2a.hi.s32.s32 %0, %1, %2, %3;" : "=r"(y) : "r"(a.y), "r"(b), "r"(x));
    return y;
#else
    return dot_8(a.x, b, sum) + dot_8(a.y, b, 0) * 256;
#endif
}

/* Integers below 2^22 to floats and back, nearest even, by the low bits of a float of 2^23 to 2^24. */
#define AS_FLOAT 0x4B400000
static inline float sum_of(int from_as_float)
{
    return as_float(from_as_float) - 0x1.8p23f;
}
static inline int rounded(float x)
{
    return as_int(x + 0x1.8p23f) - AS_FLOAT;
}

static inline int dot_32(uint4 a, const akv_u32 *b, int sum)
{
    return dot_8(a.w, b[3], dot_8(a.z, b[2], dot_8(a.y, b[1], dot_8(a.x, b[0], sum))));
}

/* Weight of a score x above the reference: e^x, 0 for NaN. */
static inline float weight_of(float x)
{
#if defined(__NV_CL_C_VERSION)
    return x == x ? native_exp2(x * AKV_LOG2E) : 0.0f; /* one instruction, to 2^-22 */
#else
    return akv_exp(x);
#endif
}
/* akv_code_unit. */
static inline float unit_of(akv_u32 format, akv_u32 scale)
{
    if (format == AKV_I8)
        return half_of(scale);
#ifdef AKV_DENORMALS
    return akv_as_f32(scale << 20) * 0x1p105f; /* exact, subnormals too */
#else
    return akv_code_unit(format, scale);
#endif
}

/* ---- four codes as the integers that they stand for, signed bytes ---- */
#if defined(__NV_CL_C_VERSION)
static inline akv_u32 permute(akv_u32 a, akv_u32 b, akv_u32 selector)
{
    akv_u32 x;
    __asm("prmt.b32 %0, %1, %2, %3;" : "=r"(x) : "r"(a), "r"(b), "r"(selector));
    return x;
}
/* Entries of four nibbles of a table of 16; bits of a selector from 16 on do not matter. */
static inline akv_u32 permute_16(akv_u32 t0, akv_u32 t1, akv_u32 t2, akv_u32 t3, akv_u32 nibbles, akv_u32 at)
{
    const akv_u32 low = nibbles & 0x77777777u, side = (nibbles >> 1 & 0x44444444u) | 0x32103210u;
    return permute(permute(t0, t1, low >> at), permute(t2, t3, low >> at), side >> at);
}
/* Bits 0 .. 3 to bit 0 of four nibbles, pairs of bits to nibbles. */
static inline akv_u32 spread_1(akv_u32 x)
{
    x = (x & 3u) | (x & 12u) << 6;
    return (x | x << 3) & 0x1111u;
}
static inline akv_u32 spread_2(akv_u32 x)
{
    x = (x & 15u) | (x & 240u) << 4;
    return (x | x << 2) & 0x3333u;
}
#define PAIRS(format) 1
#define FILL_PAIRS(to, format)
/* Codes from bit `at` of a word on, whose high bits are those of `high`. */
static inline akv_u32 four_bytes(akv_u32 format, akv_u32 word, akv_u32 at, akv_u32 high, __local const ushort *pairs)
{
    if (format == AKV_I8)
        return word;
    if (format == AKV_N4)
        return permute_16(0xC6B5A081u, 0xFAEEE1D4u, 0x2C1F1206u, 0x7F604B3Au, word, at);
    if (format == AKV_N3)
        return permute(0xF2D3B181u, 0x7F4F2D0Eu, spread_2(word >> at) | spread_1(high) << 2);
    if (format == AKV_N2)
        return permute(0x7F26DA81u, 0u, spread_2(word >> at));
    return permute(permute_16(0xB1A69781u, 0xD1CAC3BAu, 0xE8E3DDD7u, 0xFDF8F3EEu, word, at),
                   permute_16(0x120D0803u, 0x29231D18u, 0x463D362Fu, 0x7F695A4Fu, word, at),
                   spread_1(high) << 2 | 0x3210u);
}
#else
/* Entries of every pair of codes, in local memory. */
#define PAIRS(format)                                                                                   \
    ((format) == AKV_N5 ? 1024 : (format) == AKV_N4 ? 256 : (format) == AKV_N3 ? 64 : (format) == AKV_N2 ? 16 : 1)
static inline akv_u32 pair_code(akv_u32 format, akv_u32 i, akv_u32 second)
{
    const akv_u32 b0 = akv_format_plane0(format), b1 = akv_format_plane1(format);
    akv_u32 code = i >> (second * b0) & ((1u << b0) - 1u);
    if (b1)
        code |= (i >> (2u * b0 + second * b1) & ((1u << b1) - 1u)) << b0;
    return (akv_u32)akv_codebook_entry(format, code) & 255u;
}
#define FILL_PAIRS(to, format)                                                                          \
    for (i = item; i < (PAIRS(format) > 1 ? PAIRS(format) : 0); i += WG)                                \
        to[i] = (ushort)(pair_code(format, i, 0u) | pair_code(format, i, 1u) << 8);
static inline akv_u32 four_bytes(akv_u32 format, akv_u32 word, akv_u32 at, akv_u32 high, __local const ushort *pairs)
{
    const akv_u32 b0 = 2u * akv_format_plane0(format), b1 = 2u * akv_format_plane1(format);
    akv_u32 first, second;
    if (format == AKV_I8)
        return word;
    first = word >> at & ((1u << b0) - 1u);
    second = word >> at >> b0 & ((1u << b0) - 1u);
    if (b1) {
        first |= (high & ((1u << b1) - 1u)) << b0;
        second |= (high >> b1 & ((1u << b1) - 1u)) << b0;
    }
    return (akv_u32)pairs[first] | (akv_u32)pairs[second] << 16;
}
#endif

/* 32 codes as stored: a group of a key, or a unit of a quad. */
typedef struct codes_32 {
    akv_u32 low[8], high[1];
} codes_32;
static inline void load_packed_key(codes_32 *x, __global const uchar *tile, akv_u32 format, akv_u32 tokens, akv_u32 t,
                                   akv_u32 g)
{
    const akv_u32 b0 = akv_format_plane0(format);
    __global const uchar *at = tile + 4u * (t * b0 * GROUPS + g);
    akv_u32 j;
    if (format == AKV_I8) {
        __global const uint4 *from = (__global const uint4 *)(tile + t * KD + g * 32u);
        uint4 a = from[0], b = from[1];
        x->low[0] = a.x, x->low[1] = a.y, x->low[2] = a.z, x->low[3] = a.w;
        x->low[4] = b.x, x->low[5] = b.y, x->low[6] = b.z, x->low[7] = b.w;
        return;
    }
#pragma unroll
    for (j = 0u; j < b0; j++)
        x->low[j] = akv_load_u32(at + 4u * GROUPS * j);
    if (akv_format_plane1(format))
        x->high[0] = akv_load_u32(tile + akv_plane1_offset(format, tokens, KD) + 4u * (t * GROUPS + g));
}
static inline void load_packed_values(codes_32 *x, __global const uchar *tile, akv_u32 format, akv_u32 tokens,
                                      akv_u32 quad, akv_u32 u)
{
    unit_words(x->low, tile, akv_format_plane0(format), tokens, quad, u);
    if (akv_format_plane1(format))
        unit_words(x->high, tile + akv_plane1_offset(format, tokens, VD), akv_format_plane1(format), tokens, quad, u);
}
/* Elements 4 w .. 4 w + 3. */
static inline akv_u32 packed_bytes(const codes_32 *x, akv_u32 format, akv_u32 w, __local const ushort *pairs)
{
    const akv_u32 b0 = akv_format_plane0(format), at = w * 4u * b0;
    return four_bytes(format, x->low[at / 32u], at % 32u, x->high[0] >> (w * 4u), pairs);
}

/* ---- queries: 32 codes of (row, group), then their scale, at (row * GROUPS + group) * ASK_STEP ---- */
#define ASK_WIDE  (K1 == AKV_I8)
#define ASK_WORDS (ASK_WIDE ? 16 : 8)
#define ASK_STEP  (ASK_WORDS + 4) /* neighbours use different banks */
/* Codes of R queries, four elements at a time; `inexact` where they cannot stand for them.  most: R * KD / 4 floats. */
static inline void code_queries(__local akv_u32 *codes, __local uint *inexact, __local float *most,
                                __local const float *q, akv_u32 item)
{
    const float limit = ASK_WIDE ? 32000.0f : 127.0f;
    akv_u32 i, w;
    for (i = item; i < R * KD / 4; i += WG) {
        const float4 x = fabs(((__local const float4 *)q)[i]);
        if (!(x.x < 1e30f && x.y < 1e30f && x.z < 1e30f && x.w < 1e30f)) /* NaN, too */
            *inexact = 1u;
        most[i] = fmax(fmax(x.x, x.y), fmax(x.z, x.w));
    }
    barrier(CLK_LOCAL_MEM_FENCE);
    for (i = item; i < R * KD / 4 && !*inexact; i += WG) {
        const float4 x = ((__local const float4 *)q)[i];
        __local akv_u32 *to = codes + i / 8u * ASK_STEP;
        float all = 1e-30f, inverse;
        int a, b, c, d;
        for (w = 0u; w < 8u; w++)
            all = fmax(all, most[i / 8u * 8u + w]);
        inverse = limit / all;
        a = rounded(x.x * inverse), b = rounded(x.y * inverse), c = rounded(x.z * inverse), d = rounded(x.w * inverse);
        if (ASK_WIDE)
            ((__local uint2 *)to)[i % 8u] = wide_codes(a, b, c, d);
        else
            to[i % 8u] = (a & 255) | (b & 255) << 8 | (c & 255) << 16 | (d & 255) << 24;
        if (i % 8u == 0u)
            to[ASK_WORDS] = akv_as_u32(all / limit);
    }
    barrier(CLK_LOCAL_MEM_FENCE);
}

/* ---- weights: a segment is the two quads that a work-item sums ---- */
#define SEGMENTS (WG / UNITS)
#define SEGMENT_RUNS (WG / (4 * UNITS)) /* runs between two quads of a segment */
#define SCALES   (V1 == AKV_I8 ? (VD + 127) / 128 : VD / 32)
#define CODED    (R * SCALES * SEGMENTS) /* (row, scale, segment), at most a work-group */
/* The codes of a segment: 4 or 8 words. */
#define CODED_WIDE (V1 == AKV_I8)
#if CODED_WIDE
typedef uint4 coded_weights;
#define CODED_BITS 13u
#else
typedef uint2 coded_weights;
#define CODED_BITS 7u
#endif
/* The products of a segment's weights with one dimension of its quads. */
static inline float dot_weights(coded_weights w, akv_u32 first, akv_u32 second)
{
#if CODED_WIDE
    return (float)dot_16(w.zw, second, dot_16(w.xy, first, 0));
#else
    return sum_of(dot_unsigned(w.y, second, dot_unsigned(w.x, first, AS_FLOAT)));
#endif
}
static inline akv_u32 narrow_codes(const float *x, float factor)
{
    const akv_u32 a = as_uint(fmin(x[0] * factor, 255.0f) + 0x1p23f);
    const akv_u32 b = as_uint(fmin(x[1] * factor, 255.0f) + 0x1p23f);
    const akv_u32 c = as_uint(fmin(x[2] * factor, 255.0f) + 0x1p23f);
    const akv_u32 d = as_uint(fmin(x[3] * factor, 255.0f) + 0x1p23f);
#if defined(__NV_CL_C_VERSION)
    return permute(permute(a, b, 0x40u), permute(c, d, 0x40u), 0x5410u);
#else
    return (a & 255u) | (b & 255u) << 8 | (c & 255u) << 16 | d << 24;
#endif
}
/* The scales of quad n of a segment. */
typedef struct quad_scales {
    akv_u32 word[2];
} quad_scales;
static inline void load_quad_scales(quad_scales *x, __global const uchar *tile, akv_u32 tokens, akv_u32 quad,
                                    akv_u32 scale)
{
    const akv_u32 bytes = akv_scale_bytes(V1);
    __global const uchar *at = tile + akv_scale_offset(V1, tokens, VD) + (quad * SCALES + scale) * 4u * bytes;
    x->word[0] = akv_load_u32(at);
    if (bytes == 2u)
        x->word[1] = akv_load_u32(at + 4u);
}
/* Codes of a segment's weights times scales; returns the scale of the codes. */
static inline float code_weights(__local coded_weights *to, __local const float *weight, const quad_scales *scales,
                                 akv_u32 segment, akv_u32 r)
{
    float x[QUADS * 4], top = 0.0f, factor;
    akv_u32 n, i, exponent;
#pragma unroll
    for (n = 0u; n < QUADS; n++)
#pragma unroll
        for (i = 0u; i < 4u; i++) {
            const akv_u32 scale = akv_scale_bytes(V1) == 1u ? scales[n].word[0] >> (i * 8u) & 255u
                                                            : scales[n].word[i / 2u] >> (i % 2u * 16u) & 0xFFFFu;
            const akv_u32 token = (segment / 4u + n * SEGMENT_RUNS) * RUN + segment % 4u * 4u + i;
            x[n * 4u + i] = weight[token * R + r] * unit_of(V1, scale);
            top = fmax(top, x[n * 4u + i]);
        }
    /* The power of two that brings the largest to 2^CODED_BITS or up to twice that. */
    exponent = akv_as_u32(top) >> 23;
    exponent = exponent < 20u ? 20u : exponent;
    factor = akv_as_f32((254u + CODED_BITS - exponent) << 23);
#if CODED_WIDE
    *to = (uint4)(wide_codes(rounded(x[0] * factor), rounded(x[1] * factor), rounded(x[2] * factor),
                             rounded(x[3] * factor)),
                  wide_codes(rounded(x[4] * factor), rounded(x[5] * factor), rounded(x[6] * factor),
                             rounded(x[7] * factor)));
#else
    *to = (uint2)(narrow_codes(x, factor), narrow_codes(x + 4, factor));
#endif
    return akv_as_f32((exponent - CODED_BITS) << 23);
}

#ifdef AKV_MAP
/* ---- what scores regain of the keys' mean, turned to their positions.  Over the pairs i of the rotary embedding,
 * of frequencies f_i, a query times the mean at position z + t is
 *     sum_i x_i cos(t f_i) + y_i sin(t f_i),
 * (x, y) the query conj-multiplied with the mean, turned to z.  z is the middle of a chunk, half way between two
 * positions, and the two keys of a work-item stand as far before as behind it: the sum of the products with cosines
 * and of those with sines is one's, their difference the other's.  A slice of a key goes with as many pairs as would
 * fill it. ---- */
#define TURNS       (KD / 2)
#define TURNED_STEP 36 /* of (row, slice): 16 x, 16 y; neighbours use different banks */
#define REGAINED(n, r) regain[(n) * R + (r)]
/* Cosines and sines of 16 pairs at the distance of this work-item's keys, in fours: [4][cosines, sines][WG]. */
static inline void fill_angles(__local float4 *angles, __global const uchar *maps, __global const akv_map *map,
                               akv_u32 slice, akv_u32 key)
{
    akv_u64 turn[16];
    akv_u32 e, i;
#pragma unroll
    for (i = 0u; i < 16u; i++) { /* together on their way */
        const akv_u32 pair = slice * 16u + i;
        turn[i] = pair < map->pairs ? akv_map_turns(maps, map, pair) : 0u;
    }
#pragma unroll
    for (e = 0u; e < 4u; e++) {
        float c[4], s[4];
#pragma unroll
        for (i = 0u; i < 4u; i++) {
            const akv_u64 each = turn[e * 4u + i];
            const akv_turn at = akv_rope_turn((akv_u64)(CHUNK / 2 - 1u - key) * each + (each >> 1));
            c[i] = at.c;
            s[i] = at.s;
        }
        angles[e * 2u * WG] = (float4)(c[0], c[1], c[2], c[3]);
        angles[(e * 2u + 1u) * WG] = (float4)(s[0], s[1], s[2], s[3]);
    }
}
/* Queries times the mean, pair by pair for position 0, and of components that do not turn. */
static inline void meet_mean(__local float *met, __local float *rest, __local const float *q,
                             __global const uchar *maps, __global const akv_map *map, akv_u32 kv, akv_u32 item)
{
    const akv_u32 mean = map->mean + kv * KD * 2u;
    akv_u32 i, d;
    for (i = item; i < R * TURNS; i += WG) {
        const akv_u32 pair = i % TURNS;
        __local const float *row = q + i / TURNS * KD;
        float2 x = (float2)(0.0f, 0.0f);
        if (pair < map->pairs)
            x = meet_pair(maps, map, mean, pair, row[first_of(map, pair)], row[second_of(map, pair)]);
        met[i * 2u] = x.x;
        met[i * 2u + 1u] = x.y;
    }
    if (item < R) {
        rest[item] = 0.0f;
        for (d = 2u * map->pairs; d < KD; d++)
            rest[item] += q[item * KD + d] * akv_map_f16(maps, mean, d);
    }
}
/* x of a row's pair; its y is 16 further. */
static inline __local float *turned_at(__local float *turned, akv_u32 row, akv_u32 pair)
{
    return turned + (row * GROUPS + pair / 16u) * TURNED_STEP + pair % 16u;
}
/* To the middle of a chunk; turn: the frequency of pair item % TURNS. */
static inline void turn_means(__local float *turned, __local const float *met, akv_u64 turn, akv_u32 chunk,
                              akv_u32 item)
{
    const akv_turn at = akv_rope_turn((akv_u64)(chunk * CHUNK + CHUNK / 2 - 1u) * turn + (turn >> 1));
    akv_u32 i;
    for (i = item; i < R * TURNS; i += WG) {
        float2 x = turn_pair((float2)(met[i * 2u], met[i * 2u + 1u]), at);
        __local float *to = turned_at(turned, i / TURNS, i % TURNS);
        to[0] = x.x;
        to[16] = x.y;
    }
}
/* A chunk on. */
static inline void advance_means(__local float *turned, akv_turn forward, akv_u32 item)
{
    akv_u32 i;
    for (i = item; i < R * TURNS; i += WG) {
        __local float *at = turned_at(turned, i / TURNS, i % TURNS);
        float2 x = turn_pair((float2)(at[0], at[16]), forward);
        at[0] = x.x;
        at[16] = x.y;
    }
}
static inline float product_4(float4 a, float4 b, float sum)
{
    return MULTIPLY_ADD(a.w, b.w, MULTIPLY_ADD(a.z, b.z, MULTIPLY_ADD(a.y, b.y, MULTIPLY_ADD(a.x, b.x, sum))));
}
/* What the products of a slice of the two keys regain. */
static inline void regain_means(float *regain, __local const float *turned, __local const float4 *angles,
                                __local const float *rest, akv_u32 slice)
{
    float even[R], odd[R];
    akv_u32 r, e;
#pragma unroll
    for (r = 0u; r < R; r++) {
        even[r] = slice == 0u ? rest[r] : 0.0f;
        odd[r] = 0.0f;
    }
#pragma unroll
    for (e = 0u; e < 4u; e++) {
        const float4 c = angles[e * 2u * WG], s = angles[(e * 2u + 1u) * WG];
#pragma unroll
        for (r = 0u; r < R; r++) {
            __local const float4 *x = (__local const float4 *)(turned + (r * GROUPS + slice) * TURNED_STEP);
            even[r] = product_4(c, x[e], even[r]);
            odd[r] = product_4(s, x[4u + e], odd[r]);
        }
    }
#pragma unroll
    for (r = 0u; r < R; r++) {
        regain[r] = even[r] - odd[r];
        regain[R + r] = even[r] + odd[r];
    }
}
/* The inverse of a head's matrix. */
static inline __global const float *inverse_of(__global const uchar *maps, __global const akv_map *map, akv_u32 kv)
{
    return (__global const float *)(maps + akv_map_inverse_row(map, kv, KD, 0u));
}
/* x = W x of R rows, W the inverse [KD][KD] of a head: 8 work-items share a row of W, and two of them are on their way
 * at a time.  scratch: R * (KD + 2 * WG) floats.  Ends with a barrier. */
static inline void multiply_queries(__local float *x, __local float *scratch, __global const float *w, akv_u32 item)
{
    __local float *parts = scratch + R * KD;
    akv_u32 i, r, k, n;
    for (i = 0u; i < KD; i += WG / 4u) {
        float4 a[2][KD / 32];
#pragma unroll
        for (n = 0u; n < 2u; n++)
#pragma unroll
            for (k = 0u; k < KD / 32u; k++)
                a[n][k] = ((__global const float4 *)(w + (i + n * (WG / 8u) + item / 8u) * KD))[item % 8u + k * 8u];
#pragma unroll
        for (n = 0u; n < 2u; n++)
#pragma unroll
            for (r = 0u; r < R; r++) {
                float sum = 0.0f;
#pragma unroll
                for (k = 0u; k < KD / 32u; k++)
                    sum = product_4(a[n][k], ((__local const float4 *)(x + r * KD))[item % 8u + k * 8u], sum);
                parts[(r * 2u + n) * WG + item] = sum;
            }
        barrier(CLK_LOCAL_MEM_FENCE);
        if (item < R * (WG / 4u)) {
            float all = 0.0f;
            for (k = 0u; k < 8u; k++)
                all += parts[item * 8u + k];
            scratch[item / (WG / 4u) * KD + i + item % (WG / 4u)] = all;
        }
        barrier(CLK_LOCAL_MEM_FENCE);
    }
    for (i = item; i < R * KD; i += WG)
        x[i] = scratch[i];
    barrier(CLK_LOCAL_MEM_FENCE);
}
/* x = x W of R rows.  scratch: R * VD floats.  Ends with a barrier. */
static inline void multiply_sums(__local float *x, __local float *scratch, __global const float *w, akv_u32 item)
{
    akv_u32 i, r, k;
    for (i = item; i < VD; i += WG) {
        float sum[R];
#pragma unroll
        for (r = 0u; r < R; r++)
            sum[r] = 0.0f;
#pragma unroll 32
        for (k = 0u; k < VD; k++) {
            const float a = w[k * VD + i];
#pragma unroll
            for (r = 0u; r < R; r++)
                sum[r] = MULTIPLY_ADD(a, x[r * VD + k], sum[r]);
        }
#pragma unroll
        for (r = 0u; r < R; r++)
            scratch[r * VD + i] = sum[r];
    }
    barrier(CLK_LOCAL_MEM_FENCE);
    for (i = item; i < R * VD; i += WG)
        x[i] = scratch[i];
    barrier(CLK_LOCAL_MEM_FENCE);
}
#else
#define REGAINED(n, r) 0.0f
#endif
#endif
