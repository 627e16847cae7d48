/* SPDX-License-Identifier: Apache-2.0 */
/* What every file of this program uses: one error text, checked memory, a clock.
 * Functions that can fail return 0 or -1 (pointers: NULL) and have then called fail(). */
#ifndef LLAMA_COMMON_H
#define LLAMA_COMMON_H
#include <stddef.h>
#include <stdint.h>

#if defined(__GNUC__)
#define LIKE_PRINTF __attribute__((format(printf, 1, 2)))
#else
#define LIKE_PRINTF
#endif

/* Sets the error text and returns -1; failure() reads it, "" if nothing failed. */
int fail(const char *format, ...) LIKE_PRINTF;
const char *failure(void);
/* fail() with the library's explanation of the status, unless it is ANYKV_OK. */
int check(int status, const char *what);

/* count * bytes of zeroed memory; NULL when there is none or the product wraps. */
void *grab(uint64_t count, size_t bytes);
/* A whole file, with a zero behind it. */
char *read_file(const char *path, uint64_t limit, uint64_t *bytes_out);
/* Time on the wall; after seconds_of_thread() the processor time of the calling thread, which other
 * programs on the machine do not lengthen. */
double seconds(void);
void seconds_of_thread(void);

#endif
