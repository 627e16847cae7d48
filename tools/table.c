/* SPDX-License-Identifier: Apache-2.0 */
/* Aligned tables for people. */
#include "table.h"
#include <stdarg.h>
#include <string.h>

struct akv_table {
    uint32_t columns;
    bool failed; /* out of memory on the way */
    char **cells;
    size_t count, capacity;
};

struct akv_table *akv_table_create(uint32_t columns)
{
    struct akv_table *table = akv_alloc(NULL, 1, sizeof *table);
    if (table != NULL)
        table->columns = columns;
    return table;
}

void akv_table_destroy(struct akv_table *table)
{
    if (table == NULL)
        return;
    for (size_t i = 0; i < table->count; i++)
        akv_free(NULL, table->cells[i]);
    akv_free(NULL, table->cells);
    akv_free(NULL, table);
}

void akv_table_cell(struct akv_table *table, const char *format, ...)
{
    char text[512];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(text, sizeof text, format, arguments); /* longer cells are cut */
    va_end(arguments);
    if (table->failed)
        return;
    if (table->count == table->capacity) {
        size_t capacity = table->capacity == 0 ? 64 : table->capacity * 2;
        char **cells = akv_resize(NULL, table->cells, table->capacity, capacity, sizeof *cells);
        if (cells == NULL) {
            table->failed = true;
            return;
        }
        table->cells = cells;
        table->capacity = capacity;
    }
    size_t bytes = strlen(text) + 1;
    char *cell = akv_alloc(NULL, bytes, 1);
    if (cell == NULL) {
        table->failed = true;
        return;
    }
    memcpy(cell, text, bytes);
    table->cells[table->count++] = cell;
}

uint64_t akv_table_rows(const struct akv_table *table)
{
    return table->count / table->columns;
}

/* Characters of UTF-8 text, each taken as one column wide. */
static int width(const char *text)
{
    int n = 0;
    for (; *text != '\0'; text++)
        n += ((unsigned char)*text & 0xC0) != 0x80;
    return n;
}

/* "-", or something that begins like a number. */
static bool numeric(const char *text)
{
    if (strcmp(text, "-") == 0 || text[0] == '\0')
        return true;
    if (*text == '-' || *text == '+' || *text == '<')
        text++;
    return *text >= '0' && *text <= '9';
}

anykv_status akv_table_print(const struct akv_table *table, FILE *out)
{
    if (table->failed)
        return akv_fail(NULL, ANYKV_E_MEMORY, "table: out of memory");
    int *widths = akv_alloc(NULL, table->columns, sizeof *widths);
    bool *right = akv_alloc(NULL, table->columns, sizeof *right);
    if (widths == NULL || right == NULL) {
        akv_free(NULL, widths);
        akv_free(NULL, right);
        return ANYKV_E_MEMORY;
    }
    for (uint32_t c = 0; c < table->columns; c++)
        right[c] = table->count > table->columns;
    for (size_t i = 0; i < table->count; i++) {
        uint32_t c = (uint32_t)(i % table->columns);
        int w = width(table->cells[i]);
        if (w > widths[c])
            widths[c] = w;
        if (i >= table->columns && !numeric(table->cells[i]))
            right[c] = false;
    }
    for (size_t i = 0; i < table->count; i++) {
        uint32_t c = (uint32_t)(i % table->columns);
        bool last = c + 1 == table->columns || i + 1 == table->count;
        int gap = widths[c] - width(table->cells[i]);
        fprintf(out, "%*s%s", right[c] ? gap : 0, "", table->cells[i]);
        if (last)
            fputc('\n', out);
        else
            fprintf(out, "%*s", (right[c] ? 0 : gap) + 2, "");
    }
    akv_free(NULL, widths);
    akv_free(NULL, right);
    return ferror(out) ? akv_fail(NULL, ANYKV_E_IO, "output: cannot be written") : ANYKV_OK;
}
