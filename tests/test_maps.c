/* SPDX-License-Identifier: Apache-2.0 */
/* Means that follow the rotary embedding, and matrices: angles, the codec against the contract written
 * out, the cache against the codec, attention against the decoded rows. */
#include "maps_case.h"
#include "lib/kernel/rope.h"

/* ---- angles ---- */

Test(maps, angles)
{
    double worst = 0.0;
    for (uint64_t p = 0; p < UINT64_C(1) << 32; p += 1021) {
        const akv_turn turn = akv_rope_turn(p << 32 | 0xFFFFFFFFu);
        const double angle = (double)p * 0x1p-32 * 6.283185307179586476925;
        const double off = fmax(fabs((double)turn.c - cos(angle)), fabs((double)turn.s - sin(angle)));
        worst = fmax(worst, off);
    }
    cr_expect(worst < 1.2e-7, "%g", worst);
    for (uint32_t q = 0; q < 4; q++) {
        const akv_turn turn = akv_rope_turn((uint64_t)q << 62);
        cr_expect(turn.c == (q == 0 ? 1.0f : q == 2 ? -1.0f : 0.0f) &&
                      turn.s == (q == 1 ? 1.0f : q == 3 ? -1.0f : 0.0f),
                  "quarter %u: %g, %g", q, (double)turn.c, (double)turn.s);
    }
    /* A position wraps whole turns away exactly. */
    const akv_turn near = akv_rope_at(UINT64_C(1) << 50, 3), far = akv_rope_at(UINT64_C(1) << 50, (1u << 20) + 3);
    cr_expect(near.c == far.c && near.s == far.s);
}

/* ---- the contract of map.h, written out ---- */

#define HEADS 2u
static const float some_scales[HEADS + 1] = {0.3f, 0x1.234p-9f, 7.0f};

struct side_case {
    const struct akv_calibration_layer *layer;
    uint32_t side, transform, head;
    const float *scales; /* of all heads, or NULL */
};

static float mean_at(const struct side_case *c, uint32_t position, uint32_t i)
{
    const struct akv_calibration_side *s = &c->layer->side[c->side];
    const uint32_t pairs = c->layer->rope_pairs;
    const uint16_t *mu = s->mu + (size_t)c->head * s->dim;
    if (i >= 2 * pairs)
        return (float)akv_half_value(mu[i]);
    const bool half = c->layer->rope == ANYKV_ROPE_HALF;
    const uint32_t pair = half ? i % pairs : i / 2, first = half ? pair : pair * 2;
    const uint32_t second = half ? pair + pairs : pair * 2 + 1;
    const akv_turn turn = akv_rope_turn(c->layer->turns[pair] * position);
    const float a = (float)akv_half_value(mu[first]), b = (float)akv_half_value(mu[second]);
    return i == first ? fmaf(turn.c, a, -(turn.s * b)) : fmaf(turn.c, b, turn.s * a);
}
static float sane(float x)
{
    const float a = fabsf(x);
    return isnan(x) || a < 0x1p-24f ? 0.0f : copysignf(a > 0x1p100f ? 0x1p100f : a, x);
}
/* A row before it is quantised; what remains is a rotation unless there is a matrix. */
static void store(const struct side_case *c, uint32_t position, const float *row, float *y)
{
    const struct akv_calibration_side *s = &c->layer->side[c->side];
    float x[AKV_MAX_HEAD_DIM];
    for (uint32_t i = 0; i < s->dim; i++) {
        x[i] = sane(row[i]);
        if (s->mu && c->side == 0)
            x[i] = sane(x[i] - mean_at(c, position, i));
        if (c->scales)
            x[i] = sane(x[i] * (1.0f / c->scales[c->head]));
    }
    for (uint32_t j = 0; j < s->dim; j++) {
        y[j] = c->transform == ANYKV_TRANSFORM_MATRIX ? 0.0f : x[j];
        if (c->transform != ANYKV_TRANSFORM_MATRIX)
            continue;
        const uint16_t *matrix = s->matrix + ((size_t)c->head * s->dim + j) * s->dim;
        for (uint32_t i = 0; i < s->dim; i++)
            y[j] = fmaf((float)akv_half_value(matrix[i]), x[i], y[j]);
        y[j] = sane(y[j]);
    }
}
/* From decoded values, the rotation undone. */
static void restore(const struct side_case *c, uint32_t position, const float *y, float *x)
{
    const struct akv_calibration_side *s = &c->layer->side[c->side];
    for (uint32_t i = 0; i < s->dim; i++) {
        x[i] = c->transform == ANYKV_TRANSFORM_MATRIX ? 0.0f : y[i];
        for (uint32_t j = 0; j < s->dim && c->transform == ANYKV_TRANSFORM_MATRIX; j++)
            x[i] = fmaf(s->inverse[((size_t)c->head * s->dim + j) * s->dim + i], y[j], x[i]);
        if (c->scales)
            x[i] = x[i] * c->scales[c->head];
        if (s->mu && c->side == 0)
            x[i] = x[i] + mean_at(c, position, i);
    }
}

