/* SPDX-License-Identifier: Apache-2.0 */
/* Checks of a layout, shared by anykv_layout_check and anykv_layout_create. */
#ifndef AKV_LAYOUT_CHECK_H
#define AKV_LAYOUT_CHECK_H
#include "layout.h"

/* Lists every error, a line each, in text (may be NULL); E_ARG with the first as detail. */
anykv_status akv_layout_check(anykv_context *context, const anykv_layer *layers, uint32_t count,
                              const anykv_layout_options *options, char *text, size_t text_bytes);
/* Is it one of the head sizes that the kernels know? */
bool akv_dim_known(uint32_t dim);
/* May it be a scale of E4M3G? */
bool akv_scale_fits(float scale);
/* Do two layers store the same kind of rows?  Windows, sources and q heads aside. */
bool akv_layer_same_rows(const anykv_layer *a, const anykv_layer *b);

#endif
