/* SPDX-License-Identifier: Apache-2.0 */
/* Status codes, the detail of the last failure, and copying of option structs. */
#include "internal.h"
#include <stdarg.h>
#include <stdio.h>

/* Larger option structs than this do not exist; it keeps a wild size from being read. */
#define OPTIONS_MAX_BYTES 4096u

static _Thread_local char detail[768];

const char *anykv_status_name(anykv_status status)
{
    switch (status) {
#define STATUS_NAME(name, value, text)                                                             \
    case ANYKV_##name:                                                                             \
        return "ANYKV_" #name;
        ANYKV_STATUS_LIST(STATUS_NAME)
#undef STATUS_NAME
    }
    return "ANYKV_E_?";
}

const char *anykv_status_text(anykv_status status)
{
    switch (status) {
#define STATUS_TEXT(name, value, text)                                                             \
    case ANYKV_##name:                                                                             \
        return text;
        ANYKV_STATUS_LIST(STATUS_TEXT)
#undef STATUS_TEXT
    }
    return "unknown status";
}

const char *anykv_error_detail(void)
{
    return detail;
}

anykv_status akv_fail(anykv_context *context, anykv_status code, const char *format, ...)
{
    /* Formatted aside first: an argument may be the old detail itself. */
    char text[sizeof detail];
    va_list arguments;
    va_start(arguments, format);
    if (vsnprintf(text, sizeof text, format, arguments) < 0)
        text[0] = '\0';
    va_end(arguments);
    memcpy(detail, text, sizeof detail);
    akv_log(context, ANYKV_LOG_DEBUG, "%s: %s", anykv_status_name(code), text);
    akv_error_record(context, code, text);
    return code;
}

anykv_status akv_options(anykv_context *context, const char *what, void *into, size_t known,
                         const void *options)
{
    assert(known >= sizeof(size_t) && known <= OPTIONS_MAX_BYTES);
    if (!options)
        return ANYKV_OK;
    size_t size;
    memcpy(&size, options, sizeof size);
    if (size < sizeof size || size > OPTIONS_MAX_BYTES)
        return akv_fail(context, ANYKV_E_ARG, "%s.size: %zu is not between %zu and %u", what, size,
                        sizeof size, OPTIONS_MAX_BYTES);
    const unsigned char *bytes = options;
    for (size_t i = known; i < size; i++)
        if (bytes[i])
            return akv_fail(context, ANYKV_E_ARG,
                            "%s.size: byte %zu of %zu is set, this version knows %zu", what, i,
                            size, known);
    memcpy(into, options, size < known ? size : known);
    memcpy(into, &known, sizeof known);
    return ANYKV_OK;
}
