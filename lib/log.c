/* SPDX-License-Identifier: Apache-2.0 */
/* Messages to the caller's log callback. */
#include "objects.h"
#include <stdarg.h>
#include <stdio.h>

void akv_log(anykv_context *context, int level, const char *format, ...)
{
    if (!context || !context->options.log || level > context->options.log_level)
        return;
    char text[1024];
    va_list arguments;
    va_start(arguments, format);
    if (vsnprintf(text, sizeof text, format, arguments) < 0)
        text[0] = '\0';
    va_end(arguments);
    context->options.log(context->options.log_user, level, text);
}
