/* SPDX-License-Identifier: Apache-2.0 */
/* What the methods of compression share: the header before their bodies. */
#ifndef AKV_COMPRESS_H
#define AKV_COMPRESS_H
#include "objects.h"

/* Little-endian.  check: sum of mix(word j, j) of lib/kernel/bx16.h over the other words. */
struct akv_compress_header {
    char magic[4]; /* "AKVC" */
    uint32_t method, dtype, tokens, heads, dim, escapes, check;
    uint64_t bytes; /* of all */
    uint32_t table[4];
    uint64_t zero;
};
_Static_assert(sizeof(struct akv_compress_header) == ANYKV_COMPRESS_HEADER, "the header is what the format says");

uint32_t akv_compress_check(const struct akv_compress_header *header);
/* The header, if it is one and whole; its fields are as they came.  E_DATA. */
anykv_status akv_compress_header_read(anykv_context *context, const void *packed, uint64_t bytes,
                                      struct akv_compress_header *header);
/* compress_rans.c: the rest of a header of method RANS.  E_DATA. */
anykv_status akv_packed_check(anykv_context *context, const struct akv_compress_header *header, uint64_t bytes);

#endif
