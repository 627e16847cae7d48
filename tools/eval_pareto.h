/* SPDX-License-Identifier: Apache-2.0 */
/* Bits against error, drawn as an SVG file. */
#ifndef AKV_TOOLS_EVAL_PARETO_H
#define AKV_TOOLS_EVAL_PARETO_H
#include "internal.h"

struct akv_pareto_point {
    char name[40];      /* "N4/N4" */
    const char *series; /* "rotate"; points of one series share colour and line */
    double bits, attention_tv, output_error;
};
/* Two panels, attention total variation and output error on logarithmic scales; points without error
 * are left out.  E_IO. */
anykv_status akv_pareto_draw(const char *path, const char *title,
                             const struct akv_pareto_point *points, uint32_t count);

#endif
