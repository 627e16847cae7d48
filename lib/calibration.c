/* SPDX-License-Identifier: Apache-2.0 */
/* The calibration object: records of layers, inverses, digest. */
#include "calibration.h"
#include "half.h"
#include "linalg.h"

static const char *const side_name[2] = {"k", "v"};

anykv_status akv_calibration_create(anykv_context *context, uint32_t count,
                                    anykv_calibration **calibration_out)
{
    anykv_calibration *calibration = akv_alloc(context, 1, sizeof *calibration);
    if (!calibration)
        return ANYKV_E_MEMORY;
    calibration->context = context;
    atomic_init(&calibration->holds, 1);
    calibration->layers = akv_alloc(context, count, sizeof *calibration->layers);
    if (!calibration->layers) {
        akv_free(context, calibration);
        return ANYKV_E_MEMORY;
    }
    calibration->count = count;
    *calibration_out = calibration;
    return ANYKV_OK;
}

static void free_layer(anykv_context *context, struct akv_calibration_layer *layer)
{
    akv_free(context, layer->turns);
    for (int s = 0; s < 2; s++) {
        akv_free(context, layer->side[s].mu);
        akv_free(context, layer->side[s].matrix);
        akv_free(context, layer->side[s].inverse);
        akv_free(context, layer->side[s].head);
        akv_free(context, layer->side[s].basis);
        akv_free(context, layer->side[s].centre);
        akv_free(context, layer->side[s].expand);
    }
}

void anykv_calibration_destroy(anykv_calibration *calibration)
{
    if (!calibration)
        return;
    /* The last one to let go sees what all others did before. */
    if (atomic_fetch_sub_explicit(&calibration->holds, 1, memory_order_acq_rel) != 1)
        return;
    for (uint32_t l = 0; l < calibration->count; l++)
        free_layer(calibration->context, &calibration->layers[l]);
    akv_free(calibration->context, calibration->layers);
    akv_free(calibration->context, calibration);
}

const anykv_calibration *akv_calibration_hold(const anykv_calibration *calibration)
{
    /* A count is no part of what a calibration says; everything else of it is constant. */
    anykv_calibration *counted = (anykv_calibration *)(uintptr_t)calibration;
    atomic_fetch_add_explicit(&counted->holds, 1, memory_order_relaxed);
    return calibration;
}

anykv_status akv_calibration_room(anykv_calibration *calibration, struct akv_calibration_layer *layer)
{
    anykv_context *context = calibration->context;
    layer->turns = akv_alloc(context, layer->rope_pairs ? layer->rope_pairs : 1, sizeof(uint64_t));
    if (!layer->turns)
        return ANYKV_E_MEMORY;
    for (int s = 0; s < 2; s++) {
        struct akv_calibration_side *side = &layer->side[s];
        const size_t row = (size_t)layer->kv_heads * side->dim, square = row * side->dim;
        side->head = akv_alloc(context, layer->kv_heads, sizeof *side->head);
        if (!side->head)
            return ANYKV_E_MEMORY;
        if (s == 0 && side->transform >= ANYKV_TRANSFORM_CENTRE &&
            !(side->mu = akv_alloc(context, row, sizeof *side->mu)))
            return ANYKV_E_MEMORY;
        if (calibration->bases) {
            side->basis = akv_alloc(context, square, sizeof *side->basis);
            side->expand = akv_alloc(context, square, sizeof *side->expand);
            if (!side->basis || !side->expand)
                return ANYKV_E_MEMORY;
            if (s == 0 && !(side->centre = akv_alloc(context, row, sizeof *side->centre)))
                return ANYKV_E_MEMORY;
        }
        if (side->transform != ANYKV_TRANSFORM_MATRIX)
            continue;
        side->matrix = akv_alloc(context, square, sizeof *side->matrix);
        side->inverse = akv_alloc(context, square, sizeof *side->inverse);
        if (!side->matrix || !side->inverse)
            return ANYKV_E_MEMORY;
    }
    return ANYKV_OK;
}

/* ---- inverses ---- */

static anykv_status invert_head(const anykv_calibration *calibration,
                                const struct akv_calibration_layer *layer, int s, uint32_t head,
                                const uint16_t *matrices, float *inverses, double *work)
{
    const struct akv_calibration_side *side = &layer->side[s];
    const size_t dim = side->dim, square = dim * dim;
    const uint16_t *matrix = matrices + head * square;
    float *inverse = inverses + head * square;
    double *a = work, *b = work + square;
    for (size_t i = 0; i < square; i++)
        a[i] = akv_half_value(matrix[i]);
    bool good = akv_invert(a, b, side->dim);
    for (size_t j = 0; j < dim && good; j++)
        for (size_t i = 0; i < dim; i++) {
            inverse[j * dim + i] = (float)b[i * dim + j];
            good &= fabs(b[i * dim + j]) < 1e30;
        }
    if (!good)
        return akv_fail(calibration->context, ANYKV_E_DATA,
                        "calibration layer %u: matrix of %s head %u has no inverse", layer->number,
                        side_name[s], head);
    return ANYKV_OK;
}

