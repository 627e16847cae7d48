/* SPDX-License-Identifier: Apache-2.0 */
/* Building the constants of means and matrices. */
#include "maps.h"
#include "calibration.h"
#include <math.h>

#define TABLE   AKV_MAP_TABLE
#define SMALL   0x1p-60f /* smaller entries of an inverse are 0, so that nothing becomes subnormal */
#define TWO_PI  6.283185307179586476925

static uint32_t take(struct akv_maps *maps, uint64_t bytes)
{
    const uint64_t at = maps->bytes;
    maps->bytes = at + (bytes + 63) / 64 * 64; /* so that no vector of a table lies in two lines */
    return (uint32_t)at; /* the size as a whole is checked before it is used */
}

void akv_maps_begin(struct akv_maps *maps, uint8_t *image, uint32_t sides)
{
    memset(maps, 0, sizeof *maps);
    maps->image = image;
    take(maps, (uint64_t)sides * sizeof(akv_map));
}

/* ---- angles ---- */

static void put_angle(uint8_t *cos_at, uint8_t *sin_at, uint64_t turns, uint32_t positions)
{
    const double angle = (double)(int64_t)(turns * positions) * (TWO_PI * 0x1p-64);
    const float c = (float)cos(angle), s = (float)sin(angle);
    memcpy(cos_at, &c, sizeof c);
    memcpy(sin_at, &s, sizeof s);
}

static void write_angles(uint8_t *image, const akv_map *map, const uint64_t *turns)
{
    const uint32_t pad = (map->pairs + 15u) & ~15u;
    for (uint32_t i = 0; i < map->pairs; i++) {
        memcpy(image + map->turns + 8u * i, &turns[i], 8);
        for (uint32_t t = 0; t < TABLE; t++) {
            uint8_t *table = image + map->table + 4u * (2u * TABLE * i + t);
            uint8_t *step = image + map->steps + 4u * (2u * pad * t + i);
            put_angle(table, table + 4u * TABLE, turns[i], t);
            put_angle(step, step + 4u * pad, turns[i], t * TABLE);
        }
    }
}

/* Over 256 positions a slow pair is a polynomial of degree 15, to 4e-7 of its size. */
#define SLOW    5.2
#define DEGREES 16u

static double radians(uint64_t turns)
{
    return (double)(int64_t)turns * (TWO_PI * 0x1p-64);
}
static uint32_t first_slow(const uint64_t *turns, uint32_t pairs)
{
    while (pairs > 0 && fabs(radians(turns[pairs - 1])) * 128.0 <= SLOW)
        pairs--;
    return pairs;
}
/* Chebyshev polynomial `degree` at position t of 256. */
static double basis_at(uint32_t degree, uint32_t t)
{
    return cos(degree * acos((t - 127.5) / 128.0));
}
static void write_waves(uint8_t *image, const akv_map *map, const uint64_t *turns)
{
    for (uint32_t i = map->slow; i < map->pairs; i++)
        for (uint32_t k = 0; k < DEGREES; k++) {
            double with[2] = {0.0, 0.0};
            for (uint32_t m = 0; m < DEGREES; m++) { /* at the nodes of degree 16 */
                const double node = (m + 0.5) / DEGREES * (TWO_PI / 2.0);
                const double angle = radians(turns[i]) * (127.5 + 128.0 * cos(node));
                with[0] += cos(angle) * cos(k * node);
                with[1] += sin(angle) * cos(k * node);
            }
            for (uint32_t part = 0; part < 2; part++) {
                const float value = (float)(with[part] * (k ? 2.0 : 1.0) / DEGREES);
                memcpy(image + map->waves + 4u * (((i - map->slow) * 2u + part) * DEGREES + k),
                       &value, sizeof value);
            }
        }
    for (uint32_t t = 0; t < 256; t++)
        for (uint32_t k = 0; k < DEGREES; k++) {
            const float value = (float)basis_at(k, t);
            memcpy(image + map->basis + 4u * ((t / 16u * DEGREES + k) * 16u + t % 16u), &value,
                   sizeof value);
        }
}

/* What integer kernels read: angles of the fast pairs, polynomials of the slow ones. */
#define SPAN AKV_MAP_SPAN
static void put_code(uint8_t *at, double value)
{
    const int16_t code = (int16_t)lround(value * 32767.0);
    memcpy(at, &code, sizeof code);
}
static void write_codes(uint8_t *image, const akv_map *map, const uint64_t *turns)
{
    for (uint32_t i = 0; i < map->slow; i++)
        for (uint32_t t = 0; t < SPAN; t++) {
            const double angle = radians(turns[i] * t);
            uint8_t *at = image + map->table_codes + 4u * (SPAN * i + t);
            put_code(at, cos(angle));
            put_code(at + 2, sin(angle));
        }
    for (uint32_t t = 0; t < 256; t++)
        for (uint32_t k = 0; k < DEGREES; k++) {
            const uint32_t pair = t / SPAN * (DEGREES / 2u) + k / 2u;
            put_code(image + map->basis_codes + 4u * (pair * SPAN + t % SPAN) + k % 2u * 2u,
                     basis_at(k, t));
        }
}