static anykv_codec *codec_for(anykv_device *device, anykv_format format, anykv_transform transform,
                              uint32_t dim, const anykv_calibration *calibration, uint32_t side,
                              uint32_t head, uint32_t position, const float *scales)
{
    anykv_codec_options options = ANYKV_CODEC_OPTIONS_INIT;
    anykv_codec *codec;
    options.format = format;
    options.transform = transform;
    options.head_dim = dim;
    options.calibration = calibration;
    options.side = side;
    options.head = head;
    options.position = position;
    options.scales = scales;
    options.scale_count = scales ? HEADS : 0;
    OK(anykv_codec_create(device, &options, &codec));
    return codec;
}

#define TOKENS 21u
#define GPU_BOUND 0.004 /* f16 operands of matrix units */

static void check_codec(anykv_device *device, const anykv_calibration *calibration,
                        anykv_format format, uint32_t side, uint32_t position, const char *what)
{
    struct side_case c = {&calibration->layers[0], side, calibration->layers[0].side[side].transform, 0,
                          format == ANYKV_E4M3G ? some_scales : NULL};
    const uint32_t dim = c.layer->side[side].dim;
    const size_t count = (size_t)TOKENS * HEADS * dim;
    float *rows = malloc(count * sizeof *rows), *ready = malloc(count * sizeof *ready);
    float *have = malloc(count * sizeof *have), *want = malloc(count * sizeof *want);
    uint64_t random = position + dim;
    for (size_t i = 0; i < count; i++)
        rows[i] = (float)(maps_random(&random) * 6.0);
    rows[3] = NAN;
    rows[dim + 5] = -INFINITY;
    rows[2 * dim] = 0x1p-26f;
    for (uint32_t r = 0; r < TOKENS * HEADS; r++) {
        c.head = 1 + r % HEADS;
        store(&c, position + r / HEADS, rows + (size_t)r * dim, ready + (size_t)r * dim);
    }
    const bool matrix = c.transform == ANYKV_TRANSFORM_MATRIX;
    const anykv_transform rest = matrix ? ANYKV_TRANSFORM_NONE : ANYKV_TRANSFORM_ROTATE;
    anykv_codec *codec = codec_for(device, format, (anykv_transform)c.transform, dim, calibration,
                                   side, 1, 0, c.scales ? c.scales + 1 : NULL);
    anykv_codec *plain = codec_for(device, format, rest, dim, NULL, 0, 0, 0, NULL);
    OK(anykv_codec_set_position(codec, position));
    uint64_t bytes;
    OK(anykv_codec_bytes(codec, TOKENS * HEADS, &bytes));
    uint8_t *got = calloc(1, bytes), *expected = calloc(1, bytes);
    uint32_t saw;
    const anykv_view from = anykv_view_host(rows, ANYKV_F32, HEADS, dim);
    const anykv_view prepared = anykv_view_host(ready, ANYKV_F32, HEADS, dim);
    const anykv_view to = anykv_view_host(have, ANYKV_F32, HEADS, dim);
    OK(anykv_codec_encode(codec, &from, TOKENS, HEADS, got, bytes, &saw));
    OK(anykv_codec_encode(plain, &prepared, TOKENS, HEADS, expected, bytes, NULL));
    cr_expect(saw == 3, "%s: saw %u", what, saw);
    cr_expect(memcmp(got, expected, bytes) == 0, "%s, format %d, side %u, dim %u: encoded", what,
              (int)format, side, dim);
    OK(anykv_codec_decode(codec, got, bytes, TOKENS, HEADS, &to));
    OK(anykv_codec_decode(plain, got, bytes, TOKENS, HEADS, &prepared));
    for (uint32_t r = 0; r < TOKENS * HEADS; r++) {
        c.head = 1 + r % HEADS;
        restore(&c, position + r / HEADS, ready + (size_t)r * dim, want + (size_t)r * dim);
    }
    cr_expect(memcmp(have, want, count * sizeof *have) == 0, "%s, format %d, side %u, dim %u: decoded",
              what, (int)format, side, dim);
    anykv_codec_destroy(codec);
    anykv_codec_destroy(plain);
    free(rows), free(ready), free(have), free(want), free(got), free(expected);
}

