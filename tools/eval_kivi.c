/* SPDX-License-Identifier: Apache-2.0 */
/* KIVI, a peer that eval computes for comparison. */
#include "eval_kivi.h"
#include "half.h"

double akv_kivi_bits(uint32_t code_bits)
{
    return (double)code_bits + 32.0 / AKV_KIVI_GROUP;
}

/* `count` elements, `stride` apart. */
static void pass_group(const double *rows, size_t count, size_t stride, uint32_t code_bits,
                       double *stored)
{
    double least = rows[0], most = rows[0];
    for (size_t i = 1; i < count; i++) {
        least = fmin(least, rows[i * stride]);
        most = fmax(most, rows[i * stride]);
    }
    const double last = (double)((1u << code_bits) - 1);
    const double minimum = akv_half_value(akv_half_bits(least));
    const double scale = akv_half_value(akv_half_bits((most - least) / last));
    for (size_t i = 0; i < count; i++) {
        const double code = scale > 0.0 ? nearbyint((rows[i * stride] - minimum) / scale) : 0.0;
        stored[i * stride] = minimum + scale * fmin(fmax(code, 0.0), last);
    }
}

void akv_kivi_pass(const double *rows, uint32_t tokens, uint32_t heads, uint32_t dim,
                   uint32_t code_bits, bool keys, double *stored)
{
    const size_t row = (size_t)heads * dim;
    for (size_t t = 0; t < tokens; t += keys ? AKV_KIVI_GROUP : 1) {
        const size_t here = tokens - t < AKV_KIVI_GROUP ? tokens - t : AKV_KIVI_GROUP;
        for (size_t h = 0; h < heads; h++)
            for (size_t i = 0; i < dim; i += keys ? 1 : AKV_KIVI_GROUP) {
                const size_t first = t * row + h * dim + i;
                const size_t wide = dim - i < AKV_KIVI_GROUP ? dim - i : AKV_KIVI_GROUP;
                pass_group(rows + first, keys ? here : wide, keys ? row : 1, code_bits,
                           stored + first);
            }
    }
}
