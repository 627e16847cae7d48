/* SPDX-License-Identifier: Apache-2.0 */
/* Quantize family on CUDA, rows of the caller's: encode, decode, rotate, gather (seal, reencode, shift:
 * quant_blocks.cu).  EXACT: built with -fmad=false. */
#include "quant.cuh"

/* Rows that a warp takes of `tokens` of `heads`: first + r * step of them, r < count.  by_head: of one head, for
 * matrices; neighbours have the same head then. */
struct warp_rows {
    akv_u32 first, step, count;
};
AKV_FN warp_rows rows_of_warp(akv_u32 tokens, akv_u32 heads, akv_u32 per, bool by_head)
{
    akv_u32 warp = blockIdx.x * WARPS + (threadIdx.x >> 5), runs = (tokens + per - 1u) / per;
    if (!by_head) {
        akv_u32 rows = tokens * heads, first = AKV_MIN(warp * per, rows);
        return {first, 1u, AKV_MIN(per, rows - first)};
    }
    akv_u32 head = warp / runs, token = warp % runs * per;
    return {token * heads + head, heads, head < heads ? AKV_MIN(per, tokens - token) : 0u};
}

AKV_FN bool rows_vector(const akv_u8 *base, const akv_rows &rows, akv_u32 dim)
{
    return (((akv_u64)base | rows.token_stride * 4u | rows.head_stride * 4u | dim * 4u) & 15u) == 0u;
}

/* One plane of the codes of 32 groups, a whole number of rows from `first` on, which are consecutive bytes:
 * by way of the stage, so that stores are whole.  row, g: of the group that this lane holds. */
template <akv_u32 BITS>
AKV_FN void put_plane(akv_u8 *plane, float *stage, akv_u32 shift, akv_u32 dim, akv_u32 first, akv_u32 row, akv_u32 g,
                      const akv_u8 *code)
{
    akv_u32 *words = (akv_u32 *)stage, lane = threadIdx.x & 31u;
    __syncwarp(); /* the stage is read out */
    if (BITS == 8u) {
#pragma unroll
        for (int w = 0; w < 2; w++)
            ((uint4 *)words)[lane * 2u + w] =
                make_uint4(akv_plane_word(code, 8u, shift, 4 * w), akv_plane_word(code, 8u, shift, 4 * w + 1),
                           akv_plane_word(code, 8u, shift, 4 * w + 2), akv_plane_word(code, 8u, shift, 4 * w + 3));
    } else {
#pragma unroll
        for (akv_u32 w = 0u; w < BITS; w++)
            words[akv_row_word(BITS, dim, row, g) + w * akv_row_step(BITS, dim)] =
                akv_plane_word(code, BITS, shift, w);
    }
    __syncwarp();
    uint4 *to = (uint4 *)(plane + 4u * akv_row_word(BITS, dim, first, 0u));
#pragma unroll
    for (akv_u32 i = lane; i < 8u * BITS; i += 32u)
        to[i] = ((const uint4 *)words)[i];
}