static const struct shape {
    uint32_t dim, pairs;
    anykv_rope rope;
    anykv_transform k, v;
} shapes[] = {{64, 32, ANYKV_ROPE_HALF, ANYKV_TRANSFORM_CENTRE, ANYKV_TRANSFORM_ROTATE},
              {128, 64, ANYKV_ROPE_INTERLEAVED, ANYKV_TRANSFORM_MATRIX, ANYKV_TRANSFORM_MATRIX},
              {80, 40, ANYKV_ROPE_HALF, ANYKV_TRANSFORM_MATRIX, ANYKV_TRANSFORM_ROTATE},
              {96, 24, ANYKV_ROPE_HALF, ANYKV_TRANSFORM_CENTRE, ANYKV_TRANSFORM_MATRIX},
              {112, 20, ANYKV_ROPE_INTERLEAVED, ANYKV_TRANSFORM_CENTRE, ANYKV_TRANSFORM_ROTATE},
              {192, 0, ANYKV_ROPE_HALF, ANYKV_TRANSFORM_CENTRE, ANYKV_TRANSFORM_ROTATE}};
#define SHAPES (sizeof shapes / sizeof shapes[0])

static anykv_layer layer_of(const struct shape *shape, uint64_t *turns)
{
    anykv_layer layer = engine_layer(HEADS + 1, shape->dim, 0);
    maps_turns(turns, shape->pairs);
    layer.q_heads = layer.kv_heads * 3;
    layer.k_transform = shape->k;
    layer.v_transform = shape->v;
    layer.rope = shape->rope;
    layer.rope_pairs = shape->pairs;
    layer.rope_turns = shape->pairs ? turns : NULL;
    return layer;
}

static const struct level {
    const char *name;
    uint32_t mask;
} levels[] = {{"portable", 0}, {"AVX2", ANYKV_ISA_AVX2}, {"best", ANYKV_ISA_ALL}};

/* Only the processor has more than one. */
static size_t level_count(void)
{
    return engine_on_processor() ? sizeof levels / sizeof levels[0] : 1;
}

/* Of attention, of which only the portable code decodes to floats. */
static double bound_of(const struct level *level, bool precise, anykv_format format)
{
    if (precise)
        return 2e-5;
    return !engine_on_processor() ? GPU_BOUND
           : !level->mask         ? 2e-5
           : format == ANYKV_I8   ? 4e-4
                                  : 0.02;
}

static anykv_device *device_at(anykv_context *context, uint32_t mask)
{
    anykv_device_options options = ANYKV_DEVICE_OPTIONS_INIT;
    anykv_device *device;
    options.threads = 0;
    options.isa_mask = mask;
    OK(anykv_device_open(context, engine_device_name(), &options, &device));
    return device;
}

