/* SPDX-License-Identifier: Apache-2.0 */
/* Moments: sums over rows of a model, in double precision and in one pass. */
#include "moments.h"
#include "half.h"
#include "kernel/format.h"
#include "layout_check.h"
#include "objects.h"

#define FIRST_KEPT 4u /* positions before it attract attention and look like no others */

/* ---- creation ---- */

static uint32_t trig_size(const anykv_layer *layer)
{
    return 2 * layer->rope_pairs + 1;
}

static anykv_status copy_layers(anykv_moments *moments, const anykv_layer *layers, uint32_t count)
{
    anykv_context *context = moments->context;
    size_t turns = 0, row = 0, angle = 0;
    for (uint32_t l = 0; l < count; l++) {
        const anykv_layer *layer = &layers[l];
        const size_t wide = layer->k_dim > layer->v_dim ? layer->k_dim : layer->v_dim;
        turns += layer->rope_pairs;
        row = wide > row ? wide : row;
        angle = trig_size(layer) > angle ? trig_size(layer) : angle;
    }
    moments->layers = akv_alloc(context, count, sizeof *moments->layers);
    moments->sums = akv_alloc(context, count, sizeof *moments->sums);
    moments->turns = akv_alloc(context, turns ? turns : 1, sizeof *moments->turns);
    moments->row = akv_alloc(context, row, sizeof *moments->row);
    moments->angle = akv_alloc(context, angle, sizeof *moments->angle);
    if (!moments->layers || !moments->sums || !moments->turns || !moments->row || !moments->angle)
        return ANYKV_E_MEMORY;
    memcpy(moments->layers, layers, count * sizeof *layers);
    moments->count = count;
    uint64_t *next = moments->turns;
    for (uint32_t l = 0; l < count; l++) {
        const uint32_t pairs = layers[l].rope_pairs;
        if (pairs)
            memcpy(next, layers[l].rope_turns, pairs * sizeof *next);
        moments->layers[l].rope_turns = pairs ? next : NULL;
        moments->layers[l].k_scales = moments->layers[l].v_scales = NULL;
        next += pairs;
    }
    return ANYKV_OK;
}

anykv_status anykv_moments_create(anykv_context *context, const anykv_layer *layers, uint32_t count,
                                  anykv_moments **moments_out)
{
    if (!context || !moments_out)
        return akv_fail(context, ANYKV_E_ARG, "%s: NULL", context ? "moments_out" : "context");
    anykv_layout_options options = ANYKV_LAYOUT_OPTIONS_INIT;
    options.weights = "any";
    options.weights_bytes = 3;
    anykv_status status = akv_layout_check(context, layers, count, &options, NULL, 0);
    if (status)
        return status;
    anykv_moments *moments = akv_alloc(context, 1, sizeof *moments);
    if (!moments)
        return ANYKV_E_MEMORY;
    moments->context = context;
    status = copy_layers(moments, layers, count);
    if (status) {
        anykv_moments_destroy(moments);
        return status;
    }
    *moments_out = moments;
    return ANYKV_OK;
}

void anykv_moments_destroy(anykv_moments *moments)
{
    if (!moments)
        return;
    for (uint32_t l = 0; l < moments->count; l++) {
        struct akv_layer_moments *sums = &moments->sums[l];
        akv_free(moments->context, sums->trig);
        akv_free(moments->context, sums->key);
        akv_free(moments->context, sums->key_plain);
        akv_free(moments->context, sums->key_trig);
        akv_free(moments->context, sums->query);
        akv_free(moments->context, sums->value);
    }
    akv_free(moments->context, moments->layers);
    akv_free(moments->context, moments->sums);
    akv_free(moments->context, moments->turns);
    akv_free(moments->context, moments->row);
    akv_free(moments->context, moments->angle);
    akv_free(moments->context, moments);
}

/* ---- rows ---- */