/* MAP: the launch has an akv_map.  Kernels of their own, so that the others keep their registers. */
template <int F, bool SEARCH, bool MAP> AKV_FN void encode(const akv_encode_params &p, const akv_cu_args &a)
{
    __shared__ stage stages[WARPS];
    __shared__ alignas(16) akv_u8 steps[sizeof(code_steps<F>)];
    uint4 piece = steps_piece<F>();
    akv_u32 warp = threadIdx.x >> 5, lane = threadIdx.x & 31u, heads = p.rows.heads;
    akv_u32 groups = akv_padded_dim(p.dim) / 32u, per = groups_into(32u, groups), rows = p.tokens * heads;
    if (blockIdx.x == 0u && threadIdx.x == 0u)
        akv_tile_padding(a.arg[1], F, rows, p.dim);
    const akv_map *map = MAP ? akv_map_at(a.arg[3], p.map) : 0;
    warp_rows mine = rows_of_warp(p.tokens, heads, per, MAP && map->transform == AKV_TRANSFORM_MATRIX);
    akv_u32 first = mine.first, count = mine.count;
    bool dense = p.rows.token_stride == heads * p.rows.head_stride;
    akv_u32 saw = stage_rows(
        stages[warp], a.arg[0], p.rows.dtype, p.dim, count,
        [&](akv_u32 row) {
            akv_u32 r = first + row * mine.step;
            if (dense)
                return r * p.rows.head_stride;
            akv_u32 token = r / heads;
            return token * p.rows.token_stride + (r - token * heads) * p.rows.head_stride;
        },
        rows_vector(a.arg[0], p.rows, p.dim), dense && mine.step == 1u && p.rows.head_stride == p.dim);
    put_steps<F>(steps, piece);
    if (count == 0u)
        return;
    akv_u32 row = groups_into(lane, groups), g = lane - row * groups, rotate = p.flags & AKV_FLAG_ROTATE;
    if (MAP) {
        map_store(stages[warp].x, {a.arg[3], p.map, 0u, heads, p.position, first, mine.step}, p.dim, count);
        rotate = akv_map_rotates(map);
    }
    float x[32];
    take_group(x, stages[warp].x);
    akv_u8 code[32];
    akv_u32 scale = quantise_group<F, SEARCH>(x, p.dim, rotate, lane, steps, code);
    if (akv_format_blocks(F)) {
        if (row < count)
            akv_block_put(a.arg[1], F, p.dim, first + row * mine.step, g, code, scale);
    } else {
        if (count * groups == 32u && mine.step == 1u && ((akv_u64)a.arg[1] & 15u) == 0u) {
            constexpr bool bytes = F == AKV_I8 || F == AKV_E4M3 || F == AKV_E4M3G;
            constexpr akv_u32 b0 = bytes ? 8u : F == AKV_N3 || F == AKV_N2 ? 2u : 4u;
            constexpr akv_u32 b1 = F == AKV_N6 ? 2u : F == AKV_N5 || F == AKV_N3 ? 1u : 0u;
            put_plane<b0>(a.arg[1], stages[warp].x, 0u, p.dim, first, row, g, code);
            if constexpr (b1 != 0u)
                put_plane<b1>(a.arg[1] + akv_plane1_offset(F, rows, p.dim), stages[warp].x, b0, p.dim, first, row, g,
                              code);
        } else if (row < count) {
            akv_row_put(a.arg[1], F, rows, p.dim, first + row * mine.step, g, code);
        }
        akv_u32 width = akv_scale_width(F) / 32u;
        if (row < count && g % width == 0u)
            akv_scale_put(a.arg[1], F, AKV_ORDER_ROW, rows, p.dim, first + row * mine.step, g / width, scale);
    }
    if (saw)
        atomicOr((akv_u32 *)a.arg[2], saw);
}