Test(maps, codec_does_what_the_contract_says)
{
    static const anykv_format formats[] = {ANYKV_I8, ANYKV_N6, ANYKV_N4, ANYKV_E4M3G};
    anykv_context *context = house_context();
    for (size_t v = 0; v < level_count(); v++) {
        anykv_device *device = device_at(context, levels[v].mask);
        for (size_t s = 0; s < SHAPES; s++) {
            uint64_t turns[AKV_MAX_HEAD_DIM / 2];
            const anykv_layer layer = layer_of(&shapes[s], turns);
            anykv_calibration *calibration = maps_calibration(context, &layer, 1, 7 + s);
            for (uint32_t f = 0; f < 4; f++) {
                check_codec(device, calibration, formats[f], 0, f ? 4000000000u : 5, levels[v].name);
                if (shapes[s].v == ANYKV_TRANSFORM_MATRIX || f == 3)
                    check_codec(device, calibration, formats[f], 1, 77, levels[v].name);
            }
            anykv_calibration_destroy(calibration);
        }
        anykv_device_close(device);
    }
    anykv_context_destroy(context);
}

/* ---- the cache ---- */

struct house_of_maps {
    struct engine engine;
    anykv_calibration *calibration;
    uint64_t turns[AKV_MAX_HEAD_DIM / 2];
    anykv_layer layers[2];
    float scales[2][HEADS + 1];
};

/* Two layers of one group, of which the second one has other numbers. */
static void build(struct house_of_maps *h, anykv_context *context, anykv_device *device,
                  const struct shape *shape, uint32_t flags, anykv_format format)
{
    h->engine.context = context;
    h->engine.device = device;
    for (uint32_t l = 0; l < 2; l++) {
        h->layers[l] = layer_of(shape, h->turns);
        h->layers[l].k_format = h->layers[l].v_format = format;
        h->layers[l].hot_type = ANYKV_F32;
        for (uint32_t i = 0; i < HEADS + 1; i++)
            h->scales[l][i] = some_scales[(i + l) % (HEADS + 1)];
        if (format == ANYKV_E4M3G)
            h->layers[l].k_scales = h->layers[l].v_scales = h->scales[l];
    }
    h->calibration = maps_calibration(h->engine.context, h->layers, 2, shape->dim);
    h->engine.layout = engine_layout_with(h->engine.context, h->layers, 2, h->calibration);
    anykv_cache_options options = engine_options(64u << 20);
    options.flags = flags;
    options.max_step_tokens = 640;
    OK(anykv_cache_create(h->engine.device, h->engine.layout, &options, &h->engine.cache));
    cr_assert(h->engine.layout->group_count == 1);
}
static void tear_down(struct house_of_maps *h)
{
    anykv_calibration_destroy(h->calibration);
    engine_stop(&h->engine);
}

