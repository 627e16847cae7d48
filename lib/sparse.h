/* SPDX-License-Identifier: Apache-2.0 */
/* Sparse compression, as anykv_decompress calls it. */
#ifndef AKV_SPARSE_H
#define AKV_SPARSE_H
#include "compress.h"

/* The header of a sparse body of so many bytes.  E_DATA. */
anykv_status akv_sparse_check(anykv_context *context, const struct akv_compress_header *header, uint64_t bytes);
/* Rows of a checked header's shape and dtype.  E_DATA: the body is damaged, nothing written. */
anykv_status akv_sparse_decompress(anykv_device *device, const struct akv_compress_header *header, const void *packed,
                                   uint64_t bytes, const anykv_view *view);

#endif
