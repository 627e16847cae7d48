/* SPDX-License-Identifier: Apache-2.0 */
/* Quantize family on CUDA, whole blocks of the pool: seal, reencode, shift.  EXACT: built with -fmad=false. */
#include "quant.cuh"

/* Codes and scale of group g of row `base` + `at` of a tile; QUAD codes go to `codes`, see put_quads. */
template <int F>
AKV_FN void put_group(akv_u8 *dst, akv_u32 tokens, akv_u32 dim, akv_u32 order, akv_u32 base, akv_u32 at, akv_u32 g,
                      const akv_u8 *code, akv_u32 scale, akv_u8 *codes)
{
    akv_u32 width = akv_scale_width(F) / 32u, dp = akv_padded_dim(dim);
    if (akv_format_blocks(F)) {
        akv_block_put(dst, F, dim, base + at, g, code, scale);
        return;
    }
    if (order == AKV_ORDER_ROW) {
        akv_row_put(dst, F, tokens, dim, base + at, g, code);
    } else {
#pragma unroll
        for (int w = 0; w < 8; w++)
            *(akv_u32 *)(codes + at * dp + g * 32u + 4u * w) = akv_plane_word(code, 8u, 0u, w);
    }
    if (g % width == 0u)
        akv_scale_put(dst, F, order, tokens, dim, base + at, g / width, scale);
}
/* The codes of 16 rows to their quads. */
template <int F> AKV_FN void put_quads(akv_u8 *dst, akv_u32 tokens, akv_u32 dim, akv_u32 base, const akv_u8 *codes)
{
    akv_u32 dp = akv_padded_dim(dim);
    __syncthreads();
    for (akv_u32 w = threadIdx.x; w < dp / 8u * 4u; w += blockDim.x) {
        akv_u32 unit = w >> 2, quad = w & 3u;
        akv_u8 code[32];
#pragma unroll
        for (int e = 0; e < 32; e++)
            code[e] = codes[(quad * 4u + (e & 3)) * dp + unit * 8u + (e >> 2)];
        akv_quad_put(dst, F, tokens, dim, base / 4u + quad, unit, code);
    }
    __syncthreads();
}

/* seal: a thread block takes one tile (move, layer, kv head) of one side, 16 rows at a time. */
template <int F, bool SEARCH, bool MAP>
AKV_FN void seal_tile(const akv_u8 *src, akv_u8 *dst, akv_u32 hot, akv_u32 tokens, akv_u32 dim,
                      akv_u32 rotate, akv_u32 order, akv_u32 *flags, stage *stages, akv_u8 *codes,
                      const akv_u8 *steps, akv_cu_origin origin)
{
    akv_u32 warp = threadIdx.x >> 5, lane = threadIdx.x & 31u;
    akv_u32 groups = akv_padded_dim(dim) / 32u, per = 32u / groups, saw = 0u;
    for (akv_u32 base = 0u; base < tokens; base += 16u) {
        for (akv_u32 at = warp * per; at < 16u; at += WARPS * per) {
            akv_u32 first = base + at, count = AKV_MIN(per, 16u - at);
            saw |= stage_rows(
                stages[warp], src, hot, dim, count,
                [&](akv_u32 row) { return (akv_u64)(first + row) * dim; }, (dim & 7u) == 0u, true);
            if (MAP) {
                origin.number = first;
                map_store(stages[warp].x, origin, dim, count);
            }
            akv_u32 row = lane / groups, g = lane % groups;
            float x[32];
            take_group(x, stages[warp].x);
            __syncwarp();
            akv_u8 code[32];
            akv_u32 scale = quantise_group<F, SEARCH>(x, dim, rotate, lane, steps, code);
            if (row < count)
                put_group<F>(dst, tokens, dim, order, base, at + row, g, code, scale, codes);
        }
        if (order == AKV_ORDER_QUAD && !akv_format_blocks(F))
            put_quads<F>(dst, tokens, dim, base, codes);
    }
    if (threadIdx.x == 0u)
        akv_tile_padding(dst, F, tokens, dim);
    if (saw)
        atomicOr(flags, saw);
}