static double element(const void *data, anykv_dtype dtype, uint64_t index)
{
    if (dtype == ANYKV_F32)
        return (double)((const float *)data)[index];
    const uint16_t half = ((const uint16_t *)data)[index];
    return dtype == ANYKV_F16 ? akv_half_value(half)
                              : (double)akv_as_f32((uint32_t)half << 16);
}

/* Row (t, h) as double; false if an element is not finite. */
static bool load_row(const anykv_view *view, uint32_t t, uint32_t h, uint32_t dim, double *row)
{
    const uint64_t first = t * view->token_stride + h * view->head_stride;
    bool finite = true;
    for (uint32_t i = 0; i < dim; i++) {
        row[i] = element(view->data, view->dtype, first + i);
        finite &= row[i] - row[i] == 0.0;
    }
    return finite;
}

static anykv_status check_view(anykv_context *context, const char *what, const anykv_view *view,
                               uint32_t tokens, uint32_t heads, uint32_t dim, double *row)
{
    if (!view)
        return ANYKV_OK;
    anykv_status status = akv_view_check_host(context, what, view, tokens, heads, dim);
    for (uint32_t t = 0; t < tokens && !status; t++)
        for (uint32_t h = 0; h < heads && !status; h++)
            if (!load_row(view, t, h, dim, row))
                status = akv_fail(context, ANYKV_E_DATA,
                                  "%s: the row of token %u, head %u is not finite", what, t, h);
    return status;
}

/* sum += a * b^T, of a symmetric sum the lower triangle only. */
static void add_square(double *sum, const double *a, uint32_t n)
{
    for (size_t i = 0; i < n; i++) {
        const double x = a[i];
        for (size_t j = 0; j <= i; j++)
            sum[i * n + j] += x * a[j];
    }
}

static void add_product(double *sum, const double *a, uint32_t n, const double *b, uint32_t m)
{
    for (size_t i = 0; i < n; i++) {
        const double x = a[i];
        for (size_t j = 0; j < m; j++)
            sum[i * m + j] += x * b[j];
    }
}

/* Angles wrap exactly in 2^-64 turns. */
static void make_trig(const anykv_layer *layer, uint64_t position, double *trig)
{
    for (uint32_t i = 0; i < layer->rope_pairs; i++) {
        const uint64_t turns = position * layer->rope_turns[i];
        const double angle = (double)(int64_t)turns * (6.283185307179586476925 * 0x1p-64);
        trig[i] = cos(angle);
        trig[layer->rope_pairs + i] = sin(angle);
    }
    trig[2 * layer->rope_pairs] = 1.0;
}

/* ---- sums ---- */

static bool room(anykv_context *context, double **sum, size_t count)
{
    if (!*sum)
        *sum = akv_alloc(context, count, sizeof **sum);
    return *sum != NULL;
}

static anykv_status make_room(anykv_moments *moments, const anykv_layer *layer,
                              struct akv_layer_moments *sums, bool k, bool v, bool q)
{
    anykv_context *context = moments->context;
    const size_t heads = layer->kv_heads, kd = layer->k_dim, vd = layer->v_dim;
    const size_t trig = trig_size(layer);
    bool good = true;
    if (k)
        good = room(context, &sums->trig, trig * trig) &&
               room(context, &sums->key, heads * kd * kd) &&
               room(context, &sums->key_plain, heads * kd * kd) &&
               room(context, &sums->key_trig, heads * kd * trig);
    if (v && good)
        good = room(context, &sums->value, heads * vd * vd);
    if (q && good)
        good = room(context, &sums->query, 2 * heads * kd * kd);
    return good ? ANYKV_OK : ANYKV_E_MEMORY;
}

/* A key turned back to position 0 by the angles of its position. */
static void turn_back(const anykv_layer *layer, const double *angle, double *row)
{
    for (uint32_t i = 0; i < layer->rope_pairs; i++) {
        uint32_t a, b;
        akv_rope_pair(layer, i, &a, &b);
        const double x = row[a], y = row[b], c = angle[i], s = angle[layer->rope_pairs + i];
        row[a] = c * x + s * y;
        row[b] = c * y - s * x;
    }
}

