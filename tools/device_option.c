/* SPDX-License-Identifier: Apache-2.0 */
/* --device: the context and the device that a subcommand works on. */
#include "device_option.h"
#include <string.h>

static void log_to_stderr(void *user, int level, const char *message)
{
    const struct akv_tool *tool = user;
    akv_cli_message(tool->command, "%s%s", level == ANYKV_LOG_ERROR ? "error: " : "", message);
}

int akv_tool_context(struct akv_tool *tool, const char *command)
{
    memset(tool, 0, sizeof *tool);
    tool->command = command;
    anykv_context_options options = ANYKV_CONTEXT_OPTIONS_INIT;
    options.log = log_to_stderr;
    options.log_user = tool;
    anykv_status status = anykv_context_create(&options, &tool->context);
    return status == ANYKV_OK ? AKV_CLI_GO : akv_cli_status(command, "context", status);
}

void akv_tool_label(anykv_context *context, const anykv_device_info *info, char *label,
                    size_t bytes)
{
    uint32_t count = 0, same = 0;
    if (anykv_device_count(context, &count) == ANYKV_OK)
        for (uint32_t i = 0; i < count; i++) {
            anykv_device_info other = ANYKV_DEVICE_INFO_INIT;
            if (anykv_device_query(context, i, &other) == ANYKV_OK)
                same += strcmp(other.backend, info->backend) == 0;
        }
    if (same == 1)
        snprintf(label, bytes, "%s", info->backend);
    else
        snprintf(label, bytes, "%u", (unsigned)info->index);
}

int akv_tool_open(struct akv_tool *tool, const char *command, const char *device,
                  const anykv_device_options *options)
{
    int go = akv_tool_context(tool, command);
    if (go != AKV_CLI_GO)
        return go;
    char what[160];
    snprintf(what, sizeof what, "--device %s", device);
    anykv_status status = anykv_device_open(tool->context, device, options, &tool->device);
    if (status == ANYKV_E_ARG || status == ANYKV_E_UNSUPPORTED) {
        akv_cli_status(command, what, status);
        return AKV_EXIT_MISSING;
    }
    if (status != ANYKV_OK)
        return akv_cli_status(command, what, status);
    tool->info = (anykv_device_info)ANYKV_DEVICE_INFO_INIT;
    status = anykv_device_describe(tool->device, &tool->info);
    if (status != ANYKV_OK)
        return akv_cli_status(command, what, status);
    akv_tool_label(tool->context, &tool->info, tool->label, sizeof tool->label);
    return AKV_CLI_GO;
}

void akv_tool_close(struct akv_tool *tool)
{
    anykv_device_close(tool->device);
    anykv_context_destroy(tool->context);
    tool->device = NULL;
    tool->context = NULL;
}
