/* SPDX-License-Identifier: Apache-2.0 */
/* One error text, checked memory, a clock. */
#include "common.h"
#include <anykv.h>
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

static char text[512];

int fail(const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    (void)vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    return -1;
}

const char *failure(void)
{
    return text;
}

int check(int status, const char *what)
{
    if (status == ANYKV_OK)
        return 0;
    return fail("%s: %s (%s)", what, anykv_error_detail(), anykv_status_name((anykv_status)status));
}

void *grab(uint64_t count, size_t bytes)
{
    void *memory = NULL;
    if (count <= SIZE_MAX / 2 / (bytes ? bytes : 1))
        memory = calloc(count ? (size_t)count : 1, bytes ? bytes : 1);
    if (!memory)
        (void)fail("out of memory: %llu times %zu bytes", (unsigned long long)count, bytes);
    return memory;
}

char *read_file(const char *path, uint64_t limit, uint64_t *bytes_out)
{
    FILE *file = fopen(path, "rb");
    if (!file) {
        (void)fail("%s: %s", path, strerror(errno));
        return NULL;
    }
    char *data = NULL;
    size_t bytes = 0, capacity = 0;
    for (;;) {
        if (bytes + 1 >= capacity) {
            capacity = capacity ? 2 * capacity : 65536;
            char *more = realloc(data, capacity);
            if (!more) {
                (void)fail("%s: out of memory at %zu bytes", path, bytes);
                break;
            }
            data = more;
        }
        size_t got = fread(data + bytes, 1, capacity - 1 - bytes, file);
        bytes += got;
        if (bytes > limit) {
            (void)fail("%s: more than %llu bytes", path, (unsigned long long)limit);
            break;
        }
        if (got == 0) {
            if (ferror(file)) {
                (void)fail("%s: cannot be read: %s", path, strerror(errno));
                break;
            }
            (void)fclose(file);
            data[bytes] = '\0';
            *bytes_out = bytes;
            return data;
        }
    }
    free(data);
    (void)fclose(file);
    return NULL;
}

static clockid_t which_clock = CLOCK_MONOTONIC;

void seconds_of_thread(void)
{
    which_clock = CLOCK_THREAD_CPUTIME_ID;
}

double seconds(void)
{
    struct timespec now;
    (void)clock_gettime(which_clock, &now);
    return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}