/* Keys of a sealed block as the codec would have packed them. */
static void check_tile(struct house_of_maps *h, anykv_seq *seq, uint32_t layer, uint32_t block)
{
    const anykv_layer *l = &h->layers[layer];
    const struct akv_group *group = &h->engine.layout->groups[0];
    uint64_t seeds[16], bytes = group->block_bytes[1], tile;
    uint8_t *packed = malloc(bytes);
    float *rows = malloc(16 * sizeof *rows * l->kv_heads * l->k_dim);
    uint32_t kind;
    for (uint32_t t = 0; t < 16; t++)
        seeds[t] = engine_chain(block * 16 + t, block * 16 + t);
    engine_rows(seeds, 16, layer, 0, l->kv_heads, l->k_dim, rows);
    OK(anykv_seq_gather_packed(seq, layer, block * 16, packed, &bytes, &kind));
    cr_assert(kind == AKV_KIND_SEALED, "block %u has kind %u", block, kind);
    for (uint32_t head = 0; head < l->kv_heads; head++) {
        anykv_codec_options options = ANYKV_CODEC_OPTIONS_INIT;
        options.format = l->k_format;
        options.transform = l->k_transform;
        options.head_dim = l->k_dim;
        options.calibration = h->calibration;
        options.layer = layer;
        options.head = head;
        options.position = block * 16;
        options.scales = l->k_scales ? l->k_scales + head : NULL;
        options.scale_count = l->k_scales ? 1 : 0;
        anykv_codec *codec;
        OK(anykv_codec_create(h->engine.device, &options, &codec));
        OK(anykv_codec_bytes(codec, 16, &tile));
        uint8_t *want = malloc(tile);
        anykv_view view = anykv_view_host(rows + (size_t)head * l->k_dim, ANYKV_F32, 1, l->k_dim);
        view.token_stride = (uint64_t)l->kv_heads * l->k_dim;
        OK(anykv_codec_encode(codec, &view, 16, 1, want, tile, NULL));
        const struct akv_place *place = &h->engine.layout->places[layer];
        cr_expect(memcmp(packed + place->offset[1][0] + head * tile, want, tile) == 0,
                  "layer %u, block %u, head %u", layer, block, head);
        anykv_codec_destroy(codec);
        free(want);
    }
    free(packed);
    free(rows);
}

/* Root of the mean square error of one token's attention, over that of the result. */
static double attention_error(struct house_of_maps *h, anykv_seq *seq, uint32_t layer, const float *q,
                              const float *out, uint32_t length)
{
    const anykv_layer *l = &h->layers[layer];
    const uint32_t dim = l->k_dim, vdim = l->v_dim, group = l->q_heads / l->kv_heads;
    float *k = malloc((size_t)length * l->kv_heads * dim * sizeof *k);
    float *v = malloc((size_t)length * l->kv_heads * vdim * sizeof *v);
    double *s = malloc(length * sizeof *s), error = 0.0, size = 0.0;
    const anykv_view k_view = anykv_view_host(k, ANYKV_F32, l->kv_heads, dim);
    const anykv_view v_view = anykv_view_host(v, ANYKV_F32, l->kv_heads, vdim);
    OK(anykv_seq_gather(seq, layer, 0, 0, length, &k_view));
    OK(anykv_seq_gather(seq, layer, 1, 0, length, &v_view));
    for (uint32_t h0 = 0; h0 < l->q_heads; h0++) {
        double sum = 0.0, most = -INFINITY;
        for (uint32_t j = 0; j < length; j++) {
            s[j] = 0.0;
            for (uint32_t i = 0; i < dim; i++)
                s[j] += (double)q[h0 * dim + i] *
                        (double)k[((size_t)j * l->kv_heads + h0 / group) * dim + i];
            s[j] /= sqrt((double)dim);
            most = fmax(most, s[j]);
        }
        for (uint32_t j = 0; j < length; j++)
            sum += s[j] = exp(s[j] - most);
        for (uint32_t i = 0; i < vdim; i++) {
            double want = 0.0;
            for (uint32_t j = 0; j < length; j++)
                want += s[j] / sum * (double)v[((size_t)j * l->kv_heads + h0 / group) * vdim + i];
            error += pow((double)out[h0 * vdim + i] - want, 2.0);
            size += want * want;
        }
    }
    free(k), free(v), free(s);
    return sqrt(error / size);
}

