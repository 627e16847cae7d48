/* SPDX-License-Identifier: Apache-2.0 */
/* Attend on packed codes with AVX2. */
#include "k_attend.h"
#include <immintrin.h>

bool akv_attend_code_scores_avx2(struct akv_attend_work *work, const struct akv_strip *strip)
{
    (void)work, (void)strip;
    return false;
}
bool akv_attend_code_values_avx2(struct akv_attend_work *work, const struct akv_strip *strip)
{
    (void)work, (void)strip;
    return false;
}
