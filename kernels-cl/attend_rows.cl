/* SPDX-License-Identifier: Apache-2.0 */
/* GPU shape: how its two kernels cut the work and read rows of any format.  For scores, a work-item of
 * attend_gpu.cl multiplies one slice of KE dimensions of a key with all query rows; for values it owns one
 * slice of VE dimensions of the sums.  Options: those of attend.cl. */
#if (defined(AKV_ATTEND) || defined(AKV_ATTEND_ONE)) && !defined(AKV_CPU_SHAPE)
#define KD AKV_KDIM
#define VD AKV_VDIM
#if AKV_KDIM <= 128
#define KE 8
#elif AKV_KDIM <= 256
#define KE 16
#else
#define KE 32
#endif
#if AKV_VDIM <= 128
#define VE 8
#elif AKV_VDIM <= 256
#define VE 16
#else
#define VE 32
#endif
#define KS ((KD + KE - 1) / KE) /* slices of a row */
#define VS ((VD + VE - 1) / VE)
#define KL (WG / KS) /* positions, or quads of them, at a time */
#define VL (WG / VS)
#if KS <= 8 && VS <= 8
#define T 64
#else
#define T 32
#endif
#define RUNS     (T / 16)
#define BATCH    8 /* runs that are looked up at a time; a multiple of RUNS */
#define SCORES   ((R * T + WG - 1) / WG) /* scores of a work-item */
#define PARTIALS (R * T * (KS + 1))      /* one more: neighbours use different banks */
#ifdef AKV_MAP
#define LEAST    (RUNS * R * KD > 2 * R * VD ? RUNS * R * KD : 2 * R * VD)
#else
#define LEAST    (R * VD)
#endif
#define SHARED   (PARTIALS > LEAST ? PARTIALS : LEAST)

/* Formats of kinds 0 and 1 are known to the compiler where the build says so. */
#ifdef AKV_TWO_KINDS
#define K_FORMAT(kind) ((kind) ? K1 : K0)
#define V_FORMAT(kind) ((kind) ? V1 : V0)
#else
#define K_FORMAT(kind) (p.tiles.k_format[kind])
#define V_FORMAT(kind) (p.tiles.v_format[kind])
#endif
#define HELD   0x80000000u
#define TURNED (AKV_FLAG_ROTATE | AKV_FLAG_MAP)