/* size: of the queries; a bound of infinity asks for finite numbers. */
static void check_attention(struct house_of_maps *h, anykv_seq *seq, double size, double bound,
                            const char *what)
{
    const uint32_t one = 1, before = (uint32_t)engine_length(seq);
    const uint64_t seed = engine_chain(before, before);
    const uint32_t token = before;
    float q[2][3 * (HEADS + 1) * 192], out[2][3 * (HEADS + 1) * 192];
    uint64_t random = before;
    anykv_step *step;
    OK(anykv_step_begin(h->engine.cache, &seq, &one, 1, &step));
    OK(engine_append(step, &seed));
    for (uint32_t layer = 0; layer < 2; layer++) {
        const anykv_layer *l = &h->layers[layer];
        for (uint32_t i = 0; i < l->q_heads * l->k_dim; i++)
            q[layer][i] = (float)(maps_random(&random) * size);
        const anykv_view q_view = anykv_view_host(q[layer], ANYKV_F32, l->q_heads, l->k_dim);
        const anykv_view o_view = anykv_view_host(out[layer], ANYKV_F32, l->q_heads, l->v_dim);
        OK(anykv_step_attend(step, layer, &q_view, NULL, &o_view));
    }
    /* Nothing is sealed at the end of a step that adds one token to a whole number of blocks. */
    OK(anykv_step_end(step, NULL, &token));
    for (uint32_t layer = 0; layer < 2; layer++) {
        const double error = attention_error(h, seq, layer, q[layer], out[layer], before + 1);
        cr_expect(error < bound, "%s, dim %u, layer %u: error %g, allowed %g", what,
                  h->layers[layer].k_dim, layer, error, bound);
    }
}

/* Ends with the device and the context closed. */
static void check_cache(anykv_context *context, anykv_device *device, const struct shape *shape,
                        uint32_t flags, anykv_format format, double bound, const char *what)
{
    struct house_of_maps h;
    build(&h, context, device, shape, flags, format);
    anykv_seq *seq = engine_seq(h.engine.cache);
    engine_run(seq, 0, 624);
    check_tile(&h, seq, 0, 1);
    check_tile(&h, seq, 1, 33);
    check_attention(&h, seq, 0.4, bound, what);
    check_attention(&h, seq, 1e25, INFINITY, what); /* whose squares overflow */
    anykv_seq_destroy(seq);
    tear_down(&h);
}

Test(maps, cache_packs_as_the_codec_and_attends_to_whole_rows)
{
    for (size_t v = 0; v < level_count(); v++)
        for (size_t s = 0; s < SHAPES; s++)
            for (uint32_t precise = 0; precise < 2; precise++) {
                anykv_context *context = house_context();
                anykv_device *device = device_at(context, levels[v].mask);
                const anykv_format format = s % 3 == 1 && precise ? ANYKV_E4M3G
                                            : s % 2               ? ANYKV_I8
                                                                  : ANYKV_N4;
                check_cache(context, device, &shapes[s], precise ? ANYKV_CACHE_PRECISE : 0, format,
                            bound_of(&levels[v], precise, format), levels[v].name);
            }
}

/* Scales alone, on rows that are neither centred nor multiplied. */
Test(maps, given_scales)
{
    static const anykv_transform transforms[] = {ANYKV_TRANSFORM_NONE, ANYKV_TRANSFORM_ROTATE};
    for (uint32_t t = 0; t < 2; t++) {
        const struct shape shape = {64, 32, ANYKV_ROPE_HALF, transforms[t], transforms[t]};
        for (size_t v = 0; v < sizeof levels / sizeof levels[0]; v++) {
            anykv_context *context = house_context();
            anykv_device *device = device_at(context, levels[v].mask);
            check_cache(context, device, &shape, 0, ANYKV_E4M3G, 2e-5, levels[v].name);
        }
    }
}

/* ---- what is refused, and failures ---- */