static anykv_status check_halves(const anykv_calibration *calibration,
                                 const struct akv_calibration_layer *layer, int s,
                                 const char *field, const uint16_t *halves, size_t count)
{
    for (size_t i = 0; halves && i < count; i++)
        if (!akv_half_finite(halves[i]))
            return akv_fail(calibration->context, ANYKV_E_DATA,
                            "calibration layer %u: %s of %s, element %zu is not finite",
                            layer->number, field, side_name[s], i);
    return ANYKV_OK;
}

static anykv_status finish_side(const anykv_calibration *calibration,
                                const struct akv_calibration_layer *layer, int s, double *work)
{
    const struct akv_calibration_side *side = &layer->side[s];
    const size_t row = (size_t)layer->kv_heads * side->dim;
    anykv_status status = check_halves(calibration, layer, s, "mean", side->mu, row);
    if (!status)
        status = check_halves(calibration, layer, s, "matrix", side->matrix, row * side->dim);
    if (!status)
        status = check_halves(calibration, layer, s, "centre", side->centre, row);
    if (!status)
        status = check_halves(calibration, layer, s, "basis", side->basis, row * side->dim);
    for (uint32_t head = 0; side->matrix && head < layer->kv_heads && !status; head++)
        status = invert_head(calibration, layer, s, head, side->matrix, side->inverse, work);
    for (uint32_t head = 0; side->basis && head < layer->kv_heads && !status; head++)
        status = invert_head(calibration, layer, s, head, side->basis, side->expand, work);
    return status;
}

/* ---- digest ---- */

static void digest_halves(akv_sha256 *state, const uint16_t *halves, size_t count)
{
    uint8_t bytes[128];
    for (size_t i = 0; halves && i < count;) {
        size_t used = 0;
        for (; used < sizeof bytes && i < count; i++) {
            bytes[used++] = (uint8_t)halves[i];
            bytes[used++] = (uint8_t)(halves[i] >> 8);
        }
        akv_sha256_update(state, bytes, used);
    }
}

static akv_digest digest_of(const anykv_calibration *calibration)
{
    akv_sha256 state;
    akv_sha256_init(&state);
    akv_sha256_update(&state, calibration->bases ? "anykvcal2" : "anykvcal1", 9);
    akv_sha256_u32(&state, calibration->weights_bytes);
    akv_sha256_update(&state, calibration->weights, calibration->weights_bytes);
    akv_sha256_u32(&state, calibration->count);
    for (uint32_t l = 0; l < calibration->count; l++) {
        const struct akv_calibration_layer *layer = &calibration->layers[l];
        const uint32_t fields[8] = {layer->number,      layer->kv_heads,
                                    layer->side[0].dim, layer->side[1].dim,
                                    layer->rope_pairs,  layer->rope,
                                    layer->side[0].transform, layer->side[1].transform};
        for (int i = 0; i < 8; i++)
            akv_sha256_u32(&state, fields[i]);
        for (uint32_t i = 0; i < layer->rope_pairs; i++)
            akv_sha256_u64(&state, layer->turns[i]);
        for (int s = 0; s < 2; s++) {
            const size_t row = (size_t)layer->kv_heads * layer->side[s].dim;
            digest_halves(&state, layer->side[s].mu, row);
            digest_halves(&state, layer->side[s].matrix, row * layer->side[s].dim);
            digest_halves(&state, layer->side[s].centre, row);
            digest_halves(&state, layer->side[s].basis, row * layer->side[s].dim);
        }
    }
    return akv_sha256_final(&state);
}

anykv_status akv_calibration_finish(anykv_calibration *calibration)
{
    size_t largest = 0;
    for (uint32_t l = 0; l < calibration->count; l++)
        for (int s = 0; s < 2; s++) {
            const struct akv_calibration_side *side = &calibration->layers[l].side[s];
            if ((side->matrix || side->basis) && side->dim > largest)
                largest = side->dim;
        }
    anykv_status status = ANYKV_OK;
    double *work = akv_alloc(calibration->context, 2 * largest * largest + 1, sizeof *work);
    if (!work)
        return ANYKV_E_MEMORY;
    for (uint32_t l = 0; l < calibration->count && !status; l++)
        for (int s = 0; s < 2 && !status; s++)
            status = finish_side(calibration, &calibration->layers[l], s, work);
    akv_free(calibration->context, work);
    calibration->digest = digest_of(calibration);
    return status;
}

/* ---- questions ---- */

const struct akv_calibration_layer *akv_calibration_find(const anykv_calibration *calibration,
                                                         uint32_t number)
{
    for (uint32_t l = 0; l < calibration->count; l++)
        if (calibration->layers[l].number == number)
            return &calibration->layers[l];
    return NULL;
}