/* Codebooks as floats, one after the other: N5, N4, N3, N2. */
static inline akv_u32 book_start(akv_u32 format)
{
    return 64u - (64u >> (format - AKV_N5));
}
static inline void fill_books(__local float *book, akv_u32 item)
{
    akv_u32 format = item < 32u ? AKV_N5 : item < 48u ? AKV_N4 : item < 56u ? AKV_N3 : AKV_N2;
    if (item < 60u)
        book[item] = (float)akv_codebook_entry(format, item - book_start(format));
}
static inline float code_float(akv_u32 format, akv_u32 code, __local const float *book)
{
    if (format == AKV_I8)
        return (float)((akv_i32)(code ^ 0x80u) - 128);
    if (format == AKV_N6)
        return (float)((akv_i32)code - 32);
    if (akv_format_e4m3(format))
        return akv_as_f32(akv_f32_from_e4m3(code));
    return book[book_start(format) + code];
}
/* Exact, subnormals, infinities and NaN included. */
static inline float half_float(akv_u32 h)
{
#ifdef AKV_DENORMALS
    akv_u32 magnitude = (h & 0x7FFFu) << 13, sign = (h & 0x8000u) << 16;
    float value = akv_as_f32(sign | magnitude) * 0x1p112f;
    return magnitude >= 0x0F800000u ? akv_as_f32(sign | magnitude | 0x7F800000u) : value;
#else
    return akv_as_f32(akv_f32_from_f16(h));
#endif
}
/* 8 elements of a raw row at byte address p, a multiple of 16. */
static inline void raw_8(float *x, __global const uchar *at, akv_u32 format)
{
    uint4 a = *(__global const uint4 *)at, b;
    if (format == AKV_F16) {
        x[0] = half_float(a.x & 0xFFFFu);
        x[1] = half_float(a.x >> 16);
        x[2] = half_float(a.y & 0xFFFFu);
        x[3] = half_float(a.y >> 16);
        x[4] = half_float(a.z & 0xFFFFu);
        x[5] = half_float(a.z >> 16);
        x[6] = half_float(a.w & 0xFFFFu);
        x[7] = half_float(a.w >> 16);
    } else if (format == AKV_BF16) {
        x[0] = akv_as_f32(a.x << 16);
        x[1] = akv_as_f32(a.x & 0xFFFF0000u);
        x[2] = akv_as_f32(a.y << 16);
        x[3] = akv_as_f32(a.y & 0xFFFF0000u);
        x[4] = akv_as_f32(a.z << 16);
        x[5] = akv_as_f32(a.z & 0xFFFF0000u);
        x[6] = akv_as_f32(a.w << 16);
        x[7] = akv_as_f32(a.w & 0xFFFF0000u);
    } else {
        b = *(__global const uint4 *)(at + 16);
        x[0] = akv_as_f32(a.x);
        x[1] = akv_as_f32(a.y);
        x[2] = akv_as_f32(a.z);
        x[3] = akv_as_f32(a.w);
        x[4] = akv_as_f32(b.x);
        x[5] = akv_as_f32(b.y);
        x[6] = akv_as_f32(b.z);
        x[7] = akv_as_f32(b.w);
    }
}
/* Dimensions d .. d + 7 of key t, without its unit. */
static inline void key_8(float *x, __global const uchar *tile, akv_u32 format, akv_u32 tokens, akv_u32 t,
                         akv_u32 d, __local const float *book)
{
    akv_u32 b0 = akv_format_plane0(format), b1 = akv_format_plane1(format), g = d / 32u, e = d % 32u, i;
    akv_u32 low, high = 0u;
    if (akv_format_blocks(format)) {
        for (i = 0u; i < 8u; i++)
            x[i] = akv_block_element(tile, format, KD, t, g, e + i);
        return;
    }
    if (b0 == 8u) {
        uint2 w = *(__global const uint2 *)(tile + t * akv_padded_dim(KD) + d);
        for (i = 0u; i < 4u; i++) {
            x[i] = code_float(format, (w.x >> (i * 8u)) & 255u, book);
            x[i + 4u] = code_float(format, (w.y >> (i * 8u)) & 255u, book);
        }
        return;
    }
    low = akv_load_u32(tile + 4u * (akv_row_word(b0, KD, t, g) + e * b0 / 32u * akv_row_step(b0, KD))) >>
          (e * b0 % 32u);
    if (b1)
        high = akv_load_u32(tile + akv_plane1_offset(format, tokens, KD) +
                            4u * (akv_row_word(b1, KD, t, g) + e * b1 / 32u * akv_row_step(b1, KD))) >>
               (e * b1 % 32u);
    for (i = 0u; i < 8u; i++) {
        akv_u32 code = (low >> (i * b0)) & ((1u << b0) - 1u);
        if (b1)
            code |= ((high >> (i * b1)) & ((1u << b1) - 1u)) << b0;
        x[i] = code_float(format, code, book);
    }
}
/* The words of a unit of a plane: 8 dimensions of a quad. */
static inline void unit_words(akv_u32 *w, __global const uchar *plane, akv_u32 bits, akv_u32 tokens,
                              akv_u32 quad, akv_u32 u)
{
    __global const uchar *at = plane + 4u * akv_quad_word(bits, tokens, quad, u);
    if (bits == 1u) {
        w[0] = akv_load_u32(at);
    } else if (bits == 2u) {
        uint2 a = *(__global const uint2 *)at;
        w[0] = a.x;
        w[1] = a.y;
    } else {
        uint4 a = *(__global const uint4 *)at;
        w[0] = a.x;
        w[1] = a.y;
        w[2] = a.z;
        w[3] = a.w;
        if (bits == 8u) {
            a = *(__global const uint4 *)(at + 16);
            w[4] = a.x;
            w[5] = a.y;
            w[6] = a.z;
            w[7] = a.w;
        }
    }
}
/* sums of rows += weight * values of unit u of a quad.  weight: R rows of four positions. */
static inline void add_unit(float *sum, const float *weight, __global const uchar *tile, akv_u32 format,
                            akv_u32 tokens, akv_u32 t, akv_u32 u, bool careful, __local const float *book)
{
    akv_u32 b0 = akv_format_plane0(format), b1 = akv_format_plane1(format), low[8], high[2], n, i, r;
    bool blocks = akv_format_blocks(format);
    if (!blocks)
        unit_words(low, tile, b0, tokens, t >> 2, u);
    if (!blocks && b1)
        unit_words(high, tile + akv_plane1_offset(format, tokens, VD), b1, tokens, t >> 2, u);
    for (n = 0u; n < 4u; n++) {
        float unit = blocks ? 1.0f
                            : akv_code_unit(format, akv_scale_get(tile, format, AKV_ORDER_QUAD, tokens, VD, t + n,
                                                                  u * 8u / akv_scale_width(format)));
        float x[8], w[R];
        for (i = 0u; blocks && i < 8u; i++)
            x[i] = akv_block_element(tile, format, VD, t + n, u / 4u, u % 4u * 8u + i);
        for (i = 0u; !blocks && i < 8u; i++) {
            akv_u32 e = i * 4u + n;
            akv_u32 code = (low[e * b0 / 32u] >> (e * b0 % 32u)) & ((1u << b0) - 1u);
            if (b1)
                code |= ((high[e * b1 / 32u] >> (e * b1 % 32u)) & ((1u << b1) - 1u)) << b0;
            x[i] = code_float(format, code, book);
        }
        for (r = 0u; r < R; r++) {
            w[r] = weight[r * 4u + n] * unit;
            if (!careful || weight[r * 4u + n] != 0.0f)
                for (i = 0u; i < 8u; i++)
                    sum[r * VE + i] = MULTIPLY_ADD(w[r], x[i], sum[r * VE + i]);
        }
    }
}
static inline void add_raw(float *sum, const float *weight, __global const uchar *tile, akv_u32 format,
                           akv_u32 t, akv_u32 u, bool careful)
{
    akv_u32 n, i, r;
    float x[4][8];
    for (n = 0u; n < 4u; n++)
        raw_8(x[n], tile + ((t + n) * VD + u * 8u) * akv_raw_bytes(format), format);
    for (n = 0u; n < 4u; n++)
        for (r = 0u; r < R; r++)
            if (!careful || weight[r * 4u + n] != 0.0f)
                for (i = 0u; i < 8u; i++)
                    sum[r * VE + i] = MULTIPLY_ADD(weight[r * 4u + n], x[n][i], sum[r * VE + i]);
}
/* akv_rotate_read of R rows in local memory, three stages at a time.  Ends with a barrier. */
static inline void rotate_local(__local float *x, akv_u32 dim, akv_u32 item)
{
    const akv_u32 n = akv_rotate_block(dim);
    const float factor = akv_rotate_read_factor(dim);
    akv_u32 stride, i, j, s;
#pragma unroll
    for (stride = 1u; stride < n; stride *= 8u) {
        const akv_u32 count = AKV_MIN(n / stride, 8u);
        for (i = item; i < R * dim / count; i += WG) {
            __local float *from = x + i / stride * count * stride + i % stride;
            float e[8];
#pragma unroll
            for (j = 0u; j < 8u; j++)
                e[j] = j < count ? from[j * stride] : 0.0f;
#pragma unroll
            for (s = 1u; s < 8u; s *= 2u)
                if (s < count)
                    akv_rotate_stage(e, 8u, s);
#pragma unroll
            for (j = 0u; j < 8u; j++)
                if (j < count)
                    from[j * stride] = stride * count < n ? e[j] : e[j] * factor;
        }
        barrier(CLK_LOCAL_MEM_FENCE);
    }
}