/* Layers with the same frequencies share their tables. */
static void add_angles(struct akv_maps *maps, const struct akv_maps_side *side, akv_map *map)
{
    map->pairs = side->pairs;
    map->rope = side->rope;
    for (uint32_t k = 0; k < AKV_MAPS_TURNS; k++) {
        const akv_map *known = &maps->known[k].at;
        if (maps->known[k].turns && known->pairs == side->pairs &&
            memcmp(maps->known[k].turns, side->turns, side->pairs * sizeof *side->turns) == 0) {
            map->turns = known->turns;
            map->table = known->table;
            map->steps = known->steps;
            map->slow = known->slow;
            map->waves = known->waves;
            map->basis = known->basis;
            map->table_codes = known->table_codes;
            map->basis_codes = known->basis_codes;
            return;
        }
    }
    const uint32_t pad = (side->pairs + 15u) & ~15u;
    map->turns = take(maps, side->pairs * 8u);
    map->table = take(maps, (uint64_t)side->pairs * 2u * TABLE * 4u);
    map->steps = take(maps, (uint64_t)pad * 2u * TABLE * 4u);
    map->slow = first_slow(side->turns, side->pairs);
    map->waves = take(maps, (uint64_t)(side->pairs - map->slow) * 2u * DEGREES * 4u);
    map->basis = take(maps, 256u * DEGREES * 4u);
    map->table_codes = take(maps, (uint64_t)map->slow * SPAN * 4u);
    map->basis_codes = take(maps, 256u * DEGREES * 2u);
    if (maps->image) {
        write_angles(maps->image, map, side->turns);
        write_waves(maps->image, map, side->turns);
        write_codes(maps->image, map, side->turns);
    }
    maps->known[maps->next].turns = side->turns;
    maps->known[maps->next].at = *map;
    maps->next = (maps->next + 1u) % AKV_MAPS_TURNS;
}

/* ---- matrices ---- */

/* Component i's row: what it adds to each stored component. */
static void write_matrix(uint8_t *image, const akv_map *map, const struct akv_maps_side *side)
{
    const size_t dim = side->dim;
    for (size_t h = 0; h < side->heads; h++) {
        const uint16_t *from = side->matrix + h * dim * dim;
        uint8_t *to = image + map->matrix + h * dim * dim * 2u;
        for (size_t i = 0; i < dim; i++)
            for (size_t j = 0; j < dim; j++)
                memcpy(to + 2u * (i * dim + j), &from[j * dim + i], 2);
    }
    uint8_t *to = image + map->inverse;
    for (size_t n = 0; n < side->heads * dim * dim; n++) {
        const float element = fabsf(side->inverse[n]) < SMALL ? 0.0f : side->inverse[n];
        memcpy(to + 4u * n, &element, 4);
    }
}

void akv_maps_add(struct akv_maps *maps, uint32_t index, const struct akv_maps_side *side)
{
    akv_map map;
    memset(&map, 0, sizeof map);
    map.transform = side->transform;
    const uint64_t row = (uint64_t)side->heads * side->dim;
    if (side->mean) {
        if (side->pairs)
            add_angles(maps, side, &map);
        map.mean = take(maps, row * 2u);
        if (maps->image)
            memcpy(maps->image + map.mean, side->mean, row * 2u);
    }
    if (side->scales) {
        map.scales = take(maps, side->heads * 8u);
        for (uint32_t h = 0; maps->image && h < side->heads; h++) {
            const float pair[2] = {1.0f / side->scales[h], side->scales[h]};
            memcpy(maps->image + map.scales + 8u * h, pair, sizeof pair);
        }
    }
    if (side->transform == AKV_TRANSFORM_MATRIX) {
        map.matrix = take(maps, row * side->dim * 2u);
        map.inverse = take(maps, row * side->dim * 4u);
        if (maps->image)
            write_matrix(maps->image, &map, side);
    }
    if (maps->image)
        memcpy(maps->image + (size_t)index * sizeof map, &map, sizeof map);
}

/* ---- from a calibration ---- */

void akv_maps_calibrated(const anykv_calibration *calibration, uint32_t number, uint32_t side,
                         anykv_transform wanted, struct akv_maps_side *out)
{
    const struct akv_calibration_layer *layer =
        calibration ? akv_calibration_find(calibration, number) : NULL;
    memset(out, 0, sizeof *out);
    out->transform = (uint32_t)wanted;
    if (wanted < ANYKV_TRANSFORM_CENTRE)
        return;
    out->transform = AKV_TRANSFORM_ROTATE;
    if (!layer)
        return;
    const struct akv_calibration_side *has = &layer->side[side];
    out->transform = AKV_MIN((uint32_t)wanted, has->transform);
    out->heads = layer->kv_heads;
    out->dim = has->dim;
    out->pairs = layer->rope_pairs;
    out->rope = layer->rope;
    out->turns = layer->turns;
    if (out->transform >= AKV_TRANSFORM_CENTRE)
        out->mean = has->mu;
    if (out->transform == AKV_TRANSFORM_MATRIX) {
        out->matrix = has->matrix;
        out->inverse = has->inverse;
    }
}

uint64_t akv_maps_of_layout(const anykv_layout *layout, uint8_t *image)
{
    struct akv_maps maps;
    if (layout->map_count == 0)
        return 0;
    akv_maps_begin(&maps, image, layout->map_count);
    for (uint32_t l = 0; l < layout->count; l++) {
        const struct akv_place *place = &layout->places[l];
        const anykv_transform wanted[2] = {layout->layers[l].k_transform,
                                           layout->layers[l].v_transform};
        for (uint32_t side = 0; place->owner && side < 2; side++) {
            struct akv_maps_side made;
            if (!(layout->groups[place->group].rotate[side] & AKV_FLAG_MAP))
                continue;
            akv_maps_calibrated(layout->options.calibration, l, side, wanted[side], &made);
            made.scales = side ? layout->layers[l].v_scales : layout->layers[l].k_scales;
            made.heads = layout->layers[l].kv_heads;
            akv_maps_add(&maps, place->map[side] / (uint32_t)sizeof(akv_map), &made);
        }
    }
    return maps.bytes;
}
