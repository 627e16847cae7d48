/* SPDX-License-Identifier: Apache-2.0 */
/* Means and matrices (map.h) in the two shapes; AKV_MAP: a launch has them. */
#ifdef AKV_MAP
/* Which map, which head of it, at which position. */
typedef struct origin {
    __global const uchar *maps;
    akv_u32 map, head, position;
} origin;
static inline origin origin_of(__global const uchar *maps, akv_u32 map, akv_u32 head, akv_u32 position)
{
    origin o;
    o.maps = maps;
    o.map = map;
    o.head = head;
    o.position = position;
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
static inline float inverse_at(const origin *o, akv_u32 dim, akv_u32 j, akv_u32 i)
{
    __global const akv_map *map = akv_map_at(o->maps, o->map);
    return akv_as_f32(akv_load_u32(o->maps + akv_map_inverse_row(map, o->head, dim, j) + i * 4u));
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
/* y: my group of a row times a matrix of rows, f16 (the storing side) or f32 (the inverse).  All
 * work-items of the work-group come here, whatever their rows' maps say.  swap: 32 * WG floats. */
static inline void multiply_groups(float *y, const float *x, const place *at, bool wanted, bool storing,
                                   akv_u32 dim, const origin *o, __local float *swap)
{
    __global const akv_map *map = akv_map_at(o->maps, o->map);
    akv_u32 begin = at->group * 32u, count = AKV_MIN(32u, dim - begin), i, k;
    AKV_UNROLL
    for (i = 0u; i < 32u; i++)
        swap[i * WG + at->item] = x[i];
    barrier(CLK_LOCAL_MEM_FENCE);
    if (wanted) {
        AKV_UNROLL
        for (i = 0u; i < 32u; i++)
            y[i] = 0.0f;
        for (k = 0u; k < dim; k++) {
            float v = swap[(k & 31u) * WG + at->item - at->group + (k >> 5)];
            akv_u32 row = storing ? akv_map_matrix_row(map, o->head, dim, k) : 0u;
            AKV_UNROLL
            for (i = 0u; i < 32u; i++)
                if (i < count)
                    y[i] = AKV_FMA(
                        v,
                        storing ? akv_as_f32(half_bits(akv_load_u16(o->maps + row + (begin + i) * 2u)))
                                : inverse_at(o, dim, k, begin + i),
                        y[i]);
        }
    }
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
    AKV_UNROLL
    for (i = 0u; i < 32u; i++)
        y[i] = x[i];
    rotate_groups(y, at, dim, swap);
    AKV_UNROLL
    for (i = 0u; i < 32u; i++)
        y[i] = y[i] * factor;
    multiply_groups(y, x, at, matrix, true, dim, o, swap);
    AKV_UNROLL
    for (i = 0u; i < 32u; i++)
        x[i] = matrix || rotates ? akv_as_f32(akv_sane(akv_as_u32(y[i]))) : x[i];
}
static inline void linear_group_back(float *x, const place *at, bool mine, akv_u32 dim, const origin *o,
                                     __local float *swap)
{
    __global const akv_map *map = akv_map_at(o->maps, o->map);
    akv_u32 i;
    bool matrix = mine && map->transform == AKV_TRANSFORM_MATRIX, rotates = mine && akv_map_rotates(map);
    float y[32], factor = akv_rotate_read_factor(dim);
    AKV_UNROLL
    for (i = 0u; i < 32u; i++)
        y[i] = x[i];
    rotate_groups(y, at, dim, swap);
    AKV_UNROLL
    for (i = 0u; i < 32u; i++)
        y[i] = y[i] * factor;
    multiply_groups(y, x, at, matrix, false, dim, o, swap);
    AKV_UNROLL
    for (i = 0u; i < 32u; i++)
        x[i] = matrix || rotates ? y[i] : x[i];
}
/* My group of a sane row as it is quantised, in place. */
static inline void map_group_store(float *x, const place *at, bool mine, akv_u32 dim, const origin *o,
                                   __local float *swap)
{
    __global const akv_map *map = akv_map_at(o->maps, o->map);
    const akv_u32 item = at->item;
    akv_u32 begin = at->group * 32u, count = AKV_MIN(32u, dim - begin), i;
    if (mine && (map->mean || map->scales)) {
        park(x, swap, item);
        for (i = 0u; i < count; i++) {
            float v = COLUMN(i);
            v = map->mean ? akv_as_f32(akv_sane(akv_as_u32(v - mean_of(o, dim, begin + i)))) : v;
            COLUMN(i) = map->scales ? akv_as_f32(akv_sane(akv_as_u32(v * scale_of(o, 0u)))) : v;
        }
        fetch(x, swap, item);
    }
    linear_group_store(x, at, mine, dim, o, swap);
}
/* My group of a decoded row as it was, in place. */
static inline void map_group_back(float *x, const place *at, bool mine, akv_u32 dim, const origin *o,
                                  __local float *swap)
{
    __global const akv_map *map = akv_map_at(o->maps, o->map);
    const akv_u32 item = at->item;
    akv_u32 begin = at->group * 32u, count = AKV_MIN(32u, dim - begin), i;
    linear_group_back(x, at, mine, dim, o, swap);
    if (mine && (map->mean || map->scales)) {
        park(x, swap, item);
        for (i = 0u; i < count; i++) {
            float v = map->scales ? COLUMN(i) * scale_of(o, 1u) : COLUMN(i);
            COLUMN(i) = map->mean ? v + mean_of(o, dim, begin + i) : v;
        }
        fetch(x, swap, item);
    }
}
#endif
#endif