/* Blocks: x = (move * layers + layer) * kv_heads + head.  One launch a side. */
template <int F, bool SEARCH, int SIDE, bool MAP> AKV_FN void seal(const akv_seal_params &p, const akv_cu_args &a)
{
    __shared__ stage stages[WARPS];
    __shared__ alignas(16) akv_u8 codes[16 * AKV_MAX_HEAD_DIM];
    __shared__ alignas(16) akv_u8 steps[sizeof(code_steps<F>)];
    put_steps<F>(steps, steps_piece<F>());
    akv_u32 head = blockIdx.x % p.kv_heads, rest = blockIdx.x / p.kv_heads;
    akv_u32 layer = rest % p.layers, move = rest / p.layers;
    akv_move m = ((const akv_move *)a.arg[1])[move];
    akv_seal_layer l = ((const akv_seal_layer *)a.arg[0])[layer];
    akv_u32 dim = SIDE ? p.v_dim : p.k_dim;
    const akv_u8 *src = akv_cu_at(a, m.src) + (SIDE ? l.src_v : l.src_k) +
                        head * akv_tile_bytes(p.hot_type, p.block_tokens, dim);
    akv_u8 *dst = akv_cu_at(a, m.dst) + (SIDE ? l.dst_v : l.dst_k) + head * akv_tile_bytes(F, p.block_tokens, dim);
    akv_u32 flags = SIDE ? p.v_flags : p.k_flags, rotate = flags & AKV_FLAG_ROTATE;
    akv_cu_origin origin = {0, SIDE ? l.v_map : l.k_map, head, 1u, m.position, 0u, 1u};
    if (MAP) {
        origin.maps = a.arg[3];
        rotate = akv_map_rotates(akv_map_at(origin.maps, origin.map));
    }
    seal_tile<F, SEARCH, MAP>(src, dst, p.hot_type, p.block_tokens, dim, rotate, SIDE ? AKV_ORDER_QUAD : AKV_ORDER_ROW,
                         (akv_u32 *)a.arg[2], stages, codes, steps, origin);
}
template <int SIDE> AKV_FN void seal_raw(const akv_seal_params &p, const akv_cu_args &a)
{
    akv_u32 head = blockIdx.x % p.kv_heads, rest = blockIdx.x / p.kv_heads;
    akv_u32 layer = rest % p.layers, move = rest / p.layers;
    akv_move m = ((const akv_move *)a.arg[1])[move];
    akv_seal_layer l = ((const akv_seal_layer *)a.arg[0])[layer];
    akv_u32 dim = SIDE ? p.v_dim : p.k_dim, format = SIDE ? p.v_format : p.k_format;
    const akv_u8 *src = akv_cu_at(a, m.src) + (SIDE ? l.src_v : l.src_k) +
                        head * akv_tile_bytes(p.hot_type, p.block_tokens, dim);
    akv_u8 *dst =
        akv_cu_at(a, m.dst) + (SIDE ? l.dst_v : l.dst_k) + head * akv_tile_bytes(format, p.block_tokens, dim);
    for (akv_u32 e = threadIdx.x; e < p.block_tokens * dim; e += blockDim.x)
        akv_convert_element(dst, e, format, src, e, p.hot_type);
    if (threadIdx.x == 0u)
        akv_tile_padding(dst, format, p.block_tokens, dim);
}
#define SEAL_SIDE(name, F, SEARCH, SIDE, MAP)                                                          \
    extern "C" __global__ void __launch_bounds__(WARPS * 32)                                           \
        akv_k_seal_##name(const __grid_constant__ akv_seal_params p, const __grid_constant__ akv_cu_args a) \
    {                                                                                                  \
        seal<F, SEARCH, SIDE, MAP>(p, a);                                                              \
    }
