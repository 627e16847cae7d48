/* SPDX-License-Identifier: Apache-2.0 */
/* Means and matrices (map.h) in the two shapes; AKV_MAP: a launch has them. */
#ifdef AKV_MAP
/* Which map, which head of it, at which position; whether all rows of the work-group have this map. */
typedef struct origin {
    __global const uchar *maps;
    akv_u32 map, head, position;
    bool one_map;
} origin;
static inline origin origin_of(__global const uchar *maps, akv_u32 map, akv_u32 head, akv_u32 position)
{
    origin o;
    o.maps = maps;
    o.map = map;
    o.head = head;
    o.position = position;
    o.one_map = true;
    return o;
}
static inline float mean_of(const origin *o, akv_u32 dim, akv_u32 i)
{
    return akv_map_mean(o->maps, akv_map_at(o->maps, o->map), o->head, dim, o->position, i);
}
static inline float scale_of(const origin *o, akv_u32 part)
{
    return akv_map_scale(o->maps, akv_map_at(o->maps, o->map), o->head, part);
}
#ifdef AKV_CPU_SHAPE
/* 16 numbers of a row of the storing side's matrix. */
static inline float16 matrix_lanes(__global const uchar *at)
{
    return as_float16(half_lanes(convert_uint16(vload16(0, (__global const ushort *)at))));
}
/* A row through the matrix, or rotated, or as it is, to y; and back, in place. */
static inline void linear_store(float *y, const float *x, akv_u32 dim, const origin *o)
{
    __global const akv_map *map = akv_map_at(o->maps, o->map);
    akv_u32 i, j;
    if (map->transform != AKV_TRANSFORM_MATRIX) {
        for (i = 0u; i < dim; i++)
            y[i] = x[i];
        if (akv_map_rotates(map))
            akv_rotate_store(y, dim);
        return;
    }
    for (j = 0u; j < dim; j += 16u) { /* head sizes are multiples of 16 */
        __global const uchar *at = o->maps + akv_map_matrix_row(map, o->head, dim, 0u) + j * 2u;
        float16 sum = 0.0f;
        for (i = 0u; i < dim; i += 4u, at += dim * 8u) {
            sum = fma((float16)x[i], matrix_lanes(at), sum);
            sum = fma((float16)x[i + 1u], matrix_lanes(at + dim * 2u), sum);
            sum = fma((float16)x[i + 2u], matrix_lanes(at + dim * 4u), sum);
            sum = fma((float16)x[i + 3u], matrix_lanes(at + dim * 6u), sum);
        }
        vstore16(sum, 0, y + j);
    }
    for (j = 0u; j < dim; j++)
        y[j] = akv_as_f32(akv_sane(akv_as_u32(y[j])));
}
static inline void linear_back(float *x, akv_u32 dim, const origin *o)
{
    __global const akv_map *map = akv_map_at(o->maps, o->map);
    akv_u32 i, j;
    if (akv_map_rotates(map))
        akv_rotate_read(x, dim);
    if (map->transform == AKV_TRANSFORM_MATRIX) {
        float y[ROW_MAX];
        for (i = 0u; i < dim; i++)
            y[i] = x[i];
        for (i = 0u; i < dim; i += 16u) {
            __global const float *at =
                (__global const float *)(o->maps + akv_map_inverse_row(map, o->head, dim, 0u)) + i;
            float16 sum = 0.0f;
            for (j = 0u; j < dim; j += 4u, at += dim * 4u) {
                sum = fma((float16)y[j], vload16(0, at), sum);
                sum = fma((float16)y[j + 1u], vload16(0, at + dim), sum);
                sum = fma((float16)y[j + 2u], vload16(0, at + dim * 2u), sum);
                sum = fma((float16)y[j + 3u], vload16(0, at + dim * 3u), sum);
            }
            vstore16(sum, 0, x + i);
        }
    }
}
/* A row of the caller as it is quantised. */
static inline akv_u32 map_store(float *y, __global const uchar *base, akv_u64 first, akv_u32 dtype,
                                akv_u32 dim, const origin *o)
{
    __global const akv_map *map = akv_map_at(o->maps, o->map);
    float x[ROW_MAX];
    akv_u32 saw = load_sane(x, base, first, dtype, dim), i;
    if (map->mean)
        for (i = 0u; i < dim; i++)
            x[i] = akv_as_f32(akv_sane(akv_as_u32(x[i] - mean_of(o, dim, i))));
    if (map->scales)
        for (i = 0u; i < dim; i++)
            x[i] = akv_as_f32(akv_sane(akv_as_u32(x[i] * scale_of(o, 0u))));
    linear_store(y, x, dim, o);
    return saw;
}
/* A decoded row as it was, in place. */
static inline void map_back(float *x, akv_u32 dim, const origin *o)
{
    __global const akv_map *map = akv_map_at(o->maps, o->map);
    akv_u32 i;
    linear_back(x, dim, o);
    if (map->scales)
        for (i = 0u; i < dim; i++)
            x[i] = x[i] * scale_of(o, 1u);
    if (map->mean)
        for (i = 0u; i < dim; i++)
            x[i] = x[i] + mean_of(o, dim, i);
}
#else
/* Four numbers of a row of a matrix: f16 of the storing side, f32 of the inverse. */
static inline float4 four_of(__global const uchar *from, bool storing)
{
    if (!storing)
        return *(__global const float4 *)from;
    ushort4 v = *(__global const ushort4 *)from;
    return (float4)(akv_as_f32(half_bits(v.x)), akv_as_f32(half_bits(v.y)), akv_as_f32(half_bits(v.z)),
                    akv_as_f32(half_bits(v.w)));
}
#define MULTIPLY(first, v, m)                                                                          \
    y[first] = AKV_FMA(v, (m).x, y[first]);                                                            \
    y[(first) + 1u] = AKV_FMA(v, (m).y, y[(first) + 1u]);                                              \
    y[(first) + 2u] = AKV_FMA(v, (m).z, y[(first) + 2u]);                                              \
    y[(first) + 3u] = AKV_FMA(v, (m).w, y[(first) + 3u]);