template <int F, bool MAP> AKV_FN void decode(const akv_decode_params &p, const akv_cu_args &a)
{
    __shared__ stage stages[WARPS];
    akv_u32 warp = threadIdx.x >> 5, lane = threadIdx.x & 31u, heads = p.rows.heads;
    akv_u32 groups = akv_padded_dim(p.dim) / 32u, per = groups_into(32u, groups), rows = p.tokens * heads;
    const akv_map *map = MAP ? akv_map_at(a.arg[2], p.map) : 0;
    warp_rows mine = rows_of_warp(p.tokens, heads, per, MAP && map->transform == AKV_TRANSFORM_MATRIX);
    akv_u32 first = mine.first, count = mine.count, row = groups_into(lane, groups), g = lane - row * groups;
    if (count == 0u)
        return;
    float x[32], unit = 0.0f;
    akv_u8 code[32];
#pragma unroll
    for (int i = 0; i < 32; i++) {
        x[i] = 0.0f;
        code[i] = 0;
    }
    if (row < count && akv_format_blocks(F)) {
        akv_block_load(a.arg[0], F, p.dim, first + row * mine.step, g, x);
    } else if (row < count) {
        akv_row_get(a.arg[0], F, rows, p.dim, first + row * mine.step, g, code);
        unit = akv_code_unit(F, akv_scale_get(a.arg[0], F, AKV_ORDER_ROW, rows, p.dim, first + row * mine.step,
                                              g / (akv_scale_width(F) / 32u)));
        if (!akv_format_codebook(F)) {
#pragma unroll
            for (int i = 0; i < 32; i++)
                x[i] = akv_code_value(F, code[i], unit);
        }
    }
    if (akv_format_codebook(F)) { /* entry l of the codebook is lane l's; -6 * 0 is +0 too */
        float entry = (float)akv_code_integer(F, AKV_MIN(lane, 2u * akv_levels(F) - 1u));
#pragma unroll
        for (int i = 0; i < 32; i++)
            x[i] = AKV_FMA(__shfl_sync(0xFFFFFFFFu, entry, code[i]), unit, 0.0f);
    }
    if (MAP ? akv_map_rotates(map) : p.flags & AKV_FLAG_ROTATE) {
        float factor = akv_rotate_read_factor(p.dim);
        rotate_groups(x, p.dim, lane);
#pragma unroll
        for (int i = 0; i < 32; i++)
            x[i] = x[i] * factor;
    }
    leave_group(stages[warp].x, x);
    __syncwarp();
    if (MAP)
        map_back(stages[warp].x, {a.arg[2], p.map, 0u, heads, p.position, first, mine.step}, p.dim, count, ~0u);
    bool vector = rows_vector(a.arg[1], p.rows, p.dim);
    for (akv_u32 r = 0u; r < count; r++) {
        akv_u32 number = first + r * mine.step, token = number / heads;
        akv_u64 at = token * p.rows.token_stride + (number - token * heads) * p.rows.head_stride;
        const float *y = stages[warp].x + r * groups * PITCH;
        if (vector && p.rows.dtype == AKV_F32) {
            for (akv_u32 i = lane * 4u; i < p.dim; i += 128u) {
                *(float4 *)(a.arg[1] + (at + i) * 4u) = *(const float4 *)(y + (i >> 5) * PITCH + (i & 31u));
            }
        } else {
            for (akv_u32 i = lane; i < p.dim; i += 32u)
                akv_store_bits(a.arg[1], at + i, p.rows.dtype, akv_as_u32(y[(i >> 5) * PITCH + (i & 31u)]));
        }
    }
}

/* Raw formats: element by element, bits kept where the dtype is the same. */
template <bool ENCODE> AKV_FN void raw_rows(const akv_encode_params &p, const akv_cu_args &a)
{
    akv_u64 rows = (akv_u64)p.tokens * p.rows.heads, total = rows * p.dim;
    akv_u64 step = (akv_u64)gridDim.x * blockDim.x;
    if (ENCODE && blockIdx.x == 0u && threadIdx.x == 0u)
        akv_tile_padding(a.arg[1], p.format, (akv_u32)rows, p.dim);
    for (akv_u64 e = (akv_u64)blockIdx.x * blockDim.x + threadIdx.x; e < total; e += step) {
        akv_u64 row = e / p.dim, token = row / p.rows.heads;
        akv_u64 at = token * p.rows.token_stride + (row - token * p.rows.heads) * p.rows.head_stride +
                     (e - row * p.dim);
        if (ENCODE)
            akv_convert_element(a.arg[1], e, p.format, a.arg[0], at, p.rows.dtype);
        else
            akv_convert_element(a.arg[1], at, p.rows.dtype, a.arg[0], e, p.format);
    }
}

#define ENCODE(name, F, SEARCH, MAP)                                                                   \
    extern "C" __global__ void __launch_bounds__(WARPS * 32)                                           \
        akv_k_encode_##name(const __grid_constant__ akv_encode_params p, const __grid_constant__ akv_cu_args a) \
    {                                                                                                  \
        encode<F, SEARCH, MAP>(p, a);                                                                  \
    }
#define DECODE(name, F, MAP)                                                                           \
    extern "C" __global__ void __launch_bounds__(WARPS * 32)                                           \
        akv_k_decode_##name(const __grid_constant__ akv_decode_params p, const __grid_constant__ akv_cu_args a) \
    {                                                                                                  \
        decode<F, MAP>(p, a);                                                                          \
    }