#ifdef AKV_ATTEND_ONE
/* ---- how attend_one.cl cuts the work ---- */
#define GROUPS (KD / 32)
#ifdef AKV_DOT
#define SLICE  32 /* dimensions of a slice */
#define CHUNK  (8192 / KD) /* two keys and two quads a work-item; KD == VD */
#define KEY_AT(n) ((n) ? CHUNK - 1u - key : key)
#else
#define SLICE  8
#define CHUNK  (R * KD <= 256 || VD == 64 ? 64 : 32)
#define KEY_AT(n) ((n) * KP + key)
#endif
#define SLICES (KD / SLICE)
#define UNITS  (VD / 8)
#define KP     (WG / SLICES) /* keys at a time */
#define VP     (WG / UNITS)  /* 16-bit rows of values at a time */
#define FAR 16.0f
#define HELD_RUNS 64         /* runs that are looked up at a time */
#define CHUNK_RUNS (CHUNK / 16)
#define KEYS   (CHUNK / KP)                      /* keys of a work-item in a chunk */
#define TOGETHER (KEYS < 4 ? KEYS : 4)           /* of those, how many are loaded together */
#define ROWS   (CHUNK / VP)                      /* 16-bit rows of values */
#define QUADS  (CHUNK / 4 * UNITS / WG)          /* units of values, at least one */
#define VALUES (ROWS > QUADS ? ROWS : QUADS)
#define PRODUCTS (R * CHUNK * (SLICES + 1))      /* one more: neighbours use different banks */
/* Floats for products, for sums, and for the queries' way through a matrix. */
#define SHARED_ONE (PRODUCTS > WG * 8 ? PRODUCTS : WG * 8)
#ifdef AKV_MAP
#define ROOM_ONE (R * (KD + 2 * WG) > SHARED_ONE ? R * (KD + 2 * WG) : SHARED_ONE)
#else
#define ROOM_ONE SHARED_ONE
#endif
#define OWN_QUERIES ((R * KD + WG - 1) / WG)     /* elements of queries that a work-item loads */
#define WEIGHTS  ((R * CHUNK + WG - 1) / WG)     /* of a work-item */

static inline float half_of(akv_u32 h)
{
#ifdef __NV_CL_C_VERSION
    float x;
    ushort bits = (ushort)h;
    __asm("cvt.f32.f16 %0, %1;" : "=f"(x) : "h"(bits));
    return x;
#else
    return half_float(h);
#endif
}
#endif
#endif