static void add_keys(anykv_moments *moments, const anykv_layer *layer,
                     struct akv_layer_moments *sums, uint64_t position, const anykv_view *k,
                     uint32_t t)
{
    const uint32_t dim = layer->k_dim, trig = trig_size(layer);
    make_trig(layer, position, moments->angle);
    add_square(sums->trig, moments->angle, trig);
    for (uint32_t h = 0; h < layer->kv_heads; h++) {
        load_row(k, t, h, dim, moments->row);
        add_square(sums->key + (size_t)h * dim * dim, moments->row, dim);
        add_product(sums->key_trig + (size_t)h * dim * trig, moments->row, dim, moments->angle,
                    trig);
        turn_back(layer, moments->angle, moments->row);
        add_square(sums->key_plain + (size_t)h * dim * dim, moments->row, dim);
    }
    sums->keys++;
}

static void add_values(anykv_moments *moments, const anykv_layer *layer,
                       struct akv_layer_moments *sums, const anykv_view *v, uint32_t t)
{
    const uint32_t dim = layer->v_dim;
    for (uint32_t h = 0; h < layer->kv_heads; h++) {
        load_row(v, t, h, dim, moments->row);
        add_square(sums->value + (size_t)h * dim * dim, moments->row, dim);
    }
    sums->values++;
}

static void add_queries(anykv_moments *moments, uint32_t q_heads, const anykv_layer *layer,
                        struct akv_layer_moments *sums, const anykv_view *q, uint32_t t)
{
    const uint32_t dim = layer->k_dim, group = q_heads / layer->kv_heads;
    const uint32_t half = sums->queries / AKV_HALF_RUN % 2, first = half * layer->kv_heads;
    for (uint32_t h = 0; h < q_heads; h++) {
        load_row(q, t, h, dim, moments->row);
        add_square(sums->query + (size_t)(first + h / group) * dim * dim, moments->row, dim);
    }
    sums->queries++;
    sums->judges += half;
}

anykv_status anykv_moments_add(anykv_moments *moments, uint32_t layer, uint64_t first,
                               uint32_t tokens, const anykv_view *k, const anykv_view *v,
                               const anykv_view *q)
{
    if (!moments)
        return akv_fail(NULL, ANYKV_E_ARG, "moments: NULL");
    anykv_context *context = moments->context;
    if (layer >= moments->count)
        return akv_fail(context, ANYKV_E_ARG, "layer: %u, there are %u", layer, moments->count);
    if (first > UINT64_MAX - tokens)
        return akv_fail(context, ANYKV_E_ARG, "first: %llu with %u tokens is beyond 64 bits",
                        (unsigned long long)first, tokens);
    const anykv_layer *asked = &moments->layers[layer];
    const uint32_t place = asked->source == ANYKV_OWN_ROWS ? layer : asked->source;
    const anykv_layer *owner = &moments->layers[place];
    struct akv_layer_moments *sums = &moments->sums[place];
    if (place != layer && (k || v))
        return akv_fail(context, ANYKV_E_STATE, "layer: %u has no rows, it reads those of layer %u",
                        layer, place);
    anykv_status status =
        check_view(context, "k", k, tokens, owner->kv_heads, owner->k_dim, moments->row);
    if (!status)
        status = check_view(context, "v", v, tokens, owner->kv_heads, owner->v_dim, moments->row);
    if (!status)
        status = check_view(context, "q", q, tokens, asked->q_heads, owner->k_dim, moments->row);
    if (!status)
        status = make_room(moments, owner, sums, k != NULL, v != NULL, q != NULL);
    for (uint32_t t = 0; t < tokens && !status; t++) {
        if (k && first + t >= FIRST_KEPT)
            add_keys(moments, owner, sums, first + t, k, t);
        if (v && first + t >= FIRST_KEPT)
            add_values(moments, owner, sums, v, t);
        if (q)
            add_queries(moments, asked->q_heads, owner, sums, q, t);
    }
    return status;
}