Test(maps, refusals)
{
    anykv_context *context = house_context();
    anykv_device *device = device_at(context, 0);
    uint64_t turns[AKV_MAX_HEAD_DIM / 2];
    anykv_layer layer = layer_of(&shapes[1], turns);
    anykv_calibration *calibration = maps_calibration(context, &layer, 1, 3);
    anykv_layout_options options = ANYKV_LAYOUT_OPTIONS_INIT;
    anykv_layout *layout;
    options.weights = "test";
    options.weights_bytes = 4;
    REFUSED(ANYKV_E_ARG, "layers[0].k_transform: 3 needs options.calibration",
            anykv_layout_create(context, &layer, 1, &options, &layout));
    options.calibration = calibration;
    layer.v_transform = ANYKV_TRANSFORM_CENTRE;
    REFUSED(ANYKV_E_ARG, "layers[0].v_transform: 2 (centre) is for keys only",
            anykv_layout_create(context, &layer, 1, &options, &layout));
    layer.v_transform = ANYKV_TRANSFORM_MATRIX;
    layer.k_dim = 64;
    layer.rope_pairs = 32;
    REFUSED(ANYKV_E_DATA, "calibration", anykv_layout_create(context, &layer, 1, &options, &layout));
    anykv_codec_options codec_options = ANYKV_CODEC_OPTIONS_INIT;
    anykv_codec *codec;
    codec_options.transform = ANYKV_TRANSFORM_MATRIX;
    REFUSED(ANYKV_E_ARG, "calibration: NULL", anykv_codec_create(device, &codec_options, &codec));
    codec_options.calibration = calibration;
    codec_options.head = HEADS + 1;
    REFUSED(ANYKV_E_DATA, "head: 3", anykv_codec_create(device, &codec_options, &codec));
    codec_options.head = 0;
    codec_options.side = 2;
    REFUSED(ANYKV_E_ARG, "side: 2", anykv_codec_create(device, &codec_options, &codec));
    codec_options.side = 0;
    codec_options.head_dim = 64;
    REFUSED(ANYKV_E_DATA, "head_dim: 64", anykv_codec_create(device, &codec_options, &codec));
    anykv_calibration_destroy(calibration);
    anykv_device_close(device);
    anykv_context_destroy(context);
}

/* Every allocation of a cache with means and matrices fails once. */
Test(maps, no_memory)
{
    anykv_context *context = house_context();
    anykv_device *device = device_at(context, 0);
    uint64_t turns[AKV_MAX_HEAD_DIM / 2], n = 0;
    const anykv_layer layer = layer_of(&shapes[1], turns);
    anykv_calibration *calibration = maps_calibration(context, &layer, 1, 3);
    anykv_layout *layout = engine_layout_with(context, &layer, 1, calibration);
    const anykv_cache_options options = engine_options(64u << 20);
    anykv_estimate estimate = ANYKV_ESTIMATE_INIT;
    OK(anykv_cache_estimate(device, layout, &options, &estimate));
    cr_expect(estimate.fixed_bytes > 3u * 128u * 128u * 6u * 2u, "the matrices are counted");
    anykv_status status = ANYKV_E_MEMORY;
    for (n = 1; status == ANYKV_E_MEMORY; n++) {
        anykv_cache *cache = NULL;
        akv_alloc_fail_at(n, false);
        status = anykv_cache_create(device, layout, &options, &cache);
        akv_alloc_fail_at(0, false);
        if (!status) {
            const anykv_stats stats = engine_stats(cache);
            uint8_t digest[32];
            OK(anykv_calibration_digest(calibration, digest));
            cr_expect(memcmp(stats.calibration, digest, 32) == 0);
            cr_expect(stats.fixed_bytes == estimate.fixed_bytes);
            anykv_cache_destroy(cache);
        }
    }
    cr_expect(status == ANYKV_OK && n > 10, "%s after %llu", anykv_status_name(status),
              (unsigned long long)n);
    status = ANYKV_E_MEMORY;
    for (n = 1; status == ANYKV_E_MEMORY; n++) {
        anykv_codec_options codec_options = ANYKV_CODEC_OPTIONS_INIT;
        anykv_codec *codec = NULL;
        codec_options.transform = ANYKV_TRANSFORM_MATRIX;
        codec_options.calibration = calibration;
        akv_alloc_fail_at(n, false);
        status = anykv_codec_create(device, &codec_options, &codec);
        akv_alloc_fail_at(0, false);
        if (!status)
            anykv_codec_destroy(codec);
    }
    cr_expect(status == ANYKV_OK && n > 3);
    anykv_layout_destroy(layout);
    anykv_calibration_destroy(calibration);
    anykv_device_close(device);
    anykv_context_destroy(context);
}