#define SEAL(name, F, SEARCH)                                                                          \
    SEAL_SIDE(k_##name, F, SEARCH, 0, false)                                                           \
    SEAL_SIDE(k_##name##_map, F, SEARCH, 0, true)                                                      \
    SEAL_SIDE(v_##name, F, SEARCH, 1, false)                                                           \
    SEAL_SIDE(v_##name##_map, F, SEARCH, 1, true)
SEAL(i8, AKV_I8, false)
SEAL(n6, AKV_N6, false)
SEAL(n5, AKV_N5, false)
SEAL(n4, AKV_N4, false)
SEAL(n3, AKV_N3, false)
SEAL(n2, AKV_N2, false)
SEAL(e4m3, AKV_E4M3, false)
SEAL(e4m3g, AKV_E4M3G, false)
SEAL(q8_0, AKV_Q8_0, false)
SEAL(q5_1, AKV_Q5_1, false)
SEAL(q5_0, AKV_Q5_0, false)
SEAL(q4_1, AKV_Q4_1, false)
SEAL(q4_0, AKV_Q4_0, false)
SEAL(iq4_nl, AKV_IQ4_NL, false)
SEAL(n5_search, AKV_N5, true)
SEAL(n4_search, AKV_N4, true)
SEAL(n3_search, AKV_N3, true)
SEAL(n2_search, AKV_N2, true)
extern "C" __global__ void __launch_bounds__(WARPS * 32) akv_k_seal_k_raw(const __grid_constant__ akv_seal_params p,
                                                                          const __grid_constant__ akv_cu_args a)
{
    seal_raw<0>(p, a);
}
extern "C" __global__ void __launch_bounds__(WARPS * 32) akv_k_seal_v_raw(const __grid_constant__ akv_seal_params p,
                                                                          const __grid_constant__ akv_cu_args a)
{
    seal_raw<1>(p, a);
}

/* reencode: thread blocks as for seal; the source format is known at run time only. */
template <int F, bool SEARCH>
AKV_FN void reencode_tile(const akv_u8 *src, akv_u8 *dst, akv_u32 source, akv_u32 tokens, akv_u32 dim,
                          akv_u32 order, akv_u32 *flags, akv_u8 *codes, const akv_u8 *steps)
{
    akv_u32 warp = threadIdx.x >> 5, lane = threadIdx.x & 31u, saw = 0u;
    akv_u32 groups = akv_padded_dim(dim) / 32u, per = 32u / groups, row = lane / groups, g = lane % groups;
    for (akv_u32 base = 0u; base < tokens; base += 16u) {
        for (akv_u32 at = warp * per; at < 16u; at += WARPS * per) {
            akv_u32 t = base + at + row, count = AKV_MIN(per, 16u - at), begin = g * 32u;
            float x[32];
#pragma unroll
            for (int i = 0; i < 32; i++)
                x[i] = 0.0f;
            if (row < count) {
                akv_u32 raw = akv_format_raw(source);
                for (int i = 0; i < 32; i++) {
                    akv_u32 bits = 0u;
                    if (begin + i < dim)
                        bits = raw ? akv_load_bits(src, (akv_u64)t * dim + begin + i, source)
                                   : akv_as_u32(akv_tile_value(src, source, order, tokens, dim, t, begin + i));
                    saw |= akv_saw(bits);
                    x[i] = akv_as_f32(akv_sane(bits));
                }
            }
            akv_u8 code[32];
            akv_u32 scale = quantise_group<F, SEARCH>(x, dim, 0u, lane, steps, code);
            if (row < count)
                put_group<F>(dst, tokens, dim, order, base, at + row, g, code, scale, codes);
        }
        if (order == AKV_ORDER_QUAD && !akv_format_blocks(F))
            put_quads<F>(dst, tokens, dim, base, codes);
    }
    if (threadIdx.x == 0u)
        akv_tile_padding(dst, F, tokens, dim);
    if (saw)
        atomicOr(flags, saw);
}
/* The tiles of this thread block: one source, one destination. */
template <int SIDE>
AKV_FN void reencode_place(const akv_reencode_params &p, const akv_cu_args &a, const akv_u8 **src, akv_u8 **dst)
{
    akv_u32 head = blockIdx.x % p.kv_heads, rest = blockIdx.x / p.kv_heads;
    akv_move m = ((const akv_move *)a.arg[1])[rest / p.layers];
    akv_seal_layer l = ((const akv_seal_layer *)a.arg[0])[rest % p.layers];
    akv_u32 dim = SIDE ? p.v_dim : p.k_dim;
    *src = akv_cu_at(a, m.src) + (SIDE ? l.src_v : l.src_k) +
           head * akv_tile_bytes(SIDE ? p.v_source : p.k_source, p.block_tokens, dim);
    *dst = akv_cu_at(a, m.dst) + (SIDE ? l.dst_v : l.dst_k) +
           head * akv_tile_bytes(SIDE ? p.v_format : p.k_format, p.block_tokens, dim);
}
template <int F, bool SEARCH, int SIDE> AKV_FN void reencode(const akv_reencode_params &p, const akv_cu_args &a)
{
    __shared__ alignas(16) akv_u8 codes[16 * AKV_MAX_HEAD_DIM];
    __shared__ alignas(16) akv_u8 steps[sizeof(code_steps<F>)];
    const akv_u8 *src;
    akv_u8 *dst;
    reencode_place<SIDE>(p, a, &src, &dst);
    put_steps<F>(steps, steps_piece<F>());
    reencode_tile<F, SEARCH>(src, dst, SIDE ? p.v_source : p.k_source, p.block_tokens, SIDE ? p.v_dim : p.k_dim,
                             SIDE ? AKV_ORDER_QUAD : AKV_ORDER_ROW, (akv_u32 *)a.arg[2], codes, steps);
}
/* A side whose formats are the same. */
template <int SIDE> AKV_FN void reencode_same(const akv_reencode_params &p, const akv_cu_args &a)
{
    const akv_u8 *src;
    akv_u8 *dst;
    reencode_place<SIDE>(p, a, &src, &dst);
    akv_u32 bytes = akv_tile_bytes(SIDE ? p.v_format : p.k_format, p.block_tokens, SIDE ? p.v_dim : p.k_dim);
    for (akv_u32 i = threadIdx.x; i < bytes / 16u; i += blockDim.x)
        ((uint4 *)dst)[i] = ((const uint4 *)src)[i];
}
#define REENCODE_SIDE(name, side, call)                                                                \
    extern "C" __global__ void __launch_bounds__(WARPS * 32) akv_k_reencode_##side##_##name(           \
        const __grid_constant__ akv_reencode_params p, const __grid_constant__ akv_cu_args a)          \
    {                                                                                                  \
        call(p, a);                                                                                    \
    }
#define REENCODE(name, F, SEARCH)                                                                      \
    REENCODE_SIDE(name, k, (reencode<F, SEARCH, 0>))                                                   \
    REENCODE_SIDE(name, v, (reencode<F, SEARCH, 1>))
REENCODE(i8, AKV_I8, false)
REENCODE(n6, AKV_N6, false)
REENCODE(n5, AKV_N5, false)
REENCODE(n4, AKV_N4, false)
REENCODE(n3, AKV_N3, false)
REENCODE(n2, AKV_N2, false)
REENCODE(e4m3, AKV_E4M3, false)
REENCODE(e4m3g, AKV_E4M3G, false)
REENCODE(q8_0, AKV_Q8_0, false)
REENCODE(q5_1, AKV_Q5_1, false)
REENCODE(q5_0, AKV_Q5_0, false)
REENCODE(q4_1, AKV_Q4_1, false)
REENCODE(q4_0, AKV_Q4_0, false)
REENCODE(iq4_nl, AKV_IQ4_NL, false)
REENCODE(n5_search, AKV_N5, true)
REENCODE(n4_search, AKV_N4, true)
REENCODE(n3_search, AKV_N3, true)
REENCODE(n2_search, AKV_N2, true)
REENCODE_SIDE(same, k, (reencode_same<0>))
REENCODE_SIDE(same, v, (reencode_same<1>))

/* shift: a thread block takes the tile of one (block, kv head), a warp R rows at a time, in place: all lanes
 * of a row have read it before one writes.  F: AKV_F32 stands for the raw formats. */
template <int F, bool SEARCH, bool MAP> AKV_FN void shift(const akv_shift_params &p, const akv_cu_args &a)
{
    __shared__ stage stages[WARPS];
    __shared__ alignas(16) akv_u8 steps[sizeof(code_steps<F>)];
    akv_u32 warp = threadIdx.x >> 5, lane = threadIdx.x & 31u, saw = 0u, dim = p.dim;
    akv_u32 groups = akv_padded_dim(dim) / 32u, per = 32u / groups, row = lane / groups, g = lane % groups;
    akv_u32 head = blockIdx.x % p.kv_heads, entry = ((const akv_u32 *)a.arg[0])[blockIdx.x / p.kv_heads];
    if (entry == AKV_NO_BLOCK || entry >> 28 != p.kind)
        return;
    put_steps<F>(steps, steps_piece<F>());
    akv_u32 raw = akv_format_raw(F), format = raw ? p.format : (akv_u32)F, rotate = p.flags & AKV_FLAG_ROTATE;
    akv_u8 *tile = akv_cu_at(a, akv_block_address(&p.pool, entry)) + p.offset +
                   (akv_u64)head * akv_tile_bytes(format, p.block_tokens, dim);
    const akv_map *map = MAP ? akv_map_at(a.arg[2], p.map) : 0;
    bool matrix = MAP && map->transform == AKV_TRANSFORM_MATRIX;
    if (MAP)
        rotate = akv_map_rotates(map);
    float *s = stages[warp].x;
    for (akv_u32 at = warp * per; at < p.block_tokens; at += WARPS * per) {
        akv_u32 count = AKV_MIN(per, p.block_tokens - at);
        float x[32];
#pragma unroll
        for (int i = 0; i < 32; i++)
            x[i] = 0.0f;
        for (akv_u32 i = 0u; row < count && i < 32u && g * 32u + i < dim; i++) {
            akv_u32 bits = raw ? akv_load_bits(tile, (akv_u64)(at + row) * dim + g * 32u + i, format)
                               : akv_as_u32(akv_tile_value(tile, format, AKV_ORDER_ROW, p.block_tokens, dim, at + row,
                                                           g * 32u + i));
            if (raw) {
                saw |= akv_saw(bits);
                bits = akv_sane(bits);
            }
            x[i] = akv_as_f32(bits);
        }
        if (!raw && rotate) {
            float factor = akv_rotate_read_factor(dim);
            rotate_groups(x, dim, lane);
#pragma unroll
            for (int i = 0; i < 32; i++)
                x[i] = x[i] * factor;
        }
#pragma unroll
        for (int i = 0; i < 32; i++)
            s[lane * PITCH + i] = x[i];
        __syncwarp();
        if (matrix)
            stage_multiply<false>(s, a.arg[2] + akv_map_inverse_row(map, head, dim, 0u), dim, count);
        for (akv_u32 r = 0u; r < count; r++) {
            for (akv_u32 i = lane; i < p.pairs; i += 32u) {
                akv_turn turn = akv_rope_turn(akv_shift_phase(a.arg[3], i));
                float *u = stage_element(s, groups, r, p.rope == AKV_ROPE_HALF ? i : 2u * i);
                float *v = stage_element(s, groups, r, p.rope == AKV_ROPE_HALF ? i + p.pairs : 2u * i + 1u);
                float first = akv_rope_first(turn, *u, *v), second = akv_rope_second(turn, *u, *v);
                *u = first;
                *v = second;
            }
            __syncwarp();
            for (akv_u32 i = lane; i < dim; i += 32u) {
                float *y = stage_element(s, groups, r, i);
                *y = akv_as_f32(akv_sane(akv_as_u32(*y)));
                if (raw)
                    akv_store_bits(tile, (akv_u64)(at + r) * dim + i, format, akv_as_u32(*y));
            }
            __syncwarp();
        }
        if (matrix)
            stage_multiply<true>(s, a.arg[2] + akv_map_matrix_row(map, head, dim, 0u), dim, count);
        if (!raw) {
#pragma unroll
            for (int i = 0; i < 32; i++)
                x[i] = row < count && g * 32u + i < dim ? s[lane * PITCH + i] : 0.0f;
            __syncwarp();
            akv_u8 code[32];
            akv_u32 scale = quantise_group<F, SEARCH>(x, dim, rotate, lane, steps, code);
            if (row < count)
                put_group<F>(tile, p.block_tokens, dim, AKV_ORDER_ROW, 0u, at + row, g, code, scale, (akv_u8 *)0);
        }
    }
    if (saw)
        atomicOr((akv_u32 *)a.arg[1], saw);
}
#define SHIFT_MAP(name, F, SEARCH, MAP)                                                                \
    extern "C" __global__ void __launch_bounds__(WARPS * 32) akv_k_shift_##name(                       \
        const __grid_constant__ akv_shift_params p, const __grid_constant__ akv_cu_args a)             \
    {                                                                                                  \
        shift<F, SEARCH, MAP>(p, a);                                                                   \
    }
#define SHIFT(name, F, SEARCH)                                                                         \
    SHIFT_MAP(name, F, SEARCH, false)                                                                  \
    SHIFT_MAP(name##_map, F, SEARCH, true)
SHIFT_MAP(raw, AKV_F32, false, false)
SHIFT(i8, AKV_I8, false)
SHIFT(n6, AKV_N6, false)
SHIFT(n5, AKV_N5, false)
SHIFT(n4, AKV_N4, false)
SHIFT(n3, AKV_N3, false)
SHIFT(n2, AKV_N2, false)
SHIFT(e4m3, AKV_E4M3, false)
SHIFT(e4m3g, AKV_E4M3G, false)
SHIFT(q8_0, AKV_Q8_0, false)
SHIFT(q5_1, AKV_Q5_1, false)
SHIFT(q5_0, AKV_Q5_0, false)
SHIFT(q4_1, AKV_Q4_1, false)
SHIFT(q4_0, AKV_Q4_0, false)
SHIFT(iq4_nl, AKV_IQ4_NL, false)
SHIFT(n5_search, AKV_N5, true)
SHIFT(n4_search, AKV_N4, true)
SHIFT(n3_search, AKV_N3, true)
SHIFT(n2_search, AKV_N2, true)