static anykv_status layer_fits(const anykv_calibration *calibration,
                               const struct akv_calibration_layer *made, const anykv_layer *layer)
{
    const struct {
        const char *field;
        uint32_t made, wanted;
    } fields[] = {
        {"kv_heads", made->kv_heads, layer->kv_heads},
        {"k_dim", made->side[0].dim, layer->k_dim},
        {"v_dim", made->side[1].dim, layer->v_dim},
        {"rope_pairs", made->rope_pairs, layer->rope_pairs},
        {"rope", made->rope_pairs ? made->rope : 0, made->rope_pairs ? (uint32_t)layer->rope : 0},
    };
    for (size_t i = 0; i < sizeof fields / sizeof fields[0]; i++)
        if (fields[i].made != fields[i].wanted)
            return akv_fail(calibration->context, ANYKV_E_DATA,
                            "calibration of another model: layers[%u].%s is %u, it was made for %u",
                            made->number, fields[i].field, fields[i].wanted, fields[i].made);
    for (uint32_t i = 0; i < made->rope_pairs; i++) {
        /* The same frequency computed in floats is the same frequency. */
        const double ours = (double)made->turns[i], theirs = (double)layer->rope_turns[i];
        if (fabs(ours - theirs) > 0x1p-13 * ours)
            return akv_fail(calibration->context, ANYKV_E_DATA,
                            "calibration of another model: layers[%u].rope_turns[%u] is %llu, it was "
                            "made for %llu",
                            made->number, i, (unsigned long long)layer->rope_turns[i],
                            (unsigned long long)made->turns[i]);
    }
    return ANYKV_OK;
}

anykv_status akv_calibration_fits(const anykv_calibration *calibration, const anykv_layer *layers,
                                  uint32_t count, const void *weights, uint32_t weights_bytes)
{
    if (calibration->weights_bytes && weights_bytes &&
        (calibration->weights_bytes != weights_bytes ||
         memcmp(calibration->weights, weights, weights_bytes) != 0))
        return akv_fail(calibration->context, ANYKV_E_DATA,
                        "calibration of another model: it was made for other weights");
    for (uint32_t l = 0; l < calibration->count; l++) {
        const struct akv_calibration_layer *made = &calibration->layers[l];
        if (made->number >= count)
            return akv_fail(calibration->context, ANYKV_E_DATA,
                            "calibration of another model: it has layer %u, the layout %u layers",
                            made->number, count);
        if (layers[made->number].source != ANYKV_OWN_ROWS)
            return akv_fail(calibration->context, ANYKV_E_DATA,
                            "calibration of another model: layers[%u] reads the rows of layer %u",
                            made->number, layers[made->number].source);
        anykv_status status = layer_fits(calibration, made, &layers[made->number]);
        if (status)
            return status;
    }
    return ANYKV_OK;
}

anykv_status anykv_calibration_digest(const anykv_calibration *calibration, uint8_t digest_out[32])
{
    if (!calibration || !digest_out)
        return akv_fail(NULL, ANYKV_E_ARG, "%s: NULL", calibration ? "digest_out" : "calibration");
    memcpy(digest_out, calibration->digest.byte, 32);
    return ANYKV_OK;
}

anykv_status anykv_calibration_describe(const anykv_calibration *calibration, uint32_t index,
                                        uint32_t side, uint32_t head,
                                        anykv_calibration_info *info_out)
{
    if (!calibration || !info_out)
        return akv_fail(NULL, ANYKV_E_ARG, "%s: NULL", calibration ? "info_out" : "calibration");
    anykv_context *context = calibration->context;
    const size_t size = info_out->size;
    if (size < sizeof size || size > sizeof *info_out)
        return akv_fail(context, ANYKV_E_ARG,
                        "info_out.size: %zu is not between %zu and %zu (set it first)", size,
                        sizeof size, sizeof *info_out);
    if (side > 1)
        return akv_fail(context, ANYKV_E_ARG, "side: %u is neither 0 (keys) nor 1 (values)", side);
    if (index >= calibration->count)
        return akv_fail(context, ANYKV_E_NOT_FOUND, "index: %u, the calibration has %u layers",
                        index, calibration->count);
    const struct akv_calibration_layer *layer = &calibration->layers[index];
    if (head >= layer->kv_heads)
        return akv_fail(context, ANYKV_E_NOT_FOUND, "head: %u, layer %u has %u", head,
                        layer->number, layer->kv_heads);
    const struct akv_prediction *chosen = &layer->side[side].head[head];
    anykv_calibration_info info = ANYKV_CALIBRATION_INFO_INIT;
    info.size = size;
    info.layers = calibration->count;
    info.number = layer->number;
    info.kv_heads = layer->kv_heads;
    info.k_dim = layer->side[0].dim;
    info.v_dim = layer->side[1].dim;
    info.rope_pairs = layer->rope_pairs;
    info.transform = (anykv_transform)chosen->transform;
    info.rotate = chosen->rotate < 0.0 ? (double)NAN : chosen->rotate;
    info.centre = chosen->centre < 0.0 ? (double)NAN : chosen->centre;
    info.matrix = chosen->matrix < 0.0 ? (double)NAN : chosen->matrix;
    info.model = calibration->model;
    memcpy(info_out, &info, size);
    return ANYKV_OK;
}
