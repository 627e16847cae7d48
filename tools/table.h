/* SPDX-License-Identifier: Apache-2.0 */
/* Aligned tables for people. */
#ifndef AKV_TOOLS_TABLE_H
#define AKV_TOOLS_TABLE_H
#include "internal.h"
#include <stdio.h>

struct akv_table;
struct akv_table *akv_table_create(uint32_t columns); /* NULL: out of memory (recorded) */
void akv_table_destroy(struct akv_table *table);
/* The next cell, row by row; the first row is the heading.  A column is set right-aligned when all
 * its cells below the heading are numbers or "-".  Out of memory is remembered and returned by
 * print. */
void akv_table_cell(struct akv_table *table, const char *format, ...) AKV_PRINTF(2, 3);
uint64_t akv_table_rows(const struct akv_table *table); /* the heading included */
anykv_status akv_table_print(const struct akv_table *table, FILE *out);

#endif