#define CODEC(name, F)                                                                                 \
    ENCODE(name, F, false, false)                                                                      \
    ENCODE(name##_map, F, false, true)                                                                 \
    DECODE(name, F, false)                                                                             \
    DECODE(name##_map, F, true)
#define CODEC_SEARCH(name, F)                                                                          \
    ENCODE(name##_search, F, true, false)                                                              \
    ENCODE(name##_search_map, F, true, true)
CODEC(i8, AKV_I8)
CODEC(n6, AKV_N6)
CODEC(n5, AKV_N5)
CODEC(n4, AKV_N4)
CODEC(n3, AKV_N3)
CODEC(n2, AKV_N2)
CODEC(e4m3, AKV_E4M3)
CODEC(e4m3g, AKV_E4M3G)
CODEC(q8_0, AKV_Q8_0)
CODEC(q5_1, AKV_Q5_1)
CODEC(q5_0, AKV_Q5_0)
CODEC(q4_1, AKV_Q4_1)
CODEC(q4_0, AKV_Q4_0)
CODEC(iq4_nl, AKV_IQ4_NL)
CODEC_SEARCH(n5, AKV_N5)
CODEC_SEARCH(n4, AKV_N4)
CODEC_SEARCH(n3, AKV_N3)
CODEC_SEARCH(n2, AKV_N2)

extern "C" __global__ void __launch_bounds__(256) akv_k_encode_raw(const __grid_constant__ akv_encode_params p,
                                                                   const __grid_constant__ akv_cu_args a)
{
    raw_rows<true>(p, a);
}
extern "C" __global__ void __launch_bounds__(256) akv_k_decode_raw(const __grid_constant__ akv_decode_params p,
                                                                   const __grid_constant__ akv_cu_args a)
{
    raw_rows<false>(p, a);
}

/* rotate: dense f32 rows; a warp takes R rows. */
extern "C" __global__ void __launch_bounds__(WARPS * 32) akv_k_rotate(const __grid_constant__ akv_rotate_params p,
                                                                      const __grid_constant__ akv_cu_args a)
{
    __shared__ stage stages[WARPS];
    akv_u32 warp = threadIdx.x >> 5, lane = threadIdx.x & 31u;
    akv_u32 groups = akv_padded_dim(p.dim) / 32u, per = 32u / groups;
    akv_u32 first = (blockIdx.x * WARPS + warp) * per;
    if (first >= p.rows)
        return;
    akv_u32 count = AKV_MIN(per, p.rows - first), forward = p.flags & AKV_FLAG_ROTATE;
    float *s = stages[warp].x;
    for (akv_u32 r = 0u; r < count; r++)
        for (akv_u32 i = lane; i < groups * 32u; i += 32u) {
            akv_u32 bits = i < p.dim ? akv_load_bits(a.arg[0], (akv_u64)(first + r) * p.dim + i, AKV_F32) : 0u;
            s[(r * groups + (i >> 5)) * PITCH + (i & 31u)] = akv_as_f32(forward ? akv_sane(bits) : bits);
        }
    __syncwarp();
    float x[32], factor = forward ? akv_rotate_store_factor(p.dim) : akv_rotate_read_factor(p.dim);
    take_group(x, s);
    if (lane / groups >= count) /* never written */
#pragma unroll
        for (int i = 0; i < 32; i++)
            x[i] = 0.0f;
    rotate_groups(x, p.dim, lane);
    __syncwarp();
#pragma unroll
    for (int i = 0; i < 32; i++)
        x[i] = forward ? akv_as_f32(akv_sane(akv_as_u32(x[i] * factor))) : x[i] * factor;
    leave_group(s, x);
    __syncwarp();
    for (akv_u32 r = 0u; r < count; r++)
        for (akv_u32 i = lane; i < p.dim; i += 32u)
            akv_store_u32(a.arg[1] + ((akv_u64)(first + r) * p.dim + i) * 4u,
                          akv_as_u32(s[(r * groups + (i >> 5)) * PITCH + (i & 31u)]));
}

/* gather: a warp takes R (row, head) pairs; lane l holds group l % G of pair l / G. */
template <bool MAP> AKV_FN void gather(const akv_gather_params &p, const akv_cu_args &a)
{
    __shared__ stage stages[WARPS];
    akv_u32 warp = threadIdx.x >> 5, lane = threadIdx.x & 31u;
    akv_u32 groups = akv_padded_dim(p.dim) / 32u, per = 32u / groups, row = lane / groups, g = lane % groups;
    const akv_map *map = MAP ? akv_map_at(a.arg[2], p.map) : 0;
    warp_rows mine = rows_of_warp(p.tokens, p.rows.heads, per, MAP && map->transform == AKV_TRANSFORM_MATRIX);
    akv_u32 first = mine.first, count = mine.count;
    if (count == 0u)
        return;
    akv_u32 format = 0u, held = 0u;
    const akv_u8 *tile = 0;
    float x[32];
#pragma unroll
    for (int i = 0; i < 32; i++)
        x[i] = 0.0f;
    akv_u32 t = 0u;
    if (row < count) {
        akv_u32 number = first + row * mine.step, token = number / p.rows.heads, head = number % p.rows.heads;
        akv_u32 at = token + p.first_row, entry = ((const akv_u32 *)a.arg[0])[at / p.block_tokens];
        t = at % p.block_tokens;
        if (entry != AKV_NO_BLOCK) {
            held = 1u;
            format = p.format[entry >> 28];
            tile = akv_cu_at(a, akv_block_address(&p.pool, entry)) + p.offset[entry >> 28] +
                   head * akv_tile_bytes(format, p.block_tokens, p.dim);
        }
    }
    akv_u32 raw = held && akv_format_raw(format), packed = held && !raw;
    if (packed) {
        for (int i = 0; i < 32; i++)
            x[i] = akv_tile_value(tile, format, p.order, p.block_tokens, p.dim, t, g * 32u + i);
    }
    if (MAP ? akv_map_rotates(map) : p.flags & AKV_FLAG_ROTATE) {
        float factor = akv_rotate_read_factor(p.dim);
        rotate_groups(x, p.dim, lane);
#pragma unroll
        for (int i = 0; i < 32; i++)
            x[i] = x[i] * factor;
    }
    leave_group(stages[warp].x, x);
    __syncwarp();
    akv_u32 lanes = __ballot_sync(0xFFFFFFFFu, packed != 0u);
    if (MAP)
        map_back(stages[warp].x, {a.arg[2], p.map, 0u, p.rows.heads, p.position + p.first_row, first, mine.step}, p.dim,
                 count, lanes);
    for (akv_u32 r = 0u; r < count; r++) {
        akv_u32 owner = r * groups, is_raw = __shfl_sync(0xFFFFFFFFu, raw, owner);
        akv_u32 from = __shfl_sync(0xFFFFFFFFu, format, owner), row_t = __shfl_sync(0xFFFFFFFFu, t, owner);
        const akv_u8 *source = (const akv_u8 *)__shfl_sync(0xFFFFFFFFu, (akv_u64)tile, owner);
        akv_u32 number = first + r * mine.step, token = number / p.rows.heads;
        akv_u64 at = token * p.rows.token_stride + (number - token * p.rows.heads) * p.rows.head_stride;
        const float *y = stages[warp].x + owner * PITCH;
        for (akv_u32 i = lane; i < p.dim; i += 32u) {
            if (is_raw)
                akv_convert_element(a.arg[1], at + i, p.rows.dtype, source, (akv_u64)row_t * p.dim + i, from);
            else
                akv_store_bits(a.arg[1], at + i, p.rows.dtype, akv_as_u32(y[(i >> 5) * PITCH + (i & 31u)]));
        }
    }
}
extern "C" __global__ void __launch_bounds__(WARPS * 32) akv_k_gather(const __grid_constant__ akv_gather_params p,
                                                                      const __grid_constant__ akv_cu_args a)
{
    gather<false>(p, a);
}
extern "C" __global__ void __launch_bounds__(WARPS * 32) akv_k_gather_map(const __grid_constant__ akv_gather_params p,
                                                                          const __grid_constant__ akv_cu_args a)
{
    gather<true>(p, a);
}