/* y: my group of a row times a matrix where wanted, else nothing of use.  All work-items of the work-group come
 * here, whatever their rows' maps say.
 * Where eight rows have one matrix, their work-items take four columns of all eight each, so that a number of the
 * matrix serves eight rows; else each its own group.  swap: ROOM floats. */
static inline void multiply_groups(float *y, const float *x, const place *at, bool wanted, bool storing,
                                   akv_u32 dim, const origin *o, __local float *swap)
{
    __global const akv_map *map = akv_map_at(o->maps, o->map);
    __local akv_u32 *numbers = (__local akv_u32 *)swap + MAP_PITCH * WG;
    akv_u32 dp = akv_padded_dim(dim), begin = at->group * 32u, size = storing ? 2u : 4u, i, k, r;
    akv_u32 each = dp / 4u, first = at->item / each * 8u, column = at->item % each * 4u, none = 0xFFFFFFFFu;
    akv_u32 matrix = storing ? akv_map_matrix_row(map, o->head, dim, 0u) : akv_map_inverse_row(map, o->head, dim, 0u);
    bool eight = 4096u % dp == 0u && dp <= 512u; /* 4096 / dp rows, of dp / 4 work-items for eight */
    numbers[at->item] = wanted ? matrix : none;
    if (at->active) {
        AKV_UNROLL
        for (i = 0u; i < 32u; i++)
            swap[(begin + i) * at->rows + at->row] = x[i];
    }
    AKV_UNROLL
    for (i = 0u; i < 32u; i++)
        y[i] = 0.0f;
    barrier(CLK_LOCAL_MEM_FENCE);
    if (eight) {
        akv_u32 one = none;
        for (r = 0u; r < 8u; r++)
            one = AKV_MIN(one, numbers[(first + r) * at->groups]);
        for (r = 0u; r < 8u; r++) {
            akv_u32 other = numbers[(first + r) * at->groups];
            eight = eight && (other == one || other == none);
        }
        wanted = eight ? one != none : wanted;
        matrix = eight ? one : matrix;
    }
    if (wanted && eight) {
        __global const uchar *from = o->maps + matrix + AKV_MIN(column, dim - 4u) * size;
        for (k = 0u; k < dim; k++) {
            float4 m = four_of(from + k * dim * size, storing);
            float4 a = *(__local const float4 *)(swap + k * at->rows + first);
            float4 b = *(__local const float4 *)(swap + k * at->rows + first + 4u);
            MULTIPLY(0u, a.x, m)
            MULTIPLY(4u, a.y, m)
            MULTIPLY(8u, a.z, m)
            MULTIPLY(12u, a.w, m)
            MULTIPLY(16u, b.x, m)
            MULTIPLY(20u, b.y, m)
            MULTIPLY(24u, b.z, m)
            MULTIPLY(28u, b.w, m)
        }
    } else if (wanted) {
        __global const uchar *from = o->maps + matrix + begin * size;
        for (k = 0u; k < dim; k++) {
            float v = swap[k * at->rows + at->row];
            AKV_UNROLL
            for (i = 0u; i < 8u; i++) {
                float4 m = four_of(from + (k * dim + AKV_MIN(i * 4u, dim - begin - 4u)) * size, storing);
                MULTIPLY(i * 4u, v, m)
            }
        }
    }
    barrier(CLK_LOCAL_MEM_FENCE);
    AKV_UNROLL
    for (i = 0u; i < 32u; i++) { /* nothing behind the end of a row */
        akv_u32 c = column + (i & 3u);
        if (eight)
            swap[(c & 31u) * WG + (first + (i >> 2)) * at->groups + (c >> 5)] = c < dim ? y[i] : 0.0f;
        else
            swap[i * WG + at->item] = begin + i < dim ? y[i] : 0.0f;
    }
    barrier(CLK_LOCAL_MEM_FENCE);
    fetch(y, swap, at->item);
    barrier(CLK_LOCAL_MEM_FENCE);
}
/* My group of a sane row through the matrix, or rotated, or as it is; and of a decoded row back. */
static inline void linear_group_store(float *x, const place *at, bool mine, akv_u32 dim, const origin *o,
                                      __local float *swap)
{
    __global const akv_map *map = akv_map_at(o->maps, o->map);
    akv_u32 i;
    bool matrix = mine && map->transform == AKV_TRANSFORM_MATRIX, rotates = mine && akv_map_rotates(map);
    float y[32], factor = akv_rotate_store_factor(dim);
    multiply_groups(y, x, at, matrix, true, dim, o, swap);
    AKV_UNROLL
    for (i = 0u; i < 32u; i++) {
        x[i] = matrix ? akv_as_f32(akv_sane(akv_as_u32(y[i]))) : x[i];
        y[i] = x[i];
    }
    rotate_groups(y, at, dim, swap);
    AKV_UNROLL
    for (i = 0u; i < 32u; i++)
        x[i] = rotates ? akv_as_f32(akv_sane(akv_as_u32(y[i] * factor))) : x[i];
}
static inline void linear_group_back(float *x, const place *at, bool mine, akv_u32 dim, const origin *o,
                                     __local float *swap)
{
    __global const akv_map *map = akv_map_at(o->maps, o->map);
    akv_u32 i;
    bool matrix = mine && map->transform == AKV_TRANSFORM_MATRIX, rotates = mine && akv_map_rotates(map);
    float y[32], factor = akv_rotate_read_factor(dim);
    multiply_groups(y, x, at, matrix, false, dim, o, swap);
    AKV_UNROLL
    for (i = 0u; i < 32u; i++) {
        x[i] = matrix ? y[i] : x[i];
        y[i] = x[i];
    }
    rotate_groups(y, at, dim, swap);
    AKV_UNROLL
    for (i = 0u; i < 32u; i++)
        x[i] = rotates ? y[i] * factor : x[i];
}
/* A component without or with its mean, which is finite: no sum of a sane value and a mean is beyond 2^100. */
static inline float mean_off(float x, float mean, bool storing)
{
    return storing ? akv_as_f32(tiny_to_zero(akv_as_u32(x - mean))) : x + mean;
}
/* Unit u of a row: a pair of the rotary embedding, or a component that is in none. */
typedef struct map_unit {
    akv_u32 i, j;
    bool paired;
} map_unit;
static inline map_unit find_unit(__global const akv_map *map, akv_u32 u)
{
    map_unit at;
    at.paired = u < map->pairs;
    at.i = !at.paired ? u + map->pairs : map->rope == AKV_ROPE_HALF ? u : 2u * u;
    at.j = !at.paired ? at.i : map->rope == AKV_ROPE_HALF ? u + map->pairs : at.i + 1u;
    return at;
}
static inline float mean_at(const origin *o, __global const akv_map *map, akv_u32 index)
{
    return akv_as_f32(half_bits(akv_load_u16(o->maps + map->mean + index * 2u)));
}
/* Takes the mean off a unit's two places in local memory, or adds it. */
static inline void mean_unit(__local float *x, __local float *y, bool paired, bool storing, float a, float b,
                             akv_u64 turns, akv_u32 position)
{
    if (paired) {
        akv_turn turn = akv_rope_at(turns, position);
        *x = mean_off(*x, akv_rope_first(turn, a, b), storing);
        *y = mean_off(*y, akv_rope_second(turn, a, b), storing);
    } else {
        *x = mean_off(*x, a, storing);
    }
}
/* My group of a row without its mean, or with it again.  With one map a work-item takes a unit of several rows, else
 * several units of its row.  Group g stands at g * MAP_PITCH, of which 16 bytes of
 * eight neighbours are in different banks. */
static inline void mean_group(float *x, const place *at, bool mine, bool storing, akv_u32 dim, const origin *o,
                              __local float *swap)
{
    __global const akv_map *map = akv_map_at(o->maps, o->map);
    __local akv_u32 *means = (__local akv_u32 *)swap + MAP_PITCH * WG, *positions = means + WG;
    __local float4 *group = (__local float4 *)(swap + at->item * MAP_PITCH);
    akv_u32 units = dim - map->pairs, none = 0xFFFFFFFFu, pitch = at->groups * MAP_PITCH, i, r, u;
    AKV_UNROLL
    for (i = 0u; i < 8u; i++)
        group[i] = (float4)(x[i * 4u], x[i * 4u + 1u], x[i * 4u + 2u], x[i * 4u + 3u]);
    means[at->item] = mine && map->mean ? o->head * dim : none;
    positions[at->item] = o->position;
    barrier(CLK_LOCAL_MEM_FENCE);
    if (o->one_map) {
        akv_u32 sets = units < WG ? WG / units : 1u;
        for (u = at->item; map->mean && u < units * sets; u += WG) {
            map_unit unit = find_unit(map, u % units);
            akv_u64 turns = unit.paired ? akv_map_turns(o->maps, map, u % units) : 0u;
            akv_u32 last = none;
            float a = 0.0f, b = 0.0f;
            for (r = u / units; r < at->rows; r += sets) {
                __local float *row = swap + r * pitch;
                akv_u32 mean = means[r * at->groups];
                if (mean == none)
                    continue;
                if (mean != last) {
                    a = mean_at(o, map, mean + unit.i);
                    b = mean_at(o, map, mean + unit.j);
                    last = mean;
                }
                mean_unit(row + (unit.i >> 5) * MAP_PITCH + (unit.i & 31u),
                          row + (unit.j >> 5) * MAP_PITCH + (unit.j & 31u), unit.paired, storing, a, b, turns,
                          positions[r * at->groups]);
            }
        }
    } else if (means[at->item] != none) {
        __local float *row = swap + (at->item - at->group) * MAP_PITCH;
        for (u = at->group; u < units; u += at->groups) {
            map_unit unit = find_unit(map, u);
            mean_unit(row + (unit.i >> 5) * MAP_PITCH + (unit.i & 31u),
                      row + (unit.j >> 5) * MAP_PITCH + (unit.j & 31u), unit.paired, storing,
                      mean_at(o, map, o->head * dim + unit.i), mean_at(o, map, o->head * dim + unit.j),
                      unit.paired ? akv_map_turns(o->maps, map, u) : 0u, o->position);
        }
    }
    barrier(CLK_LOCAL_MEM_FENCE);
    AKV_UNROLL
    for (i = 0u; i < 8u; i++) {
        float4 v = group[i];
        x[i * 4u] = v.x;
        x[i * 4u + 1u] = v.y;
        x[i * 4u + 2u] = v.z;
        x[i * 4u + 3u] = v.w;
    }
    barrier(CLK_LOCAL_MEM_FENCE);
}
/* My group of a sane row as it is quantised, in place. */
static inline void map_group_store(float *x, const place *at, bool mine, akv_u32 dim, const origin *o,
                                   __local float *swap)
{
    akv_u32 i;
    mean_group(x, at, mine, true, dim, o, swap);
    if (mine && akv_map_at(o->maps, o->map)->scales) {
        AKV_UNROLL
        for (i = 0u; i < 32u; i++)
            x[i] = akv_as_f32(akv_sane(akv_as_u32(x[i] * scale_of(o, 0u))));
    }
    linear_group_store(x, at, mine, dim, o, swap);
}
/* My group of a decoded row as it was, in place. */
static inline void map_group_back(float *x, const place *at, bool mine, akv_u32 dim, const origin *o,
                                  __local float *swap)
{
    akv_u32 i;
    linear_group_back(x, at, mine, dim, o, swap);
    if (mine && akv_map_at(o->maps, o->map)->scales) {
        AKV_UNROLL
        for (i = 0u; i < 32u; i++)
            x[i] = x[i] * scale_of(o, 1u);
    }
    mean_group(x, at, mine, false, dim, o, swap);
}
#endif
#endif
